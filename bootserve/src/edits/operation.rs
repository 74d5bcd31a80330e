//! Changes of nodes that can be asked for, and what they make of those before them.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use bootspec::MacAddr;
use bootspec::store::NodeName;
use serde::{Deserialize, Serialize};
use toml::{Table, Value};

use super::assignment::{self, AssignmentError};
use super::{Edit, Edits, IDENTITY, OF_ADDED, POLICY, PROFILE};
use crate::config::Config;
use crate::discovery::policy::{Candidate, Choice, Room};
use crate::inventory::layers::Origin;
use crate::inventory::listing::{ListingError, nodes_of};
use crate::inventory::node_set::{NodeSet, NodeSetError};
use crate::inventory::wire::{PLURALS, check_added, check_edited, check_settings};
use crate::inventory::{InventoryError, described};

/// A change of nodes. Sets of nodes are in ClusterShell's syntax.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Operation {
    /// Lays settings over those of the files.
    Set {
        /// Which nodes.
        nodes: String,
        /// Keys of a `[[node]]` but for its name.
        settings: Table,
        /// Whether for the next boot alone; then without what a node is known by, and its address.
        #[serde(default)]
        once: bool,
    },
    /// Takes back what was set, so that the files say it again.
    Unset {
        /// Which nodes.
        nodes: String,
        /// Which settings, with a dot for one of a table; none for all.
        #[serde(default)]
        keys: Vec<String>,
    },
    /// Adds nodes that stand in no file.
    Add {
        /// Their names.
        names: String,
        /// A `[[nodes]]` of the inventory without its names.
        nodes: Table,
    },
    /// Removes nodes that were added.
    Remove {
        /// Which nodes.
        nodes: String,
    },
    /// Makes nodes of machines, as a policy of discovery says. Nobody can ask for it but by [`crate::discovery`].
    #[serde(skip)]
    Bind {
        /// Which policy; a machine that another one has by now is left alone.
        policy: String,
        /// The machines, in the order in which they get their names.
        candidates: Arc<[Candidate]>,
    },
    /// Takes back one of the changes before.
    Undo {
        /// Which; none for the newest.
        #[serde(default)]
        revision: Option<i64>,
    },
}

/// A change that cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum OperationError {
    /// Its nodes are not there.
    #[error(transparent)]
    Nodes(#[from] ListingError),
    /// Its names cannot be read.
    #[error(transparent)]
    Names(#[from] NodeSetError),
    /// Its settings are none.
    #[error("cannot set this of a node: {0}")]
    Settings(#[from] toml::de::Error),
    /// The nodes that are to be added are not described.
    #[error("cannot add nodes")]
    Described(#[from] InventoryError),
    /// The node is there.
    #[error("there is a node {name} already, {origin}\nhint: bootserve node set {name}")]
    Exists {
        /// Which.
        name: NodeName,
        /// Where.
        origin: Origin,
    },
    /// Nothing was set that could be taken back.
    #[error(
        "nothing was set of node {name}\nhint: bootserve node explain {name} says what its settings come from"
    )]
    NothingSet {
        /// Which node.
        name: NodeName,
    },
    /// This was not set.
    #[error(
        "{key} was not set of node {name}\nhint: bootserve node explain {name} says which file it comes from"
    )]
    NotSet {
        /// Which node.
        name: NodeName,
        /// Which setting.
        key: String,
    },
    /// The node stands in a file.
    #[error("node {name} cannot be removed here: it stands in {origin}\nhint: take it out of the file")]
    InFile {
        /// Which.
        name: NodeName,
        /// Where.
        origin: Origin,
    },
    /// What a policy proposed for a machine was approved, and has become another's meanwhile.
    #[error("policy {policy} does not make {mac} {node} any more\nhint: bootserve machine explain {mac}")]
    NoRoom {
        /// The policy.
        policy: String,
        /// The machine.
        mac: MacAddr,
        /// What it was to be.
        node: NodeName,
    },
    /// There is nothing to take back.
    #[error("there is no change{}\nhint: bootserve node history", .0.map(|revision| format!(" {revision}")).unwrap_or_default())]
    NoChange(Option<i64>),
    /// A later change has changed the same.
    #[error(
        "node {name} was changed again after change {revision}\nhint: bootserve node history {name}; undo the later one before it"
    )]
    ChangedSince {
        /// Which node.
        name: NodeName,
        /// What was to be taken back.
        revision: i64,
    },
}

