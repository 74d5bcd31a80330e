//! The inventory as it stands in its file. Each value is parsed here, so that a malformed one is reported with its line and column; what
//! a node is made of is then taken from the plain table, see [`super::layers`].

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::num::NonZeroU16;

use bootspec::cmdline::{ByteSize, InitPath, KernelArg, Mpol, OnFailure, RootSize};
use bootspec::manifest::BootMode;
use serde::Deserialize;

use crate::config::node::with_settings;
use crate::config::{ImageSelector, text};

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

/// One pattern, or several.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Patterns(pub Vec<String>);

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
