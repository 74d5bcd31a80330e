//! How each node's boot goes, and what holds it up, in words.
//!
//! [`judge`] is pure: it says so of one machine, from what its events come to ([`course`]), from the download that goes on, and
//! from the time. [`Overview`] is all nodes, those that need somebody first. The commands `status` and `log` ([`show`]) ask a
//! running bootserve for it ([`remote`]) and print it ([`table`]).

pub mod course;
mod overview;
pub mod remote;
pub mod show;
pub mod table;

use std::collections::{BTreeMap, HashSet};
use std::net::Ipv4Addr;
use std::time::{Duration, SystemTime};

use bootspec::MacAddr;
use bootspec::event::{BootId, Phase};
use bootspec::manifest::BootMode;
use bootspec::store::NodeName;
use serde::{Deserialize, Serialize};

use crate::http::transfers::{Progress, TransferEnd};
use course::{Course, Problem, Step};
pub use overview::{Seen, overview};

/// Firmware begins to load within a second and has a boot program within ten; old ROMs take twenty.
const LOAD_LIMIT: Duration = Duration::from_secs(30);
/// iPXE starts, brings its card up and waits 12 to 16 s for IPv6 routers before it asks.
const SCRIPT_LIMIT: Duration = Duration::from_secs(60);
/// iPXE asks for the next file at once; it pauses for ten seconds at most when it tries again.
const DOWNLOAD_LIMIT: Duration = Duration::from_secs(30);
/// TCP repeats a lost packet within seconds. iPXE and UEFI give up after 120 s.
const STALL_LIMIT: Duration = Duration::from_secs(20);
/// init takes no more of a root than it can unpack: a chunk on a slow core, some seconds.
const ROOT_STALL_LIMIT: Duration = Duration::from_secs(60);
/// From the last byte of the initramfs to the first report, in modes in which init has a network: the kernel unpacks it, then
/// init waits up to 60 s for a card, 30 s for its link and 60 s for an address before it gives up.
const INIT_LIMIT: Duration = Duration::from_secs(180);
/// Likewise in carried mode, where nothing is reported before the system is up.
const CARRIED_LIMIT: Duration = Duration::from_secs(900);
/// init has the manifest within a second, and asks for it for 300 s before it gives up.
const MANIFEST_LIMIT: Duration = Duration::from_secs(60);
/// A root of several GiB over a slow link, when what init fetches does not come from us: then we see no bytes move.
const UNPACK_LIMIT: Duration = Duration::from_secs(600);
/// From the image's init to multi-user.
const SYSTEM_LIMIT: Duration = Duration::from_secs(300);
/// Firmware that had an answer does not ask for another one but by mistake; so many times it is none.
const MAX_ASKED: u32 = 5;
/// iPXE that is loaded so often without asking for its script does not start, or gets no address.
const MAX_LOADS: u32 = 3;

/// How a node does. The order is that of the list: who needs somebody comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// Its boot does not go on.
    Stuck,
    /// init gave up.
    Failed,
    /// Its boot goes on.
    Booting,
    /// It is where it is to be without being ready: a failsafe shell, a machine in discover mode, one that boots from its own disk.
    Parked,
    /// Its system is up.
    Ready,
    /// It has not asked for anything yet.
    Unseen,
}

impl State {
    /// All of them, in order.
    pub const ALL: [Self; 6] =
        [Self::Stuck, Self::Failed, Self::Booting, Self::Parked, Self::Ready, Self::Unseen];

    /// In one word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Stuck => "stuck",
            Self::Failed => "failed",
            Self::Booting => "booting",
            Self::Parked => "parked",
            Self::Ready => "ready",
            Self::Unseen => "unseen",
        }
    }
}

/// How a node does, why, and how it got there.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// Its name, if it is configured.
    pub name: Option<NodeName>,
    /// None of a node that is known by something else and has not asked for an address yet.
    pub mac: Option<MacAddr>,
    /// Its address.
    pub address: Ipv4Addr,
    /// How it does.
    pub state: State,
    /// What that comes from, or what is awaited, in words.
    pub what: String,
    /// How far it is.
    pub phase: Option<Phase>,
    /// Since when, in milliseconds since the epoch.
    pub since_unix_ms: Option<i64>,
    /// Scripts that it was given since it was last ready.
    pub attempts: u32,
    /// What it boots: the version of its newest script, else what the configuration says.
    pub image: Option<String>,
    /// How.
    pub mode: Option<BootMode>,
    /// Which of its boots this is.
    pub boot: Option<BootId>,
    /// The download that goes on, or broke off.
    pub download: Option<Download>,
    /// What went wrong last, in this boot or one before.
    pub error: Option<Problem>,
    /// The steps of this boot.
    pub timeline: Vec<Step>,
}

