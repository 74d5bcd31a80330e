//! Names inside the initramfs: what imagebuild puts there and where init looks for it.
//!
//! Paths are relative to the initramfs' root, without a leading slash, as they stand in the cpio archive.

use crate::manifest::{Compression, FileSystemFormat};

/// PID 1.
pub const INIT: &str = "init";
/// The rescue shell. Absent if the build host had no static busybox.
pub const BUSYBOX: &str = "bin/busybox";
/// Directory of everything below that is bootnode's own.
pub const BOOTNODE_DIR: &str = "bootnode";
/// The manifest, as [`crate::manifest::Manifest::carried`] gives it. Absent where the image is fetched.
pub const MANIFEST: &str = "bootnode/manifest.json";
/// Signature of [`MANIFEST`], if the image is signed.
pub const MANIFEST_SIGNATURE: &str = "bootnode/manifest.json.minisig";
/// Directory of the public keys, one a file as minisign writes them. If there is a key, nothing boots that none of them has
/// signed.
pub const KEYS_DIR: &str = "bootnode/keys";
/// A decimal number and a line feed: the least rollback index that may boot. Absent for none.
pub const MIN_ROLLBACK_INDEX: &str = "bootnode/min-rollback-index";
/// A tar of the node's own files, laid over the root: boot servers add it as a further segment.
pub const OVERLAY: &str = "bootnode/overlay.tar";
/// The largest tar of a node's own files, carried or fetched: the node holds it in memory as a whole, and what is as large
/// as this belongs into an image.
pub const MAX_OVERLAY_BYTES: u64 = 64 << 20;
/// Signature of [`OVERLAY`].
pub const OVERLAY_SIGNATURE: &str = "bootnode/overlay.tar.minisig";
/// What the node shows to be given its secrets ([`crate::credential`]): boot servers add it as a further segment, for one boot.
pub const CREDENTIAL: &str = "bootnode/credential";
/// Directory of the root archive's chunks.
pub const CHUNKS_DIR: &str = "bootnode/chunks";
/// Directory of the kernel modules that the initramfs carries, not compressed, and of their two indexes.
pub const MODULES_DIR: &str = "bootnode/modules";
/// Which modules need which: lines `FILE: FILE…`, file names relative to [`MODULES_DIR`]. A file has the module's name in
/// the kernel's spelling, with underscores: `xen_netfront.ko`. Behind the colon stands all that is to be loaded before the
/// module, also what those need and what modules.softdep asks for, last to first: loading the line from right to left works.
pub const MODULES_DEP: &str = "bootnode/modules/modules.dep";
/// Which module drives which device: lines `alias PATTERN MODULE`, as depmod writes modules.alias, with names of modules in
/// the kernel's spelling.
pub const MODULES_ALIAS: &str = "bootnode/modules/modules.alias";
/// Where drivers look for the firmware of their devices.
pub const FIRMWARE_DIR: &str = "lib/firmware";

/// The SELinux policy, as the kernel takes it, that is loaded before the root is unpacked.
pub const SELINUX_POLICY: &str = "bootnode/selinux-policy";

/// Path of the chunk at `index` of the manifest's chunk table: `bootnode/chunks/00007.tar.xz`.
pub fn chunk_path(index: usize, compression: Compression) -> String {
    format!("{CHUNKS_DIR}/{index:05}.{}", compression.tar_suffix())
}

/// Path of a file system image: `bootnode/root.squashfs`.
pub fn file_system_path(format: FileSystemFormat) -> String {
    format!("{BOOTNODE_DIR}/root.{format}")
}

/// Where init leaves the [`crate::event::Report`] of this boot for the booted system, readable by root alone.
pub const BOOT_REPORT: &str = "run/bootnode/report.json";
