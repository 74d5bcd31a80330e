//! A genders file (libgenders(3)): what a node has for attributes, for pdsh, ClusterShell and nodeattr. Every node is one of `all`;
//! `image`, `version` and `mode` are what the configuration says of it.

use std::collections::BTreeMap;
use std::fmt;

use bootspec::store::NodeName;
use serde::Serialize;

use super::{ExportError, Inventory};
use crate::config::{ImageSelector, Node};

/// All lines.
#[derive(Clone, Debug, Serialize)]
#[serde(transparent)]
pub struct Genders(Vec<Gender>);

/// A line.
#[derive(Clone, Debug, Serialize)]
pub struct Gender {
    /// The node.
    pub name: NodeName,
    /// Its attributes, some of which have values.
    pub attributes: BTreeMap<&'static str, Option<String>>,
}

impl Genders {
    /// The nodes.
    pub fn of(inventory: &Inventory) -> Result<Self, ExportError> {
        inventory.nodes().into_iter().map(Gender::of).collect::<Result<_, _>>().map(Self)
    }
}

impl Gender {
    fn of(node: &Node) -> Result<Self, ExportError> {
        if node.name.as_str().contains('.') {
            return Err(ExportError::DottedGender { name: node.name.to_string() });
        }
        let (image, version) = match &node.image {
            ImageSelector::Current(name) => (name.to_string(), None),
            ImageSelector::Version(image) => (image.name.to_string(), Some(image.version.to_string())),
        };
        let mut attributes = BTreeMap::from([("all", None), ("image", Some(image))]);
        attributes.extend(version.map(|version| ("version", Some(version))));
        attributes.extend(node.params.mode.map(|mode| ("mode", Some(mode.to_string()))));
        Ok(Self { name: node.name.clone(), attributes })
    }
}

impl fmt::Display for Genders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|gender| {
            let attributes = gender.attributes.iter().map(|(name, value)| match value {
                Some(value) => format!("{name}={value}"),
                None => (*name).to_owned(),
            });
            writeln!(f, "{} {}", gender.name, attributes.collect::<Vec<_>>().join(","))
        })
    }
}
