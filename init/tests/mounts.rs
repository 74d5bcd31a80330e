//! The tmpfs of the root, mounted in a namespace of its own. Needs root.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod isolated;

use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use init::mounts::{mount_tmpfs, with_large_folios};
use init::unpack::lay_over;
use isolated::isolated;

const MIB: u64 = 1 << 20;

fn options(target: &Path) -> String {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let of_target = |line: &&str| line.split(' ').nth(1) == target.to_str();
    let line = mounts.lines().rev().find(of_target).unwrap();
    line.split(' ').nth(3).unwrap().to_owned()
}

#[test]
fn large_folios_are_for_unpacking_alone_and_leave_holes_as_they_are() {
    isolated("large_folios_are_for_unpacking_alone_and_leave_holes_as_they_are", "", || {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path();
        mount_tmpfs(target, "mode=755,size=64m").unwrap();
        let before = options(target);

        // Data of a page at the beginning of each second MiB.
        let mut sparse = tempfile::tempfile().unwrap();
        for at in 0..4 {
            sparse.seek(SeekFrom::Start(at * 2 * MIB)).unwrap();
            sparse.write_all(&[1; 4096]).unwrap();
        }
        sparse.set_len(9 * MIB).unwrap();
        let tar = sparse_tar(&mut sparse);
        with_large_folios(target, || {
            let within = options(target);
            assert!(within == format!("{before},huge=within_size") || within == before, "{within}");
            lay_over(&tar, target).unwrap();
        });

        let found = fs::metadata(target.join("sparse")).unwrap();
        assert_eq!((found.len(), found.blocks() * 512), (9 * MIB, 4 * 4096));
        assert_eq!(options(target), before);
    });
}

/// The tar that GNU tar makes of the file with holes, as `sparse`.
fn sparse_tar(file: &mut File) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("sparse");
    file.rewind().unwrap();
    std::io::copy(file, &mut File::create(&path).unwrap()).unwrap();
    let output = std::process::Command::new("sh")
        .args(["-ec", "fallocate --dig-holes sparse; tar --format=pax --sparse -c sparse"])
        .current_dir(dir.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}
