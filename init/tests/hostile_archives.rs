//! Whatever an archive says, nothing outside the root is created or changed, and memory stays bounded.
//!
//! The tests are a process of their own with a limit of data memory, so that what asks for more than it should is aborted.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod hostile;

use std::fs;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;
use std::sync::Once;

use hostile::{Entry, Sandbox, archive};
use init::unpack::{Existing, ExtractError, extract};
use proptest::prelude::*;
use rustix::process::{Resource, Rlimit, setrlimit};

/// Beyond what the test program has when it starts. An extraction takes some MiB; the rest is for a test that fails, and
/// prints where.
const MEMORY_BYTES: u64 = 256 << 20;

/// Limits the memory of this process, once. An allocation beyond it aborts the tests.
fn limit_memory() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmData:")).unwrap();
        let used_kib: u64 = line.trim().trim_end_matches(" kB").parse().unwrap();
        let limit = Some(used_kib * 1024 + MEMORY_BYTES);
        setrlimit(Resource::Data, Rlimit { current: limit, maximum: limit }).unwrap();
    });
}

/// Extracts `tar` in both ways and checks that nothing outside has changed. The result is that of the second.
fn extract_in_sandbox(tar: impl Fn(&Path) -> Box<dyn BufRead>) -> Result<(), ExtractError> {
    limit_memory();
    // In memory, as the roots of nodes are.
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let sandbox = Sandbox::new(dir.path()).unwrap();
    let mut result = Ok(());
    for existing in [Existing::Refuse, Existing::Replace] {
        sandbox.clear().unwrap();
        result = extract(&mut *tar(&sandbox.outside()), &sandbox.root().unwrap(), existing);
        sandbox.check();
    }
    result
}

fn extract_entries(entries: &[Entry]) -> Result<(), ExtractError> {
    extract_in_sandbox(|_| Box::new(io::Cursor::new(archive(entries))))
}

/// What [`OUTSIDE`] at the beginning of a name or link stands for is known only when the sandbox is there.
const OUTSIDE: &[u8] = b"OUTSIDE";

fn point_outside(entries: &[Entry], outside: &Path) -> Vec<Entry> {
    let point = |text: &mut Vec<u8>| {
        if let Some(rest) = text.strip_prefix(OUTSIDE) {
            *text = [outside.as_os_str().as_encoded_bytes(), rest].concat();
        }
    };
    let mut entries = entries.to_vec();
    for entry in &mut entries {
        point(&mut entry.name);
        point(&mut entry.link);
        entry.records.iter_mut().for_each(|(_, value)| point(value));
    }
    entries
}

/// Few components, so that entries hit what is there, what was extracted before, and the links that lead out.
fn any_path() -> impl Strategy<Value = Vec<u8>> {
    let component = prop_oneof![
        8 => prop::sample::select(vec!["a", "b", "dir", "file", "out", "absolute", "to-file"]),
        3 => prop::sample::select(vec!["..", ".", ""]),
    ];
    let path = prop::collection::vec(component, 0..4).prop_map(|path| path.join("/").into_bytes());
    prop_oneof![
        8 => path,
        1 => Just(b"../outside/new".to_vec()),
        1 => Just(b"OUTSIDE/file".to_vec()),
        1 => Just(b"OUTSIDE/new".to_vec()),
        1 => Just(b"OUTSIDE".to_vec()),
        1 => (1..5000_usize).prop_map(|length| vec![b'n'; length]),
        1 => any::<Vec<u8>>(),
    ]
}

fn any_records() -> impl Strategy<Value = Vec<(String, Vec<u8>)>> {
    let number = prop_oneof![Just("0"), Just("7"), Just("4096"), Just("9223372036854775807"), Just("-1")];
    let number = number.prop_map(|number| number.as_bytes().to_vec());
    let record = prop_oneof![
        4 => (prop_oneof![Just("path"), Just("linkpath"), Just("GNU.sparse.name")], any_path()),
        2 => (prop_oneof![Just("GNU.sparse.realsize"), Just("mtime"), Just("uid"), Just("size")], number),
        1 => (Just("SCHILY.xattr.user.x"), any::<Vec<u8>>()),
        1 => (Just("SCHILY.xattr.security.capability"), any::<Vec<u8>>()),
        1 => (Just("comment"), prop::collection::vec(any::<u8>(), 0..20_000)),
    ];
    let record = record.prop_map(|(key, value)| (key.to_owned(), value));
    prop_oneof![2 => Just(vec![]), 1 => prop::collection::vec(record, 1..4)]
}

fn any_entry() -> impl Strategy<Value = Entry> {
    let kind = prop_oneof![
        8 => prop::sample::select(b"0125".to_vec()),
        2 => prop::sample::select(b"346\0xgLKS7".to_vec()),
        1 => any::<u8>(),
    ];
    let contents = prop_oneof![
        4 => any::<Vec<u8>>(),
        2 => any_path().prop_map(|path| [&path, b"\0".as_slice()].concat()),
        1 => "[0-9]{1,20}\n[0-9\n]{0,40}".prop_map(String::into_bytes),
    ];
    let size =
        prop_oneof![8 => Just(None), 1 => any::<u64>().prop_map(Some), 1 => (0..1_u64 << 40).prop_map(Some)];
    let owner = prop_oneof![4 => Just(0), 1 => any::<u32>()];
    let fields = (any_path(), any_path(), kind, 0..0o10_000_u32, owner, size, contents, any_records());
    fields.prop_map(|(name, link, kind, mode, owner, size, contents, records)| Entry {
        name,
        link,
        kind,
        mode,
        owner,
        size,
        contents,
        records,
    })
}

