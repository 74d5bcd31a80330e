//! The DHCP clients of operating systems: whichever asks for a node, and whatever client identifier it sends, it is given the
//! address that the firmware and iPXE had.

use std::fs;
use std::process::Command;
use std::slice::from_ref;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bootlab::daemon::Daemon;
use bootlab::deadline::wait_until;
use bootlab::lab::Lab;
use bootlab::netns::NetNs;
use bootlab::places::store_dir;
use bootlab::qemu::NodeSpec;

/// A client has its address within this.
const ANSWER: Duration = Duration::from_secs(10);
const INTERFACE: &str = "eth0";

/// A lab with one node, and a machine with the node's network card.
struct Site {
    // In this order they are dropped.
    machine: NetNs,
    lab: Lab,
    node: NodeSpec,
}

impl Site {
    fn start(name: &str) -> Result<Self> {
        let node = NodeSpec::classic(60, "failsafe");
        let lab = Lab::start(name, &store_dir(), from_ref(&node))?;
        let machine = NetNs::empty()?;
        lab.netns().connect(&machine, INTERFACE)?;
        let site = Self { machine, lab, node };
        site.ip(&["link", "set", INTERFACE, "address", &site.node.mac.to_string()])?;
        Ok(site)
    }

    fn ip(&self, arguments: &[&str]) -> Result<String> {
        said(self.machine.command("ip").args(arguments))
    }

    /// A shell's program on the node, with a /run and a /var/lib/dhcpcd of its own. As in a container, /sys is read-only: it
    /// has no udev to wait for.
    fn shell(&self, script: &str) -> Command {
        let mut command = self.machine.command("unshare");
        let mounts = "set -e; mount -t tmpfs run /run; mount -o remount,ro /sys\n\
                      [ ! -d /var/lib/dhcpcd ] || mount -t tmpfs leases /var/lib/dhcpcd\n";
        command.args(["--mount", "sh", "-c", &format!("{mounts}{script}")]);
        command
    }

    /// Runs a client to its end. It says which address it was given.
    fn check(&self, client: &mut Command, says: &str) -> Result<()> {
        let before = self.leases();
        let said = said(client)?;
        ensure!(
            said.contains(&says.replace("ADDRESS", &self.node.address.to_string())),
            "{client:?}: {said}"
        );
        ensure!(self.leases() > before, "{client:?} was not given its address by bootserve: {said}");
        Ok(())
    }

    /// How often bootserve gave the node its address.
    fn leases(&self) -> usize {
        let log = fs::read_to_string(self.lab.server().log()).unwrap_or_default();
        let (mac, address) = (self.node.mac, self.node.address);
        let of_node = |line: &&str| {
            line.contains(&format!("mac={mac}")) && line.contains(&format!("address={address} "))
        };
        log.lines().filter(|line| line.contains("DHCP lease")).filter(of_node).count()
    }
}

/// What a program that succeeds says.
fn said(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("cannot run {command:?}"))?;
    let said =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}: {}\n{said}", output.status);
    Ok(said)
}

#[test]
fn every_client_of_a_node_is_given_its_address() -> Result<()> {
    let site = Site::start("dhcp-clients")?;
    // The default, and a DUID (RFC 4361).
    for arguments in [&[][..], &["-i"]] {
        let mut dhclient = site.machine.command("dhclient");
        dhclient.args(["-4", "-1", "-v", "-sf", "/bin/true"]).args(arguments);
        dhclient.arg("-lf").arg(site.lab.dir().join(format!("dhclient{}.leases", arguments.len())));
        dhclient.arg("-pf").arg(site.lab.dir().join("dhclient.pid"));
        site.check(dhclient.arg(INTERFACE), "bound to ADDRESS")?;
        // It goes on in the background.
        site.machine.kill_all()?;
    }
    // None, one that is none of the node's card, and the card's.
    for arguments in [&["-C"][..], &["-C", "-x", "0x3d:ff00112233"], &[]] {
        let mut udhcpc = site.machine.command("udhcpc");
        udhcpc.args(["-i", INTERFACE, "-f", "-n", "-q", "-s", "/bin/true"]).args(arguments);
        site.check(&mut udhcpc, "lease of ADDRESS obtained from 192.168.0.1")?;
    }
    for identifier in ["--duid", "--clientid="] {
        let options = "--ipv4only --oneshot --nobackground --noarp --nodev --script /bin/true --debug";
        let mut dhcpcd = site.shell(&format!("exec dhcpcd {options} {identifier} {INTERFACE}"));
        site.check(&mut dhcpcd, "leased ADDRESS for 3600 seconds")?;
        site.ip(&["address", "flush", "dev", INTERFACE])?;
    }
    Ok(())
}

/// systemd's does not end by itself, and says on the interface what it was given.
#[test]
fn networkd_is_given_the_address_of_its_node() -> Result<()> {
    let site = Site::start("networkd")?;
    for identifier in ["duid\nDUIDType=link-layer", "mac"] {
        let before = site.leases();
        let network = format!(
            "[Match]\nName={INTERFACE}\n[Network]\nDHCP=ipv4\nLinkLocalAddressing=no\nIPv6AcceptRA=no\n\
             [DHCPv4]\nClientIdentifier={identifier}\n"
        );
        let networkd = site.shell(&format!(
            "mkdir -p /run/systemd/network\necho '{network}' >/run/systemd/network/node.network\n\
             exec /usr/lib/systemd/systemd-networkd"
        ));
        let log = site.lab.dir().join("networkd.log");
        let _networkd = Daemon::start(networkd, &log)?;
        let has_address = || {
            let shown = site.ip(&["-4", "-oneline", "address", "show", INTERFACE]).unwrap_or_default();
            shown.contains(&format!(" {}/24 ", site.node.address))
        };
        ensure!(wait_until(ANSWER, has_address), "{identifier}: {}", fs::read_to_string(&log)?);
        ensure!(site.leases() > before, "bootserve did not give it");
        site.machine.kill_all()?;
        site.ip(&["address", "flush", "dev", INTERFACE])?;
    }
    Ok(())
}

/// What admins look for rogue DHCP servers with.
#[test]
fn nmap_discovers_the_server_by_its_offer() -> Result<()> {
    let site = Site::start("nmap")?;
    // It sends from an address that is no machine's, and wants the interface to have some.
    site.machine.add_address(INTERFACE, &site.node.address.to_string())?;
    let mut nmap = site.machine.command("nmap");
    nmap.args(["--script", "broadcast-dhcp-discover", "--script-args", "broadcast-dhcp-discover.timeout=5"]);
    let said = said(nmap.args(["-e", INTERFACE]))?;
    for part in ["DHCP Message Type: DHCPOFFER", "IP Offered: 192.168.0.2", "Server Identifier: 192.168.0.1"]
    {
        ensure!(said.contains(part), "no '{part}' in {said}");
    }
    Ok(())
}
