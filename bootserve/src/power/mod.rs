//! Switches nodes on and off through their BMCs, many at a time. How it is used: `docs/power.md`.
//!
//! [`redfish`] and [`ipmi`] speak to one machine each; [`Action::change`] says, of what the machine is doing, what it is to be told.

pub mod ipmi;
mod outcome;
pub mod password;
pub mod redfish;

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::time::Duration;

use bootspec::store::NodeName;
use futures_util::StreamExt;
use futures_util::stream;
use serde::{Serialize, Serializer};
use tokio::time::{sleep, timeout};

use crate::config::bmc::{BmcAddress, Protocol};
use crate::config::{Bmc, Config, Node};
use crate::inventory::listing::{ListingError, names_of};
use ipmi::IpmiError;
pub use outcome::{Deed, Outcome};
use password::{Password, PasswordError};
use redfish::{Clients, RedfishError};

/// How often a machine is asked whether it has come where it was to go.
const POLL: Duration = Duration::from_secs(1);

/// What is wanted of nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// To be on.
    On,
    /// To be off, at once.
    Off,
    /// To be off, after their systems have shut down.
    Shutdown,
    /// To start anew, also those that are off.
    Cycle,
    /// To say whether they are on.
    Status,
}

/// What a machine is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Power on.
    On,
    /// Power off at once.
    Off,
    /// Shut the system down, then power off.
    Shutdown,
    /// Power off and on.
    Cycle,
}

/// Whether a machine is on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PowerState {
    /// It is.
    On,
    /// It is not.
    Off,
    /// Neither, in the BMC's words: `PoweringOn`.
    Other(String),
}

/// What is to be done, and how.
#[derive(Clone, Debug)]
pub struct Order {
    /// What.
    pub action: Action,
    /// So long the nodes have to come there; without it, nobody waits for them.
    pub wait: Option<Duration>,
    /// Ask alone, and change nothing.
    pub dry_run: bool,
    /// How many nodes at a time, at least one.
    pub parallel: usize,
}

/// Nodes that cannot be found.
#[derive(Debug, thiserror::Error)]
pub enum SelectError {
    /// The set cannot be read.
    #[error(transparent)]
    Listing(#[from] ListingError),
    /// A node is not there.
    #[error("there is no node {0}\nhint: bootserve node list")]
    NoNode(String),
    /// There is none.
    #[error("'{0}' is of no nodes")]
    Nobody(String),
}

/// A node was not switched.
#[derive(Debug, thiserror::Error)]
pub enum PowerError {
    /// It has no BMC.
    #[error(
        "has no BMC\nhint: bmc_address = \"ADDRESS\" in its [[node]], or bmc_addresses in its [[nodes]], and bmc = {{ user = …, password_file = … }}"
    )]
    NoBmc,
    /// Another node would be switched with it.
    #[error(
        "the BMC at {address} is that of {other}, too\nhint: bmc = {{ system = \"ID\" }} tells nodes with one BMC apart"
    )]
    Shared {
        /// Where.
        address: BmcAddress,
        /// Which other node.
        other: NodeName,
    },
    /// The password.
    #[error(transparent)]
    Password(#[from] PasswordError),
    /// By Redfish.
    #[error(transparent)]
    Redfish(#[from] RedfishError),
    /// By IPMI.
    #[error(transparent)]
    Ipmi(#[from] IpmiError),
    /// It does not come where it was to go.
    #[error("{sent} was sent, and after {} s it is {found}: expected {expected}\nhint: {}", wait.as_secs(), wait_hint(expected))]
    NotReached {
        /// What it was told.
        sent: String,
        /// How long was waited.
        wait: Duration,
        /// What it is.
        found: PowerState,
        /// What it was to be.
        expected: PowerState,
    },
}

fn wait_hint(expected: &PowerState) -> &'static str {
    match expected {
        PowerState::Off => "a system that does not listen is switched off without --soft",
        _ => "the BMC's log may say what holds it up; --wait=SECONDS waits longer",
    }
}

/// The nodes that are named by names, MAC addresses or a set, each once, in that order.
pub fn select<'a>(config: &'a Config, text: &str) -> Result<Vec<&'a Node>, SelectError> {
    let find = |name: String| {
        let by_mac = || config.node(name.parse().ok()?);
        config.node_named(&name).or_else(by_mac).ok_or(SelectError::NoNode(name.clone()))
    };
    let mut nodes = names_of(config, text)?.into_iter().map(find).collect::<Result<Vec<_>, _>>()?;
    let mut seen = HashSet::new();
    nodes.retain(|node| seen.insert(&node.name));
    if nodes.is_empty() { Err(SelectError::Nobody(text.to_owned())) } else { Ok(nodes) }
}

