//! What may boot: the public keys of the initramfs, the least rollback index, and the image that is asked for.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use bootspec::ImageRef;
use bootspec::cmdline::BootParams;
use bootspec::initramfs::{KEYS_DIR, MIN_ROLLBACK_INDEX};
use bootspec::manifest::Manifest;
use bootspec::signature::{KeyError, SignatureError, TrustedKey, verify};

/// What is there must not boot. After an error in reading the keys nothing may.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// A key or the index cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A key is not one.
    #[error("{path} is not usable")]
    Key {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: KeyError,
    },
    /// The index is not a number.
    #[error("/{MIN_ROLLBACK_INDEX} holds {0:?}, expected a number")]
    Index(String),
    /// No key vouches for it.
    #[error("cannot trust {what}")]
    Signature {
        /// The manifest or the node's overlay.
        what: &'static str,
        /// What is wrong.
        #[source]
        source: SignatureError,
    },
    /// It is another one than `bootnode.image=` asks for. The signature of a manifest does not tell for whom it was made.
    #[error("found the image {found}, and the kernel command line asks for bootnode.image={wanted}")]
    OtherImage {
        /// What the manifest says that it is.
        found: ImageRef,
        /// What it should be.
        wanted: ImageRef,
    },
    /// It is older than it may be.
    #[error("{image} has rollback index {found}, and the least that may boot is {least}")]
    Rollback {
        /// The image.
        image: String,
        /// Its index.
        found: u64,
        /// The least index.
        least: u64,
    },
}

/// The keys, the index, and what is asked for.
#[derive(Debug)]
pub struct Trust {
    keys: Vec<TrustedKey>,
    image: Option<ImageRef>,
    min_rollback_index: u64,
}

impl Trust {
    /// Reads keys and index from the initramfs at `initramfs`. The kernel command line can raise the index and not lower it.
    pub fn read(initramfs: &Path, params: &BootParams) -> Result<Self, TrustError> {
        let least = read_index(&initramfs.join(MIN_ROLLBACK_INDEX))?;
        let keys = read_keys(&initramfs.join(KEYS_DIR))?;
        let min_rollback_index = least.max(params.min_rollback_index.unwrap_or(0));
        Ok(Self { keys, image: params.image.clone(), min_rollback_index })
    }

    /// Whether nothing boots unsigned.
    pub fn wants_signatures(&self) -> bool {
        !self.keys.is_empty()
    }

    /// Checks the signature of `document`, which is called `what` in the error.
    pub fn check(
        &self,
        what: &'static str,
        document: &[u8],
        signature: Option<&str>,
    ) -> Result<(), TrustError> {
        verify(document, signature, &self.keys).map_err(|source| TrustError::Signature { what, source })
    }

    /// Checks that the image is the one that is asked for, and not older than it may be.
    pub fn check_image(&self, manifest: &Manifest) -> Result<(), TrustError> {
        if let Some(wanted) = self.image.as_ref().filter(|wanted| **wanted != manifest.image) {
            return Err(TrustError::OtherImage { found: manifest.image.clone(), wanted: wanted.clone() });
        }
        let (found, least) = (manifest.rollback_index, self.min_rollback_index);
        if found >= least {
            return Ok(());
        }
        Err(TrustError::Rollback { image: manifest.image.to_string(), found, least })
    }
}

fn read_keys(dir: &Path) -> Result<Vec<TrustedKey>, TrustError> {
    let unreadable = |source| TrustError::Read { path: dir.to_owned(), source };
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(unreadable(error)),
    };
    entries.map(|entry| read_key(&entry.map_err(unreadable)?.path())).collect()
}

fn read_key(path: &Path) -> Result<TrustedKey, TrustError> {
    let text =
        fs::read_to_string(path).map_err(|source| TrustError::Read { path: path.to_owned(), source })?;
    TrustedKey::parse(&text).map_err(|source| TrustError::Key { path: path.to_owned(), source })
}

fn read_index(path: &Path) -> Result<u64, TrustError> {
    match fs::read_to_string(path) {
        Ok(text) => text.trim_end().parse().map_err(|_| TrustError::Index(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
        Err(source) => Err(TrustError::Read { path: path.to_owned(), source }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "untrusted comment: a key\nRWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3\n";

    fn read(files: &[(&str, &str)], cmdline: &str) -> Result<Trust, TrustError> {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join(KEYS_DIR)).unwrap();
        for (name, contents) in files {
            fs::write(dir.path().join(name), contents).unwrap();
        }
        Trust::read(dir.path(), &BootParams::parse(cmdline).0)
    }

    #[test]
    fn an_initramfs_without_keys_asks_for_no_signature() {
        let trust = Trust::read(Path::new("/nonexistent"), &BootParams::default()).unwrap();
        assert!(!trust.wants_signatures());
        trust.check("the manifest", b"x", None).unwrap();
    }

    #[test]
    fn with_a_key_nothing_unsigned_is_trusted() {
        let trust = read(&[("bootnode/keys/a.pub", KEY)], "").unwrap();
        assert!(trust.wants_signatures());
        let error = trust.check("the manifest", b"x", None).unwrap_err();
        assert_eq!(error.to_string(), "cannot trust the manifest");
    }

    #[test]
    fn a_damaged_key_is_not_passed_over() {
        for damaged in ["", "untrusted comment: a key\n", &KEY[..60], "\0\0\0"] {
            let error = read(&[("bootnode/keys/a.pub", damaged)], "").unwrap_err();
            assert!(error.to_string().contains("a.pub is not usable"), "{damaged:?}: {error}");
        }
    }

    #[test]
    fn the_command_line_raises_the_index_and_never_lowers_it() {
        let least = |file: &str, cmdline: &str| {
            read(&[("bootnode/min-rollback-index", file)], cmdline).unwrap().min_rollback_index
        };
        assert_eq!(least("3\n", ""), 3);
        assert_eq!(least("3\n", "bootnode.min_rollback_index=5"), 5);
        assert_eq!(least("3\n", "bootnode.min_rollback_index=1"), 3);
        assert!(read(&[("bootnode/min-rollback-index", "x")], "").is_err());
    }
}
