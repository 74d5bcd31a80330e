//! Machines as they are shown: a line each, all that one has said, or what policies make of it.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;

use bootspec::MacAddr;
use bootspec::facts::Facts;
use bootspec::store::NodeName;
use serde::Serialize;

use super::policy::{Candidate, Decision, Room, TagValue, Verdict};
use super::{Machine, node_of};
use crate::config::Config;
use crate::timestamp::utc;

/// A machine, as one line says it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    /// The interface that it checks in by.
    pub mac: String,
    /// The node that it is, if it is one.
    pub node: Option<String>,
    /// The policy that has made it this node, if one has.
    pub policy: Option<String>,
    /// What a policy would make of it, if it is none.
    pub offer: Option<Offer>,
    /// Whether policies leave it alone, as it was a node that was taken away.
    pub released: bool,
    /// Its tags.
    pub tags: Vec<String>,
    /// Tags whose rules cannot be answered.
    pub errors: Vec<TagError>,
    /// Where it is plugged in, if that is known.
    pub port: Option<String>,
    /// Its serial number.
    pub serial: Option<String>,
    /// Manufacturer and product.
    pub product: String,
    /// Processor cores.
    pub cores: u32,
    /// What its kernel can use.
    pub memory_bytes: u64,
    /// When it was first heard of, in milliseconds since 1970.
    pub first_seen_unix_ms: i64,
    /// When it was last heard of.
    pub last_seen_unix_ms: i64,
    /// How often it has checked in.
    pub check_ins: u64,
}

/// What a policy would make of a machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Offer {
    /// Which policy.
    pub policy: String,
    /// Which node.
    pub node: NodeName,
    /// Whether that waits for `bootserve machine approve`; if not, it is made at the next check-in.
    pub approval: bool,
}

/// A tag whose rule cannot be answered for a machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TagError {
    /// Which tag.
    pub tag: String,
    /// Why.
    pub error: String,
}

/// Machines, a line each.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(transparent)]
pub struct Listing(pub Vec<Row>);

/// What policies make of each machine that is no node. They take their names in the order of arrival; nothing is changed.
#[derive(Clone, Debug, Default)]
pub struct Outlook(HashMap<MacAddr, (Candidate, Decision)>);

/// What each policy says of a machine, and why.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Explanation {
    /// The machine.
    pub mac: MacAddr,
    /// The node that it is, if it is one: then no policy is asked.
    pub node: Option<NodeName>,
    /// The policy that has made it this node, if one has.
    pub policy: Option<String>,
    /// Whether policies leave it alone.
    pub released: bool,
    /// Where it is plugged in, if that is known.
    pub port: Option<String>,
    /// Each tag, in the order of the file.
    pub tags: Vec<ExplainedTag>,
    /// Each policy, in the order of the file; none of a node.
    pub policies: Vec<ExplainedPolicy>,
}

/// A tag, and whether a machine has it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ExplainedTag {
    /// Its name.
    pub tag: String,
    /// Its rule.
    pub rule: String,
    /// What that says.
    pub value: TagValue,
}

/// A policy, and what it says of a machine.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ExplainedPolicy {
    /// Its name.
    pub policy: String,
    /// What it says.
    #[serde(flatten)]
    pub verdict: Verdict,
}

impl Outlook {
    /// What becomes of these machines.
    pub fn of(machines: &[Machine], config: &Config) -> Self {
        let mut waiting: Vec<_> =
            machines.iter().filter(|machine| node_of(config, &machine.facts).is_none()).collect();
        waiting.sort_by_key(|machine| machine.arrival());
        let mut room = Room::of(config);
        let outlook = waiting.into_iter().map(|machine| {
            let candidate = machine.examined_by(&config.policies);
            let decision = room.decide(&candidate);
            decision.choice.into_iter().for_each(|choice| room.take(choice));
            (machine.mac(), (candidate, decision))
        });
        Self(outlook.collect())
    }

    /// One of these machines as policies see it.
    fn candidate(&self, machine: &Machine, config: &Config) -> Cow<'_, Candidate> {
        match self.0.get(&machine.mac()) {
            Some((candidate, _)) => Cow::Borrowed(candidate),
            // Of a node it was not asked.
            None => Cow::Owned(machine.examined_by(&config.policies)),
        }
    }

    /// The machine as policies see it, and the node that one of them would make of it, whatever has kept it from that.
    pub fn offer(&self, mac: MacAddr) -> Option<(&Candidate, Offer)> {
        let (candidate, decision) = self.0.get(&mac)?;
        let offer = decision.verdicts.iter().find_map(|(policy, verdict)| {
            let (node, approval) = match verdict {
                Verdict::Binds { node } => (node, false),
                Verdict::Proposes { node } | Verdict::Released { node } => (node, true),
                _ => return None,
            };
            Some(Offer { policy: policy.clone(), node: node.clone(), approval })
        });
        Some((candidate, offer?))
    }
}