/// A file that is being sent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Download {
    /// Its name.
    pub file: String,
    /// How much of it is sent.
    pub sent_bytes: u64,
    /// Its length.
    pub size_bytes: u64,
    /// The one of the other, 0 to 100.
    pub percent: u8,
}

/// All nodes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Overview {
    /// When that was, in milliseconds since the epoch.
    pub time_unix_ms: i64,
    /// How many nodes are in which state.
    pub summary: BTreeMap<State, usize>,
    /// Those that need somebody first, then by name.
    pub nodes: Vec<NodeStatus>,
}

/// What is known of a machine's boot at a moment.
#[derive(Clone, Copy, Debug)]
pub struct Evidence<'a> {
    /// What its events come to.
    pub course: &'a Course,
    /// Its newest download in this boot.
    pub progress: Option<&'a Progress>,
    /// How many machines are let in to download before it, if it waits for that.
    pub waits_behind: Option<usize>,
    /// The time.
    pub now: SystemTime,
}

/// How a machine does, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// How it does.
    pub state: State,
    /// In words.
    pub what: String,
}

impl Verdict {
    fn new(state: State, what: impl Into<String>) -> Self {
        Self { state, what: what.into() }
    }

    /// Stuck, if `is_stuck`, and booting if not.
    fn stuck_if(is_stuck: bool, what: impl Into<String>) -> Self {
        Self::new(if is_stuck { State::Stuck } else { State::Booting }, what)
    }
}

/// Says how a machine does.
pub fn judge(evidence: Evidence<'_>) -> Verdict {
    let Evidence { course, progress, waits_behind, now } = evidence;
    let newest = course.newest();
    if let Some(before) = waits_behind {
        return Verdict::new(State::Booting, format!("waits for its turn to download, {before} before it"));
    }
    if let Some(problem) = course.problem.as_ref().filter(|_| course.is_stopped) {
        return stopped(problem);
    }
    let Some(newest) = newest else {
        return Verdict::new(State::Unseen, "has not asked for an address yet");
    };
    if let Some(progress) = progress.filter(|progress| progress.end != Some(TransferEnd::Complete)) {
        return downloading(progress, newest.phase);
    }
    awaited(course, newest.phase, age(newest.time_unix_ms, now))
}

fn stopped(problem: &Problem) -> Verdict {
    match (&problem.code, problem.by) {
        (Some(code), _) => Verdict::new(State::Failed, format!("the node says [{code}] {}", problem.message)),
        (None, course::Witness::Node) => {
            Verdict::new(State::Failed, format!("the node says {}", problem.message))
        }
        (None, course::Witness::Server) => Verdict::new(State::Stuck, problem.message.clone()),
    }
}

fn downloading(progress: &Progress, phase: Phase) -> Verdict {
    let stall_limit = if phase < Phase::Init { STALL_LIMIT } else { ROOT_STALL_LIMIT };
    let Progress { file, at_bytes, size_bytes, .. } = progress;
    let percent = percent(progress);
    let so_far = format!("{percent} % ({} of {})", mib(*at_bytes), mib(*size_bytes));
    match progress.end {
        Some(_) => Verdict::new(State::Stuck, format!("the download of {file} broke off at {so_far}")),
        None if progress.still >= stall_limit => Verdict::new(
            State::Stuck,
            format!("the download of {file} stands still at {so_far} for {}", in_words(progress.still)),
        ),
        None => Verdict::new(State::Booting, format!("{file} {so_far}")),
    }
}

