//! Creates what the entries of a tar stream describe, relative to a directory.
//!
//! Made for archives of imagebuild: parents come before what is in them, nothing exists twice but directories, whose
//! second entry sets their times again. Sparse files are GNU's format 1.0.

use std::fs::File;
use std::io::{self, BufRead, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, linkat, makedev, mkdirat, mknodat, openat, symlinkat, unlinkat,
};
use rustix::io::Errno;
use rustix::process::{getegid, geteuid};
use tar::{EntryType, Header};

use super::blocks::{Contents, each_entry};
use super::metadata::{self, Creator, Metadata};
use super::parents::{Parents, open_directory};
use super::pax::{Extensions, Record};
use super::sparse;

/// What is being made is nobody else's business until its owner and mode are set.
const PRIVATE_DIRECTORY: Mode = Mode::RWXU;
const PRIVATE_FILE: Mode = Mode::RUSR.union(Mode::WUSR);

/// A tar stream cannot be extracted.
#[derive(Debug, thiserror::Error)]
pub enum ExtractError {
    /// The stream cannot be decoded, or is no tar.
    #[error("the archive is not readable")]
    Archive(#[source] io::Error),
    /// An entry's name leads out of the root, or is none.
    #[error("the entry name {0:?} is not a plain relative path")]
    Name(PathBuf),
    /// An entry is of a type that imagebuild does not write.
    #[error("{path} is a tar entry of the unknown type {entry_type:?}")]
    Type {
        /// The entry.
        path: PathBuf,
        /// Its type.
        entry_type: EntryType,
    },
    /// A PAX record or header field has an impossible value.
    #[error("the archive has an entry with {0}")]
    Record(String),
    /// An object cannot be made.
    #[error("cannot {action} {path:?}")]
    Io {
        /// What was attempted.
        action: &'static str,
        /// On what, relative to the root.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// What becomes of an object that is there already and is no directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existing {
    /// It is an error: nothing may be twice in an archive.
    Refuse,
    /// The entry takes its place.
    Replace,
}

/// Extracts all entries of `tar` below `root`, and reads the stream to its end so that its decoder checks all of it.
///
/// Files are written out of the buffer of `tar`, nothing is copied before: 128 KiB are a good size.
pub fn extract(tar: &mut dyn BufRead, root: &OwnedFd, existing: Existing) -> Result<(), ExtractError> {
    let creator = Creator { uid: geteuid(), gid: getegid() };
    let mut extractor = Extractor { root, parents: Parents::new(root.as_fd()), creator, existing };
    let mut extensions = Extensions::default();
    each_entry(tar, ExtractError::Archive, |header, contents| {
        let read = match header.entry_type() {
            EntryType::XHeader => extensions.read_records(contents),
            EntryType::GNULongName => extensions.read_long_name("path", contents),
            EntryType::GNULongLink => extensions.read_long_name("linkpath", contents),
            // Comments on the archive as a whole.
            EntryType::XGlobalHeader => Ok(()),
            _ => {
                let records = std::mem::take(&mut extensions).into_records();
                return extractor.create(header, records, contents);
            }
        };
        read.map_err(ExtractError::Archive)
    })?;
    io::copy(tar, &mut io::sink()).map_err(ExtractError::Archive)?;
    Ok(())
}

struct Extractor<'a> {
    root: &'a OwnedFd,
    parents: Parents<'a>,
    creator: Creator,
    existing: Existing,
}

impl Extractor<'_> {
    fn create(
        &mut self,
        header: &Header,
        records: Vec<Record>,
        contents: &mut Contents<'_>,
    ) -> Result<(), ExtractError> {
        let metadata = Metadata::new(header, records)?;
        if self.existing == Existing::Replace && header.entry_type() != EntryType::Directory {
            self.remove(&metadata.path)?;
        }
        match header.entry_type() {
            EntryType::Directory => self.create_directory(&metadata),
            EntryType::Regular => self.create_file(&metadata, contents),
            EntryType::Symlink => self.create_symlink(&metadata),
            EntryType::Link => self.create_hard_link(&metadata),
            EntryType::Char => self.create_node(&metadata, FileType::CharacterDevice, device(header)?),
            EntryType::Block => self.create_node(&metadata, FileType::BlockDevice, device(header)?),
            EntryType::Fifo => self.create_node(&metadata, FileType::Fifo, 0),
            entry_type => Err(ExtractError::Type { path: metadata.path, entry_type }),
        }
    }

    fn remove(&mut self, path: &Path) -> Result<(), ExtractError> {
        let (parent, name) = self.parents.open(path)?;
        match unlinkat(parent.fd, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(failed("replace", path)(errno)),
        }
    }

