//! From a recipe to a root file system with a kernel: the front half of a build.

use std::io;
use std::path::{Path, PathBuf};

use bootspec::ImageName;
use bootspec::manifest::Package;

use crate::customise::{self, CustomiseError};
use crate::kernel::{self, Kernel, KernelError};
use crate::lock::{self, LockError, Locked};
use crate::progress::Progress;
use crate::recipe::Recipe;
use crate::sandbox::{Sandbox, SandboxError};
use crate::secrets;
use crate::selinux::{self, SelinuxError};
use crate::source::{self, SourceError};
use crate::store::Store;
use crate::tool::{ToolError, Tools};

/// A complete root file system.
#[derive(Clone, Debug)]
pub struct BuiltRoot {
    /// The kernel to boot, in the root.
    pub kernel: Kernel,
    /// What the kernel calls the machine: `x86_64`.
    pub architecture: String,
    /// The installed packages, sorted by name. Empty if a kernel was unpacked without being installed, and without a lock.
    pub packages: Vec<Package>,
}

/// A root cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum RootError {
    /// A relative path starts nowhere.
    #[error("cannot make the path {} absolute", path.display())]
    Path {
        /// Which path.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The log or the sandbox.
    #[error(transparent)]
    Tool(#[from] ToolError),
    /// The root cannot be entered.
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    /// Its packages cannot be installed.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The packages of its lock cannot be installed.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// What the recipe adds to the packages cannot be added.
    #[error(transparent)]
    Customise(#[from] CustomiseError),
    /// It cannot be labelled.
    #[error(transparent)]
    Selinux(#[from] SelinuxError),
    /// There is no kernel to boot.
    #[error(transparent)]
    Kernel(#[from] KernelError),
}

/// Builds the root file system of `recipe` in the directory `root`, which is empty or absent.
///
/// The packages are those of the lock, if there is one. `cache` keeps downloaded packages for later builds, and the log of
/// the last build of each image; `store` has the image that it may build on; `init_binary` becomes the root's
/// `bootnode-report`. Whatever happens, no mount and no process is left; an unfinished `root` is.
/// What is returned beside the root runs further programs on it, whose output goes into the same log.
pub fn build_root(
    recipe: &Recipe,
    locked: Option<Locked<'_>>,
    root: &Path,
    cache: &Path,
    store: &Store,
    init_binary: &Path,
    progress: &Progress,
) -> Result<(BuiltRoot, Tools), RootError> {
    let absolute = |path: &Path| {
        std::path::absolute(path).map_err(|source| RootError::Path { path: path.to_owned(), source })
    };
    let (root, cache) = (absolute(root)?, absolute(cache)?);
    let sandbox = match locked {
        Some(Locked { offline: true, .. }) => Sandbox::new(&root).without_network(),
        _ => Sandbox::new(&root),
    };
    let tools = Tools::new(sandbox, &log_path(recipe, &cache))?;

    let step = progress.step(format!("{}: {}", source::work(recipe), recipe.name));
    let (packages, reused) = match locked {
        Some(locked) => lock::install(recipe, locked, &tools, &cache, &step)?,
        None => (source::install(recipe, &tools, &cache, store, &step)?, false),
    };
    let note = if reused { ", the root of an earlier build" } else { "" };
    step.done(&format!("{} packages{note}", packages.len()));

    if recipe.mode().has_root() {
        let step = progress.step(format!("customise: {}", recipe.name));
        customise::apply(recipe, &tools, init_binary, &step)?;
        step.done(&customise::summary(recipe));
        warn_of_secrets(&tools, &recipe.name, progress)?;
    }

    let step = progress.step(format!("find the kernel: {}", recipe.name));
    let kernel = kernel::find(&recipe.kernel, &tools, &step)?;
    step.done(&kernel.release);

    if let Some(policy) = &recipe.selinux_policy {
        // Last: what comes into the root later has no label.
        let step = progress.step(format!("label for SELinux: {}", recipe.name));
        selinux::label(policy, &tools, &step)?;
        step.done(policy);
    }
    let architecture = recipe.machine();
    Ok((BuiltRoot { kernel, architecture, packages }, tools))
}

/// Warns of what in the root of `tools`, which becomes one of `image`, nobody else should read.
pub fn warn_of_secrets(tools: &Tools, image: &ImageName, progress: &Progress) -> Result<(), SandboxError> {
    let step = progress.step(format!("look for secrets: {image}"));
    let found = secrets::find(tools)?;
    for secret in &found {
        step.note(&format!(
            "warning: everyone on the boot network can read {}: {}",
            secret.path.display(),
            secret.what
        ));
    }
    step.done(&format!("{} found", found.len()));
    Ok(())
}

/// Where the output of the programs that build `recipe` is kept.
fn log_path(recipe: &Recipe, cache: &Path) -> PathBuf {
    cache.join("logs").join(format!("{}.log", recipe.name))
}
