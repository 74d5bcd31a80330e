//! Machines in discover mode: what they have said about themselves, until somebody makes nodes of them.
//!
//! [`store`] keeps their facts. A machine becomes a node by [`crate::edits::Operation::Add`] with its MAC address; it is told to
//! reboot when it checks in the next time, and boots its image.

pub mod listing;
pub mod store;

use bootspec::MacAddr;
use bootspec::facts::Facts;

use crate::config::{Config, Node, NodeKey};

/// The node that the machine with these facts is, if it is one.
pub fn node_of<'a>(config: &'a Config, facts: &Facts) -> Option<&'a Node> {
    let by_uuid = || facts.uuid.and_then(|uuid| config.node_known_by(&NodeKey::Uuid(uuid)));
    config.node(facts.mac).or_else(by_uuid)
}

/// A machine that has checked in.
#[derive(Clone, Debug, PartialEq)]
pub struct Machine {
    /// What it said the last time.
    pub facts: Facts,
    /// When it was first heard of, in milliseconds since 1970.
    pub first_seen_unix_ms: i64,
    /// When it was last heard of.
    pub last_seen_unix_ms: i64,
    /// How often it has checked in.
    pub check_ins: u64,
}

impl Machine {
    /// The interface that it checks in by.
    pub fn mac(&self) -> MacAddr {
        self.facts.mac
    }

    /// Its serial number: that of the system, or else of its board.
    pub fn serial(&self) -> Option<&str> {
        let serial = self.facts.system.serial.as_ref().or(self.facts.board.serial.as_ref());
        serial.map(|serial| serial.as_str())
    }

    /// Whether somebody who writes `name` means this machine: by its MAC address, its serial number or its UUID.
    pub fn is_called(&self, name: &str) -> bool {
        name.parse() == Ok(self.mac())
            || self.serial() == Some(name)
            || self.facts.uuid.is_some_and(|uuid| name.parse() == Ok(uuid))
    }
}
