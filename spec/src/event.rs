//! What a node tells bootserve about its boot.
//!
//! Init notes when each phase began; once the network is up, `bootnode-report` posts the list to
//! [`EVENTS_PATH`] below the URL of `bootnode.report=`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::console::Console;
use crate::mac::MacAddr;
use crate::store::{ImageRef, NodeName};

/// Path below the report URL to which a node posts a [`Report`] as JSON.
pub const EVENTS_PATH: &str = "/v1/events";
/// A longer body is refused unread.
pub const MAX_REPORT_BYTES: usize = 64 * 1024;
const MAX_EVENTS: usize = 64;
/// A longer message of an event is refused.
pub const MAX_MESSAGE_BYTES: usize = 1024;

/// How far a boot has come. The order is the order in time, but for [`Self::Refused`] and [`Self::Policy`], which can
/// come at any time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// bootserve could not give the machine what it asked for; the message says what and why. No step of a boot.
    Refused,
    /// A policy of bootserve's said something of the machine, which the message has. No step of a boot.
    Policy,
    /// bootserve acknowledged an address.
    Dhcp,
    /// bootserve sent a network boot program.
    Nbp,
    /// bootserve rendered the iPXE script.
    Script,
    /// bootserve sent the kernel.
    Kernel,
    /// bootserve sent the initramfs.
    Initramfs,
    /// Init is running.
    Init,
    /// Init brings the network up.
    Network,
    /// Init unpacks the root file system, fetching it meanwhile if it is fetched.
    Unpack,
    /// The root is complete; init hands over to the image's own init.
    SwitchRoot,
    /// The system is up.
    Ready,
    /// The boot ended in an error; the message says which.
    Failed,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Refused => "refused",
            Self::Policy => "policy",
            Self::Dhcp => "dhcp",
            Self::Nbp => "nbp",
            Self::Script => "script",
            Self::Kernel => "kernel",
            Self::Initramfs => "initramfs",
            Self::Init => "init",
            Self::Network => "network",
            Self::Unpack => "unpack",
            Self::SwitchRoot => "switch-root",
            Self::Ready => "ready",
            Self::Failed => "failed",
        })
    }
}

/// Identifies one boot of one node, so that events of different boots are told apart: 16 hexadecimal digits,
/// chosen by bootserve when it renders the script.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct BootId(u64);

/// The text is not a boot id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a boot id: expected 16 hexadecimal digits")]
pub struct ParseBootIdError(String);

impl BootId {
    /// A boot id from a random number.
    pub const fn new(random: u64) -> Self {
        Self(random)
    }
}

impl FromStr for BootId {
    type Err = ParseBootIdError;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let mut bytes = [0; 8];
        hex::decode_to_slice(s, &mut bytes).map_err(|_| ParseBootIdError(s.to_owned()))?;
        Ok(Self(u64::from_be_bytes(bytes)))
    }
}

impl TryFrom<String> for BootId {
    type Error = ParseBootIdError;

    fn try_from(s: String) -> Result<Self, Self::Error> {
        s.parse()
    }
}

impl From<BootId> for String {
    fn from(id: BootId) -> Self {
        id.to_string()
    }
}

impl fmt::Display for BootId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for BootId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The beginning of a phase, on the node's own clock.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// What began.
    pub phase: Phase,
    /// Milliseconds since the kernel started (CLOCK_BOOTTIME).
    pub uptime_ms: u64,
    /// More, for humans.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// What the node's console said last. Servers that do not know this field pass it over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub console: Option<Console>,
}

/// All that a node has to tell about one boot so far.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Report {
    /// Address of the interface the node booted from: who is speaking.
    pub mac: MacAddr,
    /// The node's name, if bootserve gave it one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeName>,
    /// Which of its boots this is, if bootserve gave it an id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot: Option<BootId>,
    /// What it booted.
    pub image: ImageRef,
    /// The node's clock when the report was sent, to relate [`Event::uptime_ms`] to the server's clock.
    pub uptime_ms: u64,
    /// What happened, in order.
    pub events: Vec<Event>,
}

/// The report is not acceptable.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// Not JSON, or a field is missing or malformed.
    #[error("the boot report is not valid")]
    Json(#[source] serde_json::Error),
    /// Larger than a node has reason to send.
    #[error("the boot report has {found} {what}, at most {limit} are allowed")]
    TooMuch {
        /// What there is too much of.
        what: &'static str,
        /// How much was found.
        found: usize,
        /// How much is allowed.
        limit: usize,
    },
}

