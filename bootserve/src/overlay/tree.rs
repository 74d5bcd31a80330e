//! An overlay as it lies on the disk: the tree of files below `OVERLAYS/NAME`, read whole.
//!
//! No symbolic link in it is followed, neither by name nor by a race: each directory and file is opened in the directory that was
//! listed. What is neither file, directory nor symbolic link is an error, and so is a tree that is too large.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, fstat, openat, readlinkat, statat};
use rustix::io::Errno;

use super::attributes::{self, Attributes, AttributesError};

/// Whether a file of this name is a template; its name on the node has no `.j2`.
pub(super) const TEMPLATE_SUFFIX: &str = ".j2";
/// Deeper trees are refused.
const MAX_DEPTH: usize = 32;

/// What of trees may be read.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    /// Bytes of files.
    pub bytes: u64,
    /// Files, directories and symbolic links.
    pub entries: usize,
}

/// What is in an overlay, by its path on the node, without a slash at its beginning. A directory comes before what is in it.
pub type Tree = BTreeMap<String, Entry>;

/// A file, a directory or a symbolic link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What it is.
    pub kind: Kind,
    /// Its permission bits.
    pub mode: u32,
    /// Number of its user.
    pub uid: u32,
    /// Number of its group.
    pub gid: u32,
    /// When it was changed, in seconds since 1970.
    pub mtime: u64,
}

/// What an entry is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A directory.
    Directory,
    /// A file that is copied as it is.
    File(Vec<u8>),
    /// What a file is rendered from.
    Template(Vec<u8>),
    /// A symbolic link, and what it points to.
    Symlink(String),
}

/// A tree cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    /// There is none.
    #[error("there is no directory {}", .0.display())]
    Missing(PathBuf),
    /// Something cannot be read.
    #[error("cannot read {}\nhint: server.user must be able to read the overlays", path.display())]
    Read {
        /// What.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Something has no name that is text.
    #[error("a name in {} is not UTF-8", .0.display())]
    Name(PathBuf),
    /// Something is a device, a socket or a FIFO.
    #[error("{} is neither a file, a directory nor a symbolic link", .0.display())]
    Type(PathBuf),
    /// A file and a template are of one name.
    #[error("{} stands beside a file of its name without {TEMPLATE_SUFFIX}\nhint: remove one of them", .0.display())]
    Twice(PathBuf),
    /// There is more than is sent to a node.
    #[error("{} does not fit: the overlays of a node have at most {limit} {what}\nhint: put what is alike on many nodes into an image", path.display())]
    TooLarge {
        /// Where the limit was reached.
        path: PathBuf,
        /// How much there may be.
        limit: u64,
        /// Of what: `bytes`, `files`, `levels`.
        what: &'static str,
    },
    /// Its `overlay.toml` cannot be read.
    #[error("cannot use {}", path.display())]
    Attributes {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: AttributesError,
    },
    /// Its `overlay.toml` is of a file that is not there.
    #[error("{} has an entry of /{entry}, and there is no such file in the overlay", path.display())]
    Nobody {
        /// The file.
        path: PathBuf,
        /// What is not there.
        entry: String,
    },
}

/// Reads the tree at `dir`, and takes what it has from `room`.
pub fn read(dir: &Path, room: &mut Room) -> Result<Tree, TreeError> {
    let mut reader = Reader { top: dir, room, tree: Tree::new(), attributes: Attributes::default() };
    // An admin may have the whole overlay elsewhere, so this one link is followed.
    let top = match openat(CWD, dir, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()) {
        Ok(top) => top,
        Err(Errno::NOENT | Errno::NOTDIR) => return Err(TreeError::Missing(dir.to_owned())),
        Err(errno) => return Err(unreadable(dir)(errno)),
    };
    reader.read_directory(&top, "", 1)?;
    reader.finish()
}

