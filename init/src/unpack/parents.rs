//! Directories of the root, opened step by step from its top so that no symbolic link, `..` or absolute name in an
//! archive can lead out of it (the same as openat2's RESOLVE_BENEATH with RESOLVE_NO_SYMLINKS, on kernels before 5.6 too).

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path};

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

/// The parents of entries. Entries come sorted, so the way to the next parent is mostly that to the last one, or begins
/// as it does: the directories on it stay open.
pub struct Parents<'a> {
    root: BorrowedFd<'a>,
    way: Vec<Opened>,
}

struct Opened {
    name: OsString,
    fd: OwnedFd,
    passes_its_group_on: bool,
}

impl<'a> Parents<'a> {
    /// Parents below `root`.
    pub fn new(root: BorrowedFd<'a>) -> Self {
        Self { root, way: Vec::new() }
    }

    /// The directory that `path`, relative to the root, lies in, and its name there.
    pub fn open<'p>(&mut self, path: &'p Path) -> Result<(Parent<'_>, &'p Path), ExtractError> {
        let not_plain = || ExtractError::Name(path.to_owned());
        let mut components = path.components();
        let Some(Component::Normal(name)) = components.next_back() else { return Err(not_plain()) };
        let failed = |errno: Errno| ExtractError::Io {
            action: "open the directory",
            path: components.as_path().to_owned(),
            source: errno.into(),
        };
        let mut depth = 0;
        for component in components.clone() {
            let Component::Normal(name) = component else { return Err(not_plain()) };
            if self.way.get(depth).is_none_or(|opened| opened.name != name) {
                self.way.truncate(depth);
                let opened = self.enter(name).map_err(failed)?;
                self.way.push(opened);
            }
            depth += 1;
        }
        self.way.truncate(depth);
        let parent = match self.way.last() {
            Some(opened) => Parent { fd: opened.fd.as_fd(), passes_its_group_on: opened.passes_its_group_on },
            None => {
                Parent { fd: self.root, passes_its_group_on: passes_its_group_on(self.root).map_err(failed)? }
            }
        };
        Ok((parent, name.as_ref()))
    }

    /// Opens `name` in the directory that the way has led to.
    fn enter(&self, name: &OsStr) -> Result<Opened, Errno> {
        let fd =
            open_directory(self.way.last().map_or(self.root, |opened| opened.fd.as_fd()), name.as_ref())?;
        let passes_its_group_on = passes_its_group_on(fd.as_fd())?;
        Ok(Opened { name: name.to_owned(), fd, passes_its_group_on })
    }
}

fn passes_its_group_on(directory: BorrowedFd<'_>) -> Result<bool, Errno> {
    Ok(Mode::from_raw_mode(fstat(directory)?.st_mode).contains(Mode::SGID))
}
