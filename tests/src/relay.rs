//! A second network of a lab, behind a router that relays DHCP: ISC's dhcrelay, with option 82.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use crate::daemon::Daemon;
use crate::netns::{BRIDGE, NetNs, SERVER_ADDRESS};

/// The network behind the relay, which bootserve of every lab knows.
pub const SUBNET: &str = "10.1.0.0/24";
/// The relay's address there, which is its router's.
pub const ADDRESS: &str = "10.1.0.1";
/// Its address in the server's network, and its interface.
const OUTER_ADDRESS: &str = "192.168.0.2";
const OUTER_INTERFACE: &str = "outer";

/// The network and its relay, which ends when this is dropped.
#[derive(Debug)]
pub struct RelayedNetwork {
    _relay: Daemon,
    netns: NetNs,
}

impl RelayedNetwork {
    /// Connects a new network to that of the server; the relay's log goes into `dir`.
    pub fn start(server: &NetNs, dir: &Path) -> Result<Self> {
        let netns = NetNs::with_bridge(ADDRESS)?;
        server.connect(&netns, OUTER_INTERFACE)?;
        netns.add_address(OUTER_INTERFACE, OUTER_ADDRESS)?;
        server.route(SUBNET, OUTER_ADDRESS)?;
        netns.inside(|| fs::write("/proc/sys/net/ipv4/ip_forward", "1"))?.context("cannot make a router")?;
        let mut command = netns.command("dhcrelay");
        command.args(["-4", "-d", "--no-pid", "-a", "-id", BRIDGE, "-iu", OUTER_INTERFACE, SERVER_ADDRESS]);
        let relay = Daemon::start(command, &dir.join("dhcrelay.log"))?;
        Ok(Self { _relay: relay, netns })
    }

    /// Where machines of the network are plugged in.
    pub fn netns(&self) -> &NetNs {
        &self.netns
    }
}