/// Does it for all of the nodes, some at a time. `tell` hears of each when it is done; what is returned is in the order of `nodes`.
pub async fn perform(
    config: &Config,
    nodes: &[&Node],
    order: &Order,
    mut tell: impl FnMut(&Outcome),
) -> Vec<Outcome> {
    let (mut clients, owners) = (Clients::default(), owners(config));
    let prepared: Vec<_> = nodes.iter().map(|node| prepare(node, &owners, &mut clients)).collect();
    let tasks = nodes.iter().zip(prepared).enumerate().map(|(index, (node, access))| async move {
        let result = match access {
            Ok(access) => switch(access, order).await,
            Err(error) => Err(error),
        };
        (index, Outcome::of(node, order, result))
    });
    let mut outcomes = Vec::new();
    let mut tasks = stream::iter(tasks).buffer_unordered(order.parallel.max(1));
    while let Some((index, outcome)) = tasks.next().await {
        tell(&outcome);
        outcomes.push((index, outcome));
    }
    outcomes.sort_by_key(|(index, _)| *index);
    outcomes.into_iter().map(|(_, outcome)| outcome).collect()
}

/// A machine as its BMC knows it.
type Identity<'a> = (&'a BmcAddress, Option<&'a str>);

fn identity(bmc: &Bmc) -> Identity<'_> {
    (&bmc.address, bmc.system.as_deref())
}

/// The nodes of each machine; more than one is a slip.
fn owners(config: &Config) -> HashMap<Identity<'_>, Vec<&NodeName>> {
    let mut owners: HashMap<_, Vec<_>> = HashMap::new();
    for node in config.nodes() {
        if let Some(bmc) = &node.bmc {
            owners.entry(identity(bmc)).or_default().push(&node.name);
        }
    }
    owners
}

/// What it takes to speak to a node's BMC.
struct Access<'a> {
    bmc: &'a Bmc,
    password: Password,
    client: Option<reqwest::Client>,
}

fn prepare<'a>(
    node: &'a Node,
    owners: &HashMap<Identity<'_>, Vec<&NodeName>>,
    clients: &mut Clients,
) -> Result<Access<'a>, PowerError> {
    let bmc = node.bmc.as_ref().ok_or(PowerError::NoBmc)?;
    let mut of_bmc = owners.get(&identity(bmc)).into_iter().flatten();
    if let Some(other) = of_bmc.find(|other| **other != &node.name) {
        return Err(PowerError::Shared { address: bmc.address.clone(), other: (*other).clone() });
    }
    let password = Password::read(&bmc.password_file)?;
    let client = match bmc.protocol {
        Protocol::Redfish => Some(clients.client(&bmc.trust)?),
        Protocol::Ipmi => None,
    };
    Ok(Access { bmc, password, client })
}

/// A machine, by the language of its BMC.
enum Machine<'a> {
    Redfish(redfish::Machine<'a>),
    Ipmi(ipmi::Machine<'a>),
}

/// What is sent to a machine.
enum Command {
    Redfish(redfish::Plan),
    Ipmi(Change),
}

impl Machine<'_> {
    async fn state(&self) -> Result<PowerState, PowerError> {
        Ok(match self {
            Self::Redfish(machine) => machine.state().await?,
            Self::Ipmi(machine) => machine.state().await?,
        })
    }

    async fn plan(&self, change: Change) -> Result<Command, PowerError> {
        Ok(match self {
            Self::Redfish(machine) => Command::Redfish(machine.plan(change).await?),
            Self::Ipmi(_) => Command::Ipmi(change),
        })
    }

    async fn carry_out(&self, command: &Command) -> Result<(), PowerError> {
        match (self, command) {
            (Self::Redfish(machine), Command::Redfish(plan)) => machine.carry_out(plan).await?,
            (Self::Ipmi(machine), Command::Ipmi(change)) => machine.carry_out(*change).await?,
            // `plan` makes none for another language.
            (Self::Redfish(_), Command::Ipmi(_)) | (Self::Ipmi(_), Command::Redfish(_)) => {}
        }
        Ok(())
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Redfish(plan) => f.write_str(&plan.reset_type),
            Self::Ipmi(change) => f.write_str(ipmi::command(*change)),
        }
    }
}

