//! Files of a data directory. Their names come from requests in part, so no name leads out of it: neither by `..` nor by a
//! symbolic link (openat2's RESOLVE_BENEATH, Linux 5.6).

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{Dir, Mode, OFlags, ResolveFlags, open, openat2};
use rustix::io::Errno;

/// Configs and templates are text that people write.
const MAX_CONFIG_BYTES: u64 = 4 << 20;
/// How often a file is looked for when a rename in the directory came between.
const ATTEMPTS: u32 = 8;

/// An open data directory.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    dir: OwnedFd,
}

/// A regular file of the directory.
#[derive(Debug)]
pub struct DataFile {
    /// The file, open for reading.
    pub file: File,
    /// Its length.
    pub size_bytes: u64,
    /// Its entity tag, in quotes. It changes with the file.
    pub etag: String,
}

/// The directory or a file in it cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// The system says why.
    #[error("cannot read {}", path.display())]
    Read {
        /// What.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It is too large for a config.
    #[error("{} has {found} bytes, and configs have at most {MAX_CONFIG_BYTES}", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its length.
        found: u64,
    },
}

impl DataDir {
    /// Opens the directory at `path`.
    pub fn open(path: &Path) -> Result<Self, DataDirError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        match open(path, flags, Mode::empty()) {
            Ok(dir) => Ok(Self { path: path.to_owned(), dir }),
            Err(error) => Err(DataDirError::Read { path: path.to_owned(), source: error.into() }),
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The subdirectory `name`, itself the directory that no name leads out of. It may be a link to another place.
    pub fn subdir(&self, name: &str) -> Result<Self, DataDirError> {
        Self::open(&self.path.join(name))
    }

    /// Opens the regular file `name`, a path below the directory. None if there is no such file, or if the name leads out.
    pub fn open_file(&self, name: &Path) -> Result<Option<DataFile>, DataDirError> {
        if !is_plain(name) {
            return Ok(None);
        }
        let Some(fd) = self.open_beneath(name, OFlags::NONBLOCK | OFlags::NOCTTY)? else { return Ok(None) };
        let file = File::from(fd);
        let metadata = file.metadata().map_err(|source| self.error(name, source))?;
        if !metadata.is_file() {
            return Ok(None);
        }
        let (seconds, nanoseconds) = (metadata.mtime(), metadata.mtime_nsec());
        let etag = format!("\"{:x}-{:x}-{seconds:x}.{nanoseconds:x}\"", metadata.ino(), metadata.len());
        Ok(Some(DataFile { file, size_bytes: metadata.len(), etag }))
    }

    /// The bytes of the config `name`, if it is there.
    pub fn read(&self, name: &Path) -> Result<Option<Vec<u8>>, DataDirError> {
        let Some(DataFile { file, size_bytes, .. }) = self.open_file(name)? else { return Ok(None) };
        let mut bytes = Vec::new();
        // It may grow meanwhile.
        file.take(MAX_CONFIG_BYTES + 1).read_to_end(&mut bytes).map_err(|source| self.error(name, source))?;
        let found = size_bytes.max(bytes.len() as u64);
        match found > MAX_CONFIG_BYTES {
            true => Err(DataDirError::TooLarge { path: self.path.join(name), found }),
            false => Ok(Some(bytes)),
        }
    }

    /// What is in the subdirectory `name`, sorted, without hidden files; nothing if it is not there.
    pub fn names(&self, name: &str) -> Result<Vec<String>, DataDirError> {
        let path = Path::new(name);
        let Some(dir) = self.open_beneath(path, OFlags::DIRECTORY)? else { return Ok(Vec::new()) };
        let error = |errno: Errno| self.error(path, errno.into());
        let mut names = Vec::new();
        for entry in Dir::new(dir).map_err(error)? {
            // What is no text no request can name.
            let entry = entry.map_err(error)?;
            names.extend(entry.file_name().to_str().ok().map(str::to_owned));
        }
        names.retain(|name| !name.starts_with('.'));
        names.sort();
        Ok(names)
    }

    fn open_beneath(&self, name: &Path, flags: OFlags) -> Result<Option<OwnedFd>, DataDirError> {
        let flags = flags | OFlags::RDONLY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        let mut attempts = 0..ATTEMPTS;
        loop {
            match openat2(&self.dir, name, flags, Mode::empty(), resolve) {
                Ok(fd) => return Ok(Some(fd)),
                Err(Errno::AGAIN) if attempts.next().is_some() => {}
                // XDEV: it leads out. The others: no such file, or no such name.
                Err(
                    Errno::NOENT
                    | Errno::NOTDIR
                    | Errno::XDEV
                    | Errno::LOOP
                    | Errno::NAMETOOLONG
                    | Errno::INVAL
                    | Errno::NXIO,
                ) => return Ok(None),
                Err(error) => return Err(self.error(name, error.into())),
            }
        }
    }

    fn error(&self, name: &Path, source: io::Error) -> DataDirError {
        DataDirError::Read { path: self.path.join(name), source }
    }
}

/// Whether each part of `name` is the name of a file or directory, and not a way up or to the root.
fn is_plain(name: &Path) -> bool {
    name.components().all(|part| matches!(part, Component::Normal(_))) && name.components().next().is_some()
}

/// `text` if it can be the name of one file: no path, no way up, not empty.
pub fn file_name(text: &str) -> Option<&str> {
    let is_name = !text.is_empty() && !text.contains(['/', '\0']) && text != "." && text != "..";
    is_name.then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    fn site() -> (tempfile::TempDir, DataDir) {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("secret"), "secret").unwrap();
        fs::create_dir_all(dir.path().join("data/boot/mac")).unwrap();
        fs::write(dir.path().join("data/boot/default"), "default").unwrap();
        let data = DataDir::open(&dir.path().join("data")).unwrap();
        (dir, data)
    }

