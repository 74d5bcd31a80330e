//! Policies: which node a machine becomes by itself.
//!
//! A [`Candidate`] is a machine with its tags and its port, made of its facts by [`Policies::examine`]; a [`Room`] knows which names are
//! free. What becomes of a machine is a function of the two, [`Room::decide`]: whoever asks, the binding of check-ins, a listing or
//! `machine explain`, gets the same answer. Where rules and facts come from is no matter here.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::net::Ipv4Addr;

use bootspec::MacAddr;
use bootspec::store::NodeName;
use serde::Serialize;
use serde_json::Value;
use toml::Table;
use uuid::Uuid;

use super::node_known_by;
use super::port::{PortNames, Said};
use super::rule::{Facts, Rule, RuleError};
use crate::config::{Config, Node};
use crate::edits::POLICY;

/// Tags and policies, in the order of the file.
#[derive(Clone, Debug, Default)]
pub struct Policies {
    /// What machines can have.
    pub tags: Vec<Tag>,
    /// The first that binds a machine counts.
    pub policies: Vec<Policy>,
}

/// A kind of machine.
#[derive(Clone, Debug, PartialEq)]
pub struct Tag {
    /// Its name.
    pub name: String,
    /// Which machines have it.
    pub rule: Rule,
}

/// What is made of machines that have some tags.
#[derive(Clone, Debug)]
pub struct Policy {
    /// Its name.
    pub name: String,
    /// A machine has to have all of these; none: every machine.
    pub tags: Vec<String>,
    /// No more nodes than these; none: as many as there are names.
    pub max_count: Option<u32>,
    /// Whether it is in use.
    pub is_enabled: bool,
    /// Whether somebody has to approve what it proposes.
    pub needs_approval: bool,
    /// Which machine gets which name.
    pub numbering: Numbering,
    /// The nodes that it can make, in order.
    pub places: Vec<Place>,
    /// What they have besides: settings, and a profile.
    pub settings: Table,
    /// One of them, as it would be.
    pub example: Option<Box<Node>>,
}

/// A node that a policy can make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its name.
    pub name: NodeName,
    /// Its address.
    pub address: Ipv4Addr,
}

/// Which machine gets which name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Numbering {
    /// Whichever comes next gets the first that is free.
    Order,
    /// It is told by the switch port.
    Port {
        /// Whose word counts.
        said: Said,
        /// Which port is which of the places.
        places: HashMap<String, usize>,
    },
}

/// What a rule says of a machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TagValue {
    /// The machine has the tag.
    Yes,
    /// It has not.
    No,
    /// The rule cannot be answered, so it has not.
    Error(RuleError),
}

/// A machine, as policies look at it.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    /// What its node will be known by.
    pub mac: MacAddr,
    /// What else a node may be known by that it is.
    pub uuid: Option<Uuid>,
    /// Each tag, in the order of the file.
    pub tags: Vec<(String, TagValue)>,
    /// Where it is plugged in.
    pub ports: PortNames,
    /// Whether it was a node that was taken away, so that policies leave it alone.
    pub is_released: bool,
    /// The node that somebody has approved for it, over both.
    pub approved: Option<NodeName>,
}

/// Which place a machine is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    /// By which of the policies.
    pub policy: usize,
    /// Which of its places.
    pub place: usize,
    /// Whether that waits for an approval.
    pub is_proposal: bool,
}

/// What becomes of a machine, and why.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    /// What each policy says, in the order of the file.
    pub verdicts: Vec<(String, Verdict)>,
    /// The outcome; none: it waits.
    pub choice: Option<Choice>,
}

/// What a policy says of a machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "verdict", rename_all = "snake_case")]
pub enum Verdict {
    /// It makes this node of it.
    Binds {
        /// Which.
        node: NodeName,
    },
    /// It would make this node of it, if somebody approves.
    Proposes {
        /// Which.
        node: NodeName,
    },
    /// It would, if the machine had not been a node that was taken away.
    Released {
        /// Which it would be now.
        node: NodeName,
    },
    /// It is not in use.
    Disabled,
    /// The machine does not have all of its tags.
    Untagged {
        /// Those that it has not.
        missing: Vec<String>,
    },
    /// It has made as many nodes as it may.
    Full {
        /// How many there are.
        count: u32,
        /// How many there may be.
        max_count: u32,
    },
    /// None of its names is free.
    NoNameLeft,
    /// Nothing is known of the machine's port.
    NoPort,
    /// The machine's port is none of its ports.
    OtherPort {
        /// What the port is called.
        port: String,
    },
    /// The node of the machine's port is there already, or its address is another's.
    Taken {
        /// Which node.
        node: NodeName,
    },
    /// An earlier policy has taken the machine.
    Later,
}

