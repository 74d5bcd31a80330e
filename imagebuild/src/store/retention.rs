//! Which versions stay: the way back to an older one, and the removal of those that nobody needs.
//!
//! A version goes by one rename, to the name of a dead draft: what is left of it after a crash is removed with those. Never
//! removed are the current version and those that are in use. Who uses a version holds a shared lock on its directory
//! (`bootspec::store`); removal takes an exclusive one.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use bootspec::store::image_dir;
use bootspec::{ImageName, ImageRef};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use super::{DRAFT_PREFIX, Store, StoreError, lock, set_current, sync};
use crate::file_error::failed;

/// What becomes of a version when an image is cleaned up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Nodes boot it by default.
    Current,
    /// It is one of the newest.
    Recent,
    /// A node is booting it, or a boot server is told to boot it.
    InUse,
    /// It goes, and gives back so many bytes. Files that other versions share are not in them.
    Removed {
        /// Bytes on the disk.
        freed_bytes: u64,
    },
}

impl Store {
    /// Keeps the version from being removed for as long as the result lives.
    pub fn hold(&self, image: &ImageRef) -> Result<fs::File, StoreError> {
        let dir = self.dir(image);
        let held = fs::File::open(&dir).map_err(failed("open", &dir))?;
        match flock(&held, FlockOperation::NonBlockingLockShared) {
            Err(Errno::WOULDBLOCK) => Err(StoreError::Unknown(image.to_string(), self.root.clone())),
            // Without locks nothing can be held, and everything else works.
            _ => Ok(held),
        }
    }

    /// Makes a published version the one that nodes boot by default.
    pub fn make_current(&self, image: &ImageRef) -> Result<(), StoreError> {
        Ok(set_current(&image_dir(&self.root, &image.name), &image.version)?)
    }

    /// The newest version that is older than the current one.
    pub fn before_current(&self, name: &ImageName) -> Result<ImageRef, StoreError> {
        let current = self.resolve(name.as_str())?;
        let older = self.versions(name)?.into_iter().filter(|image| *image < current).max();
        older.ok_or(StoreError::NoOlder(current))
    }

    /// Removes a published version, or with `dry_run` says whether it may be.
    pub fn remove(&self, image: &ImageRef, dry_run: bool) -> Result<Fate, StoreError> {
        match self.fate(image, dry_run)? {
            Fate::Current => Err(StoreError::Current(image.clone())),
            Fate::InUse => Err(StoreError::InUse(image.clone())),
            fate => Ok(fate),
        }
    }

    /// Removes the versions of `name` that are neither current, nor in use, nor among the `keep` newest. With `dry_run`,
    /// says what would become of each.
    pub fn clean_up(
        &self,
        name: &ImageName,
        keep: usize,
        dry_run: bool,
    ) -> Result<Vec<(ImageRef, Fate)>, StoreError> {
        let mut versions = self.versions(name)?;
        versions.sort();
        let recent = versions.len().saturating_sub(keep);
        let fate = |(index, image): (usize, ImageRef)| {
            let fate = match self.current(name)?.as_ref() == Some(&image) {
                true => Fate::Current,
                false if index >= recent => Fate::Recent,
                false => self.fate(&image, dry_run)?,
            };
            Ok((image, fate))
        };
        versions.into_iter().enumerate().map(fate).collect()
    }

    /// Removes the version unless somebody needs it, or with `dry_run` only says so.
    fn fate(&self, image: &ImageRef, dry_run: bool) -> Result<Fate, StoreError> {
        let (parent, dir) = (image_dir(&self.root, &image.name), self.dir(image));
        // Held, so that it does not become current meanwhile.
        let _changing = lock(&parent, FlockOperation::LockExclusive)?;
        if self.current(&image.name)?.as_ref() == Some(image) {
            return Ok(Fate::Current);
        }
        let opened = fs::File::open(&dir).map_err(failed("open", &dir))?;
        match flock(&opened, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Ok(Fate::InUse),
            Err(errno) => return Err(failed("lock", &dir)(errno.into()).into()),
        }
        let freed_bytes = own_bytes(&dir)?;
        if !dry_run {
            let removed = parent.join(format!("{DRAFT_PREFIX}{}-removed", image.version));
            fs::rename(&dir, &removed).map_err(failed("remove", &dir))?;
            sync(&parent)?;
            fs::remove_dir_all(&removed).map_err(failed("remove", &removed))?;
        }
        Ok(Fate::Removed { freed_bytes })
    }
}