    #[test]
    fn no_name_leads_out_of_the_directory() {
        let (dir, data) = site();
        symlink(dir.path().join("secret"), dir.path().join("data/absolute")).unwrap();
        symlink("../secret", dir.path().join("data/relative")).unwrap();
        symlink("..", dir.path().join("data/up")).unwrap();
        symlink("/proc/self/root", dir.path().join("data/magic")).unwrap();
        symlink("boot/default", dir.path().join("data/inside")).unwrap();
        let read = |name: &str| data.read(Path::new(name)).unwrap();
        for name in [
            "absolute",
            "relative",
            "up/secret",
            "../secret",
            "boot/../../secret",
            "magic/etc/passwd",
            "/etc/passwd",
        ] {
            assert_eq!(read(name), None, "{name}");
        }
        assert_eq!(read("inside").as_deref(), Some(&b"default"[..]));
    }

    #[test]
    fn only_regular_files_are_opened_and_none_blocks() {
        let (dir, data) = site();
        let fifo = dir.path().join("data/fifo");
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, Mode::RWXU, 0).unwrap();
        for name in ["fifo", "boot", "nosuch", "boot/default/x", ""] {
            assert!(data.open_file(Path::new(name)).unwrap().is_none(), "{name}");
        }
    }

    #[test]
    fn a_config_has_a_limit() {
        let (dir, data) = site();
        let large = File::create(dir.path().join("data/large")).unwrap();
        large.set_len(MAX_CONFIG_BYTES).unwrap();
        assert!(data.read(Path::new("large")).unwrap().is_some());
        large.set_len(MAX_CONFIG_BYTES + 1).unwrap();
        let error = data.read(Path::new("large")).unwrap_err().to_string();
        assert!(error.contains("large has 4194305 bytes"), "{error}");
    }

    #[test]
    fn names_are_sorted_and_a_missing_subdirectory_has_none() {
        let (dir, data) = site();
        for name in ["b.json", "a.json", ".a.json.swp"] {
            fs::write(dir.path().join("data/boot/mac").join(name), "").unwrap();
        }
        assert_eq!(data.names("boot/mac").unwrap(), ["a.json", "b.json"]);
        assert!(data.names("groups").unwrap().is_empty());
        assert!(DataDir::open(&dir.path().join("nosuch")).is_err());
    }

    proptest! {
        #[test]
        fn any_name_is_read_within_the_directory_or_not_at_all(name in "[a-z./]{0,24}|\\PC{0,12}") {
            let (_dir, data) = site();
            if let Some(bytes) = data.read(Path::new(&name)).unwrap() {
                prop_assert_eq!(bytes, b"default");
            }
            prop_assert!(file_name(&name).is_none_or(|name| is_plain(Path::new(name))));
        }
    }
}
