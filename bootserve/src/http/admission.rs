//! How many machines download at once. More of them would share the same link, and each would take longer; those that
//! come later are told when to ask again, and are then let in in the order in which they first asked.

use std::collections::{HashMap, VecDeque};
use std::net::Ipv4Addr;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A machine that does not ask again within this after it was told to has gone away, and holds up nobody.
const PATIENCE: Duration = Duration::from_secs(10);
/// What a download is taken to last before any has ended.
const FIRST_GUESS: Duration = Duration::from_secs(5);
/// Nobody is told to wait for longer: the guess may be wrong.
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// How much of the mean duration is that of the download which ended last.
const NEWEST_SHARE: f64 = 0.1;

/// Who downloads, and who waits.
#[derive(Debug)]
pub struct Downloads {
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    limit: Option<NonZeroU32>,
    /// Downloads of each machine. A machine that has one may begin others: it is one machine still.
    active: HashMap<Ipv4Addr, u32>,
    /// In the order in which they first asked.
    waiting: VecDeque<Waiting>,
    mean_duration: Duration,
}

#[derive(Debug)]
struct Waiting {
    machine: Ipv4Addr,
    /// When it is taken to have gone away.
    until: Instant,
}

/// A download goes on for as long as this lives.
#[derive(Debug)]
pub struct Permit {
    state: Arc<Mutex<State>>,
    machine: Ipv4Addr,
    began: Instant,
}

/// Too many machines download.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{downloads} machines download now, and {before} wait; ask again in {} s", .retry_after.as_secs())]
pub struct Busy {
    /// How many download.
    pub downloads: usize,
    /// How many wait and have asked before.
    pub before: usize,
    /// When to ask again, in whole seconds.
    pub retry_after: Duration,
    /// Whether the machine has not asked before.
    pub is_new: bool,
}

impl Downloads {
    /// `limit` machines at once; none for as many as come.
    pub fn new(limit: Option<NonZeroU32>) -> Self {
        let state =
            State { limit, active: HashMap::new(), waiting: VecDeque::new(), mean_duration: FIRST_GUESS };
        Self { state: Arc::new(Mutex::new(state)) }
    }

    /// From now on, `limit` machines; downloads that go on are not ended.
    pub fn set_limit(&self, limit: Option<NonZeroU32>) {
        lock(&self.state).limit = limit;
    }

    /// How many are let in before each of those that wait.
    pub fn waiting(&self, now: Instant) -> HashMap<Ipv4Addr, usize> {
        let state = lock(&self.state);
        let waiting = state.waiting.iter().filter(|waiting| waiting.until > now);
        waiting.enumerate().map(|(before, waiting)| (waiting.machine, before)).collect()
    }

    /// Whether `machine` may begin a download now.
    pub fn admit(&self, machine: Ipv4Addr, now: Instant) -> Result<Permit, Busy> {
        lock(&self.state).admit(machine, now)?;
        Ok(Permit { state: Arc::clone(&self.state), machine, began: now })
    }
}

impl State {
    fn admit(&mut self, machine: Ipv4Addr, now: Instant) -> Result<(), Busy> {
        self.waiting.retain(|waiting| waiting.until > now);
        let place = self.waiting.iter().position(|waiting| waiting.machine == machine);
        let before = place.unwrap_or(self.waiting.len());
        let downloads = self.active.len();
        let limit = self.limit.map_or(usize::MAX, |limit| limit.get() as usize);
        if !self.active.contains_key(&machine) && downloads + before >= limit {
            let retry_after = self.wait(before, limit);
            let until = now + retry_after + PATIENCE;
            match place {
                Some(place) => self.waiting[place].until = until,
                None => self.waiting.push_back(Waiting { machine, until }),
            }
            return Err(Busy { downloads, before, retry_after, is_new: place.is_none() });
        }
        if let Some(place) = place {
            self.waiting.remove(place);
        }
        *self.active.entry(machine).or_default() += 1;
        Ok(())
    }

