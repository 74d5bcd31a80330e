//! From a directory tree to a file system image that stays compressed on the node: made by mksquashfs(1) or
//! mkfs.erofs(1), and hashed in blocks, so that a node can check each block when it arrives.
//!
//! Nothing is left out of the tree. What the formats cannot hold: `docs/image-format.md`.

use std::fs::File;
use std::io::Read;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::Command;

use bootspec::Sha256Digest;
use bootspec::manifest::{Compression, FileSystemFormat, RootFileSystem};
use bootspec::store::ArtifactName;

use crate::archive::{ScanError, scan, with_xattr};
use crate::digest::digest;
use crate::file_error::{FileError, failed};
use crate::kernel::Config;
use crate::progress::Step;
use crate::recipe::CompressionSpec;
use crate::sandbox::View;
use crate::tool::{ToolError, Tools, host_has, program};

/// Small enough to be read again when one is damaged, large enough that the digests of 10 GB fit into the manifest.
pub const BLOCK_BYTES: u64 = 4 << 20;
/// Physical clusters of 64 KiB make an image a tenth smaller than the default of 4 KiB (Linux 5.13 and later).
const EROFS_CLUSTER: &str = "-C65536";
/// The same tree is to give the same image, and nobody looks for the root by its UUID.
const EROFS_UUID: &str = "00000000-0000-0000-0000-000000000000";

/// mksquashfs writes blocks of 128 KiB, mkfs.erofs clusters.
const LARGEST_WRITE_BYTES: u64 = 128 << 10;

/// The variable that mksquashfs and mkfs.erofs read too.
const SOURCE_DATE_EPOCH: &str = "SOURCE_DATE_EPOCH";

/// How a file system image is made.
#[derive(Clone, Copy, Debug)]
pub struct FileSystemOptions {
    /// Which file system.
    pub format: FileSystemFormat,
    /// Compression of squashfs. EROFS is compressed with lz4hc.
    pub compression: CompressionSpec,
    /// Threads that compress.
    pub jobs: NonZeroUsize,
    /// When the image was made, in seconds since 1970.
    pub time_unix: i64,
    /// SOURCE_DATE_EPOCH: modification times after it are set back to it.
    pub source_date: Option<i64>,
}

