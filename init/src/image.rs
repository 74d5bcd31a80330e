//! The image: its manifest, from the initramfs or from the network, verified.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use bootspec::diagnosis::explain;
use bootspec::initramfs::{self, chunk_path};
use bootspec::manifest::{Manifest, ManifestError, RootArchive};
use bootspec::store::{MANIFEST, MANIFEST_SIGNATURE, MAX_MANIFEST_BYTES, MAX_SIGNATURE_BYTES};

use crate::fetch::{FetchError, Fetcher};
use crate::kmsg;
use crate::trust::{Trust, TrustError};

/// There is no usable image.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The manifest cannot be read.
    #[error("cannot read the image's manifest /{}", initramfs::MANIFEST)]
    Read(#[source] io::Error),
    /// It cannot be fetched.
    #[error("cannot fetch the image's manifest")]
    Fetch(#[source] FetchError),
    /// It is there, and wrong.
    #[error("the image's manifest is not usable")]
    Manifest(#[source] ManifestError),
    /// It may not boot.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// The kernel stopped unpacking the initramfs before it came to this chunk.
    #[error("the initramfs lacks {0}")]
    NoChunk(PathBuf),
    /// The image's modules and drivers are another kernel's.
    #[error("kernel {running} is running, and {image} is made for {expected}")]
    Kernel {
        /// The image.
        image: String,
        /// Release of its modules.
        expected: String,
        /// Release of the kernel.
        running: String,
    },
}

/// Reads the manifest below `initramfs`, the root of the initramfs. None if it carries no image.
pub fn read_manifest(initramfs: &Path, trust: &Trust) -> Result<Option<Manifest>, ImageError> {
    let Some(json) = read_if_there(&initramfs.join(initramfs::MANIFEST))? else { return Ok(None) };
    let signature = read_if_there(&initramfs.join(initramfs::MANIFEST_SIGNATURE))?;
    check(&json, signature.as_deref(), trust).map(Some)
}

/// Fetches the manifest. A mirror whose manifest may not boot is left for the next one, like one that has none.
pub fn fetch_manifest(fetcher: &Fetcher, trust: &Trust) -> Result<Manifest, ImageError> {
    let mut unusable: Option<ImageError> = None;
    for fetcher in fetcher.from_each_mirror() {
        if let Some(error) = &unusable {
            kmsg::warn(&format!("{}; asking the next mirror", explain(error)));
        }
        match fetch_first_manifest(&fetcher, trust) {
            Err(error) if !matches!(error, ImageError::Fetch(_)) => unusable = Some(error),
            // Where nothing can be fetched, all mirrors have been asked.
            result => return result.map_err(|error| unusable.unwrap_or(error)),
        }
    }
    Err(unusable.expect("there is at least one mirror"))
}

/// Fetches the manifest of the first mirror that has one.
fn fetch_first_manifest(fetcher: &Fetcher, trust: &Trust) -> Result<Manifest, ImageError> {
    let json = fetcher.document(MANIFEST, MAX_MANIFEST_BYTES).map_err(ImageError::Fetch)?;
    let signature = if trust.wants_signatures() {
        fetcher.document_if_there(MANIFEST_SIGNATURE, MAX_SIGNATURE_BYTES).map_err(ImageError::Fetch)?
    } else {
        None
    };
    check(&json, signature.as_deref(), trust)
}

/// The signature is checked before anything is made of the manifest's contents.
fn check(json: &[u8], signature: Option<&[u8]>, trust: &Trust) -> Result<Manifest, ImageError> {
    let signature = signature.map(String::from_utf8_lossy);
    trust.check("the image's manifest", json, signature.as_deref())?;
    let manifest = Manifest::parse(json).map_err(ImageError::Manifest)?;
    trust.check_image(&manifest)?;
    Ok(manifest)
}

/// Checks that the kernel is the image's own: with another one, the root's modules are of no use, and the drivers in the
/// root, for the disks and the network, are modules.
pub fn check_kernel(manifest: &Manifest) -> Result<(), ImageError> {
    let running = rustix::system::uname().release().to_string_lossy().into_owned();
    if running == manifest.kernel_release {
        return Ok(());
    }
    let (image, expected) = (manifest.image.to_string(), manifest.kernel_release.clone());
    Err(ImageError::Kernel { image, expected, running })
}

/// Where the chunks of `root` lie below `initramfs`, in the order of the manifest. All of them must be there; whether
/// they are whole is found out when they are read.
pub fn find_chunks(initramfs: &Path, root: &RootArchive) -> Result<Vec<PathBuf>, ImageError> {
    let paths = (0..root.chunks.len()).map(|index| initramfs.join(chunk_path(index, root.compression)));
    paths.map(|path| if path.exists() { Ok(path) } else { Err(ImageError::NoChunk(path)) }).collect()
}

fn read_if_there(path: &Path) -> Result<Option<Vec<u8>>, ImageError> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(ImageError::Read(error)),
    }
}
