//! A new pair of keys.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use minisign::KeyPair;

use super::SigningError;
use super::trust::{key_id, read_key};
use crate::file_error::{FileError, failed};

const PUBLIC: &str = "bootnode.pub";
const SECRET: &str = "bootnode.key";
const SECRET_MODE: u32 = 0o600;
const PUBLIC_MODE: u32 = 0o644;

/// Where the new keys are.
#[derive(Clone, Debug)]
pub struct KeyFiles {
    /// Id of the pair.
    pub id: String,
    /// For everybody.
    pub public: PathBuf,
    /// For who signs.
    pub secret: PathBuf,
}

/// Makes a pair in `dir`, which is made if need be. Existing keys are never overwritten.
pub fn keygen(dir: &Path, password: Option<String>) -> Result<KeyFiles, SigningError> {
    check_no_keys(dir)?;
    let (public, secret) = (dir.join(PUBLIC), dir.join(SECRET));
    let crypto = |source| SigningError::Crypto { what: "a pair of keys", source };
    let pair = match password {
        Some(password) => KeyPair::generate_encrypted_keypair(Some(password)),
        None => KeyPair::generate_unencrypted_keypair(),
    };
    let pair = pair.map_err(crypto)?;
    let id = key_id(&pair.pk);
    let public_text = pair.pk.to_box().map_err(crypto)?.into_string();
    let comment = format!("bootnode secret key {id}");
    let secret_text = pair.sk.to_box(Some(&comment)).map_err(crypto)?.into_string();
    fs::create_dir_all(dir).map_err(failed("create", dir))?;
    write_new(&secret, SECRET_MODE, &secret_text)?;
    if let Err(error) = write_new(&public, PUBLIC_MODE, &public_text) {
        // A secret key whose public key nobody has is of no use.
        fs::remove_file(&secret).map_err(failed("remove", &secret))?;
        return Err(error.into());
    }
    Ok(KeyFiles { id, public, secret })
}

/// Checks that there are no keys in `dir`. The one that is there is named, if it can be read.
pub fn check_no_keys(dir: &Path) -> Result<(), SigningError> {
    let (public, secret) = (dir.join(PUBLIC), dir.join(SECRET));
    let existing = [&secret, &public].into_iter().find(|path| path.symlink_metadata().is_ok()).cloned();
    let Some(path) = existing else { return Ok(()) };
    let found = match read_key(&public) {
        Ok((id, _)) => format!("key {id}"),
        Err(_) => "no public key that could be read".to_owned(),
    };
    Err(SigningError::KeyExists { path, public, found })
}

fn write_new(path: &Path, mode: u32, text: &str) -> Result<(), FileError> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)
        .map_err(failed("create", path))?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(failed("write", path))
}
