//! What was changed of nodes by `bootserve node`, which stands in the database and not in a file: settings that are laid over those of the
//! files, and nodes that stand in no file.
//!
//! [`Operation`] is a change that is asked for, [`store`] makes it and keeps what was changed when and by whom, and [`assignment`] reads
//! `KEY=VALUE`. The configuration is checked with the change before it is stored.

pub mod assignment;
mod operation;
pub mod store;

use std::collections::BTreeMap;

use bootspec::store::NodeName;
use serde::{Deserialize, Serialize};
use toml::Table;

use crate::inventory::wire::FILES_ALONE;

pub use operation::{Operation, OperationError};

/// What was changed of each node.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Edits(pub BTreeMap<NodeName, Edit>);

/// What was changed of a node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Edit {
    /// Whether the node stands in no file.
    pub added: bool,
    /// The change that made this so.
    pub revision: i64,
    /// Settings, and what the node is known by, as a `[[node]]` has them; of an added node also its profile.
    pub table: Table,
    /// Settings for the next boot alone, over all others.
    pub once: Table,
}

/// What a node is known by; where one of them is changed, it takes the place of whichever the node had.
pub const KEYS: [&str; 4] = ["mac", "client_id", "uuid", "circuit_id"];
/// Keys of a node that are not its settings, besides its name.
pub(crate) const IDENTITY: [&str; 6] = ["mac", "client_id", "uuid", "circuit_id", "relay", "address"];
/// Of an added node.
pub(crate) const PROFILE: &str = "profile";
/// Of one that a policy of discovery has added.
pub(crate) const POLICY: &str = "policy";
/// What is none of the settings of an added node, besides its identity.
pub(crate) const OF_ADDED: [&str; 2] = [PROFILE, POLICY];

impl Edits {
    /// The policy of discovery that has added the node, if one has.
    pub fn policy_of(&self, name: &NodeName) -> Option<String> {
        self.0.get(name)?.policy().map(str::to_owned)
    }

    /// Whether the node has settings for its next boot alone.
    pub fn has_once(&self, name: &NodeName) -> bool {
        self.0.get(name).is_some_and(|edit| !edit.once.is_empty())
    }
}

impl Edit {
    /// One that changes nothing yet.
    pub(crate) fn empty(revision: i64) -> Self {
        Self { added: false, revision, table: Table::new(), once: Table::new() }
    }

    /// Whether nothing is left of it.
    pub(crate) fn is_empty(&self) -> bool {
        !self.added && self.table.is_empty() && self.once.is_empty()
    }

    /// What the node is known by, and its address.
    pub(crate) fn identity(&self) -> Table {
        self.only(|key| IDENTITY.contains(&key))
    }

    /// Its settings.
    pub(crate) fn settings(&self) -> Table {
        self.only(|key| ![&IDENTITY[..], &OF_ADDED, &FILES_ALONE].concat().contains(&key))
    }

    /// Those for its next boot alone.
    pub(crate) fn settings_once(&self) -> Table {
        Self { table: self.once.clone(), ..Self::empty(self.revision) }.settings()
    }

    /// Its profile.
    pub(crate) fn profile(&self) -> Option<&str> {
        self.table.get(PROFILE)?.as_str()
    }

    /// The policy of discovery that has added it, if one has.
    pub fn policy(&self) -> Option<&str> {
        self.table.get(POLICY)?.as_str().filter(|_| self.added)
    }

    fn only(&self, keep: impl Fn(&str) -> bool) -> Table {
        let kept = self.table.iter().filter(|(key, _)| keep(key));
        kept.map(|(key, value)| (key.clone(), value.clone())).collect()
    }

    /// `identity` with what was changed of it.
    pub(crate) fn over(&self, mut identity: Table) -> Table {
        let own = self.identity();
        if KEYS.iter().any(|key| own.contains_key(*key)) {
            KEYS.iter().chain(&["relay"]).for_each(|key| drop(identity.remove(*key)));
        }
        identity.extend(own);
        identity
    }
}

#[cfg(test)]
mod tests;
