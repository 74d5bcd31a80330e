//! An image of arbitrary bytes, for what serves images and does not look into them.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::Path;

use anyhow::{Context, Result};
use bootspec::manifest::{Artifact, BootMode, Build, FORMAT, Manifest, RootOrigin};
use bootspec::store::{CURRENT, INITRAMFS, MANIFEST, VMLINUZ, image_dir};
use bootspec::{ImageRef, Sha256Digest};

use crate::places::make_dir;

/// What its initramfs consists of.
static PIECE: [u8; 1 << 20] = [0x5a; 1 << 20];

/// Publishes `image` (`NAME/VERSION`), whose initramfs has this size, as its current version, if it is not there yet.
pub fn publish(store: &Path, image: &str, initramfs_bytes: u64) -> Result<ImageRef> {
    let image: ImageRef = image.parse()?;
    let dir = image.dir(store);
    if dir.join(MANIFEST).exists() {
        return Ok(image);
    }
    make_dir(&dir)?;
    let mut file = File::create(dir.join(INITRAMFS))?;
    let mut left = initramfs_bytes;
    while left > 0 {
        let length = left.min(PIECE.len() as u64);
        file.write_all(&PIECE[..length as usize])?;
        left -= length;
    }
    fs::write(dir.join(VMLINUZ), "kernel")?;
    let artifact = |name: &str, size_bytes| -> Result<_> {
        Ok((name.parse()?, Artifact { size_bytes, sha256: Sha256Digest::new([0; 32]) }))
    };
    let artifacts = BTreeMap::from([artifact(INITRAMFS, initramfs_bytes)?, artifact(VMLINUZ, 6)?]);
    let manifest = Manifest {
        format: FORMAT,
        image: image.clone(),
        architecture: "x86_64".to_owned(),
        kernel_release: "6.1".to_owned(),
        mode: BootMode::Failsafe,
        kernel_args: Vec::new(),
        artifacts,
        root: None,
        rollback_index: 0,
        packages: Vec::new(),
        build: Build {
            inputs: Sha256Digest::new([0; 32]),
            tool: "bench".to_owned(),
            host: "bench".to_owned(),
            time_unix: 0,
            root: RootOrigin::default(),
        },
    };
    let current = image_dir(store, &image.name).join(CURRENT);
    symlink(image.version.as_str(), current).context("current")?;
    // Last: it says that the image is complete.
    fs::write(dir.join(MANIFEST), manifest.to_json())?;
    Ok(image)
}

/// Whether `bytes` are the initramfs of an image that was published with this size.
pub fn is_initramfs(bytes: &[u8], initramfs_bytes: u64) -> bool {
    bytes.len() as u64 == initramfs_bytes
        && bytes.chunks(PIECE.len()).all(|piece| piece == &PIECE[..piece.len()])
}
