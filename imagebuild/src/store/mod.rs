//! The image store: drafts, atomic publication, look-up. Names and paths are `bootspec::store`'s.
//!
//! A version is made in a draft directory beside its destination, `STORE/IMAGE/.draft-*`, synced to disk, then renamed
//! into place, so that a crash or a full disk leaves no half image. A draft holds a lock while its process lives;
//! drafts whose process died are removed when the next draft of the image begins. Drafts begin, and `current` changes,
//! under a lock on the image's directory.

mod retention;

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use bootspec::manifest::{Artifact, Manifest, ManifestError};
use bootspec::store::{
    ArtifactName, CURRENT, MANIFEST, MANIFEST_SIGNATURE, NameError, current_link, image_dir,
};
use bootspec::{ImageName, ImageRef, ImageVersion};
use rustix::fs::{FlockOperation, flock};

use crate::digest::digest;
use crate::file_error::{FileError, failed};

pub use retention::Fate;

pub(crate) const DRAFT_PREFIX: &str = ".draft-";
/// The directory of a draft that is removed before publication. An artifact cannot have this name.
pub(crate) const SCRATCH: &str = "scratch";

/// A directory of published images.
#[derive(Clone, Debug)]
pub struct Store {
    root: PathBuf,
}

/// A published version.
#[derive(Clone, Debug)]
pub struct Published {
    /// Name and version.
    pub image: ImageRef,
    /// Whether nodes boot this version of the image by default.
    pub current: bool,
}

/// Something is wrong with the store or what was asked of it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A file of the store.
    #[error(transparent)]
    File(#[from] FileError),
    /// The manifest of a version is not usable.
    #[error("the manifest {path} is not usable")]
    Manifest {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: ManifestError,
    },
    /// There is no such image or version.
    #[error(
        "there is no image {0} in the store {1}\nhint: `imagebuild list --store {1}` shows what there is"
    )]
    Unknown(String, PathBuf),
    /// Nodes boot it by default.
    #[error(
        "{0} is what nodes boot by default\nhint: make another version current first: `imagebuild rollback`"
    )]
    Current(ImageRef),
    /// Its directory is locked.
    #[error(
        "{0} is in use: a node is booting it, bootserve's configuration names it, or another imagebuild reads it\nhint: bootserve lets go of it when the node is up, an hour after its script at the latest"
    )]
    InUse(ImageRef),
    /// A published version never changes.
    #[error(
        "there is another {0} in the store {1}: its files differ\nhint: `imagebuild diff` tells what differs from other versions, `imagebuild rm {0}` makes way"
    )]
    Exists(ImageRef, PathBuf),
    /// Another process is at it.
    #[error("{0} is just being made by another imagebuild\nhint: try again when that has ended")]
    InTheMaking(ImageRef),
    /// There is nothing to go back to.
    #[error("there is no version older than {0}")]
    NoOlder(ImageRef),
    /// The text names no image.
    #[error(transparent)]
    Name(#[from] NameError),
}

impl Store {
    /// The store at `root`, which is made when the first image is.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// Its directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// All versions of all images, sorted by name and version. Empty if the store does not exist yet.
    pub fn list(&self) -> Result<Vec<Published>, StoreError> {
        let mut list = Vec::new();
        for name in self.names()? {
            let current = self.current(&name)?;
            let versions = self.versions(&name)?.into_iter();
            list.extend(versions.map(|image| Published { current: current.as_ref() == Some(&image), image }));
        }
        list.sort_by(|a, b| a.image.cmp(&b.image));
        Ok(list)
    }

    /// The images that there are, sorted.
    pub fn names(&self) -> Result<Vec<ImageName>, StoreError> {
        let mut names = names(&self.root)?;
        names.sort();
        Ok(names)
    }

    /// The published versions of `name`.
    fn versions(&self, name: &ImageName) -> Result<Vec<ImageRef>, StoreError> {
        let versions = names::<ImageVersion>(&image_dir(&self.root, name))?;
        Ok(versions.into_iter().map(|version| ImageRef { name: name.clone(), version }).collect())
    }

