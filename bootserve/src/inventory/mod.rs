//! The inventory: thousands of nodes in a screenful of TOML. Every key: `docs/nodes.md`.
//!
//! [`Inventory::parse`] reads the file, [`layers`] says what a node is made of, [`node_set`] is how nodes are named by the hundred. What
//! comes out are `[[node]]` tables like those of the configuration, and [`crate::config`] checks them all together.

pub mod export;
pub mod import;
pub mod layers;
pub mod listing;
pub mod node_set;
pub mod pattern;
pub(crate) mod wire;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use bootspec::store::NodeName;
use toml::{Table, Value};

use crate::config::node::Node;
use crate::edits::{Edits, KEYS};
use layers::{Layer, Layers, Origin, merged};
use node_set::{NodeSet, NodeSetError};
use pattern::{PatternError, Radix, expand};
use wire::{Nodes, PLURALS, Patterns};

/// Nodes and groups of them.
#[derive(Clone, Debug, Default)]
pub struct Inventory {
    /// In the order of the file.
    nodes: Vec<Entry>,
    by_name: HashMap<NodeName, usize>,
    groups: BTreeMap<String, String>,
    profiles: BTreeMap<String, Layers>,
    /// `[defaults]`, if there is a file.
    defaults: Option<Arc<Layer>>,
    /// Nodes of the configuration itself that were changed.
    configured: HashMap<NodeName, Layers>,
    /// Nodes that were changed and that are not there any more.
    gone: Vec<NodeName>,
}

/// A node of the inventory.
#[derive(Clone, Debug)]
struct Entry {
    name: NodeName,
    /// What it is known by, and its address.
    identity: Table,
    layers: Layers,
}

/// The inventory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum InventoryError {
    /// Not TOML, an unknown key, or a malformed value; the message has line and column.
    #[error("{0}")]
    Toml(#[from] toml::de::Error),
    /// A set of nodes cannot be read.
    #[error("in {place}")]
    Set {
        /// Where it stands.
        place: String,
        /// What is wrong.
        #[source]
        source: NodeSetError,
    },
    /// Addresses or MACs cannot be read.
    #[error("in {place}")]
    Pattern {
        /// Where it stands.
        place: String,
        /// What is wrong.
        #[source]
        source: PatternError,
    },
    /// There is not one for each node.
    #[error(
        "{place} has {names} names and {found} {key}\nhint: there is to be one for each, in the same order"
    )]
    Count {
        /// Which table.
        place: String,
        /// How many nodes.
        names: usize,
        /// What does not fit.
        key: &'static str,
        /// How many of them.
        found: usize,
    },
    /// A profile is not there.
    #[error("{place} names the profile '{profile}', and there is no [profile.{profile}]")]
    NoProfile {
        /// Who names it.
        place: String,
        /// Which.
        profile: String,
    },
    /// A profile inherits from itself.
    #[error("[profile.{0}] inherits from itself")]
    Cycle(String),
    /// A set changes no node.
    #[error("[[set]] nodes = \"{0}\" is of no node of the inventory")]
    Nobody(String),
    /// A node is there twice.
    #[error("node {name} stands in {first} and in {second}")]
    Twice {
        /// Which.
        name: NodeName,
        /// Where first.
        first: Origin,
        /// Where again.
        second: Origin,
    },
    /// What was added is not a node.
    #[error("node {0} was added by bootserve node without an address\nhint: bootserve node rm {0}")]
    NoAddress(NodeName),
    /// What the layers make of a node cannot be.
    #[error("node {name} cannot be made of its layers\nhint: bootserve node explain {name}")]
    Node {
        /// Which.
        name: NodeName,
        /// Why.
        #[source]
        source: toml::de::Error,
    },
}

impl Inventory {
    /// Reads the text of an inventory.
    pub fn parse(text: &str) -> Result<Self, InventoryError> {
        let file: wire::File = toml::from_str(text)?;
        let tables = Tables(text.parse()?);
        let mut profiles = Profiles::new(&file, &tables);
        let mut inventory = Self {
            groups: file.groups.clone(),
            defaults: Some(Arc::clone(&profiles.defaults)),
            profiles: profiles.all()?,
            ..Self::default()
        };
        for (index, nodes) in file.nodes.iter().enumerate() {
            inventory.add(nodes, tables.array("nodes", index))?;
        }
        for (index, set) in file.set.iter().enumerate() {
            inventory.change(&set.nodes, tables.array("set", index))?;
        }
        Ok(inventory)
    }

