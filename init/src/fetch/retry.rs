//! When to try again, and where: the state of a download between its attempts. It reads no clock and no socket.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::jitter::spread;

/// How patient a download is.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// The pause after the first failure. It doubles with each round over the mirrors that brings nothing.
    pub first_pause: Duration,
    /// The longest pause.
    pub max_pause: Duration,
    /// A download that has got no byte for so long is given up.
    pub give_up: Duration,
}

/// Why an attempt ended.
#[derive(Clone, Debug)]
pub enum Failure {
    /// The mirror does not have the file, or has another one: asking it again is of no use.
    Refused(String),
    /// The mirror or the way to it is disturbed; it may say when to come again.
    Disturbed(String, Option<Duration>),
}

/// What to do next.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    /// Wait so long, then ask [`Retry::mirror`].
    Try(Duration),
    /// No mirror has the file: what each of them said.
    Refused(String),
    /// There was no progress for [`Patience::give_up`]: the last failure.
    GiveUp(String),
}

/// The attempts of one download.
#[derive(Debug)]
pub struct Retry {
    mirrors: usize,
    mirror: usize,
    patience: Patience,
    last_progress: Instant,
    /// Since the last progress.
    failures: u32,
    refusals: BTreeMap<usize, String>,
}

impl Retry {
    /// Begins with the first of `mirrors` mirrors.
    pub fn new(mirrors: usize, patience: Patience, now: Instant) -> Self {
        Self { mirrors, mirror: 0, patience, last_progress: now, failures: 0, refusals: BTreeMap::new() }
    }

    /// Which mirror to ask.
    pub fn mirror(&self) -> usize {
        self.mirror
    }

    /// Bytes have come.
    pub fn progressed(&mut self, now: Instant) {
        self.last_progress = now;
        self.failures = 0;
    }

    /// An attempt has failed. `jitter` is from 0 to 1, so that nodes do not come back all at once.
    pub fn failed(&mut self, failure: Failure, now: Instant, jitter: f64) -> Next {
        let round = self.failures / u32::try_from(self.mirrors).unwrap_or(u32::MAX).max(1);
        let backoff =
            self.patience.first_pause.saturating_mul(1 << round.min(16)).min(self.patience.max_pause);
        self.failures = self.failures.saturating_add(1);
        let (message, pause) = match failure {
            Failure::Refused(message) => {
                self.refusals.insert(self.mirror, message.clone());
                (message, Duration::ZERO)
            }
            Failure::Disturbed(message, retry_after) => {
                let pause = spread(backoff, jitter);
                (message, retry_after.map_or(pause, |after| after.min(self.patience.max_pause) + pause))
            }
        };
        let following = (1..=self.mirrors).map(|step| (self.mirror + step) % self.mirrors);
        let Some(next) = following.into_iter().find(|mirror| !self.refusals.contains_key(mirror)) else {
            return Next::Refused(self.refusals.values().cloned().collect::<Vec<_>>().join("; "));
        };
        if now.saturating_duration_since(self.last_progress) >= self.patience.give_up {
            return Next::GiveUp(message);
        }
        self.mirror = next;
        Next::Try(pause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PATIENCE: Patience = Patience {
        first_pause: Duration::from_secs(1),
        max_pause: Duration::from_secs(8),
        give_up: Duration::from_secs(60),
    };

    fn disturbed() -> Failure {
        Failure::Disturbed("connection reset".into(), None)
    }

    fn pauses(retry: &mut Retry, now: Instant, count: usize) -> Vec<u64> {
        let mut pause = || match retry.failed(disturbed(), now, 0.5) {
            Next::Try(pause) => pause.as_secs(),
            other => panic!("{other:?}"),
        };
        (0..count).map(|_| pause()).collect()
    }

    #[test]
    fn pauses_double_with_each_round_over_the_mirrors_and_end_at_the_longest() {
        let now = Instant::now();
        assert_eq!(pauses(&mut Retry::new(1, PATIENCE, now), now, 6), [1, 2, 4, 8, 8, 8]);
        assert_eq!(pauses(&mut Retry::new(2, PATIENCE, now), now, 6), [1, 1, 2, 2, 4, 4]);
    }

    #[test]
    fn progress_makes_the_next_pause_short_again() {
        let now = Instant::now();
        let mut retry = Retry::new(1, PATIENCE, now);
        pauses(&mut retry, now, 4);
        retry.progressed(now);
        assert_eq!(pauses(&mut retry, now, 1), [1]);
    }

    #[test]
    fn each_failure_moves_on_to_the_next_mirror() {
        let now = Instant::now();
        let mut retry = Retry::new(3, PATIENCE, now);
        let mirrors: Vec<_> = (0..4)
            .map(|_| {
                retry.failed(disturbed(), now, 0.5);
                retry.mirror()
            })
            .collect();
        assert_eq!(mirrors, [1, 2, 0, 1]);
    }

    #[test]
    fn a_mirror_without_the_file_is_not_asked_again_and_without_any_the_download_ends() {
        let now = Instant::now();
        let mut retry = Retry::new(2, PATIENCE, now);
        assert_eq!(retry.failed(Failure::Refused("a: 404".into()), now, 0.5), Next::Try(Duration::ZERO));
        assert!(matches!(retry.failed(disturbed(), now, 0.5), Next::Try(_)));
        assert_eq!(retry.mirror(), 1);
        let end = retry.failed(Failure::Refused("b: 404".into()), now, 0.5);
        assert_eq!(end, Next::Refused("a: 404; b: 404".into()));
    }

    #[test]
    fn a_server_that_names_a_time_is_given_it_within_limits() {
        let now = Instant::now();
        let mut retry = Retry::new(1, PATIENCE, now);
        let busy = |seconds| Failure::Disturbed("503".into(), Some(Duration::from_secs(seconds)));
        assert_eq!(retry.failed(busy(3), now, 0.5), Next::Try(Duration::from_secs(4)));
        assert_eq!(retry.failed(busy(3600), now, 0.5), Next::Try(Duration::from_secs(10)));
    }

    #[test]
    fn without_progress_it_is_given_up() {
        let now = Instant::now();
        let mut retry = Retry::new(1, PATIENCE, now);
        retry.progressed(now + Duration::from_secs(30));
        assert!(matches!(retry.failed(disturbed(), now + Duration::from_secs(89), 0.5), Next::Try(_)));
        let end = retry.failed(disturbed(), now + Duration::from_secs(90), 0.5);
        assert_eq!(end, Next::GiveUp("connection reset".into()));
    }

    proptest! {
        #[test]
        fn pauses_stay_in_their_bounds(mirrors in 1usize..5, failures in 0usize..80, jitter in 0.0f64..=1.0) {
            let now = Instant::now();
            let mut retry = Retry::new(mirrors, PATIENCE, now);
            for _ in 0..failures {
                let Next::Try(pause) = retry.failed(disturbed(), now, jitter) else { panic!() };
                prop_assert!(pause >= PATIENCE.first_pause / 2 && pause <= PATIENCE.max_pause.mul_f64(1.5));
                prop_assert!(retry.mirror() < mirrors);
            }
        }
    }
}
