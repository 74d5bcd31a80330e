//! Versions of images that must not be removed: those that nodes are booting, and those that the configuration names.
//!
//! A shared lock on a version's directory says so to whoever cleans up the store (`bootspec::store`). The kernel ends it with
//! us, so nothing is left to clean up after a crash.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bootspec::{ImageRef, MacAddr};
use rustix::fs::{FlockOperation, flock};
use tracing::warn;

/// A boot that takes longer has failed, or never said that it was done: failsafe shells do not.
pub const BOOT_LIMIT: Duration = Duration::from_secs(3600);

/// The locks that we hold.
#[derive(Debug)]
pub struct InUse {
    store: PathBuf,
    pinned: Mutex<Vec<File>>,
    versions: Mutex<HashMap<ImageRef, Version>>,
}

#[derive(Debug)]
struct Version {
    _lock: File,
    /// The machines that are booting it, since when.
    machines: HashMap<MacAddr, Instant>,
}

impl InUse {
    /// Holds the versions of `store` that are `pinned` for as long as this lives. One that is not there is left to those who
    /// look for it.
    pub fn new<'a>(store: PathBuf, pinned: impl IntoIterator<Item = &'a ImageRef>) -> Self {
        let held = Self { store, pinned: Mutex::default(), versions: Mutex::default() };
        held.pin(pinned);
        held
    }

    /// Holds these, and those that were pinned before no longer.
    pub fn pin<'a>(&self, pinned: impl IntoIterator<Item = &'a ImageRef>) {
        let pinned = pinned.into_iter().filter_map(|image| match self.lock(image) {
            Ok(lock) => lock,
            Err(error) => {
                warn!(%image, %error, "cannot hold a version that the configuration names");
                None
            }
        });
        // The new ones first: what both name is held all the time.
        let pinned = pinned.collect();
        *self.pinned.lock().unwrap_or_else(PoisonError::into_inner) = pinned;
    }

    /// How many versions the configuration holds.
    pub fn pinned(&self) -> usize {
        self.pinned.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Holds `image` until the machine's boot ends, it begins another one, or [`BOOT_LIMIT`] is over. An error if the version
    /// is being removed, or is gone.
    pub fn begin(&self, mac: MacAddr, image: &ImageRef, now: Instant) -> io::Result<()> {
        let mut versions = self.versions();
        end(&mut versions, mac, now);
        if let Some(version) = versions.get_mut(image) {
            version.machines.insert(mac, now);
            return Ok(());
        }
        if let Some(lock) = self.lock(image)? {
            versions.insert(image.clone(), Version { _lock: lock, machines: HashMap::from([(mac, now)]) });
        }
        Ok(())
    }

    /// The machine's boot is over.
    pub fn end(&self, mac: MacAddr, now: Instant) {
        end(&mut self.versions(), mac, now);
    }

    /// None where the file system has no locks: there is nothing to hold then, and no reason not to boot.
    fn lock(&self, image: &ImageRef) -> io::Result<Option<File>> {
        let dir = File::open(image.dir(&self.store))?;
        match flock(&dir, FlockOperation::NonBlockingLockShared) {
            Ok(()) => Ok(Some(dir)),
            Err(rustix::io::Errno::WOULDBLOCK) => {
                Err(io::Error::new(io::ErrorKind::WouldBlock, "it is being removed"))
            }
            Err(errno) => {
                warn!(%image, %errno, "cannot lock a version, so nothing keeps it from being removed");
                Ok(None)
            }
        }
    }

    fn versions(&self) -> MutexGuard<'_, HashMap<ImageRef, Version>> {
        // The map is whole even if a thread panicked while it held the lock.
        self.versions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Lets go of what the machine held, and of what was held for too long.
fn end(versions: &mut HashMap<ImageRef, Version>, mac: MacAddr, now: Instant) {
    versions.retain(|_, version| {
        version
            .machines
            .retain(|machine, since| *machine != mac && now.saturating_duration_since(*since) < BOOT_LIMIT);
        !version.machines.is_empty()
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fixture {
        dir: tempfile::TempDir,
        in_use: InUse,
    }

    impl Fixture {
        fn new(versions: &[&str], pinned: &[ImageRef]) -> Self {
            let dir = tempfile::tempdir().unwrap();
            for version in versions {
                std::fs::create_dir_all(dir.path().join(version)).unwrap();
            }
            let in_use = InUse::new(dir.path().to_owned(), pinned);
            Self { dir, in_use }
        }

        /// Whether somebody who wants to remove the version may.
        fn is_free(&self, version: &str) -> bool {
            let dir = File::open(self.dir.path().join(version)).unwrap();
            flock(&dir, FlockOperation::NonBlockingLockExclusive).is_ok()
        }
    }

    fn mac(last: u8) -> MacAddr {
        MacAddr::new([2, 0, 0, 0, 0, last])
    }

    fn image(text: &str) -> ImageRef {
        text.parse().unwrap()
    }

    #[test]
    fn a_version_is_held_until_the_last_machine_has_booted_it() {
        let fixture = Fixture::new(&["c/1", "c/2"], &[]);
        let now = Instant::now();
        fixture.in_use.begin(mac(1), &image("c/1"), now).unwrap();
        fixture.in_use.begin(mac(2), &image("c/1"), now).unwrap();
        assert!(!fixture.is_free("c/1") && fixture.is_free("c/2"));
        fixture.in_use.end(mac(1), now);
        assert!(!fixture.is_free("c/1"));
        fixture.in_use.begin(mac(2), &image("c/2"), now).unwrap();
        assert!(fixture.is_free("c/1") && !fixture.is_free("c/2"));
        fixture.in_use.end(mac(2), now);
        assert!(fixture.is_free("c/2"));
    }

    #[test]
    fn a_boot_that_never_ends_is_forgotten() {
        let fixture = Fixture::new(&["c/1"], &[]);
        let now = Instant::now();
        fixture.in_use.begin(mac(1), &image("c/1"), now).unwrap();
        fixture.in_use.end(mac(9), now + BOOT_LIMIT - Duration::from_secs(1));
        assert!(!fixture.is_free("c/1"));
        fixture.in_use.end(mac(9), now + BOOT_LIMIT);
        assert!(fixture.is_free("c/1"));
    }

    #[test]
    fn what_the_configuration_names_is_held_all_the_time() {
        let fixture = Fixture::new(&["c/1"], &[image("c/1"), image("c/absent")]);
        assert!(!fixture.is_free("c/1"));
        assert_eq!(fixture.in_use.pinned(), 1);
    }

    #[test]
    fn another_configuration_holds_its_own() {
        let fixture = Fixture::new(&["c/1", "c/2", "c/3"], &[image("c/1"), image("c/2")]);
        fixture.in_use.pin(&[image("c/2"), image("c/3")]);
        assert!(fixture.is_free("c/1") && !fixture.is_free("c/2") && !fixture.is_free("c/3"));
    }

    #[test]
    fn what_is_being_removed_or_is_gone_is_not_booted() {
        let fixture = Fixture::new(&["c/1"], &[]);
        let dir = File::open(fixture.dir.path().join("c/1")).unwrap();
        flock(&dir, FlockOperation::LockExclusive).unwrap();
        let error = fixture.in_use.begin(mac(1), &image("c/1"), Instant::now()).unwrap_err();
        assert!(error.to_string().contains("being removed"), "{error}");
        assert!(fixture.in_use.begin(mac(1), &image("c/2"), Instant::now()).is_err());
    }
}
