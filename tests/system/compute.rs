//! The compute image, from power-on to multi-user, out of RAM.

use std::time::Duration;

use anyhow::Result;
use bootlab::images;
use bootlab::lab::{Goal, Lab};
use bootlab::places::store_dir;
use bootlab::qemu::NodeSpec;
use bootspec::event::Phase;

/// From power-on to multi-user, on an idle machine without KVM.
const IDLE_BOOT: Duration = Duration::from_secs(120);

const COMPUTE: &str = "debian-12-compute";

#[test]
fn bios_node_boots_the_compute_image_to_multi_user() -> Result<()> {
    let spec = NodeSpec::classic(1, &images::shared(COMPUTE)?.to_string());
    let lab = Lab::start("bios-compute", &store_dir(), std::slice::from_ref(&spec))?;
    let node = lab.boot(&spec)?;
    let timeline = lab.wait_for_phase(&node, Phase::Ready, IDLE_BOOT)?;
    let order = [
        Phase::Dhcp,
        Phase::Script,
        Phase::Kernel,
        Phase::Initramfs,
        Phase::Init,
        Phase::Unpack,
        Phase::SwitchRoot,
        Phase::Ready,
    ];
    let times: Option<Vec<Duration>> = order.iter().map(|&phase| timeline.reached(phase)).collect();
    assert!(times.is_some_and(|times| times.is_sorted()), "{timeline:?}");
    let console = node.console().text();
    assert!(!console.contains("Failed to start"), "{:?}", node.console().tail());
    node.console().wait_for("node-001 login:", IDLE_BOOT)?;
    Ok(())
}

#[test]
fn two_nodes_come_up_although_the_server_crashes_while_they_load() -> Result<()> {
    let specs = [
        NodeSpec::classic(0, &images::shared("failsafe")?.to_string()),
        NodeSpec::classic(1, &images::shared(COMPUTE)?.to_string()),
    ];
    let lab = Lab::start("compute-crash", &store_dir(), &specs)?;
    let nodes = [lab.boot(&specs[0])?, lab.boot(&specs[1])?];
    // The kernel has gone out; the initramfs, a hundred times its size, is on its way.
    lab.wait_for_phase(&nodes[1], Phase::Kernel, IDLE_BOOT)?;
    lab.server().restart(lab.netns())?;
    lab.wait_for(&nodes[0], Goal::FailsafeShell, IDLE_BOOT)?;
    lab.wait_for_phase(&nodes[1], Phase::Ready, IDLE_BOOT)?;
    Ok(())
}
