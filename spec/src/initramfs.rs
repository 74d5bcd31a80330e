//! Names inside the initramfs: what imagebuild puts there and where init looks for it.
//!
//! Paths are relative to the initramfs' root, without a leading slash, as they stand in the cpio archive.

use crate::manifest::Compression;

/// PID 1.
pub const INIT: &str = "init";
/// The rescue shell. Absent if the build host had no static busybox.
pub const BUSYBOX: &str = "bin/busybox";
/// Directory of everything below that is bootnode's own.
pub const BOOTNODE_DIR: &str = "bootnode";
/// The manifest, as [`crate::manifest::Manifest::carried`] gives it.
pub const MANIFEST: &str = "bootnode/manifest.json";
/// Directory of the root archive's chunks.
pub const CHUNKS_DIR: &str = "bootnode/chunks";

/// Path of the chunk at `index` of the manifest's chunk table: `bootnode/chunks/00007.tar.xz`.
pub fn chunk_path(index: usize, compression: Compression) -> String {
    format!("{CHUNKS_DIR}/{index:05}.{}", compression.tar_suffix())
}

/// Where init leaves the [`crate::event::Report`] of this boot for the booted system, readable by root alone.
pub const BOOT_REPORT: &str = "run/bootnode/report.json";
