//! The status of nodes as a table, and the log of a node as lines, for people.

use std::fmt::Write as _;
use std::time::Duration;

use bootspec::event::Phase;
use jiff::Timestamp;

use super::course::Course;
use super::{NodeStatus, Overview, State, in_words};
use crate::events::BootEvent;

/// What the output goes to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Look {
    /// Whether states are coloured.
    pub colours: bool,
    /// How long lines may be; none: as long as they are.
    pub columns: Option<usize>,
    /// How many lines there may be; none: as many as there are.
    pub lines: Option<usize>,
}

const HEAD: [&str; 7] = ["NODE", "STATE", "PHASE", "SINCE", "TRIES", "IMAGE", "WHAT"];
/// Lines beside those of nodes: the head, an empty one, the summary, and what was left out.
const OTHER_LINES: usize = 4;

/// The nodes, a line each, and a line that sums up.
pub fn table(overview: &Overview, look: Look) -> String {
    let room = look.lines.map_or(usize::MAX, |lines| lines.saturating_sub(OTHER_LINES).max(1));
    let shown = &overview.nodes[..overview.nodes.len().min(room)];
    let rows: Vec<_> = shown.iter().map(|node| cells(node, overview.time_unix_ms)).collect();
    let widths: Vec<_> = (0..HEAD.len())
        .map(|column| rows.iter().map(|row| row[column].chars().count()).chain([HEAD[column].len()]).max())
        .map(Option::unwrap_or_default)
        .collect();
    let mut text = line(&HEAD.map(str::to_owned), &widths, None, look);
    for (row, node) in rows.iter().zip(shown) {
        text.push_str(&line(row, &widths, Some(node.state), look));
    }
    let left_out = overview.nodes.len() - shown.len();
    if left_out > 0 {
        // Writing to memory cannot fail.
        let _ = writeln!(text, "... and {left_out} more");
    }
    let _ = writeln!(text, "\n{}", summary(overview));
    text
}

/// `12 ready, 3 booting, 1 stuck, 2 failed`: those that are well first.
pub fn summary(overview: &Overview) -> String {
    let order = [State::Ready, State::Parked, State::Booting, State::Stuck, State::Failed, State::Unseen];
    let counts = order.iter().filter_map(|state| Some((overview.summary.get(state)?, state.word())));
    let counts: Vec<_> = counts.map(|(count, word)| format!("{count} {word}")).collect();
    if counts.is_empty() { "no nodes".to_owned() } else { counts.join(", ") }
}

/// A node as one line, for output that is no terminal.
pub fn node_line(node: &NodeStatus, time_unix_ms: i64) -> String {
    let [label, state, phase, _, tries, image, what] = cells(node, time_unix_ms);
    format!("{} {label} {state} {phase} attempts={tries} {image}: {what}", timestamp(time_unix_ms))
}

fn cells(node: &NodeStatus, now_unix_ms: i64) -> [String; 7] {
    let since = node.since_unix_ms.map(|since| {
        in_words(Duration::from_millis(now_unix_ms.saturating_sub(since).try_into().unwrap_or(0)))
    });
    let dash = || "-".to_owned();
    [
        node.label(),
        node.state.word().to_owned(),
        node.phase.map_or_else(dash, |phase| phase.to_string()),
        since.unwrap_or_else(dash),
        node.attempts.to_string(),
        node.image.clone().unwrap_or_else(dash),
        what(node),
    ]
}

/// Beside what the boot does now, why the one before failed.
fn what(node: &NodeStatus) -> String {
    let now = printable(&node.what);
    match &node.error {
        Some(error) if node.state == State::Booting && node.attempts > 1 => {
            let code = error.code.as_ref().map(|code| format!("[{code}] ")).unwrap_or_default();
            format!("{now}; before: {code}{}", printable(&error.message))
        }
        _ => now,
    }
}

fn line(cells: &[String; 7], widths: &[usize], state: Option<State>, look: Look) -> String {
    let mut text = String::new();
    let last = cells.len() - 1;
    for (column, (cell, width)) in cells.iter().zip(widths).enumerate() {
        match column == last {
            true => text.push_str(cell),
            false => drop(write!(text, "{cell:width$}  ")),
        }
    }
    let text: String = text.trim_end().chars().take(look.columns.unwrap_or(usize::MAX)).collect();
    match state.and_then(colour).filter(|_| look.colours) {
        Some(colour) => format!("\x1b[{colour}m{text}\x1b[0m\n"),
        None => text + "\n",
    }
}

fn colour(state: State) -> Option<u8> {
    match state {
        State::Stuck | State::Failed => Some(31),
        State::Booting => Some(33),
        State::Ready => Some(32),
        State::Parked => None,
        State::Unseen => Some(2),
    }
}