    fn add(&mut self, nodes: &Nodes, table: Table) -> Result<(), InventoryError> {
        let origin = Origin::Nodes(nodes.names.clone());
        let names = self
            .set(&nodes.names)
            .map_err(|source| InventoryError::Set { place: origin.to_string(), source })?;
        let identities = identities(nodes, names.0.len(), &origin)?;
        let mut layers = self.below(nodes.profile.as_deref(), &origin)?;
        layers.push(Arc::new(Layer { origin: origin.clone(), settings: settings(table) }));
        for (name, identity) in names.0.into_iter().zip(identities) {
            if let Some(index) = self.by_name.insert(name.clone(), self.nodes.len()) {
                let first = self.nodes[index].origin().clone();
                return Err(InventoryError::Twice { name, first, second: origin });
            }
            self.nodes.push(Entry { name, identity, layers: layers.clone() });
        }
        Ok(())
    }

    /// What lies below the settings of nodes with this profile, which stand at `origin`.
    fn below(&self, profile: Option<&str>, origin: &Origin) -> Result<Layers, InventoryError> {
        let mut layers: Layers = self.defaults.iter().map(Arc::clone).collect();
        if let Some(profile) = profile {
            let missing =
                || InventoryError::NoProfile { place: origin.to_string(), profile: profile.to_owned() };
            layers.extend(self.profiles.get(profile).ok_or_else(missing)?.iter().map(Arc::clone));
        }
        Ok(layers)
    }

    /// The settings that nodes with this profile have of it and of `[defaults]`; `place` is where it is named.
    pub(crate) fn settings_below(&self, profile: Option<&str>, place: &str) -> Result<Table, InventoryError> {
        Ok(merged(&self.below(profile, &Origin::Policy(place.to_owned()))?))
    }

    /// Lays what was changed over what the files say. `configured` are the `[[node]]` tables of the configuration that were changed.
    pub(crate) fn edit(
        &mut self,
        edits: &Edits,
        mut configured: HashMap<NodeName, Table>,
    ) -> Result<(), InventoryError> {
        for (name, edit) in &edits.0 {
            let origin = Origin::Edit(edit.revision);
            let mut changed = vec![Arc::new(Layer { origin: origin.clone(), settings: edit.settings() })];
            if !edit.once.is_empty() {
                let origin = Origin::Once(edit.revision);
                changed.push(Arc::new(Layer { origin, settings: edit.settings_once() }));
            }
            if let Some(index) = self.by_name.get(name) {
                let entry = &mut self.nodes[*index];
                entry.identity = edit.over(std::mem::take(&mut entry.identity));
                entry.layers.extend(changed);
            } else if let Some(table) = configured.remove(name) {
                let own = Arc::new(Layer { origin: Origin::Configuration, settings: table });
                let identity = Layer { origin, settings: edit.identity() };
                let layers = [own, Arc::new(identity)].into_iter().chain(changed).collect();
                self.configured.insert(name.clone(), layers);
            } else if edit.added {
                let identity = edit.identity();
                if !identity.contains_key("address") {
                    return Err(InventoryError::NoAddress(name.clone()));
                }
                let mut layers = self.below(edit.profile(), &origin)?;
                layers.extend(changed);
                self.by_name.insert(name.clone(), self.nodes.len());
                self.nodes.push(Entry { name: name.clone(), identity, layers });
            } else {
                self.gone.push(name.clone());
            }
        }
        Ok(())
    }

    /// Nodes that were changed by `bootserve node` and that no file has any more.
    pub fn gone(&self) -> &[NodeName] {
        &self.gone
    }

    /// The nodes of the configuration itself that were changed, as it would have them.
    pub(crate) fn configured(&self) -> Result<HashMap<NodeName, Node>, InventoryError> {
        let nodes = self.configured.iter().map(|(name, layers)| {
            let [_, identity, ..] = &layers[..] else { unreachable!("edit makes it of three or four") };
            let mut table = merged(layers);
            if KEYS.iter().any(|key| identity.settings.contains_key(*key)) {
                let left = KEYS.iter().chain(&["relay"]).filter(|key| !identity.settings.contains_key(**key));
                left.for_each(|key| drop(table.remove(*key)));
            }
            let node = table.try_into();
            let error = |source| InventoryError::Node { name: name.clone(), source };
            Ok((name.clone(), node.map_err(error)?))
        });
        nodes.collect()
    }