/// What a machine that has come to `phase` does next, and whether it should have done it by now.
fn awaited(course: &Course, phase: Phase, age: Duration) -> Verdict {
    let since = in_words(age);
    match (phase, course.mode) {
        (Phase::Dhcp, _) if course.loads > 0 => Verdict::stuck_if(
            age >= SCRIPT_LIMIT || course.loads >= MAX_LOADS,
            format!("iPXE was given an address {since} ago and has not fetched its script{}", loads(course)),
        ),
        (Phase::Dhcp, _) => Verdict::stuck_if(
            age >= LOAD_LIMIT || course.asked >= MAX_ASKED,
            match course.asked {
                0 | 1 => {
                    format!("firmware was given an address {since} ago and has not loaded a boot program")
                }
                asked => format!(
                    "firmware was given an address {asked} times in {since} and has not loaded a boot program"
                ),
            },
        ),
        (Phase::Nbp, _) => Verdict::stuck_if(
            age >= SCRIPT_LIMIT || course.loads >= MAX_LOADS,
            format!("the boot program was sent {since} ago, and the script was not fetched{}", loads(course)),
        ),
        (Phase::Script, _) if course.is_local => Verdict::new(State::Parked, "was sent to its own disk"),
        (Phase::Script, _) => Verdict::stuck_if(
            age >= DOWNLOAD_LIMIT,
            format!("has had its script for {since} and has not asked for the kernel"),
        ),
        (Phase::Kernel, _) => Verdict::stuck_if(
            age >= DOWNLOAD_LIMIT,
            format!("has had the kernel for {since} and has not asked for the initramfs"),
        ),
        (Phase::Initramfs, Some(BootMode::Failsafe)) => Verdict::new(State::Parked, "failsafe shell"),
        (Phase::Initramfs, Some(BootMode::Carried)) => Verdict::stuck_if(
            age >= CARRIED_LIMIT,
            format!("the initramfs was sent {since} ago, and the system has not said that it is up"),
        ),
        (Phase::Initramfs, _) => Verdict::stuck_if(
            age >= INIT_LIMIT,
            format!("init has not reported since the initramfs was sent {since} ago"),
        ),
        (Phase::Init | Phase::Network, Some(BootMode::Discover)) => {
            Verdict::new(State::Parked, "discover mode")
        }
        (Phase::Init | Phase::Network, _) => Verdict::stuck_if(
            age >= MANIFEST_LIMIT,
            format!("init has had a network for {since} and no manifest of its root yet"),
        ),
        (Phase::Unpack, _) => {
            Verdict::stuck_if(age >= UNPACK_LIMIT, format!("init has unpacked the root for {since}"))
        }
        (Phase::SwitchRoot, _) => Verdict::stuck_if(
            age >= SYSTEM_LIMIT,
            format!("the image's own init started {since} ago, and the system has not said that it is up"),
        ),
        (Phase::Ready, _) => Verdict::new(State::Ready, format!("up for {since}")),
        // Both have a message, which was told of already.
        (Phase::Failed | Phase::Refused | Phase::Policy, _) => {
            Verdict::new(State::Failed, "no reason was given")
        }
    }
}

fn loads(course: &Course) -> String {
    if course.loads > 1 { format!("; it was loaded {} times", course.loads) } else { String::new() }
}

impl From<&Progress> for Download {
    fn from(progress: &Progress) -> Self {
        Self {
            file: progress.file.clone(),
            sent_bytes: progress.at_bytes,
            size_bytes: progress.size_bytes,
            percent: percent(progress),
        }
    }
}

impl Overview {
    /// Of these nodes.
    pub fn new(mut nodes: Vec<NodeStatus>, now: SystemTime) -> Self {
        nodes.sort_by(|a, b| {
            let key = |node: &NodeStatus| (node.state, node.name.is_none(), node.name.clone(), node.address);
            key(a).cmp(&key(b))
        });
        let mut summary = BTreeMap::new();
        nodes.iter().for_each(|node| *summary.entry(node.state).or_insert(0) += 1);
        Self { time_unix_ms: crate::timestamp::unix_ms(now), summary, nodes }
    }
}

impl Overview {
    /// Of the nodes with these names or MAC addresses alone. An error is a name that no node has.
    pub fn of(mut self, names: &[String]) -> Result<Self, String> {
        // All nodes may be asked for by their names, so none is looked for in a list.
        let known = NameSet::of(self.nodes.iter().filter_map(|node| Some(node.name.as_ref()?.as_str())))
            .with(self.nodes.iter().filter_map(|node| node.mac));
        let is_known = |name: &str| known.has(Some(name), name.parse().ok());
        if let Some(unknown) = names.iter().find(|name| !is_known(name)) {
            return Err(unknown.clone());
        }
        let wanted = NameSet::of(names.iter().map(String::as_str))
            .with(names.iter().filter_map(|name| name.parse().ok()));
        self.nodes.retain(|node| wanted.has(node.name.as_ref().map(NodeName::as_str), node.mac));
        let now = SystemTime::UNIX_EPOCH + Duration::from_millis(self.time_unix_ms.try_into().unwrap_or(0));
        Ok(Self::new(self.nodes, now))
    }
}

