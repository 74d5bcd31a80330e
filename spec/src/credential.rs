//! What a node shows to be given its secrets: a file of three lines, made for one boot, that rides in the initramfs.
//!
//! ```text
//! https://192.168.0.1:443/v1/secrets/node-001       where they are
//! 6f1c…                                             the token, 64 hexadecimal digits
//! e3b0…                                             SHA-256 of the certificate that is to be met there
//! ```
//!
//! The certificate is told by its digest, so that it may be one that nobody has signed, and no clock is needed.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use zeroize::Zeroizing;

use crate::Sha256Digest;

/// A longer file is no credential.
pub const MAX_CREDENTIAL_BYTES: u64 = 1024;
/// The answer's header with the signature of the secrets, a file in minisign's format as hexadecimal digits.
pub const SIGNATURE_HEADER: &str = "bootnode-signature";

/// Where secrets are, and what is shown there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credential {
    /// The server.
    pub address: SocketAddr,
    /// What it is asked for, with the slash before it: `/v1/secrets/node-001`.
    pub path: String,
    /// What it is shown.
    pub token: SecretToken,
    /// SHA-256 of the server's own certificate, in DER.
    pub certificate: Sha256Digest,
}

/// A random number of 256 bits that is good for one answer. It is forgotten when it is dropped, and not shown in logs.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretToken(Zeroizing<String>);

/// The bytes are no credential. What was found is not told: it may be most of one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} is missing or malformed: expected {expected}")]
pub struct ParseCredentialError {
    what: &'static str,
    expected: &'static str,
}

const TOKEN_BYTES: usize = 32;

impl SecretToken {
    /// The token of these random bytes.
    pub fn new(bytes: [u8; TOKEN_BYTES]) -> Self {
        Self(Zeroizing::new(hex::encode(bytes)))
    }

    /// As it is shown: 64 hexadecimal digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for SecretToken {
    type Err = ParseCredentialError;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        match s.len() == 2 * TOKEN_BYTES && s.bytes().all(is_digit) {
            true => Ok(Self(Zeroizing::new(s.to_owned()))),
            false => {
                Err(ParseCredentialError { what: "the token", expected: "64 lower-case hexadecimal digits" })
            }
        }
    }
}

impl fmt::Debug for SecretToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretToken")
    }
}

impl Credential {
    /// Reads a file of the initramfs.
    pub fn parse(bytes: &[u8]) -> Result<Self, ParseCredentialError> {
        let text = std::str::from_utf8(bytes).unwrap_or_default();
        let mut lines = text.lines();
        let (address, path) = lines.next().and_then(parse_url).ok_or(ParseCredentialError {
            what: "the URL of the secrets",
            expected: "https://ADDRESS:PORT/PATH",
        })?;
        let token = lines.next().unwrap_or_default().parse()?;
        let certificate = lines.next().and_then(|line| line.parse().ok());
        let certificate = certificate.filter(|_| lines.next().is_none()).ok_or(ParseCredentialError {
            what: "the digest of the certificate",
            expected: "64 hexadecimal digits, and nothing behind them",
        })?;
        Ok(Self { address, path, token, certificate })
    }

    /// The file.
    pub fn to_bytes(&self) -> Zeroizing<Vec<u8>> {
        let Self { address, path, token, certificate } = self;
        Zeroizing::new(format!("https://{address}{path}\n{}\n{certificate}\n", token.as_str()).into_bytes())
    }
}

fn parse_url(line: &str) -> Option<(SocketAddr, String)> {
    let rest = line.strip_prefix("https://")?;
    let (address, path) = rest.split_at(rest.find('/')?);
    let is_plain = path.bytes().all(|byte| byte.is_ascii_graphic());
    is_plain.then_some(()).and_then(|()| Some((address.parse().ok()?, path.to_owned())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const DIGEST: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn text(url: &str, token: &str, digest: &str) -> String {
        format!("{url}\n{token}\n{digest}\n")
    }

    #[test]
    fn a_credential_says_where_to_ask_what_to_show_and_whom_to_expect() {
        let token = "0f".repeat(32);
        let file = text("https://192.168.0.1:8443/v1/secrets/node-001", &token, DIGEST);
        let credential = Credential::parse(file.as_bytes()).unwrap();
        assert_eq!(credential.address.to_string(), "192.168.0.1:8443");
        assert_eq!(credential.path, "/v1/secrets/node-001");
        assert_eq!(credential.token, SecretToken::new([15; 32]));
        assert_eq!(credential.certificate.to_string(), DIGEST);
        assert_eq!(&*credential.to_bytes(), file.as_bytes());
        assert!(!format!("{credential:?}").contains(&token));
    }

    #[test]
    fn what_is_wrong_is_named_and_the_token_is_not_told() {
        let (url, token) = ("https://192.168.0.1:443/x", "0f".repeat(32));
        let check = |file: &str, expected: &str| {
            let error = Credential::parse(file.as_bytes()).unwrap_err().to_string();
            assert!(error.starts_with(expected) && !error.contains("0f0f"), "{error}");
        };
        for url in [
            "",
            "http://192.168.0.1:443/x",
            "https://192.168.0.1/x",
            "https://head:443/x",
            "https://192.168.0.1:443",
        ] {
            check(&text(url, &token, DIGEST), "the URL");
        }
        for token in ["", &token[1..], &token.to_uppercase(), &format!("{token} ")] {
            check(&text(url, token, DIGEST), "the token");
        }
        for digest in ["", "e3", &format!("{DIGEST}\nmore")] {
            check(&text(url, &token, digest), "the digest");
        }
    }

    proptest! {
        #[test]
        fn a_credential_round_trips(token: [u8; 32], digest: [u8; 32], address: [u8; 4], port: u16, path in "/[!-~]{0,40}") {
            let credential = Credential {
                address: SocketAddr::from((address, port)),
                path,
                token: SecretToken::new(token),
                certificate: Sha256Digest::new(digest),
            };
            prop_assert_eq!(Credential::parse(&credential.to_bytes()), Ok(credential));
        }

        #[test]
        fn any_bytes_are_a_credential_or_none(bytes: Vec<u8>, text in "(https://[0-9.:/a]{0,20}\n)?([0-9a-f]{64}\n){0,3}") {
            let _ = Credential::parse(&bytes);
            let _ = Credential::parse(text.as_bytes());
        }
    }
}
