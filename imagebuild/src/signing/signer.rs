//! A secret key at work.

use std::fs;
use std::io;
use std::path::Path;

use ct_codecs::{Base64, Decoder};
use minisign::{PublicKey, SecretKey, SecretKeyBox};

use super::SigningError;
use super::trust::key_id;
use crate::file_error::failed;

/// How the key of a file begins that has a password: `Ed`, `Sc` and `B2`, the names of its algorithms, in base64.
const WITH_PASSWORD: &str = "RWRTY0Iy";
/// The same without a password: the second name is two zeros.
const WITHOUT_PASSWORD: &str = "RWQAAEIy";
/// Length of the checksum at the end of a key.
const CHECKSUM_BYTES: usize = 32;

/// minisign up to 0.11 leaves the checksum of keys without a password empty, and the crate takes that for damage.
fn without_checksum(key: &str) -> Option<SecretKey> {
    let bytes = Base64::decode_to_vec(key, None).ok()?;
    let checksum = bytes.get(bytes.len().checked_sub(CHECKSUM_BYTES)?..)?;
    let is_empty = checksum.iter().all(|byte| *byte == 0);
    (key.starts_with(WITHOUT_PASSWORD) && is_empty).then_some(())?;
    SecretKey::from_bytes(&bytes).ok()
}

/// Signs with a secret key. There is no `Debug`, since that would print the key.
pub struct Signer {
    secret: SecretKey,
    public: PublicKey,
}

impl Signer {
    /// Reads a secret key file of minisign. `ask_password` is called with its path if it has a password.
    pub fn read(
        path: &Path,
        ask_password: impl FnOnce(&Path) -> Result<String, SigningError>,
    ) -> Result<Self, SigningError> {
        let text = fs::read_to_string(path).map_err(failed("read", path))?;
        let not_a_key = |source| SigningError::Key { path: path.to_owned(), kind: "secret", source };
        let key = text.lines().nth(1).unwrap_or_default();
        let secret = if key.starts_with(WITH_PASSWORD) {
            let password = ask_password(path)?;
            SecretKeyBox::from_string(&text).and_then(|key| key.into_secret_key(Some(password)))
        } else if let Some(secret) = without_checksum(key) {
            Ok(secret)
        } else {
            SecretKeyBox::from_string(&text).and_then(SecretKeyBox::into_unencrypted_secret_key)
        };
        let secret = secret.map_err(not_a_key)?;
        let public = PublicKey::from_secret_key(&secret).map_err(not_a_key)?;
        // Fails if the secret half does not belong to the public one.
        minisign::sign(Some(&public), &secret, io::empty(), None, None).map_err(not_a_key)?;
        Ok(Self { secret, public })
    }

    /// The signature of `document`, as the text of a file. Whoever trusts the key can trust `comment` too.
    pub fn sign(&self, document: &[u8], comment: &str) -> Result<String, SigningError> {
        let untrusted = format!("signature by bootnode key {}", self.id());
        minisign::sign(Some(&self.public), &self.secret, document, Some(comment), Some(&untrusted))
            .map(minisign::SignatureBox::into_string)
            .map_err(|source| SigningError::Crypto { what: "a signature", source })
    }

    /// The id of the key pair, as minisign prints it.
    pub fn id(&self) -> String {
        key_id(&self.public)
    }
}

/// Asks on the terminal for the password of the key at `path`.
pub fn ask_password(path: &Path) -> Result<String, SigningError> {
    rpassword::prompt_password(format!("Password of {}: ", path.display()))
        .map_err(|source| SigningError::Prompt { path: path.to_owned(), source })
}

/// Asks on the terminal, twice, for the password of a key that is to be made.
pub fn ask_new_password() -> Result<String, SigningError> {
    let ask = |text| rpassword::prompt_password(text).map_err(SigningError::NewPassword);
    let password = ask("Password of the new key: ")?;
    if ask("Once more: ")? == password { Ok(password) } else { Err(SigningError::PasswordsDiffer) }
}