/// What the files of `dir` take on the disk that no other directory has as well.
fn own_bytes(dir: &Path) -> Result<u64, StoreError> {
    let mut bytes = 0;
    for entry in fs::read_dir(dir).map_err(failed("list", dir))? {
        let metadata = entry.and_then(|entry| entry.metadata()).map_err(failed("list", dir))?;
        if metadata.nlink() == 1 {
            bytes += metadata.blocks() * 512;
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::super::tests::publish;
    use super::*;

    fn store_of(versions: usize) -> (tempfile::TempDir, Store, Vec<ImageRef>) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(dir.path());
        let images = (0..versions).map(|number| publish(&store, &number.to_string(), "kernel")).collect();
        (dir, store, images)
    }

    fn is_there(store: &Store, image: &ImageRef) -> bool {
        store.resolve(&image.to_string()).is_ok()
    }

    #[test]
    fn the_way_back_is_the_version_before_and_ends_at_the_oldest() {
        let (_dir, store, images) = store_of(3);
        let name = &images[0].name;
        assert_eq!(store.before_current(name).unwrap(), images[1]);
        store.make_current(&images[1]).unwrap();
        assert_eq!(store.current(name).unwrap().unwrap(), images[1]);
        assert_eq!(store.before_current(name).unwrap(), images[0]);
        store.make_current(&images[0]).unwrap();
        let error = store.before_current(name).unwrap_err().to_string();
        assert!(error.contains("no version older than failsafe/0"), "{error}");
    }

    #[test]
    fn what_is_current_or_in_use_stays() {
        let (_dir, store, images) = store_of(4);
        store.make_current(&images[0]).unwrap();
        let user = store.hold(&images[1]).unwrap();
        let name = &images[0].name;
        let removed = Fate::Removed { freed_bytes: own_bytes(&store.dir(&images[2])).unwrap() };
        assert!(matches!(removed, Fate::Removed { freed_bytes: 1.. }));
        let expected = [Fate::Current, Fate::InUse, removed, Fate::Recent];
        for dry_run in [true, false] {
            let fates = store.clean_up(name, 1, dry_run).unwrap();
            let expected: Vec<_> = images.iter().cloned().zip(expected).collect();
            assert_eq!(fates, expected);
            assert_eq!(is_there(&store, &images[2]), dry_run);
        }
        assert!(matches!(store.remove(&images[0], false), Err(StoreError::Current(_))));
        assert!(matches!(store.remove(&images[1], true), Err(StoreError::InUse(_))));
        drop(user);
        for dry_run in [true, false] {
            assert!(is_there(&store, &images[1]));
            assert!(matches!(store.remove(&images[1], dry_run), Ok(Fate::Removed { .. })));
        }
        assert_eq!(store.list().unwrap().len(), 2);
        let left: Vec<_> = fs::read_dir(store.root.join("failsafe")).unwrap().collect();
        assert_eq!(left.len(), 3, "{left:?}");
    }

    #[test]
    fn files_that_another_version_shares_free_nothing() {
        let (_dir, store, images) = store_of(2);
        let before = own_bytes(&store.dir(&images[0])).unwrap();
        let kernel = store.dir(&images[0]).join("vmlinuz");
        fs::hard_link(&kernel, store.root.join("shared")).unwrap();
        assert!(own_bytes(&store.dir(&images[0])).unwrap() < before);
    }
}
