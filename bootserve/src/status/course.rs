//! The course of a machine's boot, as its events tell it one after the other. What is kept of a machine has a bound, so that
//! the status of a hall of nodes is told from memory.

use std::collections::HashMap;
use std::time::Duration;

use bootspec::event::{BootId, Phase};
use bootspec::manifest::BootMode;
use bootspec::{ImageRef, MacAddr};
use serde::{Deserialize, Serialize};

use crate::events::{BootEvent, LOCAL_DISK, SECRETS_REFUSED, failure_code};

/// More steps of one boot are not kept. There are ten phases, and some may come twice.
const MAX_STEPS: usize = 16;
/// Firmware that was not answered asks again within seconds, a minute at most. What comes later is another power-on.
const SAME_POWER_ON: Duration = Duration::from_secs(120);

/// A step of a boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// What began.
    pub phase: Phase,
    /// When, in milliseconds since the epoch, on the server's clock.
    pub time_unix_ms: i64,
}

/// Something that went wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// When, in milliseconds since the epoch.
    pub time_unix_ms: i64,
    /// Who says so.
    pub by: Witness,
    /// The node's error code: `E-VERIFY`.
    pub code: Option<String>,
    /// What was attempted and why it failed.
    pub message: String,
}

/// Who saw a problem.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Witness {
    /// init on the node reported it.
    Node,
    /// bootserve could not give the node what it asked for.
    Server,
}

/// What the events of one machine come to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Course {
    /// The steps of the newest boot, oldest first.
    pub steps: Vec<Step>,
    /// Scripts that were given since the machine was last ready; that of the boot under way is one.
    pub attempts: u32,
    /// Addresses that were given since something was loaded.
    pub asked: u32,
    /// Boot programs that were sent since the last script.
    pub loads: u32,
    /// The boot that the newest script began.
    pub boot: Option<BootId>,
    /// What that script booted.
    pub image: Option<ImageRef>,
    /// How.
    pub mode: Option<BootMode>,
    /// Whether that script sent it to its own disk.
    pub is_local: bool,
    /// What went wrong last, in this boot or one before.
    pub problem: Option<Problem>,
    /// Whether that is newer than all steps.
    pub is_stopped: bool,
    /// The last refusal of secrets, if nothing came since. The machine need not have been who asked.
    pub refused_secrets: Option<Problem>,
    /// Whether the newest script has not come to an end that we know of.
    is_open: bool,
}

/// What an event begins and ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// Whether it is the first one of a boot.
    pub begins_boot: bool,
    /// The phase that it ends, and how long that took.
    pub phase: Option<(Phase, Duration)>,
    /// How a boot ends with it.
    pub boot: Option<BootEnd>,
}

/// How a boot ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BootEnd {
    /// The system is up.
    Ready,
    /// init gave up.
    Failed,
    /// The machine began another one before.
    Restarted,
}

impl BootEnd {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Ready, Self::Failed, Self::Restarted];

    /// In one word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Failed => "failed",
            Self::Restarted => "restarted",
        }
    }
}

impl Course {
    /// The newest step.
    pub fn newest(&self) -> Option<Step> {
        self.steps.last().copied()
    }

    /// Whether its system was up when it was last heard of.
    pub fn is_up(&self) -> bool {
        self.newest().is_some_and(|newest| newest.phase == Phase::Ready)
    }

    /// Takes note of an event. Events come in the order in which they were stored, or in that of time.
    pub fn add(&mut self, event: &BootEvent) -> Change {
        match event.phase {
            Phase::Refused if is_of_secrets(event) => {
                self.refused_secrets = Some(Problem::told_by(event, Witness::Server));
                return Change::default();
            }
            Phase::Refused => {
                self.stop(event, Witness::Server);
                return Change::default();
            }
            Phase::Policy => return Change::default(),
            // Of a boot before: its report came late.
            _ if event.uptime_ms.is_some()
                && event.boot.is_some_and(|id| Some(id) != self.boot.or(Some(id))) =>
            {
                return Change::default();
            }
            Phase::Dhcp if self.asks_again(event) => {
                self.asked += 1;
                return Change::default();
            }
            _ => {}
        }
        (self.is_stopped, self.refused_secrets) = (false, None);
        let before = self.newest();
        let begins_boot = self.begins_boot(event);
        if begins_boot {
            self.steps.clear();
            self.loads = 0;
        }
        if self.steps.len() < MAX_STEPS {
            self.steps.push(Step { phase: event.phase, time_unix_ms: event.time_unix_ms });
        } else if let Some(last) = self.steps.last_mut() {
            *last = Step { phase: event.phase, time_unix_ms: event.time_unix_ms };
        }
        let boot = self.count(event);
        let phase = before.filter(|_| !begins_boot).and_then(|before| {
            let lasted = u64::try_from(event.time_unix_ms - before.time_unix_ms).ok()?;
            Some((before.phase, Duration::from_millis(lasted)))
        });
        Change { begins_boot, phase, boot }
    }

