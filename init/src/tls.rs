//! TLS 1.3 to one server, which is known by the SHA-256 of its certificate (RFC 8446).
//!
//! Nobody else has to vouch for the certificate, and its dates are not looked at: the machine's clock may be anything.

use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

use bootspec::Sha256Digest;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, ring, verify_tls12_signature, verify_tls13_signature,
};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, ClientConnection, DigitallySignedStruct, OtherError, SignatureScheme,
    StreamOwned, version,
};
use sha2::{Digest, Sha256};

/// A connection that the handshake is done on.
pub type TlsStream = StreamOwned<ClientConnection, TcpStream>;

/// TLS does not come about.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// Somebody else answers.
    #[error(transparent)]
    Certificate(#[from] OtherCertificate),
    /// The handshake fails, or the connection breaks.
    #[error("cannot speak TLS")]
    Handshake(#[source] std::io::Error),
    /// The connection cannot be set up.
    #[error("cannot begin TLS")]
    Begin(#[source] rustls::Error),
}

/// The server is not the one that was expected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the server's certificate has SHA-256 {found}, expected {expected}")]
pub struct OtherCertificate {
    /// That of the certificate that it showed.
    pub found: Sha256Digest,
    /// That which the boot server named.
    pub expected: Sha256Digest,
}

/// Does the handshake with the server at `address` on `socket`, whose certificate is to have this digest.
pub fn connect(
    mut socket: TcpStream,
    address: SocketAddr,
    certificate: Sha256Digest,
) -> Result<TlsStream, TlsError> {
    let provider = Arc::new(ring::default_provider());
    let verifier = Pinned { certificate, provider: Arc::clone(&provider) };
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&version::TLS13])
        .map_err(TlsError::Begin)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    let name = ServerName::from(address.ip());
    let mut connection = ClientConnection::new(Arc::new(config), name).map_err(TlsError::Begin)?;
    while connection.is_handshaking() {
        connection.complete_io(&mut socket).map_err(handshake_error)?;
    }
    Ok(StreamOwned::new(connection, socket))
}

/// What our verifier said, if it was that.
fn handshake_error(error: std::io::Error) -> TlsError {
    let said = error.get_ref().and_then(|inner| match inner.downcast_ref()? {
        rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(said))) => {
            said.downcast_ref::<OtherCertificate>()
        }
        _ => None,
    });
    match said {
        Some(said) => said.clone().into(),
        None => TlsError::Handshake(error),
    }
}

/// Believes whoever has the key of one certificate.
#[derive(Debug)]
struct Pinned {
    certificate: Sha256Digest,
    provider: Arc<CryptoProvider>,
}

impl Pinned {
    fn algorithms(&self) -> &WebPkiSupportedAlgorithms {
        &self.provider.signature_verification_algorithms
    }
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        shown: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let found = Sha256Digest::new(Sha256::digest(shown).into());
        if found == self.certificate {
            return Ok(ServerCertVerified::assertion());
        }
        let error = OtherCertificate { found, expected: self.certificate };
        Err(CertificateError::Other(OtherError(Arc::new(error))).into())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, self.algorithms())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, self.algorithms())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms().supported_schemes()
    }
}
