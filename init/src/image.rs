//! The image that rides in the initramfs: its manifest and its chunks.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use bootspec::initramfs::{MANIFEST, chunk_path};
use bootspec::manifest::{Manifest, ManifestError, RootArchive};

/// The initramfs holds no usable image.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// There is no manifest to read.
    #[error("cannot read the image's manifest /{MANIFEST}")]
    Read(#[source] io::Error),
    /// It is there, and wrong.
    #[error("/{MANIFEST} is not usable")]
    Manifest(#[source] ManifestError),
    /// The kernel stopped unpacking the initramfs before it came to this chunk.
    #[error("the initramfs lacks {0}")]
    NoChunk(PathBuf),
}

/// Reads the manifest below `initramfs`, the root of the initramfs.
pub fn read_manifest(initramfs: &Path) -> Result<Manifest, ImageError> {
    let json = fs::read(initramfs.join(MANIFEST)).map_err(ImageError::Read)?;
    Manifest::parse(&json).map_err(ImageError::Manifest)
}

/// Where the chunks of `root` lie below `initramfs`, in the order of the manifest. All of them must be there; whether
/// they are whole is found out when they are read.
pub fn find_chunks(initramfs: &Path, root: &RootArchive) -> Result<Vec<PathBuf>, ImageError> {
    let paths = (0..root.chunks.len()).map(|index| initramfs.join(chunk_path(index, root.compression)));
    paths.map(|path| if path.exists() { Ok(path) } else { Err(ImageError::NoChunk(path)) }).collect()
}
