//! What is being sent to whom, and how far it has come. Kept in memory alone: the newest download of each address.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use bootspec::event::BootId;

/// When there are as many, those that have ended are forgotten.
const MAX_KEPT: usize = 20_000;

/// The newest download of each address.
#[derive(Debug)]
pub struct Transfers {
    newest: Mutex<HashMap<Ipv4Addr, Arc<Transfer>>>,
    began: Instant,
}

/// A download of a file.
#[derive(Debug)]
pub struct Transfer {
    /// Name of the file: `initramfs.img`.
    pub file: String,
    /// Its length.
    pub size_bytes: u64,
    /// Of which boot, if the URL said so.
    pub boot: Option<BootId>,
    /// When it began.
    pub began: SystemTime,
    /// Where in the file it begins.
    first: u64,
    /// How much of it is to be sent.
    wanted_bytes: u64,
    sent_bytes: AtomicU64,
    epoch: Instant,
    /// When the client took bytes last, in milliseconds since `epoch`.
    moved_ms: AtomicU64,
    is_over: AtomicBool,
}

/// How far a download is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// The file.
    pub file: String,
    /// Up to which byte of it has been handed to the connection.
    pub at_bytes: u64,
    /// Length of the file.
    pub size_bytes: u64,
    /// When it began.
    pub began: SystemTime,
    /// For how long the client has taken nothing.
    pub still: Duration,
    /// What has become of it.
    pub end: Option<TransferEnd>,
}

/// How a download has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransferEnd {
    /// All that was wanted is sent.
    Complete,
    /// The connection broke before.
    Broken,
}

/// Which part of which file is sent.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Name of the file.
    pub file: String,
    /// Its length.
    pub size_bytes: u64,
    /// Of which boot.
    pub boot: Option<BootId>,
    /// The first byte that is sent.
    pub first: u64,
    /// How many are.
    pub wanted_bytes: u64,
}

/// The download goes on for as long as this lives.
#[derive(Debug)]
pub struct UnderWay(Arc<Transfer>);

impl Default for Transfers {
    fn default() -> Self {
        Self { newest: Mutex::default(), began: Instant::now() }
    }
}

impl Transfers {
    /// A download by `peer` begins.
    pub fn begin(&self, peer: Ipv4Addr, wanted: Wanted, now: Instant) -> UnderWay {
        let Wanted { file, size_bytes, boot, first, wanted_bytes } = wanted;
        let transfer = Arc::new(Transfer {
            file,
            size_bytes,
            boot,
            began: SystemTime::now(),
            first,
            wanted_bytes,
            sent_bytes: AtomicU64::new(0),
            epoch: self.began,
            moved_ms: AtomicU64::new(ms(now.saturating_duration_since(self.began))),
            is_over: AtomicBool::new(false),
        });
        let mut newest = self.lock();
        if newest.len() >= MAX_KEPT {
            newest.retain(|_, transfer| !transfer.is_over.load(Ordering::Relaxed));
        }
        newest.insert(peer, Arc::clone(&transfer));
        UnderWay(transfer)
    }

    /// The newest of each address.
    pub fn newest(&self) -> HashMap<Ipv4Addr, Arc<Transfer>> {
        self.lock().clone()
    }

    /// How many go on.
    pub fn under_way(&self) -> usize {
        self.lock().values().filter(|transfer| !transfer.is_over.load(Ordering::Relaxed)).count()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Ipv4Addr, Arc<Transfer>>> {
        // The map is whole even if a thread panicked while it held the lock.
        self.newest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Transfer {
    /// So many more bytes were handed to the connection.
    pub fn sent(&self, bytes: u64) {
        self.sent_bytes.fetch_add(bytes, Ordering::Relaxed);
        self.moved_ms.store(ms(self.epoch.elapsed()), Ordering::Relaxed);
    }

    /// How far it is.
    pub fn progress(&self, now: Instant) -> Progress {
        // In this order: what was sent before the end is seen with it.
        let is_over = self.is_over.load(Ordering::Acquire);
        let sent = self.sent_bytes.load(Ordering::Relaxed);
        let moved = self.epoch + Duration::from_millis(self.moved_ms.load(Ordering::Relaxed));
        let end = match sent >= self.wanted_bytes {
            _ if !is_over => None,
            true => Some(TransferEnd::Complete),
            false => Some(TransferEnd::Broken),
        };
        Progress {
            file: self.file.clone(),
            // Several ranges come with lines between them.
            at_bytes: (self.first + sent).min(self.size_bytes),
            size_bytes: self.size_bytes,
            began: self.began,
            still: now.saturating_duration_since(moved),
            end,
        }
    }
}

impl UnderWay {
    /// What is told of the bytes that are sent.
    pub fn transfer(&self) -> Arc<Transfer> {
        Arc::clone(&self.0)
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.is_over.store(true, Ordering::Release);
    }
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(first: u64, wanted_bytes: u64) -> Wanted {
        Wanted { file: "initramfs.img".to_owned(), size_bytes: 100, boot: None, first, wanted_bytes }
    }

    #[test]
    fn a_download_is_followed_to_its_end() {
        let (transfers, peer) = (Transfers::default(), Ipv4Addr::from([10, 0, 0, 1]));
        let progress = || transfers.newest()[&peer].progress(Instant::now());
        let under_way = transfers.begin(peer, wanted(40, 60), Instant::now());
        under_way.transfer().sent(20);
        assert_eq!((progress().at_bytes, progress().end, transfers.under_way()), (60, None, 1));
        drop(under_way);
        assert_eq!((progress().end, transfers.under_way()), (Some(TransferEnd::Broken), 0));
        let again = transfers.begin(peer, wanted(60, 40), Instant::now());
        again.transfer().sent(40);
        drop(again);
        assert_eq!((progress().at_bytes, progress().end), (100, Some(TransferEnd::Complete)));
    }

    #[test]
    fn a_client_that_takes_nothing_is_told_of() {
        let (transfers, peer) = (Transfers::default(), Ipv4Addr::from([10, 0, 0, 1]));
        let under_way = transfers.begin(peer, wanted(0, 100), Instant::now());
        let later = Instant::now() + Duration::from_secs(30);
        assert!(under_way.transfer().progress(later).still >= Duration::from_secs(29));
    }

    #[test]
    fn what_has_ended_is_forgotten_when_there_is_much_of_it() {
        let transfers = Transfers::default();
        let address = |number: usize| Ipv4Addr::from((number as u32).to_be_bytes());
        let last = transfers.begin(address(0), wanted(0, 1), Instant::now());
        (1..MAX_KEPT + 5)
            .for_each(|number| drop(transfers.begin(address(number), wanted(0, 1), Instant::now())));
        assert!(transfers.newest().len() < MAX_KEPT);
        assert!(transfers.newest().contains_key(&address(0)));
        drop(last);
    }
}