/// What nodes are called by.
struct NameSet<'a> {
    names: HashSet<&'a str>,
    macs: HashSet<MacAddr>,
}

impl<'a> NameSet<'a> {
    fn of(names: impl Iterator<Item = &'a str>) -> Self {
        Self { names: names.collect(), macs: HashSet::new() }
    }

    fn with(self, macs: impl Iterator<Item = MacAddr>) -> Self {
        Self { macs: macs.collect(), ..self }
    }

    fn has(&self, name: Option<&str>, mac: Option<MacAddr>) -> bool {
        name.is_some_and(|name| self.names.contains(name)) || mac.is_some_and(|mac| self.macs.contains(&mac))
    }
}

impl NodeStatus {
    /// What people call it.
    pub fn label(&self) -> String {
        match (&self.name, self.mac) {
            (Some(name), _) => name.to_string(),
            (None, Some(mac)) => mac.to_string(),
            (None, None) => self.address.to_string(),
        }
    }
}

/// Since `time_unix_ms`; nothing, if that has yet to come: the clock was set.
fn age(time_unix_ms: i64, now: SystemTime) -> Duration {
    let ms = crate::timestamp::unix_ms(now).saturating_sub(time_unix_ms);
    Duration::from_millis(ms.try_into().unwrap_or(0))
}

fn percent(progress: &Progress) -> u8 {
    let percent = u128::from(progress.at_bytes) * 100 / u128::from(progress.size_bytes.max(1));
    percent.min(100) as u8
}

fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

