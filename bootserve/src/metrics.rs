//! What is counted, for Prometheus: the text of `GET /metrics` (OpenMetrics 1.0).

use std::collections::BTreeMap;
use std::fmt;

use bootspec::event::Phase;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use crate::dhcp::ignored::Ignored;
use crate::dns::answer::Outcome;
use crate::http::HANDED_OUT;
use crate::secrets::Refusal;
use crate::status::State;
use crate::status::course::{BootEnd, Change};

/// One label.
type Label = [(&'static str, String); 1];

/// What becomes of a configuration that is read again.
const RELOAD_ENDS: [&str; 2] = ["refused", "done"];

/// Upper bounds of how long phases take, in seconds: from a kernel that is sent at once to a system that takes ten minutes.
const PHASE_SECONDS: [f64; 11] = [0.1, 0.3, 1.0, 3.0, 10.0, 20.0, 40.0, 80.0, 160.0, 320.0, 640.0];

/// All counters.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    dhcp_packets: Family<Label, Counter>,
    dhcp_ignored: Family<Label, Counter>,
    dhcp_replies: Family<Label, Counter>,
    dhcp_conflicts: Family<Label, Counter>,
    dhcp_other_servers: Counter,
    tftp_requests: Family<Label, Counter>,
    http_responses: Family<Label, Counter>,
    dns_queries: Family<Label, Counter>,
    reloads: Family<Label, Counter>,
    secrets: Family<Label, Counter>,
    rulings: Family<Label, Counter>,
    nodes: Family<Label, Gauge>,
    states: Family<Label, Gauge>,
    boots: Family<Label, Counter>,
    phases: Family<Label, Histogram>,
    downloads: Gauge,
    event_streams: Gauge,
    leases: Gauge,
}

/// What is counted when it is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Present {
    /// How many nodes are in which phase; none: nothing is known of them.
    pub phases: BTreeMap<Option<Phase>, i64>,
    /// How many nodes do how.
    pub states: BTreeMap<State, usize>,
    /// How many leases there are.
    pub leases: usize,
    /// How many downloads go on.
    pub downloads: usize,
    /// How many read the stream of events.
    pub event_streams: usize,
}

/// Who found that an address is in use by a machine that was not given it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FoundBy {
    /// The client that was given it.
    Decline,
    /// We, before it was offered.
    Probe,
}

/// What policies have said of a machine that has checked in, if it is not what they said before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ruling {
    /// It was made a node.
    Bound,
    /// It may become one if somebody approves.
    Proposed,
    /// A rule cannot be answered.
    RuleError,
    /// A policy would have it and has no name left.
    NoNameLeft,
}

impl Ruling {
    const ALL: [Self; 4] = [Self::Bound, Self::Proposed, Self::RuleError, Self::NoNameLeft];

    fn word(self) -> &'static str {
        match self {
            Self::Bound => "bound",
            Self::Proposed => "proposed",
            Self::RuleError => "rule_error",
            Self::NoNameLeft => "no_name_left",
        }
    }
}

/// How a TFTP request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TftpEnd {
    /// The client has the file.
    Sent,
    /// The client only wanted to know its length.
    Probe,
    /// The same client asked again.
    Superseded,
    /// The client went away, or gave up.
    Failed,
    /// It was answered with an error.
    Refused,
    /// There were too many.
    Dropped,
}

