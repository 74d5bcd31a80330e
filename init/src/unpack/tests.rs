//! Chunks made with the tar crate and a compressor, unpacked and looked at.

use super::*;
use bootspec::Sha256Digest;
use bootspec::manifest::{Chunk, Stage};
use sha2::{Digest, Sha256};
use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::sync::Barrier;
use std::thread::{self, ThreadId};
use xz2::stream::{Check, Filters, LzmaOptions};

/// An archive being made, chunk by chunk, in a directory.
struct Fixture {
    dir: tempfile::TempDir,
    archive: RootArchive,
    paths: Vec<PathBuf>,
}

impl Fixture {
    fn new(compression: Compression) -> Self {
        let archive = RootArchive {
            file: "rootfs.tar".parse().unwrap(),
            compression,
            chunks: vec![],
            unpacked_bytes: 0,
            page_rounded_bytes: 0,
            inodes: 0,
            decoder_bytes: 0,
        };
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("root")).unwrap();
        Self { dir, archive, paths: vec![] }
    }

    fn root(&self) -> PathBuf {
        self.dir.path().join("root")
    }

    fn chunk(&mut self, stage: Stage, entries: impl FnOnce(&mut tar::Builder<Vec<u8>>)) -> &mut Self {
        let mut builder = tar::Builder::new(Vec::new());
        entries(&mut builder);
        let tar = builder.into_inner().unwrap();
        let compressed = match self.archive.compression {
            Compression::Xz => {
                // As imagebuild does where the entries are code: with the filter for x86.
                let mut filters = Filters::new();
                filters.x86().lzma2(&LzmaOptions::new_preset(1).unwrap());
                let stream = Stream::new_stream_encoder(&filters, Check::Crc32).unwrap();
                let mut encoder = xz2::write::XzEncoder::new_stream(Vec::new(), stream);
                encoder.write_all(&tar).unwrap();
                encoder.finish().unwrap()
            }
            Compression::Zstd => zstd::encode_all(&*tar, 1).unwrap(),
        };
        let path = self.dir.path().join(self.paths.len().to_string());
        fs::write(&path, &compressed).unwrap();
        self.archive.chunks.push(Chunk {
            stage,
            offset_bytes: 0,
            size_bytes: compressed.len() as u64,
            tar_bytes: tar.len() as u64,
            sha256: Sha256Digest::new(Sha256::digest(&compressed).into()),
        });
        self.paths.push(path);
        self
    }

    fn unpack(&self) -> Result<(), UnpackError> {
        let source = Carried::new(&self.paths, &self.archive);
        unpack(&source, &self.archive, &self.root(), NonZeroUsize::new(3).unwrap())
    }
}

fn add(tar: &mut tar::Builder<Vec<u8>>, name: &str, entry_type: tar::EntryType, mode: u32, contents: &[u8]) {
    let mut header = tar::Header::new_ustar();
    header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
    header.set_entry_type(entry_type);
    header.set_mode(mode);
    header.set_size(contents.len() as u64);
    header.set_mtime(1_700_000_000);
    header.set_uid(rustix::process::getuid().as_raw().into());
    header.set_gid(rustix::process::getgid().as_raw().into());
    if entry_type == tar::EntryType::Link || entry_type == tar::EntryType::Symlink {
        header.as_old_mut().linkname[..contents.len()].copy_from_slice(contents);
        header.set_size(0);
    }
    header.set_cksum();
    let contents = if header.size().unwrap() == 0 { &[][..] } else { contents };
    tar.append(&header, contents).unwrap();
}

