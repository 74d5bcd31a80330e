//! Where the lab keeps its files, and where it finds the programs it runs.
//!
//! ```text
//! LAB/store/           images                     LAB/cache/    imagebuild's package cache
//! LAB/runs/NAME/       console-NODE.log, qemu-NODE.log, bootserve.log, bootserve.toml, state/
//! ```
//! LAB is `$BOOTLAB_DIR`, or `target/lab` when run from a cargo build, or `/var/tmp/bootlab`. The files of a run stay
//! until the next run of that name.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::{env, iter};

use rustix::fs::{FlockOperation, flock};

/// Overrides the lab's directory.
pub const DIR_VARIABLE: &str = "BOOTLAB_DIR";
/// Where to look for imagebuild, bootserve and init first.
pub const BIN_DIR_VARIABLE: &str = "BOOTNODE_BIN_DIR";
const INSTALLED_DIR: &str = "/var/tmp/bootlab";

/// A place is missing or cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A program was not found.
    #[error("found no program '{name}' in {}\nhint: make build, or set {BIN_DIR_VARIABLE}", list(.looked_in))]
    NoProgram {
        /// Which.
        name: &'static str,
        /// Where it was looked for.
        looked_in: Vec<PathBuf>,
    },
    /// A directory or file of the lab could not be made.
    #[error("cannot make {}\nhint: {DIR_VARIABLE} moves the lab elsewhere", .path.display())]
    Make {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

fn list(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
}

/// The store of the small images without an init.
pub fn shell_store_dir() -> PathBuf {
    lab_dir().join("store-shell")
}

/// The lab's directory.
pub fn lab_dir() -> PathBuf {
    if let Some(dir) = env::var_os(DIR_VARIABLE) {
        return dir.into();
    }
    // Cargo marks its target directory as a cache.
    let target = executable_dirs().into_iter().find(|dir| dir.join("CACHEDIR.TAG").exists());
    target.map_or_else(|| INSTALLED_DIR.into(), |target| target.join("lab"))
}

/// The image store that tests and the demo share.
pub fn store_dir() -> PathBuf {
    lab_dir().join("store")
}

/// imagebuild's cache of packages.
pub fn cache_dir() -> PathBuf {
    lab_dir().join("cache")
}

/// Finds one of the project's programs: in `$BOOTNODE_BIN_DIR`, beside the running executable, or in cargo's
/// directory of that profile above it (test programs lie one level deeper).
pub fn program(name: &'static str) -> Result<PathBuf, Error> {
    let named = env::var_os(BIN_DIR_VARIABLE).map(PathBuf::from);
    let looked_in: Vec<PathBuf> = named.into_iter().chain(executable_dirs().into_iter().take(2)).collect();
    let found = looked_in.iter().map(|dir| dir.join(name)).find(|path| path.is_file());
    found.ok_or(Error::NoProgram { name, looked_in })
}

/// The directory of the running executable and those above it.
fn executable_dirs() -> Vec<PathBuf> {
    let executable = env::current_exe().unwrap_or_default();
    iter::successors(executable.parent(), |dir| dir.parent()).map(Path::to_owned).collect()
}

/// The files of one run, locked against a second run of the same name.
#[derive(Debug)]
pub struct RunDir {
    path: PathBuf,
    _lock: File,
}

impl RunDir {
    /// Makes the run's directory empty. While another process or test uses the name, `NAME-2` is taken and so on.
    pub fn create(name: &str) -> Result<Self, Error> {
        let runs = lab_dir().join("runs");
        make_dir(&runs)?;
        let mut names = iter::once(name.to_owned()).chain((2..).map(|number| format!("{name}-{number}")));
        let (path, lock) = loop {
            let path = runs.join(names.next().expect("the numbers do not end"));
            if let Some(lock) = try_lock(&path.with_extension("lock"))? {
                break (path, lock);
            }
        };
        if path.exists() {
            fs::remove_dir_all(&path).map_err(|source| Error::Make { path: path.clone(), source })?;
        }
        make_dir(&path)?;
        Ok(Self { path, _lock: lock })
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The log of a node's console.
    pub fn console_log(&self, node: &str) -> PathBuf {
        self.path.join(format!("console-{node}.log"))
    }

    /// Makes a directory for bootserve's state, which it writes after it has dropped root.
    pub fn make_state_dir(&self) -> Result<PathBuf, Error> {
        let path = self.path.join("state");
        make_dir(&path)?;
        let open_to_all = fs::set_permissions(&path, Permissions::from_mode(0o777));
        open_to_all.map_err(|source| Error::Make { path: path.clone(), source })?;
        Ok(path)
    }
}

/// Waits for the lock `path` and returns what holds it.
pub fn lock(path: &Path) -> Result<File, Error> {
    let make = |source| Error::Make { path: path.to_owned(), source };
    let file = File::create(path).map_err(make)?;
    flock(file.as_fd(), FlockOperation::LockExclusive).map_err(|errno| make(errno.into()))?;
    Ok(file)
}

fn try_lock(path: &Path) -> Result<Option<File>, Error> {
    let file = File::create(path).map_err(|source| Error::Make { path: path.to_owned(), source })?;
    match flock(file.as_fd(), FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(file)),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
        Err(errno) => Err(Error::Make { path: path.to_owned(), source: errno.into() }),
    }
}

/// Makes a directory and those above it.
pub fn make_dir(path: &Path) -> Result<(), Error> {
    fs::create_dir_all(path).map_err(|source| Error::Make { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_keep_their_files_in_the_target_directory() {
        assert!(lab_dir().ends_with("target/lab"), "{}", lab_dir().display());
    }

    #[test]
    fn a_missing_program_is_named_with_the_remedy() {
        let error = program("no-such-program").unwrap_err().to_string();
        assert!(error.contains("'no-such-program'") && error.contains("hint: make build"), "{error}");
    }

    #[test]
    fn a_second_run_of_a_name_gets_a_directory_of_its_own() {
        let first = RunDir::create("places-test").unwrap();
        let second = RunDir::create("places-test").unwrap();
        assert!(second.path().ends_with("places-test-2"));
        drop(first);
        assert!(RunDir::create("places-test").unwrap().path().ends_with("places-test"));
    }
}