impl Metrics {
    /// All at zero.
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("bootserve");
        registry.register("build", "The program", Info::new([("version", env!("CARGO_PKG_VERSION"))]));
        let mut counters = |name: &str, help: &str| {
            let counters = Family::<Label, Counter>::default();
            registry.register(name, help, counters.clone());
            counters
        };
        let dhcp_packets = counters("dhcp_packets", "DHCP packets received, by port");
        let dhcp_ignored = counters("dhcp_ignored", "DHCP packets without an answer, by reason");
        let dhcp_replies = counters("dhcp_replies", "DHCP packets sent, by port");
        let dhcp_conflicts = counters(
            "dhcp_conflicts",
            "Addresses in use by a machine that was not given them, by who found it",
        );
        let tftp_requests = counters("tftp_requests", "TFTP requests, by how they ended");
        let http_responses = counters("http_responses", "HTTP requests answered, by status");
        let dns_queries = counters("dns_queries", "DNS queries, by what became of them");
        let reloads = counters("reloads", "How often the configuration was read again, by what became of it");
        let secrets = counters("secrets", "Requests for secrets of nodes, by what became of them");
        let rulings = counters("policy_rulings", "What policies have said of machines, by what it was");
        let (nodes, leases) = (Family::default(), Gauge::default());
        registry.register("nodes", "Nodes of the configuration, by newest phase", nodes.clone());
        let (states, downloads, event_streams) = (Family::default(), Gauge::default(), Gauge::default());
        registry.register("node_states", "Nodes and machines with leases, by how they do", states.clone());
        registry.register("downloads", "Downloads of images that go on", downloads.clone());
        registry.register("event_streams", "Who reads the stream of events", event_streams.clone());
        let boots = Family::default();
        registry.register("boots", "Boots, by how they ended", boots.clone());
        let phases = Family::new_with_constructor((|| Histogram::new(PHASE_SECONDS)) as fn() -> Histogram);
        let help = "How long phases of boots took, from their beginning to the next";
        registry.register_with_unit("phase_duration", help, Unit::Seconds, phases.clone());
        registry.register("leases", "Leases that have not run out", leases.clone());
        let dhcp_other_servers = Counter::default();
        let help = "Other DHCP servers that clients on our wire talked to";
        registry.register("dhcp_other_servers", help, dhcp_other_servers.clone());
        // A reason that has not occurred yet is there all the same: rate() needs a beginning.
        for reason in Ignored::REASONS {
            drop(dhcp_ignored.get_or_create(&label("reason", reason)));
        }
        for (_, outcome) in Outcome::ALL {
            drop(dns_queries.get_or_create(&label("outcome", outcome)));
        }
        for end in RELOAD_ENDS {
            drop(reloads.get_or_create(&label("end", end)));
        }
        for result in [HANDED_OUT].into_iter().chain(Refusal::WORDS) {
            drop(secrets.get_or_create(&label("result", result)));
        }
        for ruling in Ruling::ALL {
            drop(rulings.get_or_create(&label("ruling", ruling.word())));
        }
        for end in BootEnd::ALL {
            drop(boots.get_or_create(&label("result", end.word())));
        }
        for found_by in [FoundBy::Decline, FoundBy::Probe] {
            drop(dhcp_conflicts.get_or_create(&found_by.label()));
        }
        Self {
            registry,
            dhcp_packets,
            dhcp_ignored,
            dhcp_replies,
            dhcp_conflicts,
            dhcp_other_servers,
            tftp_requests,
            http_responses,
            dns_queries,
            reloads,
            secrets,
            rulings,
            nodes,
            states,
            boots,
            phases,
            downloads,
            event_streams,
            leases,
        }
    }

    /// Counts what an event of a machine has brought to an end.
    pub fn boot_went_on(&self, change: Change) {
        if let Some((phase, lasted)) = change.phase {
            self.phases.get_or_create(&label("phase", phase)).observe(lasted.as_secs_f64());
        }
        if let Some(end) = change.boot {
            self.boots.get_or_create(&label("result", end.word())).inc();
        }
    }

    /// Counts a request for a node's secrets or its credential.
    pub fn secrets_asked(&self, result: &str) {
        self.secrets.get_or_create(&label("result", result)).inc();
    }

    /// Counts a packet that came to `port`.
    pub fn dhcp_received(&self, port: u16) {
        self.dhcp_packets.get_or_create(&label("port", port)).inc();
    }

    /// Counts one that gets no answer.
    pub fn dhcp_ignored(&self, reason: &Ignored) {
        self.dhcp_ignored.get_or_create(&label("reason", reason.reason())).inc();
        if let Ignored::OtherServer { is_new: true, .. } = reason {
            self.dhcp_other_servers.inc();
        }
    }

    /// Counts an address that is in use by a machine that was not given it.
    pub fn dhcp_conflict(&self, found_by: FoundBy) {
        self.dhcp_conflicts.get_or_create(&found_by.label()).inc();
    }

    /// Counts a reply from `port`.
    pub fn dhcp_replied(&self, port: u16) {
        self.dhcp_replies.get_or_create(&label("port", port)).inc();
    }

    /// Counts a TFTP request.
    pub fn tftp_ended(&self, end: TftpEnd) {
        self.tftp_requests.get_or_create(&label("end", format!("{end:?}").to_lowercase())).inc();
    }

    /// Counts an HTTP response.
    pub fn http_responded(&self, status: u16) {
        self.http_responses.get_or_create(&label("status", status)).inc();
    }

    /// Counts a DNS query.
    pub fn dns_answered(&self, outcome: Outcome) {
        self.dns_queries.get_or_create(&label("outcome", outcome.word())).inc();
    }

    /// Counts a configuration that was put in force, or was not.
    pub fn reloaded(&self, in_force: bool) {
        self.reloads.get_or_create(&label("end", RELOAD_ENDS[usize::from(in_force)])).inc();
    }

    /// Counts what policies have said of a machine.
    pub fn ruled(&self, ruling: Ruling) {
        self.rulings.get_or_create(&label("ruling", ruling.word())).inc();
    }

    /// The text, with what there is at present.
    pub fn text(&self, present: &Present) -> Result<String, fmt::Error> {
        self.nodes.clear();
        for (phase, count) in &present.phases {
            let phase = phase.map_or_else(|| "none".to_owned(), |phase| phase.to_string());
            self.nodes.get_or_create(&label("phase", phase)).set(*count);
        }
        for state in State::ALL {
            let count = present.states.get(&state).copied().unwrap_or(0);
            self.states.get_or_create(&label("state", state.word())).set(gauge(count));
        }
        self.downloads.set(gauge(present.downloads));
        self.event_streams.set(gauge(present.event_streams));
        self.leases.set(gauge(present.leases));
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

fn gauge(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl FoundBy {
    fn label(self) -> Label {
        label("found_by", format!("{self:?}").to_lowercase())
    }
}

fn label(name: &'static str, value: impl ToString) -> Label {
    [(name, value.to_string())]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_counted_is_in_the_text_and_so_is_what_has_not_happened() {
        let metrics = Metrics::new();
        metrics.dhcp_received(67);
        metrics.dhcp_received(67);
        metrics.dhcp_ignored(&Ignored::Off);
        let mac = bootspec::MacAddr::new([2, 0, 0, 0, 0, 1]);
        for is_new in [true, false] {
            metrics.dhcp_ignored(&Ignored::OtherServer { mac, server: [10, 0, 0, 9].into(), is_new });
        }
        metrics.dhcp_conflict(FoundBy::Probe);
        metrics.tftp_ended(TftpEnd::Sent);
        metrics.http_responded(404);
        metrics.dns_answered(Outcome::NoName);
        let lasted = std::time::Duration::from_secs(2);
        let boot = Some(BootEnd::Ready);
        metrics.boot_went_on(Change { phase: Some((Phase::Kernel, lasted)), boot, ..Change::default() });
        let present = Present {
            phases: BTreeMap::from([(None, 3), (Some(Phase::Ready), 2)]),
            states: BTreeMap::from([(State::Stuck, 3)]),
            leases: 7,
            downloads: 4,
            event_streams: 1,
        };
        let text = metrics.text(&present).unwrap();
        for line in [
            "bootserve_dhcp_packets_total{port=\"67\"} 2",
            "bootserve_dhcp_ignored_total{reason=\"off\"} 1",
            "bootserve_dhcp_ignored_total{reason=\"malformed\"} 0",
            "bootserve_dhcp_other_servers_total 1",
            "bootserve_dhcp_conflicts_total{found_by=\"probe\"} 1",
            "bootserve_dhcp_conflicts_total{found_by=\"decline\"} 0",
            "bootserve_tftp_requests_total{end=\"sent\"} 1",
            "bootserve_http_responses_total{status=\"404\"} 1",
            "bootserve_dns_queries_total{outcome=\"no-name\"} 1",
            "bootserve_dns_queries_total{outcome=\"forwarded\"} 0",
            "bootserve_nodes{phase=\"none\"} 3",
            "bootserve_nodes{phase=\"ready\"} 2",
            "bootserve_leases 7",
            "bootserve_node_states{state=\"stuck\"} 3",
            "bootserve_node_states{state=\"failed\"} 0",
            "bootserve_downloads 4",
            "bootserve_event_streams 1",
            "bootserve_boots_total{result=\"ready\"} 1",
            "bootserve_boots_total{result=\"failed\"} 0",
            "bootserve_phase_duration_seconds_bucket{le=\"1.0\",phase=\"kernel\"} 0",
            "bootserve_phase_duration_seconds_bucket{le=\"3.0\",phase=\"kernel\"} 1",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in {text}");
        }
        // A phase that no node is in any more is not told of.
        let later = metrics.text(&Present::default()).unwrap();
        assert!(!later.contains("phase=\"ready\""), "{later}");
    }
}
