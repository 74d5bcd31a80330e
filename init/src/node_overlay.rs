//! A node's own files: a tar of at most [`MAX_OVERLAY_BYTES`] that is laid over the root before its init starts. What it
//! names replaces what is there, with its own owner and mode.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use bootspec::cmdline::{BaseUrl, BootParams, Sources};
use bootspec::initramfs::{MAX_OVERLAY_BYTES, OVERLAY, OVERLAY_SIGNATURE};
use bootspec::store::{MAX_SIGNATURE_BYTES, SIGNATURE_SUFFIX};
use tar::EntryType;

use crate::fetch::{FetchError, Fetcher};
use crate::kmsg;
use crate::memory::Addition;
use crate::trust::{Trust, TrustError};
use crate::unpack::blocks::each_entry;
use crate::unpack::{self, UnpackError};

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
    /// It rides in the initramfs and is larger than any that is fetched.
    #[error("{path} has more than {limit} bytes")]
    TooLarge {
        /// Which file.
        path: PathBuf,
        /// The most that it may have.
        limit: u64,
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
    #[error("cannot apply {what}")]
    Extract {
        /// Which it is.
        what: &'static str,
        /// Why not.
        #[source]
        source: Box<UnpackError>,
    },
}

/// A tar that is trusted.
pub struct NodeOverlay {
    /// What it is called.
    what: &'static str,
    tar: Vec<u8>,
}

/// What a node's overlay is called.
const OVERLAY_OF_NODE: &str = "the node's overlay";

/// Takes the overlay that the boot server added to the initramfs out of it, if there is one, so that it is in memory once.
pub fn take(initramfs: &Path, trust: &Trust) -> Result<Option<NodeOverlay>, NodeOverlayError> {
    let path = initramfs.join(OVERLAY);
    let Some(tar) = read_if_there(&path, MAX_OVERLAY_BYTES)? else { return Ok(None) };
    let signature = read_if_there(&initramfs.join(OVERLAY_SIGNATURE), MAX_SIGNATURE_BYTES)?;
    let node_overlay = NodeOverlay::verify(OVERLAY_OF_NODE, tar, signature.as_deref(), trust)?;
    if let Err(error) = fs::remove_file(&path) {
        kmsg::warn(&format!("cannot remove {}: {error}", path.display()));
    }
    Ok(Some(node_overlay))
}

/// Fetches the overlay of `bootnode.overlay=`, if there is one.
pub fn fetch(params: &BootParams, trust: &Trust) -> Result<Option<NodeOverlay>, NodeOverlayError> {
    let Some(url) = &params.overlay else { return Ok(None) };
    let (dir, name) = url.split_file().ok_or_else(|| NodeOverlayError::Url(url.clone()))?;
    let fetcher = Fetcher::new(Sources::from(dir), params.fetch_timeout);
    let tar = fetcher.document(&name, MAX_OVERLAY_BYTES).map_err(NodeOverlayError::Fetch)?;
    let signature = if trust.wants_signatures() {
        let name = format!("{name}{SIGNATURE_SUFFIX}");
        fetcher.document_if_there(&name, MAX_SIGNATURE_BYTES).map_err(NodeOverlayError::Fetch)?
    } else {
        None
    };
    Ok(Some(NodeOverlay::verify(OVERLAY_OF_NODE, tar, signature.as_deref(), trust)?))
}

impl NodeOverlay {
    /// The tar, which is called `what`, if it may be used.
    pub fn verify(
        what: &'static str,
        tar: Vec<u8>,
        signature: Option<&[u8]>,
        trust: &Trust,
    ) -> Result<Self, TrustError> {
        let signature = signature.map(String::from_utf8_lossy);
        trust.check(what, &tar, signature.as_deref())?;
        Ok(Self { what, tar })
    }