/// What a change made of one node.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Changed {
    pub name: NodeName,
    pub before: Option<Edit>,
    pub after: Option<Edit>,
}

/// What is known of the changes before, as far as a change needs it.
#[derive(Debug, Default)]
pub(super) struct Past {
    /// The change that is undone, if one is.
    pub undone: Option<Made>,
    /// What nodes were known by that were taken away.
    pub released: HashSet<String>,
}

/// A change that was made: its number, and what it made of each node.
pub(super) type Made = (i64, Vec<Changed>);

impl Operation {
    /// Sets what `assignments`, each a `KEY=VALUE`, say; for one boot, or until it is taken back.
    pub fn set<S: AsRef<str>>(nodes: &str, assignments: &[S], once: bool) -> Result<Self, AssignmentError> {
        let settings = assignment::table(assignments, check_set(once))?;
        Ok(Self::Set { nodes: nodes.to_owned(), settings, once })
    }

    /// Adds nodes with what `assignments` say: keys of a `[[nodes]]`, or `address`, `mac` and so on in place of `addresses`, `macs`.
    pub fn add<S: AsRef<str>>(names: &str, assignments: &[S]) -> Result<Self, AssignmentError> {
        let nodes = assignment::table(assignments, |table| check_added(plural(table)))?;
        Ok(Self::Add { names: names.to_owned(), nodes })
    }

    /// Whether it only takes back what was changed before.
    pub(super) fn takes_back(&self) -> bool {
        matches!(self, Self::Unset { .. } | Self::Remove { .. } | Self::Undo { .. })
    }

    /// What was changed of all nodes once this is done to `edits`, as change number `revision`. `config` has them, or does not, if they
    /// do not fit its files.
    pub(super) fn apply(
        &self,
        config: &Config,
        edits: &Edits,
        revision: i64,
        past: Past,
    ) -> Result<Edits, OperationError> {
        let mut edits = edits.clone();
        match self {
            Self::Set { nodes, settings, once } => {
                check_set(*once)(settings.clone())?;
                for node in nodes_of(config, nodes)? {
                    let edit = edits.0.entry(node.name.clone()).or_insert_with(|| Edit::empty(revision));
                    edit.revision = revision;
                    lay(if *once { &mut edit.once } else { &mut edit.table }, settings);
                }
            }
            Self::Unset { nodes, keys } => {
                let names = named(config, &edits, nodes)?;
                unset(config, &mut edits, names, keys, revision)?;
            }
            Self::Add { names, nodes } => add(config, &mut edits, names, nodes, revision)?,
            Self::Remove { nodes } => {
                for name in named(config, &edits, nodes)? {
                    if edits.0.remove(&name).is_none_or(|edit| !edit.added) {
                        return Err(not_added(config, name));
                    }
                }
            }
            Self::Bind { policy, candidates } => {
                bind(config, &mut edits, policy, candidates, &past.released, revision)?;
            }
            Self::Undo { revision: which } => {
                let (undone, nodes) = past.undone.ok_or(OperationError::NoChange(*which))?;
                for Changed { name, before, after } in nodes {
                    let now = edits.0.remove(&name);
                    if now.as_ref().map(content) != after.as_ref().map(content) {
                        return Err(OperationError::ChangedSince { name, revision: undone });
                    }
                    edits.0.extend(before.map(|before| (name, Edit { revision, ..before })));
                }
            }
        }
        Ok(edits)
    }
}

