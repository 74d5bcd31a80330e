//! HTTP/1.1 on the wire: how connections are kept, what is refused, ranges, TLS, and who has to wait.
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rcgen::{CertifiedKey, KeyPair, generate_simple_self_signed};
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::{self, ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use crate::support::store::publish;
use crate::support::{Daemon, IMAGE, NODE_MAC, wait_until};

const LARGE: &str = "large/v1";
/// More than the buffers of both sides of a connection hold.
const LARGE_BYTES: usize = 32 << 20;

/// A daemon with a large file in its store.
fn daemon_with_large_file(change: impl Fn(String) -> String + Send + Sync + 'static) -> Daemon {
    let daemon = Daemon::start_with(change);
    let bytes: Vec<u8> = (0..LARGE_BYTES).map(|n| (n / 7) as u8).collect();
    publish(&daemon.store(), LARGE, bootspec::manifest::BootMode::Failsafe, &[("initramfs.img", &bytes)]);
    daemon
}

/// All that the server answers to these bytes until it closes the connection.
fn answers(daemon: &Daemon, requests: &str) -> String {
    let mut stream = daemon.connect();
    stream.write_all(requests.as_bytes()).unwrap();
    let mut answers = Vec::new();
    stream.read_to_end(&mut answers).unwrap();
    String::from_utf8(answers).unwrap()
}

#[test]
fn requests_of_a_connection_are_answered_one_after_the_other() {
    let daemon = Daemon::start();
    let report = "{}";
    let requests = format!(
        "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n\
         HEAD /healthz HTTP/1.1\r\n\r\n\
         POST /v1/events HTTP/1.1\r\nContent-Length: {}\r\n\r\n{report}\
         GET http://192.168.0.1/healthz HTTP/1.0\r\nConnection: keep-alive\r\n\r\n\
         GET /nosuch HTTP/1.0\r\n\r\n\
         GET /never HTTP/1.1\r\n\r\n",
        report.len()
    );
    let answers = answers(&daemon, &requests);
    let statuses: Vec<&str> = answers.split("HTTP/1.1 ").skip(1).map(|answer| &answer[..3]).collect();
    assert_eq!(statuses, ["200", "200", "400", "200", "404"], "{answers}");
    let kept: Vec<bool> =
        answers.split("HTTP/1.1 ").skip(1).map(|answer| !answer.contains("Connection: close")).collect();
    assert_eq!(kept, [true, true, true, true, false], "{answers}");
    assert_eq!(answers.matches("Content-Length: 3\r\n").count(), 3, "{answers}");
    assert_eq!(answers.matches("\r\n\r\nok\n").count(), 2, "{answers}");
}

#[test]
fn what_is_no_request_is_refused_and_ends_the_connection() {
    let daemon = Daemon::start();
    for (request, status) in [
        ("GET / HTTP/2.0\r\n\r\n".to_owned(), 400),
        ("\u{16}\u{3}\u{1} hello\r\n\r\n".to_owned(), 400),
        ("POST /v1/events HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".to_owned(), 411),
        ("POST /v1/events HTTP/1.1\r\nContent-Length: 9999999\r\n\r\n".to_owned(), 413),
        (format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(20_000)), 431),
    ] {
        let answer = answers(&daemon, &request);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
        assert!(answer.contains("Connection: close\r\n"), "{answer}");
    }
    let metrics = daemon.get("/metrics").text();
    assert!(metrics.contains("bootserve_http_responses_total{status=\"400\"} 2"), "{metrics}");
}

#[test]
fn a_client_that_waits_for_100_continue_is_told_to_go_on() {
    let daemon = Daemon::start();
    let mut stream = daemon.connect();
    stream
        .write_all(b"POST /v1/events HTTP/1.1\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n")
        .unwrap();
    let mut go_on = [0; 25];
    stream.read_exact(&mut go_on).unwrap();
    assert_eq!(&go_on, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"{}").unwrap();
    let mut status = [0; 12];
    stream.read_exact(&mut status).unwrap();
    assert_eq!(&status, b"HTTP/1.1 400");
}

#[test]
fn several_ranges_come_in_one_body() {
    let daemon = daemon_with_large_file(|config| config);
    let path = format!("/images/{LARGE}/initramfs.img");
    let answer = daemon.request("GET", &path, &[("Range", "bytes=7-13, 14-20,-7,99999999-")]);
    assert_eq!(answer.status, 206);
    let boundary =
        answer.header("content-type").unwrap().strip_prefix("multipart/byteranges; boundary=").unwrap();
    let mut expected = Vec::new();
    for (first, last) in [(7, 13), (14, 20), (LARGE_BYTES - 7, LARGE_BYTES - 1)] {
        let line_end = if expected.is_empty() { "" } else { "\r\n" };
        write!(
            expected,
            "{line_end}--{boundary}\r\nContent-Type: application/octet-stream\r\n\
             Content-Range: bytes {first}-{last}/{LARGE_BYTES}\r\n\r\n"
        )
        .unwrap();
        expected.extend((first..=last).map(|n| (n / 7) as u8));
    }
    write!(expected, "\r\n--{boundary}--\r\n").unwrap();
    assert_eq!(answer.header("content-length"), Some(&*expected.len().to_string()));
    assert!(answer.body == expected, "{}", String::from_utf8_lossy(&answer.body));
}

