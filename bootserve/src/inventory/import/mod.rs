//! Nodes of other programs' files, as an inventory: their names, addresses and MACs.
//!
//! A host that lacks one of them, or whose name cannot be a node's, is left out and said so. What else these files say, such as what a host
//! boots, is not taken over.

mod dhcpd;
mod dnsmasq;
mod ethers;
mod warewulf;

use std::collections::HashSet;
use std::fmt;
use std::net::Ipv4Addr;

use bootspec::MacAddr;
use bootspec::store::NodeName;
use indexmap::IndexSet;
use serde::Serialize;

use super::node_set::NodeSet;

/// Whose file it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `host` declarations of ISC dhcpd.conf(5).
    Dhcpd,
    /// `dhcp-host` of dnsmasq(8).
    Dnsmasq,
    /// ethers(5), with the addresses of hosts(5).
    Ethers,
    /// Warewulf's nodes.conf, version 4.
    Warewulf,
}

/// A host as the file has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Host {
    name: String,
    macs: Vec<String>,
    address: Option<Ipv4Addr>,
}

/// A node that can stand in an inventory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Imported {
    /// Its name.
    pub name: NodeName,
    /// The interface it boots from.
    pub mac: MacAddr,
    /// Its address.
    pub address: Ipv4Addr,
}

/// What was found in a file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Import {
    /// In the order of the file.
    pub nodes: Vec<Imported>,
    /// What was left out, and why.
    pub left_out: Vec<String>,
}

/// A file that cannot be read as what it is said to be.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// It is not YAML.
    #[error("this is no YAML: {0}")]
    Yaml(#[from] yaml_rust2::ScanError),
    /// It is YAML of something else.
    #[error("this is no nodes.conf of Warewulf 4: it has no table 'nodes'")]
    NoNodes,
}

impl Import {
    /// Reads `text`; `hosts` is the text of a hosts(5) for [`Format::Ethers`].
    pub fn read(format: Format, text: &str, hosts: &str) -> Result<Self, ImportError> {
        let hosts = match format {
            Format::Dhcpd => dhcpd::hosts(text),
            Format::Dnsmasq => dnsmasq::hosts(text),
            Format::Ethers => ethers::hosts(text, hosts),
            Format::Warewulf => warewulf::hosts(text)?,
        };
        let mut import = Self::default();
        let mut seen = Seen::default();
        for host in hosts {
            match host.check().and_then(|node| seen.add(node)) {
                Ok(node) => import.nodes.push(node),
                Err(problem) => import.left_out.push(format!("{}: {problem}", host.name)),
            }
        }
        Ok(import)
    }
}

impl Host {
    fn check(&self) -> Result<Imported, String> {
        // Names of hosts are often written with their domain.
        let name = self.name.to_lowercase();
        let name = name.parse().map_err(|error| format!("its name cannot be a node's: {error}"))?;
        let address = self.address.ok_or("it has no IPv4 address")?;
        let [mac, others @ ..] = &self.macs[..] else { return Err("it has no MAC".to_owned()) };
        if !others.is_empty() {
            return Err(format!("it has {} MACs, and a node boots from one", self.macs.len()));
        }
        let mac = mac.parse().map_err(|error| format!("its MAC {mac} cannot be read: {error}"))?;
        Ok(Imported { name, mac, address })
    }
}

/// No two nodes share these.
#[derive(Default)]
struct Seen {
    names: HashSet<NodeName>,
    macs: HashSet<MacAddr>,
    addresses: HashSet<Ipv4Addr>,
}

impl Seen {
    fn add(&mut self, node: Imported) -> Result<Imported, String> {
        let known = [
            (self.names.contains(&node.name), "name"),
            (self.macs.contains(&node.mac), "MAC"),
            (self.addresses.contains(&node.address), "address"),
        ];
        if let Some((_, what)) = known.iter().find(|(is_known, _)| *is_known) {
            return Err(format!("another one before it has its {what}"));
        }
        self.names.insert(node.name.clone());
        self.macs.insert(node.mac);
        self.addresses.insert(node.address);
        Ok(node)
    }
}

impl fmt::Display for Import {
    /// One `[[nodes]]` table, and a comment for what was left out.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for problem in &self.left_out {
            writeln!(f, "# left out: {}", problem.replace(char::is_control, " "))?;
        }
        if self.nodes.is_empty() {
            return Ok(());
        }
        let names: IndexSet<_> = self.nodes.iter().map(|node| node.name.clone()).collect();
        writeln!(f, "[[nodes]]\nnames = \"{}\"", NodeSet(names))?;
        let mut list = |key: &str, value: &dyn Fn(&Imported) -> String| {
            writeln!(f, "{key} = [")?;
            self.nodes
                .iter()
                .try_for_each(|node| writeln!(f, "    \"{}\",  # {}", value(node), node.name))?;
            writeln!(f, "]")
        };
        list("addresses", &|node| node.address.to_string())?;
        list("macs", &|node| node.mac.to_string())
    }
}

#[cfg(test)]
mod tests;