/// Reads a file of at most `limit` bytes in `dir`, if there is one: by `name`, or with [`TEMPLATE_SUFFIX`] behind it. Tells whether it is
/// a template.
pub fn read_document(dir: &Path, name: &str, limit: u64) -> Result<Option<(Vec<u8>, bool)>, TreeError> {
    let top = match openat(CWD, dir, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()) {
        Ok(top) => top,
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
        Err(errno) => return Err(unreadable(dir)(errno)),
    };
    for (name, is_template) in [(format!("{name}{TEMPLATE_SUFFIX}"), true), (name.to_owned(), false)] {
        let mut room = Room { bytes: limit, entries: 1 };
        match read_file(&top, &name, &dir.join(&name), &mut room) {
            Ok(contents) => return Ok(Some((contents, is_template))),
            Err(TreeError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

struct Reader<'a> {
    top: &'a Path,
    room: &'a mut Room,
    tree: Tree,
    attributes: Attributes,
}

impl Reader<'_> {
    /// `path` is where `dir` is below the top; empty, or with a slash at its end.
    fn read_directory(&mut self, dir: &OwnedFd, path: &str, depth: usize) -> Result<(), TreeError> {
        if depth > MAX_DEPTH {
            return Err(too_large(self.top.join(path), MAX_DEPTH as u64, "levels"));
        }
        for name in self.names(dir, path)? {
            match path.is_empty() && name == attributes::FILE_NAME {
                true => self.read_attributes(dir)?,
                false => self.read_entry(dir, path, &name, depth)?,
            }
        }
        Ok(())
    }

    /// What is in `dir`, by name.
    fn names(&mut self, dir: &OwnedFd, path: &str) -> Result<Vec<String>, TreeError> {
        let place = self.top.join(path);
        let mut names = Vec::new();
        for entry in Dir::read_from(dir).map_err(unreadable(&place))? {
            let entry = entry.map_err(unreadable(&place))?;
            let name = entry.file_name().to_str().map_err(|_| TreeError::Name(place.clone()))?;
            if matches!(name, "." | "..") {
                continue;
            }
            names.push(name.to_owned());
            let left = self.room.entries.checked_sub(1);
            self.room.entries =
                left.ok_or_else(|| too_large(place.clone(), super::MAX_ENTRIES as u64, "files"))?;
        }
        names.sort();
        Ok(names)
    }

    fn read_entry(&mut self, dir: &OwnedFd, path: &str, name: &str, depth: usize) -> Result<(), TreeError> {
        let place = self.top.join(format!("{path}{name}"));
        let stat = statat(dir, name, AtFlags::SYMLINK_NOFOLLOW).map_err(unreadable(&place))?;
        let (mut on_node, mut below) = (format!("{path}{name}"), None);
        let kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                below = Some(openat(dir, name, flags, Mode::empty()).map_err(unreadable(&place))?);
                Kind::Directory
            }
            FileType::Symlink => {
                let target = readlinkat(dir, name, Vec::new()).map_err(unreadable(&place))?;
                Kind::Symlink(target.into_string().map_err(|_| TreeError::Name(place.clone()))?)
            }
            FileType::RegularFile => {
                let contents = read_file(dir, name, &place, self.room)?;
                match name.strip_suffix(TEMPLATE_SUFFIX).filter(|name| !name.is_empty()) {
                    Some(name) => {
                        on_node = format!("{path}{name}");
                        Kind::Template(contents)
                    }
                    None => Kind::File(contents),
                }
            }
            _ => return Err(TreeError::Type(place)),
        };
        let mtime = u64::try_from(stat.st_mtime).unwrap_or(0);
        let entry = Entry { kind, mode: stat.st_mode & 0o7777, uid: 0, gid: 0, mtime };
        if self.tree.insert(on_node.clone(), entry).is_some() {
            return Err(TreeError::Twice(self.top.join(on_node + TEMPLATE_SUFFIX)));
        }
        below.map_or(Ok(()), |dir| self.read_directory(&dir, &format!("{path}{name}/"), depth + 1))
    }

    fn read_attributes(&mut self, dir: &OwnedFd) -> Result<(), TreeError> {
        let path = self.top.join(attributes::FILE_NAME);
        let mut room = Room { bytes: attributes::MAX_BYTES, entries: 1 };
        let text = read_file(dir, attributes::FILE_NAME, &path, &mut room)?;
        let text = String::from_utf8(text).map_err(|error| TreeError::Read {
            path: path.clone(),
            source: io::Error::new(io::ErrorKind::InvalidData, error),
        })?;
        self.attributes =
            Attributes::parse(&text).map_err(|source| TreeError::Attributes { path, source })?;
        Ok(())
    }

    fn finish(mut self) -> Result<Tree, TreeError> {
        for (path, attribute) in self.attributes.0 {
            let Some(entry) = self.tree.get_mut(&path) else {
                return Err(TreeError::Nobody { path: self.top.join(attributes::FILE_NAME), entry: path });
            };
            entry.mode = attribute.mode.unwrap_or(entry.mode);
            entry.uid = attribute.uid.unwrap_or(entry.uid);
            entry.gid = attribute.gid.unwrap_or(entry.gid);
        }
        Ok(self.tree)
    }
}

/// Reads the file `name` in `dir`. A FIFO that has taken its place is not waited for.
fn read_file(dir: impl AsFd, name: &str, place: &Path, room: &mut Room) -> Result<Vec<u8>, TreeError> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let fd = openat(dir, name, flags, Mode::empty()).map_err(unreadable(place))?;
    let stat = fstat(&fd).map_err(unreadable(place))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(TreeError::Type(place.to_owned()));
    }
    let mut contents = Vec::new();
    let read = File::from(fd).take(room.bytes + 1).read_to_end(&mut contents);
    read.map_err(|source| TreeError::Read { path: place.to_owned(), source })?;
    let left = room.bytes.checked_sub(contents.len() as u64);
    room.bytes = left.ok_or_else(|| too_large(place.to_owned(), super::MAX_RENDERED_BYTES, "bytes"))?;
    Ok(contents)
}