/// The image cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum FileSystemError {
    /// The program that makes it is not installed.
    #[error(
        "an image with a {format} root is made by {program}, and this machine has none\nhint: install {package}"
    )]
    NoProgram {
        /// Which file system.
        format: FileSystemFormat,
        /// Which program.
        program: &'static str,
        /// The package that brings it on Debian and on Enterprise Linux.
        package: &'static str,
    },
    /// Nodes could not mount it.
    #[error(
        "kernel {release} cannot have a {format} root: it was built without {}\nhint: choose another [boot] root or [compression] format in the recipe, or another kernel",
        lacking.join(", ")
    )]
    Kernel {
        /// Release of the kernel.
        release: String,
        /// Which file system.
        format: FileSystemFormat,
        /// Options that it was built without.
        lacking: Vec<&'static str>,
    },
    /// The program failed.
    #[error(transparent)]
    Tool(#[from] ToolError),
    /// It failed because the disk is full, which mkfs.erofs takes for a result that is out of range.
    #[error("cannot write {}: No space left on device", path.display())]
    NoRoom {
        /// The image.
        path: PathBuf,
        /// What the program said.
        #[source]
        source: ToolError,
    },
    /// The tree cannot be read.
    #[error(transparent)]
    Scan(#[from] ScanError),
    /// The image cannot be read again.
    #[error(transparent)]
    File(#[from] FileError),
}

/// Fails if the program that makes such an image is not there.
pub fn require_program(format: FileSystemFormat) -> Result<(), FileSystemError> {
    let (program, package) = match format {
        FileSystemFormat::Squashfs => ("mksquashfs", "squashfs-tools"),
        FileSystemFormat::Erofs => ("mkfs.erofs", "erofs-utils"),
    };
    if host_has(program) { Ok(()) } else { Err(FileSystemError::NoProgram { format, program, package }) }
}

/// Fails if a kernel with this configuration cannot mount such an image under an overlay.
pub fn require_kernel(
    release: &str,
    config: &Config,
    format: FileSystemFormat,
    compression: Compression,
) -> Result<(), FileSystemError> {
    let mut needed = vec!["CONFIG_BLK_DEV_LOOP", "CONFIG_OVERLAY_FS"];
    needed.extend(match (format, compression) {
        (FileSystemFormat::Squashfs, Compression::Xz) => {
            ["CONFIG_SQUASHFS", "CONFIG_SQUASHFS_XATTR", "CONFIG_SQUASHFS_XZ"]
        }
        (FileSystemFormat::Squashfs, Compression::Zstd) => {
            ["CONFIG_SQUASHFS", "CONFIG_SQUASHFS_XATTR", "CONFIG_SQUASHFS_ZSTD"]
        }
        (FileSystemFormat::Erofs, _) => ["CONFIG_EROFS_FS", "CONFIG_EROFS_FS_XATTR", "CONFIG_EROFS_FS_ZIP"],
    });
    let lacking: Vec<_> = needed.into_iter().filter(|option| !config.has(option)).collect();
    if lacking.is_empty() {
        return Ok(());
    }
    Err(FileSystemError::Kernel { release: release.to_owned(), format, lacking })
}

/// Makes `dir`/`rootfs.FORMAT` of the root of `tools` and describes it.
pub fn pack(
    tools: &Tools,
    dir: &Path,
    options: FileSystemOptions,
    step: &Step,
) -> Result<RootFileSystem, FileSystemError> {
    let format = options.format;
    let root = tools.sandbox().root();
    let file: ArtifactName = format!("rootfs.{format}").parse().expect("the formats are plain names");
    let path = dir.join(file.as_str());
    let path = std::path::absolute(&path).map_err(failed("find", &path))?;
    let (name, mut command) = match format {
        FileSystemFormat::Squashfs => {
            note_lost_acls(root, step)?;
            ("mksquashfs", mksquashfs(root, &path, options))
        }
        FileSystemFormat::Erofs => ("mkfs.erofs", mkfs_erofs(root, &path)),
    };
    // Both programs do with it what we do with an archive. Another one of the environment has been read into the options.
    match options.source_date {
        Some(time) => command.env(SOURCE_DATE_EPOCH, time.to_string()),
        None => command.env_remove(SOURCE_DATE_EPOCH),
    };
    // Not each says by itself which file it cannot write.
    let what = format!("packing the root into {} with {name}", path.display());
    if let Err(source) = tools.run(&what, View::Host, command, step) {
        return Err(match is_full(&path) {
            true => FileSystemError::NoRoom { path, source },
            false => source.into(),
        });
    }
    let (size_bytes, blocks) = digest_blocks(&path)?;
    Ok(RootFileSystem { file, format, size_bytes, block_bytes: BLOCK_BYTES, blocks })
}

/// Whether there is less room left on the disk of `path` than a write of those programs takes.
fn is_full(path: &Path) -> bool {
    rustix::fs::statvfs(path).is_ok_and(|disk| disk.f_bavail * disk.f_frsize < LARGEST_WRITE_BYTES)
}

fn mksquashfs(root: &Path, image: &Path, options: FileSystemOptions) -> Command {
    let mut command = program("mksquashfs");
    command.arg(root).arg(image).args(["-noappend", "-quiet", "-no-progress", "-xattrs"]);
    // Without this, a file that cannot be read is an empty one in the image.
    command.arg("-exit-on-error");
    command.arg("-processors").arg(options.jobs.to_string());
    let CompressionSpec { format, level, .. } = options.compression;
    command.arg("-comp").arg(format.to_string());
    if format == Compression::Zstd {
        command.arg("-Xcompression-level").arg(level.to_string());
    }
    // mksquashfs takes the time from the environment or from the argument, and refuses both.
    if options.source_date.is_none() {
        command.arg("-mkfs-time").arg(options.time_unix.to_string());
    }
    command
}

fn mkfs_erofs(root: &Path, image: &Path) -> Command {
    let mut command = program("mkfs.erofs");
    command.args(["-zlz4hc", EROFS_CLUSTER, "-U", EROFS_UUID, "--quiet"]).arg(image).arg(root);
    command
}

/// squashfs holds attributes of the namespaces `user`, `trusted` and `security`, and ACLs are in `system`.
fn note_lost_acls(root: &Path, step: &Step) -> Result<(), FileSystemError> {
    let lost = with_xattr(&scan(root)?, "system.");
    if let Some(first) = lost.first() {
        let count = lost.len();
        step.note(&format!("squashfs holds no ACLs: they are lost on {} ({count} in all)", first.display()));
    }
    Ok(())
}

/// Length of the file and the digest of each of its blocks.
fn digest_blocks(path: &Path) -> Result<(u64, Vec<Sha256Digest>), FileError> {
    let mut file = File::open(path).map_err(failed("open", path))?;
    let (mut size_bytes, mut blocks) = (0, Vec::new());
    loop {
        let (length, sha256) = digest((&mut file).take(BLOCK_BYTES)).map_err(failed("read", path))?;
        if length == 0 {
            return Ok((size_bytes, blocks));
        }
        size_bytes += length;
        blocks.push(sha256);
    }
}

#[cfg(test)]
mod tests;
