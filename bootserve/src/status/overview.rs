//! Whose status is told: every configured node, and every machine that has had a lease.

use std::collections::{BTreeMap, HashMap};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use bootspec::MacAddr;
use bootspec::event::BootId;

use super::course::{Course, Courses};
use super::{Evidence, NodeStatus, Overview, Verdict, judge};
use crate::config::{Config, Node};
use crate::dhcp::leases::Lease;
use crate::http::transfers::{Progress, Transfer, TransferEnd};

/// What the status of all nodes is told from.
#[derive(Debug)]
pub struct Seen<'a> {
    /// Who there is.
    pub config: &'a Config,
    /// Which machines have addresses besides.
    pub leases: &'a [Lease],
    /// What became of them.
    pub courses: &'a Courses,
    /// The newest download of each address.
    pub transfers: HashMap<Ipv4Addr, Arc<Transfer>>,
    /// How many are let in to download before each that waits.
    pub waiting: HashMap<Ipv4Addr, usize>,
}

/// A machine and what it is.
struct Machine<'a> {
    mac: Option<MacAddr>,
    address: Ipv4Addr,
    node: Option<&'a Node>,
}

/// How all of them do at `now`.
pub fn overview(seen: &Seen<'_>, now: SystemTime) -> Overview {
    let by_boot = seen.transfers.values().filter_map(|transfer| Some((transfer.boot?, transfer))).collect();
    let nodes = machines(seen).into_iter().map(|machine| node_status(seen, &by_boot, &machine, now));
    Overview::new(nodes.collect(), now)
}

fn machines<'a>(seen: &Seen<'a>) -> Vec<Machine<'a>> {
    let config = seen.config;
    let mut known: BTreeMap<MacAddr, Machine<'a>> = BTreeMap::new();
    for Lease { mac, address, .. } in seen.leases {
        let machine = Machine { mac: Some(*mac), address: *address, node: config.node(*mac) };
        known.insert(*mac, machine);
    }
    let mut unseen = Vec::new();
    for node in config.nodes() {
        let mac = config.mac_of(node);
        // One that is in another network has the address of its lease.
        let leased = mac.and_then(|mac| known.get(&mac)).map(|machine| machine.address);
        let machine = Machine { mac, address: leased.unwrap_or(node.address), node: Some(node) };
        match mac {
            Some(mac) => drop(known.insert(mac, machine)),
            None => unseen.push(machine),
        }
    }
    known.into_values().chain(unseen).collect()
}

fn node_status(
    seen: &Seen<'_>,
    by_boot: &HashMap<BootId, &Arc<Transfer>>,
    machine: &Machine<'_>,
    now: SystemTime,
) -> NodeStatus {
    let nothing = Course::default();
    let course = machine.mac.and_then(|mac| seen.courses.get(&mac)).unwrap_or(&nothing);
    let transfer = course.boot.and_then(|boot| by_boot.get(&boot).copied());
    let transfer = transfer.or_else(|| seen.transfers.get(&machine.address));
    let progress = transfer.filter(|transfer| is_of(transfer, course)).map(|it| it.progress(Instant::now()));
    let waits_behind = seen.waiting.get(&machine.address).copied();
    let Verdict { state, what } = judge(Evidence { course, progress: progress.as_ref(), waits_behind, now });
    let image = machine.node.map(|node| &node.image).or(seen.config.boot.default_image.as_ref());
    let newest = course.newest();
    NodeStatus {
        name: machine.node.map(|node| node.name.clone()),
        mac: machine.mac,
        address: machine.address,
        state,
        what,
        phase: newest.map(|step| step.phase),
        since_unix_ms: since(course),
        attempts: course.attempts,
        image: course.image.as_ref().map(ToString::to_string).or(image.map(ToString::to_string)),
        mode: course.mode,
        boot: course.boot,
        download: progress.as_ref().filter(|progress| is_unfinished(progress)).map(Into::into),
        error: course.problem.clone(),
        timeline: course.steps.clone(),
    }
}

/// Whether a download belongs to the machine's newest boot and is newer than its newest step: what a step has completed, or
/// what was before it, is told by the step.
fn is_of(transfer: &Transfer, course: &Course) -> bool {
    let is_other_boot = transfer.boot.is_some() && transfer.boot != course.boot;
    let began_unix_ms = crate::timestamp::unix_ms(transfer.began);
    !is_other_boot && course.newest().is_some_and(|step| step.time_unix_ms <= began_unix_ms)
}

fn is_unfinished(progress: &Progress) -> bool {
    progress.end != Some(TransferEnd::Complete)
}

/// When the machine came to where it is.
fn since(course: &Course) -> Option<i64> {
    let stopped = course.problem.as_ref().filter(|_| course.is_stopped).map(|problem| problem.time_unix_ms);
    stopped.or(course.newest().map(|step| step.time_unix_ms))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::BootEvent;
    use crate::http::transfers::{Transfers, Wanted};
    use crate::status::State;
    use bootspec::event::Phase;

    #[test]
    fn nodes_and_leased_machines_are_listed_and_those_that_are_stuck_come_first() {
        let text = include_str!("../../bootserve.example.toml");
        let config = Config::parse(text).unwrap();
        let mac = |last| MacAddr::new([2, 0, 0, 0, 0, last]);
        let expires = SystemTime::now();
        let lease = Lease { mac: mac(1), address: [192, 168, 0, 200].into(), expires };
        let mut courses = Courses::new();
        let refused = BootEvent {
            message: Some("it is not configured".to_owned()),
            ..BootEvent::now(mac(1), Phase::Refused)
        };
        courses.entry(mac(1)).or_default().add(&refused);
        let node_001 = config.mac_of(&config.nodes()[1]).unwrap();
        courses.entry(node_001).or_default().add(&BootEvent::now(node_001, Phase::Script));
        let transfers = Transfers::default();
        let wanted =
            Wanted { file: "vmlinuz".to_owned(), size_bytes: 200, boot: None, first: 0, wanted_bytes: 200 };
        let under_way = transfers.begin(config.nodes()[1].address, wanted, Instant::now());
        under_way.transfer().sent(50);
        let seen = Seen {
            config: &config,
            leases: &[lease],
            courses: &courses,
            transfers: transfers.newest(),
            waiting: HashMap::new(),
        };
        let found = overview(&seen, SystemTime::now());
        let listed: Vec<_> = found.nodes.iter().map(|node| (node.label(), node.state)).collect();
        let expected =
            [("02:00:00:00:00:01", State::Stuck), ("node-001", State::Booting), ("node-000", State::Unseen)];
        assert_eq!(listed, expected.map(|(label, state)| (label.to_owned(), state)));
        assert_eq!(found.nodes[0].what, "it is not configured");
        assert_eq!(found.nodes[1].download.as_ref().unwrap().percent, 25);
        assert_eq!(found.summary[&State::Stuck], 1);
        let json = serde_json::to_string(&found).unwrap();
        assert_eq!(serde_json::from_str::<Overview>(&json).unwrap(), found);
    }
}
