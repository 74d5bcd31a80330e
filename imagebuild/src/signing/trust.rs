//! What an initramfs asks of an image before it boots it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use bootspec::initramfs::{KEYS_DIR, MIN_ROLLBACK_INDEX};
use bootspec::signature::TrustedKey;
use minisign::{PublicKey, PublicKeyBox};

use super::SigningError;
use crate::file_error::failed;

/// Keys, one of which must have signed, and the least rollback index.
#[derive(Clone, Debug, Default)]
pub struct Trust {
    /// The text of each key's file, by the key's id.
    keys: BTreeMap<String, String>,
    /// Images below this index do not boot.
    pub min_rollback_index: Option<u64>,
}

impl Trust {
    /// Reads public key files of minisign. The same key twice is one key.
    pub fn read(files: &[PathBuf], min_rollback_index: Option<u64>) -> Result<Self, SigningError> {
        let keys = files.iter().map(|path| read_key(path)).collect::<Result<_, _>>()?;
        Ok(Self { keys, min_rollback_index })
    }

    /// Ids of the keys, sorted.
    pub fn ids(&self) -> Vec<String> {
        self.keys.keys().cloned().collect()
    }

    /// The files of an initramfs that say all this to init: paths and contents.
    pub fn members(&self) -> Vec<(String, String)> {
        let key = |(id, text): (&String, &String)| (format!("{KEYS_DIR}/{id}.pub"), text.clone());
        let index =
            self.min_rollback_index.map(|index| (MIN_ROLLBACK_INDEX.to_owned(), format!("{index}\n")));
        self.keys.iter().map(key).chain(index).collect()
    }

    /// The keys as init reads them.
    pub fn trusted_keys(&self) -> Vec<TrustedKey> {
        let parse =
            |text: &String| TrustedKey::parse(text).expect("it was written by the program that reads it");
        self.keys.values().map(parse).collect()
    }
}

/// A key's id, and its file as we write it.
pub(super) fn read_key(path: &Path) -> Result<(String, String), SigningError> {
    let text = fs::read_to_string(path).map_err(failed("read", path))?;
    let not_a_key = |source| SigningError::Key { path: path.to_owned(), kind: "public", source };
    let key = PublicKeyBox::from_string(&text).and_then(PublicKeyBox::into_public_key).map_err(not_a_key)?;
    let text = key.to_box().map_err(not_a_key)?.into_string();
    Ok((key_id(&key), text))
}

/// The id of a key pair.
pub(super) fn key_id(key: &PublicKey) -> String {
    id_text(key.keynum())
}

/// An id as minisign prints it: a little-endian number in hexadecimal.
pub(super) fn id_text(id: &[u8]) -> String {
    id.iter().rev().map(|byte| format!("{byte:02X}")).collect()
}
