//! HTTP clients that say nothing, or little, or what nobody should: bootserve goes on serving the others, and what is not in its
//! store stays where it is. And curl over TLS.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bootlab::api;
use bootlab::deadline::within;
use bootlab::netns::{NetNs, SERVER_ADDRESS};
use bootlab::open_files::allow;
use bootlab::published::{is_initramfs, publish};
use bootlab::served::Served;
use bootlab::tftp::{Terms, fetch};

const IMAGE: &str = "failsafe/v1";
/// More than what the sockets of both ends take.
const IMAGE_BYTES: u64 = 64 << 20;
const MAC: &str = "fc-ab-14-e8-66-01";
const NODE: &str =
    "[[node]]\nname = 'node-000'\nmac = 'fc:ab:14:e8:66:01'\naddress = '192.168.0.100'\nimage = 'failsafe'\n";
/// What nobody may read. It lies in all directories that bootserve has files in.
const SECRET: &str = "the-secret";
/// An answer, on an idle machine.
const ANSWER: Duration = Duration::from_secs(5);

/// With so few files, bootserve has room for (4096 - 1024) / 2 connections.
const FEW_FILES: [&str; 2] = ["prlimit", "--nofile=4096"];
const IDLE_CONNECTIONS: usize = 10_000;
const SLOW_CONNECTIONS: usize = 2000;
/// Of both tests at once.
const CONNECTIONS: u64 = (IDLE_CONNECTIONS + SLOW_CONNECTIONS) as u64;
/// Connections that are opened before somebody else is served.
const BATCH: usize = 500;

/// bootserve with one node, its image, and a boot program.
fn start(more: &str, starter: &[&str]) -> Result<Served> {
    let dir = tempfile::tempdir()?;
    let root = dir.path();
    publish(&root.join("store"), IMAGE, IMAGE_BYTES)?;
    fs::create_dir(root.join("overlays"))?;
    fs::write(root.join("undionly.kpxe"), "a boot program")?;
    for place in ["", "store", "store/failsafe", "store/failsafe/v1", "overlays"] {
        fs::write(root.join(place).join("secret"), SECRET)?;
    }
    Served::start(dir, "", &format!("{NODE}{more}"), starter)
}

fn connect() -> Result<TcpStream> {
    let stream = TcpStream::connect((SERVER_ADDRESS, 80))?;
    stream.set_read_timeout(Some(within(ANSWER)))?;
    stream.set_write_timeout(Some(within(ANSWER)))?;
    Ok(stream)
}

/// A download that has begun.
struct Download(TcpStream);

impl Download {
    fn begin() -> Result<Self> {
        let mut stream = connect()?;
        write!(stream, "GET /images/{IMAGE}/initramfs.img HTTP/1.1\r\nConnection: close\r\n\r\n")?;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte)?;
            head.extend(byte);
        }
        ensure!(head.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&head));
        Ok(Self(stream))
    }

    fn finish(mut self) -> Result<()> {
        let mut body = Vec::new();
        self.0.read_to_end(&mut body)?;
        ensure!(is_initramfs(&body, IMAGE_BYTES), "not the image: {} bytes", body.len());
        Ok(())
    }
}

fn check_script(client: &NetNs) -> Result<()> {
    let script = api::get(client, &format!("/ipxe?mac={MAC}"))?;
    ensure!(script.contains("/images/failsafe/v1/vmlinuz"), "{script}");
    Ok(())
}

/// Another machine in the server's network, with room for many connections.
fn crowd(served: &Served) -> Result<NetNs> {
    let crowd = NetNs::empty()?;
    served.server().connect(&crowd, "eth1")?;
    crowd.add_address("eth1", "192.168.0.3")?;
    allow(CONNECTIONS * 5 / 4)?;
    Ok(crowd)
}

