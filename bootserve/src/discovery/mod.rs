//! Machines in discover mode: what they have said about themselves, until somebody makes nodes of them.
//!
//! [`store`] keeps their facts, [`policy`] says what becomes of them by themselves, by [`rule`]s and by the [`port`] that they are plugged
//! in at, and [`binder`] has it happen; where a policy only proposes, somebody takes that by [`approval`].
//! A machine becomes a node by [`crate::edits::Operation::Add`] with its MAC address, or by `Bind`; it is told to
//! reboot when it checks in the next time, and boots its image.

pub mod approval;
pub mod binder;
pub mod listing;
pub mod policy;
pub mod port;
pub mod rule;
pub mod store;

use bootspec::MacAddr;
use bootspec::facts::Facts;
use uuid::Uuid;

use crate::compat::razor::facts::Facter;
use crate::config::{Config, Node, NodeKey};
use policy::{Candidate, Policies};
use port::{RelayPort, lldp_of};
use rule::FACTER;

/// The node that the machine with these facts is, if it is one.
pub fn node_of<'a>(config: &'a Config, facts: &Facts) -> Option<&'a Node> {
    node_known_by(config, facts.mac, facts.uuid)
}

fn node_known_by(config: &Config, mac: MacAddr, uuid: Option<Uuid>) -> Option<&Node> {
    config.node(mac).or_else(|| config.node_known_by(&NodeKey::Uuid(uuid?)))
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
    /// Where a relay has last seen it.
    pub port: Option<RelayPort>,
    /// Whether it was a node that was taken away.
    pub is_released: bool,
    /// What Razor's microkernel said on it, if that is what checked in last.
    pub facter: Option<Facter>,
}

impl Machine {
    /// The interface that it checks in by.
    pub fn mac(&self) -> MacAddr {
        self.facts.mac
    }

    /// When it was first heard of; of two at the same moment, one comes first always.
    pub fn arrival(&self) -> (i64, MacAddr) {
        (self.first_seen_unix_ms, self.mac())
    }

    /// What is known of it, as rules see it: its facts, `port` as a relay has said it, `lldp` of the interface that it checks in by, and
    /// `facter` of Razor's microkernel.
    pub fn json(&self) -> serde_json::Value {
        let mut facts = serde_json::to_value(&self.facts).expect("facts are JSON");
        let known = [
            ("port", self.port.as_ref().map(RelayPort::fact)),
            ("lldp", lldp_of(&facts)),
            (FACTER, self.facter.clone().map(Into::into)),
        ];
        for (key, value) in known {
            value.into_iter().for_each(|value| facts[key] = value);
        }
        facts
    }

    /// The machine, as policies look at it.
    pub fn examined_by(&self, policies: &Policies) -> Candidate {
        let candidate = policies.examine(self.mac(), self.facts.uuid, &self.json());
        Candidate { is_released: self.is_released, ..candidate }
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
