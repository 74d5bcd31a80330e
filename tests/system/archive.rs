//! The root archive against those who must be able to read it: init, chunk by chunk, and GNU tar and bsdtar, each fed the
//! plain concatenation of the chunks. Needs root (owners, device nodes, capabilities).
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::num::NonZeroUsize;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use bootspec::manifest::{Chunk, Compression, RootArchive, Stage};
use imagebuild::archive::{PackOptions, pack, scan};
use imagebuild::progress::Progress;
use rustix::fs::{CWD, FileType, Mode, Timespec, Timestamps, XattrFlags, makedev, mknodat, utimensat};

/// A tree with everything that tends to get lost.
fn gauntlet(root: &Path) {
    assert!(rustix::process::geteuid().is_root(), "this test makes device nodes and owners: run it as root");
    let at = |path: &str| root.join(path);
    fs::create_dir_all(at("usr/bin")).unwrap();
    fs::create_dir_all(at("var/mail")).unwrap();
    fs::write(at("usr/bin/su"), "setuid").unwrap();
    chown(at("usr/bin/su"), Some(0), Some(42)).unwrap();
    mode(&at("usr/bin/su"), 0o4755);
    // A program, since xz has a filter for code.
    fs::copy("/bin/sh", at("usr/bin/sh")).unwrap();
    time(&at("usr/bin/sh"), 1_650_000_000, 0);
    fs::hard_link(at("usr/bin/su"), at("var/another-name")).unwrap();
    fs::write(at("usr/bin/ping"), "capable").unwrap();
    // VFS_CAP_REVISION_2, effective, CAP_NET_RAW.
    let mut capability = [0; 20];
    capability[..8].copy_from_slice(&[1, 0, 0, 2, 0, 0x20, 0, 0]);
    xattr(&at("usr/bin/ping"), "security.capability", &capability);
    xattr(&at("usr/bin/ping"), "user.note", b"binary \0 and \n value");
    symlink("/nonexistent/target", at("usr/bin/dangling")).unwrap();
    chown(at("var/mail"), Some(1000), Some(3_000_000)).unwrap();
    mode(&at("var/mail"), 0o2775);
    fs::create_dir(at("tmp")).unwrap();
    mode(&at("tmp"), 0o1777);
    sparse(&at("var/sparse"), 5 << 30, &[(1 << 20, b"in the middle"), ((4 << 30) + 7, b"past 4 GiB")]);
    sparse(&at("var/hole"), 1 << 20, &[]);
    fs::write(at("var/empty"), "").unwrap();
    fs::write(at("var/large"), noise(3 << 20)).unwrap();
    for name in [&[b'n'; 255][..], b"new\nline", b"\xff\xfe not UTF-8", b"-dash", b" space ", b"back\\slash"]
    {
        fs::write(root.join("tmp").join(OsStr::from_bytes(name)), name).unwrap();
    }
    let deep: PathBuf = std::iter::repeat_n("deep-directory-name", 12).collect();
    fs::create_dir_all(root.join(&deep)).unwrap();
    symlink(&deep, root.join(&deep).join("a-long-link")).unwrap();
    node(&at("null"), FileType::CharacterDevice, makedev(1, 3));
    node(&at("disk"), FileType::BlockDevice, makedev(259, 70_000));
    node(&at("fifo"), FileType::Fifo, 0);
    // All kinds of objects have labels, as setfiles(8) leaves them in an EL image.
    for path in ["usr/bin/su", "var/mail", "usr/bin/dangling", "null", "fifo"] {
        xattr(&at(path), "security.selinux", b"system_u:object_r:bin_t:s0\0");
    }
    time(&at("var/empty"), 1_700_000_000, 123_456_789);
    // libarchive 3.6 misreads fractions of a second before 1970, so this one is whole.
    time(&at("tmp/-dash"), -1_000, 0);
    time(&at("usr/bin/dangling"), 1_600_000_000, 1);
    time(&at("usr"), 1_500_000_000, 0);
    time(root, 1_400_000_000, 0);
}

