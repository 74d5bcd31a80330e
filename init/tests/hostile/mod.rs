//! Archives that mean harm, and a place to extract them where harm shows. The fuzz target of the same purpose
//! (fuzz/fuzz_targets/tar_entries.rs) has these too.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};

const BLOCK: usize = 512;

/// A tar entry, every field of which may be nonsense.
#[derive(Clone, Debug)]
pub struct Entry {
    /// What stands in the name field, and in PAX records or long names before it.
    pub name: Vec<u8>,
    /// What stands in the field for the target of a link.
    pub link: Vec<u8>,
    /// `0` to `7`, `x`, `g`, `L`, `K`, `S` or anything.
    pub kind: u8,
    /// Permissions.
    pub mode: u32,
    /// Owner and group.
    pub owner: u32,
    /// What the size field says, if not the length of the contents.
    pub size: Option<u64>,
    /// What follows the header, padded to a block.
    pub contents: Vec<u8>,
    /// PAX records, in a header of their own.
    pub records: Vec<(String, Vec<u8>)>,
}

impl Entry {
    /// An entry of type `kind` with this name and these contents.
    pub fn new(kind: u8, name: &[u8], contents: &[u8]) -> Self {
        Self {
            name: name.to_vec(),
            link: Vec::new(),
            kind,
            mode: 0o755,
            owner: 0,
            size: None,
            contents: contents.to_vec(),
            records: Vec::new(),
        }
    }

    fn encode(&self, tar: &mut Vec<u8>) {
        if !self.records.is_empty() {
            let body: Vec<u8> = self.records.iter().flat_map(|(key, value)| record(key, value)).collect();
            Self::new(b'x', b"PaxHeader", &body).encode(tar);
        }
        let mut header = tar::Header::new_ustar();
        let fields = header.as_old_mut();
        put(&mut fields.name, &self.name);
        put(&mut fields.linkname, &self.link);
        fields.linkflag = [self.kind];
        header.set_mode(self.mode);
        header.set_uid(self.owner.into());
        header.set_gid(self.owner.into());
        header.set_size(self.size.unwrap_or(self.contents.len() as u64));
        header.set_mtime(1_700_000_000);
        header.set_cksum();
        tar.extend_from_slice(header.as_bytes());
        tar.extend_from_slice(&self.contents);
        tar.resize(tar.len().next_multiple_of(BLOCK), 0);
    }
}

/// The archive of these entries, with its end.
pub fn archive(entries: &[Entry]) -> Vec<u8> {
    let mut tar = Vec::new();
    entries.iter().for_each(|entry| entry.encode(&mut tar));
    tar.extend_from_slice(&[0; 2 * BLOCK]);
    tar
}

/// `LENGTH KEY=VALUE\n`, where LENGTH counts itself.
fn record(key: &str, value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + " =\n".len();
    let length = (rest..).find(|length| *length == rest + length.to_string().len());
    let length = length.expect("some number is as much longer as it has digits");
    [format!("{length} {key}=").as_bytes(), value, b"\n"].concat()
}

fn put(field: &mut [u8], text: &[u8]) {
    let length = field.len().min(text.len());
    field[..length].copy_from_slice(&text[..length]);
}

/// A root to extract into, with symbolic links that lead out of it, and beside it what must stay as it is.
pub struct Sandbox {
    dir: PathBuf,
    before: Vec<Object>,
}

/// All that can be changed of a file or directory. The time of its last change tells what the rest does not.
#[derive(Debug, PartialEq, Eq)]
struct Object {
    path: PathBuf,
    inode: u64,
    mode: u32,
    links: u64,
    changed: (i64, i64),
    contents: Option<Vec<u8>>,
}

impl Sandbox {
    /// Makes it in `dir`, which is empty.
    pub fn new(dir: &Path) -> io::Result<Self> {
        let outside = dir.join("outside");
        fs::create_dir_all(outside.join("dir"))?;
        fs::write(outside.join("file"), "secret")?;
        fs::write(outside.join("dir/file"), "secret")?;
        let mut sandbox = Self { dir: dir.to_owned(), before: Vec::new() };
        sandbox.clear()?;
        sandbox.before = sandbox.snapshot()?;
        Ok(sandbox)
    }

    /// Empties the root.
    pub fn clear(&self) -> io::Result<()> {
        let root = self.dir.join("root");
        match fs::remove_dir_all(&root) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        fs::create_dir_all(root.join("dir"))?;
        fs::write(root.join("file"), "old")?;
        symlink("../outside", root.join("out"))?;
        symlink(self.outside().join("dir"), root.join("absolute"))?;
        symlink("../outside/file", root.join("to-file"))
    }

    /// The directory that nothing may be changed in.
    pub fn outside(&self) -> PathBuf {
        self.dir.join("outside")
    }

    /// The root.
    pub fn root(&self) -> io::Result<OwnedFd> {
        File::open(self.dir.join("root")).map(OwnedFd::from)
    }

    /// Panics if anything outside the root has changed, is gone or is new.
    pub fn check(&self) {
        let after = self.snapshot().expect("what is outside the root can still be read");
        assert_eq!(after, self.before, "something outside the root has changed");
        let mut names: Vec<OsString> = fs::read_dir(&self.dir)
            .and_then(|entries| entries.map(|entry| Ok(entry?.file_name())).collect())
            .expect("the directory can still be read");
        names.sort();
        assert_eq!(names, ["outside", "root"], "something was made beside the root");
    }

    fn snapshot(&self) -> io::Result<Vec<Object>> {
        let mut objects = Vec::new();
        let mut left = vec![self.outside()];
        while let Some(path) = left.pop() {
            let metadata = fs::symlink_metadata(&path)?;
            let mut contents = None;
            if metadata.is_dir() {
                let names: io::Result<Vec<_>> = fs::read_dir(&path)?.map(|entry| Ok(entry?.path())).collect();
                left.extend(names?);
            } else if metadata.is_file() {
                contents = Some(fs::read(&path)?);
            }
            objects.push(Object {
                path,
                inode: metadata.ino(),
                mode: metadata.mode(),
                links: metadata.nlink(),
                changed: (metadata.ctime(), metadata.ctime_nsec()),
                contents,
            });
        }
        Ok(objects)
    }
}
