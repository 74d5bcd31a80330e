//! How many files this process may open: a crowd of clients in it needs one each.

use anyhow::{Result, ensure};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Lets this process open `needed` files at once, or says why it may not.
pub fn allow(needed: u64) -> Result<()> {
    let maximum = getrlimit(Resource::Nofile).maximum;
    let suffices = maximum.is_none_or(|maximum| maximum >= needed);
    ensure!(
        suffices,
        "this process may open {maximum:?} files, it needs {needed}\nhint: ulimit -Hn {needed}"
    );
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })?;
    Ok(())
}