proptest! {
    #[test]
    fn no_archive_changes_anything_outside_the_root(entries in prop::collection::vec(any_entry(), 1..12)) {
        let _ = extract_in_sandbox(|outside| Box::new(io::Cursor::new(archive(&point_outside(&entries, outside)))));
    }

    #[test]
    fn no_bytes_change_anything_outside_the_root(bytes: Vec<u8>) {
        let _ = extract_in_sandbox(|_| Box::new(io::Cursor::new(bytes.clone())));
    }
}

/// The generator would seldom find these in a row.
#[test]
fn links_are_not_followed_whatever_is_put_in_their_place() {
    let link = |name: &[u8], to: &[u8]| Entry { link: to.to_vec(), ..Entry::new(b'2', name, b"") };
    let hard_link = |name: &[u8], to: &[u8]| Entry { link: to.to_vec(), ..Entry::new(b'1', name, b"") };
    let file = |name: &[u8]| Entry::new(b'0', name, b"harm");
    for entries in [
        vec![link(b"a", b"../outside"), file(b"a/file")],
        vec![Entry::new(b'5', b"a", b""), link(b"a", b"../outside"), file(b"a/file")],
        vec![link(b"a", b"../outside"), Entry::new(b'5', b"a", b""), file(b"a/file")],
        vec![hard_link(b"a", b"out"), file(b"a/file")],
        vec![hard_link(b"a", b"out/file"), file(b"a")],
        vec![hard_link(b"a", b"to-file"), Entry::new(b'3', b"a/x", b"")],
        vec![file(b"out/dir/../file")],
        vec![file(b"absolute/file")],
    ] {
        assert!(extract_entries(&entries).is_err(), "{entries:?}");
    }
    // The links themselves are replaced, and not what they point to.
    for entries in [
        vec![file(b"to-file")],
        vec![file(b"out")],
        vec![link(b"a", b"../outside/file"), file(b"a"), Entry::new(b'6', b"a", b"")],
    ] {
        assert!(extract_entries(&entries).is_ok(), "{entries:?}");
    }
}

/// Repeats `block` without end.
struct Endless {
    block: Vec<u8>,
    at: usize,
}

impl Read for Endless {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = (&self.block[self.at..]).read(buffer)?;
        self.at = (self.at + length) % self.block.len();
        Ok(length)
    }
}

/// The bytes of the entry without the end of an archive.
fn encoded(entry: Entry) -> Vec<u8> {
    let mut tar = archive(&[entry]);
    tar.truncate(tar.len() - 1024);
    tar
}

fn check_refused(tar: impl Fn() -> Box<dyn BufRead>, problem: &str) {
    let error = extract_in_sandbox(|_| tar()).unwrap_err();
    let error = bootspec::diagnosis::explain(&error);
    assert!(error.contains(problem), "{error}");
}

#[test]
fn headers_without_an_entry_do_not_pile_up() {
    let records =
        encoded(Entry { records: vec![("k".into(), vec![7; 100_000])], ..Entry::new(b'x', b"", b"") });
    let names = encoded(Entry::new(b'L', b"", b"n\0"));
    for (block, problem) in [(records, "longer than 1 MiB"), (names, "16384 records")] {
        check_refused(|| Box::new(BufReader::new(Endless { block: block.clone(), at: 0 })), problem);
    }
}

#[test]
fn one_header_does_not_fill_the_memory() {
    let endless = |head: Entry| {
        let head = encoded(Entry { size: Some(1 << 40), ..head });
        move || -> Box<dyn BufRead> {
            Box::new(BufReader::new(io::Cursor::new(head.clone()).chain(io::repeat(b'1'))))
        }
    };
    check_refused(endless(Entry::new(b'x', b"", b"")), "longer than 1 MiB");
    check_refused(endless(Entry::new(b'L', b"", b"")), "longer than 1 MiB");
    let sparse = Entry {
        records: vec![("GNU.sparse.realsize".into(), b"1000000".to_vec())],
        ..Entry::new(b'0', b"sparse", b"")
    };
    check_refused(endless(sparse), "decimal lines");
}

#[test]
fn a_sparse_map_does_not_fill_the_memory() {
    let records = vec![("GNU.sparse.realsize".to_owned(), b"1000000".to_vec())];
    let head = Entry { records, size: Some(1 << 40), ..Entry::new(b'0', b"sparse", b"") };
    let head = [encoded(head), format!("{}\n", u64::MAX).into_bytes()].concat();
    let runs = || Endless { block: b"0\n0\n".to_vec(), at: 0 };
    check_refused(|| Box::new(BufReader::new(io::Cursor::new(head.clone()).chain(runs()))), "more runs");
}
