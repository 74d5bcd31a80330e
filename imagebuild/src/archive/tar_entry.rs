//! Writes one file system object as a tar entry: POSIX.1-2001 (PAX), with the records that GNU tar and libarchive share
//! for extended attributes (`SCHILY.xattr.*`) and for files with holes (`GNU.sparse.*`, format 1.0).

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use bootspec::manifest::{RootArchive, Stage};
use tar::{EntryType, Header};

use super::scan::{Entry, Kind};
use super::sparse::{Extent, extents};

const BLOCK: u64 = 512;
const NAME_BYTES: usize = 100;
/// The largest number that eleven octal digits hold.
const MAX_OCTAL: u64 = 0o777_7777_7777;
/// The largest id that seven octal digits hold.
const MAX_ID: u32 = 0o777_7777;

/// The attribute that holds a directory's default ACL (acl(5)).
const DEFAULT_ACL: &str = "system.posix_acl_default";

/// The end-of-archive marker: two blocks of zeros.
pub const END_OF_ARCHIVE: [u8; 2 * BLOCK as usize] = [0; 2 * BLOCK as usize];

/// Writes `entry` of the tree at `root` to `out`, as it is due in `stage`. Returns how many bytes of file data it has,
/// holes left out.
pub fn write_entry(root: &Path, entry: &Entry, stage: Stage, out: &mut impl Write) -> io::Result<u64> {
    match &entry.kind {
        Kind::Directory => {
            let records = if stage == Stage::Finish { inherited_records(entry) } else { Vec::new() };
            write_head(entry, EntryType::Directory, None, records, 0, out)?;
        }
        Kind::HardLink(to) => write_head(entry, EntryType::Link, Some(to), Vec::new(), 0, out)?,
        Kind::Symlink(to) => write_head(entry, EntryType::Symlink, Some(to), Vec::new(), 0, out)?,
        Kind::Fifo => write_head(entry, EntryType::Fifo, None, Vec::new(), 0, out)?,
        Kind::Device { block: true, .. } => write_head(entry, EntryType::Block, None, Vec::new(), 0, out)?,
        Kind::Device { block: false, .. } => write_head(entry, EntryType::Char, None, Vec::new(), 0, out)?,
        Kind::File { size_bytes, has_holes } => {
            let mut file = File::open(root.join(&entry.path))?;
            if *has_holes {
                let extents = extents(&file, *size_bytes)?;
                if is_worth_a_map(&extents, *size_bytes) {
                    return write_sparse(entry, &mut file, *size_bytes, &extents, out);
                }
                // A file system that compresses allocates fewer blocks without a hole.
                file.rewind()?;
            }
            write_head(entry, EntryType::Regular, None, Vec::new(), *size_bytes, out)?;
            copy_exactly(&mut file, *size_bytes, out)?;
            pad(*size_bytes, out)?;
            return Ok(*size_bytes);
        }
    }
    Ok(0)
}

/// Whether the file is to be stored without its holes. The map has one run more than there are, which marks the end.
fn is_worth_a_map(extents: &[Extent], size_bytes: u64) -> bool {
    let fits = (extents.len() as u64) < RootArchive::MAX_SPARSE_RUNS;
    fits && extents != [Extent { offset: 0, length: size_bytes }]
}

/// GNU's sparse format 1.0: the map of the data stands in decimal at the front of the entry's contents.
fn write_sparse(
    entry: &Entry,
    file: &mut File,
    size_bytes: u64,
    extents: &[Extent],
    out: &mut impl Write,
) -> io::Result<u64> {
    let end = Extent { offset: size_bytes, length: 0 };
    let mut map = format!("{}\n", extents.len() + 1);
    for extent in extents.iter().chain([&end]) {
        map += &format!("{}\n{}\n", extent.offset, extent.length);
    }
    map += &"\0".repeat(padding(map.len() as u64));
    let data_bytes: u64 = extents.iter().map(|extent| extent.length).sum();
    let records = vec![
        ("GNU.sparse.major".to_owned(), b"1".to_vec()),
        ("GNU.sparse.minor".to_owned(), b"0".to_vec()),
        ("GNU.sparse.name".to_owned(), entry.path.as_os_str().as_bytes().to_vec()),
        ("GNU.sparse.realsize".to_owned(), size_bytes.to_string().into_bytes()),
    ];
    let stored_bytes = map.len() as u64 + data_bytes;
    write_head(entry, EntryType::Regular, None, records, stored_bytes, out)?;
    out.write_all(map.as_bytes())?;
    for extent in extents {
        file.seek(SeekFrom::Start(extent.offset))?;
        copy_exactly(file, extent.length, out)?;
    }
    pad(stored_bytes, out)?;
    Ok(data_bytes)
}