/// What an edit says, whenever that was.
fn content(edit: &Edit) -> (bool, &Table, &Table) {
    (edit.added, &edit.table, &edit.once)
}

/// What may be set of a node.
fn check_set(once: bool) -> fn(Table) -> Result<(), toml::de::Error> {
    if once { check_settings } else { check_edited }
}

/// What is different in `after`.
pub(super) fn changed(before: &Edits, after: &Edits) -> Vec<Changed> {
    let names: std::collections::BTreeSet<_> = before.0.keys().chain(after.0.keys()).collect();
    let all = names.into_iter().map(|name| Changed {
        name: name.clone(),
        before: before.0.get(name).cloned(),
        after: after.0.get(name).cloned(),
    });
    all.filter(|node| node.before.as_ref().map(content) != node.after.as_ref().map(content)).collect()
}

/// Tables are merged key by key; all else is replaced.
fn lay(table: &mut Table, over: &Table) {
    for (key, value) in over {
        match (table.get_mut(key), value) {
            (Some(Value::Table(inner)), Value::Table(over)) => lay(inner, over),
            _ => drop(table.insert(key.clone(), value.clone())),
        }
    }
}

/// The nodes that `text` names, whether they are there or not. `@*` are those of the configuration, and those that were changed.
fn named(config: &Config, edits: &Edits, text: &str) -> Result<Vec<NodeName>, NodeSetError> {
    let of_config = || config.nodes().iter().map(|node| &node.name);
    let all = || NodeSet(of_config().chain(edits.0.keys()).cloned().collect());
    Ok(config.inventory.set_among(text, &all)?.0.into_iter().collect())
}

fn not_added(config: &Config, name: NodeName) -> OperationError {
    match config.node_named(name.as_str()) {
        Some(_) => {
            let origin = config.inventory.origin(&name).clone();
            OperationError::InFile { name, origin }
        }
        None => ListingError::NoNode(name).into(),
    }
}

/// Takes back what was set of any of the nodes. Nothing at all is an error.
fn unset(
    config: &Config,
    edits: &mut Edits,
    names: Vec<NodeName>,
    keys: &[String],
    revision: i64,
) -> Result<(), OperationError> {
    let mut left: Vec<&String> = keys.iter().collect();
    let mut nothing = None;
    let mut is_done = false;
    for name in names {
        let Some(edit) = edits.0.get_mut(&name) else {
            if config.node_named(name.as_str()).is_none() {
                return Err(ListingError::NoNode(name).into());
            }
            nothing.get_or_insert(name);
            continue;
        };
        (is_done, edit.revision) = (true, revision);
        if keys.is_empty() {
            let is_kept = |key: &str| edit.added && (IDENTITY.contains(&key) || OF_ADDED.contains(&key));
            edit.table.retain(|key, _| is_kept(key));
            edit.once.clear();
        }
        for key in keys {
            let path: Vec<&str> = key.split('.').collect();
            let is_taken = [&mut edit.once, &mut edit.table].map(|table| take(table, &path));
            if is_taken.contains(&true) {
                left.retain(|other| *other != key);
            }
        }
        if edit.is_empty() {
            edits.0.remove(&name);
        }
        nothing.get_or_insert(name);
    }
    match (nothing, left.first()) {
        (Some(name), _) if !is_done => Err(OperationError::NothingSet { name }),
        (Some(name), Some(key)) => Err(OperationError::NotSet { name, key: (*key).clone() }),
        _ => Ok(()),
    }
}

/// Removes what stands at `path`, and the tables that it leaves empty; says whether there was something.
fn take(table: &mut Table, path: &[&str]) -> bool {
    match path {
        [] => false,
        [key] => table.remove(*key).is_some(),
        [key, rest @ ..] => {
            let Some(inner) = table.get_mut(*key).and_then(Value::as_table_mut) else { return false };
            let taken = take(inner, rest);
            if inner.is_empty() {
                table.remove(*key);
            }
            taken
        }
    }
}

