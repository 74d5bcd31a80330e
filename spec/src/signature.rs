//! Signatures of manifests: Ed25519 in the format of minisign(1), so that keys and signatures can be made and checked with
//! that program too.

use minisign_verify::{Error, PublicKey, Signature};

/// A public key that signs what may boot.
#[derive(Clone, Debug)]
pub struct TrustedKey(PublicKey);

/// The text is not a public key.
#[derive(Debug, thiserror::Error)]
#[error("it is not a public key of minisign: {0}")]
pub struct KeyError(Error);

impl TrustedKey {
    /// Reads a public key file: an untrusted comment, then the key in base64.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        PublicKey::decode(text.trim_end()).map(Self).map_err(KeyError)
    }
}

/// The signature does not make the document trusted.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// There is no signature, and a key asks for one.
    #[error(
        "it is not signed, and only what one of the trusted keys has signed is accepted (there are {keys})"
    )]
    Missing {
        /// How many keys there are.
        keys: usize,
    },
    /// The text is not a signature.
    #[error("its signature is malformed")]
    Malformed,
    /// It is by a trusted key, and not of the document's hash.
    #[error("its signature is in minisign's legacy format, which is not accepted: sign it again, without -l")]
    Legacy,
    /// No key has made the signature, or not of this document.
    #[error("its signature is by none of the trusted keys (there are {keys}), or of another document")]
    Wrong {
        /// How many keys there are.
        keys: usize,
    },
}

/// Checks that one of `keys` has signed `document`. Without keys, everything is trusted.
pub fn verify(document: &[u8], signature: Option<&str>, keys: &[TrustedKey]) -> Result<(), SignatureError> {
    if keys.is_empty() {
        return Ok(());
    }
    let text = signature.ok_or(SignatureError::Missing { keys: keys.len() })?;
    let signature = Signature::decode(text.trim_end()).map_err(|_| SignatureError::Malformed)?;
    let mut problem = SignatureError::Wrong { keys: keys.len() };
    for key in keys {
        match key.0.verify(document, &signature, false) {
            Ok(()) => return Ok(()),
            // Of the whole document instead of its hash: what minisign made before 2020, and none of ours.
            Err(Error::UnexpectedAlgorithm) => problem = SignatureError::Legacy,
            Err(_) => {}
        }
    }
    Err(problem)
}

#[cfg(test)]
mod tests {
    use super::*;
    use minisign::KeyPair;
    use proptest::prelude::*;

    fn sign(pair: &KeyPair, document: &[u8]) -> String {
        minisign::sign(Some(&pair.pk), &pair.sk, document, None, None).unwrap().into_string()
    }

    fn trusted(pair: &KeyPair) -> TrustedKey {
        TrustedKey::parse(&pair.pk.to_box().unwrap().into_string()).unwrap()
    }

    #[test]
    fn one_of_several_keys_is_enough() {
        let (ours, other) = (
            KeyPair::generate_unencrypted_keypair().unwrap(),
            KeyPair::generate_unencrypted_keypair().unwrap(),
        );
        let keys = [trusted(&other), trusted(&ours)];
        assert_eq!(verify(b"manifest", Some(&sign(&ours, b"manifest")), &keys), Ok(()));
        assert_eq!(
            verify(b"manifesto", Some(&sign(&ours, b"manifest")), &keys),
            Err(SignatureError::Wrong { keys: 2 })
        );
        assert_eq!(
            verify(b"manifest", Some(&sign(&ours, b"manifest")), &keys[..1]),
            Err(SignatureError::Wrong { keys: 1 })
        );
    }

    #[test]
    fn with_a_key_nothing_unsigned_is_trusted_and_without_one_all_is() {
        let keys = [trusted(&KeyPair::generate_unencrypted_keypair().unwrap())];
        assert_eq!(verify(b"x", None, &keys), Err(SignatureError::Missing { keys: 1 }));
        assert_eq!(verify(b"x", Some("junk"), &keys), Err(SignatureError::Malformed));
        assert_eq!(verify(b"x", None, &[]), Ok(()));
    }

    /// The key and the legacy signature of `test` with which minisign-verify tests itself.
    const KEY: &str = "untrusted comment: a key\nRWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3";
    const LEGACY: &str = "untrusted comment: signature from minisign secret key
RWQf6LRCGA9i59SLOFxz6NxvASXDJeRtuZykwQepbDEGt87ig1BNpWaVWuNrm73YiIiJbq71Wi+dP9eKL8OC351vwIasSSbXxwA=
trusted comment: timestamp:1555779966\tfile:test
QtKMXWyYcwdpZAlPF7tE2ENJkRd1ujvKjlj1m9RtHTBnZPa5WKU5uWRs5GoP5M/VqE81QFuMKI5k/SfNQUaOAA==";

    #[test]
    fn a_legacy_signature_is_called_so_where_its_key_is_trusted() {
        let (key, other) =
            (TrustedKey::parse(KEY).unwrap(), trusted(&KeyPair::generate_unencrypted_keypair().unwrap()));
        let verify = |keys: &[TrustedKey]| verify(b"test", Some(LEGACY), keys);
        assert_eq!(verify(std::slice::from_ref(&key)), Err(SignatureError::Legacy));
        assert_eq!(verify(&[key, other.clone()]), Err(SignatureError::Legacy));
        assert_eq!(verify(&[other]), Err(SignatureError::Wrong { keys: 1 }));
    }

    proptest! {
        #[test]
        fn any_text_is_a_key_or_none_without_panic(text in "\\PC{0,200}") {
            let _ = TrustedKey::parse(&text);
            let _ = TrustedKey::parse(&format!("untrusted comment: x\n{text}"));
        }

        #[test]
        fn any_signature_is_refused_without_panic(text in "(untrusted comment: .{0,9}\n)?[A-Za-z0-9+/=]{0,120}\n(trusted comment: .{0,9}\n)?[A-Za-z0-9+/=]{0,100}") {
            let keys = [trusted(&KeyPair::generate_unencrypted_keypair().unwrap())];
            prop_assert!(verify(b"x", Some(&text), &keys).is_err());
        }
    }
}
