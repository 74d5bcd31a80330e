//! Sources of root file systems: each fills an empty directory with a recipe's packages, or with a root that exists already.

mod apt;
mod dnf;
mod existing;
mod files;
mod mmdebstrap;
mod oci;
mod own_manager;
mod scriptlet;

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use bootspec::ImageRef;
use bootspec::manifest::Package;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

pub use existing::{state, unpack_image};
pub use files::{PackageFiles, PackageFormat, Traced};
pub use own_manager::{allow_services, forbid_services, list_packages};
pub use scriptlet::ScriptletFailure;

use existing::SHELL;

use crate::architecture::{Architecture, NoEmulator};
use crate::archive::ScanError;
use crate::file_error::FileError;
use crate::interrupt;
use crate::progress::Step;
use crate::recipe::{PackageSource, Proxy, Recipe, Source};
use crate::sandbox::{SandboxError, View};
use crate::store::{Store, StoreError};
use crate::tool::{ToolError, Tools, hide_proxies, program};
use crate::tree::TreeError;

/// Between two looks at whether another build is done.
const LOCK_POLL: Duration = Duration::from_millis(200);

/// What the packages of a root are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    /// To run: they are configured by their scripts.
    System,
    /// To take the kernel from: they are unpacked and no script runs.
    KernelOnly,
}

