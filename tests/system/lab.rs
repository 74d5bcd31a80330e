//! The lab by itself: its network, and firmware that finds no boot server.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use bootlab::deadline::within;
use bootlab::firmware::Firmware;
use bootlab::lab::Lab;
use bootlab::places::store_dir;
use bootlab::qemu::{Nic, NodeSpec};

#[test]
fn a_lab_leaves_no_namespace_behind() -> Result<()> {
    let lab = Lab::without_server("namespace")?;
    let handle = Path::new("/run/netns").join(lab.netns().name());
    assert!(handle.exists());
    drop(lab);
    assert!(!handle.exists());
    Ok(())
}

/// The service manager is told when nodes can boot, and hears of the server as long as it works.
#[test]
fn bootserve_tells_its_service_manager_how_it_does() -> Result<()> {
    let lab = Lab::start("notices", &store_dir(), &[])?;
    let limit = Duration::from_secs(10);
    for notice in ["READY=1", "WATCHDOG=1", "WATCHDOG=1"] {
        assert!(lab.server().wait_for_notice(notice, limit), "no {notice}");
    }
    Ok(())
}

#[test]
fn programs_in_a_lab_see_its_network_alone() -> Result<()> {
    let lab = Lab::without_server("programs")?;
    let output = lab.netns().command("ip").args(["-brief", "address"]).output()?;
    let interfaces = String::from_utf8(output.stdout)?;
    assert!(interfaces.contains("192.168.0.1/24"), "{interfaces}");
    assert_eq!(interfaces.lines().count(), 2, "the loopback and the bridge: {interfaces}");
    Ok(())
}

#[test]
fn a_panicking_test_leaves_no_namespace_behind() -> Result<()> {
    let lab = Lab::without_server("panic")?;
    let handle = Path::new("/run/netns").join(lab.netns().name());
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
        let _lab = lab;
        panic!("on purpose");
    }));
    assert!(panicked.is_err() && !handle.exists());
    Ok(())
}

/// Boots the node in a lab without a server and waits for the first sign of its network boot.
fn check_firmware(name: &str, node: &NodeSpec, sign: &str, idle: Duration) -> Result<()> {
    let lab = Lab::without_server(name)?;
    let node = lab.boot(node)?;
    node.console().wait_for(sign, within(idle))?;
    Ok(())
}

#[test]
fn two_labs_run_the_same_node_at_once() -> Result<()> {
    let (first, second) = (Lab::without_server("twin")?, Lab::without_server("twin")?);
    let spec = NodeSpec::classic(0, "failsafe");
    let nodes = [first.boot(&spec)?, second.boot(&spec)?];
    for node in nodes {
        node.console().wait_for("Configuring (net0 fc:ab:14:e8:66:01)", within(Duration::from_secs(10)))?;
    }
    Ok(())
}

#[test]
fn bios_node_with_an_e1000_boots_from_its_rom() -> Result<()> {
    let node = NodeSpec { nic: Nic::E1000, ..NodeSpec::classic(0, "failsafe") };
    check_firmware("bios-e1000", &node, "Configuring (net0 fc:ab:14:e8:66:01)", Duration::from_secs(10))
}

#[test]
fn uefi_node_tries_its_own_pxe_client() -> Result<()> {
    let node = NodeSpec { firmware: Firmware::Uefi, ..NodeSpec::classic(1, "failsafe") };
    check_firmware("uefi-pxe", &node, ">>Start PXE over IPv4", Duration::from_secs(20))
}
