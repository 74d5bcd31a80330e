//! What is in a root archive: each object with its metadata and the digest of its contents.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;

use bootspec::Sha256Digest;
use bootspec::manifest::Compression;
use bootspec::pax::split_record;
use tar::{Archive, EntryType, Header};

use crate::archive::decode;
use crate::digest::digest;

const XATTR_PREFIX: &str = "SCHILY.xattr.";
/// Longer ones are not written: the attributes of an object take 64 KiB together at most.
const MAX_RECORDS_BYTES: u64 = 1 << 20;

/// An object of a root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    pub(super) kind: &'static str,
    pub(super) mode: u32,
    pub(super) owner: String,
    /// Seconds since the epoch, with a fraction if there is one.
    pub(super) mtime: String,
    /// The target of a link, the number of a device.
    pub(super) target: Option<String>,
    /// Bytes of a file.
    pub(super) size_bytes: Option<u64>,
    /// Digest of a file's contents; of one with holes, of its map and its data.
    pub(super) content: Option<Sha256Digest>,
    pub(super) xattrs: BTreeMap<String, Vec<u8>>,
}

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:04o} {}", self.kind, self.mode, self.owner)?;
        match (&self.target, self.size_bytes) {
            (Some(target), _) => write!(f, " -> {target}"),
            (None, Some(size_bytes)) => write!(f, " {size_bytes} bytes"),
            (None, None) => Ok(()),
        }
    }
}

impl Object {
    /// Whether it has this extended attribute.
    pub fn has_xattr(&self, name: &str) -> bool {
        self.xattrs.contains_key(name)
    }

    /// All that is compared, by name.
    pub fn fields(&self, with_times: bool) -> BTreeMap<String, String> {
        let fixed = [
            ("type", Some(self.kind.to_owned())),
            ("mode", Some(format!("{:04o}", self.mode))),
            ("owner", Some(self.owner.clone())),
            ("mtime", with_times.then(|| self.mtime.clone())),
            ("target", self.target.clone()),
            ("size", self.size_bytes.map(|bytes| bytes.to_string())),
            ("sha256", self.content.map(|digest| digest.to_string())),
        ];
        let fixed = fixed.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
        let xattrs = self.xattrs.iter().map(|(name, value)| (name.clone(), value.escape_ascii().to_string()));
        fixed.chain(xattrs).collect()
    }
}

/// The fields that differ, as they are in each.
pub fn differing_fields(before: &Object, after: &Object, with_times: bool) -> Option<(String, String)> {
    let (before, after) = (before.fields(with_times), after.fields(with_times));
    let names: BTreeSet<_> = before.keys().chain(after.keys()).collect();
    let differing: Vec<&String> =
        names.into_iter().filter(|name| before.get(*name) != after.get(*name)).collect();
    let shown = |fields: &BTreeMap<String, String>| {
        let field = |name: &&String| format!("{name} {}", fields.get(*name).map_or("none", String::as_str));
        differing.iter().map(field).collect::<Vec<_>>().join(", ")
    };
    (!differing.is_empty()).then(|| (shown(&before), shown(&after)))
}

/// Reads the archive at `path`. `done` is told how many bytes of the file have been read.
pub fn read_listing(
    path: &Path,
    compression: Compression,
    done: &mut impl FnMut(u64),
) -> io::Result<BTreeMap<String, Object>> {
    let file = BufReader::with_capacity(1 << 20, Counted { file: File::open(path)?, done });
    list(decode(file, compression)?)
}

struct Counted<'a, F> {
    file: File,
    done: &'a mut F,
}

impl<F: FnMut(u64)> Read for Counted<'_, F> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.file.read(buffer)?;
        (self.done)(length as u64);
        Ok(length)
    }
}

/// Of a directory, which is there twice, the second entry counts: it has what the first left for the end.
fn list(tar: impl Read) -> io::Result<BTreeMap<String, Object>> {
    let mut listing = BTreeMap::new();
    let mut records = BTreeMap::new();
    for entry in Archive::new(tar).entries()?.raw(true) {
        let mut entry = entry?;
        if entry.header().entry_type() == EntryType::XHeader {
            let mut bytes = Vec::new();
            (&mut entry).take(MAX_RECORDS_BYTES).read_to_end(&mut bytes)?;
            records = parse_records(&bytes)?;
            continue;
        }
        let records = std::mem::take(&mut records);
        let header = entry.header().clone();
        let name = name_of(&header, &records);
        let contents = match header.entry_type() {
            EntryType::Regular => Some(digest(&mut entry)?),
            _ => None,
        };
        listing.insert(name, object(&header, records, contents)?);
    }
    Ok(listing)
}

fn name_of(header: &Header, records: &Records) -> String {
    let name = ["GNU.sparse.name", "path"].iter().find_map(|key| records.get(*key).cloned());
    let name = name.unwrap_or_else(|| header.path_bytes().into_owned());
    let name = name.strip_suffix(b"/").unwrap_or(&name);
    let name = name.strip_prefix(b"./").unwrap_or(name);
    format!("/{}", if name == b"." { String::new() } else { text(name) })
}