    fn change(&mut self, nodes: &str, table: Table) -> Result<(), InventoryError> {
        let origin = Origin::Set(nodes.to_owned());
        let set =
            self.set(nodes).map_err(|source| InventoryError::Set { place: origin.to_string(), source })?;
        let layer = Arc::new(Layer { origin, settings: settings(table) });
        let indices: Vec<_> = set.0.iter().filter_map(|name| self.by_name.get(name).copied()).collect();
        if indices.is_empty() {
            return Err(InventoryError::Nobody(nodes.to_owned()));
        }
        for index in indices {
            self.nodes[index].layers.push(Arc::clone(&layer));
        }
        Ok(())
    }

    /// The nodes that `text` names. They need not be in the inventory; `@*` are all that are.
    pub fn set(&self, text: &str) -> Result<NodeSet, NodeSetError> {
        self.set_among(text, &|| NodeSet(self.nodes.iter().map(|entry| entry.name.clone()).collect()))
    }

    /// The same, where `@*` are others.
    pub fn set_among(&self, text: &str, all: &dyn Fn() -> NodeSet) -> Result<NodeSet, NodeSetError> {
        self.set_within(text, all, &[])
    }

    fn set_within(
        &self,
        text: &str,
        all: &dyn Fn() -> NodeSet,
        inside: &[&str],
    ) -> Result<NodeSet, NodeSetError> {
        NodeSet::parse(text, &|group| match self.groups.get(group) {
            _ if group == "*" => Ok(all()),
            _ if inside.contains(&group) => Err(NodeSetError::Cycle(group.to_owned())),
            Some(text) => self.set_within(text, all, &[inside, &[group]].concat()),
            None => Err(NodeSetError::Group(group.to_owned())),
        })
    }

    /// The groups, and what they hold.
    pub fn groups(&self) -> &BTreeMap<String, String> {
        &self.groups
    }

    /// What the node is made of, if it is in the inventory.
    pub fn layers(&self, name: &NodeName) -> Option<&Layers> {
        let of_inventory = self.by_name.get(name).map(|index| &self.nodes[*index].layers);
        of_inventory.or_else(|| self.configured.get(name))
    }

    /// Where the node stands: in the inventory, or else in the configuration itself.
    pub fn origin(&self, name: &NodeName) -> &Origin {
        self.by_name.get(name).map_or(&Origin::Configuration, |index| self.nodes[*index].origin())
    }

    /// The nodes as the configuration would have them.
    pub(crate) fn wire_nodes(&self) -> Result<Vec<Node>, InventoryError> {
        self.nodes.iter().map(Entry::wire).collect()
    }
}

impl Entry {
    /// Where it stands.
    fn origin(&self) -> &Origin {
        let mut origins = self.layers.iter().map(|layer| &layer.origin).rev();
        let of_file = origins.clone().find(|origin| matches!(origin, Origin::Nodes(_)));
        // Those that were added stand in no file.
        of_file
            .or_else(|| origins.find(|origin| matches!(origin, Origin::Edit(_))))
            .unwrap_or(&Origin::Defaults)
    }

    fn wire(&self) -> Result<Node, InventoryError> {
        let mut table = merged(&self.layers);
        table.extend(self.identity.clone());
        table.insert("name".to_owned(), self.name.to_string().into());
        table.try_into().map_err(|source| InventoryError::Node { name: self.name.clone(), source })
    }
}

/// The nodes that `names` and `table`, a `[[nodes]]` without them, describe: what each is known by, its address, and their settings.
pub(crate) fn described(
    names: &NodeSet,
    mut table: Table,
    origin: &Origin,
) -> Result<(Vec<Table>, Table), InventoryError> {
    table.insert("names".to_owned(), names.to_string().into());
    let nodes: Nodes = table.clone().try_into()?;
    let identities = identities(&nodes, names.0.len(), origin)?;
    Ok((identities, settings(table)))
}

/// The file as plain tables; what they hold has been checked.
struct Tables(Table);

impl Tables {
    fn array(&self, key: &str, index: usize) -> Table {
        let table = self.0.get(key).and_then(|array| array.get(index));
        table.and_then(Value::as_table).cloned().unwrap_or_default()
    }