/// A root could not be filled.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// A program failed.
    #[error(transparent)]
    Tool(#[from] ToolError),
    /// Packages were installed, but not all their scripts succeeded.
    #[error(
        "{} failed:\n{}\nhint: if the image works without what the script does, add the package to [scriptlets] allow_failure",
        if failures.len() == 1 { "a package's script" } else { "scripts of packages" },
        failures.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
    )]
    Scriptlets {
        /// Which.
        failures: Vec<ScriptletFailure>,
    },
    /// The list of installed packages is not as expected.
    #[error("cannot understand '{line}' in the list of packages that {program} printed")]
    PackageList {
        /// Which program.
        program: &'static str,
        /// The line.
        line: String,
    },
    /// Packages are to be added to a root that exists already, and it has nothing to add them with.
    #[error(
        "the root has no package manager to add {} with: looked for {known}\nhint: leave out packages and kernel.package, or start from a root that has one",
        packages.join(", ")
    )]
    NoManager {
        /// The packages.
        packages: Vec<String>,
        /// The package managers that are known.
        known: String,
    },
    /// A file is no container image.
    #[error(
        "{} is no archive of a container image: it has neither manifest.json nor index.json\nhint: if it is a root file system, use type = \"tar\"",
        path.display()
    )]
    NoContainerImage {
        /// The file.
        path: PathBuf,
    },
    /// The base image has no root.
    #[error("{image} has no root that another image can build on: it is a failsafe or discover image")]
    NoRoot {
        /// The base image.
        image: ImageRef,
    },
    /// The base image is not as its manifest says.
    #[error("the base image {image} is damaged: {problem}\nhint: build it again")]
    Damaged {
        /// The base image.
        image: ImageRef,
        /// The first thing that is wrong.
        problem: String,
    },
    /// The directory that the recipe starts from has files of somebody else, and their owners would be lost.
    #[error(
        "cannot copy {} of the directory: its owner or group is nobody, or is none of this user's ids\nhint: without root, files keep their owners if these are the user himself, who becomes root, and his subordinate ids; start from a tar archive, or run imagebuild as root",
        path.display()
    )]
    Foreign {
        /// Path in the directory.
        path: PathBuf,
    },
    /// Programs of the image cannot run here.
    #[error(transparent)]
    NoEmulator(#[from] NoEmulator),
    /// A root that exists already is for other machines.
    #[error(
        "the root is for {}, going by {SHELL} in it, and the image for {wanted}\nhint: set architecture in the recipe, or start from another root",
        found.map_or("machines of another kind", Architecture::name)
    )]
    OtherMachine {
        /// What its programs are for.
        found: Option<Architecture>,
        /// What the image is for.
        wanted: Architecture,
    },
    /// A file of the root cannot be read.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// The base image has a root that only root can read.
    #[error("cannot mount {}: the kernel lets only root mount file system images\nhint: run imagebuild as root, or start from an image with root = \"tmpfs\"", path.display())]
    Mount {
        /// The image of the file system.
        path: PathBuf,
    },
    /// An archive has an attribute that cannot be set here.
    #[error(
        "unpacking {} loses an extended attribute: {line}\nhint: without root, trusted.* and as a rule security.selinux cannot be set: run imagebuild as root, or leave them out of the archive",
        archive.display()
    )]
    LostAttribute {
        /// The archive.
        archive: PathBuf,
        /// What tar says.
        line: String,
    },
    /// rpm cannot make a file of a package.
    #[error(
        "cannot install packages: {line}\nhint: without root, no device node can be made; leave the package out, or run imagebuild as root. The whole output is in {}",
        log.display()
    )]
    Unpack {
        /// What rpm says.
        line: String,
        /// Where everything that was printed is.
        log: PathBuf,
    },
    /// The base image is not there, or cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The directory that the recipe starts from cannot be read.
    #[error(transparent)]
    Scan(#[from] ScanError),
    /// The root cannot be entered.
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    /// A file of the root, or one that it is made of.
    #[error(transparent)]
    File(#[from] FileError),
    /// A package is installed, and no repository has it.
    #[error(
        "cannot find out where the package {package} came from: no repository of the recipe has it\nhint: a lock pins packages of repositories only"
    )]
    Untraced {
        /// Name and version.
        package: String,
    },
    /// The root is not made of packages from repositories.
    #[error(
        "the recipe starts from a root that exists already, and a lock pins packages of repositories only\nhint: pin the root itself: the version of an image, the digest of a container image"
    )]
    NotFromRepositories,
    /// A file or directory that the package manager needs cannot be made.
    #[error("cannot prepare {}", path.display())]
    Prepare {
        /// Which.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// Fills the root with what `recipe` starts from and its packages, and returns what is installed, sorted by name. Downloads
/// are kept in `cache`; base images are of `store`.
pub fn install(
    recipe: &Recipe,
    tools: &Tools,
    cache: &Path,
    store: &Store,
    step: &Step,
) -> Result<Vec<Package>, SourceError> {
    let job = Job::new(recipe, tools, cache, step);
    match &recipe.source {
        Source::Existing(existing) => Ok(sorted(job.existing(existing, store)?)),
        _ => run(recipe, &job),
    }
}

/// The same with `files` in place of the recipe's repositories. Signatures are not looked at.
pub fn install_files(
    recipe: &Recipe,
    files: PackageFiles<'_>,
    tools: &Tools,
    cache: &Path,
    step: &Step,
) -> Result<Vec<Package>, SourceError> {
    run(recipe, &Job { files: Some(files), ..Job::new(recipe, tools, cache, step) })
}

/// Installs as [`install`] does and finds out where each package came from.
pub fn install_and_trace(
    recipe: &Recipe,
    tools: &Tools,
    cache: &Path,
    step: &Step,
) -> Result<Vec<Traced>, SourceError> {
    let job = Job::new(recipe, tools, cache, step);
    match &recipe.source {
        Source::Mmdebstrap(source) => job.mmdebstrap_and_trace(source, Purpose::System),
        Source::Dnf(source) => job.dnf_and_trace(source, Purpose::System),
        Source::Busybox(PackageSource::Mmdebstrap(source)) => {
            job.mmdebstrap_and_trace(source, Purpose::KernelOnly)
        }
        Source::Busybox(PackageSource::Dnf(source)) => job.dnf_and_trace(source, Purpose::KernelOnly),
        Source::Existing(_) => Err(SourceError::NotFromRepositories),
    }
}

/// The versions of the programs that install the packages of `recipe`.
pub fn manager_version(recipe: &Recipe, tools: &Tools, step: &Step) -> Result<String, SourceError> {
    let programs: &[&str] = match recipe.source.package_format()? {
        PackageFormat::Deb => &["mmdebstrap", "apt-get", "dpkg"],
        PackageFormat::Rpm => &["dnf", "rpm"],
    };
    let mut versions = String::new();
    for name in programs {
        let mut command = program(name);
        command.arg("--version");
        if *name == "dnf" {
            command = dnf::version_command();
        }
        let lines = tools.lines(&format!("asking {name} for its version"), View::Host, command, step)?;
        versions += &lines.join("\n");
    }
    Ok(versions)
}

fn run(recipe: &Recipe, job: &Job<'_>) -> Result<Vec<Package>, SourceError> {
    Ok(sorted(match &recipe.source {
        Source::Mmdebstrap(source) => job.mmdebstrap(source, Purpose::System)?,
        Source::Dnf(source) => job.dnf(source, Purpose::System)?,
        Source::Busybox(PackageSource::Mmdebstrap(source)) => job.mmdebstrap(source, Purpose::KernelOnly)?,
        Source::Busybox(PackageSource::Dnf(source)) => job.dnf(source, Purpose::KernelOnly)?,
        Source::Existing(_) => return Err(SourceError::NotFromRepositories),
    }))
}

fn sorted(mut packages: Vec<Package>) -> Vec<Package> {
    packages.sort_by(|a, b| a.name.cmp(&b.name).then_with(|| a.version.cmp(&b.version)));
    packages
}

/// What [`install`] does for `recipe`, in words.
pub fn work(recipe: &Recipe) -> &'static str {
    match recipe.source {
        Source::Existing(_) => "unpack the root",
        Source::Mmdebstrap(_) | Source::Dnf(_) | Source::Busybox(_) => "install packages",
    }
}

