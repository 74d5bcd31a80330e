//! The scripts of the last moment. A machine that asks again so soon is not booting anew: its loader tried again, or someone
//! asks for it in a loop. It gets what it got, and no further boot is noted.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bootspec::MacAddr;
use bytes::Bytes;

use crate::config::Scheme;

/// For so long a script is repeated. Even a virtual machine takes longer from one script to the next; and what changes in the
/// store or the log of boots shows in scripts this late at most.
pub const REPEAT: Duration = Duration::from_secs(1);

/// Scripts by machine, for each scheme of URLs. Each part has a lock of its own, or threads that serve a hall would wait for each other.
#[derive(Debug, Default)]
pub struct RecentScripts([Mutex<Scripts>; PARTS]);

const PARTS: usize = 32;

#[derive(Debug, Default)]
struct Scripts {
    sent: HashMap<(MacAddr, Scheme), (Instant, Bytes)>,
    /// When old ones were last removed.
    swept: Option<Instant>,
}

impl RecentScripts {
    /// What the machine was sent a moment before `now`.
    pub fn get(&self, mac: MacAddr, scheme: Scheme, now: Instant) -> Option<Bytes> {
        let scripts = self.part(mac);
        let (sent, script) = scripts.sent.get(&(mac, scheme))?;
        is_recent(*sent, now).then(|| script.clone())
    }

    /// Notes what a machine is sent. Each machine that is known takes room for one, so there is an end to it.
    pub fn insert(&self, mac: MacAddr, scheme: Scheme, script: Bytes, now: Instant) {
        let mut scripts = self.part(mac);
        if !scripts.swept.is_some_and(|swept| is_recent(swept, now)) {
            scripts.sent.retain(|_, (sent, _)| is_recent(*sent, now));
            scripts.swept = Some(now);
        }
        scripts.sent.insert((mac, scheme), (now, script));
    }

    /// Forgets them all: they may not be what is served now.
    pub fn clear(&self) {
        self.0.iter().for_each(|part| lock(part).sent.clear());
    }

    fn part(&self, mac: MacAddr) -> MutexGuard<'_, Scripts> {
        let [.., last] = mac.octets();
        lock(&self.0[usize::from(last) % PARTS])
    }
}

fn lock(part: &Mutex<Scripts>) -> MutexGuard<'_, Scripts> {
    part.lock().unwrap_or_else(PoisonError::into_inner)
}

fn is_recent(time: Instant, now: Instant) -> bool {
    now.saturating_duration_since(time) < REPEAT
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_is_repeated_for_a_moment_and_then_forgotten() {
        let (scripts, start) = (RecentScripts::default(), Instant::now());
        let mac = |number| MacAddr::new([2, 0, 0, 0, 0, number * PARTS as u8]);
        let insert = |number, now| scripts.insert(mac(number), Scheme::Http, vec![number].into(), now);
        insert(1, start);
        insert(2, start + REPEAT / 2);
        let get = |number, now| scripts.get(mac(number), Scheme::Http, now);
        assert_eq!(get(1, start + REPEAT / 2).as_deref(), Some(&[1][..]));
        assert_eq!(get(1, start + REPEAT), None);
        assert_eq!(scripts.get(mac(1), Scheme::Https, start), None);
        insert(3, start + REPEAT);
        assert_eq!(scripts.part(mac(1)).sent.len(), 2);
        assert!(get(2, start + REPEAT).is_some() && get(3, start + REPEAT).is_some());
    }
}