    fn table(&self, keys: &[&str]) -> Table {
        let mut keys = keys.iter();
        let first = keys.next().and_then(|key| self.0.get(*key));
        let table = first.and_then(|first| keys.try_fold(first, |table, key| table.get(key)));
        table.and_then(Value::as_table).cloned().unwrap_or_default()
    }
}

/// A table without what is no setting.
fn settings(mut table: Table) -> Table {
    let own = PLURALS.iter().map(|(_, several)| *several);
    own.chain(["names", "relay", "profile", "inherits", "nodes"]).for_each(|key| drop(table.remove(key)));
    table
}

/// What each of `count` nodes is known by.
fn identities(nodes: &Nodes, count: usize, origin: &Origin) -> Result<Vec<Table>, InventoryError> {
    let mut identities = vec![Table::new(); count];
    let lists = [
        ("addresses", "address", &nodes.addresses, Radix::Decimal),
        ("macs", "mac", &nodes.macs, Radix::Hexadecimal),
        ("uuids", "uuid", &nodes.uuids, Radix::Hexadecimal),
        ("client_ids", "client_id", &nodes.client_ids, Radix::Decimal),
        ("circuit_ids", "circuit_id", &nodes.circuit_ids, Radix::Decimal),
        ("bmc_addresses", "bmc_address", &nodes.bmc_addresses, Radix::Decimal),
    ];
    for (key, of_one, Patterns(patterns), radix) in lists {
        if patterns.is_empty() && key != "addresses" {
            continue;
        }
        let expanded = patterns.iter().map(|pattern| expand(pattern, radix)).collect::<Result<Vec<_>, _>>();
        let place = || origin.to_string();
        let values = expanded.map_err(|source| InventoryError::Pattern { place: place(), source })?.concat();
        if values.len() != count {
            return Err(InventoryError::Count { place: place(), names: count, key, found: values.len() });
        }
        for (identity, value) in identities.iter_mut().zip(values) {
            identity.insert(of_one.to_owned(), value.into());
        }
    }
    if let Some(relay) = nodes.relay {
        identities
            .iter_mut()
            .for_each(|identity| drop(identity.insert("relay".to_owned(), relay.to_string().into())));
    }
    Ok(identities)
}

/// The profiles of a file, made into layers once.
struct Profiles<'a> {
    file: &'a wire::File,
    tables: &'a Tables,
    defaults: Arc<Layer>,
    known: BTreeMap<String, Arc<Layer>>,
}

impl<'a> Profiles<'a> {
    fn new(file: &'a wire::File, tables: &'a Tables) -> Self {
        let defaults = Layer { origin: Origin::Defaults, settings: tables.table(&["defaults"]) };
        Self { file, tables, defaults: Arc::new(defaults), known: BTreeMap::new() }
    }

    /// The layers of each.
    fn all(&mut self) -> Result<BTreeMap<String, Layers>, InventoryError> {
        let names = self.file.profiles.keys();
        names.map(|name| Ok((name.clone(), self.layers(name, "", &mut Vec::new())?))).collect()
    }

    /// The layers of the profile: those that it inherits, in their order, and its own. `inside` are the profiles that have led here.
    fn layers(
        &mut self,
        name: &str,
        place: &str,
        inside: &mut Vec<String>,
    ) -> Result<Layers, InventoryError> {
        let missing = || InventoryError::NoProfile { place: place.to_owned(), profile: name.to_owned() };
        let profile = self.file.profiles.get(name).ok_or_else(missing)?;
        if inside.iter().any(|outer| outer == name) {
            return Err(InventoryError::Cycle(name.to_owned()));
        }
        let origin = Origin::Profile(name.to_owned());
        inside.push(name.to_owned());
        let mut layers = Layers::new();
        for parent in &profile.inherits {
            for layer in self.layers(parent, &origin.to_string(), inside)? {
                // What two of them inherit is said once.
                if !layers.contains(&layer) {
                    layers.push(layer);
                }
            }
        }
        inside.pop();
        let layer = || Arc::new(Layer { origin, settings: settings(self.tables.table(&["profile", name])) });
        layers.push(Arc::clone(self.known.entry(name.to_owned()).or_insert_with(layer)));
        Ok(layers)
    }
}

#[cfg(test)]
pub(crate) mod tests;
