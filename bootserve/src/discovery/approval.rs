//! Machines that somebody names, and what a policy proposes for one, which somebody takes.

use bootspec::MacAddr;
use bootspec::store::NodeName;

use super::listing::Outlook;
use super::policy::Candidate;
use super::{Machine, node_of};
use crate::config::Config;
use crate::edits::Operation;

/// A name is not that of one machine.
#[derive(Debug, thiserror::Error)]
pub enum FindError {
    /// It is none's.
    #[error("no machine {0:?} has checked in\nhint: bootserve machine list --all")]
    Unknown(String),
    /// Several share a serial number or UUID.
    #[error("{name:?} is {first} and {other}\nhint: name one by its MAC address")]
    Ambiguous {
        /// The name.
        name: String,
        /// One of them.
        first: MacAddr,
        /// Another one.
        other: MacAddr,
    },
}

/// A machine cannot be made what a policy proposes.
#[derive(Debug, thiserror::Error)]
pub enum ApprovalError {
    /// It is a node.
    #[error("{mac} is {node} already")]
    IsNode {
        /// The machine.
        mac: MacAddr,
        /// The node.
        node: NodeName,
    },
    /// None proposes anything.
    #[error(
        "no policy proposes a node for {0}\nhint: bootserve machine explain {0}, or name a node and its address"
    )]
    NoProposal(MacAddr),
    /// The proposal is not the one that was looked at.
    #[error(
        "policy {policy} proposes {proposed} for {mac}, not {expected}\nhint: look again, and approve that"
    )]
    OtherNode {
        /// The machine.
        mac: MacAddr,
        /// The policy.
        policy: String,
        /// What it proposes now.
        proposed: NodeName,
        /// What was to be approved.
        expected: NodeName,
    },
}

/// The one machine that is called `name`, by its MAC address, serial number or UUID.
pub fn find<'a>(machines: &'a [Machine], name: &str) -> Result<&'a Machine, FindError> {
    let mut found = machines.iter().filter(|machine| machine.is_called(name));
    let first = found.next().ok_or_else(|| FindError::Unknown(name.to_owned()))?;
    match found.next() {
        Some(other) => {
            Err(FindError::Ambiguous { name: name.to_owned(), first: first.mac(), other: other.mac() })
        }
        None => Ok(first),
    }
}

/// The change that makes the machine, one of `machines`, the node that a policy proposes. If a node is `expected`, it must be that one.
pub fn approval(
    machine: &Machine,
    machines: &[Machine],
    config: &Config,
    expected: Option<&NodeName>,
) -> Result<Operation, ApprovalError> {
    let mac = machine.mac();
    if let Some(node) = node_of(config, &machine.facts) {
        return Err(ApprovalError::IsNode { mac, node: node.name.clone() });
    }
    let outlook = Outlook::of(machines, config);
    let (candidate, offer) = outlook.offer(mac).ok_or(ApprovalError::NoProposal(mac))?;
    if let Some(expected) = expected.filter(|expected| **expected != offer.node) {
        let (policy, proposed, expected) = (offer.policy, offer.node, expected.clone());
        return Err(ApprovalError::OtherNode { mac, policy, proposed, expected });
    }
    let candidate = Candidate { approved: Some(offer.node), ..candidate.clone() };
    Ok(Operation::Bind { policy: offer.policy, candidates: [candidate].into() })
}
