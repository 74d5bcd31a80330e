//! Lines of /etc/hosts (hosts(5)): the whole name first, where there is a zone, then the short one.

use std::fmt;
use std::net::Ipv4Addr;

use serde::Serialize;

use super::{ExportError, Inventory, without_dot};
use crate::config::DEFAULT_DNS_NAME;
use crate::dns::zone::machine_label;

/// All lines.
#[derive(Clone, Debug, Serialize)]
#[serde(transparent)]
pub struct Hosts(Vec<Host>);

/// A line.
#[derive(Clone, Debug, Serialize)]
pub struct Host {
    /// Its address.
    pub address: Ipv4Addr,
    /// Its names.
    pub names: Vec<String>,
}

impl Hosts {
    /// The server, the nodes and the machines with leases.
    pub fn of(inventory: &Inventory) -> Result<Self, ExportError> {
        let Some(zone) = inventory.zone()? else { return Ok(Self::without_zone(inventory)) };
        let suffix = format!(".{}", without_dot(zone.apex()));
        let hosts = inventory.names(&zone).into_iter().map(|(address, name)| {
            let name = without_dot(&name);
            let short = name.strip_suffix(&suffix).unwrap_or(&name).to_owned();
            Host { address, names: vec![name, short] }
        });
        Ok(Self(hosts.collect()))
    }

    fn without_zone(inventory: &Inventory) -> Self {
        let host = |address, name: String| Host { address, names: vec![name] };
        let config = &inventory.config;
        let server = host(config.server.address, DEFAULT_DNS_NAME.to_owned());
        let nodes = config.nodes().iter().map(|node| host(node.address, node.name.to_string()));
        let leased = inventory.leases.iter().map(|lease| host(lease.address, machine_label(lease.mac)));
        let mut hosts: Vec<_> = [server].into_iter().chain(nodes).chain(leased).collect();
        hosts.sort_by_key(|host| host.address);
        Self(hosts)
    }
}

impl fmt::Display for Hosts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|host| writeln!(f, "{}\t{}", host.address, host.names.join(" ")))
    }
}
