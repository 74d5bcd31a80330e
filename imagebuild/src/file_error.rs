//! What went wrong with a file of the build host: what was attempted, on which path, and why it failed.

use std::io;
use std::path::{Path, PathBuf};

/// A system call on a path failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {}", path.display())]
pub struct FileError {
    action: &'static str,
    path: PathBuf,
    #[source]
    source: io::Error,
}

/// For `map_err`: says that `action` on `path` failed.
pub fn failed<'a>(action: &'static str, path: &'a Path) -> impl Fn(io::Error) -> FileError + 'a {
    move |source| FileError { action, path: path.to_owned(), source }
}