    /// Whether the machine, which was given an address, asks for one again without having loaded anything.
    fn asks_again(&self, event: &BootEvent) -> bool {
        self.newest().is_some_and(|newest| newest.phase == Phase::Dhcp && is_soon(newest, event))
    }

    /// Whether a step of this phase is the first one of a boot. iPXE asks for an address, too, so one that follows a
    /// boot program begins none.
    fn begins_boot(&self, event: &BootEvent) -> bool {
        let Some(newest) = self.newest() else { return true };
        match event.phase {
            Phase::Dhcp => newest.phase != Phase::Nbp || !is_soon(newest, event),
            Phase::Nbp => newest.phase > Phase::Nbp,
            Phase::Script => newest.phase >= Phase::Script,
            phase => matches!(newest.phase, Phase::Ready | Phase::Failed) && phase < newest.phase,
        }
    }

    fn count(&mut self, event: &BootEvent) -> Option<BootEnd> {
        match event.phase {
            Phase::Dhcp => {
                self.asked = 1;
                None
            }
            Phase::Nbp => {
                (self.asked, self.loads) = (0, self.loads + 1);
                None
            }
            Phase::Script => {
                (self.asked, self.loads) = (0, 0);
                self.attempts += 1;
                (self.boot, self.image) = (event.boot, event.image.clone());
                self.mode = event.message.as_deref().and_then(|message| message.parse().ok());
                self.is_local = event.message.as_deref() == Some(LOCAL_DISK);
                std::mem::replace(&mut self.is_open, true).then_some(BootEnd::Restarted)
            }
            Phase::Ready => {
                (self.attempts, self.is_open) = (0, false);
                Some(BootEnd::Ready)
            }
            Phase::Failed => {
                self.stop(event, Witness::Node);
                self.is_open = false;
                Some(BootEnd::Failed)
            }
            _ => None,
        }
    }

    fn stop(&mut self, event: &BootEvent, by: Witness) {
        self.problem = Some(Problem::told_by(event, by));
        self.is_stopped = true;
    }
}

impl Problem {
    fn told_by(event: &BootEvent, by: Witness) -> Self {
        let message = event.message.clone().unwrap_or_else(|| "no reason was given".to_owned());
        let code = failure_code(&message).filter(|_| by == Witness::Node).map(str::to_owned);
        let message = match &code {
            Some(code) => message[code.len() + 2..].trim_start().to_owned(),
            None => message,
        };
        Self { time_unix_ms: event.time_unix_ms, by, code, message }
    }
}

fn is_of_secrets(event: &BootEvent) -> bool {
    event.message.as_ref().is_some_and(|message| message.starts_with(SECRETS_REFUSED))
}

/// Whether both are of one power-on of firmware.
fn is_soon(step: Step, event: &BootEvent) -> bool {
    event.time_unix_ms.saturating_sub(step.time_unix_ms) < SAME_POWER_ON.as_millis() as i64
}

