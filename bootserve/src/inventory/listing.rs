//! Nodes as they are shown: all of their settings, those of the configuration's own file and those of the inventory alike.

use std::fmt;

use bootspec::store::NodeName;
use serde::Serialize;
use toml::{Table, Value};

use super::layers::{Said, Setting, explained};
use super::node_set::{NodeSet, NodeSetError};
use crate::config::{Config, Node};

/// Some nodes, a line each.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub struct Listing(pub Vec<Row>);

/// A node, as one line says it.
#[derive(Debug, PartialEq, Serialize)]
pub struct Row {
    /// Its name.
    pub name: String,
    /// Its address.
    pub address: String,
    /// What it is known by: `mac`, `uuid`, `client_id`, `circuit_id`.
    pub known_by: &'static str,
    /// The value of that.
    pub key: String,
    /// What it boots.
    pub image: String,
    /// How, if its image does not say.
    pub mode: Option<String>,
    /// What the site wants to know of it.
    pub metadata: Table,
}

/// A node and all of its settings, with where they come from.
#[derive(Debug, Serialize)]
pub struct Explained {
    /// Its name.
    pub name: String,
    /// By key.
    pub settings: Vec<Setting>,
}

/// Nodes that cannot be shown.
#[derive(Debug, thiserror::Error)]
pub enum ListingError {
    /// The set cannot be read.
    #[error(transparent)]
    Set(#[from] NodeSetError),
    /// A node is not there.
    #[error("there is no node {0}\nhint: bootserve node list")]
    NoNode(NodeName),
}

impl Listing {
    /// The nodes of a set, or all of them.
    pub fn of(config: &Config, set: Option<&str>) -> Result<Self, ListingError> {
        let rows = match set {
            None => config.nodes().iter().map(Row::of).collect(),
            Some(set) => nodes_of(config, set)?.into_iter().map(Row::of).collect(),
        };
        Ok(Self(rows))
    }
}

/// The nodes that `set` names.
pub fn nodes_of<'a>(config: &'a Config, set: &str) -> Result<Vec<&'a Node>, ListingError> {
    let all = || NodeSet(config.nodes().iter().map(|node| node.name.clone()).collect());
    let NodeSet(names) = config.inventory.set_among(set, &all)?;
    let find = |name: NodeName| config.node_named(name.as_str()).ok_or(ListingError::NoNode(name));
    names.into_iter().map(find).collect()
}

/// What is asked for by names and MAC addresses, with commas between them, or by a set of nodes.
pub fn names_of(config: &Config, text: &str) -> Result<Vec<String>, ListingError> {
    let is_set = text.contains(['[', '@', '!', '&', '^']);
    Ok(match is_set {
        true => nodes_of(config, text)?.into_iter().map(|node| node.name.to_string()).collect(),
        false => text.split(',').map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect(),
    })
}

impl Row {
    fn of(node: &Node) -> Self {
        Self {
            name: node.name.to_string(),
            address: node.address.to_string(),
            known_by: node.key.name(),
            key: node.key.to_string(),
            image: node.image.to_string(),
            mode: node.params.mode.map(|mode| mode.to_string()),
            metadata: node.metadata.clone().into_iter().collect(),
        }
    }
}

impl Explained {
    /// The nodes of a set.
    pub fn of(config: &Config, set: &str) -> Result<Vec<Self>, ListingError> {
        let settings = config.settings();
        let explained = nodes_of(config, set)?.into_iter().map(|node| {
            let name = node.name.to_string();
            let layers = config.inventory.layers(&node.name).map_or(&[][..], Vec::as_slice);
            let mut all = explained(layers);
            all.retain(|setting| setting.key != "name");
            // What no layer says stands with the node itself.
            let origin = config.inventory.origin(&node.name);
            let own = settings.table("node", &name).into_iter().filter(|(key, value)| {
                key != "name" && !is_empty(value) && !all.iter().any(|setting| setting.key == *key)
            });
            let own = own.map(|(key, value)| {
                let said = Said { origin: origin.clone(), value: value.clone(), overruled: false };
                Setting { key, value, from: vec![said] }
            });
            let own: Vec<_> = own.collect();
            all.extend(own);
            all.sort_by(|one, other| one.key.cmp(&other.key));
            Self { name, settings: all }
        });
        Ok(explained.collect())
    }
}

