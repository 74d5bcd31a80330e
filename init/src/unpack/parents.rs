//! Directories of the root, opened step by step from its top so that no symbolic link, `..` or absolute name in an
//! archive can lead out of it (the same as openat2's RESOLVE_BENEATH with RESOLVE_NO_SYMLINKS, on kernels before 5.6 too).

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{Mode, OFlags, openat};
use rustix::io::Errno;

use super::extract::ExtractError;

/// Opens the directory `name` in `parent`, without following a link.
pub fn open_directory(parent: BorrowedFd<'_>, name: &Path) -> Result<OwnedFd, Errno> {
    openat(
        parent,
        name,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
    )
}

/// The parents of entries. Entries come sorted, so the last parent is mostly the next one as well.
pub struct Parents<'a> {
    root: BorrowedFd<'a>,
    last: Option<(PathBuf, OwnedFd)>,
}

impl<'a> Parents<'a> {
    /// Parents below `root`.
    pub fn new(root: BorrowedFd<'a>) -> Self {
        Self { root, last: None }
    }

    /// The directory that `path`, relative to the root, lies in, and its name there.
    pub fn open<'p>(&mut self, path: &'p Path) -> Result<(BorrowedFd<'_>, &'p Path), ExtractError> {
        let name = path.file_name().ok_or_else(|| ExtractError::Name(path.to_owned()))?;
        let parent = path.parent().unwrap_or(Path::new(""));
        if !path.components().all(|component| matches!(component, Component::Normal(_))) {
            return Err(ExtractError::Name(path.to_owned()));
        }
        if parent.as_os_str().is_empty() {
            return Ok((self.root, name.as_ref()));
        }
        if self.last.as_ref().is_none_or(|(last, _)| last != parent) {
            self.last = Some((parent.to_owned(), self.walk(parent)?));
        }
        let (_, fd) = self.last.as_ref().expect("it was opened above");
        Ok((fd.as_fd(), name.as_ref()))
    }

    fn walk(&self, parent: &Path) -> Result<OwnedFd, ExtractError> {
        let failed = |errno: Errno| ExtractError::Io {
            action: "open the directory",
            path: parent.to_owned(),
            source: errno.into(),
        };
        let mut components = parent.iter();
        let first = components.next().unwrap_or_default();
        let mut dir = open_directory(self.root, first.as_ref()).map_err(failed)?;
        for component in components {
            dir = open_directory(dir.as_fd(), component.as_ref()).map_err(failed)?;
        }
        Ok(dir)
    }
}
