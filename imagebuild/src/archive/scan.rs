//! Reads a directory tree into a sorted list of entries, all metadata included, file contents left out.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, Metadata};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use crate::file_error::{FileError, failed};

/// A file system object below the root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Path relative to the root, without a leading slash; empty for the root itself.
    pub path: PathBuf,
    /// What it is.
    pub kind: Kind,
    /// Permission bits, setuid, setgid and sticky included.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Modification time: seconds since the epoch, rounded down.
    pub mtime_seconds: i64,
    /// Modification time: nanoseconds after the second.
    pub mtime_nanos: u32,
    /// Extended attributes, sorted by name.
    pub xattrs: Vec<(OsString, Vec<u8>)>,
}

impl Entry {
    /// Sets a modification time after `latest`, in seconds since the epoch, back to it.
    pub fn clamp_mtime(&mut self, latest: i64) {
        if self.mtime_seconds >= latest {
            (self.mtime_seconds, self.mtime_nanos) = (latest, 0);
        }
    }
}

/// What an [`Entry`] is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A directory.
    Directory,
    /// A regular file.
    File {
        /// Apparent length.
        size_bytes: u64,
        /// Fewer blocks are allocated than the length needs.
        has_holes: bool,
    },
    /// Another name of a file that comes earlier in the list.
    HardLink(PathBuf),
    /// A symbolic link and its target.
    Symlink(PathBuf),
    /// A device node.
    Device {
        /// Block device, not character device.
        block: bool,
        /// Device number.
        major: u32,
        /// Device number.
        minor: u32,
    },
    /// A named pipe.
    Fifo,
}

/// The tree cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ScanError {
    /// A file of the tree.
    #[error(transparent)]
    File(#[from] FileError),
    /// The name of an extended attribute cannot be written into a PAX record.
    #[error("{path} has the extended attribute {name:?}, whose name no tar archive can hold")]
    XattrName {
        /// The object.
        path: PathBuf,
        /// The attribute.
        name: OsString,
    },
}

/// All objects below `root`, sorted by the bytes of their paths: parents come before what is in them. Sockets are left
/// out, since only the process that made one can give it meaning.
pub fn scan(root: &Path) -> Result<Vec<Entry>, ScanError> {
    let mut entries = Vec::new();
    let mut pending = vec![PathBuf::new()];
    while let Some(path) = pending.pop() {
        let full = root.join(&path);
        let metadata = fs::symlink_metadata(&full).map_err(failed("look at", &full))?;
        if metadata.is_dir() {
            for child in fs::read_dir(&full).map_err(failed("list", &full))? {
                pending.push(path.join(child.map_err(failed("list", &full))?.file_name()));
            }
        }
        if !metadata.file_type().is_socket() {
            entries.push((read_entry(&full, path, &metadata)?, Inode::of(&metadata)));
        }
    }
    entries.sort_by(|(a, _), (b, _)| a.path.as_os_str().as_bytes().cmp(b.path.as_os_str().as_bytes()));
    Ok(mark_hard_links(entries))
}

/// Where in the image the entries are that have an extended attribute whose name begins so.
pub fn with_xattr(entries: &[Entry], prefix: &str) -> Vec<PathBuf> {
    let has = |entry: &&Entry| {
        entry.xattrs.iter().any(|(name, _)| name.as_encoded_bytes().starts_with(prefix.as_bytes()))
    };
    entries.iter().filter(has).map(|entry| Path::new("/").join(&entry.path)).collect()
}

