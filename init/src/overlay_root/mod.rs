//! A root that stays compressed in memory: a file system image below, a tmpfs for what is written above, an overlayfs of the
//! two (kernel: Documentation/filesystems/overlayfs.rst).
//!
//! The image is a file on a tmpfs, shown by a loop device. Once the overlay is mounted, nothing of the layers has a name in
//! the file system any more: the overlay holds them.

mod loop_device;

use std::ffi::{CStr, CString};
use std::fs::{self, File, FileTimes, Permissions};
use std::io;
use std::num::NonZeroUsize;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use bootspec::Sha256Digest;
use bootspec::initramfs::file_system_path;
use bootspec::manifest::{FileSystemFormat, Piece, RootFileSystem};
use rustix::fs::{XattrFlags, getxattr, listxattr, setxattr};
use rustix::io::Errno;
use sha2::{Digest, Sha256};

use crate::fetch::{FetchError, Fetcher};
use crate::kmsg;
use crate::modules::Modules;
use crate::mounts::{self, MountError};
use crate::threads::run_on;
use loop_device::LoopDevice;

/// Where a fetched image is kept while it is attached.
const IMAGE_DIR: &str = "/image";
const LOWER_DIR: &str = "/lower";
const UPPER_DIR: &str = "/upper";
/// Blocks fetched ahead of the one that is being written.
const READ_AHEAD_BLOCKS: usize = 2;
/// A tmpfs has room for the image's pages, and for itself.
const SPARE_BYTES: u64 = 1 << 20;
/// XATTR_SIZE_MAX and XATTR_LIST_MAX of the kernel's limits.h.
const MAX_ATTRIBUTE_BYTES: usize = 64 * 1024;

