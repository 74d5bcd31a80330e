//! A DHCP server that is not ours: it gives the lab's nodes their addresses and knows nothing of booting.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::Result;

use crate::daemon::Daemon;
use crate::netns::{NetNs, SERVER_ADDRESS};
use crate::qemu::NodeSpec;

const ADDRESS: &str = "192.168.0.3";
const INTERFACE: &str = "eth0";

/// Which.
#[derive(Clone, Copy, Debug)]
pub enum OtherDhcp {
    /// dnsmasq.
    Dnsmasq,
    /// dnsmasq that says how to boot from a bootserve without DHCP, as docs/operations.md has it.
    DnsmasqThatBoots,
    /// ISC's dhcpd.
    IscDhcpd,
}

/// A running one, on a machine of its own, which ends when this is dropped.
#[derive(Debug)]
pub struct OtherServer {
    _program: Daemon,
    _netns: NetNs,
}

impl OtherDhcp {
    /// Starts it in the network of `lab`, with the addresses of `nodes`; its files go into `dir`.
    pub fn start(self, lab: &NetNs, dir: &Path, nodes: &[NodeSpec]) -> Result<OtherServer> {
        let netns = NetNs::empty()?;
        lab.connect(&netns, INTERFACE)?;
        netns.add_address(INTERFACE, ADDRESS)?;
        let command = match self {
            Self::Dnsmasq => dnsmasq(&netns, dir, nodes),
            Self::DnsmasqThatBoots => {
                let mut command = dnsmasq(&netns, dir, nodes);
                command.args(["--dhcp-match=set:ipxe,175", "--dhcp-match=set:uefi,option:client-arch,7"]);
                command.arg(format!("--dhcp-boot=tag:ipxe,http://{SERVER_ADDRESS}/boot.ipxe"));
                command.arg(format!("--dhcp-boot=tag:!ipxe,tag:uefi,ipxe.efi,,{SERVER_ADDRESS}"));
                command
            }
            Self::IscDhcpd => isc_dhcpd(&netns, dir, nodes)?,
        };
        let program = Daemon::start(command, &dir.join("other-dhcp.log"))?;
        Ok(OtherServer { _program: program, _netns: netns })
    }
}

fn dnsmasq(netns: &NetNs, dir: &Path, nodes: &[NodeSpec]) -> Command {
    let mut command = netns.command("dnsmasq");
    command.args(["--keep-in-foreground", "--conf-file=/dev/null", "--log-facility=-", "--log-dhcp"]);
    command.args(["--port=0", "--user=root", "--no-ping", "--bind-interfaces"]);
    command.arg(format!("--interface={INTERFACE}")).arg("--dhcp-range=192.168.0.150,192.168.0.199");
    command.arg(format!("--dhcp-leasefile={}", dir.join("dnsmasq.leases").display()));
    command.arg("--pid-file");
    command.args(nodes.iter().map(|node| format!("--dhcp-host={},{}", node.mac, node.address)));
    command
}

fn isc_dhcpd(netns: &NetNs, dir: &Path, nodes: &[NodeSpec]) -> Result<Command> {
    let hosts: String = nodes
        .iter()
        .map(|NodeSpec { name, mac, address, .. }| {
            format!("host {name} {{ hardware ethernet {mac}; fixed-address {address}; }}\n")
        })
        .collect();
    let (config, leases) = (dir.join("dhcpd.conf"), dir.join("dhcpd.leases"));
    let subnet = "subnet 192.168.0.0 netmask 255.255.255.0 { range 192.168.0.150 192.168.0.199; }";
    fs::write(&config, format!("authoritative;\n{subnet}\n{hosts}"))?;
    fs::write(&leases, "")?;
    let mut command = netns.command("dhcpd");
    command.args(["-4", "-f", "-d", "--no-pid", "-cf"]).arg(config).arg("-lf").arg(leases).arg(INTERFACE);
    Ok(command)
}
