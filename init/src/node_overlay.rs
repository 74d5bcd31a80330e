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
    let fetcher = Fetcher::new(Sources::from(dir), params.fetch_timeout);
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

#[cfg(test)]
mod tests {
    use super::*;
    use bootspec::diagnosis::explain;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::process::Command;

    fn no_keys() -> Trust {
        Trust::read(Path::new("/nonexistent"), &BootParams::default()).unwrap()
    }

    /// The tar that GNU tar makes of `files` (name, mode), whose contents are their names.
    fn tar(files: &[(&str, u32)]) -> Vec<u8> {
        let dir = tempfile::tempdir().unwrap();
        for (name, mode) in files {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, name).unwrap();
            fs::set_permissions(&path, PermissionsExt::from_mode(*mode)).unwrap();
        }
        let output = Command::new("tar").arg("-C").arg(dir.path()).args(["-cf", "-", "."]).output().unwrap();
        assert!(output.status.success());
        output.stdout
    }

    fn apply(tar: Vec<u8>, root: &Path) -> Result<(), NodeOverlayError> {
        NodeOverlay { tar, signature: None }.apply(root, &no_keys())
    }

    #[test]
    fn files_replace_what_is_there_with_their_own_modes() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("etc")).unwrap();
        fs::write(root.path().join("etc/key"), "old and longer").unwrap();
        symlink("/outside", root.path().join("etc/link")).unwrap();
        let long = format!("etc/{}", "x".repeat(150));
        apply(tar(&[("etc/key", 0o600), ("etc/link", 0o644), (&long, 0o4755)]), root.path()).unwrap();
        assert_eq!(fs::read_to_string(root.path().join("etc/key")).unwrap(), "etc/key");
        let mode = |name: &str| fs::symlink_metadata(root.path().join(name)).unwrap().permissions().mode();
        assert_eq!(mode("etc/key"), 0o100_600);
        assert_eq!(mode("etc/link"), 0o100_644);
        assert_eq!(mode(&long), 0o104_755);
    }

    #[test]
    fn what_is_under_a_symbolic_link_is_refused() {
        let (root, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        symlink(outside.path(), root.path().join("etc")).unwrap();
        let error = explain(&apply(tar(&[("etc/key", 0o600)]), root.path()).unwrap_err());
        assert!(error.contains("cannot apply the node's overlay"), "{error}");
        assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_damaged_tar_is_refused() {
        let root = tempfile::tempdir().unwrap();
        let mut tar = tar(&[("etc/key", 0o600)]);
        tar.truncate(700);
        assert!(apply(tar, root.path()).is_err());
        assert!(apply(vec![7; 2048], root.path()).is_err());
    }

    #[test]
    fn the_overlay_in_the_initramfs_need_not_be_there() {
        let dir = tempfile::tempdir().unwrap();
        assert!(read(dir.path()).unwrap().is_none());
        fs::create_dir(dir.path().join("bootnode")).unwrap();
        fs::write(dir.path().join(OVERLAY), "tar").unwrap();
        fs::write(dir.path().join(OVERLAY_SIGNATURE), "signature").unwrap();
        let overlay = read(dir.path()).unwrap().unwrap();
        assert_eq!((overlay.tar, overlay.signature), (b"tar".to_vec(), Some(b"signature".to_vec())));
    }
}