    /// The version of `name` that nodes boot by default, if one was published.
    pub fn current(&self, name: &ImageName) -> Result<Option<ImageRef>, StoreError> {
        let link = current_link(&self.root, name);
        let target = match fs::read_link(&link) {
            Ok(target) => target,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed("read", &link)(error).into()),
        };
        let version = target.to_string_lossy().parse()?;
        Ok(Some(ImageRef { name: name.clone(), version }))
    }

    /// The version that `text` means: `NAME/VERSION`, or `NAME` for its current version.
    pub fn resolve(&self, text: &str) -> Result<ImageRef, StoreError> {
        let unknown = || StoreError::Unknown(text.to_owned(), self.root.clone());
        let image = match text.split_once('/') {
            Some((name, version)) => ImageRef { name: name.parse()?, version: version.parse()? },
            None => self.current(&text.parse()?)?.ok_or_else(unknown)?,
        };
        if image.dir(&self.root).join(MANIFEST).is_file() { Ok(image) } else { Err(unknown()) }
    }

    /// The directory of a published version.
    pub fn dir(&self, image: &ImageRef) -> PathBuf {
        image.dir(&self.root)
    }

    /// The description of a published version.
    pub fn manifest(&self, image: &ImageRef) -> Result<Manifest, StoreError> {
        let path = self.dir(image).join(MANIFEST);
        let json = fs::read(&path).map_err(failed("read", &path))?;
        Manifest::parse(&json).map_err(|source| StoreError::Manifest { path, source })
    }

    /// The signature of a published version's manifest, if it was signed.
    pub fn signature(&self, image: &ImageRef) -> Result<Option<String>, StoreError> {
        let path = self.dir(image).join(MANIFEST_SIGNATURE);
        match fs::read(&path) {
            // What is no text is no signature either, and is refused as one.
            Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed("read", &path)(error).into()),
        }
    }

    /// Begins a version of `name`. `version` is what the caller would like; if it is taken, `-2`, `-3`, … is appended.
    pub fn begin(&self, name: &ImageName, version: &ImageVersion) -> Result<Draft, StoreError> {
        self.begin_as(name, |parent| Ok(free_version(parent, version)))
    }

    /// Begins `image` itself, which was made elsewhere and keeps its name.
    pub fn begin_named(&self, image: &ImageRef) -> Result<Draft, StoreError> {
        self.begin_as(&image.name, |parent| {
            let taken = |name: String| parent.join(name).symlink_metadata().is_ok();
            if taken(image.version.to_string()) {
                return Err(StoreError::Exists(image.clone(), self.root.clone()));
            }
            match taken(draft_name(&image.version)) {
                true => Err(StoreError::InTheMaking(image.clone())),
                false => Ok(image.version.clone()),
            }
        })
    }

    /// Begins the version that `choose` chooses when it is given the image's directory.
    fn begin_as(
        &self,
        name: &ImageName,
        choose: impl FnOnce(&Path) -> Result<ImageVersion, StoreError>,
    ) -> Result<Draft, StoreError> {
        let parent = image_dir(&self.root, name);
        fs::create_dir_all(&parent).map_err(failed("create", &parent))?;
        // Held until this draft has its own lock, so that nobody takes it for dead before that.
        let _beginning = lock(&parent, FlockOperation::LockExclusive)?;
        remove_dead_drafts(&parent)?;
        let version = choose(&parent)?;
        let dir = tempfile::Builder::new()
            .prefix(&draft_name(&version))
            .rand_bytes(0)
            .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .tempdir_in(&parent)
            .map_err(failed("create a draft in", &parent))?;
        let lock = lock(dir.path(), FlockOperation::NonBlockingLockExclusive)?;
        Ok(Draft { image: ImageRef { name: name.clone(), version }, parent, dir, _lock: lock })
    }
}

/// A version that is being made. Dropped unpublished, it is removed.
pub struct Draft {
    /// What it will be called.
    pub image: ImageRef,
    parent: PathBuf,
    dir: tempfile::TempDir,
    _lock: File,
}

impl Draft {
    /// Where the artifacts go.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// A directory for what the build needs and the image does not; removed before publication.
    pub fn scratch(&self) -> Result<PathBuf, StoreError> {
        let path = self.dir().join(SCRATCH);
        fs::create_dir_all(&path).map_err(failed("create", &path))?;
        Ok(path)
    }

