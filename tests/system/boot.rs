//! The failsafe image, from power-on to a shell: through either firmware, two nodes at once, and across a crash of the
//! boot server.

use std::slice::from_ref;
use std::time::Duration;

use anyhow::Result;
use bootlab::firmware::Firmware;
use bootlab::images;
use bootlab::lab::{Goal, Lab};
use bootlab::places::{shell_store_dir, store_dir};
use bootlab::qemu::NodeSpec;
use bootspec::event::Phase;

/// From power-on to the shell through OVMF, on an idle machine without KVM.
const IDLE_BOOT: Duration = Duration::from_secs(60);

fn failsafe_node(number: u8, firmware: Firmware) -> Result<NodeSpec> {
    let image = images::shared("failsafe")?.to_string();
    Ok(NodeSpec { firmware, memory_mib: 512, ..NodeSpec::classic(number, &image) })
}

#[test]
fn bios_node_boots_to_a_shell_that_answers() -> Result<()> {
    let spec = failsafe_node(0, Firmware::Bios)?;
    let lab = Lab::start("bios-failsafe", &store_dir(), from_ref(&spec))?;
    let node = lab.boot(&spec)?;
    let timeline = lab.wait_for(&node, Goal::FailsafeShell, IDLE_BOOT)?;
    for phase in [Phase::Dhcp, Phase::Script, Phase::Kernel, Phase::Initramfs, Phase::Init, Phase::Ready] {
        assert!(timeline.reached(phase).is_some(), "no {phase} in {timeline:?}");
    }
    // The ROM of the card is iPXE already, so it is sent the script at once.
    assert_eq!(timeline.reached(Phase::Nbp), None);
    node.console().ask("cat /proc/cmdline", "bootnode.node=node-000", IDLE_BOOT)?;
    Ok(())
}

/// The kernel looks for microcode before it knows of compression, and leaves it where it then unpacks the rest.
#[test]
fn the_kernel_finds_microcode_in_front_of_what_it_unpacks() -> Result<()> {
    let image = images::shell("shell-tmpfs", "tmpfs", &[])?;
    let mut spec = NodeSpec::classic(34, &image.to_string());
    spec.settings.insert("mode".to_owned(), "failsafe".into());
    let lab = Lab::start("microcode", &shell_store_dir(), from_ref(&spec))?;
    let node = lab.boot(&spec)?;
    lab.wait_for(&node, Goal::FailsafeShell, IDLE_BOOT)?;
    node.console().ask(
        "wc -c /kernel/x86/microcode/*",
        "4 /kernel/x86/microcode/GenuineIntel.bin",
        IDLE_BOOT,
    )?;
    Ok(())
}

#[test]
fn uefi_node_gets_ipxe_by_tftp_and_boots_to_a_shell_that_answers() -> Result<()> {
    let spec = failsafe_node(1, Firmware::Uefi)?;
    let lab = Lab::start("uefi-failsafe", &store_dir(), from_ref(&spec))?;
    let node = lab.boot(&spec)?;
    let timeline = lab.wait_for(&node, Goal::FailsafeShell, IDLE_BOOT)?;
    let order = [Phase::Dhcp, Phase::Nbp, Phase::Script, Phase::Kernel, Phase::Init, Phase::Ready];
    let times: Option<Vec<Duration>> = order.iter().map(|&phase| timeline.reached(phase)).collect();
    assert!(times.is_some_and(|times| times.is_sorted()), "{timeline:?}");
    Ok(())
}

#[test]
fn two_nodes_come_up_although_the_server_crashes_between_dhcp_and_script() -> Result<()> {
    let specs = [failsafe_node(0, Firmware::Bios)?, failsafe_node(1, Firmware::Bios)?];
    let lab = Lab::start("server-crash", &store_dir(), &specs)?;
    let nodes = [lab.boot(&specs[0])?, lab.boot(&specs[1])?];
    for node in &nodes {
        lab.wait_for_phase(node, Phase::Dhcp, IDLE_BOOT)?;
    }
    // Its machine is away with it. While the machine alone is there, it refuses connections, and the iPXE of a network card
    // that is refused its script leaves the boot to the firmware, which has nothing else here.
    lab.netns().unplugged(|| lab.server().restart(lab.netns()))??;
    for node in &nodes {
        lab.wait_for(node, Goal::FailsafeShell, IDLE_BOOT)?;
    }
    Ok(())
}
