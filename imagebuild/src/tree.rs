//! Reads files of a root file system. Its symbolic links mean what they mean to the node: the build host's own files are
//! never reached through them.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;
use rustix::fs::{Dir, Mode, OFlags, ResolveFlags, open, openat2};
use xz2::read::XzDecoder;

/// A file of the root cannot be read or unpacked.
#[derive(Debug, thiserror::Error)]
#[error("cannot read {} in the root", path.display())]
pub struct TreeError {
    /// Path in the root.
    path: PathBuf,
    /// Why not.
    #[source]
    source: io::Error,
}

/// A root file system.
pub struct Tree {
    root: OwnedFd,
}

impl Tree {
    /// The root file system at `root`.
    pub fn open(root: &Path) -> Result<Self, TreeError> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        match open(root, flags, Mode::empty()) {
            Ok(root) => Ok(Self { root }),
            Err(errno) => Err(TreeError { path: root.to_owned(), source: errno.into() }),
        }
    }

    /// The contents of a file, as they are. `path` begins at the root.
    pub fn read(&self, path: &Path) -> Result<Vec<u8>, TreeError> {
        self.try_read(path).map_err(|source| TreeError { path: path.to_owned(), source })
    }

    /// The contents of a file, unpacked if its name says that it is compressed.
    pub fn read_unpacked(&self, path: &Path) -> Result<Vec<u8>, TreeError> {
        self.read(path)
            .and_then(|data| unpack(path, data).map_err(|source| TreeError { path: path.to_owned(), source }))
    }

    /// As [`Self::read`]; none if there is no such file.
    pub fn read_if_there(&self, path: &Path) -> Result<Option<Vec<u8>>, TreeError> {
        absent_is_none(self.read(path))
    }

    /// As [`Self::read_unpacked`]; none if there is no such file.
    pub fn read_unpacked_if_there(&self, path: &Path) -> Result<Option<Vec<u8>>, TreeError> {
        absent_is_none(self.read_unpacked(path))
    }

    /// The names in a directory, sorted; none if there is no such directory. A name that is not UTF-8 is none that anyone
    /// looks for.
    pub fn names_if_there(&self, dir: &Path) -> Result<Vec<String>, TreeError> {
        match self.try_names(dir) {
            Err(error) if is_absent(&error) => Ok(Vec::new()),
            result => result.map_err(|source| TreeError { path: dir.to_owned(), source }),
        }
    }

    fn try_names(&self, dir: &Path) -> io::Result<Vec<String>> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = openat2(&self.root, dir, flags, Mode::empty(), ResolveFlags::IN_ROOT)?;
        let mut names = Vec::new();
        for entry in Dir::read_from(dir)? {
            names.extend(entry?.file_name().to_str().map(str::to_owned));
        }
        names.sort();
        Ok(names)
    }

    fn try_read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let file = File::from(openat2(&self.root, path, flags, Mode::empty(), ResolveFlags::IN_ROOT)?);
        if !file.metadata()?.is_file() {
            return Err(io::Error::other("it is not a regular file"));
        }
        let mut data = Vec::new();
        (&file).read_to_end(&mut data)?;
        Ok(data)
    }
}

fn absent_is_none(result: Result<Vec<u8>, TreeError>) -> Result<Option<Vec<u8>>, TreeError> {
    match result {
        Err(TreeError { source, .. }) if is_absent(&source) => Ok(None),
        result => result.map(Some),
    }
}

fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// Suffixes of compressed modules and firmware.
const SUFFIXES: [&str; 3] = ["xz", "zst", "gz"];

/// `path` as it is and in every compression.
pub fn variants(path: &Path) -> impl Iterator<Item = PathBuf> {
    let compressed = SUFFIXES.map(|suffix| {
        let mut path = path.as_os_str().to_owned();
        path.push(".");
        path.push(suffix);
        PathBuf::from(path)
    });
    [path.to_owned()].into_iter().chain(compressed)
}

fn unpack(path: &Path, data: Vec<u8>) -> io::Result<Vec<u8>> {
    let mut unpacked = Vec::new();
    match path.extension().and_then(|suffix| suffix.to_str()) {
        Some("xz") => XzDecoder::new_multi_decoder(&*data).read_to_end(&mut unpacked)?,
        Some("gz") => MultiGzDecoder::new(&*data).read_to_end(&mut unpacked)?,
        Some("zst") => return zstd::decode_all(&*data),
        _ => return Ok(data),
    };
    Ok(unpacked)
}
