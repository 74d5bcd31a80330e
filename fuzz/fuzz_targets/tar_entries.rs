//! Archives of well-formed entries that mean harm: names and links that lead out of the root, types, sizes and PAX records
//! that contradict each other.
#![no_main]

use arbitrary::Arbitrary;
use bootnode_fuzz::hostile::{Entry, archive};
use bootnode_fuzz::{extract_in_sandbox, sandbox};
use libfuzzer_sys::fuzz_target;

#[derive(Arbitrary, Debug)]
struct AnyEntry {
    kind: Kind,
    name: Name,
    link: Name,
    mode: u32,
    owner: u32,
    size: Option<u64>,
    contents: Vec<u8>,
    records: Vec<Record>,
}

#[derive(Arbitrary, Debug)]
enum Kind {
    File,
    HardLink,
    Symlink,
    CharacterDevice,
    BlockDevice,
    Directory,
    Fifo,
    LongName,
    LongLink,
    Extended,
    Any(u8),
}

#[derive(Arbitrary, Debug)]
enum Name {
    Path(Vec<Component>),
    /// An absolute path to what is outside.
    Outside(Vec<Component>),
    Bytes(Vec<u8>),
}

/// Few, so that entries hit what is there and what was extracted before.
#[derive(Arbitrary, Debug)]
enum Component {
    A,
    B,
    Directory,
    File,
    LinkOut,
    AbsoluteLinkOut,
    LinkToFile,
    Outside,
    Parent,
    Current,
    Empty,
}

#[derive(Arbitrary, Debug)]
enum Record {
    Path(Name),
    LinkPath(Name),
    SparseName(Name),
    SparseSize(u64),
    Time(i64, u32),
    Owner(u64),
    Attribute(String, Vec<u8>),
    Any(String, Vec<u8>),
}

fuzz_target!(|entries: Vec<AnyEntry>| {
    let entries: Vec<Entry> = entries.into_iter().map(entry).collect();
    extract_in_sandbox(&archive(&entries));
});

fn entry(any: AnyEntry) -> Entry {
    Entry {
        name: name(any.name),
        link: name(any.link),
        kind: kind(any.kind),
        mode: any.mode & 0o7777,
        owner: any.owner,
        size: any.size,
        contents: any.contents,
        records: any.records.into_iter().map(record).collect(),
    }
}

fn kind(kind: Kind) -> u8 {
    match kind {
        Kind::File => b'0',
        Kind::HardLink => b'1',
        Kind::Symlink => b'2',
        Kind::CharacterDevice => b'3',
        Kind::BlockDevice => b'4',
        Kind::Directory => b'5',
        Kind::Fifo => b'6',
        Kind::LongName => b'L',
        Kind::LongLink => b'K',
        Kind::Extended => b'x',
        Kind::Any(kind) => kind,
    }
}

fn name(name: Name) -> Vec<u8> {
    match name {
        Name::Path(path) => join(path),
        Name::Outside(path) => {
            [sandbox().outside().as_os_str().as_encoded_bytes(), b"/", &join(path)].concat()
        }
        Name::Bytes(bytes) => bytes,
    }
}

fn join(path: Vec<Component>) -> Vec<u8> {
    let component = |component: &Component| match component {
        Component::A => "a",
        Component::B => "b",
        Component::Directory => "dir",
        Component::File => "file",
        Component::LinkOut => "out",
        Component::AbsoluteLinkOut => "absolute",
        Component::LinkToFile => "to-file",
        Component::Outside => "outside",
        Component::Parent => "..",
        Component::Current => ".",
        Component::Empty => "",
    };
    path.iter().map(component).collect::<Vec<_>>().join("/").into_bytes()
}

fn record(record: Record) -> (String, Vec<u8>) {
    let number =
        |key: &str, number: &dyn std::fmt::Display| (key.to_owned(), number.to_string().into_bytes());
    match record {
        Record::Path(path) => ("path".to_owned(), name(path)),
        Record::LinkPath(path) => ("linkpath".to_owned(), name(path)),
        Record::SparseName(path) => ("GNU.sparse.name".to_owned(), name(path)),
        Record::SparseSize(bytes) => number("GNU.sparse.realsize", &bytes),
        Record::Time(seconds, nanos) => number("mtime", &format_args!("{seconds}.{nanos}")),
        Record::Owner(owner) => number("uid", &owner),
        Record::Attribute(attribute, value) => (format!("SCHILY.xattr.{attribute}"), value),
        Record::Any(key, value) => (key, value),
    }
}
