//! What is in a root that lies unpacked: the same as of an archive.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;

use super::listing::Object;
use crate::archive::{Entry, Kind, ScanError, scan};
use crate::digest::digest;
use crate::file_error::{FileError, failed};
use crate::interrupt;

/// A tree cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    /// Its metadata.
    #[error(transparent)]
    Scan(#[from] ScanError),
    /// The contents of a file.
    #[error(transparent)]
    File(#[from] FileError),
}

/// Reads the tree at `root`, all files to their ends. `done` is told how many bytes they have.
pub fn read_tree(root: &Path, mut done: impl FnMut(u64)) -> Result<BTreeMap<String, Object>, TreeError> {
    let mut listing = BTreeMap::new();
    for entry in scan(root)? {
        let object = object(root, &entry)?;
        done(object.size_bytes.unwrap_or_default());
        listing.insert(Path::new("/").join(&entry.path).to_string_lossy().into_owned(), object);
    }
    Ok(listing)
}

fn object(root: &Path, entry: &Entry) -> Result<Object, FileError> {
    let (kind, target) = match &entry.kind {
        Kind::Directory => ("directory", None),
        Kind::File { .. } => ("file", None),
        Kind::HardLink(first) => ("hard link", Some(first.to_string_lossy().into_owned())),
        Kind::Symlink(target) => ("symlink", Some(target.to_string_lossy().into_owned())),
        Kind::Device { block, major, minor } => {
            (if *block { "block device" } else { "character device" }, Some(format!("{major}:{minor}")))
        }
        Kind::Fifo => ("fifo", None),
    };
    let contents = match entry.kind {
        Kind::File { .. } => Some(contents(&root.join(&entry.path))?),
        _ => None,
    };
    let xattrs = entry.xattrs.iter();
    Ok(Object {
        kind,
        mode: entry.mode,
        owner: format!("{}:{}", entry.uid, entry.gid),
        mtime: format!("{}.{:09}", entry.mtime_seconds, entry.mtime_nanos),
        target,
        size_bytes: contents.as_ref().map(|(size_bytes, _)| *size_bytes),
        content: contents.map(|(_, digest)| digest),
        xattrs: xattrs.map(|(name, value)| (name.to_string_lossy().into_owned(), value.clone())).collect(),
    })
}

fn contents(path: &Path) -> Result<(u64, bootspec::Sha256Digest), FileError> {
    interrupt::check().map_err(failed("read", path))?;
    File::open(path).and_then(digest).map_err(failed("read", path))
}

#[cfg(test)]
mod tests {
    use super::super::listing::read_listing;
    use super::*;
    use crate::archive::{PackOptions, pack};
    use crate::progress::Progress;
    use bootspec::manifest::Compression;
    use rustix::fs::XattrFlags;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    /// All fields but the times, which a listing of an archive writes otherwise.
    fn fields(listing: &BTreeMap<String, Object>) -> Vec<(&String, BTreeMap<String, String>)> {
        listing.iter().map(|(path, object)| (path, object.fields(false))).collect()
    }

    #[test]
    fn a_tree_is_listed_as_the_archive_of_it() {
        let root = tempfile::tempdir().unwrap();
        let at = |path: &str| root.path().join(path);
        fs::create_dir(at("d")).unwrap();
        fs::write(at("d/f"), "contents").unwrap();
        fs::set_permissions(at("d/f"), PermissionsExt::from_mode(0o4755)).unwrap();
        rustix::fs::lsetxattr(at("d/f"), "user.note", b"\xff", XattrFlags::empty()).unwrap();
        fs::hard_link(at("d/f"), at("h")).unwrap();
        symlink("target", at("l")).unwrap();
        let out = tempfile::tempdir().unwrap();
        let options = PackOptions {
            compression: Compression::Zstd,
            level: 1,
            x86_filter: true,
            chunk_bytes: 1 << 20,
            jobs: std::num::NonZeroUsize::MIN,
            source_date: None,
        };
        let step = Progress::quiet().step("pack");
        pack(root.path(), scan(root.path()).unwrap(), out.path(), options, &step).unwrap();
        let packed =
            read_listing(&out.path().join("rootfs.tar.zst"), Compression::Zstd, &mut |_| ()).unwrap();
        let mut bytes = 0;
        let listed = read_tree(root.path(), |file| bytes += file).unwrap();
        assert_eq!(fields(&listed), fields(&packed));
        assert_eq!(bytes, 8);
        assert!(listed["/d/f"].has_xattr("user.note"));
    }
}
