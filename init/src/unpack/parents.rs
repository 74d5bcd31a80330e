//! Directories of the root, opened step by step from its top so that no symbolic link, `..` or absolute name in an
//! archive can lead out of it (the same as openat2's RESOLVE_BENEATH with RESOLVE_NO_SYMLINKS, on kernels before 5.6 too).

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{Mode, OFlags, fstat, openat};
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

/// A directory that something is to be made in.
#[derive(Clone, Copy)]
pub struct Parent<'a> {
    /// The directory.
    pub fd: BorrowedFd<'a>,
    /// It has the setgid bit: what is made in it belongs to its group (inode(7)).
    pub passes_its_group_on: bool,
}

/// The parents of entries. Entries come sorted, so the last parent is mostly the next one as well.
pub struct Parents<'a> {
    root: BorrowedFd<'a>,
    last: Option<Opened>,
}

struct Opened {
    path: PathBuf,
    fd: OwnedFd,
    passes_its_group_on: bool,
}

impl<'a> Parents<'a> {
    /// Parents below `root`.
    pub fn new(root: BorrowedFd<'a>) -> Self {
        Self { root, last: None }
    }

    /// The directory that `path`, relative to the root, lies in, and its name there.
    pub fn open<'p>(&mut self, path: &'p Path) -> Result<(Parent<'_>, &'p Path), ExtractError> {
        let name = path.file_name().ok_or_else(|| ExtractError::Name(path.to_owned()))?;
        let parent = path.parent().unwrap_or(Path::new(""));
        if !path.components().all(|component| matches!(component, Component::Normal(_))) {
            return Err(ExtractError::Name(path.to_owned()));
        }
        if self.last.as_ref().is_none_or(|last| last.path != parent) {
            self.last = Some(self.walk(parent)?);
        }
        let Opened { fd, passes_its_group_on, .. } = self.last.as_ref().expect("it was opened above");
        Ok((Parent { fd: fd.as_fd(), passes_its_group_on: *passes_its_group_on }, name.as_ref()))
    }

    fn walk(&self, parent: &Path) -> Result<Opened, ExtractError> {
        let failed = |errno: Errno| ExtractError::Io {
            action: "open the directory",
            path: parent.to_owned(),
            source: errno.into(),
        };
        let mut fd = open_directory(self.root, Path::new(".")).map_err(failed)?;
        for component in parent {
            fd = open_directory(fd.as_fd(), component.as_ref()).map_err(failed)?;
        }
        let mode = Mode::from_raw_mode(fstat(&fd).map_err(failed)?.st_mode);
        Ok(Opened { path: parent.to_owned(), fd, passes_its_group_on: mode.contains(Mode::SGID) })
    }
}
