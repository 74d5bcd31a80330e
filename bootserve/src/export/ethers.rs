//! Lines of /etc/ethers (ethers(5)).

use std::fmt;

use bootspec::MacAddr;
use bootspec::store::NodeName;
use serde::Serialize;

use super::Inventory;
use crate::config::Node;

/// All lines.
#[derive(Clone, Debug, Serialize)]
#[serde(transparent)]
pub struct Ethers(Vec<Ether>);

/// A line.
#[derive(Clone, Debug, Serialize)]
pub struct Ether {
    /// The MAC address.
    pub mac: MacAddr,
    /// Whose.
    pub name: NodeName,
}

impl Ethers {
    /// The nodes that are known by a MAC address.
    pub fn of(inventory: &Inventory) -> Self {
        let nodes = inventory.nodes().into_iter();
        let ether =
            |node: &Node| Some(Ether { mac: inventory.config.mac_of(node)?, name: node.name.clone() });
        Self(nodes.filter_map(ether).collect())
    }
}

impl fmt::Display for Ethers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|ether| writeln!(f, "{} {}", ether.mac, ether.name))
    }
}
