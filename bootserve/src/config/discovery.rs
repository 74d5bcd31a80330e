//! `[discovery]`: how often unknown machines check in, and what is made of them.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::Ipv4Addr;
use std::time::Duration;

use bootspec::cmdline::{ByteSize, InitPath, KernelArg, Mpol, OnFailure, RootSize};
use bootspec::facts::{MAX_WAIT, MIN_WAIT};
use bootspec::manifest::BootMode;
use serde::{Deserialize, Serialize};
use std::num::NonZeroU16;
use toml::{Table, Value};

use super::node::with_settings;
use super::{ConfigError, ImageSelector, Networks, Node, Server, Tls, bmc, text};
use crate::compat::razor::rule::RazorRule;
use crate::discovery::policy::{Numbering, Place, Policies, Policy, Tag};
use crate::discovery::port::Said;
use crate::discovery::rule::{Rule, RuleError};
use crate::edits::PROFILE;
use crate::inventory::node_set::NodeSetError;
use crate::inventory::pattern::{PatternError, Radix, expand};
use crate::inventory::wire::Patterns;
use crate::inventory::{Inventory, InventoryError};
use crate::overlay::OverlayName;

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Discovery {
    poll_seconds: u64,
    #[serde(rename = "tag")]
    tags: Vec<WireTag>,
    #[serde(rename = "policy")]
    policies: Vec<WirePolicy>,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct WireTag {
    name: String,
    rule: Option<String>,
    razor: Option<String>,
}

with_settings! {
    /// `[[discovery.policy]]`.
    #[derive(Serialize)]
    struct WirePolicy {
        name: String,
        #[serde(default)]
        tags: Vec<String>,
        max_count: Option<u32>,
        #[serde(default = "enabled")]
        enabled: bool,
        #[serde(default)]
        approval: bool,
        nodes: String,
        address: Patterns,
        #[serde(default)]
        by: By,
        #[serde(default)]
        ports: Patterns,
        profile: Option<String>,
    }
}

/// What is the policy's own and no setting of its nodes.
const OWN: [&str; 9] =
    ["name", "tags", "max_count", "enabled", "approval", "nodes", "address", "by", "ports"];

#[derive(Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
enum By {
    #[default]
    Order,
    Relay,
    Lldp,
}

fn enabled() -> bool {
    true
}

/// A tag or a policy cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// The rule of a tag.
    #[error("its rule")]
    Rule(#[from] RuleError),
    /// It has none, or two.
    #[error("expected one of rule and razor")]
    OneRule,
    /// There are two of this name.
    #[error("there is another one of this name")]
    Twice,
    /// It has no proper name.
    #[error("its name is {0:?}, expected letters, digits, '-', '_' and '.'")]
    Name(String),
    /// It names a tag that is not there.
    #[error("there is no [[discovery.tag]] {0:?}")]
    NoTag(String),
    /// Its nodes.
    #[error("nodes")]
    Nodes(#[from] NodeSetError),
    /// Its addresses or ports.
    #[error("{key}")]
    Pattern {
        /// Which.
        key: &'static str,
        /// What is wrong.
        #[source]
        source: PatternError,
    },
    /// There is not one for each node.
    #[error("it has {names} nodes and {found} {key}\nhint: there is to be one for each, in the same order")]
    Count {
        /// How many nodes.
        names: usize,
        /// Of what there are more, or fewer.
        key: &'static str,
        /// How many.
        found: usize,
    },
    /// An address or a port is there twice, or is none.
    #[error("{key} has {found:?}, expected {expected}")]
    Value {
        /// Where.
        key: &'static str,
        /// What.
        found: String,
        /// What would be accepted.
        expected: &'static str,
    },
    /// A node cannot be where it is to be.
    #[error(transparent)]
    Address(Box<ConfigError>),
    /// Ports and numbering do not belong together.
    #[error("by = \"relay\" or \"lldp\" needs ports, and ports need one of them")]
    Numbering,
    /// What is for files alone.
    #[error("bmc cannot be said here\nhint: BMCs are those of nodes that stand in files")]
    Bmc,
    /// Its profile.
    #[error(transparent)]
    Profile(InventoryError),
    /// What it makes is no node.
    #[error("it makes no node")]
    Table(#[source] toml::de::Error),
    /// The same.
    #[error("it makes no node")]
    Node(#[source] Box<ConfigError>),
}

/// What policies are checked against.
pub(super) struct Surroundings<'a> {
    pub inventory: &'a Inventory,
    pub networks: &'a Networks,
    pub server: &'a Server,
    pub tls: Option<&'a Tls>,
}

impl Default for Discovery {
    fn default() -> Self {
        Self { poll_seconds: 30, tags: Vec::new(), policies: Vec::new() }
    }
}

impl Discovery {
    pub(super) fn poll(&self) -> Result<Duration, ConfigError> {
        let poll = Duration::from_secs(self.poll_seconds);
        if (MIN_WAIT..=MAX_WAIT).contains(&poll) {
            return Ok(poll);
        }
        let (found, expected) = (self.poll_seconds.to_string(), "1 to 3600");
        Err(ConfigError::Value { key: "discovery.poll_seconds", found, expected })
    }

    pub(super) fn policies(&self, around: &Surroundings) -> Result<Policies, ConfigError> {
        let mut seen = HashSet::new();
        let mut tags = Vec::with_capacity(self.tags.len());
        for tag in &self.tags {
            let checked = check_name(&tag.name, &mut seen).and_then(|()| tag.check(&tags));
            tags.push(checked.map_err(|source| refused("tag", &tag.name, source))?);
        }
        let mut seen = HashSet::new();
        let policies = self.policies.iter().map(|policy| {
            let checked = check_name(&policy.name, &mut seen).and_then(|()| policy.check(&tags, around));
            checked.map_err(|source| refused("policy", &policy.name, source))
        });
        let policies = policies.collect::<Result<_, _>>()?;
        Ok(Policies { tags, policies })
    }
}

fn refused(table: &'static str, name: &str, source: PolicyError) -> ConfigError {
    ConfigError::Policy { table, name: name.to_owned(), source: Box::new(source) }
}

fn check_name<'a>(name: &'a str, seen: &mut HashSet<&'a str>) -> Result<(), PolicyError> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    match (1..=64).contains(&name.len()) && name.bytes().all(is_plain) {
        false => Err(PolicyError::Name(name.to_owned())),
        true if !seen.insert(name) => Err(PolicyError::Twice),
        true => Ok(()),
    }
}

impl WireTag {
    /// A rule of Razor's may name the tags before it.
    fn check(&self, before: &[Tag]) -> Result<Tag, PolicyError> {
        let known = |name: &str| before.iter().find(|tag| tag.name == name).map(|tag| &tag.rule);
        let rule = match (&self.rule, &self.razor) {
            (Some(rule), None) => Rule::expression(rule)?,
            (None, Some(razor)) => Rule::Razor(RazorRule::parse(razor, known)?),
            (Some(_), Some(_)) | (None, None) => return Err(PolicyError::OneRule),
        };
        Ok(Tag { name: self.name.clone(), rule })
    }
}

impl WirePolicy {
    fn check(&self, tags: &[Tag], around: &Surroundings) -> Result<Policy, PolicyError> {
        if let Some(tag) = self.tags.iter().find(|tag| tags.iter().all(|known| known.name != **tag)) {
            return Err(PolicyError::NoTag(tag.clone()));
        }
        if self.bmc.is_some() {
            return Err(PolicyError::Bmc);
        }
        let names: Vec<_> = around.inventory.set(&self.nodes)?.0.into_iter().collect();
        let addresses = self.addresses(names.len(), around)?;
        let numbering = self.numbering(names.len())?;
        let places = names.into_iter().zip(addresses).map(|(name, address)| Place { name, address });
        let places: Vec<_> = places.collect();
        let settings = self.settings();
        let example = places.first().map(|place| self.example(place, &settings, around)).transpose()?;
        Ok(Policy {
            name: self.name.clone(),
            tags: self.tags.clone(),
            max_count: self.max_count,
            is_enabled: self.enabled,
            needs_approval: self.approval,
            numbering,
            places,
            settings,
            example: example.map(Box::new),
        })
    }

    fn addresses(&self, count: usize, around: &Surroundings) -> Result<Vec<Ipv4Addr>, PolicyError> {
        let texts = values("address", &self.address, count)?;
        let mut seen = HashSet::new();
        let addresses = texts.into_iter().map(|found| {
            let error = |expected| PolicyError::Value { key: "address", found: found.clone(), expected };
            let address: Ipv4Addr = found.parse().map_err(|_| error("IPv4 addresses"))?;
            if !seen.insert(address) {
                return Err(error("each once"));
            }
            if address == around.server.address {
                return Err(error("others than server.address"));
            }
            let what = "the address";
            super::wire::check_host(around.networks.iter(), what, address)
                .map_err(|source| PolicyError::Address(Box::new(source)))?;
            Ok(address)
        });
        addresses.collect()
    }

    fn numbering(&self, count: usize) -> Result<Numbering, PolicyError> {
        let said = match (self.by, self.ports.0.is_empty()) {
            (By::Order, true) => return Ok(Numbering::Order),
            (By::Relay, false) => Said::ByRelay,
            (By::Lldp, false) => Said::ByLldp,
            (By::Order, false) | (By::Relay | By::Lldp, true) => return Err(PolicyError::Numbering),
        };
        let mut places = HashMap::new();
        for (index, port) in values("ports", &self.ports, count)?.into_iter().enumerate() {
            if let Some(found) = places.contains_key(&port).then(|| port.clone()) {
                return Err(PolicyError::Value { key: "ports", found, expected: "each once" });
            }
            places.insert(port, index);
        }
        Ok(Numbering::Port { said, places })
    }

    /// What its nodes have, as far as it is said.
    fn settings(&self) -> Table {
        let table = Table::try_from(self).expect("it was read from TOML");
        let is_nothing = |value: &Value| {
            value.as_array().is_some_and(Vec::is_empty) || value.as_table().is_some_and(Table::is_empty)
        };
        table.into_iter().filter(|(key, value)| !OWN.contains(&key.as_str()) && !is_nothing(value)).collect()
    }

    /// The node of a place, so that what cannot be is found before a machine comes.
    fn example(&self, place: &Place, settings: &Table, around: &Surroundings) -> Result<Node, PolicyError> {
        let profile = self.profile.as_deref();
        let below = around.inventory.settings_below(profile, &self.name).map_err(PolicyError::Profile)?;
        let mut table = crate::inventory::layers::laid_over(below, settings);
        table.remove(PROFILE);
        let own = [
            ("name", place.name.to_string()),
            ("mac", "02:00:00:00:00:00".to_owned()),
            ("address", place.address.to_string()),
        ];
        table.extend(own.map(|(key, value)| (key.to_owned(), value.into())));
        let node: super::node::Node = table.try_into().map_err(PolicyError::Table)?;
        let node = Node::try_from(node).map_err(|source| PolicyError::Node(Box::new(source)))?;
        super::wire::check_own_files(&node, around.server, around.tls)
            .map_err(|source| PolicyError::Node(Box::new(source)))?;
        Ok(node)
    }
}

/// The values of a pattern, one for each node.
fn values(
    key: &'static str,
    Patterns(patterns): &Patterns,
    names: usize,
) -> Result<Vec<String>, PolicyError> {
    let mut values = Vec::new();
    for pattern in patterns {
        values
            .extend(expand(pattern, Radix::Decimal).map_err(|source| PolicyError::Pattern { key, source })?);
    }
    match values.len() == names {
        true => Ok(values),
        false => Err(PolicyError::Count { names, key, found: values.len() }),
    }
}