/// The courses of all machines that have events.
pub type Courses = HashMap<MacAddr, Course>;

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: MacAddr = MacAddr::new([2, 0, 0, 0, 0, 1]);

    fn event(phase: Phase, seconds: i64) -> BootEvent {
        BootEvent { time_unix_ms: seconds * 1000, ..BootEvent::now(MAC, phase) }
    }

    fn course(events: &[(Phase, i64)]) -> Course {
        let mut course = Course::default();
        for (phase, seconds) in events {
            course.add(&event(*phase, *seconds));
        }
        course
    }

    fn phases(course: &Course) -> Vec<Phase> {
        course.steps.iter().map(|step| step.phase).collect()
    }

    use Phase::{Dhcp, Failed, Initramfs, Kernel, Nbp, Ready, Refused, Script, SwitchRoot};

    #[test]
    fn the_steps_are_those_of_the_newest_boot() {
        for (events, expected) in [
            (&[(Dhcp, 1), (Nbp, 2), (Dhcp, 3), (Script, 4)][..], &[Dhcp, Nbp, Dhcp, Script][..]),
            (&[(Script, 4), (Kernel, 5), (Dhcp, 6)], &[Dhcp]),
            (&[(Script, 4), (Kernel, 5), (Script, 9)], &[Script]),
            (&[(Script, 4), (Ready, 5), (Nbp, 9)], &[Nbp]),
            (&[(Script, 4), (Failed, 5), (Dhcp, 9), (Script, 10)], &[Dhcp, Script]),
            (&[(Dhcp, 4), (Dhcp, 5), (Dhcp, 9)], &[Dhcp]),
        ] {
            assert_eq!(phases(&course(events)), expected, "{events:?}");
        }
    }

    #[test]
    fn attempts_requests_and_loads_are_counted() {
        let found = course(&[(Dhcp, 1), (Dhcp, 9), (Dhcp, 30)]);
        assert_eq!((found.asked, found.newest().unwrap().time_unix_ms), (3, 1000));
        let later = course(&[(Dhcp, 1), (Dhcp, 9), (Dhcp, 3600)]);
        assert_eq!((later.asked, later.newest().unwrap().time_unix_ms), (1, 3_600_000), "another power-on");
        let found = course(&[(Dhcp, 1), (Nbp, 2), (Dhcp, 3), (Nbp, 4)]);
        assert_eq!((found.asked, found.loads), (0, 2));
        for (events, attempts) in [
            (&[(Script, 1)][..], 1),
            (&[(Script, 1), (Failed, 2), (Script, 3)], 2),
            (&[(Script, 1), (Script, 3), (Ready, 4)], 0),
        ] {
            assert_eq!(course(events).attempts, attempts, "{events:?}");
        }
    }

    #[test]
    fn a_refusal_stops_a_boot_until_its_next_step() {
        let mut found = course(&[(Script, 1), (Refused, 2)]);
        assert!(found.is_stopped && phases(&found) == [Script]);
        found.add(&event(Kernel, 3));
        assert!(!found.is_stopped && found.problem.is_some());
    }

    #[test]
    fn a_failure_has_its_code_and_a_refusal_none() {
        let message = Some("[E-VERIFY] chunk 3 is damaged".to_owned());
        let mut course = Course::default();
        course.add(&BootEvent { message: message.clone(), ..event(Failed, 5) });
        let problem = course.problem.clone().unwrap();
        assert_eq!((problem.code.as_deref(), &*problem.message), (Some("E-VERIFY"), "chunk 3 is damaged"));
        course.add(&BootEvent { message, ..event(Refused, 6) });
        assert_eq!(course.problem.unwrap().code, None);
    }

    #[test]
    fn a_late_report_of_an_earlier_boot_is_no_step_of_this_one() {
        let script = |id| BootEvent { boot: Some(BootId::new(id)), ..event(Script, 1) };
        let report = |id| BootEvent { boot: id, uptime_ms: Some(1), ..event(SwitchRoot, 2) };
        let mut course = Course::default();
        course.add(&script(1));
        course.add(&script(2));
        course.add(&report(Some(BootId::new(1))));
        assert_eq!(phases(&course), [Script]);
        course.add(&report(Some(BootId::new(2))));
        assert_eq!(phases(&course), [Script, SwitchRoot]);
    }

    #[test]
    fn what_begins_and_ends_is_told_once() {
        let mut course = Course::default();
        let mut add = |phase, seconds| course.add(&event(phase, seconds));
        let phase = |phase, seconds| Some((phase, Duration::from_secs(seconds)));
        let first = Change { begins_boot: true, ..Change::default() };
        let ends = |phase, boot| Change { begins_boot: false, phase, boot };
        assert_eq!(add(Script, 1), first);
        assert_eq!(add(Refused, 2), Change::default());
        assert_eq!(add(Initramfs, 4), ends(phase(Script, 3), None));
        assert_eq!(add(Script, 9), Change { boot: Some(BootEnd::Restarted), ..first });
        assert_eq!(add(Ready, 20), ends(phase(Script, 11), Some(BootEnd::Ready)));
        assert_eq!(add(Dhcp, 99), first, "how long it was up is no phase of a boot");
        assert_eq!(add(Dhcp, 110), Change::default(), "it asks again");
    }

    #[test]
    fn the_steps_of_a_boot_have_a_bound() {
        let mut course = Course::default();
        for second in 0..100 {
            course.add(&event(Phase::Unpack, second));
        }
        assert_eq!((course.steps.len(), course.newest().unwrap().time_unix_ms), (MAX_STEPS, 99_000));
    }
}
