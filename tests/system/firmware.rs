//! Ways into the boot that other tests do not take: UEFI HTTP Boot, and network cards of other makers.

use std::fs;
use std::slice::from_ref;
use std::time::Duration;

use anyhow::{Result, ensure};
use bootlab::firmware::Firmware;
use bootlab::lab::{Goal, Lab};
use bootlab::places::store_dir;
use bootlab::qemu::{Nic, NodeSpec};
use bootlab::{api, images};
use bootspec::event::Phase;

/// From power-on to the shell through OVMF, on an idle machine without KVM.
const IDLE_BOOT: Duration = Duration::from_secs(60);

/// Has OVMF leave out PXE, which it would try before HTTP Boot (OvmfPkg/README, "Network Support").
const NO_PXE: [&str; 4] = [
    "-fw_cfg",
    "name=opt/org.tianocore/IPv4PXESupport,string=n",
    "-fw_cfg",
    "name=opt/org.tianocore/IPv6PXESupport,string=n",
];

fn failsafe_node(number: u8) -> Result<NodeSpec> {
    let image = images::shared("failsafe")?.to_string();
    Ok(NodeSpec { memory_mib: 512, ..NodeSpec::classic(number, &image) })
}

#[test]
fn uefi_http_boot_loads_ipxe_by_its_url_and_nothing_by_tftp() -> Result<()> {
    let qemu_args = NO_PXE.map(str::to_owned).into();
    let spec = NodeSpec { firmware: Firmware::Uefi, qemu_args, ..failsafe_node(2)? };
    let lab = Lab::start("uefi-http", &store_dir(), from_ref(&spec))?;
    let node = lab.boot(&spec)?;
    let timeline = lab.wait_for(&node, Goal::FailsafeShell, IDLE_BOOT)?;
    let order = [Phase::Dhcp, Phase::Nbp, Phase::Script, Phase::Kernel, Phase::Init, Phase::Ready];
    let times: Option<Vec<Duration>> = order.iter().map(|&phase| timeline.reached(phase)).collect();
    ensure!(times.is_some_and(|times| times.is_sorted()), "{timeline:?}");
    let log = fs::read_to_string(lab.server().log())?;
    ensure!(log.contains("nbp http://192.168.0.1/nbp/"), "no URL was offered: {log}");
    let metrics = api::get(lab.netns(), "/metrics")?;
    ensure!(!metrics.contains("bootserve_tftp_requests_total{"), "TFTP was asked: {metrics}");
    Ok(())
}

/// Each ROM is an iPXE with a driver of its own. The two boot at once, which saves minutes.
#[test]
fn the_roms_of_other_cards_boot_as_that_of_virtio_does() -> Result<()> {
    let node = |number, nic| Ok::<_, anyhow::Error>(NodeSpec { nic, ..failsafe_node(number)? });
    let specs = [node(3, Nic::E1000)?, node(4, Nic::Rtl8139)?];
    let lab = Lab::start("other-cards", &store_dir(), &specs)?;
    let nodes = [lab.boot(&specs[0])?, lab.boot(&specs[1])?];
    for node in &nodes {
        let timeline = lab.wait_for_phase(node, Phase::Init, IDLE_BOOT)?;
        ensure!(timeline.reached(Phase::Script).is_some(), "{timeline:?}");
        ensure!(timeline.reached(Phase::Nbp).is_none(), "the ROM was not taken for iPXE: {timeline:?}");
    }
    Ok(())
}