/// Writes the PAX header, if the entry needs one, and the ustar header.
fn write_head(
    entry: &Entry,
    entry_type: EntryType,
    link: Option<&Path>,
    mut records: Vec<(String, Vec<u8>)>,
    size_bytes: u64,
    out: &mut impl Write,
) -> io::Result<()> {
    let mut header = Header::new_ustar();
    header.set_entry_type(entry_type);
    header.set_mode(entry.mode);
    header.set_uid(entry.uid.into());
    header.set_gid(entry.gid.into());
    header.set_size(size_bytes);
    header.set_mtime(u64::try_from(entry.mtime_seconds).unwrap_or(0).min(MAX_OCTAL));
    if let Kind::Device { major, minor, .. } = entry.kind {
        header.set_device_major(major)?;
        header.set_device_minor(minor)?;
    }
    let fields = header.as_ustar_mut().expect("the header was made as ustar");
    put_name(&mut fields.name, "path", entry_name(entry), &mut records);
    if let Some(link) = link {
        put_name(&mut fields.linkname, "linkpath", link.as_os_str().as_bytes().to_vec(), &mut records);
    }
    header.set_cksum();

    add_records(entry, size_bytes, &mut records);
    if !records.is_empty() {
        write_pax_header(records, out)?;
    }
    out.write_all(header.as_bytes())
}

/// The name as tar wants it: directories end in a slash, and the root is `./`.
fn entry_name(entry: &Entry) -> Vec<u8> {
    let mut name = entry.path.as_os_str().as_bytes().to_vec();
    if let Kind::Directory = entry.kind {
        name.extend(if name.is_empty() { b"./".as_slice() } else { b"/" });
    }
    name
}

/// Puts `name` into its field, and into a PAX record as well if the field is too short for it.
fn put_name(field: &mut [u8; NAME_BYTES], key: &str, name: Vec<u8>, records: &mut Vec<(String, Vec<u8>)>) {
    let length = name.len().min(NAME_BYTES);
    field[..length].copy_from_slice(&name[..length]);
    if name.len() > NAME_BYTES {
        records.push((key.to_owned(), name));
    }
}

/// PAX records for everything that the ustar header cannot say exactly.
fn add_records(entry: &Entry, size_bytes: u64, records: &mut Vec<(String, Vec<u8>)>) {
    let mut add = |key: &str, value: String| records.push((key.to_owned(), value.into_bytes()));
    if entry.mtime_nanos != 0 || !(0..=MAX_OCTAL as i64).contains(&entry.mtime_seconds) {
        add("mtime", pax_time(entry.mtime_seconds, entry.mtime_nanos));
    }
    if entry.uid > MAX_ID {
        add("uid", entry.uid.to_string());
    }
    if entry.gid > MAX_ID {
        add("gid", entry.gid.to_string());
    }
    if size_bytes > MAX_OCTAL {
        add("size", size_bytes.to_string());
    }
    records.extend(entry.xattrs.iter().filter(|(name, _)| name != DEFAULT_ACL).map(xattr_record));
}

/// What a directory hands down to everything that is made in it. Extracted before its contents, it would change them.
fn inherited_records(entry: &Entry) -> Vec<(String, Vec<u8>)> {
    entry.xattrs.iter().filter(|(name, _)| name == DEFAULT_ACL).map(xattr_record).collect()
}