impl Report {
    /// Reads a report from the network; its size is bounded in every direction.
    pub fn parse(json: &[u8]) -> Result<Self, ReportError> {
        check_limit("bytes", json.len(), MAX_REPORT_BYTES)?;
        let report: Self = serde_json::from_slice(json).map_err(ReportError::Json)?;
        check_limit("events", report.events.len(), MAX_EVENTS)?;
        for event in &report.events {
            let length = event.message.as_ref().map_or(0, String::len);
            check_limit("bytes in a message", length, MAX_MESSAGE_BYTES)?;
        }
        Ok(report)
    }
}

fn check_limit(what: &'static str, found: usize, limit: usize) -> Result<(), ReportError> {
    if found > limit { Err(ReportError::TooMuch { what, found, limit }) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn report() -> Report {
        Report {
            mac: "fc:ab:14:e8:66:02".parse().unwrap(),
            node: Some("node-001".parse().unwrap()),
            boot: Some(BootId::new(0xabc)),
            image: "compute/1".parse().unwrap(),
            uptime_ms: 30_000,
            events: vec![Event { phase: Phase::SwitchRoot, uptime_ms: 9_000, message: None, console: None }],
        }
    }

    #[test]
    fn json_round_trips_and_reads_well() {
        let json = serde_json::to_string(&report()).unwrap();
        assert!(json.contains(r#""phase":"switch-root""#), "{json}");
        assert!(json.contains(r#""boot":"0000000000000abc""#), "{json}");
        assert_eq!(Report::parse(json.as_bytes()).unwrap(), report());
    }

    #[test]
    fn a_console_is_bounded_and_its_refusal_says_why() {
        let with = |console: &str| {
            let mut json = serde_json::to_value(report()).unwrap();
            json["events"][0]["console"] = console.into();
            Report::parse(json.to_string().as_bytes())
        };
        let parsed = with("a\nb").unwrap();
        assert_eq!(parsed.events[0].console.as_ref().map(Console::as_str), Some("a\nb"));
        let error = crate::diagnosis::explain(&with(&"x".repeat(5000)).unwrap_err());
        assert!(error.contains("the console has 5000 bytes, at most 4096 are allowed"), "{error}");
        assert!(with("\u{1b}[2J").is_err());
    }

    #[test]
    fn a_server_passes_over_what_it_does_not_know_of_an_event() {
        /// An event as servers knew it that had no consoles.
        #[derive(Deserialize)]
        struct Old {
            phase: Phase,
            #[serde(default)]
            message: Option<String>,
        }
        let mut event = report().events[0].clone();
        event.console = Console::newest(["last words"].iter());
        let mut json = serde_json::to_value(&event).unwrap();
        let old: Old = serde_json::from_value(json.clone()).unwrap();
        assert_eq!((old.phase, old.message), (Phase::SwitchRoot, None));
        json["of_the_future"] = 1.into();
        assert_eq!(serde_json::from_value::<Event>(json).unwrap(), event);
    }

    #[test]
    fn display_and_json_name_a_phase_alike() {
        for phase in [Phase::Refused, Phase::Policy, Phase::Dhcp, Phase::SwitchRoot, Phase::Failed] {
            assert_eq!(serde_json::to_value(phase).unwrap(), phase.to_string());
        }
    }

    #[test]
    fn oversized_reports_are_rejected() {
        let mut many = report();
        many.events = vec![many.events[0].clone(); MAX_EVENTS + 1];
        let mut long = report();
        long.events[0].message = Some("x".repeat(MAX_MESSAGE_BYTES + 1));
        for (report, what) in [(many, "65 events"), (long, "1025 bytes in a message")] {
            let error = Report::parse(serde_json::to_string(&report).unwrap().as_bytes()).unwrap_err();
            assert!(error.to_string().contains(what), "{error}");
        }
        assert!(Report::parse(&vec![b' '; MAX_REPORT_BYTES + 1]).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_parsed_or_rejected_without_panic(bytes: Vec<u8>) {
            let _ = Report::parse(&bytes);
        }

        #[test]
        fn boot_id_round_trips(random: u64) {
            let id = BootId::new(random);
            prop_assert_eq!(id.to_string().parse(), Ok(id));
        }
    }
}