#[test]
fn large_files_arrive_whole_over_connections_that_change_threads() {
    let daemon = daemon_with_large_file(|config| config);
    // All of them are being sent before the first is read, so they do not stay with one thread.
    let mut streams = [(); 5].map(|()| daemon.connect());
    for stream in &mut streams {
        let request = format!("GET /images/{LARGE}/initramfs.img HTTP/1.1\r\n\r\n");
        write!(stream, "{request}{request}").unwrap();
    }
    for stream in &mut streams {
        assert!(large_file_from(stream) && large_file_from(stream));
        write!(stream, "GET /healthz HTTP/1.1\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.ends_with("\r\n\r\nok\n"), "{answer}");
    }
}

/// Reads one response; whether its body is the large file.
fn large_file_from(stream: &mut impl Read) -> bool {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap();
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    assert!(head.contains(&format!("Content-Length: {LARGE_BYTES}\r\n")), "{head}");
    let mut body = vec![0; LARGE_BYTES];
    stream.read_exact(&mut body).unwrap();
    body.iter().enumerate().all(|(n, byte)| *byte == (n / 7) as u8)
}

#[test]
fn past_the_limit_machines_wait_and_are_told_how_long() {
    let daemon = daemon_with_large_file(|config| config.replace("[nbp]", "[http]\nmax_downloads = 1\n[nbp]"));
    let path = format!("/images/{LARGE}/initramfs.img");
    let mut slow = daemon.connect();
    write!(slow, "GET {path} HTTP/1.1\r\n\r\n").unwrap();
    // Its answer has begun.
    slow.read_exact(&mut [0; 12]).unwrap();
    let status = |source: &str| daemon.get_from(source, &path).0;
    let refused = daemon.get_from("127.0.0.102", &path);
    assert_eq!(refused.0, 503);
    assert!(String::from_utf8_lossy(&refused.1).contains("1 machines download now, and 0 wait"));
    assert_eq!(daemon.get_from("127.0.0.102", "/healthz").0, 200);
    // The same machine is let in again, and HEAD needs no room.
    let head = daemon.request("HEAD", &path, &[]);
    assert_eq!((head.status, head.header("content-length")), (200, Some(&*LARGE_BYTES.to_string())));
    drop(slow);
    let let_in = wait_until(|| status("127.0.0.102") == 200);
    assert!(let_in);
    assert_eq!(status("127.0.0.103"), 200);
}

#[test]
fn tls_serves_the_same() {
    let keys = tempfile::tempdir().unwrap();
    let pair = generate_simple_self_signed(["boot.cluster".to_owned()]).unwrap();
    let tls = write_certificate(keys.path(), &pair);
    let daemon = daemon_with_large_file(move |config| config.replace("[nbp]", &format!("{tls}[nbp]")));

    let mut stream = tls_connection(&daemon, pair.cert.der());
    write!(stream, "GET /images/{LARGE}/initramfs.img HTTP/1.1\r\n\r\n").unwrap();
    assert!(large_file_from(&mut stream));
    write!(stream, "GET /ipxe?mac={NODE_MAC} HTTP/1.1\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let hyphenated = NODE_MAC.replace(':', "-");
    for part in [
        format!("kernel https://boot.cluster/images/{IMAGE}/vmlinuz?boot="),
        format!("chain --replace https://boot.cluster/ipxe?mac={hyphenated}"),
        // init speaks no TLS.
        format!("bootnode.report={}", daemon.url()),
    ] {
        assert!(answer.contains(&part), "{part} in {answer}");
    }
    assert!(
        daemon
            .get(&format!("/ipxe?mac={NODE_MAC}"))
            .text()
            .contains(&format!("kernel {}/images", daemon.url()))
    );
}

/// Writes certificate and key into `dir`, and returns the section of the configuration that names them.
pub fn write_certificate(dir: &Path, pair: &CertifiedKey<KeyPair>) -> String {
    std::fs::write(dir.join("cert.pem"), pair.cert.pem()).unwrap();
    std::fs::write(dir.join("key.pem"), pair.signing_key.serialize_pem()).unwrap();
    let dir = dir.display();
    format!("[tls]\ncertificate = '{dir}/cert.pem'\nkey = '{dir}/key.pem'\nname = 'boot.cluster'\n")
}

/// Whether clients that trust in this certificate alone are served.
pub fn shows_certificate(daemon: &Daemon, pair: &CertifiedKey<KeyPair>) -> bool {
    let mut stream = tls_connection(daemon, pair.cert.der());
    let mut answer = String::new();
    write!(stream, "GET /healthz HTTP/1.1\r\nConnection: close\r\n\r\n").is_ok()
        && stream.read_to_string(&mut answer).is_ok()
        && answer.contains("200 OK")
}

/// A client of the server at `boot.cluster` that shows this certificate.
pub(crate) fn tls_client(certificate: &CertificateDer<'static>) -> ClientConnection {
    let mut roots = RootCertStore::empty();
    roots.add(certificate.clone()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    ClientConnection::new(Arc::new(config), "boot.cluster".try_into().unwrap()).unwrap()
}

fn tls_connection(
    daemon: &Daemon,
    certificate: &CertificateDer<'static>,
) -> StreamOwned<ClientConnection, TcpStream> {
    let socket = TcpStream::connect(daemon.https().unwrap()).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    StreamOwned::new(tls_client(certificate), socket)
}