/// A directory that hands an ACL down to what is made in it, with contents that were there before.
fn default_acl(root: &Path) {
    let shared = root.join("srv/shared");
    fs::create_dir_all(shared.join("below")).unwrap();
    fs::write(shared.join("file"), "no ACL of its own").unwrap();
    // Version 2; owner rwx, user 1000 rwx, group r-x, mask rwx, others r-x (linux/posix_acl_xattr.h).
    let entries: [(u16, u16, u32); 5] = [(1, 7, !0), (2, 7, 1000), (4, 5, !0), (16, 7, !0), (32, 5, !0)];
    let acl = entries.iter().fold(vec![2, 0, 0, 0], |acl, (tag, permissions, id)| {
        [acl, tag.to_le_bytes().to_vec(), permissions.to_le_bytes().to_vec(), id.to_le_bytes().to_vec()]
            .concat()
    });
    xattr(&shared, "system.posix_acl_default", &acl);
}

fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
}

fn xattr(path: &Path, name: &str, value: &[u8]) {
    rustix::fs::lsetxattr(path, name, value, XattrFlags::empty()).unwrap();
}

fn node(path: &Path, file_type: FileType, device: u64) {
    mknodat(CWD, path, file_type, Mode::from_raw_mode(0o640), device).unwrap();
}

fn time(path: &Path, tv_sec: i64, tv_nsec: i64) {
    let time = Timespec { tv_sec, tv_nsec };
    let times = Timestamps { last_access: time, last_modification: time };
    utimensat(CWD, path, &times, rustix::fs::AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

fn sparse(path: &Path, size: u64, data: &[(u64, &[u8])]) {
    let file = File::create(path).unwrap();
    file.set_len(size).unwrap();
    for (offset, bytes) in data {
        file.write_all_at(bytes, *offset).unwrap();
    }
}

/// Bytes that no compressor shortens (xorshift).
fn noise(length: usize) -> Vec<u8> {
    let mut state = 88_172_645_463_325_252u64;
    std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    })
    .take(length)
    .collect()
}