    /// Makes the directory unless it is there, and sets its metadata in either case.
    fn create_directory(&mut self, metadata: &Metadata) -> Result<(), ExtractError> {
        if metadata.path.as_os_str().is_empty() {
            return metadata.set_on(self.root.as_fd()).map_err(failed("set the metadata of", Path::new("/")));
        }
        let (parent, name) = self.parents.open(&metadata.path)?;
        match mkdirat(parent.fd, name, PRIVATE_DIRECTORY) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(failed("create the directory", &metadata.path)(errno)),
        }
        let dir = open_directory(parent.fd, name).map_err(failed("open the directory", &metadata.path))?;
        metadata.set_on(dir.as_fd()).map_err(failed("set the metadata of", &metadata.path))
    }

    fn create_file(&mut self, metadata: &Metadata, contents: &mut Contents<'_>) -> Result<(), ExtractError> {
        let (parent, name) = self.parents.open(&metadata.path)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        // A third of all system calls would set what a new file has anyway.
        let is_plain = metadata.is_plain(self.creator) && !parent.passes_its_group_on;
        let mode = if is_plain { metadata.mode } else { PRIVATE_FILE };
        let fd = openat(parent.fd, name, flags, mode).map_err(failed("create", &metadata.path))?;
        let mut file = File::from(fd);
        let written = match metadata.sparse_bytes {
            None => write(contents, &mut file),
            Some(size_bytes) => write_sparse(contents, &mut file, size_bytes),
        };
        let unwritable = |source| ExtractError::Io { action: "write", path: metadata.path.clone(), source };
        written.map_err(unwritable)?;
        let set = if is_plain { metadata.set_times_on(file.as_fd()) } else { metadata.set_on(file.as_fd()) };
        set.map_err(failed("set the metadata of", &metadata.path))
    }

    fn create_symlink(&mut self, metadata: &Metadata) -> Result<(), ExtractError> {
        // Where the link points is not our concern: nothing that is extracted is reached through it.
        let target = link(metadata)?;
        let (parent, name) = self.parents.open(&metadata.path)?;
        symlinkat(target, parent.fd, name).map_err(failed("create the symbolic link", &metadata.path))?;
        metadata.set_at(parent.fd, name, true).map_err(failed("set the metadata of", &metadata.path))
    }

    /// Metadata are those of the file, which has them already.
    fn create_hard_link(&mut self, metadata: &Metadata) -> Result<(), ExtractError> {
        let target = metadata::path(link(metadata)?.into());
        let mut old_parents = Parents::new(self.root.as_fd());
        let (old_parent, old_name) = old_parents.open(&target)?;
        let (parent, name) = self.parents.open(&metadata.path)?;
        linkat(old_parent.fd, old_name, parent.fd, name, AtFlags::empty())
            .map_err(failed("create the hard link", &metadata.path))
    }

    fn create_node(
        &mut self,
        metadata: &Metadata,
        file_type: FileType,
        device: u64,
    ) -> Result<(), ExtractError> {
        let (parent, name) = self.parents.open(&metadata.path)?;
        mknodat(parent.fd, name, file_type, PRIVATE_FILE, device)
            .map_err(failed("create the node", &metadata.path))?;
        metadata.set_at(parent.fd, name, false).map_err(failed("set the metadata of", &metadata.path))
    }
}

fn link(metadata: &Metadata) -> Result<&[u8], ExtractError> {
    metadata
        .link
        .as_deref()
        .ok_or_else(|| ExtractError::Record(format!("a link without a target: {:?}", metadata.path)))
}

/// The device number of a device node's entry.
fn device(header: &Header) -> Result<u64, ExtractError> {
    let number = |number: io::Result<Option<u32>>| Ok(number.map_err(ExtractError::Archive)?.unwrap_or(0));
    Ok(makedev(number(header.device_major())?, number(header.device_minor())?))
}

fn write(contents: &mut Contents<'_>, file: &mut File) -> io::Result<()> {
    copy(contents, file)?;
    match contents.limit() {
        0 => Ok(()),
        _ => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the archive ends within the file")),
    }
}

fn write_sparse(contents: &mut Contents<'_>, file: &mut File, size_bytes: u64) -> io::Result<()> {
    sparse::extract(contents, file, size_bytes, |from, to| copy(from, to))?;
    // Last: within a longer file, a tmpfs with large folios would put memory into the holes.
    file.set_len(size_bytes)
}

/// Copies all of `from`, out of its own buffer. Returns how much that was.
fn copy(from: &mut impl BufRead, to: &mut impl Write) -> io::Result<u64> {
    let mut copied_bytes = 0;
    loop {
        let length = match from.fill_buf() {
            Ok([]) => return Ok(copied_bytes),
            Ok(bytes) => to.write_all(bytes).map(|()| bytes.len())?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        from.consume(length);
        copied_bytes += length as u64;
    }
}

fn failed<'a>(action: &'static str, path: &'a Path) -> impl Fn(Errno) -> ExtractError + 'a {
    move |errno| ExtractError::Io { action, path: path.to_owned(), source: errno.into() }
}
