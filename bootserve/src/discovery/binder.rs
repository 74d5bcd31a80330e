//! Check-ins become nodes here: those that wait are gathered and bound together, since each change of nodes is checked with the whole
//! configuration. One change for each policy, so that `bootserve node undo` takes back what one policy has done.
//!
//! Nobody waits long: who is not bound within [`PATIENCE`] is told to wait, and is a node when it checks in the next time. What is bound
//! is on the disk before anybody is told of it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bootspec::MacAddr;
use bootspec::event::Phase;
use futures_util::future::join_all;
use tokio::sync::{mpsc, oneshot};
use tokio::task::spawn_blocking;
use tracing::{error, info, warn};

use super::policy::{Candidate, Decision, Room, Verdict};
use super::{Machine, store};
use crate::config::Config;
use crate::database::DatabaseError;
use crate::edits::Operation;
use crate::edits::store::{Bound, bind};
use crate::events::{BootEvent, EventLog};
use crate::metrics::{Metrics, Ruling};
use crate::reload::InForce;

/// How many check-ins may wait; more of them are told to wait at once.
const MAX_WAITING: usize = 4096;
/// How many are bound together.
const MAX_GROUP: usize = 1024;
/// A hall that is switched on does not check in at one moment.
const GATHER: Duration = Duration::from_millis(50);
/// How long a check-in waits for its answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a change may take to be in force; with 10 000 nodes it takes a second.
const IN_FORCE: Duration = Duration::from_secs(10);
/// Machines of which it is known what was said of them last. Beyond that, some things are said twice.
const MAX_SAID: usize = 8192;

/// Where check-ins are bound.
#[derive(Debug)]
pub struct Binder {
    orders: mpsc::Sender<Order>,
}

struct Order {
    mac: MacAddr,
    done: oneshot::Sender<()>,
}

impl Binder {
    /// One with a task of its own, which ends with it.
    pub fn start(events: Arc<EventLog>, in_force: Arc<InForce>, metrics: Arc<Metrics>) -> Self {
        let (orders, taken) = mpsc::channel(MAX_WAITING);
        tokio::spawn(Work { events, in_force, metrics, said: HashMap::new() }.run(taken));
        Self { orders }
    }

    /// Has policies look at a machine that has checked in. It returns when they have and what they decided is in force, or when that
    /// takes too long.
    pub async fn bind(&self, mac: MacAddr) {
        let (done, decided) = oneshot::channel();
        // Where too many wait, it is looked at when it comes again.
        if self.orders.try_send(Order { mac, done }).is_ok() {
            // Whether it was bound, the configuration says.
            let _ = tokio::time::timeout(PATIENCE, decided).await;
        }
    }
}

struct Work {
    events: Arc<EventLog>,
    in_force: Arc<InForce>,
    metrics: Arc<Metrics>,
    /// What was last said of a machine that was not bound: it checks in again and again.
    said: HashMap<MacAddr, String>,
}

/// What policies make of machines that are no nodes.
struct Judged {
    /// What becomes of each, in the order of arrival.
    machines: Vec<(Candidate, Decision)>,
    /// Those that each policy binds, by its place in the file.
    bound: Vec<(usize, Vec<Candidate>)>,
}

impl Work {
    async fn run(mut self, mut taken: mpsc::Receiver<Order>) {
        let mut group = Vec::new();
        while taken.recv_many(&mut group, MAX_GROUP).await > 0 {
            tokio::time::sleep(GATHER).await;
            while group.len() < MAX_GROUP
                && let Ok(order) = taken.try_recv()
            {
                group.push(order);
            }
            let macs: Vec<_> = group.iter().map(|order: &Order| order.mac).collect();
            if let Err(error) = self.bind(&macs).await {
                error!(error = &error as &dyn std::error::Error, "cannot bind machines to policies");
            }
            for order in group.drain(..) {
                // Who went away meanwhile does not want to know.
                let _ = order.done.send(());
            }
        }
    }

