//! The key that overlays which are made of templates are signed with, since there is no file that someone could have signed before.
//!
//! It lies on the boot server, so who takes that over can have nodes accept files of his own; docs/overlays.md says when it is worth
//! that, and how overlays are signed elsewhere.

use std::path::{Path, PathBuf};
use std::{fs, io};

use bootspec::store::NodeName;
use minisign::{PError, PublicKey, SecretKeyBox};

/// A larger file is no key.
const MAX_KEY_BYTES: u64 = 4096;

/// Nothing can be signed.
#[derive(Debug, thiserror::Error)]
pub enum SignerError {
    /// The key cannot be read.
    #[error("cannot read the key {}\nhint: server.overlay_key names it, and server.user must be able to read it", path.display())]
    Read {
        /// Its file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It is no key, or has a password.
    #[error("cannot sign with {}\nhint: server.overlay_key is a secret key without a password, of imagebuild key new", path.display())]
    Key {
        /// Its file.
        path: PathBuf,
        /// Why.
        #[source]
        source: PError,
    },
}

/// The signature of `document`, the overlay of `node`, in minisign's format.
pub fn sign(key: &Path, node: &NodeName, document: &[u8]) -> Result<Vec<u8>, SignerError> {
    let text = read_key(key).map_err(|source| SignerError::Read { path: key.to_owned(), source })?;
    let signed = SecretKeyBox::from_string(&text)
        .and_then(SecretKeyBox::into_unencrypted_secret_key)
        .and_then(|secret| {
            let public = PublicKey::from_secret_key(&secret)?;
            let comment = format!("overlay of {node}");
            minisign::sign(Some(&public), &secret, document, Some(&comment), Some("signature by bootserve"))
        });
    let signature = signed.map_err(|source| SignerError::Key { path: key.to_owned(), source })?;
    Ok(signature.into_string().into_bytes())
}

fn read_key(path: &Path) -> io::Result<String> {
    match fs::metadata(path)? {
        file if !file.is_file() || file.len() > MAX_KEY_BYTES => Err(io::ErrorKind::InvalidData.into()),
        _ => fs::read_to_string(path),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use minisign::{KeyPair, SignatureBox};

    /// Writes a key without a password to `path`.
    pub fn write_key(path: &Path) -> PublicKey {
        let KeyPair { pk, sk } = KeyPair::generate_unencrypted_keypair().unwrap();
        fs::write(path, sk.to_box(None).unwrap().into_string()).unwrap();
        pk
    }

    #[test]
    fn what_is_signed_is_verified() {
        let dir = tempfile::tempdir().unwrap();
        let (path, node) = (dir.path().join("key"), "n1".parse().unwrap());
        let public = write_key(&path);
        let signature = sign(&path, &node, b"tar").unwrap();
        let text = String::from_utf8(signature).unwrap();
        assert!(text.contains("trusted comment: overlay of n1\n"), "{text}");
        let signature_box = SignatureBox::from_string(&text).unwrap();
        minisign::verify(&public, &signature_box, std::io::Cursor::new(b"tar"), true, false, false).unwrap();
    }

    #[test]
    fn a_file_that_is_no_key_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let (path, node) = (dir.path().join("key"), "n1".parse().unwrap());
        assert!(sign(&path, &node, b"").unwrap_err().to_string().contains("cannot read the key"));
        for text in ["", "untrusted comment: x\nnot base64\n", "x\nRWRTY0Iy\n", "ä"] {
            fs::write(&path, text).unwrap();
            assert!(sign(&path, &node, b"").unwrap_err().to_string().contains("cannot sign with"), "{text}");
        }
        fs::write(&path, vec![b'x'; 5000]).unwrap();
        assert!(sign(&path, &node, b"").unwrap_err().to_string().contains("cannot read the key"));
    }
}