/// What was left out.
fn is_empty(value: &Value) -> bool {
    value.as_array().is_some_and(Vec::is_empty) || value.as_table().is_some_and(Table::is_empty)
}

impl fmt::Display for Listing {
    /// Columns, as wide as they must be.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let head = ["NODE", "ADDRESS", "KNOWN BY", "IMAGE", "MODE"].map(str::to_owned);
        let row = |row: &Row| {
            let key =
                if row.known_by == "mac" { row.key.clone() } else { format!("{} {}", row.known_by, row.key) };
            let mode = row.mode.clone().unwrap_or_else(|| "-".to_owned());
            [row.name.clone(), row.address.clone(), key, row.image.clone(), mode]
        };
        let rows: Vec<_> = [head].into_iter().chain(self.0.iter().map(row)).collect();
        let widths: [usize; 5] = std::array::from_fn(|column| {
            rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0)
        });
        for row in rows {
            let cells: Vec<_> =
                row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
            writeln!(f, "{}", cells.join("  ").trim_end())?;
        }
        Ok(())
    }
}

impl fmt::Display for Explained {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "node {}", self.name)?;
        for Setting { key, value, from } in &self.settings {
            writeln!(f, "  {key} = {value}")?;
            for Said { origin, value, overruled } in from.iter().rev() {
                match (from.len(), overruled) {
                    (1, _) => writeln!(f, "      {origin}")?,
                    (_, true) => writeln!(f, "      {origin}: {value}, overruled")?,
                    (_, false) => writeln!(f, "      {origin}: {value}")?,
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inventory::tests::example as config;

    #[test]
    fn a_set_is_listed_in_its_order_and_all_nodes_without_one() {
        let config = config();
        let names = |set| {
            let listing = Listing::of(&config, set).unwrap();
            listing.0.into_iter().map(|row| row.name).collect::<Vec<_>>()
        };
        assert_eq!(names(None).len(), 403);
        assert_eq!(names(Some("@gpu&node-[000-011],login-1")), ["node-010", "node-011", "login-1"]);
        assert_eq!(names(Some("@*!node-[000-399]")), ["head", "login-1", "login-2"]);
    }

    #[test]
    fn a_list_has_a_line_for_each_node() {
        let text = Listing::of(&config(), Some("node-399,login-1")).unwrap().to_string();
        let expected = "NODE      ADDRESS    KNOWN BY           IMAGE              MODE\n\
                        node-399  10.1.4.99  fc:ab:14:00:01:8f  rocky-9-compute    fetched\n\
                        login-1   10.1.0.11  fc:ab:14:01:00:01  debian-12-compute  -\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn each_value_is_explained_by_what_made_it_so() {
        let config = config();
        let text = Explained::of(&config, "node-003").unwrap()[0].to_string();
        let expected = "node node-003\n  \
            address = \"10.1.1.3\"\n      \
            [[nodes]] names = \"node-[000-009,020-399]\"\n  \
            image = \"rocky-9-compute/20261122T061457Z\"\n      \
            [[set]] nodes = \"@canary\": \"rocky-9-compute/20261122T061457Z\"\n      \
            [profile.compute]: \"rocky-9-compute\", overruled\n      \
            [defaults]: \"debian-12-compute\", overruled\n";
        assert!(text.starts_with(expected), "{text}");
        let own = Explained::of(&config, "login-1").unwrap()[0].to_string();
        assert!(
            own.contains("mac = \"fc:ab:14:01:00:01\"\n      [[nodes]] names = \"login-[1-2]\""),
            "{own}"
        );
    }

    #[test]
    fn names_and_macs_are_taken_as_they_are_and_sets_are_spelled_out() {
        let config = config();
        let names = |text| names_of(&config, text).unwrap().join(" ");
        assert_eq!(names("login-1, fc:ab:14:01:00:02,nosuch,"), "login-1 fc:ab:14:01:00:02 nosuch");
        assert_eq!(names("@gpu&node-[000-011],login-1"), "node-010 node-011 login-1");
        assert!(names_of(&config, "@nosuch").is_err());
    }

    #[test]
    fn a_node_that_is_not_there_is_an_error() {
        let error = Listing::of(&config(), Some("node-[398-400]")).unwrap_err().to_string();
        assert!(error.starts_with("there is no node node-400\nhint: "), "{error}");
    }
}