/// `visit` opens a connection of the crowd. Meanwhile a client of another machine is served, and a download goes on that began
/// before; afterwards nothing is left.
fn check_others_are_served(
    connections: usize,
    visit: impl Fn() -> Result<Arc<TcpStream>> + Sync,
) -> Result<()> {
    let served = start("", &FEW_FILES)?;
    let crowd = crowd(&served)?;
    check_script(served.client())?;
    let before = served.held_at_rest()?;
    let download = served.client().inside(Download::begin)??;
    let mut open = Vec::new();
    while open.len() < connections {
        open.extend(crowd.inside(|| (0..BATCH).map(|_| visit()).collect::<Result<Vec<_>>>())??);
        check_script(served.client())?;
    }
    served.client().inside(|| Download::begin()?.finish())??;
    // Nobody was served at the cost of this one, though it takes its time.
    served.client().inside(|| download.finish())??;
    let held = served.held()?;
    let (files, threads) = (held.files.len(), held.threads.len());
    // Threads that open files end when they have nothing to do for a while.
    ensure!(files < 2048 && threads < 64, "{files} files, {threads} threads");
    drop(open);
    served.check_nothing_is_left(&before)
}

#[test]
fn ten_thousand_connections_that_say_nothing_shut_out_nobody() -> Result<()> {
    check_others_are_served(IDLE_CONNECTIONS, || connect().map(Arc::new))
}

/// Each says a byte of its request a second (slowloris).
#[test]
fn thousands_of_requests_that_never_end_shut_out_nobody() -> Result<()> {
    check_others_are_served(SLOW_CONNECTIONS, || {
        let stream = Arc::new(connect()?);
        stream.as_ref().write_all(b"GET /healthz HTTP/1.1\r\nX-Slow: ")?;
        let slow = Arc::downgrade(&stream);
        // Until bootserve, or the test, ends it.
        thread::Builder::new().stack_size(64 << 10).spawn(move || {
            while slow.upgrade().is_some_and(|stream| stream.as_ref().write_all(b"x").is_ok()) {
                thread::sleep(Duration::from_secs(1));
            }
        })?;
        Ok(stream)
    })
}

#[test]
fn curl_fetches_script_and_image_over_tls_and_trusts_our_certificate_alone() -> Result<()> {
    let keys = tempfile::tempdir()?;
    let [key, certificate] = ["key.pem", "certificate.pem"].map(|name| keys.path().join(name));
    let (key, certificate) = (key.to_string_lossy(), certificate.to_string_lossy());
    let mut openssl = std::process::Command::new("openssl");
    openssl.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]);
    openssl.args(["-subj", "/CN=bootserve", "-addext", &format!("subjectAltName=IP:{SERVER_ADDRESS}")]);
    let output = openssl.args(["-keyout", &key, "-out", &certificate]).output()?;
    ensure!(output.status.success(), "{output:?}");
    let served = start(&format!("[tls]\ncertificate = '{certificate}'\nkey = '{key}'\n"), &[])?;
    let curl = |arguments: &[&str]| {
        let output = served.client().command("curl").args(["-sS", "--fail"]).args(arguments).output()?;
        ensure!(output.status.success(), "{}: {output:?}", output.status);
        Ok(output.stdout)
    };
    let url = format!("https://{SERVER_ADDRESS}/ipxe?mac={MAC}");
    let script = String::from_utf8(curl(&["--cacert", &certificate, &url])?)?;
    let initrd = format!("https://{SERVER_ADDRESS}/images/{IMAGE}/initramfs.img");
    let named = script.split_whitespace().find(|word| word.starts_with(&initrd));
    let image = curl(&["--cacert", &certificate, named.with_context(|| script.clone())?])?;
    ensure!(is_initramfs(&image, IMAGE_BYTES), "not the image: {} bytes", image.len());
    let untrusted = curl(&[&url]).unwrap_err().to_string();
    // curl(1): 60, peer certificate cannot be authenticated.
    ensure!(untrusted.contains("exit status: 60"), "{untrusted}");
    Ok(())
}

/// Status and all that follows it, of one request as it stands.
fn ask(target: &[u8]) -> Result<(u16, Vec<u8>)> {
    let mut stream = connect()?;
    let head = [b"GET ", target, b" HTTP/1.1\r\nHost: 192.168.0.1\r\nConnection: close\r\n\r\n"].concat();
    stream.write_all(&head)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let status =
        answer.strip_prefix(b"HTTP/1.1 ").and_then(|rest| str::from_utf8(rest.get(..3)?).ok()?.parse().ok());
    let Some(status) = status else { bail!("no answer: {}", String::from_utf8_lossy(&answer)) };
    Ok((status, answer))
}

