use super::*;
use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::JoinHandle;

use bootspec::Sha256Digest;
use bootspec::credential::SecretToken;
use rcgen::{CertifiedKey, KeyPair, generate_simple_self_signed};
use rustls::pki_types::PrivateKeyDer;
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use sha2::{Digest, Sha256};

const SHORT: Patience = Patience {
    first_pause: Duration::from_millis(5),
    max_pause: Duration::from_millis(5),
    give_up: Duration::from_millis(200),
};

fn certificate() -> CertifiedKey<KeyPair> {
    generate_simple_self_signed(["192.0.2.1".to_owned()]).unwrap()
}

fn digest(pair: &CertifiedKey<KeyPair>) -> Sha256Digest {
    Sha256Digest::new(Sha256::digest(pair.cert.der()).into())
}

fn credential(address: SocketAddr, certificate: Sha256Digest) -> Credential {
    let path = "/v1/secrets/node-001".to_owned();
    Credential { address, path, token: SecretToken::new([7; 32]), certificate }
}

/// A server that speaks TLS with this certificate and gives each client the next answer; then what it was asked.
fn serve(pair: &CertifiedKey<KeyPair>, answers: Vec<String>) -> (SocketAddr, JoinHandle<Vec<String>>) {
    let key = PrivateKeyDer::try_from(pair.signing_key.serialize_der()).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![pair.cert.der().clone()], key)
        .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let config = Arc::new(config);
    let server = std::thread::spawn(move || {
        answers.into_iter().map(|answer| serve_one(&listener, &config, &answer)).collect()
    });
    (address, server)
}

fn serve_one(listener: &TcpListener, config: &Arc<ServerConfig>, answer: &str) -> String {
    let (socket, _) = listener.accept().unwrap();
    let mut stream = StreamOwned::new(ServerConnection::new(Arc::clone(config)).unwrap(), socket);
    let mut asked = Vec::new();
    let mut byte = [0];
    while !asked.ends_with(b"\r\n\r\n") {
        match stream.read(&mut byte) {
            Ok(1..) => asked.push(byte[0]),
            // It has gone away.
            _ => return String::from_utf8(asked).unwrap(),
        }
    }
    stream.write_all(answer.as_bytes()).unwrap();
    stream.conn.send_close_notify();
    stream.flush().unwrap();
    String::from_utf8(asked).unwrap()
}

fn answer(status: &str, fields: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\n{fields}Content-Length: {}\r\n\r\n{body}", body.len())
}

#[test]
fn the_bearer_of_the_token_is_given_tar_and_signature() {
    let pair = certificate();
    let (address, server) = serve(&pair, vec![answer("200 OK", "Bootnode-Signature: 7369 676e\r\n", "x")]);
    let credential_of = credential(address, digest(&pair));
    let error = ask_until_answered(&credential_of, SHORT).unwrap_err();
    assert!(error.to_string().contains("not hexadecimal"), "{error}");
    server.join().unwrap();
    let (address, server) = serve(&pair, vec![answer("200 OK", "Bootnode-Signature: 7369676e\r\n", "tar")]);
    let found = ask_until_answered(&credential(address, digest(&pair)), SHORT).unwrap();
    assert_eq!(found, (b"tar".to_vec(), Some(b"sign".to_vec())));
    let asked = server.join().unwrap().remove(0);
    assert!(asked.starts_with("GET /v1/secrets/node-001 HTTP/1.1\r\n"), "{asked}");
    assert!(asked.contains(&format!("\r\nAuthorization: Bearer {}\r\n", "07".repeat(32))), "{asked}");
}

#[test]
fn a_server_with_another_certificate_is_refused_and_told_no_token() {
    let (theirs, ours) = (certificate(), certificate());
    let (address, server) = serve(&theirs, vec![answer("200 OK", "", "tar")]);
    let error = ask_until_answered(&credential(address, digest(&ours)), SHORT).unwrap_err();
    assert!(matches!(error, SecretsError::Certificate(_)), "{error:?}");
    let text = explain(&error);
    assert!(
        text.contains(&digest(&theirs).to_string()) && text.contains(&digest(&ours).to_string()),
        "{text}"
    );
    assert_eq!(server.join().unwrap(), [""]);
}

#[test]
fn what_is_refused_is_not_asked_for_again_and_what_is_disturbed_is() {
    let pair = certificate();
    let (address, server) = serve(&pair, vec![answer("401 Unauthorized", "", "no")]);
    let error = ask_until_answered(&credential(address, digest(&pair)), SHORT).unwrap_err();
    assert!(matches!(error, SecretsError::Refused { status: 401, .. }), "{error:?}");
    assert_eq!(server.join().unwrap().len(), 1);
    let busy = answer("503 Service Unavailable", "", "later");
    let (address, server) = serve(&pair, vec![busy, answer("200 OK", "", "tar")]);
    let found = ask_until_answered(&credential(address, digest(&pair)), SHORT).unwrap();
    assert_eq!(found, (b"tar".to_vec(), None));
    server.join().unwrap();
    let error = ask_until_answered(&credential(address, digest(&pair)), SHORT).unwrap_err();
    assert!(matches!(error, SecretsError::GivenUp { .. }), "nobody listens any more: {error:?}");
}

#[test]
fn the_credential_is_gone_from_the_initramfs_once_it_is_taken() {
    let dir = tempfile::tempdir().unwrap();
    assert!(take(dir.path()).unwrap().is_none());
    fs::create_dir(dir.path().join("bootnode")).unwrap();
    let path = dir.path().join(CREDENTIAL);
    fs::write(&path, "x").unwrap();
    assert_eq!(take(dir.path()).unwrap().as_deref(), Some(&b"x".to_vec()));
    assert!(!path.exists());
    fs::write(&path, vec![b'x'; 1 << 20]).unwrap();
    let file = take(dir.path()).unwrap();
    assert_eq!(file.as_ref().unwrap().len() as u64, MAX_CREDENTIAL_BYTES + 1);
    let trust = Trust::read(Path::new("/nonexistent"), &BootParams::default()).unwrap();
    let error = fetch(file, &BootParams::default(), &trust).err().unwrap();
    assert!(matches!(error, SecretsError::Credential(_)), "{error:?}");
}

#[test]
fn with_a_key_in_the_initramfs_secrets_that_nobody_signed_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(dir.path().join("bootnode/keys")).unwrap();
    let key = minisign::KeyPair::generate_unencrypted_keypair().unwrap();
    fs::write(dir.path().join("bootnode/keys/1.pub"), key.pk.to_box().unwrap().to_string()).unwrap();
    let trust = Trust::read(dir.path(), &BootParams::default()).unwrap();
    let pair = certificate();
    let check = |fields: String, is_used: bool| {
        let (address, server) = serve(&pair, vec![answer("200 OK", &fields, "tar")]);
        let file = credential(address, digest(&pair)).to_bytes();
        let found = fetch(Some(file), &BootParams::default(), &trust);
        assert_eq!(found.as_ref().is_ok_and(Option::is_some), is_used);
        if let Err(error) = found {
            assert!(matches!(error, SecretsError::Trust(TrustError::Signature { .. })), "{error:?}");
        }
        server.join().unwrap();
    };
    check(String::new(), false);
    let sign = |document: &str| {
        let signature = minisign::sign(Some(&key.pk), &key.sk, document.as_bytes(), None, None).unwrap();
        format!("Bootnode-Signature: {}\r\n", hex::encode(signature.into_string()))
    };
    check(sign("another"), false);
    check(sign("tar"), true);
}
