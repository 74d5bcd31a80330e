//! Lock files: exactly which packages a recipe's images have, with their digests, so that later builds have the same.
//!
//! ```text
//! make:     recipe -> scratch root, from the repositories -> what is installed, and where it came from -> Lock
//! install:  Lock -> cached root, or: package files by their digests -> root, without network -> cached root
//! ```
//! The package manager checks signatures when the lock is made. After that the digests of the lock stand for them.

mod changes;
mod file;
mod install;
mod make;
mod pool;
mod roots;
mod selection;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use bootspec::manifest::Package;
use bootspec::{ImageName, Sha256Digest};
use serde::{Deserialize, Serialize};

use crate::file_error::FileError;
use crate::recipe::Recipe;
use crate::source::SourceError;
use crate::tool::ToolError;

pub use file::{ParseLockError, default_path};
pub use install::{Locked, install};
pub use make::make;
pub use selection::Selection;

/// What a lock file says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lock {
    /// What of the recipe decided about the packages.
    pub selection: Selection,
    /// The packages, sorted by name, version and architecture.
    pub packages: Vec<Pinned>,
}

/// One package that is pinned.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pinned {
    /// Its name.
    pub name: String,
    /// Its version, with epoch and release.
    pub version: String,
    /// `amd64`, `x86_64`, `all`, `noarch`.
    pub architecture: String,
    /// Digest of the package file.
    pub sha256: Sha256Digest,
    /// Length of the package file.
    pub size_bytes: u64,
    /// Where the file was when the lock was made.
    pub url: String,
    /// What Debian's archive says of it; packages themselves may say otherwise. It decides what is installed unasked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<String>,
}

impl Pinned {
    /// As the package manager calls it.
    pub fn package(&self) -> Package {
        Package {
            name: self.name.clone(),
            version: self.version.clone(),
            architecture: self.architecture.clone(),
        }
    }

    fn title(&self) -> String {
        format!("{} {} ({})", self.name, self.version, self.architecture)
    }
}

/// A lock cannot be made, or an image cannot be built by it.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// A file or directory.
    #[error(transparent)]
    File(#[from] FileError),
    /// The lock file is none.
    #[error("the lock file {} is not usable", path.display())]
    Parse {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: ParseLockError,
    },
    /// There is no lock.
    #[error("there is no lock file {}\nhint: `imagebuild lock` makes it", path.display())]
    NoLock {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// The recipe asks for other packages than it did.
    #[error(
        "the lock was made for another choice of packages than {recipe} has now:\n{}\nhint: `imagebuild lock` makes it anew; for a lock of other variants or variables give its file with --lock",
        differences.join("\n")
    )]
    Selection {
        /// Name of the image.
        recipe: ImageName,
        /// What differs, a line each.
        differences: Vec<String>,
    },
    /// The packages cannot be installed.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// A program failed.
    #[error(transparent)]
    Tool(#[from] ToolError),
    /// Packages of module streams need what the repositories say of the streams.
    #[error(
        "no lock can be made for {recipe}: source.modules names streams, and dnf installs their packages from repositories only"
    )]
    Modules {
        /// Name of the image.
        recipe: ImageName,
    },
    /// A package cannot stand in a lock.
    #[error("cannot pin {package}, which is from {url}: {problem}")]
    Pin {
        /// Name, version and architecture.
        package: String,
        /// Where it is from.
        url: String,
        /// Why not.
        problem: &'static str,
    },
    /// A package file is not the one that was pinned.
    #[error(
        "{package} from {url} is not the package that the lock pins: expected SHA-256 {expected}, found {found}\nhint: if the repository has replaced it on purpose, `imagebuild lock` pins the new one"
    )]
    Digest {
        /// Name, version and architecture.
        package: String,
        /// Where it is from.
        url: String,
        /// The digest in the lock, or in the signed index of the repository.
        expected: Sha256Digest,
        /// The digest of the file.
        found: Sha256Digest,
    },
    /// Packages are missing and must not be downloaded.
    #[error(
        "{} of the lock's packages are not in {}, or are damaged there:\n{}\nhint: build once without --offline",
        packages.len(), pool.display(), shown(packages)
    )]
    Offline {
        /// Where they should be.
        pool: PathBuf,
        /// Name, version and architecture of each.
        packages: Vec<String>,
    },
    /// Other packages were installed than are pinned.
    #[error("the package manager did not install what the lock pins:\n{}", differences.join("\n"))]
    Installed {
        /// What differs, a line each.
        differences: Vec<String>,
    },
}

/// How many names a message shows.
const SHOWN: usize = 10;

/// A line for each name, unless they are too many.
fn shown(names: &[String]) -> String {
    let mut lines: Vec<_> = names.iter().take(SHOWN).map(|name| format!("  {name}")).collect();
    if names.len() > SHOWN {
        lines.push(format!("  and {} more", names.len() - SHOWN));
    }
    lines.join("\n")
}

impl Lock {
    /// The lock file at `path`, which must be there.
    pub fn open(path: &Path) -> Result<Self, LockError> {
        Self::read(path)?.ok_or_else(|| LockError::NoLock { path: path.to_owned() })
    }

    /// Refuses a recipe that asks for other packages than the one the lock was made for.
    pub fn check(&self, recipe: &Recipe) -> Result<(), LockError> {
        let differences = Selection::of(recipe).differences(&self.selection);
        match differences.is_empty() {
            true => Ok(()),
            false => Err(LockError::Selection { recipe: recipe.name.clone(), differences }),
        }
    }
}