fn read_entry(full: &Path, path: PathBuf, metadata: &Metadata) -> Result<Entry, ScanError> {
    let file_type = metadata.file_type();
    let kind = if file_type.is_dir() {
        Kind::Directory
    } else if file_type.is_symlink() {
        Kind::Symlink(fs::read_link(full).map_err(failed("read the link", full))?)
    } else if file_type.is_fifo() {
        Kind::Fifo
    } else if file_type.is_block_device() || file_type.is_char_device() {
        Kind::Device {
            block: file_type.is_block_device(),
            major: rustix::fs::major(metadata.rdev()),
            minor: rustix::fs::minor(metadata.rdev()),
        }
    } else {
        Kind::File { size_bytes: metadata.len(), has_holes: metadata.blocks() * 512 < metadata.len() }
    };
    Ok(Entry {
        path,
        kind,
        mode: metadata.mode() & 0o7777,
        uid: metadata.uid(),
        gid: metadata.gid(),
        mtime_seconds: metadata.mtime(),
        mtime_nanos: u32::try_from(metadata.mtime_nsec()).expect("nanoseconds of a second fit"),
        xattrs: read_xattrs(full)?,
    })
}

/// Identity of an object that may have several names.
struct Inode {
    device: u64,
    number: u64,
    links: u64,
}

impl Inode {
    fn of(metadata: &Metadata) -> Self {
        Self { device: metadata.dev(), number: metadata.ino(), links: metadata.nlink() }
    }
}

/// Every name of a file after the first becomes a hard link to the first.
fn mark_hard_links(entries: Vec<(Entry, Inode)>) -> Vec<Entry> {
    let mut first_names: HashMap<(u64, u64), PathBuf> = HashMap::new();
    entries
        .into_iter()
        .map(|(mut entry, inode)| {
            if inode.links > 1 && !matches!(entry.kind, Kind::Directory) {
                let first =
                    first_names.entry((inode.device, inode.number)).or_insert_with(|| entry.path.clone());
                if *first != entry.path {
                    entry.kind = Kind::HardLink(first.clone());
                }
            }
            entry
        })
        .collect()
}

fn read_xattrs(path: &Path) -> Result<Vec<(OsString, Vec<u8>)>, ScanError> {
    let names = match read_growing(|buffer| rustix::fs::llistxattr(path, buffer)) {
        Ok(names) => names,
        Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
        Err(error) => return Err(failed("list the extended attributes of", path)(error.into()).into()),
    };
    let mut xattrs = Vec::new();
    for name in names.split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let name = OsStr::from_bytes(name);
        if name.to_str().is_none_or(|name| name.contains('=')) {
            return Err(ScanError::XattrName { path: path.to_owned(), name: name.to_owned() });
        }
        let value = read_growing(|buffer| rustix::fs::lgetxattr(path, name, buffer))
            .map_err(|error| failed("read the extended attributes of", path)(error.into()))?;
        xattrs.push((OsString::from_vec(name.as_bytes().to_vec()), value));
    }
    xattrs.sort();
    Ok(xattrs)
}

/// Calls `read` with a larger and larger buffer until the answer fits.
fn read_growing(mut read: impl FnMut(&mut [u8]) -> Result<usize, Errno>) -> Result<Vec<u8>, Errno> {
    let mut buffer = vec![0; 256];
    loop {
        match read(&mut buffer) {
            Ok(length) => {
                buffer.truncate(length);
                return Ok(buffer);
            }
            Err(Errno::RANGE) => buffer.resize(buffer.len() * 4, 0),
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_sorted_and_second_names_become_hard_links() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("b")).unwrap();
        fs::write(dir.path().join("b/file"), "x").unwrap();
        fs::hard_link(dir.path().join("b/file"), dir.path().join("b-link")).unwrap();
        let entries = scan(dir.path()).unwrap();
        let paths: Vec<_> = entries.iter().map(|e| e.path.to_str().unwrap()).collect();
        assert_eq!(paths, ["", "b", "b-link", "b/file"]);
        assert!(matches!(&entries[2].kind, Kind::File { size_bytes: 1, .. }));
        assert!(matches!(&entries[3].kind, Kind::HardLink(to) if to == Path::new("b-link")));
    }

    #[test]
    fn sockets_are_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(dir.path().join("socket")).unwrap();
        assert_eq!(scan(dir.path()).unwrap().len(), 1);
    }

    #[test]
    fn a_missing_tree_is_named_in_the_error() {
        let error = scan(Path::new("/nonexistent/tree")).unwrap_err();
        assert!(error.to_string().contains("/nonexistent/tree"), "{error}");
    }
}