    /// Size and digest of an artifact that lies in the draft.
    pub fn describe(&self, name: &ArtifactName) -> Result<Artifact, StoreError> {
        Ok(describe(&self.dir().join(name.as_str()))?)
    }

    /// Writes `json`, which is the text of `manifest`, and its signature; makes everything durable, and makes this the
    /// current version.
    pub fn publish(
        self,
        json: &str,
        signature: Option<&str>,
        manifest: &Manifest,
    ) -> Result<ImageRef, StoreError> {
        let parent = self.parent.clone();
        let image = self.add(json, signature, manifest)?;
        set_current(&parent, &image.version)?;
        Ok(image)
    }

    /// Publishes this as [`Draft::publish`] does, and leaves the current version as it is.
    pub fn add(
        self,
        json: &str,
        signature: Option<&str>,
        manifest: &Manifest,
    ) -> Result<ImageRef, StoreError> {
        let dir = self.dir.path();
        let scratch = dir.join(SCRATCH);
        if scratch.exists() {
            fs::remove_dir_all(&scratch).map_err(failed("remove", &scratch))?;
        }
        let texts = [(MANIFEST, Some(json)), (MANIFEST_SIGNATURE, signature)];
        for (name, text) in texts.iter().filter_map(|(name, text)| Some((name, (*text)?))) {
            let path = dir.join(name);
            fs::write(&path, text)
                .and_then(|()| File::open(&path)?.sync_all())
                .map_err(failed("write", &path))?;
        }
        for name in manifest.artifacts.keys().map(ArtifactName::as_str) {
            sync(&dir.join(name))?;
        }
        sync(dir)?;
        let destination = self.parent.join(self.image.version.as_str());
        fs::rename(dir, &destination).map_err(failed("publish", &destination))?;
        let _published = self.dir.keep();
        sync(&self.parent)?;
        Ok(self.image)
    }
}

/// Size and digest of a file.
pub(crate) fn describe(path: &Path) -> Result<Artifact, FileError> {
    let file = File::open(path).map_err(failed("open", path))?;
    let (size_bytes, sha256) = digest(file).map_err(failed("read", path))?;
    Ok(Artifact { size_bytes, sha256 })
}

/// Points `current` at `version`: a new link renamed over the old one, so that there is one at every moment.
fn set_current(image_dir: &Path, version: &ImageVersion) -> Result<(), FileError> {
    let _changing = lock(image_dir, FlockOperation::LockExclusive)?;
    let new = image_dir.join(format!("{DRAFT_PREFIX}{CURRENT}"));
    let link = image_dir.join(CURRENT);
    remove_if_there(&new)?;
    symlink(version.as_str(), &new).map_err(failed("create", &new))?;
    fs::rename(&new, &link).map_err(failed("replace", &link))?;
    sync(image_dir)
}

/// A crash may have left the link that was to become `current`.
fn remove_if_there(link: &Path) -> Result<(), FileError> {
    match fs::remove_file(link) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", link)(error)),
        _ => Ok(()),
    }
}

fn draft_name(version: &ImageVersion) -> String {
    format!("{DRAFT_PREFIX}{version}")
}

/// `version`, or with the first number behind it that neither a published version nor a draft has.
fn free_version(parent: &Path, version: &ImageVersion) -> ImageVersion {
    let taken = |name: String| parent.join(name).symlink_metadata().is_ok();
    let numbered = (2u32..).map(|n| format!("{version}-{n}").parse().expect("a suffix keeps the name valid"));
    std::iter::once(version.clone())
        .chain(numbered)
        .find(|version| !taken(version.to_string()) && !taken(draft_name(version)))
        .expect("there are fewer than four billion versions")
}

/// Under the lock on `parent`: what no process holds a lock on is dead.
pub(crate) fn remove_dead_drafts(parent: &Path) -> Result<(), FileError> {
    for entry in fs::read_dir(parent).map_err(failed("list", parent))? {
        let entry = entry.map_err(failed("list", parent))?;
        let path = entry.path();
        let is_draft = entry.file_name().to_string_lossy().starts_with(DRAFT_PREFIX);
        let is_dir = entry.file_type().is_ok_and(|file_type| file_type.is_dir());
        if !is_draft || !is_dir {
            continue;
        }
        // A draft that its process has just removed is gone, and that is all that is wanted.
        let Ok(dir) = File::open(&path) else { continue };
        if flock(&dir, FlockOperation::NonBlockingLockExclusive).is_ok() {
            match fs::remove_dir_all(&path) {
                // A build without root was killed, and its files belong to ids that only the next build has.
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
                result => result.map_err(failed("remove the dead draft", &path))?,
            }
        }
    }
    Ok(())
}

