//! Installing by a lock: the pinned files and no others, without network.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use bootspec::Sha256Digest;
use bootspec::manifest::Package;
use sha2::{Digest, Sha256};

use super::pool::Pool;
use super::roots::Roots;
use super::{Lock, LockError, Selection};
use crate::file_error::failed;
use crate::progress::Step;
use crate::recipe::Recipe;
use crate::source::{self, PackageFiles};
use crate::tool::Tools;
use crate::user_namespace;

/// How a build goes by a lock.
#[derive(Clone, Copy, Debug)]
pub struct Locked<'a> {
    /// The lock.
    pub lock: &'a Lock,
    /// Nothing may be downloaded.
    pub offline: bool,
    /// Take the root of an earlier build with the same packages, and keep this one's for later builds.
    pub reuse_roots: bool,
}

/// Fills the root of `tools` with the packages of the lock; returns them, and whether they came as the root of an earlier
/// build.
pub fn install(
    recipe: &Recipe,
    locked: Locked<'_>,
    tools: &Tools,
    cache: &Path,
    step: &Step,
) -> Result<(Vec<Package>, bool), LockError> {
    let Locked { lock, offline, reuse_roots } = locked;
    lock.check(recipe)?;
    let packages = lock.packages.iter().map(super::Pinned::package).collect();
    if !reuse_roots {
        install_files(recipe, lock, offline, tools, cache, step)?;
        return Ok((packages, false));
    }
    let roots = Roots::open(cache, &recipe.name)?;
    let digest = root_digest(recipe, lock, &source::manager_version(recipe, tools, step)?);
    if let Some(cached) = roots.find(digest)? {
        cached.copy_to(tools, step)?;
        return Ok((packages, true));
    }
    install_files(recipe, lock, offline, tools, cache, step)?;
    step.message("keeping the root for later builds");
    roots.keep(digest, tools, step)?;
    Ok((packages, false))
}

fn install_files(
    recipe: &Recipe,
    lock: &Lock,
    offline: bool,
    tools: &Tools,
    cache: &Path,
    step: &Step,
) -> Result<(), LockError> {
    let pool = Pool::open(cache, recipe.source.package_format()?)?;
    pool.provide(&lock.packages, offline, tools, step)?;
    // Beside the root, and like it removed with the draft of the image.
    let dir = tools.sandbox().root().with_file_name("packages");
    fs::create_dir_all(&dir).map_err(failed("create", &dir))?;
    pool.link_into(&dir, &lock.packages)?;
    let files = PackageFiles { dir: &dir, packages: &lock.packages };
    let installed = source::install_files(recipe, files, &tools.without_network()?, cache, step)?;
    check_installed(lock, installed)?;
    fs::remove_dir_all(&dir).map_err(failed("remove", &dir))?;
    Ok(())
}

fn check_installed(lock: &Lock, installed: Vec<Package>) -> Result<(), LockError> {
    let title = |Package { name, version, architecture }| format!("{name} {version} ({architecture})");
    let pinned: BTreeSet<_> = lock.packages.iter().map(|pinned| title(pinned.package())).collect();
    let installed: BTreeSet<_> = installed.into_iter().map(title).collect();
    let missing = pinned.difference(&installed).map(|title| format!("  pinned and not installed: {title}"));
    let more = installed.difference(&pinned).map(|title| format!("  installed and not pinned: {title}"));
    let differences: Vec<_> = missing.chain(more).collect();
    if differences.is_empty() { Ok(()) } else { Err(LockError::Installed { differences }) }
}

/// Digest of all that decides what the package manager makes of the lock, this program and `manager` among it.
fn root_digest(recipe: &Recipe, lock: &Lock, manager: &str) -> Sha256Digest {
    let (tool, lock, selection) = (crate::build::tool(), lock.digest(), Selection::of(recipe));
    let (source, failures) = (&recipe.source, &recipe.allowed_scriptlet_failures);
    let date = std::env::var_os("SOURCE_DATE_EPOCH");
    // Decides what the owners of a kept root mean.
    let ids = user_namespace::mapping();
    // For comparison only: what is printed for people to debug with names every field.
    let all = format!("{tool:?} {manager:?} {lock} {selection:?} {source:?} {failures:?} {date:?} {ids}");
    Sha256Digest::new(Sha256::digest(all).into())
}
