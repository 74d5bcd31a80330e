//! When hardware has been found: some disks take seconds to start, some wires to carry, and drivers look for both in the
//! background.

use std::time::{Duration, Instant};

/// For so long nothing must have changed. A gigabit port takes three seconds to agree on a speed.
const QUIET: Duration = Duration::from_secs(5);
/// It is not waited longer, because later check-ins have the rest.
const LIMIT: Duration = Duration::from_secs(60);

/// Looks at facts, as they are to be sent, until they change no more. Reads no clock.
#[derive(Debug)]
pub struct Settling {
    began: Instant,
    last: Vec<u8>,
    /// Since when they have been the same.
    since: Instant,
}

impl Settling {
    /// Begins now.
    pub fn new(now: Instant) -> Self {
        Self { began: now, last: Vec::new(), since: now }
    }

    /// Whether `facts`, which were gathered now, are to stay.
    pub fn is_over(&mut self, facts: Vec<u8>, now: Instant) -> bool {
        if self.last != facts {
            (self.last, self.since) = (facts, now);
        }
        now >= self.since + QUIET || now >= self.began + LIMIT
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_over_when_nothing_changes_or_it_takes_too_long() {
        let began = Instant::now();
        let mut settling = Settling::new(began);
        let mut is_over =
            |facts: u8, second| settling.is_over(vec![facts], began + Duration::from_secs(second));
        for (facts, second, expected) in
            [(1, 0, false), (1, 4, false), (2, 5, false), (2, 9, false), (2, 10, true)]
        {
            assert_eq!(is_over(facts, second), expected, "{second}");
        }
        for second in 11..60 {
            assert!(!is_over(second as u8, second));
        }
        assert!(is_over(60, 60));
    }
}