/// The root cannot be mounted.
#[derive(Debug, thiserror::Error)]
pub enum OverlayError {
    /// A block of the image is not what the manifest says. Nothing was mounted.
    #[error("{path} is damaged in the {} bytes from {}: they have SHA-256 {found}, the manifest says {}",
        .piece.size_bytes, .piece.offset_bytes, .piece.sha256)]
    Damaged {
        /// The image.
        path: PathBuf,
        /// Where.
        piece: Piece,
        /// Digest of what is there.
        found: Sha256Digest,
    },
    /// The image cannot be read, or not be written to memory.
    #[error("cannot {action} {path}")]
    Io {
        /// What was attempted.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The image cannot be fetched.
    #[error("cannot fetch the root file system")]
    Fetch(#[source] FetchError),
    /// There is no loop device to show the image.
    #[error("cannot attach the {0} image to a loop device")]
    Loop(FileSystemFormat, #[source] io::Error),
    /// The tmpfs that takes what is written cannot be mounted.
    #[error(transparent)]
    Upper(MountError),
    /// The image, or the whole, cannot be mounted.
    #[error(transparent)]
    Mount(#[from] MountError),
}

/// Opens the image that rides in the initramfs, and verifies it with so many threads.
pub fn open_carried(
    initramfs: &Path,
    root: &RootFileSystem,
    workers: NonZeroUsize,
) -> Result<File, OverlayError> {
    let path = initramfs.join(file_system_path(root.format));
    let unreadable = |source| OverlayError::Io { action: "read", path: path.clone(), source };
    let file = File::open(&path).map_err(unreadable)?;
    let pieces: Vec<_> = root.pieces().collect();
    let next = AtomicUsize::new(0);
    let work = || {
        let mut buffer = Vec::new();
        while let Some(piece) = pieces.get(next.fetch_add(1, Ordering::Relaxed)) {
            let found = hash(&file, piece, &mut buffer).map_err(unreadable)?;
            if found != piece.sha256 {
                return Err(OverlayError::Damaged { path: path.clone(), piece: *piece, found });
            }
        }
        Ok(())
    };
    run_on(workers, work).into_iter().collect::<Result<(), _>>()?;
    Ok(file)
}

fn hash(file: &File, piece: &Piece, buffer: &mut Vec<u8>) -> io::Result<Sha256Digest> {
    buffer.resize(usize::try_from(piece.size_bytes).map_err(io::Error::other)?, 0);
    file.read_exact_at(buffer, piece.offset_bytes)?;
    Ok(Sha256Digest::new(Sha256::digest(&buffer).into()))
}

/// Fetches the image into a tmpfs of its own; each block is verified before it is written.
pub fn fetch(fetcher: &Fetcher, root: &RootFileSystem) -> Result<File, OverlayError> {
    let dir = Path::new(IMAGE_DIR);
    let size_bytes = root.size_bytes.next_multiple_of(4096) + SPARE_BYTES;
    mounts::mount_tmpfs(dir, &format!("mode=700,size={size_bytes}"))?;
    let path = dir.join(root.file.as_str());
    let failed = |action| {
        let path = path.clone();
        move |source| OverlayError::Io { action, path, source }
    };
    let mut file = File::create_new(&path).map_err(failed("create"))?;
    let mut progress = kmsg::Progress::new("fetched", root.size_bytes);
    let blocks =
        fetcher.stream(root.file.as_str(), root.size_bytes, root.pieces().collect(), READ_AHEAD_BLOCKS);
    for block in blocks {
        let mut block = block.map_err(OverlayError::Fetch)?;
        let written = io::copy(&mut block, &mut file).map_err(failed("write"))?;
        progress.advance(written);
    }
    // A loop device of a file that is open for writing could be written to.
    let image = File::open(&path).map_err(failed("open"))?;
    // The open file is what holds the tmpfs from here on.
    mounts::detach(dir)?;
    Ok(image)
}

/// Mounts the overlay at `target`. The upper layer is a tmpfs with these options.
pub fn mount(
    image: &File,
    format: FileSystemFormat,
    upper_options: &str,
    target: &Path,
    modules: &mut Modules,
) -> Result<(), OverlayError> {
    modules.load(&["loop", &format.to_string(), "overlay"]);
    let device = LoopDevice::attach(image).map_err(|source| OverlayError::Loop(format, source))?;
    let (lower, upper) = (Path::new(LOWER_DIR), Path::new(UPPER_DIR));
    mounts::mount_read_only(&device.path, lower, &format.to_string())?;
    mounts::mount_tmpfs(upper, upper_options).map_err(OverlayError::Upper)?;
    let (root, work) = (upper.join("root"), upper.join("work"));
    make_upper(lower, &root, &work).map_err(|source| OverlayError::Io {
        action: "prepare the layer",
        path: upper.to_owned(),
        source,
    })?;
    mounts::mount_overlay(lower, &root, &work, target)?;
    mounts::detach(lower)?;
    Ok(mounts::detach(upper)?)
}

/// The upper layer's root is the root's root: it gets the owner, mode, attributes and times of the image's.
fn make_upper(lower: &Path, root: &Path, work: &Path) -> io::Result<()> {
    let metadata = fs::metadata(lower)?;
    fs::create_dir(root)?;
    fs::create_dir(work)?;
    chown(root, Some(metadata.uid()), Some(metadata.gid()))?;
    fs::set_permissions(root, Permissions::from_mode(metadata.mode() & 0o7777))?;
    copy_attributes(lower, root)?;
    let times = FileTimes::new().set_accessed(metadata.accessed()?).set_modified(metadata.modified()?);
    File::open(root)?.set_times(times)
}

/// A tmpfs takes none of the namespace `user` before Linux 6.6; the root directory boots without them.
fn copy_attributes(from: &Path, to: &Path) -> io::Result<()> {
    let mut value = vec![0; MAX_ATTRIBUTE_BYTES];
    for name in list_attributes(from)? {
        let length = getxattr(from, &*name, &mut value)?;
        match setxattr(to, &*name, &value[..length], XattrFlags::empty()) {
            Err(Errno::OPNOTSUPP) => {
                kmsg::warn(&format!("the root directory loses its attribute {}", name.to_string_lossy()));
            }
            result => result?,
        }
    }
    Ok(())
}

/// Names of extended attributes. None if the file system has no such thing.
fn list_attributes(path: &Path) -> io::Result<Vec<CString>> {
    let mut names = vec![0; MAX_ATTRIBUTE_BYTES];
    let length = match listxattr(path, &mut names) {
        Err(Errno::OPNOTSUPP) => 0,
        result => result?,
    };
    let names = names[..length].split_inclusive(|byte| *byte == 0);
    Ok(names.filter_map(|name| CStr::from_bytes_with_nul(name).ok()).map(CStr::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use bootspec::initramfs::BOOTNODE_DIR;

    const WORKERS: NonZeroUsize = NonZeroUsize::new(3).unwrap();

    /// An initramfs that carries `image`, and its description in blocks of 1000 bytes.
    fn carry(image: &[u8]) -> (tempfile::TempDir, RootFileSystem) {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join(BOOTNODE_DIR)).unwrap();
        let format = FileSystemFormat::Squashfs;
        fs::write(dir.path().join(file_system_path(format)), image).unwrap();
        let digest = |block: &[u8]| Sha256Digest::new(Sha256::digest(block).into());
        let root = RootFileSystem {
            file: "rootfs.squashfs".parse().unwrap(),
            format,
            size_bytes: image.len() as u64,
            block_bytes: 1000,
            blocks: image.chunks(1000).map(digest).collect(),
        };
        (dir, root)
    }

    /// Runs as root, as all that sets owners.
    #[test]
    fn the_root_directory_of_the_upper_layer_is_as_the_image_has_it() {
        let dir = tempfile::tempdir().unwrap();
        let [lower, root, work] = ["lower", "root", "work"].map(|name| dir.path().join(name));
        fs::create_dir(&lower).unwrap();
        chown(&lower, Some(3), Some(4)).unwrap();
        fs::set_permissions(&lower, Permissions::from_mode(0o1751)).unwrap();
        let label = b"system_u:object_r:root_t:s0\0";
        setxattr(&lower, "security.bootnode", label, XattrFlags::empty()).unwrap();
        setxattr(&lower, "trusted.bootnode", b"", XattrFlags::empty()).unwrap();
        let modified = std::time::UNIX_EPOCH + std::time::Duration::from_nanos(1_500_000_000_123_456_789);
        File::open(&lower).unwrap().set_times(FileTimes::new().set_modified(modified)).unwrap();

        make_upper(&lower, &root, &work).unwrap();
        let metadata = fs::metadata(&root).unwrap();
        assert_eq!((metadata.uid(), metadata.gid(), metadata.mode() & 0o7777), (3, 4, 0o1751));
        assert_eq!(metadata.modified().unwrap(), modified);
        let names = list_attributes(&root).unwrap();
        assert!(names.iter().any(|name| name.as_c_str() == c"trusted.bootnode"), "{names:?}");
        let mut value = [0; 64];
        let length = getxattr(&root, "security.bootnode", &mut value).unwrap();
        assert_eq!(&value[..length], label);
    }

    #[test]
    fn a_whole_image_is_opened() {
        let (dir, root) = carry(&[7; 12_345]);
        assert_eq!(open_carried(dir.path(), &root, WORKERS).unwrap().metadata().unwrap().len(), 12_345);
    }

    #[test]
    fn a_flipped_bit_anywhere_is_refused_by_its_block() {
        for at in [0, 4_999, 12_344] {
            let (dir, root) = carry(&[7; 12_345]);
            let path = dir.path().join(file_system_path(root.format));
            let mut bytes = fs::read(&path).unwrap();
            bytes[at] ^= 1;
            fs::write(&path, bytes).unwrap();
            let error = open_carried(dir.path(), &root, WORKERS).unwrap_err();
            let OverlayError::Damaged { piece, .. } = error else { panic!("{error}") };
            assert_eq!(piece.offset_bytes, at as u64 / 1000 * 1000);
        }
    }

    #[test]
    fn an_image_that_the_kernel_cut_short_is_refused() {
        let (dir, root) = carry(&[7; 12_345]);
        fs::write(dir.path().join(file_system_path(root.format)), [7; 12_000]).unwrap();
        let error = open_carried(dir.path(), &root, WORKERS).unwrap_err();
        assert!(error.to_string().contains("cannot read"), "{error}");
    }
}