/// In the largest unit that leaves two digits: `40 s`, `12 min`, `3 h`, `9 d`.
pub fn in_words(duration: Duration) -> String {
    match duration.as_secs() {
        seconds @ 0..120 => format!("{seconds} s"),
        seconds @ 120..7200 => format!("{} min", seconds / 60),
        seconds @ 7200..172_800 => format!("{} h", seconds / 3600),
        seconds => format!("{} d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::BootEvent;

    const NOW_SECONDS: i64 = 1_000_000;

    /// A course whose events happened so many seconds ago.
    fn course(mode: &str, events: &[(Phase, i64)]) -> Course {
        let mut course = Course::default();
        for (phase, ago) in events {
            let message = match phase {
                Phase::Script => Some(mode.to_owned()),
                Phase::Failed => Some("[E-VERIFY] chunk 3 is damaged".to_owned()),
                Phase::Refused => Some("cannot boot: image compute has no current version".to_owned()),
                _ => None,
            };
            let time_unix_ms = (NOW_SECONDS - ago) * 1000;
            let event = BootEvent::now(MacAddr::new([2, 0, 0, 0, 0, 1]), *phase);
            course.add(&BootEvent { time_unix_ms, message, ..event });
        }
        course
    }

    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(NOW_SECONDS as u64)
    }

    fn progress(still: u64, end: Option<TransferEnd>) -> Progress {
        Progress {
            file: "initramfs.img".to_owned(),
            at_bytes: 43 << 20,
            size_bytes: 100 << 20,
            began: now(),
            still: Duration::from_secs(still),
            end,
        }
    }

    use Phase::{
        Dhcp, Failed, Init, Initramfs, Kernel, Nbp, Network, Ready, Refused, Script, SwitchRoot, Unpack,
    };
    use State::{Booting, Parked, Stuck, Unseen};

    #[test]
    fn each_phase_has_what_it_waits_for_and_for_how_long() {
        for (mode, events, state, what) in [
            ("", &[][..], Unseen, "has not asked for an address yet"),
            ("", &[(Dhcp, 3)], Booting, "given an address 3 s ago and has not loaded a boot program"),
            ("", &[(Dhcp, 40)], Stuck, "given an address 40 s ago and has not loaded a boot program"),
            (
                "",
                &[(Dhcp, 20), (Dhcp, 16), (Dhcp, 12), (Dhcp, 8), (Dhcp, 4)],
                Stuck,
                "given an address 5 times in 20 s",
            ),
            ("", &[(Dhcp, 40), (Nbp, 35)], Booting, "the script was not fetched"),
            ("", &[(Dhcp, 90), (Nbp, 80)], Stuck, "sent 80 s ago, and the script was not fetched"),
            ("", &[(Dhcp, 80), (Nbp, 75), (Dhcp, 65)], Stuck, "iPXE was given an address 65 s ago"),
            (
                "",
                &[(Dhcp, 60), (Nbp, 59), (Dhcp, 50), (Nbp, 40), (Dhcp, 30), (Nbp, 1)],
                Stuck,
                "it was loaded 3 times",
            ),
            ("carried", &[(Dhcp, 9), (Script, 5)], Booting, "has not asked for the kernel"),
            (
                "carried",
                &[(Script, 31)],
                Stuck,
                "has had its script for 31 s and has not asked for the kernel",
            ),
            ("carried", &[(Script, 90), (Kernel, 50)], Stuck, "has not asked for the initramfs"),
            ("carried", &[(Script, 300), (Initramfs, 240)], Booting, "sent 4 min ago"),
            ("carried", &[(Script, 999), (Initramfs, 960)], Stuck, "the system has not said that it is up"),
            ("fetched", &[(Script, 90), (Initramfs, 60)], Booting, "init has not reported"),
            (
                "fetched",
                &[(Script, 300), (Initramfs, 240)],
                Stuck,
                "init has not reported since the initramfs",
            ),
            ("local-disk", &[(Dhcp, 9999), (Script, 9000)], Parked, "was sent to its own disk"),
            ("failsafe", &[(Script, 9999), (Initramfs, 9000)], Parked, "failsafe shell"),
            ("discover", &[(Script, 9999), (Initramfs, 9000), (Network, 8000)], Parked, "discover mode"),
            ("fetched", &[(Initramfs, 99), (Init, 70), (Network, 65)], Stuck, "no manifest of its root"),
            ("fetched", &[(Network, 65), (Unpack, 60)], Booting, "has unpacked the root for 60 s"),
            ("fetched", &[(Network, 800), (Unpack, 700)], Stuck, "has unpacked the root for 11 min"),
            ("fetched", &[(Unpack, 800), (SwitchRoot, 400)], Stuck, "own init started 6 min ago"),
            ("fetched", &[(SwitchRoot, 40), (Ready, 10)], State::Ready, "up for 10 s"),
            ("fetched", &[(Unpack, 40), (Failed, 10)], State::Failed, "the node says [E-VERIFY] chunk 3"),
            ("fetched", &[(Dhcp, 9), (Refused, 1)], Stuck, "image compute has no current version"),
            ("fetched", &[(Refused, 9), (Script, 1)], Booting, "has not asked for the kernel"),
            // A clock that was set back.
            ("fetched", &[(Script, -60)], Booting, "has had its script for 0 s"),
        ] {
            let course = course(mode, events);
            let evidence = Evidence { course: &course, progress: None, waits_behind: None, now: now() };
            let found = judge(evidence);
            assert_eq!(found.state, state, "{events:?}: {}", found.what);
            assert!(found.what.contains(what), "{events:?}: {what} in {}", found.what);
        }
    }

    #[test]
    fn a_download_tells_how_far_it_is_whether_it_moves_and_whether_it_broke() {
        let course = course("fetched", &[(Script, 50), (Kernel, 45)]);
        for (progress, state, what) in [
            (progress(1, None), Booting, "initramfs.img 43 % (43.0 MiB of 100.0 MiB)"),
            (progress(25, None), Stuck, "stands still at 43 % (43.0 MiB of 100.0 MiB) for 25 s"),
            (progress(1, Some(TransferEnd::Broken)), Stuck, "initramfs.img broke off at 43 %"),
            (progress(1, Some(TransferEnd::Complete)), Stuck, "has not asked for the initramfs"),
        ] {
            let evidence =
                Evidence { course: &course, progress: Some(&progress), waits_behind: None, now: now() };
            let found = judge(evidence);
            assert_eq!(found.state, state, "{progress:?}");
            assert!(found.what.contains(what), "{what} in {}", found.what);
        }
    }

    #[test]
    fn a_machine_that_waits_for_its_turn_is_not_stuck() {
        let course = course("fetched", &[(Script, 50), (Refused, 45)]);
        let evidence = Evidence { course: &course, progress: None, waits_behind: Some(3), now: now() };
        let found = judge(evidence);
        assert_eq!((found.state, &*found.what), (Booting, "waits for its turn to download, 3 before it"));
    }

    #[test]
    fn a_percentage_is_of_nothing_also() {
        let empty = Progress { at_bytes: 0, size_bytes: 0, ..progress(0, None) };
        assert_eq!((percent(&empty), percent(&progress(0, None))), (0, 43));
    }
}
