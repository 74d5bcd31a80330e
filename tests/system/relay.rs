//! Machines of another subnet, whose DHCP comes by a relay.

use std::fs::{self, File, Permissions};
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
use std::slice::from_ref;
use std::time::Duration;

use anyhow::{Result, ensure};
use bootlab::deadline::{wait_until, within};
use bootlab::images;
use bootlab::lab::Lab;
use bootlab::netns::NetNs;
use bootlab::places::shell_store_dir;
use bootlab::qemu::NodeSpec;
use bootlab::relay::RelayedNetwork;
use bootspec::event::Phase;
use rustix::process::{Pid, Signal, kill_process};

/// From power-on to the root's first program, on an idle machine without KVM.
const IDLE_BOOT: Duration = Duration::from_secs(60);
/// An answer of the shell on the console.
const ANSWER: Duration = Duration::from_secs(10);

/// The ROM's DHCP goes by the relay, everything after it by the router; init has no DHCP but is told address and gateway.
#[test]
fn a_node_behind_a_relay_fetches_its_image_with_its_own_address() -> Result<()> {
    let image = images::shell("shell-tmpfs", "tmpfs", &[])?;
    let spec = NodeSpec {
        address: Ipv4Addr::new(10, 1, 0, 100),
        settings: toml::toml! { mode = "fetched" init = "/bin/sh" },
        ..NodeSpec::classic(50, &image.to_string())
    };
    let lab = Lab::start("relay-boot", &shell_store_dir(), from_ref(&spec))?;
    let relayed = RelayedNetwork::start(lab.netns(), lab.dir())?;
    let node = lab.boot_in(relayed.netns(), &spec)?;
    lab.wait_for_phase(&node, Phase::SwitchRoot, IDLE_BOOT)?;
    node.console().wait_for("bootnode: exec /bin/sh", within(IDLE_BOOT))?;
    for word in ["bootnode.address=10.1.0.100/24", "bootnode.gateway=10.1.0.1"] {
        node.console().ask(&format!("grep -o {word} /proc/cmdline"), word, within(ANSWER))?;
    }
    Ok(())
}

/// Takes the lease as a system would.
const UDHCPC_SCRIPT: &str = r#"#!/bin/sh
[ "$1" = bound ] || exit 0
ip address add "$ip/$mask" dev "$interface"
ip route add default via "$router"
"#;

/// A client without a reservation gets an address of its own network, and releases it past the relay.
#[test]
fn a_client_behind_a_relay_gets_an_address_of_its_network() -> Result<()> {
    let lab = Lab::start("relay-client", &shell_store_dir(), &[])?;
    let relayed = RelayedNetwork::start(lab.netns(), lab.dir())?;
    let client = NetNs::empty()?;
    relayed.netns().connect(&client, "eth0")?;
    let script = lab.dir().join("udhcpc.script");
    fs::write(&script, UDHCPC_SCRIPT)?;
    fs::set_permissions(&script, Permissions::from_mode(0o755))?;
    let log = lab.dir().join("udhcpc.log");
    let mut udhcpc = client.command("udhcpc");
    udhcpc.args(["-i", "eth0", "-f", "-n", "-R", "-t", "20", "-s"]).arg(&script);
    let mut udhcpc = udhcpc.stderr(File::create(&log)?).spawn()?;
    let says = |text: &str| fs::read_to_string(&log).unwrap_or_default().contains(text);
    let is_bound = wait_until(ANSWER, || says("lease of 10.1.0.200 obtained from 192.168.0.1"));
    kill_process(Pid::from_child(&udhcpc), Signal::TERM)?;
    udhcpc.wait()?;
    ensure!(is_bound, "{}", fs::read_to_string(&log)?);
    let is_released = || {
        let log = fs::read_to_string(lab.server().log()).unwrap_or_default();
        log.lines().any(|line| line.contains("DHCP lease released") && line.contains("10.1.0.200"))
    };
    ensure!(wait_until(ANSWER, is_released), "the release did not arrive: {}", fs::read_to_string(&log)?);
    Ok(())
}
