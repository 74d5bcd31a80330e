//! Whether the wall clock was set while we run.
//!
//! Leases last until a time of the wall clock, as they outlive the process. Whoever sets that clock (NTP does, on a machine whose
//! battery is empty, by years) must neither end them nor make them last.

use std::time::{Duration, SystemTime};

use rustix::time::{ClockId, clock_gettime};

/// Less is no step: the clock is slewed meanwhile, and read a moment later than the other.
const TOLERANCE: Duration = Duration::from_secs(5);

/// The wall clock, and another that nobody sets.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    wall: SystemTime,
    since_boot: Duration,
}

impl Clock {
    /// What both show now.
    pub fn read() -> Self {
        // The one that goes on while the machine sleeps, as leases do.
        let since_boot = clock_gettime(ClockId::Boottime);
        let since_boot = Duration::try_from(since_boot).expect("a machine runs for no negative time");
        Self { wall: SystemTime::now(), since_boot }
    }

    /// The time of day.
    pub fn wall(&self) -> SystemTime {
        self.wall
    }

    /// What the wall clock would show `now` if nobody had set it since `self`; none if nobody has.
    pub fn undisturbed(&self, now: &Self) -> Option<SystemTime> {
        let undisturbed = self.wall + now.since_boot.saturating_sub(self.since_boot);
        let off = |later: SystemTime, earlier| later.duration_since(earlier).unwrap_or_default();
        let step = off(undisturbed, now.wall).max(off(now.wall, undisturbed));
        (step > TOLERANCE).then_some(undisturbed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_was_set_if_it_does_not_show_the_time_that_has_passed() {
        let clock = |wall, since_boot| Clock {
            wall: SystemTime::UNIX_EPOCH + Duration::from_secs(wall),
            since_boot: Duration::from_secs(since_boot),
        };
        let undisturbed = |later| clock(100_000, 50).undisturbed(&later);
        for (later, expected) in [
            (clock(100_000, 50), None),
            (clock(103_600, 3650), None),
            (clock(103_604, 3650), None),
            (clock(190_000, 3650), Some(103_600)),
            (clock(17_200, 3650), Some(103_600)),
            (clock(0, 50), Some(100_000)),
        ] {
            let expected = expected.map(|seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
            assert_eq!(undisturbed(later), expected, "{later:?}");
        }
    }

    #[test]
    fn nobody_sets_it_between_two_looks() {
        assert_eq!(Clock::read().undisturbed(&Clock::read()), None);
    }
}
