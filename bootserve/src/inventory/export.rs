//! Nodes as an inventory that describes the same ones: with all that files say of them, and `bootserve node`.

use std::fmt;

use bootspec::store::NodeName;
use serde::Serialize;
use toml::{Table, Value};

use super::listing::{ListingError, nodes_of};
use super::node_set::NodeSet;
use super::wire::PLURALS;
use crate::config::Config;

/// Nodes that are alike but for what they are known by and their addresses.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Alike {
    /// Their names, as a set.
    pub names: String,
    /// All else of a `[[nodes]]`.
    #[serde(flatten)]
    pub table: Table,
}

/// `[[nodes]]` tables.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Exported {
    /// In the order of the nodes.
    pub nodes: Vec<Alike>,
}

impl Exported {
    /// The nodes of a set, or all of them. Neighbours with the same settings share a table.
    pub fn of(config: &Config, set: Option<&str>) -> Result<Self, ListingError> {
        let nodes = match set {
            None => config.nodes().iter().collect(),
            Some(set) => nodes_of(config, set)?,
        };
        let settings = config.settings();
        let mut all: Vec<Group> = Vec::new();
        for node in nodes {
            let group = Group::of(&node.name, settings.table("node", node.name.as_str()));
            match all.last_mut().filter(|last| last.is_like(&group)) {
                Some(last) => last.append(group),
                None => all.push(group),
            }
        }
        Ok(Self { nodes: all.into_iter().map(Group::into_table).collect() })
    }
}

/// Nodes of one table: what each is known by, and what all have.
struct Group {
    names: Vec<NodeName>,
    identities: Vec<Table>,
    settings: Table,
}

impl Group {
    fn of(name: &NodeName, table: Table) -> Self {
        let (mut identity, mut settings) = (Table::new(), Table::new());
        for (key, value) in table {
            let is_nothing =
                value.as_array().is_some_and(Vec::is_empty) || value.as_table().is_some_and(Table::is_empty);
            if key == "name" || is_nothing {
                continue;
            }
            let is_identity = PLURALS.iter().any(|(one, _)| *one == key);
            if is_identity { &mut identity } else { &mut settings }.insert(key, value);
        }
        Self { names: vec![name.clone()], identities: vec![identity], settings }
    }

    fn is_like(&self, other: &Self) -> bool {
        let keys = |group: &Self| group.identities[0].keys().cloned().collect::<Vec<_>>();
        self.settings == other.settings && keys(self) == keys(other)
    }

    fn append(&mut self, other: Self) {
        self.names.extend(other.names);
        self.identities.extend(other.identities);
    }

    fn into_table(self) -> Alike {
        let names = NodeSet(self.names.into_iter().collect()).to_string();
        let mut table = self.settings;
        for (one, several) in PLURALS {
            let values: Vec<Value> =
                self.identities.iter().filter_map(|identity| identity.get(one).cloned()).collect();
            if !values.is_empty() {
                table.insert(several.to_owned(), values.into());
            }
        }
        Alike { names, table }
    }
}

impl fmt::Display for Exported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = toml::to_string(self).map_err(|_| fmt::Error)?;
        f.write_str(&text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inventory::tests::example;

    #[test]
    fn an_exported_inventory_describes_the_same_nodes() {
        let config = example();
        let exported = Exported::of(&config, None).unwrap();
        assert!(exported.nodes.len() < 20, "nodes that are alike share a table: {}", exported.nodes.len());
        let again = crate::inventory::Inventory::parse(&exported.to_string()).unwrap();
        let nodes = |config: &Config| config.settings().table("node", "node-017");
        assert_eq!(again.set("@*").unwrap().0.len(), config.nodes().len());
        let table = again.wire_nodes().unwrap().into_iter().map(|node| toml::Table::try_from(node).unwrap());
        let table = table.into_iter().find(|table| table["name"].as_str() == Some("node-017")).unwrap();
        for (key, value) in nodes(&config) {
            assert_eq!(table.get(&key), Some(&value), "{key}");
        }
    }
}