/// Everything about every object below `root`, a line each, by path.
fn listing(root: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut pending = vec![root.to_owned()];
    while let Some(path) = pending.pop() {
        let metadata = fs::symlink_metadata(&path).unwrap();
        if metadata.is_dir() {
            pending.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
        let links = if metadata.is_dir() { 0 } else { metadata.nlink() };
        let contents = if metadata.is_symlink() {
            fs::read_link(&path).unwrap().into_os_string().into_encoded_bytes()
        } else if metadata.is_file() {
            samples(&path, metadata.len())
        } else {
            vec![]
        };
        let line = format!(
            "mode {:o} owner {}:{} mtime {}.{:09} links {links} size {} sparse {} device {} xattrs {:?} contents {contents:?}",
            metadata.mode(),
            metadata.uid(),
            metadata.gid(),
            metadata.mtime(),
            metadata.mtime_nsec(),
            if metadata.is_file() { metadata.len() } else { 0 },
            metadata.is_file() && metadata.blocks() * 512 < metadata.len(),
            if metadata.file_type().is_char_device() || metadata.file_type().is_block_device() {
                metadata.rdev()
            } else {
                0
            },
            xattrs(&path),
        );
        found.insert(path.strip_prefix(root).unwrap().to_owned(), line);
    }
    found
}

/// All bytes of small files; of large ones the places where the fixture has data.
fn samples(path: &Path, length: u64) -> Vec<u8> {
    if length <= 4 << 20 {
        return fs::read(path).unwrap();
    }
    let file = File::open(path).unwrap();
    let mut bytes = vec![0; 3 * 64];
    for (part, offset) in bytes.chunks_mut(64).zip([0, 1 << 20, 4 << 30]) {
        file.read_exact_at(part, offset).unwrap();
    }
    bytes
}

fn xattrs(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut names = vec![0; 4096];
    let length = rustix::fs::llistxattr(path, &mut names[..]).unwrap();
    let names = String::from_utf8(names[..length].to_vec()).unwrap();
    let value = |name: &str| {
        let mut value = vec![0; 4096];
        let length = rustix::fs::lgetxattr(path, name, &mut value[..]).unwrap();
        value[..length].to_vec()
    };
    names.split('\0').filter(|name| !name.is_empty()).map(|name| (name.to_owned(), value(name))).collect()
}

fn options(compression: Compression, jobs: usize) -> PackOptions {
    let jobs = NonZeroUsize::new(jobs).unwrap();
    PackOptions { compression, level: 1, x86_filter: true, chunk_bytes: 1 << 20, jobs, source_date: None }
}

fn pack_gauntlet(root: &Path, out: &Path, options: PackOptions) -> RootArchive {
    fs::create_dir_all(out).unwrap();
    pack(root, scan(root).unwrap(), out, options, &Progress::quiet().step("pack")).unwrap()
}

/// Packs the gauntlet and what `extra` adds to it, has `extract` unpack the archive file into an empty directory, and
/// compares.
fn check_extractor(
    compression: Compression,
    extra: impl FnOnce(&Path),
    extract: impl FnOnce(&RootArchive, &Path, &Path),
) {
    let dir = tempfile::tempdir().unwrap();
    let (root, copy) = (dir.path().join("root"), dir.path().join("copy"));
    gauntlet(&root);
    extra(&root);
    let archive = pack_gauntlet(&root, &dir.path().join("out"), options(compression, 2));
    fs::create_dir(&copy).unwrap();
    extract(&archive, &dir.path().join("out").join(archive.file.as_str()), &copy);
    let (expected, found) = (listing(&root), listing(&copy));
    for (path, line) in &expected {
        assert_eq!(found.get(path), Some(line), "{path:?}");
    }
    assert_eq!(found.len(), expected.len());
}

fn check_tool(compression: Compression, extra: impl FnOnce(&Path), tool: &str, arguments: &[&str]) {
    check_extractor(compression, extra, |_, file, copy| {
        let run =
            Command::new(tool).args(arguments).arg("-xpf").arg(file).arg("-C").arg(copy).output().unwrap();
        assert!(run.status.success(), "{tool}: {}", String::from_utf8_lossy(&run.stderr));
    });
}

fn check_init(compression: Compression) {
    check_extractor(compression, default_acl, |archive, file, copy| {
        let chunks = split(archive, file);
        init::unpack::unpack(
            &init::unpack::Carried::new(&chunks, archive),
            archive,
            copy,
            NonZeroUsize::new(3).unwrap(),
        )
        .unwrap();
        assert!(chunks.iter().all(|chunk| !chunk.exists()), "consumed chunks are unlinked");
    });
}

/// Each chunk in a file of its own, as the initramfs has them.
fn split(archive: &RootArchive, file: &Path) -> Vec<PathBuf> {
    let bytes = fs::read(file).unwrap();
    let write = |(index, chunk): (usize, &Chunk)| {
        let path = file.with_extension(index.to_string());
        let start = chunk.offset_bytes as usize;
        fs::write(&path, &bytes[start..start + chunk.size_bytes as usize]).unwrap();
        path
    };
    archive.chunks.iter().enumerate().map(write).collect()
}

#[test]
fn init_reads_xz_archives_without_loss() {
    check_init(Compression::Xz);
}

#[test]
fn init_reads_zstd_archives_without_loss() {
    check_init(Compression::Zstd);
}

/// Without `--absolute-names`, GNU tar makes absolute symbolic links last of all, after the directories' times.
const GNU_TAR: [&str; 4] = ["--numeric-owner", "--absolute-names", "--xattrs", "--xattrs-include=*"];

#[test]
fn gnu_tar_reads_xz_archives_without_loss() {
    check_tool(Compression::Xz, default_acl, "tar", &GNU_TAR);
}

#[test]
fn gnu_tar_reads_zstd_archives_without_loss() {
    check_tool(Compression::Zstd, default_acl, "tar", &GNU_TAR);
}

/// libarchive leaves ACLs alone that are stored as the attributes they are; it has records of its own for them.
#[test]
fn bsdtar_reads_xz_archives_without_loss_but_acls() {
    check_tool(Compression::Xz, |_| {}, "bsdtar", &["--numeric-owner"]);
}

#[test]
fn bsdtar_reads_zstd_archives_without_loss_but_acls() {
    check_tool(Compression::Zstd, |_| {}, "bsdtar", &["--numeric-owner"]);
}

/// What decodes a file to standard output. busybox has no filter for x86 (1.35).
const XZ_DECODERS: [&[&str]; 3] = [&["xz", "-dc"], &["bsdcat"], &["python3", "-c", PYTHON_XZ]];
const PYTHON_XZ: &str =
    "import lzma, shutil, sys; shutil.copyfileobj(lzma.open(sys.argv[1]), sys.stdout.buffer)";

/// Chunks of code went through the filter for x86, which is the first in their block's header (xz's file format, 5.3.2).
#[test]
fn decoders_of_xz_read_the_filter_for_x86() {
    let dir = tempfile::tempdir().unwrap();
    let (root, out) = (dir.path().join("root"), dir.path().join("out"));
    gauntlet(&root);
    let archive = pack_gauntlet(&root, &out, options(Compression::Xz, 2));
    let file = out.join(archive.file.as_str());
    let bytes = fs::read(&file).unwrap();
    let filter = |chunk: &Chunk| bytes[chunk.offset_bytes as usize + 14];
    let (x86, lzma2) = (0x04, 0x21);
    let filters: Vec<u8> = archive.chunks.iter().map(filter).collect();
    assert!(filters.contains(&x86) && filters.iter().all(|id| [x86, lzma2].contains(id)), "{filters:?}");

    let tar_bytes: u64 = archive.chunks.iter().map(|chunk| chunk.tar_bytes).sum();
    for decoder in XZ_DECODERS {
        check_decoder(decoder, &file, tar_bytes);
    }

    let plain = PackOptions { x86_filter: false, ..options(Compression::Xz, 2) };
    let out = dir.path().join("plain");
    let archive = pack_gauntlet(&root, &out, plain);
    check_decoder(&["busybox", "xz", "-dc"], &out.join(archive.file.as_str()), tar_bytes);
}

/// Decodes the archive of the gauntlet, which has a program in it.
fn check_decoder(decoder: &[&str], archive: &Path, tar_bytes: u64) {
    let decoded = Command::new(decoder[0]).args(&decoder[1..]).arg(archive).output().unwrap();
    assert!(decoded.status.success(), "{decoder:?}: {}", String::from_utf8_lossy(&decoded.stderr));
    assert_eq!(decoded.stdout.len() as u64, tar_bytes, "{decoder:?}");
    let program = fs::read("/bin/sh").unwrap();
    let found = decoded.stdout.windows(program.len()).step_by(512).any(|part| part == program);
    assert!(found, "{decoder:?}: the program is not as it was");
}

#[test]
fn the_number_of_jobs_does_not_change_a_byte() {
    for compression in [Compression::Xz, Compression::Zstd] {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        gauntlet(&root);
        let pack = |jobs| {
            let out = dir.path().join(format!("out-{jobs}"));
            let archive = pack_gauntlet(&root, &out, options(compression, jobs));
            (fs::read(out.join(archive.file.as_str())).unwrap(), archive)
        };
        let (one, many) = (pack(1), pack(5));
        assert!(one == many, "{compression}");
        assert!(one.1.chunks.iter().filter(|chunk| chunk.stage == Stage::Entries).count() >= 3);
    }
}

#[test]
fn a_large_file_stands_alone_and_holes_take_no_space() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root");
    gauntlet(&root);
    let archive = pack_gauntlet(&root, &dir.path().join("out"), options(Compression::Zstd, 2));
    let largest = archive.chunks.iter().map(|chunk| chunk.tar_bytes).max().unwrap();
    assert!((3 << 20..(3 << 20) + 4096).contains(&largest), "{largest}");
    assert!(archive.unpacked_bytes < 4 << 20, "{}", archive.unpacked_bytes);
    assert_eq!(archive.inodes as usize, listing(&root).len() - 1);
}