impl Listing {
    /// Those that wait, or all.
    pub fn of(machines: &[Machine], config: &Config, all: bool) -> Self {
        let outlook = Outlook::of(machines, config);
        let rows = machines.iter().map(|machine| Row::of(machine, config, &outlook));
        Self(rows.filter(|row| all || row.node.is_none()).collect())
    }
}

impl Row {
    fn of(machine: &Machine, config: &Config, outlook: &Outlook) -> Self {
        let Facts { system, cpu, memory_bytes, .. } = &machine.facts;
        let words = [&system.manufacturer, &system.product].into_iter().flatten();
        let node = node_of(config, &machine.facts);
        let examined = outlook.candidate(machine, config);
        let error = |(tag, error): (&str, &super::rule::RuleError)| TagError {
            tag: tag.to_owned(),
            error: error.to_string(),
        };
        Self {
            mac: machine.mac().to_string(),
            node: node.map(|node| node.name.to_string()),
            policy: node.and_then(|node| config.edits().policy_of(&node.name)),
            offer: outlook.offer(machine.mac()).map(|(_, offer)| offer),
            released: node.is_none() && machine.is_released,
            tags: examined.tags().map(str::to_owned).collect(),
            errors: examined.errors().map(error).collect(),
            port: examined.ports.shown().map(str::to_owned),
            serial: machine.serial().map(str::to_owned),
            product: words.map(|word| word.as_str()).collect::<Vec<_>>().join(" "),
            cores: cpu.cores,
            memory_bytes: *memory_bytes,
            first_seen_unix_ms: machine.first_seen_unix_ms,
            last_seen_unix_ms: machine.last_seen_unix_ms,
            check_ins: machine.check_ins,
        }
    }

    /// What it is, or would be: `node-107 (compute)`, `waits`, `waits (compute proposes node-107)`.
    fn state(&self) -> String {
        match (&self.node, &self.policy, &self.offer) {
            (Some(node), Some(policy), _) => format!("{node} ({policy})"),
            (Some(node), None, _) => node.clone(),
            (None, _, _) if self.released => "waits (was a node)".to_owned(),
            (None, _, Some(Offer { policy, node, approval: true })) => {
                format!("waits ({policy} proposes {node})")
            }
            (None, _, Some(Offer { policy, node, .. })) => format!("waits ({policy}: {node})"),
            (None, _, None) => "waits".to_owned(),
        }
    }

    /// Its tags and its port, if there are any.
    fn marks(&self) -> String {
        let errors = self.errors.iter().map(|error| format!("{}?", error.tag));
        let tags: Vec<_> = self.tags.iter().cloned().chain(errors).collect();
        let tags = if tags.is_empty() { String::new() } else { format!("  tags {}", tags.join(",")) };
        let port = self.port.as_ref().map(|port| format!("  port {port}"));
        tags + &port.unwrap_or_default()
    }
}

impl Explanation {
    /// What the policies of `config` say of one of these machines.
    pub fn of(machine: &Machine, machines: &[Machine], config: &Config) -> Self {
        let outlook = Outlook::of(machines, config);
        let node = node_of(config, &machine.facts).map(|node| node.name.clone());
        let candidate = outlook.candidate(machine, config).into_owned();
        let decided = outlook.0.get(&machine.mac());
        let verdicts = decided.map(|(_, decision)| decision.verdicts.clone()).unwrap_or_default();
        let policies =
            verdicts.into_iter().map(|(policy, verdict)| ExplainedPolicy { policy, verdict }).collect();
        let port = candidate.ports.shown().map(str::to_owned);
        let tags = config.policies.tags.iter().zip(candidate.tags).map(|(tag, (name, value))| ExplainedTag {
            tag: name,
            rule: tag.rule.to_string(),
            value,
        });
        Self {
            mac: machine.mac(),
            policy: node.as_ref().and_then(|node| config.edits().policy_of(node)),
            released: node.is_none() && machine.is_released,
            node,
            port,
            tags: tags.collect(),
            policies,
        }
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.node, &self.policy) {
            (Some(node), Some(policy)) => {
                writeln!(f, "{} is {node}, which policy {policy} has made", self.mac)?
            }
            (Some(node), None) => writeln!(f, "{} is {node}; no policy is asked", self.mac)?,
            (None, _) => writeln!(f, "{} is no node", self.mac)?,
        }
        if let Some(port) = &self.port {
            writeln!(f, "  port {port}")?;
        }
        for ExplainedTag { tag, rule, value } in &self.tags {
            writeln!(f, "  tag {tag}: {value}\n      {rule}")?;
        }
        for ExplainedPolicy { policy, verdict } in &self.policies {
            writeln!(f, "  policy {policy}: {verdict}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Listing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for row in &self.0 {
            let gib = row.memory_bytes as f64 / f64::from(1 << 30);
            writeln!(
                f,
                "{}  {}  serial {}  {}  {} cores  {gib:.0} GiB{}  {}",
                row.mac,
                row.state(),
                row.serial.as_deref().unwrap_or("-"),
                if row.product.is_empty() { "-" } else { &row.product },
                row.cores,
                row.marks(),
                utc(row.last_seen_unix_ms)
            )?;
        }
        Ok(())
    }
}
