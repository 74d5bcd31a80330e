//! Roots that were installed by a lock, `CACHE/roots/IMAGE/DIGEST`: the digest is of all that decides what the package
//! manager makes. Of each image the newest is kept.
//!
//! As in the image store, a root is made in a draft beside its destination and renamed; a draft is locked while its process
//! lives, and so is a root that is being copied.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use bootspec::{ImageName, Sha256Digest};
use rustix::fs::{FlockOperation, flock, syncfs};

use super::LockError;
use crate::file_error::{FileError, failed};
use crate::progress::Step;
use crate::store::{DRAFT_PREFIX, lock, remove_dead_drafts, sync};
use crate::tool::Tools;

const DIR: &str = "roots";
const ROOT: &str = "root";

/// The roots of one image.
pub struct Roots {
    dir: PathBuf,
}

/// A root that stays while this lives.
pub struct Cached {
    root: PathBuf,
    _lock: File,
}

/// A directory for a root that is being made. Dropped, it is removed.
pub struct Draft {
    dir: tempfile::TempDir,
    _lock: File,
}

impl Roots {
    /// Those of the image `name` in the directory `cache`.
    pub fn open(cache: &Path, name: &ImageName) -> Result<Self, FileError> {
        let dir = cache.join(DIR).join(name.as_str());
        fs::create_dir_all(&dir).map_err(failed("create", &dir))?;
        Ok(Self { dir })
    }

    /// The root of `digest`, if it is there.
    pub fn find(&self, digest: Sha256Digest) -> Result<Option<Cached>, FileError> {
        let _looking = lock(&self.dir, FlockOperation::LockExclusive)?;
        let path = self.dir.join(digest.to_string());
        if !path.is_dir() {
            return Ok(None);
        }
        let lock = lock(&path, FlockOperation::LockShared)?;
        Ok(Some(Cached { root: path.join(ROOT), _lock: lock }))
    }

    /// Begins a root, and removes what killed builds have left.
    pub fn begin(&self) -> Result<Draft, FileError> {
        // Held until the draft has its own lock, so that nobody takes it for dead before that.
        let _beginning = lock(&self.dir, FlockOperation::LockExclusive)?;
        remove_dead_drafts(&self.dir)?;
        let dir = tempfile::Builder::new()
            .prefix(DRAFT_PREFIX)
            .permissions(fs::Permissions::from_mode(0o755))
            .tempdir_in(&self.dir)
            .map_err(failed("create a draft in", &self.dir))?;
        let lock = lock(dir.path(), FlockOperation::NonBlockingLockExclusive)?;
        Ok(Draft { dir, _lock: lock })
    }

    /// Keeps a copy of the root of `tools` as that of `digest`, and no other that nobody is copying.
    pub fn keep(&self, digest: Sha256Digest, tools: &Tools, step: &Step) -> Result<(), LockError> {
        let draft = self.begin()?;
        tools.copy_tree(tools.sandbox().root(), &draft.root(), step)?;
        let path = draft.dir.path();
        // It stays, with the setuid programs of another system in it: they are nobody's to run.
        fs::set_permissions(path, fs::Permissions::from_mode(0o700))
            .map_err(failed("set the mode of", path))?;
        File::open(path)
            .and_then(|dir| Ok(syncfs(dir)?))
            .map_err(failed("sync to disk the file system of", path))?;
        let _changing = lock(&self.dir, FlockOperation::LockExclusive)?;
        self.remove_others(path)?;
        let destination = self.dir.join(digest.to_string());
        if !destination.exists() {
            fs::rename(draft.dir.keep(), &destination).map_err(failed("create", &destination))?;
            sync(&self.dir)?;
        }
        Ok(())
    }

    fn remove_others(&self, draft: &Path) -> Result<(), FileError> {
        let list = failed("list", &self.dir);
        for entry in fs::read_dir(&self.dir).map_err(&list)? {
            let path = entry.map_err(&list)?.path();
            let dir = File::open(&path).map_err(failed("open", &path))?;
            if path != draft && flock(&dir, FlockOperation::NonBlockingLockExclusive).is_ok() {
                fs::remove_dir_all(&path).map_err(failed("remove", &path))?;
            }
        }
        Ok(())
    }
}

impl Cached {
    /// Makes the root of `tools`, which is not there yet, a copy of it.
    pub fn copy_to(&self, tools: &Tools, step: &Step) -> Result<(), LockError> {
        Ok(tools.copy_tree(&self.root, tools.sandbox().root(), step)?)
    }
}

impl Draft {
    /// Where the root goes.
    pub fn root(&self) -> PathBuf {
        self.dir.path().join(ROOT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::Progress;
    use crate::sandbox::Sandbox;
    use crate::testing::is_root;

    #[test]
    fn the_newest_root_of_an_image_is_kept_and_what_is_in_use_stays() {
        if !is_root() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let tools =
            |name: &str| Tools::new(Sandbox::new(&dir.path().join(name)), &dir.path().join("log")).unwrap();
        let roots = Roots::open(&dir.path().join("cache"), &"compute".parse().unwrap()).unwrap();
        let step = Progress::quiet().step("test");
        fs::create_dir(dir.path().join("made")).unwrap();
        fs::write(dir.path().join("made/file"), "first").unwrap();
        let [first, second, third] = [1, 2, 3].map(|n| Sha256Digest::new([n; 32]));
        assert!(roots.find(first).unwrap().is_none());
        roots.keep(first, &tools("made"), &step).unwrap();
        let kept = roots.dir.join(first.to_string());
        assert_eq!(fs::metadata(kept).unwrap().permissions().mode() & 0o777, 0o700);

        fs::create_dir(roots.dir.join(".draft-dead")).unwrap();
        let in_use = roots.find(first).unwrap().unwrap();
        fs::write(dir.path().join("made/file"), "second").unwrap();
        roots.keep(second, &tools("made"), &step).unwrap();
        assert!(!roots.dir.join(".draft-dead").exists());
        in_use.copy_to(&tools("copy"), &step).unwrap();
        assert_eq!(fs::read_to_string(dir.path().join("copy/file")).unwrap(), "first");

        drop(in_use);
        roots.keep(third, &tools("made"), &step).unwrap();
        assert!(roots.find(first).unwrap().is_none() && roots.find(second).unwrap().is_none());
        assert_eq!(fs::read_dir(&roots.dir).unwrap().count(), 1);
    }
}
