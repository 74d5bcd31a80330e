//! newc archives as imagebuild and bootserve write them, read back. No program of ours reads newc (the kernel does), so this
//! is a test of the writers: whatever names and contents the members have, a reader finds them again, and nothing else.
#![no_main]

use std::collections::BTreeSet;

use arbitrary::Arbitrary;
use bootserve::overlay::segment::Frame;
use bootspec::initramfs::{BOOTNODE_DIR, OVERLAY, OVERLAY_SIGNATURE};
use cpio::newc::Reader;
use imagebuild::initramfs::newc::Newc;
use libfuzzer_sys::fuzz_target;

/// What the kernel wants every header and all data to begin at.
const ALIGNMENT: usize = 4;
const DIRECTORY: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const DATA: u32 = 0o100_644;
const PRIVATE: u32 = 0o100_600;

#[derive(Arbitrary, Debug)]
struct Input {
    members: Vec<Member>,
    overlay: Vec<u8>,
    signature: Option<Vec<u8>>,
}

#[derive(Arbitrary, Debug)]
enum Member {
    Directory(String),
    Program(String, Vec<u8>),
    Data(String, Vec<u8>),
}

type Found = (String, u32, Vec<u8>);

fuzz_target!(|input: Input| {
    check_initramfs(input.members);
    check_overlay(&input.overlay, input.signature.as_deref());
});

fn check_initramfs(members: Vec<Member>) {
    let mut archive = Newc::new(Vec::new());
    let (mut expected, mut directories) = (Vec::new(), BTreeSet::new());
    for member in members {
        let (Member::Directory(name) | Member::Program(name, _) | Member::Data(name, _)) = &member;
        if !is_path(name) {
            continue;
        }
        let parents = name.match_indices('/').map(|(end, _)| &name[..end]);
        let itself = matches!(member, Member::Directory(_)).then_some(name.as_str());
        for directory in parents.chain(itself) {
            if directories.insert(directory.to_owned()) {
                expected.push((directory.to_owned(), DIRECTORY, Vec::new()));
            }
        }
        let written = match member {
            Member::Directory(name) => archive.directory(&name),
            Member::Program(name, contents) => {
                expected.push((name.clone(), PROGRAM, contents.clone()));
                archive.program(&name, &contents)
            }
            Member::Data(name, contents) => {
                expected.push((name.clone(), DATA, contents.clone()));
                archive.data(&name, &contents)
            }
        };
        written.expect("memory takes everything");
    }
    assert_eq!(read(&archive.finish().expect("memory takes everything")), expected);
}

/// Names come from file systems: not empty, without a zero. That of the trailer, which ends an archive, stands for none of our
/// files, and for none of the directories that they are in.
fn is_path(name: &str) -> bool {
    let components: Vec<_> = name.split('/').collect();
    !name.contains('\0') && !components.contains(&"") && components[0] != "TRAILER!!!"
}

fn check_overlay(tar: &[u8], signature: Option<&[u8]>) {
    let length = u32::try_from(tar.len()).expect("inputs are small");
    let Frame { before, after } = Frame::new(length, signature).expect("memory takes everything");
    let mut expected = vec![(BOOTNODE_DIR.to_owned(), DIRECTORY, Vec::new())];
    expected.extend(signature.map(|signature| (OVERLAY_SIGNATURE.to_owned(), PRIVATE, signature.to_vec())));
    expected.push((OVERLAY.to_owned(), PRIVATE, tar.to_vec()));
    assert_eq!(read(&[&before, tar, &after].concat()), expected);
}

fn read(archive: &[u8]) -> Vec<Found> {
    assert_eq!(archive.len() % ALIGNMENT, 0, "what follows the archive is aligned");
    let (mut found, mut inodes, mut rest) = (Vec::new(), BTreeSet::new(), archive);
    loop {
        assert_eq!((archive.len() - rest.len()) % ALIGNMENT, 0, "headers are aligned");
        let mut reader = Reader::new(rest).expect("the archive is well-formed");
        let entry = reader.entry();
        let (name, mode) = (entry.name().to_owned(), entry.mode());
        if entry.is_trailer() {
            rest = reader.finish().expect("the archive is well-formed");
            assert!(rest.iter().all(|byte| *byte == 0), "nothing follows the trailer");
            return found;
        }
        assert!(inodes.insert(entry.ino()), "members of one number would be hard links");
        let mut contents = Vec::new();
        std::io::Read::read_to_end(&mut reader, &mut contents).expect("the archive is well-formed");
        found.push((name, mode, contents));
        rest = reader.finish().expect("the archive is well-formed");
    }
}