    /// What it adds to the root at most. Of a tar that is damaged, what lies before the damage.
    pub fn addition(&self) -> Addition {
        let mut addition = Addition::default();
        // Extracting it says what is wrong with it.
        let _: io::Result<()> = each_entry(
            &mut &*self.tar,
            |error| error,
            |header, contents| {
                match header.entry_type() {
                    EntryType::XHeader
                    | EntryType::XGlobalHeader
                    | EntryType::GNULongName
                    | EntryType::GNULongLink => {}
                    _ => addition.add(contents.limit()),
                }
                Ok(())
            },
        );
        addition
    }

    /// Lays it over `root`.
    pub fn apply(&self, root: &Path) -> Result<(), NodeOverlayError> {
        let what = self.what;
        kmsg::info(&format!("applying {what} of {} bytes", self.tar.len()));
        unpack::lay_over(&self.tar, root)
            .map_err(|source| NodeOverlayError::Extract { what, source: Box::new(source) })
    }
}

fn read_if_there(path: &Path, limit: u64) -> Result<Option<Vec<u8>>, NodeOverlayError> {
    let failed = |source| NodeOverlayError::Read { path: path.to_owned(), source };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    // The kernel says how long it is, so that no more is allocated than it takes.
    let length = file.metadata().map_err(failed)?.len();
    if length > limit {
        return Err(NodeOverlayError::TooLarge { path: path.to_owned(), limit });
    }
    let mut bytes = Vec::with_capacity(usize::try_from(length).unwrap_or(0));
    file.take(limit).read_to_end(&mut bytes).map_err(failed)?;
    Ok(Some(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use bootspec::diagnosis::explain;
    use proptest::prelude::*;
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
        NodeOverlay { what: OVERLAY_OF_NODE, tar }.apply(root)
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
        assert!(take(dir.path(), &no_keys()).unwrap().is_none());
        fs::create_dir(dir.path().join("bootnode")).unwrap();
        fs::write(dir.path().join(OVERLAY), "tar").unwrap();
        let overlay = take(dir.path(), &no_keys()).unwrap().unwrap();
        assert_eq!(overlay.tar, b"tar");
        assert!(!dir.path().join(OVERLAY).exists(), "it is in memory twice");
    }

    #[test]
    fn an_overlay_in_the_initramfs_is_no_larger_than_one_that_is_fetched() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("bootnode")).unwrap();
        let set_length = |name, length| File::create(dir.path().join(name)).unwrap().set_len(length).unwrap();
        set_length(OVERLAY, MAX_OVERLAY_BYTES + 1);
        let error = take(dir.path(), &no_keys()).err().unwrap().to_string();
        assert!(error.contains("bootnode/overlay.tar has more than 67108864 bytes"), "{error}");
        set_length(OVERLAY, 10);
        set_length(OVERLAY_SIGNATURE, MAX_SIGNATURE_BYTES + 1);
        let error = take(dir.path(), &no_keys()).err().unwrap().to_string();
        assert!(error.contains("bootnode/overlay.tar.minisig has more than 4096 bytes"), "{error}");
    }

    #[test]
    fn what_an_overlay_adds_is_counted_in_pages_and_inodes() {
        let long = "x".repeat(150);
        let overlay = NodeOverlay { what: OVERLAY_OF_NODE, tar: tar(&[("etc/key", 0o600), (&long, 0o644)]) };
        // Beside the files "." and "etc".
        assert_eq!(overlay.addition(), Addition { page_rounded_bytes: 2 * 4096, inodes: 4 });
        let damaged = NodeOverlay { what: OVERLAY_OF_NODE, tar: overlay.tar[..1000].to_vec() };
        assert!(damaged.addition().inodes < 4);
    }

    proptest! {
        #[test]
        fn any_bytes_are_counted_without_panic(damage in 0usize..2048, byte: u8, cut in 0usize..4096) {
            let mut tar = tar(&[("key", 0o600)]);
            tar.truncate(cut);
            tar.iter_mut().skip(damage).take(1).for_each(|old| *old = byte);
            let _ = NodeOverlay { what: OVERLAY_OF_NODE, tar }.addition();
        }
    }
}
