//! The node's secrets: files that are handed out once a boot, over TLS, against a token that was made for this boot.
//!
//! The token rides in the initramfs ([`bootspec::credential`]) and is taken out of it before anything else is done, so that
//! nothing that runs later finds it. The answer is a tar that is laid over the root, above the node's overlay. bootserve gives
//! it once: where the answer is lost on its way, the boot has failed, and the next one has a token of its own.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use bootspec::cmdline::BootParams;
use bootspec::credential::{Credential, MAX_CREDENTIAL_BYTES, ParseCredentialError};
use bootspec::diagnosis::explain;
use bootspec::initramfs::{CREDENTIAL, MAX_OVERLAY_BYTES};
use zeroize::Zeroizing;

use crate::fetch::{Failure, Next, PATIENCE, Patience, Retry, TIMEOUTS};
use crate::http::{HttpError, Request, Url, send_private};
use crate::jitter::jitter;
use crate::kmsg;
use crate::node_overlay::NodeOverlay;
use crate::tls::{OtherCertificate, TlsError};
use crate::trust::{Trust, TrustError};

/// What they are called.
const SECRETS_OF_NODE: &str = "the node's secrets";
/// Statuses that say "later", as for files.
const LATER: [u16; 3] = [408, 425, 429];

/// The node's secrets cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum SecretsError {
    /// The credential cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// Its file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// It is none.
    #[error("cannot use the credential of this boot")]
    Credential(#[from] ParseCredentialError),
    /// The image is carried, and the network is not up.
    #[error("the node has secrets, and an image that the initramfs carries is booted without network")]
    NoNetwork,
    /// bootserve does not give them.
    #[error("{address} does not give the node's secrets: HTTP status {status}")]
    Refused {
        /// The server.
        address: std::net::SocketAddr,
        /// What it answered.
        status: u16,
    },
    /// Somebody else answers.
    #[error("cannot fetch the node's secrets")]
    Certificate(#[source] OtherCertificate),
    /// The answer is not what it should be.
    #[error("cannot use the answer with the node's secrets: {0}")]
    Answer(&'static str),
    /// There was no answer for too long.
    #[error("the node's secrets did not come for {} s: {last}", patience.as_secs())]
    GivenUp {
        /// How long we waited.
        patience: Duration,
        /// The last failure.
        last: String,
    },
    /// They may not be used.
    #[error(transparent)]
    Trust(#[from] TrustError),
}

/// The file that a boot server has added to the initramfs for this boot.
pub type CredentialFile = Zeroizing<Vec<u8>>;

/// Takes the credential out of the initramfs, if there is one.
pub fn take(initramfs: &Path) -> Result<Option<CredentialFile>, SecretsError> {
    let path = initramfs.join(CREDENTIAL);
    let failed = |source| SecretsError::Read { path: path.clone(), source };
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    fs::remove_file(&path).map_err(failed)?;
    // With room for all of it: a buffer that grows would leave copies behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_CREDENTIAL_BYTES as usize + 1));
    file.take(MAX_CREDENTIAL_BYTES + 1).read_to_end(&mut bytes).map_err(failed)?;
    Ok(Some(bytes))
}

/// Fetches what the credential is good for, if there is one.
pub fn fetch(
    file: Option<CredentialFile>,
    params: &BootParams,
    trust: &Trust,
) -> Result<Option<NodeOverlay>, SecretsError> {
    let Some(file) = file else { return Ok(None) };
    let credential = Credential::parse(&file)?;
    let patience = Patience { give_up: params.fetch_timeout.unwrap_or(PATIENCE.give_up), ..PATIENCE };
    let (tar, signature) = ask_until_answered(&credential, patience)?;
    Ok(Some(NodeOverlay::verify(SECRETS_OF_NODE, tar, signature.as_deref(), trust)?))
}

type Answer = (Vec<u8>, Option<Vec<u8>>);

fn ask_until_answered(credential: &Credential, patience: Patience) -> Result<Answer, SecretsError> {
    let mut retry = Retry::new(1, patience, Instant::now());
    loop {
        let failure = match ask(credential)? {
            Ok(answer) => return Ok(answer),
            Err(failure) => failure,
        };
        match retry.failed(failure.clone(), Instant::now(), jitter()) {
            Next::Try(pause) => {
                let (Failure::Disturbed(message, _) | Failure::Refused(message)) = failure;
                kmsg::warn(&format!("{message}; trying again in {} ms", pause.as_millis()));
                sleep(pause);
            }
            Next::GiveUp(last) | Next::Refused(last) => {
                return Err(SecretsError::GivenUp { patience: patience.give_up, last });
            }
        }
    }
}

/// Asks once. What asking again cannot help ends the boot.
fn ask(credential: &Credential) -> Result<Result<Answer, Failure>, SecretsError> {
    let Credential { address, path, token, certificate } = credential;
    let url = Url::at(*address, path.clone());
    let disturbed = |error: &HttpError| Ok(Err(Failure::Disturbed(explain(error), None)));
    let response = match send_private(&url, *certificate, Request::GetSecret(token), TIMEOUTS) {
        Ok(response) => response,
        Err(HttpError::Tls { source: TlsError::Certificate(other), .. }) => {
            return Err(SecretsError::Certificate(other));
        }
        Err(error) => return disturbed(&error),
    };
    let status = response.status;
    if status >= 500 || LATER.contains(&status) {
        let message = format!("{address}: HTTP status {status}");
        return Ok(Err(Failure::Disturbed(message, response.retry_after)));
    }
    if status != 200 {
        return Err(SecretsError::Refused { address: *address, status });
    }
    if response.length > MAX_OVERLAY_BYTES {
        return Err(SecretsError::Answer("it has more than 64 MiB"));
    }
    let signature = response.signature.as_deref().map(hex::decode).transpose();
    let signature = signature.map_err(|_| SecretsError::Answer("its signature is not hexadecimal"))?;
    match response.read_all(MAX_OVERLAY_BYTES) {
        Ok(tar) => Ok(Ok((tar, signature))),
        Err(error) => disturbed(&error),
    }
}

#[cfg(test)]
mod tests;
