//! When a boot reached which phase, and the seconds that each part of it took.
//!
//! Times come from two witnesses, bootserve's events and the node's console, both on the host's clock; where both saw
//! a phase, the earlier counts.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bootspec::event::Phase;
use serde::Serialize;

use crate::api::NodeEvent;
use crate::console::Console;

/// What init prints when a phase begins.
const CONSOLE_LINES: [(&str, Phase); 4] = [
    ("bootnode: init ", Phase::Init),
    ("bootnode: unpacking ", Phase::Unpack),
    ("bootnode: exec ", Phase::SwitchRoot),
    ("bootnode: FAILED", Phase::Failed),
];

/// The phases that one boot has reached, since power-on.
#[derive(Clone, Debug)]
pub struct Timeline {
    power_on: SystemTime,
    phases: BTreeMap<Phase, Duration>,
}

/// The parts of a boot, in seconds. They follow each other without a gap: together they are the total. A part whose
/// end was not seen is missing, and the next part includes it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Parts {
    /// From power-on to the address: firmware and DHCP.
    pub dhcp: Option<f64>,
    /// To the script: loading the network boot program, and its own DHCP.
    pub nbp: Option<f64>,
    /// To the start of init: loading kernel and initramfs, and the kernel's own start.
    pub kernel: Option<f64>,
    /// To the handover to the image's own init.
    pub unpack: Option<f64>,
    /// To ready.
    pub systemd: Option<f64>,
    /// From power-on to ready.
    pub total: Option<f64>,
}

impl Timeline {
    /// A boot that begins at `power_on`.
    pub fn new(power_on: SystemTime) -> Self {
        Self { power_on, phases: BTreeMap::new() }
    }

    /// Notes that `phase` began at `time`. What lies before power-on belongs to an earlier boot and is left out.
    pub fn record(&mut self, phase: Phase, time: SystemTime) {
        let Ok(at) = time.duration_since(self.power_on) else { return };
        let known = self.phases.entry(phase).or_insert(at);
        *known = at.min(*known);
    }

    /// Notes what bootserve has seen or been told.
    pub fn record_events(&mut self, events: &[NodeEvent]) {
        for event in events {
            self.record(event.phase, UNIX_EPOCH + Duration::from_millis(event.time_unix_ms));
        }
    }

    /// Notes what init has printed.
    pub fn record_console(&mut self, console: &Console) {
        for (line, phase) in CONSOLE_LINES {
            if let Some(time) = console.time_of(line) {
                self.record(phase, time);
            }
        }
    }

    /// When `phase` began, since power-on.
    pub fn reached(&self, phase: Phase) -> Option<Duration> {
        self.phases.get(&phase).copied()
    }

    /// The latest phase reached.
    pub fn last(&self) -> Option<Phase> {
        self.phases.keys().next_back().copied()
    }

    /// The phases reached, in their order.
    pub fn phases(&self) -> impl Iterator<Item = (Phase, Duration)> + '_ {
        self.phases.iter().map(|(&phase, &at)| (phase, at))
    }

    /// The seconds that each part took.
    pub fn parts(&self) -> Parts {
        let mut begin = Duration::ZERO;
        let mut part = |end: Phase| {
            let end = self.reached(end)?;
            let length = end.saturating_sub(begin);
            begin = end;
            Some(seconds(length))
        };
        Parts {
            dhcp: part(Phase::Dhcp),
            nbp: part(Phase::Script),
            kernel: part(Phase::Init),
            unpack: part(Phase::SwitchRoot),
            systemd: part(Phase::Ready),
            total: self.reached(Phase::Ready).map(seconds),
        }
    }
}

/// To the millisecond, which is what events are noted in.
fn seconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1000.0).round() / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    const POWER_ON_MS: u64 = 1_000_000;

    fn timeline(phases: &[(Phase, u64)]) -> Timeline {
        let at = |ms| UNIX_EPOCH + Duration::from_millis(POWER_ON_MS + ms);
        let mut timeline = Timeline::new(at(0));
        for &(phase, ms) in phases {
            timeline.record(phase, at(ms));
        }
        timeline
    }

    #[test]
    fn parts_follow_each_other_and_sum_up_to_the_total() {
        let phases = [
            (Phase::Dhcp, 2000),
            (Phase::Nbp, 3000),
            (Phase::Script, 4000),
            (Phase::Kernel, 4500),
            (Phase::Init, 9000),
            (Phase::SwitchRoot, 20_000),
            (Phase::Ready, 45_000),
        ];
        let parts = timeline(&phases).parts();
        let expected = Parts {
            dhcp: Some(2.0),
            nbp: Some(2.0),
            kernel: Some(5.0),
            unpack: Some(11.0),
            systemd: Some(25.0),
            total: Some(45.0),
        };
        assert_eq!(parts, expected);
    }

    #[test]
    fn a_part_that_does_not_exist_is_missing() {
        let parts = timeline(&[(Phase::Dhcp, 2000), (Phase::Script, 3000), (Phase::Init, 8000)]).parts();
        assert_eq!((parts.kernel, parts.unpack, parts.systemd, parts.total), (Some(5.0), None, None, None));
    }

    #[test]
    fn the_earlier_witness_counts_and_earlier_boots_do_not() {
        let mut timeline = timeline(&[(Phase::Init, 900), (Phase::Init, 700), (Phase::Init, 800)]);
        timeline.record(Phase::Dhcp, UNIX_EPOCH + Duration::from_millis(POWER_ON_MS - 1));
        assert_eq!(timeline.reached(Phase::Init), Some(Duration::from_millis(700)));
        assert_eq!(timeline.reached(Phase::Dhcp), None);
    }
}
