//! What a recipe adds to its packages, in this order: files, users with their SSH keys, services, scripts; then
//! bootnode's own report unit, and cleaning.
//!
//! Files come first because they may be what later steps read (`/etc/skel`, `/etc/login.defs`, units to enable).
//! Everything happens with the root as `/`, so that links in it lead nowhere else.

mod accounts;
mod clean;
mod files;
mod report;
mod scripts;
mod services;
mod users;

use std::io;
use std::path::{Path, PathBuf};

use crate::progress::Step;
use crate::recipe::Recipe;
use crate::sandbox::SandboxError;
use crate::tool::{ToolError, Tools};

/// A step on the root failed.
#[derive(Debug, thiserror::Error)]
pub enum CustomiseError {
    /// A program failed.
    #[error(transparent)]
    Tool(#[from] ToolError),
    /// The root cannot be entered.
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    /// A file of the root cannot be made, changed or removed.
    #[error("cannot {action} {} in the root", path.display())]
    File {
        /// What was attempted.
        action: &'static str,
        /// Its path inside the root.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// A file of the build host cannot be read.
    #[error("cannot read {}", path.display())]
    Host {
        /// Which file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A user or group that the image does not have.
    #[error("{}: the image has no {kind} '{name}'\nhint: {hint}", path.display())]
    Owner {
        /// The file that should belong to it.
        path: PathBuf,
        /// `user` or `group`.
        kind: &'static str,
        /// Its name.
        name: String,
        /// What to do about it.
        hint: &'static str,
    },
    /// Services are asked for, but nothing manages them.
    #[error("the image has no systemctl to {action} {} with\nhint: install systemd, or leave out [services]", units.join(", "))]
    NoSystemd {
        /// What was to be done.
        action: &'static str,
        /// To which units.
        units: Vec<String>,
    },
}

/// Applies the recipe to the root of `tools`.
pub fn apply(recipe: &Recipe, tools: &Tools, init_binary: &Path, step: &Step) -> Result<(), CustomiseError> {
    files::write(&recipe.files, tools)?;
    users::apply(&recipe.users, tools, step)?;
    services::apply(&recipe.services, tools, step)?;
    scripts::run(&recipe.scripts, tools, step)?;
    report::install(init_binary, tools, step)?;
    clean::clean(recipe, tools)
}

/// How much a recipe adds, in words.
pub fn summary(recipe: &Recipe) -> String {
    let counts = [
        (recipe.files.len(), "files"),
        (recipe.users.len(), "users"),
        (recipe.services.enable.len(), "services"),
        (recipe.scripts.len(), "scripts"),
    ];
    counts.map(|(count, what)| format!("{count} {what}")).join(", ")
}

/// Names the path inside the root on which an action failed.
fn failed<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> CustomiseError + 'a {
    move |source| CustomiseError::File { action, path: path.to_owned(), source }
}
