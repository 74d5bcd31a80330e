//! Where the settings of a node come from: layers of tables, the later over the earlier.
//!
//! A later value takes the place of an earlier one. Lists are appended, and tables are merged key by key.

use std::fmt;
use std::sync::Arc;

use serde::Serialize;
use toml::{Table, Value};

/// Where a layer stands in the inventory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// `[defaults]`.
    Defaults,
    /// `[profile.NAME]`.
    Profile(String),
    /// `[[nodes]]` with these names.
    Nodes(String),
    /// `[[set]]` with these nodes.
    Set(String),
    /// `[[node]]` of the configuration itself.
    Configuration,
    /// `bootserve node`, by this change.
    Edit(i64),
    /// The same, for the next boot alone.
    Once(i64),
    /// `[[discovery.policy]]` with this name.
    Policy(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Defaults => f.write_str("[defaults]"),
            Self::Profile(name) => write!(f, "[profile.{name}]"),
            Self::Nodes(names) => write!(f, "[[nodes]] names = \"{names}\""),
            Self::Set(nodes) => write!(f, "[[set]] nodes = \"{nodes}\""),
            Self::Configuration => f.write_str("[[node]] of the configuration"),
            Self::Edit(revision) => write!(f, "bootserve node, change {revision}"),
            Self::Policy(name) => write!(f, "[[discovery.policy]] {name}"),
            Self::Once(revision) => write!(f, "bootserve node, change {revision}, for one boot"),
        }
    }
}

impl Serialize for Origin {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Settings, and where they stand.
#[derive(Clone, Debug, PartialEq)]
pub struct Layer {
    /// Where.
    pub origin: Origin,
    /// Settings alone.
    pub settings: Table,
}

/// The layers of one node, the lowest first.
pub type Layers = Vec<Arc<Layer>>;

/// A setting of a node: what it is, and what made it so.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Setting {
    /// Its key.
    pub key: String,
    /// What it is.
    pub value: Value,
    /// Each layer that says something of it, the lowest first.
    pub from: Vec<Said>,
}

/// What one layer says of a setting.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Said {
    /// Which layer.
    pub origin: Origin,
    /// What it says.
    pub value: Value,
    /// Whether a later layer says otherwise, so that nothing of it is left.
    pub overruled: bool,
}

/// All settings together.
pub fn merged(layers: &[Arc<Layer>]) -> Table {
    let mut all = Table::new();
    for layer in layers {
        merge(&mut all, &layer.settings);
    }
    all
}

/// `below` with `over` laid over it.
pub fn laid_over(mut below: Table, over: &Table) -> Table {
    merge(&mut below, over);
    below
}

fn merge(all: &mut Table, over: &Table) {
    for (key, value) in over {
        match (all.get_mut(key), value) {
            (Some(Value::Array(values)), Value::Array(more)) => values.extend(more.iter().cloned()),
            (Some(Value::Table(table)), Value::Table(more)) => merge(table, more),
            _ => {
                all.insert(key.clone(), value.clone());
            }
        }
    }
}

/// Each setting with its origins, by key.
pub fn explained(layers: &[Arc<Layer>]) -> Vec<Setting> {
    let settings = merged(layers).into_iter().map(|(key, value)| {
        let is_sum = matches!(value, Value::Array(_) | Value::Table(_));
        let said =
            layers.iter().filter_map(|layer| Some((layer.origin.clone(), layer.settings.get(&key)?.clone())));
        let mut from: Vec<_> =
            said.map(|(origin, value)| Said { origin, value, overruled: !is_sum }).collect();
        if let Some(last) = from.last_mut() {
            last.overruled = false;
        }
        Setting { key, value, from }
    });
    settings.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(origin: Origin, settings: &str) -> Arc<Layer> {
        Arc::new(Layer { origin, settings: settings.parse().unwrap() })
    }

    #[test]
    fn later_values_win_lists_grow_and_tables_are_merged() {
        let layers = [
            layer(
                Origin::Defaults,
                "image = 'a'\nkernel_args = ['x']\nmetadata = { rack = 1, owner = 'ops' }",
            ),
            layer(Origin::Profile("p".into()), "image = 'b'\nkernel_args = ['y']\nmetadata = { rack = 2 }"),
        ];
        let expected: Table =
            "image = 'b'\nkernel_args = ['x', 'y']\nmetadata = { rack = 2, owner = 'ops' }".parse().unwrap();
        assert_eq!(merged(&layers), expected);
        let explained = explained(&layers);
        let image = explained.iter().find(|setting| setting.key == "image").unwrap();
        let said: Vec<_> = image.from.iter().map(|said| (said.origin.to_string(), said.overruled)).collect();
        assert_eq!(said, [("[defaults]".to_owned(), true), ("[profile.p]".to_owned(), false)]);
        let args = explained.iter().find(|setting| setting.key == "kernel_args").unwrap();
        assert!(args.from.iter().all(|said| !said.overruled));
    }
}