pub(crate) fn lock(dir: &Path, operation: FlockOperation) -> Result<File, FileError> {
    let file = File::open(dir).map_err(failed("open", dir))?;
    flock(&file, operation).map_err(|errno| failed("lock", dir)(errno.into()))?;
    Ok(file)
}

/// The names in `dir` that are valid as `T`; drafts and `current` are not.
fn names<T: std::str::FromStr>(dir: &Path) -> Result<Vec<T>, StoreError> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed("list", dir)(error).into()),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(failed("list", dir))?;
        if entry.path().is_dir() {
            names.extend(entry.file_name().to_str().and_then(|name| name.parse().ok()));
        }
    }
    Ok(names)
}

pub(crate) fn sync(path: &Path) -> Result<(), FileError> {
    File::open(path).and_then(|file| file.sync_all()).map_err(failed("sync to disk", path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use bootspec::Sha256Digest;
    use bootspec::manifest::{BootMode, Build, FORMAT, RootOrigin};
    use std::collections::BTreeMap;

    pub fn publish(store: &Store, version: &str, contents: &str) -> ImageRef {
        let draft = store.begin(&"failsafe".parse().unwrap(), &version.parse().unwrap()).unwrap();
        let vmlinuz: ArtifactName = "vmlinuz".parse().unwrap();
        fs::write(draft.dir().join("vmlinuz"), contents).unwrap();
        fs::write(draft.scratch().unwrap().join("temporary"), "x").unwrap();
        let manifest = Manifest {
            format: FORMAT,
            image: draft.image.clone(),
            architecture: "x86_64".into(),
            kernel_release: "6.1".into(),
            mode: BootMode::Failsafe,
            kernel_args: vec![],
            artifacts: BTreeMap::from([(vmlinuz.clone(), draft.describe(&vmlinuz).unwrap())]),
            root: None,
            rollback_index: 0,
            packages: vec![],
            build: Build {
                inputs: Sha256Digest::new([0; 32]),
                tool: "test".into(),
                host: "test".into(),
                time_unix: 0,
                root: RootOrigin::default(),
            },
        };
        draft.publish(&manifest.to_json(), None, &manifest).unwrap()
    }

    #[test]
    fn published_versions_are_listed_and_resolved() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(dir.path().join("store"));
        assert!(store.list().unwrap().is_empty());
        let first = publish(&store, "1", "kernel");
        let second = publish(&store, "1", "kernel");
        assert_eq!(second.to_string(), "failsafe/1-2");
        let list = store.list().unwrap();
        assert_eq!(list.iter().map(|p| p.current).collect::<Vec<_>>(), [false, true]);
        assert_eq!(store.resolve("failsafe").unwrap(), second);
        assert_eq!(store.resolve("failsafe/1").unwrap(), first);
        assert!(!store.dir(&second).join(SCRATCH).exists());
    }

    #[test]
    fn an_unknown_image_is_an_error_with_a_hint() {
        let dir = tempfile::tempdir().unwrap();
        let error = Store::new(dir.path()).resolve("nothing").unwrap_err();
        assert!(error.to_string().contains("hint: `imagebuild list"), "{error}");
    }

    #[test]
    fn live_drafts_stay_and_dead_ones_are_removed() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(dir.path());
        let name = "failsafe".parse().unwrap();
        let alive = store.begin(&name, &"1".parse().unwrap()).unwrap();
        let dead = dir.path().join("failsafe/.draft-dead");
        fs::create_dir_all(dead.join("scratch")).unwrap();
        let other = store.begin(&name, &"1".parse().unwrap()).unwrap();
        assert!(alive.dir().exists() && other.dir().exists() && !dead.exists());
        assert_ne!(alive.image, other.image, "a draft reserves its version");
        let path = alive.dir().to_owned();
        drop(alive);
        assert!(!path.exists());
    }
}
