//! `bootlab demo`: the classic network, built and booted: node-000 failsafe, node-001 a compute image.

use std::path::Path;
use std::process::Stdio;
use std::{fs, thread};

use anyhow::{Context, Result, anyhow};
use bootspec::event::Phase;

use crate::boot::{IDLE_BOOT, follow};
use crate::deadline::within;
use crate::firmware::Firmware;
use crate::images;
use crate::lab::{Goal, Lab};
use crate::qemu::NodeSpec;
use crate::report::BootReport;

/// Builds both images where they are not up to date, and boots both nodes at once from one boot server.
pub fn run(store: &Path) -> Result<Vec<BootReport>> {
    let os_release = fs::read_to_string("/etc/os-release").context("cannot read /etc/os-release")?;
    let failsafe = images::build("failsafe", store, Stdio::inherit())?;
    let compute = images::build(compute_recipe(&os_release), store, Stdio::inherit())?;
    let nodes = [
        (NodeSpec::classic(0, &failsafe.to_string()), Goal::FailsafeShell),
        (compute_node(&compute.to_string()), Goal::Phase(Phase::Ready)),
    ];
    boot_all("demo", store, &nodes)
}

/// The firmware differs from the other node's, so that both ways into iPXE are shown.
fn compute_node(image: &str) -> NodeSpec {
    NodeSpec { memory_mib: 2048, firmware: Firmware::Uefi, ..NodeSpec::classic(1, image) }
}

/// Boots all nodes at once and waits for the last, even if another fails.
fn boot_all(name: &str, store: &Path, nodes: &[(NodeSpec, Goal)]) -> Result<Vec<BootReport>> {
    let specs: Vec<NodeSpec> = nodes.iter().map(|(spec, _)| spec.clone()).collect();
    let lab = Lab::start(name, store, &specs)?;
    let boot = |(spec, goal): &(NodeSpec, Goal)| -> Result<BootReport> {
        let node = lab.boot(spec)?;
        follow(&lab, &node, spec, *goal, within(IDLE_BOOT))
    };
    let results: Vec<Result<BootReport>> = thread::scope(|scope| {
        let boots: Vec<_> = nodes.iter().map(|node| scope.spawn(|| boot(node))).collect();
        boots
            .into_iter()
            .map(|boot| boot.join().unwrap_or_else(|_| Err(anyhow!("a boot panicked"))))
            .collect()
    });
    results.into_iter().collect()
}

/// The compute recipe of the family that the host belongs to (os-release(5)).
fn compute_recipe(os_release: &str) -> &'static str {
    let values = |line: &str| {
        let value = line.strip_prefix("ID=").or_else(|| line.strip_prefix("ID_LIKE="))?;
        Some(value.trim_matches('"').split(' ').map(str::to_owned).collect::<Vec<_>>())
    };
    let family: Vec<String> = os_release.lines().filter_map(values).flatten().collect();
    let is_el =
        family.iter().any(|id| ["rhel", "fedora", "centos", "rocky", "almalinux"].contains(&id.as_str()));
    if is_el { "rocky-9-compute" } else { "debian-12-compute" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compute_recipe_is_of_the_hosts_family() {
        let hosts = [
            ("ID=debian\n", "debian-12-compute"),
            ("NAME=\"Ubuntu\"\nID=ubuntu\nID_LIKE=debian\n", "debian-12-compute"),
            ("ID=\"rocky\"\nID_LIKE=\"rhel centos fedora\"\n", "rocky-9-compute"),
            ("ID=fedora\n", "rocky-9-compute"),
            ("ID=ol\nID_LIKE=\"fedora\"\n", "rocky-9-compute"),
        ];
        for (os_release, expected) in hosts {
            assert_eq!(compute_recipe(os_release), expected, "{os_release}");
        }
    }
}