fn add(
    config: &Config,
    edits: &mut Edits,
    names: &str,
    nodes: &Table,
    revision: i64,
) -> Result<(), OperationError> {
    let names = config.inventory.set(names)?;
    if let Some(name) = names.0.iter().find(|name| config.node_named(name.as_str()).is_some()) {
        let origin = config.inventory.origin(name).clone();
        return Err(OperationError::Exists { name: name.clone(), origin });
    }
    let nodes = plural(nodes.clone());
    check_added(nodes.clone())?;
    let (identities, mut settings) = described(&names, nodes.clone(), &Origin::Edit(revision))?;
    settings.extend(nodes.get(PROFILE).map(|profile| (PROFILE.to_owned(), profile.clone())));
    for (name, mut table) in names.0.into_iter().zip(identities) {
        table.extend(settings.clone());
        edits.0.insert(name, Edit { added: true, table, ..Edit::empty(revision) });
    }
    Ok(())
}

/// Makes nodes of those machines that the policy still has a place for. One that was approved must be the node that was looked at.
fn bind(
    config: &Config,
    edits: &mut Edits,
    policy: &str,
    candidates: &[Candidate],
    released: &HashSet<String>,
    revision: i64,
) -> Result<(), OperationError> {
    let mut room = Room::of(config);
    for candidate in candidates {
        let candidate = Candidate { is_released: candidate.is_among(released), ..candidate.clone() };
        match place_of(config, &mut room, policy, &candidate) {
            Some(choice) => {
                room.take(choice);
                let chosen = &config.policies.policies[choice.policy];
                let table = chosen.table(choice.place, candidate.mac);
                let name = chosen.places[choice.place].name.clone();
                edits.0.insert(name, Edit { added: true, table, ..Edit::empty(revision) });
            }
            None => {
                if let Candidate { approved: Some(node), mac, .. } = candidate {
                    return Err(OperationError::NoRoom { policy: policy.to_owned(), mac, node });
                }
            }
        }
    }
    Ok(())
}

/// The place that the policy has for the machine, if it is no node and no other policy has it by now.
fn place_of(config: &Config, room: &mut Room, policy: &str, candidate: &Candidate) -> Option<Choice> {
    if candidate.node_in(config).is_some() {
        return None;
    }
    let choice = room.decide(candidate).choice?;
    let chosen = &config.policies.policies[choice.policy];
    let is_approved =
        candidate.approved.as_ref().is_none_or(|node| chosen.places[choice.place].name == *node);
    (!choice.is_proposal && chosen.name == policy && is_approved).then_some(choice)
}

/// With the keys of a `[[nodes]]` in place of those of one node.
fn plural(mut table: Table) -> Table {
    for (one, several) in PLURALS {
        if let Some(value) = table.remove(one) {
            table.insert(several.to_owned(), value);
        }
    }
    table
}

impl fmt::Display for Operation {
    /// As `bootserve node` would be told.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = |f: &mut fmt::Formatter<'_>, table: &Table| {
            table.iter().try_for_each(|(key, value)| write!(f, " {key}={value}"))
        };
        match self {
            Self::Set { nodes, settings, once } => {
                write!(f, "set {}{nodes}", if *once { "--once " } else { "" })?;
                all(f, settings)
            }
            Self::Unset { nodes, keys } => {
                write!(f, "unset {nodes}")?;
                keys.iter().try_for_each(|key| write!(f, " {key}"))
            }
            Self::Add { names, nodes } => {
                write!(f, "add {names}")?;
                all(f, nodes)
            }
            Self::Remove { nodes } => write!(f, "rm {nodes}"),
            Self::Bind { policy, .. } => write!(f, "bind {POLICY}={policy}"),
            Self::Undo { revision } => {
                f.write_str("undo")?;
                revision.iter().try_for_each(|revision| write!(f, " {revision}"))
            }
        }
    }
}
