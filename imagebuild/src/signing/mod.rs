//! Signatures in the format of minisign(1): who may say what a node boots.
//!
//! An image is signed as it is published: its manifest in the store, and the one that rides in the initramfs. The
//! manifests hold the digests of everything else. The public keys ride in the initramfs; with a key there, init boots
//! nothing that none of the keys has signed.

mod keygen;
mod signer;
mod trust;

use std::io;
use std::path::{Path, PathBuf};

use bootspec::manifest::BootMode;
use bootspec::store::SIGNATURE_SUFFIX;

use crate::file_error::{FileError, failed};

pub use keygen::{KeyFiles, check_no_keys, keygen};
pub use signer::{Signer, ask_new_password, ask_password};
pub use trust::Trust;

/// How an image is signed, and what its initramfs trusts.
#[derive(Default)]
pub struct Signing {
    /// Signs the manifests, if they are to be signed.
    pub signer: Option<Signer>,
    /// What the initramfs asks of an image.
    pub trust: Trust,
}

/// Signing is not possible, or would give an image that does not boot.
#[derive(Debug, thiserror::Error)]
pub enum SigningError {
    /// A file cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// A file is not a key.
    #[error("{} is not a {kind} key of minisign\nhint: `imagebuild key new` makes a pair", path.display())]
    Key {
        /// Which file.
        path: PathBuf,
        /// `public` or `secret`.
        kind: &'static str,
        /// Why not.
        #[source]
        source: minisign::PError,
    },
    /// There are keys already where new ones were to be.
    #[error(
        "cannot make keys: {} exists already, and {} holds {found}\nhint: keys are never overwritten, since nodes that trust a key boot nothing that another has signed\nhint: sign with the key that is there (--sign-key), or make a new pair in another directory (--out)",
        path.display(),
        public.display()
    )]
    KeyExists {
        /// The file that is in the way.
        path: PathBuf,
        /// Where the public key would be.
        public: PathBuf,
        /// What is there.
        found: String,
    },
    /// The password for a key cannot be asked for.
    #[error("cannot ask for the password of {}\nhint: run it on a terminal, or make a key without a password", path.display())]
    Prompt {
        /// Which key.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The password for a new key cannot be asked for.
    #[error("cannot ask for a password\nhint: run it on a terminal, or make a key without a password")]
    NewPassword(#[source] io::Error),
    /// The cryptography failed.
    #[error("cannot make {what}")]
    Crypto {
        /// What was to be made.
        what: &'static str,
        /// Why not.
        #[source]
        source: minisign::PError,
    },
    /// The two entries differ.
    #[error("the two passwords differ: no key was made")]
    PasswordsDiffer,
    /// No initramfs of this image would accept its signature.
    #[error(
        "the image would be signed with key {signer}, and its initramfs would trust only {}: no node would boot it\nhint: give the public key of {signer} with --trust as well, or sign with another key",
        keys(trusted)
    )]
    Untrusted {
        /// Id of the key that signs.
        signer: String,
        /// Ids of the keys that are trusted.
        trusted: Vec<String>,
    },
    /// A carried manifest can be signed only as it is made.
    #[error(
        "the image would not be signed, and its initramfs would boot only what {} has signed: no node would boot it\nhint: give the secret key with --sign-key",
        keys(trusted)
    )]
    Unsigned {
        /// Ids of the keys that are trusted.
        trusted: Vec<String>,
    },
    /// The initramfs would refuse the image that it was made for.
    #[error(
        "the image has rollback index {index}, and its initramfs would boot {least} and above: no node would boot it\nhint: set [boot] rollback_index = {least} in the recipe, or lower --min-rollback-index"
    )]
    RolledBack {
        /// The image's index.
        index: u64,
        /// What the initramfs would ask for.
        least: u64,
    },
}

fn keys(ids: &[String]) -> String {
    match ids {
        [id] => format!("key {id}"),
        ids => format!("keys {}", ids.join(", ")),
    }
}

impl Signing {
    /// Fails if no node would boot the image that these make. Only a fetched image may be signed later.
    pub fn check(&self, mode: BootMode, rollback_index: u64) -> Result<(), SigningError> {
        let trusted = self.trust.ids();
        match &self.signer {
            Some(signer) if !trusted.is_empty() && !trusted.contains(&signer.id()) => {
                return Err(SigningError::Untrusted { signer: signer.id(), trusted });
            }
            None if !trusted.is_empty() && mode != BootMode::Fetched => {
                return Err(SigningError::Unsigned { trusted });
            }
            _ => {}
        }
        match self.trust.min_rollback_index {
            Some(least) if rollback_index < least => {
                Err(SigningError::RolledBack { index: rollback_index, least })
            }
            _ => Ok(()),
        }
    }
}

/// The id of the key that a signature says it is by. That is to be shown; it proves nothing.
pub fn key_id_of(signature: &str) -> Option<String> {
    let signature = minisign::SignatureBox::from_string(signature).ok()?;
    Some(trust::id_text(signature.keynum()))
}

/// Where the signature of `file` is: beside it, as minisign has it.
pub fn signature_path(file: &Path) -> PathBuf {
    let mut path = file.as_os_str().to_owned();
    path.push(SIGNATURE_SUFFIX);
    path.into()
}

/// Signs `file` as it is now and returns where the signature is. An older signature is replaced.
pub fn sign_file(file: &Path, signer: &Signer, time_unix: i64) -> Result<PathBuf, SigningError> {
    let document = std::fs::read(file).map_err(failed("read", file))?;
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let signature = signer.sign(&document, &format!("timestamp:{time_unix}\tfile:{name}"))?;
    let path = signature_path(file);
    std::fs::write(&path, signature).map_err(failed("write", &path))?;
    Ok(path)
}

#[cfg(test)]
mod tests;