/// The names that are free, and how many nodes each policy has.
#[derive(Debug)]
pub struct Room<'a> {
    config: &'a Config,
    policies: &'a Policies,
    counts: Vec<u32>,
    /// For each policy, the place that may be the first free one.
    next: Vec<usize>,
    names: HashSet<NodeName>,
    addresses: HashSet<Ipv4Addr>,
}

impl Policies {
    /// Looks at a machine with these facts, as `docs/discovery.md` describes them.
    pub fn examine(&self, mac: MacAddr, uuid: Option<Uuid>, facts: &Value) -> Candidate {
        let seen = Facts::from(facts);
        let tags = self.tags.iter().map(|tag| (tag.name.clone(), tag.value(&seen)));
        Candidate {
            mac,
            uuid,
            tags: tags.collect(),
            ports: PortNames::of(facts),
            is_released: false,
            approved: None,
        }
    }

    /// Whether no policy is there.
    pub fn is_empty(&self) -> bool {
        self.policies.is_empty()
    }
}

impl Tag {
    fn value(&self, facts: &Facts) -> TagValue {
        match self.rule.holds(facts) {
            Ok(true) => TagValue::Yes,
            Ok(false) => TagValue::No,
            Err(error) => TagValue::Error(error),
        }
    }
}

impl Candidate {
    /// The names of its tags.
    pub fn tags(&self) -> impl Iterator<Item = &str> {
        self.tags.iter().filter(|(_, value)| *value == TagValue::Yes).map(|(name, _)| name.as_str())
    }

    /// The tags whose rules cannot be answered.
    pub fn errors(&self) -> impl Iterator<Item = (&str, &RuleError)> {
        self.tags.iter().filter_map(|(name, value)| match value {
            TagValue::Error(error) => Some((name.as_str(), error)),
            TagValue::Yes | TagValue::No => None,
        })
    }

    /// Whether what it could be known by is among these.
    pub fn is_among(&self, keys: &HashSet<String>) -> bool {
        keys.contains(&self.mac.to_string()) || self.uuid.is_some_and(|uuid| keys.contains(&uuid.to_string()))
    }

    /// The node that it is, if it is one.
    pub fn node_in<'a>(&self, config: &'a Config) -> Option<&'a Node> {
        node_known_by(config, self.mac, self.uuid)
    }
}

impl Policy {
    /// What is added for a machine that becomes the node of this place: what it is known by, its settings, and who made it.
    pub fn table(&self, place: usize, mac: MacAddr) -> Table {
        let mut table = self.settings.clone();
        let own = [
            ("mac", mac.to_string()),
            ("address", self.places[place].address.to_string()),
            (POLICY, self.name.clone()),
        ];
        table.extend(own.map(|(key, value)| (key.to_owned(), value.into())));
        table
    }
}

impl<'a> Room<'a> {
    /// What is free with this configuration.
    pub fn of(config: &'a Config) -> Self {
        let policies = &*config.policies;
        let mut made: HashMap<&str, u32> = HashMap::new();
        for (name, edit) in &config.edits().0 {
            if let Some(policy) = edit.policy().filter(|_| config.node_named(name.as_str()).is_some()) {
                *made.entry(policy).or_default() += 1;
            }
        }
        let counts =
            policies.policies.iter().map(|policy| made.get(policy.name.as_str()).copied().unwrap_or(0));
        Self {
            config,
            policies,
            counts: counts.collect(),
            next: vec![0; policies.policies.len()],
            names: HashSet::new(),
            addresses: HashSet::new(),
        }
    }

    /// What becomes of a machine that is no node.
    pub fn decide(&mut self, candidate: &Candidate) -> Decision {
        let mut choice = None;
        let policies = self.policies;
        let verdicts = policies.policies.iter().enumerate().map(|(index, policy)| {
            let verdict = match choice {
                Some(_) => Verdict::Later,
                None => self.verdict(index, candidate).map_or_else(
                    |verdict| verdict,
                    |place| {
                        let (found, verdict) = chosen(policy, index, place, candidate);
                        choice = Some(found);
                        verdict
                    },
                ),
            };
            (policy.name.clone(), verdict)
        });
        let verdicts = verdicts.collect();
        let is_free = !candidate.is_released || candidate.approved.is_some();
        Decision { verdicts, choice: choice.filter(|_| is_free) }
    }