fn object(header: &Header, records: Records, contents: Option<(u64, Sha256Digest)>) -> io::Result<Object> {
    let record = |key: &str| records.get(key).map(|value| text(value));
    let number = |key: &str, in_header: io::Result<u64>| match record(key) {
        Some(number) => Ok(number),
        None => in_header.map(|number| number.to_string()),
    };
    let kind = match header.entry_type() {
        EntryType::Regular => "file",
        EntryType::Directory => "directory",
        EntryType::Symlink => "symlink",
        EntryType::Link => "hard link",
        EntryType::Char => "character device",
        EntryType::Block => "block device",
        EntryType::Fifo => "fifo",
        _ => "unknown",
    };
    let target = match header.entry_type() {
        EntryType::Symlink | EntryType::Link => {
            let in_header = || header.link_name_bytes().map(|target| text(&target));
            record("linkpath").or_else(in_header)
        }
        EntryType::Char | EntryType::Block => {
            let part = |number: io::Result<Option<u32>>| number.map(Option::unwrap_or_default);
            Some(format!("{}:{}", part(header.device_major())?, part(header.device_minor())?))
        }
        _ => None,
    };
    let size_bytes = match record("GNU.sparse.realsize").and_then(|size| size.parse().ok()) {
        Some(size_bytes) => Some(size_bytes),
        None => contents.as_ref().map(|(size_bytes, _)| *size_bytes),
    };
    let owner = format!("{}:{}", number("uid", header.uid())?, number("gid", header.gid())?);
    let (mode, mtime) = (header.mode()? & 0o7777, number("mtime", header.mtime())?);
    let xattr = |(key, value): (String, Vec<u8>)| Some((key.strip_prefix(XATTR_PREFIX)?.to_owned(), value));
    let xattrs = records.into_iter().filter_map(xattr).collect();
    Ok(Object {
        kind,
        mode,
        owner,
        mtime,
        target,
        size_bytes,
        content: contents.map(|(_, digest)| digest),
        xattrs,
    })
}

type Records = BTreeMap<String, Vec<u8>>;

fn parse_records(mut bytes: &[u8]) -> io::Result<Records> {
    let mut records = Records::new();
    while !bytes.is_empty() {
        let (record, rest) = split_record(bytes).ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidData, "the records of an entry are not LENGTH KEY=VALUE")
        })?;
        records.insert(text(record.key), record.value.to_vec());
        bytes = rest;
    }
    Ok(records)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::{PackOptions, pack, scan};
    use crate::progress::Progress;
    use proptest::prelude::*;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    /// Packs `root` and lists what was packed.
    fn listing_of(root: &Path, compression: Compression) -> BTreeMap<String, Object> {
        let out = tempfile::tempdir().unwrap();
        let options = PackOptions {
            compression,
            level: 1,
            x86_filter: true,
            chunk_bytes: 64 << 10,
            jobs: std::num::NonZeroUsize::MIN,
            source_date: None,
        };
        let step = Progress::quiet().step("pack");
        let archive = pack(root, scan(root).unwrap(), out.path(), options, &step).unwrap();
        let mut read_bytes = 0;
        let listing = read_listing(&out.path().join(archive.file.as_str()), compression, &mut |bytes| {
            read_bytes += bytes
        });
        assert_eq!(read_bytes, archive.compressed_bytes());
        listing.unwrap()
    }

    #[test]
    fn what_is_packed_is_listed() {
        let root = tempfile::tempdir().unwrap();
        let long = "d/".to_owned() + &"x".repeat(150);
        fs::create_dir(root.path().join("d")).unwrap();
        fs::write(root.path().join(&long), "contents").unwrap();
        fs::set_permissions(root.path().join(&long), PermissionsExt::from_mode(0o4755)).unwrap();
        symlink("target", root.path().join("l")).unwrap();
        fs::hard_link(root.path().join(&long), root.path().join("h")).unwrap();
        for compression in [Compression::Xz, Compression::Zstd] {
            let listing = listing_of(root.path(), compression);
            assert_eq!(listing.keys().collect::<Vec<_>>(), ["/", "/d", &format!("/{long}"), "/h", "/l"]);
            let file = &listing[&format!("/{long}")];
            let [file_fields, link] = [file.fields(false), listing["/l"].fields(false)];
            // Which of two names is the file and which the link, the archive decides.
            assert!(file.kind == "hard link" || file_fields["mode"] == "4755" && file_fields["size"] == "8");
            assert_eq!((link["type"].as_str(), link["target"].as_str()), ("symlink", "target"));
            assert_eq!(listing, listing_of(root.path(), compression));
        }
    }

    #[test]
    fn each_field_that_differs_is_named() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("f");
        fs::write(&path, "before").unwrap();
        let before = listing_of(root.path(), Compression::Zstd);
        fs::write(&path, "after!").unwrap();
        fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
        let after = listing_of(root.path(), Compression::Zstd);
        let differing = |with_times| differing_fields(&before["/f"], &after["/f"], with_times).unwrap();
        assert!(!differing(false).0.contains("mtime") && differing(true).0.contains("mtime"));
        let (before, after) = differing(false);
        assert!(
            before.contains("mode 0644") && before.contains("sha256 ") && !before.contains("size"),
            "{before}"
        );
        assert!(after.contains("mode 0600"), "{after}");
    }

    #[test]
    fn records_may_hold_line_feeds() {
        let records = parse_records(b"11 a=b\nc=d\n9 path=x\n").unwrap();
        assert_eq!((&records["a"][..], &records["path"][..]), (&b"b\nc=d"[..], &b"x"[..]));
        assert!(parse_records(b"99 a=b\n").is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_listed_or_refused_without_panic(bytes: Vec<u8>) {
            let _ = parse_records(&bytes);
            let _ = list(&bytes[..]);
        }
    }
}
