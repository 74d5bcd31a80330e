//! Making a lock: the packages are installed into a scratch root as for any build, and what is installed then is pinned.

use std::path::Path;

use super::file::{check, key};
use super::pool::Pool;
use super::roots::Roots;
use super::{Lock, LockError, Pinned, Selection};
use crate::file_error::failed;
use crate::progress::Progress;
use crate::recipe::{Dnf, PackageSource, Recipe, Source};
use crate::sandbox::Sandbox;
use crate::source::{self, Traced};
use crate::tool::Tools;

/// Makes the lock of `recipe` from what its repositories have now. The package files come into `cache`.
pub fn make(recipe: &Recipe, cache: &Path, progress: &Progress) -> Result<Lock, LockError> {
    if let Source::Dnf(Dnf { modules, .. }) | Source::Busybox(PackageSource::Dnf(Dnf { modules, .. })) =
        &recipe.source
        && !modules.is_empty()
    {
        return Err(LockError::Modules { recipe: recipe.name.clone() });
    }
    source::require_runnable(recipe)?;
    let cache = &std::path::absolute(cache).map_err(failed("make absolute the path", cache))?;
    let draft = Roots::open(cache, &recipe.name)?.begin()?;
    let log = cache.join("logs").join(format!("{}.lock.log", recipe.name));
    let tools = Tools::new(Sandbox::new(&draft.root()), &log)?;
    let step = progress.step(format!("install packages: {}", recipe.name));
    let traced = source::install_and_trace(recipe, &tools, cache, &step)?;
    step.done(&format!("{} packages", traced.len()));

    let step = progress.step(format!("pin packages: {}", recipe.name));
    let pool = Pool::open(cache, recipe.source.package_format()?)?;
    let pin = |traced: Traced| {
        step.message(&traced.package.name);
        pin(traced, &pool)
    };
    let mut packages = traced.into_iter().map(pin).collect::<Result<Vec<_>, _>>()?;
    packages.sort_by(|a, b| key(a).cmp(&key(b)));
    let lock = Lock { selection: Selection::of(recipe), packages };
    step.done(&format!("{} packages", lock.packages.len()));
    Ok(lock)
}

fn pin(traced: Traced, pool: &Pool) -> Result<Pinned, LockError> {
    let Traced { package, url, file, sha256, priority } = traced;
    let (size_bytes, found) = pool.add(&file)?;
    let pinned = Pinned {
        name: package.name,
        version: package.version,
        architecture: package.architecture,
        sha256: found,
        size_bytes,
        url,
        priority,
    };
    if let Err(problem) = check(&pinned) {
        return Err(LockError::Pin { package: pinned.title(), url: pinned.url, problem });
    }
    match sha256 {
        Some(expected) if expected != found => {
            Err(LockError::Digest { package: pinned.title(), url: pinned.url, expected, found })
        }
        _ => Ok(pinned),
    }
}