fn sample(compression: Compression) -> Fixture {
    use tar::EntryType::{Directory, Link, Regular, Symlink};
    let mut fixture = Fixture::new(compression);
    fixture
        .chunk(Stage::Directories, |tar| {
            add(tar, "./", Directory, 0o750, b"");
            add(tar, "bin/", Directory, 0o555, b"");
        })
        .chunk(Stage::Entries, |tar| add(tar, "bin/su", Regular, 0o4755, b"setuid"))
        .chunk(Stage::Entries, |tar| add(tar, "bin/sh", Symlink, 0o777, b"/bin/su"))
        .chunk(Stage::Finish, |tar| {
            add(tar, "bin/su2", Link, 0o4755, b"bin/su");
            add(tar, "./", Directory, 0o750, b"");
            add(tar, "bin/", Directory, 0o555, b"");
        });
    fixture
}

#[test]
fn both_compressions_unpack_with_metadata_and_consume_the_chunks() {
    for compression in [Compression::Xz, Compression::Zstd] {
        let fixture = sample(compression);
        fixture.unpack().unwrap();
        let metadata = |path: &str| fs::symlink_metadata(fixture.root().join(path)).unwrap();
        assert_eq!(metadata("").permissions().mode() & 0o7777, 0o750);
        assert_eq!(metadata("bin").mtime(), 1_700_000_000);
        assert_eq!(metadata("bin/su").permissions().mode() & 0o7777, 0o4755);
        assert_eq!(metadata("bin/su").ino(), metadata("bin/su2").ino());
        assert_eq!(fs::read_link(fixture.root().join("bin/sh")).unwrap(), Path::new("/bin/su"));
        assert!(fixture.paths.iter().all(|path| !path.exists()));
    }
}

/// Runs as root, as all that sets owners.
#[test]
fn a_setgid_directory_does_not_pass_its_group_on_to_what_is_unpacked_into_it() {
    let mut fixture = Fixture::new(Compression::Zstd);
    fixture.chunk(Stage::Directories, |tar| {
        let mut header = tar::Header::new_ustar();
        header.set_path("shared").unwrap();
        header.set_entry_type(tar::EntryType::Directory);
        header.set_mode(0o2755);
        header.set_uid(0);
        header.set_gid(7);
        header.set_mtime(0);
        header.set_size(0);
        header.set_cksum();
        tar.append(&header, &[][..]).unwrap();
        add(tar, "shared/file", tar::EntryType::Regular, 0o644, b"x");
    });
    fixture.unpack().unwrap();
    let metadata = |path: &str| fs::metadata(fixture.root().join(path)).unwrap();
    assert_eq!((metadata("shared").gid(), metadata("shared").mode() & 0o7777), (7, 0o2755));
    assert_eq!((metadata("shared/file").gid(), metadata("shared/file").mode() & 0o7777), (0, 0o644));
}

#[test]
fn an_archive_that_ends_within_a_file_is_refused() {
    let mut fixture = Fixture::new(Compression::Zstd);
    fixture.chunk(Stage::Directories, |tar| {
        let mut header = tar::Header::new_ustar();
        header.set_path("short").unwrap();
        header.set_entry_type(tar::EntryType::Regular);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(1 << 30);
        header.set_cksum();
        tar.get_mut().extend_from_slice(header.as_bytes());
        tar.get_mut().extend_from_slice(&[7; 700]);
    });
    let error = bootspec::diagnosis::explain(&fixture.unpack().unwrap_err());
    assert!(error.contains("short") || error.contains("not readable"), "{error}");
}

#[test]
fn a_flipped_byte_is_refused_before_anything_of_the_chunk_is_visible() {
    let fixture = sample(Compression::Xz);
    let mut bytes = fs::read(&fixture.paths[1]).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&fixture.paths[1], bytes).unwrap();
    let error = fixture.unpack().unwrap_err();
    assert!(
        matches!(&error, UnpackError::Chunk(ChunkError::Damaged { path, .. }) if *path == fixture.paths[1]),
        "{error}"
    );
    assert!(!fixture.root().join("bin/su").exists());
}

#[test]
fn a_missing_chunk_is_named() {
    let fixture = sample(Compression::Zstd);
    fs::remove_file(&fixture.paths[2]).unwrap();
    let error = fixture.unpack().unwrap_err();
    assert!(
        matches!(&error, UnpackError::Chunk(ChunkError::Read { path, .. }) if *path == fixture.paths[2]),
        "{error}"
    );
}

