//! Trees are packed by the real programs, mounted by the kernel, and compared with what they were.

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, chown, lchown, symlink};
use std::os::unix::net::UnixListener;

use bootspec::manifest::FileSystemFormat::{Erofs, Squashfs};
use rustix::fs::{
    AtFlags, CWD, FileType, Mode, Timespec, Timestamps, XattrFlags, makedev, mknodat, utimensat,
};

use super::*;
use crate::archive::{Entry, Kind};
use crate::progress::Progress;
use crate::sandbox::Sandbox;
use crate::testing::is_root;

/// user:1000 may read, in the kernel's form: version 2, then tag, permissions and id of each entry.
const ACL: &[u8] =
    b"\x02\0\0\0\x01\0\x06\0\xff\xff\xff\xff\x02\0\x04\0\xe8\x03\0\0\x04\0\x04\0\xff\xff\xff\xff\
                     \x10\0\x04\0\xff\xff\xff\xff\x20\0\0\0\xff\xff\xff\xff";
/// cap_net_raw=ep, in the kernel's form.
const CAPABILITY: &[u8] = b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0";

fn options(format: FileSystemFormat, compression: Compression, level: u32) -> FileSystemOptions {
    let compression = CompressionSpec::new(compression, Some(level), None).unwrap();
    FileSystemOptions {
        format,
        compression,
        jobs: NonZeroUsize::MIN,
        time_unix: 1_700_000_000,
        source_date: None,
    }
}

fn pack_tree(root: &Path, dir: &Path, options: FileSystemOptions) -> Result<RootFileSystem, FileSystemError> {
    let tools = Tools::new(Sandbox::new(root), &dir.join("log"))?;
    pack(&tools, dir, options, &Progress::quiet().step("pack"))
}

/// An image, mounted read-only until it is dropped.
struct Mounted(tempfile::TempDir);

impl Mounted {
    fn new(image: &Path, format: FileSystemFormat) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mount = Command::new("mount")
            .args(["-o", "loop,ro", "-t", &format.to_string()])
            .arg(image)
            .arg(dir.path())
            .output()
            .unwrap();
        assert!(mount.status.success(), "{}", String::from_utf8_lossy(&mount.stderr));
        Self(dir)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg("--lazy").arg(self.0.path()).status();
        assert!(unmounted.is_ok_and(|status| status.success()), "the image stays mounted");
    }
}

fn set_xattr(path: &Path, name: &str, value: &[u8]) {
    rustix::fs::lsetxattr(path, name, value, XattrFlags::empty()).unwrap();
}