async fn switch(access: Access<'_>, order: &Order) -> Result<(PowerState, Deed), PowerError> {
    let Access { bmc, password, client } = &access;
    let machine = match client {
        Some(client) => Machine::Redfish(redfish::Machine::find(client.clone(), bmc, password).await?),
        None => Machine::Ipmi(ipmi::Machine { bmc, password }),
    };
    let before = machine.state().await?;
    let Some(change) = order.action.change(&before) else { return Ok((before, Deed::Nothing)) };
    let command = machine.plan(change).await?;
    let sent = command.to_string();
    if order.dry_run {
        return Ok((before, Deed::WouldSend(sent)));
    }
    machine.carry_out(&command).await?;
    match order.wait {
        Some(wait) => Ok((reach(&machine, change.leads_to(), wait, &sent).await?, Deed::Reached(sent))),
        None => Ok((before, Deed::Sent(sent))),
    }
}

/// Waits until the machine is in the state.
async fn reach(
    machine: &Machine<'_>,
    expected: PowerState,
    wait: Duration,
    sent: &str,
) -> Result<PowerState, PowerError> {
    let mut found = PowerState::Other("not asked".to_owned());
    let polled = timeout(wait, async {
        while found != expected {
            sleep(POLL).await;
            found = machine.state().await?;
        }
        Ok(())
    });
    match polled.await {
        Ok(polled) => polled.map(|()| expected),
        Err(_) => Err(PowerError::NotReached { sent: sent.to_owned(), wait, found, expected }),
    }
}

impl Action {
    /// What a machine in this state is told; nothing if it is as it should be.
    pub fn change(self, state: &PowerState) -> Option<Change> {
        match (self, state) {
            (Self::Status, _) | (Self::On, PowerState::On) => None,
            (Self::Off | Self::Shutdown, PowerState::Off) => None,
            // What is off cannot be cycled; some BMCs refuse it, others do nothing.
            (Self::On, _) | (Self::Cycle, PowerState::Off) => Some(Change::On),
            (Self::Off, _) => Some(Change::Off),
            (Self::Shutdown, _) => Some(Change::Shutdown),
            (Self::Cycle, _) => Some(Change::Cycle),
        }
    }
}

impl Change {
    fn leads_to(self) -> PowerState {
        match self {
            Self::On | Self::Cycle => PowerState::On,
            Self::Off | Self::Shutdown => PowerState::Off,
        }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::On => "on",
            Self::Off => "off",
            Self::Shutdown => "off by a shutdown",
            Self::Cycle => "off and on",
        })
    }
}

impl fmt::Display for PowerState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::On => "on",
            Self::Off => "off",
            Self::Other(state) => state,
        })
    }
}

impl Serialize for PowerState {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_is_told_what_it_takes_and_nothing_else() {
        let [on, off, other] = [PowerState::On, PowerState::Off, PowerState::Other("PoweringOn".into())];
        for (action, when_on, when_off, else_) in [
            (Action::On, None, Some(Change::On), Some(Change::On)),
            (Action::Off, Some(Change::Off), None, Some(Change::Off)),
            (Action::Shutdown, Some(Change::Shutdown), None, Some(Change::Shutdown)),
            (Action::Cycle, Some(Change::Cycle), Some(Change::On), Some(Change::Cycle)),
            (Action::Status, None, None, None),
        ] {
            let changes = [&on, &off, &other].map(|state| action.change(state));
            assert_eq!(changes, [when_on, when_off, else_], "{action:?}");
        }
    }
}