    /// Until the machine with so many before it gets its turn, roughly: `limit` downloads end in each mean duration.
    fn wait(&self, before: usize, limit: usize) -> Duration {
        let turns = (before + 1) as f64 / limit as f64;
        let wait = self.mean_duration.mul_f64(turns).clamp(Duration::from_secs(1), LONGEST_WAIT);
        Duration::from_secs(wait.as_secs_f64().ceil() as u64)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut state = lock(&self.state);
        let newest = self.began.elapsed().mul_f64(NEWEST_SHARE);
        state.mean_duration = state.mean_duration.mul_f64(1.0 - NEWEST_SHARE) + newest;
        if let Some(count) = state.active.get_mut(&self.machine) {
            *count -= 1;
            if *count == 0 {
                state.active.remove(&self.machine);
            }
        }
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn machine(number: u8) -> Ipv4Addr {
        [192, 168, 0, number].into()
    }

    impl Downloads {
        /// How many machines download, and how many wait.
        fn count(&self) -> (usize, usize) {
            let state = lock(&self.state);
            (state.active.len(), state.waiting.len())
        }
    }

    fn downloads(limit: u32) -> Downloads {
        Downloads::new(NonZeroU32::new(limit))
    }

    #[test]
    fn without_a_limit_all_are_let_in() {
        let downloads = downloads(0);
        let now = Instant::now();
        let permits: Vec<_> = (0..200).map(|number| downloads.admit(machine(number), now).unwrap()).collect();
        assert_eq!(downloads.count(), (200, 0));
        drop(permits);
        assert_eq!(downloads.count(), (0, 0));
    }

    #[test]
    fn a_machine_that_downloads_may_begin_another_download() {
        let (downloads, now) = (downloads(1), Instant::now());
        let first = downloads.admit(machine(1), now).unwrap();
        let second = downloads.admit(machine(1), now).unwrap();
        drop(first);
        assert!(downloads.admit(machine(2), now).is_err());
        drop(second);
        assert!(downloads.admit(machine(2), now).is_ok());
    }

    #[test]
    fn who_asked_first_is_let_in_first() {
        let (downloads, now) = (downloads(1), Instant::now());
        let permit = downloads.admit(machine(1), now).unwrap();
        let busy = |number| downloads.admit(machine(number), now).unwrap_err();
        let first_time = busy(2);
        assert_eq!((first_time.before, busy(3).before, busy(2).before), (0, 1, 0));
        assert!(first_time.is_new && !busy(2).is_new);
        assert_eq!(downloads.waiting(now), HashMap::from([(machine(2), 0), (machine(3), 1)]));
        drop(permit);
        assert_eq!(busy(3).before, 1, "2 is first");
        let permit = downloads.admit(machine(2), now).unwrap();
        assert_eq!(busy(3).before, 0);
        drop(permit);
        assert!(downloads.admit(machine(3), now).is_ok());
    }

    #[test]
    fn who_goes_away_holds_up_nobody() {
        let (downloads, now) = (downloads(1), Instant::now());
        let permit = downloads.admit(machine(1), now).unwrap();
        let gone = downloads.admit(machine(2), now).unwrap_err();
        drop(permit);
        assert!(downloads.admit(machine(3), now).is_err());
        assert!(downloads.admit(machine(3), now + gone.retry_after + PATIENCE).is_ok());
    }

    #[test]
    fn the_farther_behind_the_longer_the_wait() {
        let (downloads, now) = (downloads(2), Instant::now());
        let _permits = [1, 2].map(|number| downloads.admit(machine(number), now).unwrap());
        let waits = [3, 4, 5, 6]
            .map(|number| downloads.admit(machine(number), now).unwrap_err().retry_after.as_secs());
        // A download is taken to last 5 seconds, and two go on at once.
        assert_eq!(waits, [3, 5, 8, 10]);
        for number in 7..100 {
            downloads.admit(machine(number), now).unwrap_err();
        }
        let last = downloads.admit(machine(100), now).unwrap_err();
        assert_eq!(last.retry_after, LONGEST_WAIT);
    }

    proptest! {
        /// Machines ask and end in any order. There are never too many downloads, and all get their turn.
        #[test]
        fn no_more_than_the_limit_and_nobody_starves(limit in 1u32..4, events in prop::collection::vec((0u8..9, any::<bool>()), 0..60)) {
            let (downloads, now) = (downloads(limit), Instant::now());
            let mut permits: Vec<(u8, Permit)> = Vec::new();
            for (number, asks) in events {
                if asks {
                    permits.extend(downloads.admit(machine(number), now).ok().map(|permit| (number, permit)));
                } else {
                    permits.retain(|(other, _)| *other != number);
                }
                prop_assert!(downloads.count().0 <= limit as usize);
            }
            permits.clear();
            // All ask again and again, and each that is let in is done at once: as many rounds do as there are machines.
            let mut left: Vec<u8> = (0..9).collect();
            for _ in 0..9 {
                left.retain(|number| downloads.admit(machine(*number), now).is_err());
            }
            prop_assert_eq!(left, Vec::<u8>::new());
        }
    }
}
