//! Why a configuration cannot be used.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use bootspec::store::NodeName;
use ipnet::Ipv4Net;

use super::bmc::BmcError;
use super::{PolicyError, SecretsProblem};
use crate::dns::zone::ZoneError;
use crate::inventory::InventoryError;

/// The configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration {}\nhint: name another with --config", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Not TOML, an unknown key, or a malformed value; the message has line and column.
    #[error("{0}")]
    Toml(#[from] toml::de::Error),
    /// An address lies where it cannot.
    #[error("{what} {address} {problem}")]
    Address {
        /// Whose address.
        what: String,
        /// The address.
        address: Ipv4Addr,
        /// What is wrong with it.
        problem: String,
    },
    /// Two networks have addresses in common.
    #[error("the networks {first} and {second} overlap")]
    Overlap {
        /// One.
        first: Ipv4Net,
        /// The other.
        second: Ipv4Net,
    },
    /// Two nodes share what must be unique.
    #[error("nodes {first} and {second} have the same {what} {value}")]
    Duplicate {
        /// The node that stands first in the file.
        first: NodeName,
        /// The other.
        second: NodeName,
        /// What they share: `mac`, `uuid`, `address`, `name`.
        what: &'static str,
        /// Its value.
        value: String,
    },
    /// The inventory cannot be read.
    #[error("cannot read the inventory {}\nhint: server.inventory names it", path.display())]
    ReadInventory {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The inventory cannot be used.
    #[error("cannot use the inventory {}", path.display())]
    Inventory {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: Box<InventoryError>,
    },
    /// What `bootserve node` has stored does not fit the files.
    #[error(
        "cannot use what bootserve node has changed\nhint: bootserve node history, and node undo or node rm"
    )]
    Edits(#[source] Box<InventoryError>),
    /// A node is given nothing to boot.
    #[error(
        "node {node} has no image\nhint: image = \"NAME\" in its table, in a profile of its, or in [defaults] of the inventory"
    )]
    NoImage {
        /// Which.
        node: NodeName,
    },
    /// What is said of a node's BMC does not do.
    #[error("the BMC of node {node}")]
    Bmc {
        /// Which.
        node: NodeName,
        /// What is wrong.
        #[source]
        source: BmcError,
    },
    /// A node has overlays, and there are none.
    #[error("node {node} has overlays, and there is no directory of them\nhint: server.overlays names it")]
    NoOverlays {
        /// Which.
        node: NodeName,
    },
    /// A node has secrets, and could not be handed them.
    #[error("node {node} has secrets")]
    Secrets {
        /// Which.
        node: NodeName,
        /// What is wrong.
        #[source]
        source: SecretsProblem,
    },
    /// A node is known by nothing, or by several things.
    #[error(
        "node {node} {problem}\nhint: a node is known by one of mac, client_id, uuid and circuit_id; relay belongs to circuit_id"
    )]
    Key {
        /// Which.
        node: NodeName,
        /// What is wrong.
        problem: &'static str,
    },
    /// A tag or a policy of discovery cannot be used.
    #[error("[[discovery.{table}]] {name}\nhint: docs/discovery.md#policies")]
    Policy {
        /// `tag` or `policy`.
        table: &'static str,
        /// Which.
        name: String,
        /// Why.
        #[source]
        source: Box<PolicyError>,
    },
    /// The nodes' names cannot be those of a zone.
    #[error(transparent)]
    Zone(#[from] ZoneError),
    /// A value out of its range.
    #[error("{key} is {found}, expected {expected}")]
    Value {
        /// The key in the file.
        key: &'static str,
        /// The value found.
        found: String,
        /// What would be accepted.
        expected: &'static str,
    },
}
