//! bootserve beside another DHCP server, which gives the addresses.

use std::fs;
use std::slice::from_ref;
use std::time::Duration;

use anyhow::{Result, ensure};
use bootlab::firmware::Firmware;
use bootlab::images;
use bootlab::lab::{Goal, Lab};
use bootlab::other_dhcp::OtherDhcp;
use bootlab::places::store_dir;
use bootlab::qemu::NodeSpec;
use bootspec::event::Phase;

/// From power-on to the shell through OVMF, on an idle machine without KVM.
const IDLE_BOOT: Duration = Duration::from_secs(90);

/// Boots a node, and returns what bootserve logged.
fn check(
    mode: &'static str,
    number: u8,
    firmware: Firmware,
    other: OtherDhcp,
    phases: &[Phase],
) -> Result<String> {
    let image = images::shared("failsafe")?.to_string();
    let spec = NodeSpec { firmware, memory_mib: 512, ..NodeSpec::classic(number, &image) };
    let name = format!("{mode}-{other:?}");
    let lab = Lab::start_in_mode(&name, &store_dir(), from_ref(&spec), mode)?;
    let _other = other.start(lab.netns(), lab.dir(), from_ref(&spec))?;
    let node = lab.boot(&spec)?;
    let timeline = lab.wait_for(&node, Goal::FailsafeShell, IDLE_BOOT)?;
    let times: Option<Vec<Duration>> = phases.iter().map(|phase| timeline.reached(*phase)).collect();
    ensure!(times.is_some_and(|times| times.is_sorted()), "{timeline:?}");
    Ok(fs::read_to_string(lab.server().log())?)
}

fn is_proxy(log: &str) -> Result<()> {
    ensure!(log.contains("proxyDHCP offer") && !log.contains("DHCP lease"), "{log}");
    Ok(())
}

/// The card's ROM is iPXE, which waits for a proxy.
#[test]
fn ipxe_takes_its_address_of_dnsmasq_and_its_script_of_us() -> Result<()> {
    let phases = [Phase::Dhcp, Phase::Script, Phase::Ready];
    is_proxy(&check("proxy", 51, Firmware::Bios, OtherDhcp::Dnsmasq, &phases)?)
}

/// OVMF's own PXE client loads iPXE, which then asks for itself.
#[test]
fn uefi_takes_its_address_of_isc_dhcpd_and_its_program_of_us() -> Result<()> {
    let phases = [Phase::Dhcp, Phase::Nbp, Phase::Script, Phase::Ready];
    is_proxy(&check("proxy", 52, Firmware::Uefi, OtherDhcp::IscDhcpd, &phases)?)
}

/// bootserve serves files alone.
#[test]
fn uefi_boots_from_a_server_without_dhcp_as_dnsmasq_says() -> Result<()> {
    let phases = [Phase::Nbp, Phase::Script, Phase::Ready];
    let log = check("off", 53, Firmware::Uefi, OtherDhcp::DnsmasqThatBoots, &phases)?;
    ensure!(!log.contains("DHCP offer") && !log.contains("DHCP lease"), "{log}");
    Ok(())
}