/// In one line, and without what a terminal would take for orders: file names and messages are the node's own words.
pub fn printable(text: &str) -> String {
    let text = text.trim_end().replace('\n', "; ");
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// The log of one node, line by line: boots are set apart, and times are told from the beginning of each.
#[derive(Debug, Default)]
pub struct BootLog {
    course: Course,
    began_unix_ms: Option<i64>,
}

impl BootLog {
    /// The line of an event, which follows those before; with an empty one before it if a boot begins.
    pub fn line(&mut self, event: &BootEvent) -> String {
        self.course.add(event);
        let newest = self.course.newest().map(|step| (step.phase, step.time_unix_ms));
        let is_first = self.course.steps.len() == 1 && newest == Some((event.phase, event.time_unix_ms));
        let gap = if is_first && self.began_unix_ms.is_some() { "\n" } else { "" };
        let began = match self.began_unix_ms.filter(|_| !is_first) {
            Some(began) => began,
            None => *self.began_unix_ms.insert(event.time_unix_ms),
        };
        let seconds = event.time_unix_ms.saturating_sub(began) as f64 / 1000.0;
        let image = event.image.as_ref().filter(|_| event.phase == Phase::Script);
        let details =
            image.map(ToString::to_string).into_iter().chain(event.message.as_deref().map(printable));
        let details = details.collect::<Vec<_>>().join("  ");
        let time = timestamp(event.time_unix_ms);
        let line = format!("{gap}{time} {seconds:+9.3} s  {:<11}  {details}", event.phase.to_string());
        line.trim_end().to_owned()
    }
}

/// In UTC, to the millisecond.
fn timestamp(time_unix_ms: i64) -> String {
    Timestamp::from_millisecond(time_unix_ms)
        .map_or_else(|_| time_unix_ms.to_string(), |time| format!("{time:.3}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::course::{Problem, Witness};
    use bootspec::MacAddr;
    use std::time::SystemTime;

    fn node(name: &str, state: State, what: &str) -> NodeStatus {
        NodeStatus {
            name: Some(name.parse().unwrap()),
            mac: None,
            address: [10, 0, 0, 1].into(),
            state,
            what: what.to_owned(),
            phase: Some(Phase::Script),
            since_unix_ms: Some(960_000),
            attempts: 2,
            image: Some("compute/1".to_owned()),
            mode: None,
            boot: None,
            download: None,
            error: None,
            timeline: Vec::new(),
        }
    }

    fn overview(nodes: Vec<NodeStatus>) -> Overview {
        Overview::new(nodes, SystemTime::UNIX_EPOCH + Duration::from_secs(1000))
    }

    #[test]
    fn who_needs_somebody_stands_first_and_a_line_sums_up() {
        let overview = overview(vec![
            node("n1", State::Ready, "up for 40 s"),
            node("n22", State::Stuck, "cannot boot:\nhint: \x1b[2Jbuild it"),
        ]);
        let expected = "NODE  STATE  PHASE   SINCE  TRIES  IMAGE      WHAT\n\
                        n22   stuck  script  40 s   2      compute/1  cannot boot:; hint: \u{fffd}[2Jbuild it\n\
                        n1    ready  script  40 s   2      compute/1  up for 40 s\n\
                        \n1 ready, 1 stuck\n";
        assert_eq!(table(&overview, Look::default()), expected);
        let small = table(&overview, Look { colours: true, columns: Some(12), lines: Some(5) });
        let expected = "NODE  STATE \n\x1b[31mn22   stuck \x1b[0m\n... and 1 more\n\n1 ready, 1 stuck\n";
        assert_eq!(small, expected);
    }

    #[test]
    fn a_boot_after_a_failure_tells_why_the_one_before_failed() {
        let problem = Problem {
            time_unix_ms: 1,
            by: Witness::Node,
            code: Some("E-FETCH".to_owned()),
            message: "no server".to_owned(),
        };
        let node = NodeStatus { error: Some(problem), ..node("n1", State::Booting, "vmlinuz 5 %") };
        assert_eq!(what(&node), "vmlinuz 5 %; before: [E-FETCH] no server");
        let line = node_line(&node, 1_000_000);
        let expected = "1970-01-01T00:16:40.000Z n1 booting script attempts=2 compute/1: vmlinuz 5 %; before: [E-FETCH] no server";
        assert_eq!(line, expected);
    }

    #[test]
    fn a_log_sets_boots_apart() {
        let event = |phase, ms| BootEvent {
            time_unix_ms: ms,
            message: (phase == Phase::Refused).then(|| "a\nb".to_owned()),
            ..BootEvent::now(MacAddr::new([0; 6]), phase)
        };
        let mut log = BootLog::default();
        let events = [(Phase::Dhcp, 0), (Phase::Script, 1500), (Phase::Refused, 1600), (Phase::Dhcp, 60_000)];
        let lines: Vec<_> = events.iter().map(|(phase, ms)| log.line(&event(*phase, *ms))).collect();
        let expected = [
            "1970-01-01T00:00:00.000Z    +0.000 s  dhcp",
            "1970-01-01T00:00:01.500Z    +1.500 s  script",
            "1970-01-01T00:00:01.600Z    +1.600 s  refused      a; b",
            "\n1970-01-01T00:01:00.000Z    +0.000 s  dhcp",
        ];
        assert_eq!(lines, expected);
    }
}