fn xattr_record((name, value): &(OsString, Vec<u8>)) -> (String, Vec<u8>) {
    let name = name.to_str().expect("the scan admits only UTF-8 names");
    (format!("SCHILY.xattr.{name}"), value.clone())
}

/// A time in PAX's decimal form. Seconds are rounded down, so half a second before the epoch is (-1, 500000000) and
/// prints as `-0.500000000`.
fn pax_time(seconds: i64, nanos: u32) -> String {
    if seconds >= 0 || nanos == 0 {
        format!("{seconds}.{nanos:09}")
    } else {
        format!("-{}.{:09}", (seconds + 1).unsigned_abs(), 1_000_000_000 - nanos)
    }
}

fn write_pax_header(mut records: Vec<(String, Vec<u8>)>, out: &mut impl Write) -> io::Result<()> {
    records.sort();
    let body: Vec<u8> = records.iter().flat_map(|(key, value)| pax_record(key, value)).collect();
    let mut header = Header::new_ustar();
    header.set_entry_type(EntryType::XHeader);
    header.set_path("PaxHeader")?;
    header.set_mode(0o644);
    header.set_size(body.len() as u64);
    header.set_cksum();
    out.write_all(header.as_bytes())?;
    out.write_all(&body)?;
    pad(body.len() as u64, out)
}

/// `LENGTH KEY=VALUE\n`, where LENGTH counts itself.
fn pax_record(key: &str, value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + " =\n".len();
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    let mut record = format!("{length} {key}=").into_bytes();
    record.extend(value);
    record.push(b'\n');
    record
}

/// Copies `length` bytes. A file that has become shorter since it was scanned is an error: its header is written.
fn copy_exactly(file: &mut File, length: u64, out: &mut impl Write) -> io::Result<()> {
    let copied = io::copy(&mut file.take(length), out)?;
    if copied != length {
        let problem = format!("it shrank while it was packed: expected {length} bytes, found {copied}");
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, problem));
    }
    Ok(())
}

/// How many bytes are missing from `length` to a multiple of the block size.
fn padding(length: u64) -> usize {
    (length.next_multiple_of(BLOCK) - length) as usize
}

fn pad(length: u64, out: &mut impl Write) -> io::Result<()> {
    out.write_all(&END_OF_ARCHIVE[..padding(length)])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn record_length_counts_its_own_digits() {
        assert_eq!(pax_record("path", b"abc"), b"12 path=abc\n");
        // The rest is 98 bytes; a length of two digits would make 100, so it takes three: 101.
        let record = pax_record("k", &[b'v'; 94]);
        assert!(record.starts_with(b"101 k="), "{}", record.len());
        assert_eq!(record.len(), 101);
    }

    #[test]
    fn a_file_with_more_holes_than_a_node_can_hold_is_stored_with_them() {
        let run = Extent { offset: 0, length: 512 };
        let most = usize::try_from(RootArchive::MAX_SPARSE_RUNS).unwrap() - 1;
        assert!(is_worth_a_map(&vec![run; most], 1 << 40));
        assert!(!is_worth_a_map(&vec![run; most + 1], 1 << 40));
        assert!(!is_worth_a_map(&[run], 512), "it has no hole");
        assert!(is_worth_a_map(&[], 512), "it is one hole");
    }

    #[test]
    fn times_before_the_epoch_are_decimal_fractions() {
        assert_eq!(pax_time(1, 5), "1.000000005");
        assert_eq!(pax_time(-1, 500_000_000), "-0.500000000");
        assert_eq!(pax_time(-2, 250_000_000), "-1.750000000");
        assert_eq!(pax_time(-2, 0), "-2.000000000");
    }

    proptest! {
        #[test]
        fn records_are_as_long_as_they_say(key in "[a-z.]{1,30}", value: Vec<u8>) {
            let record = pax_record(&key, &value);
            let length: usize =
                String::from_utf8_lossy(&record).split(' ').next().and_then(|n| n.parse().ok()).unwrap();
            prop_assert_eq!(length, record.len());
        }
    }
}