fn set_mtime(path: &Path, tv_sec: i64, tv_nsec: i64) {
    let time = Timespec { tv_sec, tv_nsec };
    let times = Timestamps { last_access: time, last_modification: time };
    utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

/// What tends to get lost.
fn make_tree(root: &Path) {
    let path = |name: &str| root.join(name);
    fs::create_dir_all(path("dir/empty")).unwrap();
    fs::write(path("dir/program"), "#!/bin/sh\n").unwrap();
    chown(path("dir/program"), Some(70_000), Some(80_000)).unwrap();
    fs::set_permissions(path("dir/program"), fs::Permissions::from_mode(0o6755)).unwrap();
    set_xattr(&path("dir/program"), "security.capability", CAPABILITY);
    fs::hard_link(path("dir/program"), path("same program")).unwrap();
    fs::write(path("a\nname \\ with\t\u{e9}\u{f0}"), "odd").unwrap();
    fs::write(path("labelled"), vec![7; 300_000]).unwrap();
    set_xattr(&path("labelled"), "user.note", b"line\nfeed\0zero");
    set_xattr(&path("labelled"), "trusted.overlay.test", b"y");
    set_xattr(&path("labelled"), "security.selinux", b"system_u:object_r:etc_t:s0\0");
    let sparse = fs::File::create(path("sparse")).unwrap();
    sparse.set_len(10 << 20).unwrap();
    sparse.write_all_at(b"data", 5 << 20).unwrap();
    symlink("/absent/target", path("link")).unwrap();
    let device = |name, kind, major, minor| {
        mknodat(CWD, path(name), kind, Mode::from_raw_mode(0o600), makedev(major, minor)).unwrap();
    };
    device("null", FileType::CharacterDevice, 1, 3);
    device("disk", FileType::BlockDevice, 259, 300);
    device("pipe", FileType::Fifo, 0, 0);
    fs::write(path("old"), "").unwrap();
    fs::set_permissions(path("dir"), fs::Permissions::from_mode(0o1777)).unwrap();
    lchown(path("link"), Some(12), Some(34)).unwrap();
    for name in ["link", "dir/empty", "dir", "labelled"] {
        set_mtime(&path(name), 1_600_000_000, 123_456_789);
    }
    set_xattr(root, "user.root", b"the root itself");
    fs::set_permissions(root, fs::Permissions::from_mode(0o750)).unwrap();
    set_mtime(root, 1_500_000_000, 0);
}

/// The mounted tree, which must have the source's contents and, after `losses`, its entries.
fn check_arrives(options: FileSystemOptions, losses: fn(&mut Entry)) {
    if !is_root() {
        return;
    }
    let (root, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    make_tree(root.path());
    let packed = pack_tree(root.path(), out.path(), options).unwrap();
    let mounted = Mounted::new(&out.path().join(packed.file.as_str()), options.format);
    let mut expected = scan(root.path()).unwrap();
    let mut found = scan(mounted.0.path()).unwrap();
    assert_eq!(found.len(), expected.len());
    expected.iter_mut().for_each(losses);
    // A file system that is only read may keep holes as zeros that take no space.
    for entry in expected.iter_mut().chain(&mut found) {
        if let Kind::File { has_holes, .. } = &mut entry.kind {
            *has_holes = false;
        }
    }
    for (expected, found) in expected.iter().zip(&found) {
        assert_eq!(found, expected);
        if let Kind::File { .. } = expected.kind {
            let contents = |root: &Path| fs::read(root.join(&expected.path)).unwrap();
            assert!(contents(mounted.0.path()) == contents(root.path()), "{}", expected.path.display());
        }
    }
    let inode = |name: &str| fs::metadata(mounted.0.path().join(name)).unwrap().ino();
    assert_eq!(inode("dir/program"), inode("same program"));
}

#[test]
fn squashfs_keeps_all_but_fractions_of_seconds() {
    let whole_seconds: fn(&mut Entry) = |entry| entry.mtime_nanos = 0;
    check_arrives(options(Squashfs, Compression::Zstd, 3), whole_seconds);
    check_arrives(options(Squashfs, Compression::Xz, 6), whole_seconds);
}

#[test]
fn erofs_keeps_everything() {
    check_arrives(options(Erofs, Compression::Xz, 6), |_| {});
}

/// A tree with one file, changed by `change`, and what becomes of it.
fn check_file(format: FileSystemFormat, change: impl Fn(&Path), check: impl Fn(&Entry)) {
    if !is_root() {
        return;
    }
    let (root, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::write(root.path().join("file"), "x").unwrap();
    change(&root.path().join("file"));
    let packed = pack_tree(root.path(), out.path(), options(format, Compression::Zstd, 1)).unwrap();
    let mounted = Mounted::new(&out.path().join(packed.file.as_str()), format);
    check(&scan(mounted.0.path()).unwrap()[1]);
}

#[test]
fn times_after_the_source_date_are_set_back_to_it() {
    if !is_root() {
        return;
    }
    let (root, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::write(root.path().join("new"), "").unwrap();
    fs::write(root.path().join("old"), "").unwrap();
    set_mtime(&root.path().join("old"), 1_400_000_000, 0);
    for format in [Squashfs, Erofs] {
        let options =
            FileSystemOptions { source_date: Some(1_500_000_000), ..options(format, Compression::Zstd, 1) };
        let packed = pack_tree(root.path(), out.path(), options).unwrap();
        let mounted = Mounted::new(&out.path().join(packed.file.as_str()), format);
        let entries = scan(mounted.0.path()).unwrap();
        let times: Vec<_> = entries.iter().map(|entry| (entry.mtime_seconds, entry.mtime_nanos)).collect();
        assert_eq!(times, [(1_500_000_000, 0), (1_500_000_000, 0), (1_400_000_000, 0)], "{format}");
    }
}

#[test]
fn squashfs_loses_acls_and_erofs_does_not() {
    let set_acl = |path: &Path| set_xattr(path, "system.posix_acl_access", ACL);
    check_file(Squashfs, set_acl, |entry| assert!(entry.xattrs.is_empty()));
    check_file(Erofs, set_acl, |entry| assert_eq!(entry.xattrs[0].1, ACL));
}

#[test]
fn erofs_keeps_times_before_1970_and_squashfs_does_not() {
    let set_1960 = |path: &Path| set_mtime(path, -300_000_000, 5);
    check_file(Erofs, set_1960, |entry| {
        assert_eq!((entry.mtime_seconds, entry.mtime_nanos), (-300_000_000, 5))
    });
    check_file(Squashfs, set_1960, |entry| assert_ne!(entry.mtime_seconds, -300_000_000));
}

#[test]
fn sockets_are_kept() {
    if !is_root() {
        return;
    }
    let (root, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let _socket = UnixListener::bind(root.path().join("socket")).unwrap();
    for format in [Squashfs, Erofs] {
        let packed = pack_tree(root.path(), out.path(), options(format, Compression::Zstd, 1)).unwrap();
        let mounted = Mounted::new(&out.path().join(packed.file.as_str()), format);
        assert!(mounted.0.path().join("socket").exists());
    }
}

#[test]
fn blocks_cover_the_image_and_have_its_digests() {
    if !is_root() {
        return;
    }
    let (root, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    // Nothing that compresses: more than one block.
    let mut state = 1u64;
    let noise = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 56) as u8
    });
    fs::write(root.path().join("noise"), noise.take(5 << 20).collect::<Vec<u8>>()).unwrap();
    let packed = pack_tree(root.path(), out.path(), options(Squashfs, Compression::Zstd, 1)).unwrap();
    let image = fs::read(out.path().join("rootfs.squashfs")).unwrap();
    assert_eq!((packed.size_bytes, packed.blocks.len()), (image.len() as u64, 2));
    for piece in packed.pieces() {
        let (start, length) = (piece.offset_bytes as usize, piece.size_bytes as usize);
        let sha256 = digest(&image[start..start + length]).unwrap().1;
        assert_eq!(piece.sha256, sha256);
    }
}

#[test]
fn a_file_that_cannot_be_packed_fails_the_build() {
    let out = tempfile::tempdir().unwrap();
    for format in [Squashfs, Erofs] {
        let absent = out.path().join("absent");
        let error = pack_tree(&absent, out.path(), options(format, Compression::Zstd, 1)).unwrap_err();
        assert!(error.to_string().contains("absent") || error.to_string().contains("failed"), "{error}");
    }
}

#[test]
fn a_kernel_that_cannot_mount_the_root_is_refused_with_what_it_lacks() {
    let config = Config::parse(
        b"CONFIG_BLK_DEV_LOOP=m\nCONFIG_OVERLAY_FS=m\nCONFIG_SQUASHFS=m\nCONFIG_SQUASHFS_XATTR=y\nCONFIG_SQUASHFS_XZ=y\n",
    );
    let check = |format, compression| {
        require_kernel("4.18", &config, format, compression).map_err(|error| error.to_string())
    };
    assert_eq!(check(Squashfs, Compression::Xz), Ok(()));
    let error = check(Squashfs, Compression::Zstd).unwrap_err();
    assert!(error.contains("built without CONFIG_SQUASHFS_ZSTD\nhint: "), "{error}");
    assert!(check(Erofs, Compression::Xz).unwrap_err().contains("CONFIG_EROFS_FS, CONFIG_EROFS_FS_XATTR"));
}