    async fn bind(&mut self, macs: &[MacAddr]) -> Result<(), DatabaseError> {
        let config = Arc::clone(&self.events.served().config);
        let machines = store::machines_with(self.events.database(), macs).await?;
        let of = Arc::clone(&config);
        let judged = spawn_blocking(move || Judged::of(&of, &machines));
        let Judged { machines, bound } =
            judged.await.unwrap_or_else(|panicked| std::panic::resume_unwind(panicked.into_panic()));
        let mut made = Vec::new();
        for (policy, candidates) in bound {
            let policy = config.policies.policies[policy].name.clone();
            let operation = Operation::Bind { policy: policy.clone(), candidates: candidates.into() };
            match bind(self.events.database(), &config, &format!("policy {policy}"), &operation).await {
                Ok(bound) => made.extend(bound.into_iter().map(|bound| (bound, policy.clone()))),
                // Of one policy; the others go on.
                Err(error) => {
                    let error = &error as &dyn std::error::Error;
                    error!(policy, error, "a policy's nodes cannot be made");
                }
            }
        }
        self.tell_rulings(&machines).await;
        if let Some(revision) = made.iter().map(|(bound, _)| bound.revision).max() {
            let in_force = self.in_force.wait_for(revision);
            if tokio::time::timeout(IN_FORCE, in_force).await.is_err() {
                warn!(revision, "what policies have bound is not in force yet");
            }
            self.tell_bound(made).await;
        }
        Ok(())
    }

    async fn tell_bound(&mut self, made: Vec<(Bound, String)>) {
        let mut events = Vec::new();
        for (Bound { revision, mac, node }, policy) in made {
            self.said.remove(&mac);
            self.metrics.ruled(Ruling::Bound);
            info!(%mac, %node, policy, revision, "a policy has made a node of a machine");
            events.push((mac, format!("policy {policy} has made it {node}")));
        }
        self.note(events).await;
    }

    /// What keeps machines from becoming nodes, unless it was said before.
    async fn tell_rulings(&mut self, machines: &[(Candidate, Decision)]) {
        let mut events = Vec::new();
        for (candidate, decision) in machines {
            let mac = candidate.mac;
            let (ruling, said) = said_of(candidate, decision);
            if said.is_empty() {
                self.said.remove(&mac);
                continue;
            }
            if self.said.len() >= MAX_SAID {
                self.said.clear();
            }
            if self.said.insert(mac, said.clone()).as_ref() == Some(&said) {
                continue;
            }
            self.metrics.ruled(ruling);
            match ruling {
                Ruling::Bound | Ruling::Proposed => info!(%mac, said, "policies"),
                Ruling::RuleError | Ruling::NoNameLeft => warn!(%mac, said, "policies"),
            }
            events.push((mac, said));
        }
        self.note(events).await;
    }

    /// Events of machines that are known; whoever invents machines fills no disk.
    async fn note(&self, events: Vec<(MacAddr, String)>) {
        let notes = events.into_iter().map(async |(mac, message)| match self.events.knows(mac).await {
            Ok(true) => {
                let message = Some(message);
                self.events.note(BootEvent { message, ..BootEvent::now(mac, Phase::Policy) }).await;
            }
            Ok(false) => {}
            Err(error) => warn!(error = &error as &dyn std::error::Error, "boot event lost"),
        });
        join_all(notes).await;
    }
}

/// What is worth an event, and of what kind it is; nothing of a machine that no policy has an eye on.
fn said_of(candidate: &Candidate, decision: &Decision) -> (Ruling, String) {
    let mut ruling = Ruling::Proposed;
    let mut said = Vec::new();
    for (policy, verdict) in &decision.verdicts {
        match verdict {
            Verdict::Proposes { .. } => {
                said.push(format!(
                    "policy {policy} proposes a node: bootserve machine approve {}",
                    candidate.mac
                ));
            }
            Verdict::NoNameLeft => {
                ruling = Ruling::NoNameLeft;
                said.push(format!("policy {policy}: {verdict}"));
            }
            _ => {}
        }
    }
    for (tag, error) in candidate.errors() {
        ruling = Ruling::RuleError;
        said.push(format!("tag {tag}: {error}"));
    }
    (ruling, said.join("; "))
}

impl Judged {
    fn of(config: &Config, machines: &[Machine]) -> Self {
        let mut room = Room::of(config);
        let mut judged = Self { machines: Vec::new(), bound: Vec::new() };
        let count = config.policies.policies.len();
        let mut bound: Vec<Vec<Candidate>> = vec![Vec::new(); count];
        for machine in machines {
            let candidate = machine.examined_by(&config.policies);
            if candidate.node_in(config).is_some() {
                continue;
            }
            let decision = room.decide(&candidate);
            if let Some(choice) = decision.choice.filter(|choice| !choice.is_proposal) {
                room.take(choice);
                bound[choice.policy].push(candidate.clone());
            }
            judged.machines.push((candidate, decision));
        }
        judged.bound = bound.into_iter().enumerate().filter(|(_, machines)| !machines.is_empty()).collect();
        judged
    }
}
