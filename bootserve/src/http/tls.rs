//! TLS: a certificate and its key as PEM files.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use bootspec::Sha256Digest;
use sha2::{Digest, Sha256};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::{self, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::{ClientHello, ResolvesServerCert};
use tokio_rustls::rustls::sign::CertifiedKey;
use tokio_rustls::rustls::{self, ServerConfig};

use crate::config::Tls;

/// TLS cannot be spoken.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("cannot read {}\nhint: tls.certificate and tls.key name PEM files", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: pem::Error,
    },
    /// There is nothing in it.
    #[error("{} holds no certificate", path.display())]
    NoCertificate {
        /// Which.
        path: PathBuf,
    },
    /// The two do not belong together, or are of a kind that is not supported.
    #[error("cannot use the certificate {} with the key {}", certificate.display(), key.display())]
    Pair {
        /// The one file.
        certificate: PathBuf,
        /// The other.
        key: PathBuf,
        /// Why.
        #[source]
        source: rustls::Error,
    },
}

impl TlsError {
    /// Whether another user might read the file.
    pub fn is_permission(&self) -> bool {
        let Self::Read { source: pem::Error::Io(error), .. } = self else { return false };
        error.kind() == std::io::ErrorKind::PermissionDenied
    }
}

/// The certificate that clients are shown, with its key. It may be renewed while we serve.
#[derive(Debug)]
pub struct Certificate(ArcSwap<CertifiedKey>);

impl Certificate {
    /// Reads the files that `tls` names.
    pub fn read(tls: &Tls) -> Result<Self, TlsError> {
        Ok(Self(ArcSwap::from_pointee(certified_key(tls, read_chain(tls)?)?)))
    }

    /// Reads the files again, the key only if the certificate is another one.
    pub fn renew(&self, tls: &Tls) -> Result<(), TlsError> {
        let chain = read_chain(tls)?;
        if chain != self.0.load().cert {
            self.0.store(Arc::new(certified_key(tls, chain)?));
        }
        Ok(())
    }

    /// SHA-256 of the certificate itself, without those that vouch for it.
    pub fn digest(&self) -> Sha256Digest {
        let shown = self.0.load();
        let own = shown.cert.first().expect("a chain that was read is not empty");
        Sha256Digest::new(Sha256::digest(own).into())
    }

    /// What speaks TLS with it.
    pub fn acceptor(self: Arc<Self>) -> Result<TlsAcceptor, rustls::Error> {
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(self);
        Ok(TlsAcceptor::from(Arc::new(config)))
    }
}

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load_full())
    }
}

fn read_chain(Tls { certificate, .. }: &Tls) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let chain = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(unreadable(certificate))?;
    match chain.is_empty() {
        true => Err(TlsError::NoCertificate { path: certificate.clone() }),
        false => Ok(chain),
    }
}

fn certified_key(tls: &Tls, chain: Vec<CertificateDer<'static>>) -> Result<CertifiedKey, TlsError> {
    let Tls { certificate, key, .. } = tls;
    let private = PrivateKeyDer::from_pem_file(key).map_err(unreadable(key))?;
    let pair = |source| TlsError::Pair { certificate: certificate.clone(), key: key.clone(), source };
    CertifiedKey::from_der(chain, private, &ring::default_provider()).map_err(pair)
}

fn unreadable(path: &Path) -> impl Fn(pem::Error) -> TlsError {
    move |source| TlsError::Read { path: path.to_owned(), source }
}
