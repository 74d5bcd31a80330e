//! A node's own files: a tar of at most [`MAX_BYTES`] that is laid over the root before its init starts. What it names
//! replaces what is there, with its own owner and mode.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use bootspec::cmdline::{BaseUrl, BootParams, Sources};
use bootspec::initramfs::{OVERLAY, OVERLAY_SIGNATURE};
use bootspec::store::SIGNATURE_SUFFIX;

use crate::fetch::{FetchError, Fetcher};
use crate::kmsg;
use crate::trust::{Trust, TrustError};
use crate::unpack::{self, UnpackError};

/// It is in memory as a whole while it is applied.
const MAX_BYTES: u64 = 64 << 20;
const MAX_SIGNATURE_BYTES: u64 = 4096;

/// The overlay cannot be applied.
#[derive(Debug, thiserror::Error)]
pub enum NodeOverlayError {
    /// It rides in the initramfs and cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The URL names no file.
    #[error("the overlay's URL {0} does not end in the name of a file")]
    Url(BaseUrl),
    /// It cannot be fetched.
    #[error("cannot fetch the node's overlay")]
    Fetch(#[source] FetchError),
    /// It may not be used.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// It cannot be extracted.
    #[error("cannot apply the node's overlay")]
    Extract(#[source] UnpackError),
}

/// A tar and its signature.
pub struct NodeOverlay {
    tar: Vec<u8>,
    signature: Option<Vec<u8>>,
}

/// Reads the overlay that the boot server added to the initramfs, if it did.
pub fn read(initramfs: &Path) -> Result<Option<NodeOverlay>, NodeOverlayError> {
    let Some(tar) = read_if_there(&initramfs.join(OVERLAY))? else { return Ok(None) };
    Ok(Some(NodeOverlay { tar, signature: read_if_there(&initramfs.join(OVERLAY_SIGNATURE))? }))
}

/// Fetches the overlay of `bootnode.overlay=`, if there is one.
pub fn fetch(params: &BootParams, trust: &Trust) -> Result<Option<NodeOverlay>, NodeOverlayError> {
    let Some(url) = &params.overlay else { return Ok(None) };
    let (dir, name) = url.split_file().ok_or_else(|| NodeOverlayError::Url(url.clone()))?;
    let fetcher = Fetcher::new(Sources::from(dir));
    let tar = fetcher.document(&name, MAX_BYTES).map_err(NodeOverlayError::Fetch)?;
    let signature = if trust.wants_signatures() {
        let name = format!("{name}{SIGNATURE_SUFFIX}");
        fetcher.document_if_there(&name, MAX_SIGNATURE_BYTES).map_err(NodeOverlayError::Fetch)?
    } else {
        None
    };
    Ok(Some(NodeOverlay { tar, signature }))
}

impl NodeOverlay {
    /// Verifies the overlay and lays it over `root`.
    pub fn apply(&self, root: &Path, trust: &Trust) -> Result<(), NodeOverlayError> {
        let signature = self.signature.as_deref().map(String::from_utf8_lossy);
        trust.check("the node's overlay", &self.tar, signature.as_deref())?;
        kmsg::info(&format!("applying the node's overlay of {} bytes", self.tar.len()));
        unpack::lay_over(&self.tar, root).map_err(NodeOverlayError::Extract)
    }
}

fn read_if_there(path: &Path) -> Result<Option<Vec<u8>>, NodeOverlayError> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(NodeOverlayError::Read { path: path.to_owned(), source }),
    }
}