fn unreadable(path: &Path) -> impl FnOnce(Errno) -> TreeError {
    let path = path.to_owned();
    move |errno| TreeError::Read { path, source: errno.into() }
}

fn too_large(path: PathBuf, limit: u64, what: &'static str) -> TreeError {
    TreeError::TooLarge { path, limit, what }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    const ROOM: Room = Room { bytes: 1000, entries: 20 };

    fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (path, contents) in files {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, contents).unwrap();
        }
        dir
    }

    fn error(dir: &Path, mut room: Room) -> String {
        bootspec::diagnosis::explain(&read(dir, &mut room).unwrap_err()).to_string()
    }

    #[test]
    fn files_templates_directories_and_links_are_read_with_their_modes() {
        let dir = tree(&[("etc/motd", "hello"), ("etc/hosts.j2", "{{ x }}"), (".j2", "plain")]);
        symlink("../nowhere", dir.path().join("etc/link.j2")).unwrap();
        fs::set_permissions(dir.path().join("etc/motd"), fs::Permissions::from_mode(0o640)).unwrap();
        let found = read(dir.path(), &mut ROOM.clone()).unwrap();
        let kinds: Vec<_> = found.iter().map(|(path, entry)| (path.as_str(), &entry.kind)).collect();
        let expected = [
            (".j2", &Kind::File(b"plain".to_vec())),
            ("etc", &Kind::Directory),
            ("etc/hosts", &Kind::Template(b"{{ x }}".to_vec())),
            ("etc/link.j2", &Kind::Symlink("../nowhere".to_owned())),
            ("etc/motd", &Kind::File(b"hello".to_vec())),
        ];
        assert_eq!(kinds, expected);
        assert_eq!((found["etc/motd"].mode, found["etc/motd"].uid), (0o640, 0));
    }

    #[test]
    fn overlay_toml_is_heard_and_not_delivered() {
        let toml = "[files.'/etc/key']\nmode = '0400'\nuid = 7\n[files.'etc']\ngid = 8\n";
        let dir = tree(&[("etc/key.j2", "k"), ("overlay.toml", toml)]);
        let found = read(dir.path(), &mut ROOM.clone()).unwrap();
        assert_eq!(found.keys().collect::<Vec<_>>(), ["etc", "etc/key"]);
        assert_eq!((found["etc/key"].mode, found["etc/key"].uid, found["etc"].gid), (0o400, 7, 8));
        let dir = tree(&[("a", ""), ("overlay.toml", "[files.'/b']\n")]);
        assert!(error(dir.path(), ROOM).contains("an entry of /b, and there is no such file"));
    }

    #[test]
    fn no_link_is_followed_out_of_the_tree() {
        let secret = tree(&[("key", "secret")]);
        let dir = tree(&[("a", "")]);
        symlink(secret.path(), dir.path().join("dir")).unwrap();
        symlink(secret.path().join("key"), dir.path().join("file")).unwrap();
        let found = read(dir.path(), &mut ROOM.clone()).unwrap();
        assert_eq!(found.keys().collect::<Vec<_>>(), ["a", "dir", "file"]);
        assert!(
            matches!(found["dir"].kind, Kind::Symlink(_)) && matches!(found["file"].kind, Kind::Symlink(_))
        );
        symlink(secret.path().join("key"), dir.path().join("overlay.toml")).unwrap();
        assert!(error(dir.path(), ROOM).contains("cannot read"));
    }

    #[test]
    fn what_cannot_be_delivered_is_named() {
        let dir = tree(&[("etc/hosts", ""), ("etc/hosts.j2", "")]);
        assert!(error(dir.path(), ROOM).contains("etc/hosts.j2 stands beside a file"));
        let dir = tree(&[]);
        assert!(error(&dir.path().join("nosuch"), ROOM).contains("there is no directory"));
        rustix::fs::mknodat(CWD, dir.path().join("fifo"), FileType::Fifo, Mode::RUSR, 0).unwrap();
        assert!(error(dir.path(), ROOM).contains("fifo is neither a file"));
    }

    #[test]
    fn trees_that_are_too_large_are_refused() {
        let dir = tree(&[("a", "12345"), ("b", "12345")]);
        assert!(error(dir.path(), Room { bytes: 9, entries: 9 }).contains("b does not fit"));
        assert!(read(dir.path(), &mut Room { bytes: 10, entries: 2 }).is_ok());
        assert!(error(dir.path(), Room { bytes: 10, entries: 1 }).contains("files"));
        let deep = ["d"; MAX_DEPTH].join("/");
        fs::create_dir_all(dir.path().join(deep)).unwrap();
        assert!(error(dir.path(), Room { bytes: 10, entries: 99 }).contains("at most 32 levels"));
    }
}