/// Ways up, and what some programs take for one.
const UPWARDS: [&str; 12] = [
    "../",
    "%2e%2e/",
    ".%2E/",
    "..%2f",
    "%2e%2e%2f",
    "..\\",
    "..%5c",
    "..%00/",
    "..%c0%af",
    "....//",
    "%252e%252e%252f",
    "./.././",
];

#[test]
fn no_request_target_leads_out_of_the_store() -> Result<()> {
    let served = start("", &[])?;
    served.client().inside(|| {
        let places = [
            "/",
            "/images/",
            "/images/failsafe/",
            "/images/failsafe/v1/",
            "/images/failsafe/current/",
            "/nbp/",
            "/overlays/",
        ];
        let root = served.path("").display().to_string();
        let absolute = [
            format!("{root}secret"),
            format!("file://{root}secret"),
            format!("/images/{root}secret"),
            format!("/images/failsafe/v1/{root}secret"),
            format!("/nbp/{root}secret"),
            format!("/images/failsafe/v1/%2f{root}secret"),
            "/images/failsafe/v1/secret\0".to_owned(),
            "/images/failsafe/v1/vmlinuz\0.img".to_owned(),
            "/images/failsafe/v1/secret%00".to_owned(),
            "/images/failsafe/v1/vmlinuz%00".to_owned(),
            "\\images\\failsafe\\v1\\vmlinuz".to_owned(),
            "secret".to_owned(),
            "..".to_owned(),
        ];
        let upwards = places.iter().flat_map(|place| {
            UPWARDS
                .iter()
                .flat_map(move |up| (0..=4).map(move |steps| format!("{place}{}secret", up.repeat(steps))))
        });
        let origins = ["", "http://192.168.0.1", "http://192.168.0.1:80", "http://elsewhere"];
        let upwards = upwards.flat_map(|path| origins.map(|origin| format!("{origin}{path}")));
        for target in upwards.chain(absolute) {
            let (status, answer) = ask(target.as_bytes())?;
            ensure!((400..500).contains(&status), "{target:?}: {}", String::from_utf8_lossy(&answer));
            let tells = answer.windows(SECRET.len()).any(|part| part == SECRET.as_bytes());
            ensure!(!tells, "{target:?} tells the secret");
        }
        // It is not for want of understanding: RFC 9112 section 3.2.2 has servers take this form.
        let (status, _) = ask(b"http://192.168.0.1/images/failsafe/v1/vmlinuz")?;
        ensure!(status == 200, "{status}");
        Ok(())
    })?
}

#[test]
fn no_tftp_name_leads_out_of_the_boot_programs() -> Result<()> {
    let served = start("", &[])?;
    served.client().inside(|| {
        let server: SocketAddr = SocketAddr::new(SERVER_ADDRESS.parse()?, 69);
        let terms = Terms { blksize: 1428, windowsize: 1, timeout: within(ANSWER) };
        let root = served.path("").display().to_string();
        let absolute = [format!("{root}secret"), "secret".to_owned(), "undionly.kpxe/../secret".to_owned()];
        let upwards =
            ["", "/", "store/", "overlays/", "nbp/", "/undionly.kpxe/"].into_iter().flat_map(|place| {
                UPWARDS.iter().flat_map(move |up| {
                    (1..=4).map(move |steps| format!("{place}{}secret", up.repeat(steps)))
                })
            });
        for name in upwards.chain(absolute) {
            let error = match fetch(server, &name, terms) {
                Ok(file) => bail!("{name:?} is a file: {}", String::from_utf8_lossy(&file)),
                Err(error) => error.to_string(),
            };
            // RFC 1350: file not found, access violation.
            ensure!(error.starts_with("error 1:") || error.starts_with("error 2:"), "{name:?}: {error}");
        }
        ensure!(fetch(server, "undionly.kpxe", terms)? == b"a boot program");
        Ok(())
    })?
}
