//! The inventory as it stands in its file. Each value is parsed here, so that a malformed one is reported with its line and column; what
//! a node is made of is then taken from the plain table, see [`super::layers`].

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::num::NonZeroU16;

use bootspec::MacAddr;
use bootspec::cmdline::{ByteSize, InitPath, KernelArg, Mpol, OnFailure, RootSize};
use bootspec::manifest::BootMode;
use serde::{Deserialize, Serialize};
use toml::Table;
use uuid::Uuid;

use crate::config::node::with_settings;
use crate::config::{ImageSelector, OptionBytes, bmc, text};
use crate::overlay::OverlayName;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    #[serde(default, rename = "defaults")]
    _defaults: Defaults,
    #[serde(default, rename = "profile")]
    pub profiles: BTreeMap<String, Profile>,
    /// Names of groups and what they hold.
    #[serde(default)]
    pub groups: BTreeMap<String, String>,
    #[serde(default)]
    pub nodes: Vec<Nodes>,
    #[serde(default)]
    pub set: Vec<Set>,
}

with_settings! {
    /// What every node has that is told nothing else.
    #[expect(dead_code, reason = "the settings are read to be checked")]
    #[derive(Default)]
    pub(super) struct Defaults {}
}

with_settings! {
    /// `[profile.NAME]`.
    #[expect(dead_code, reason = "the settings are read to be checked")]
    pub(super) struct Profile {
        #[serde(default)]
        pub(super) inherits: Vec<String>,
    }
}

with_settings! {
    /// `[[nodes]]`: machines that are alike.
    #[expect(dead_code, reason = "the settings are read to be checked")]
    pub(super) struct Nodes {
        pub(super) names: String,
        pub(super) addresses: Patterns,
        #[serde(default)]
        pub(super) macs: Patterns,
        #[serde(default)]
        pub(super) uuids: Patterns,
        #[serde(default)]
        pub(super) client_ids: Patterns,
        #[serde(default)]
        pub(super) circuit_ids: Patterns,
        #[serde(default)]
        pub(super) bmc_addresses: Patterns,
        pub(super) relay: Option<Ipv4Addr>,
        pub(super) profile: Option<String>,
    }
}

with_settings! {
    /// `[[set]]`: what some of the nodes have otherwise.
    #[expect(dead_code, reason = "the settings are read to be checked")]
    pub(super) struct Set {
        pub(super) nodes: String,
    }
}

with_settings! {
    /// What `bootserve node set` may change of a node.
    #[expect(dead_code, reason = "the settings are read to be checked")]
    struct Edited {
        mac: Option<MacAddr>,
        #[serde(default, with = "text::option")]
        client_id: Option<OptionBytes>,
        uuid: Option<Uuid>,
        #[serde(default, with = "text::option")]
        circuit_id: Option<OptionBytes>,
        relay: Option<Ipv4Addr>,
        address: Option<Ipv4Addr>,
    }
}

/// What is a node's own and no setting, by its key in a `[[node]]`, and by that in a `[[nodes]]`, where there is one for each.
pub(crate) const PLURALS: [(&str, &str); 6] = [
    ("address", "addresses"),
    ("bmc_address", "bmc_addresses"),
    ("mac", "macs"),
    ("uuid", "uuids"),
    ("client_id", "client_ids"),
    ("circuit_id", "circuit_ids"),
];

/// A BMC is said in files alone: who may change nodes, or write the database, shall not say where its password is read and sent.
pub(crate) const FILES_ALONE: [&str; 3] = ["bmc", "bmc_address", "bmc_addresses"];

fn check_no_bmc(table: &Table) -> Result<(), toml::de::Error> {
    match FILES_ALONE.iter().find(|key| table.contains_key(**key)) {
        Some(key) => {
            let problem = format!("{key} can be set in files alone, as it says where a password is sent");
            Err(serde::de::Error::custom(problem))
        }
        None => Ok(()),
    }
}

/// Whether `table` holds what may be changed of a node, and nothing else.
pub(crate) fn check_edited(table: Table) -> Result<(), toml::de::Error> {
    check_no_bmc(&table)?;
    table.try_into::<Edited>().map(drop)
}

/// Whether `table` holds settings, and nothing else.
pub(crate) fn check_settings(table: Table) -> Result<(), toml::de::Error> {
    check_no_bmc(&table)?;
    table.try_into::<Defaults>().map(drop)
}

/// Whether `table` holds what may be said of nodes that are added, and nothing else.
pub(crate) fn check_added(table: Table) -> Result<(), toml::de::Error> {
    check_no_bmc(&table)?;
    let mut whole: Table = [("names", "n"), ("addresses", "0.0.0.0")]
        .map(|(key, value)| (key.to_owned(), value.into()))
        .into_iter()
        .collect();
    whole.extend(table);
    whole.try_into::<Nodes>().map(drop)
}

/// One pattern, or several.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub(crate) struct Patterns(pub Vec<String>);

impl<'de> Deserialize<'de> for Patterns {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl<'de> serde::de::Visitor<'de> for Visitor {
            type Value = Patterns;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a pattern, or an array of patterns")
            }

            fn visit_str<E>(self, pattern: &str) -> Result<Patterns, E> {
                Ok(Patterns(vec![pattern.to_owned()]))
            }

            fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut patterns: A) -> Result<Patterns, A::Error> {
                let mut all = Vec::new();
                while let Some(pattern) = patterns.next_element()? {
                    all.push(pattern);
                }
                Ok(Patterns(all))
            }
        }

        deserializer.deserialize_any(Visitor)
    }
}