/// Hands one thread the reason for which nothing more comes, and the thread of the test that nothing does.
struct Ended {
    test: ThreadId,
    both: Barrier,
}

impl ChunkSource for Ended {
    type Chunk = io::Empty;

    fn next(&self) -> Result<(usize, io::Empty), ChunkError> {
        self.both.wait();
        let cause = FetchError::Refused { name: "rootfs.tar".into(), answers: "404".into() };
        let is_test = thread::current().id() == self.test;
        Err(ChunkError::Fetch(if is_test { FetchError::Ended } else { cause }))
    }
}

#[test]
fn the_reason_why_nothing_more_comes_is_told_whichever_thread_was_handed_it() {
    let fixture = sample(Compression::Zstd);
    let source = Ended { test: thread::current().id(), both: Barrier::new(2) };
    let target = open_target(&fixture.root()).unwrap();
    let progress = Mutex::new(kmsg::Progress::new("unpacked", 1));
    let unpacker = Unpacker { source: &source, archive: &fixture.archive, target: &target, progress };
    let error = unpacker.unpack_chunks(2, NonZeroUsize::new(2).unwrap()).unwrap_err();
    assert!(matches!(&error, UnpackError::Chunk(ChunkError::Fetch(FetchError::Refused { .. }))), "{error:?}");
}

#[test]
fn a_chunk_is_decoded_no_further_than_the_manifest_says() {
    for compression in [Compression::Xz, Compression::Zstd] {
        let mut fixture = Fixture::new(compression);
        fixture.chunk(Stage::Directories, |tar| {
            add(tar, "bomb", tar::EntryType::Regular, 0o644, &vec![0; 16 << 20]);
        });
        fixture.archive.chunks[0].tar_bytes = 512 + 100_000;
        let error = bootspec::diagnosis::explain(&fixture.unpack().unwrap_err());
        assert!(error.contains("bomb") && error.contains("longer than the 100512 bytes"), "{error}");
        assert!(fs::metadata(fixture.root().join("bomb")).unwrap().len() <= 100_000);
    }
}

#[test]
fn what_is_behind_the_end_of_the_archive_counts_too() {
    let mut fixture = sample(Compression::Zstd);
    fixture.archive.chunks[3].tar_bytes -= 1;
    let error = bootspec::diagnosis::explain(&fixture.unpack().unwrap_err());
    assert!(error.contains("00003.tar.zst") && error.contains("the manifest says"), "{error}");
}

fn check_refused(entries: impl FnOnce(&mut tar::Builder<Vec<u8>>)) -> String {
    let mut fixture = Fixture::new(Compression::Zstd);
    fixture.chunk(Stage::Directories, entries);
    let error = fixture.unpack().unwrap_err();
    assert!(!fixture.dir.path().join("escaped").exists());
    bootspec::diagnosis::explain(&error)
}

#[test]
fn names_that_lead_out_of_the_root_are_refused() {
    use tar::EntryType::{Link, Regular, Symlink};
    assert!(
        check_refused(|tar| add(tar, "../escaped", Regular, 0o644, b"x")).contains("plain relative path")
    );
    assert!(check_refused(|tar| add(tar, "/escaped", Regular, 0o644, b"x")).contains("plain relative path"));
    assert!(check_refused(|tar| add(tar, "a", Link, 0o644, b"../escaped")).contains("plain relative path"));
    let through_a_link = |tar: &mut tar::Builder<Vec<u8>>| {
        add(tar, "out", Symlink, 0o777, b"..");
        add(tar, "out/escaped", Regular, 0o644, b"x");
    };
    assert!(check_refused(through_a_link).contains("cannot open the directory"));
}

#[test]
fn unknown_entry_types_are_refused() {
    let message = check_refused(|tar| add(tar, "a", tar::EntryType::Continuous, 0o644, b""));
    assert!(message.contains("unknown type"), "{message}");
}