    /// The place is taken from now on; a proposal is none of the nodes that a policy has made.
    pub fn take(&mut self, choice: Choice) {
        let place = &self.policies.policies[choice.policy].places[choice.place];
        self.names.insert(place.name.clone());
        self.addresses.insert(place.address);
        if !choice.is_proposal {
            self.counts[choice.policy] += 1;
        }
    }

    /// The place that the policy has for a machine, or why it has none.
    fn verdict(&mut self, index: usize, candidate: &Candidate) -> Result<usize, Verdict> {
        let policy = &self.policies.policies[index];
        if !policy.is_enabled {
            return Err(Verdict::Disabled);
        }
        let missing: Vec<_> =
            policy.tags.iter().filter(|tag| !candidate.tags().any(|has| has == *tag)).cloned().collect();
        if !missing.is_empty() {
            return Err(Verdict::Untagged { missing });
        }
        let count = self.counts[index];
        if let Some(max_count) = policy.max_count.filter(|max_count| count >= *max_count) {
            return Err(Verdict::Full { count, max_count });
        }
        let place = match &policy.numbering {
            Numbering::Order => self.first_free(index, candidate),
            Numbering::Port { said, places } => place_of_port(policy, candidate.ports.said(*said), places),
        }?;
        match self.is_free(&policy.places[place]) {
            true => Ok(place),
            false => Err(Verdict::Taken { node: policy.places[place].name.clone() }),
        }
    }

    /// The name that was approved, or else the first one that is free.
    fn first_free(&mut self, index: usize, candidate: &Candidate) -> Result<usize, Verdict> {
        let places = &self.policies.policies[index].places;
        let approved = candidate.approved.as_ref();
        if let Some(place) = approved.and_then(|name| places.iter().position(|place| place.name == *name)) {
            return Ok(place);
        }
        let mut next = self.next[index];
        // What is taken does not become free while we look.
        while places.get(next).is_some_and(|place| !self.is_free(place)) {
            next += 1;
        }
        self.next[index] = next;
        places.get(next).map(|_| next).ok_or(Verdict::NoNameLeft)
    }

    fn is_free(&self, Place { name, address }: &Place) -> bool {
        let is_node =
            self.config.node_named(name.as_str()).is_some() || self.config.node_at(*address).is_some();
        // A node that no file has any more waits under its name.
        let waits = self.config.edits().0.contains_key(name);
        !is_node && !waits && !self.names.contains(name) && !self.addresses.contains(address)
    }
}

fn chosen(policy: &Policy, index: usize, place: usize, candidate: &Candidate) -> (Choice, Verdict) {
    let is_approved = candidate.approved.is_some();
    let choice = Choice { policy: index, place, is_proposal: policy.needs_approval && !is_approved };
    let node = policy.places[place].name.clone();
    let verdict = match choice.is_proposal {
        _ if candidate.is_released && !is_approved => Verdict::Released { node },
        true => Verdict::Proposes { node },
        false => Verdict::Binds { node },
    };
    (choice, verdict)
}

fn place_of_port(
    policy: &Policy,
    names: &[String],
    places: &HashMap<String, usize>,
) -> Result<usize, Verdict> {
    let port = names.first().ok_or(Verdict::NoPort)?;
    let place = names.iter().find_map(|name| places.get(name)).copied();
    let place = place.filter(|place| *place < policy.places.len());
    place.ok_or_else(|| Verdict::OtherPort { port: port.clone() })
}

impl fmt::Display for TagValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Yes => f.write_str("yes"),
            Self::No => f.write_str("no"),
            Self::Error(error) => write!(f, "no: {error}"),
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Binds { node } => write!(f, "makes it {node}"),
            Self::Proposes { node } => write!(f, "proposes {node}; bootserve machine approve takes it"),
            Self::Released { node } => write!(
                f,
                "would make it {node}, but it was a node that was taken away; bootserve machine forget lets policies have it again"
            ),
            Self::Disabled => f.write_str("is not enabled"),
            Self::Untagged { missing } => {
                write!(f, "the machine does not have the tag {}", missing.join(", "))
            }
            Self::Full { count, max_count } => {
                write!(f, "has made {count} nodes, and max_count is {max_count}")
            }
            Self::NoNameLeft => f.write_str("none of its names is free"),
            Self::NoPort => f.write_str("the machine's port is not known"),
            Self::OtherPort { port } => write!(f, "the machine's port {port} is none of its ports"),
            Self::Taken { node } => write!(
                f,
                "the node of the machine's port, {node}, is there already, or its address is another's"
            ),
            Self::Later => f.write_str("an earlier policy has it"),
        }
    }
}

#[cfg(test)]
mod tests;