/// Fails if programs of the image's packages must run on this machine and cannot.
pub fn require_runnable(recipe: &Recipe) -> Result<(), SourceError> {
    match recipe.architecture {
        // Without a root, packages are only unpacked.
        Some(architecture) if recipe.mode().has_root() => Ok(architecture.require_runnable()?),
        _ => Ok(()),
    }
}

/// One installation.
struct Job<'a> {
    packages: Vec<String>,
    /// What to install from in place of the recipe's repositories.
    files: Option<PackageFiles<'a>>,
    /// Which machines the packages are for, if not those of this one's kind.
    architecture: Option<Architecture>,
    allowed_failures: &'a std::collections::BTreeSet<String>,
    tools: &'a Tools,
    cache: &'a Path,
    step: &'a Step,
}

impl<'a> Job<'a> {
    fn new(recipe: &'a Recipe, tools: &'a Tools, cache: &'a Path, step: &'a Step) -> Self {
        let packages = recipe.packages.iter().chain(&recipe.kernel.package).cloned().collect();
        let allowed_failures = &recipe.allowed_scriptlet_failures;
        let architecture = recipe.architecture;
        Self { packages, files: None, architecture, allowed_failures, tools, cache, step }
    }

    fn root(&self) -> &Path {
        self.tools.sandbox().root()
    }

    /// Keeps other builds out of the cache `dir`, which is made, until the result is dropped.
    fn lock_cache(&self, dir: &Path) -> Result<File, SourceError> {
        make_dir(dir)?;
        let prepare = |source| SourceError::Prepare { path: dir.to_owned(), source };
        wait_for_lock(dir, self.step).map_err(prepare)
    }
}

/// Makes a program that takes proxies from its environment use `proxy`. What apt is given by `--aptopt` stays in the image.
fn set_proxy(command: &mut Command, proxy: &Proxy) {
    hide_proxies(command);
    if let Some(url) = proxy.url() {
        command.env("http_proxy", url).env("https_proxy", url);
    }
}

fn make_dir(path: &Path) -> Result<(), SourceError> {
    fs::create_dir_all(path).map_err(|source| SourceError::Prepare { path: path.to_owned(), source })
}

/// A directory for what is needed while packages are installed. apt's user must be able to read there.
fn work_dir() -> Result<tempfile::TempDir, SourceError> {
    tempfile::Builder::new()
        .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .tempdir()
        .map_err(|source| SourceError::Prepare { path: std::env::temp_dir(), source })
}

/// Locks the directory `dir` of the cache. Who comes second waits until the first is done.
pub fn wait_for_lock(dir: &Path, step: &Step) -> io::Result<File> {
    let file = File::open(dir)?;
    let mut waits = false;
    loop {
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(file),
            // A lock that blocks would not hear of Ctrl-C.
            Err(Errno::WOULDBLOCK) if !interrupt::requested() => {}
            Err(errno) => return Err(errno.into()),
        }
        if !std::mem::replace(&mut waits, true) {
            step.note(&format!("waiting for another build to be done with {}", dir.display()));
        }
        sleep(LOCK_POLL);
    }
}

/// Lines of name, version and architecture, separated by tabs.
fn parse_packages(program: &'static str, lines: &[String]) -> Result<Vec<Package>, SourceError> {
    let parse = |line: &String| match line.split('\t').collect::<Vec<_>>()[..] {
        [name, version, architecture] => Ok(Package {
            name: name.to_owned(),
            version: version.to_owned(),
            architecture: architecture.to_owned(),
        }),
        _ => Err(SourceError::PackageList { program, line: line.clone() }),
    };
    lines.iter().map(parse).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn package_lists_are_parsed_and_warnings_in_between_are_refused() {
        let lines = ["bash\t5.2-1\tamd64".to_owned()];
        let packages = parse_packages("dpkg-query", &lines).unwrap();
        assert_eq!((packages[0].name.as_str(), packages[0].version.as_str()), ("bash", "5.2-1"));
        let error = parse_packages("rpm", &["warning: old database".to_owned()]).unwrap_err();
        assert!(error.to_string().contains("'warning: old database'"), "{error}");
    }
}
