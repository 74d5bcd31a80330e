//! A bootserve on loopback, on ports of its own, with a store that holds one small image; and its clients.

pub mod process;
pub mod store;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bootserve::config::Config;
use bootserve::database::Database;
use bootserve::events::{BootEvent, EventLog};
use bootserve::live::Live;
use bootserve::nbp::NbpSet;
use bootserve::serve::{Loaded, run};
use bootserve::sockets::Sockets;
use bootserve::tftp::wire::{Packet, Request, TftpOption};
use bootspec::event::Phase;
use bootspec::manifest::BootMode;
use serde_json::Value;
use socket2::{Domain, Socket, Type};
use store::{ROOT_BYTES, ROOT_FILE, publish};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

/// node-000, which boots [`IMAGE`].
pub const NODE_MAC: &str = "fc:ab:14:e8:66:01";
/// node-001, which boots [`COMPUTE`].
pub const CARRIED_MAC: &str = "fc:ab:14:e8:66:02";
/// node-002, which boots [`COMPUTE`] in fetched mode.
pub const FETCHED_MAC: &str = "fc:ab:14:e8:66:03";
/// node-003, which is to boot [`IMAGE`] in fetched mode, which it cannot.
pub const MISFIT_MAC: &str = "fc:ab:14:e8:66:04";
/// A failsafe image.
pub const IMAGE: &str = "failsafe/v1";
/// An image that can be carried and fetched.
pub const COMPUTE: &str = "compute/v1";
pub const SIGNATURE: &str = "untrusted comment: of the manifest\n";
pub const MIRROR: &str = "http://127.0.0.2";
const DEADLINE: Duration = Duration::from_secs(20);

/// A running server. Dropping it stops it.
pub struct Daemon {
    dir: TempDir,
    dhcp: SocketAddr,
    http: SocketAddr,
    https: Option<SocketAddr>,
    tftp: SocketAddr,
    change: Box<dyn Fn(String) -> String + Send + Sync>,
    shutdown: CancellationToken,
    thread: Option<JoinHandle<anyhow::Result<()>>>,
}

/// An HTTP response.
pub struct Response {
    pub status: u16,
    headers: ureq::http::HeaderMap,
    pub body: Vec<u8>,
}

impl Daemon {
    pub fn start() -> Self {
        Self::start_with(|config| config)
    }

    /// A server whose configuration is changed first.
    pub fn start_with(change: impl Fn(String) -> String + Send + Sync + 'static) -> Self {
        let dir = tempfile::tempdir().unwrap();
        write_store(&dir.path().join("store"));
        std::fs::create_dir(dir.path().join("nbp")).unwrap();
        std::fs::write(dir.path().join("nbp/undionly.kpxe"), nbp()).unwrap();
        std::fs::create_dir(dir.path().join("state")).unwrap();
        std::fs::create_dir(dir.path().join("overlays")).unwrap();
        Self::start_in(dir, Box::new(change))
    }

    fn start_in(dir: TempDir, change: Box<dyn Fn(String) -> String + Send + Sync>) -> Self {
        let mut sockets = bind();
        let (http, tftp) = (sockets.http.local_addr().unwrap(), sockets.tftp.local_addr().unwrap());
        let dhcp = sockets.dhcp.as_ref().unwrap().local_addr().unwrap();
        std::fs::write(config_file(dir.path()), change(config(dir.path(), http.port()))).unwrap();
        let loaded = Loaded::read(&config_file(dir.path())).unwrap();
        sockets.https = loaded.config.tls.as_ref().map(|_| TcpListener::bind("127.0.0.1:0").unwrap());
        sockets.api = bootserve::api_socket::bind(&loaded.config.server).unwrap();
        let https = sockets.https.as_ref().map(|socket| socket.local_addr().unwrap());
        let shutdown = CancellationToken::new();
        let token = shutdown.clone();
        let thread = std::thread::spawn(move || serve(sockets, loaded, token));
        Self { dir, dhcp, http, https, tftp, change, shutdown, thread: Some(thread) }
    }

    /// Stops the server and starts another on its state.
    pub fn restart(mut self) -> Self {
        self.join();
        let dir = std::mem::replace(&mut self.dir, tempfile::tempdir().unwrap());
        let change = std::mem::replace(&mut self.change, Box::new(|config| config));
        Self::start_in(dir, change)
    }

    /// Stops the server and returns when it has ended.
    pub fn stop(mut self) {
        self.join();
    }

    fn join(&mut self) {
        self.shutdown.cancel();
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap().unwrap();
        }
    }

    /// Sends a packet to the DHCP server.
    pub fn send_dhcp(&self, packet: &[u8]) {
        UdpSocket::bind("127.0.0.1:0").unwrap().send_to(packet, self.dhcp).unwrap();
    }

    /// bootserve's command line, with this configuration.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bootserve"));
        command.args(args).arg("--config").arg(self.config_file());
        command
    }

    /// What that writes to its standard output; it must succeed.
    pub fn run_command(&self, args: &[&str]) -> String {
        let output = self.command(args).output().unwrap();
        let [stdout, stderr] = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
        assert!(output.status.success(), "{args:?}: {stdout}{stderr}");
        stdout
    }

    /// Its configuration file.
    pub fn config_file(&self) -> PathBuf {
        config_file(self.dir.path())
    }

    pub fn store(&self) -> PathBuf {
        self.dir.path().join("store")
    }

    pub fn overlays(&self) -> PathBuf {
        self.dir.path().join("overlays")
    }

    /// Notes that the firmware of a machine was given an address, as the DHCP server does.
    pub fn begin_boot(&self, mac: &str) {
        self.record(vec![BootEvent::now(mac.parse().unwrap(), Phase::Dhcp)]);
    }

    /// Writes events into the database. A server that runs already does not hear of them but by looking there.
    pub fn record(&self, news: Vec<BootEvent>) {
        // Two that make a database at once are in each other's way.
        if !self.shutdown.is_cancelled() {
            assert_eq!(self.get("/healthz").status, 200);
        }
        let config = Config::read(&config_file(self.dir.path())).unwrap();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            let database = Database::open(&config.server.state).await.unwrap();
            let events = EventLog::new(database.clone(), Arc::new(Live::new(config, NbpSet::default())));
            events.record(news).await.unwrap();
            database.close().await;
        });
    }

    /// Stops the server, and leaves its files.
    pub fn halt(&mut self) {
        self.join();
    }

    /// Where HTTP is spoken.
    pub fn http_address(&self) -> SocketAddr {
        self.http
    }

    /// A connection to the HTTP server.
    pub fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.http).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream
    }

    /// Where HTTP with TLS is spoken, if it is.
    pub fn https(&self) -> Option<SocketAddr> {
        self.https
    }

    /// GET from an address of this host's own choice: all of 127.0.0.0/8 are on loopback.
    pub fn get_from(&self, source: &str, path: &str) -> (u16, Vec<u8>) {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::new(source.parse().unwrap(), 0).into()).unwrap();
        socket.connect(&self.http.into()).unwrap();
        let mut stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", self.http).unwrap();
        let mut response = Vec::new();
        stream.read_to_end(&mut response).unwrap();
        let head_end = response.windows(4).position(|bytes| bytes == b"\r\n\r\n").unwrap() + 4;
        let head = String::from_utf8_lossy(&response[..head_end]).to_ascii_lowercase();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let length = head.split("content-length: ").nth(1).unwrap().split('\r').next().unwrap();
        let body = response[head_end..].to_vec();
        assert_eq!(length, body.len().to_string(), "{head}");
        (status, body)
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.http)
    }

    pub fn get(&self, path: &str) -> Response {
        self.request("GET", path, &[])
    }

    pub fn json(&self, path: &str) -> Value {
        serde_json::from_slice(&self.get(path).body).unwrap()
    }

    pub fn post(&self, path: &str, body: &[u8]) -> Response {
        self.post_with(path, &[], body)
    }

    pub fn post_with(&self, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Response {
        let mut request = ureq::http::Request::post(format!("{}{path}", self.url()));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        read(agent().run(request.body(body).unwrap()).unwrap())
    }

    pub fn request(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> Response {
        request(&self.url(), method, path, headers)
    }

    /// Asks until the answer is as expected.
    pub fn wait_for(&self, path: &str, expected: impl Fn(&Value) -> bool) -> Value {
        let mut answer = Value::Null;
        let is_there = wait_until(|| {
            answer = self.json(path);
            expected(&answer)
        });
        assert!(is_there, "{path} still answers {answer}");
        answer
    }

    /// Fetches a file; an ERROR of the server is returned as it came.
    pub fn tftp(&self, filename: &str, mode: &str, options: &[(&str, &str)]) -> Result<Vec<u8>, Packet> {
        let socket = tftp_socket();
        self.send_read_request(&socket, filename, mode, options);
        receive_file(&socket)
    }

    /// Where TFTP requests go.
    pub fn tftp_address(&self) -> SocketAddr {
        self.tftp
    }

    pub fn send_read_request(
        &self,
        socket: &UdpSocket,
        filename: &str,
        mode: &str,
        options: &[(&str, &str)],
    ) {
        let options =
            options.iter().map(|(name, value)| TftpOption { name: (*name).into(), value: (*value).into() });
        let request = Request { filename: filename.into(), mode: mode.into(), options: options.collect() };
        socket.send_to(&Packet::Read(request).encode(), self.tftp).unwrap();
    }
}

fn bind() -> Sockets {
    Sockets {
        dhcp: Some(UdpSocket::bind("127.0.0.1:0").unwrap()),
        ping: None,
        pxe: None,
        dns: None,
        tftp: UdpSocket::bind("127.0.0.1:0").unwrap(),
        http: TcpListener::bind("127.0.0.1:0").unwrap(),
        https: None,
        api: None,
        router_solicitations: None,
        mtu_bytes: 1500,
    }
}

fn config_file(dir: &Path) -> PathBuf {
    dir.join("bootserve.toml")
}

fn serve(sockets: Sockets, loaded: Loaded, shutdown: CancellationToken) -> anyhow::Result<()> {
    tokio::runtime::Runtime::new()?.block_on(run(sockets, loaded, shutdown))
}

pub fn request(url: &str, method: &str, path: &str, headers: &[(&str, &str)]) -> Response {
    let mut request = ureq::http::Request::builder().method(method).uri(format!("{url}{path}"));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    read(agent().run(request.body(()).unwrap()).unwrap())
}

/// POST of JSON to a server that may be killed meanwhile.
pub fn post_to(url: &str, path: &str, body: &[u8]) -> Option<Response> {
    let response = agent().post(format!("{url}{path}")).send(body).ok()?;
    let (parts, mut body) = response.into_parts();
    let body = body.read_to_vec().ok()?;
    Some(Response { status: parts.status.as_u16(), headers: parts.headers, body })
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

impl Response {
    pub fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

/// Looks at `condition` again and again; whether it holds in the end.
pub fn wait_until(mut condition: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + DEADLINE;
    while !condition() {
        if Instant::now() > deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    true
}

pub fn tftp_socket() -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    socket
}

/// Receives a file from whoever answers first.
pub fn receive_file(socket: &UdpSocket) -> Result<Vec<u8>, Packet> {
    let (mut blksize, mut windowsize) = (512, 1);
    let mut server = None;
    let mut file = Vec::new();
    let mut newest = 0_u16;
    let mut buffer = [0; 65536];
    loop {
        let (length, peer) = socket.recv_from(&mut buffer).unwrap();
        if *server.get_or_insert(peer) != peer {
            continue;
        }
        let acknowledge = |block| socket.send_to(&Packet::Ack(block).encode(), peer).unwrap();
        match Packet::parse(&buffer[..length]).unwrap() {
            Packet::OptionAck(options) => {
                let option = |name| options.iter().find(|option| option.name == name);
                let number = |name| option(name).map(|option| option.value.parse::<u16>().unwrap());
                blksize = number("blksize").unwrap_or(512).into();
                windowsize = number("windowsize").unwrap_or(1);
                acknowledge(0);
            }
            Packet::Data { block, data } if block == newest.wrapping_add(1) => {
                file.extend_from_slice(&data);
                newest = block;
                let is_last = data.len() < blksize;
                if is_last || block.is_multiple_of(windowsize) {
                    acknowledge(block);
                }
                if is_last {
                    return Ok(file);
                }
            }
            // A repetition.
            Packet::Data { .. } => {}
            other => return Err(other),
        }
    }
}

/// Names and contents of the members of a newc archive.
pub fn read_newc(mut archive: &[u8]) -> Vec<(String, Vec<u8>)> {
    let mut members = Vec::new();
    loop {
        let mut member = cpio::newc::Reader::new(archive).unwrap();
        if member.entry().is_trailer() {
            return members;
        }
        let mut contents = Vec::new();
        member.read_to_end(&mut contents).unwrap();
        members.push((member.entry().name().to_owned(), contents));
        archive = member.finish().unwrap();
    }
}

fn agent() -> ureq::Agent {
    ureq::Agent::config_builder().http_status_as_error(false).timeout_global(Some(DEADLINE)).build().into()
}

fn read(response: ureq::http::Response<ureq::Body>) -> Response {
    let (parts, mut body) = response.into_parts();
    Response {
        status: parts.status.as_u16(),
        headers: parts.headers,
        body: body.with_config().limit(u64::MAX).read_to_vec().unwrap(),
    }
}

/// The boot program: a few blocks whatever the block size.
pub fn nbp() -> Vec<u8> {
    (0..10_000_u32).map(|n| (n * 7) as u8).collect()
}

fn config(dir: &Path, http_port: u16) -> String {
    let dir = dir.display();
    format!(
        "[server]\ninterface = 'lo'\naddress = '127.0.0.1'\nstore = '{dir}/store'\nstate = '{dir}/state'\n\
         overlays = '{dir}/overlays'\nhttp_port = {http_port}\n\
         [network]\nsubnet = '127.0.0.0/24'\nrange = '127.0.0.200-127.0.0.250'\nrouter = '127.0.0.254'\n\
         [nbp]\ndirs = ['{dir}/nbp']\n\
         [boot]\nkernel_args = ['console=ttyS0']\nmirrors = ['{MIRROR}']\nmin_rollback_index = 3\n\
         [[node]]\nname = 'node-000'\nmac = '{NODE_MAC}'\naddress = '127.0.0.100'\nimage = 'failsafe'\n\
         [[node]]\nname = 'node-001'\nmac = '{CARRIED_MAC}'\naddress = '127.0.0.101'\nimage = 'compute'\n\
         [[node]]\nname = 'node-002'\nmac = '{FETCHED_MAC}'\naddress = '127.0.0.102'\nimage = 'compute'\n\
         mode = 'fetched'\n\
         [[node]]\nname = 'node-003'\nmac = '{MISFIT_MAC}'\naddress = '127.0.0.103'\nimage = 'failsafe'\n\
         mode = 'fetched'\n"
    )
}

/// Publishes images of arbitrary bytes.
fn write_store(store: &Path) {
    let initramfs: Vec<u8> = (0..100_000_u32).map(|n| (n % 251) as u8).collect();
    publish(store, IMAGE, BootMode::Failsafe, &[("vmlinuz", b"kernel"), ("initramfs.img", &initramfs)]);
    publish(
        store,
        COMPUTE,
        BootMode::Carried,
        &[
            ("vmlinuz", b"kernel"),
            ("initramfs.img", &initramfs),
            ("initramfs-fetched.img", b"init and drivers"),
            (ROOT_FILE, ROOT_BYTES),
        ],
    );
    std::fs::write(store.join(COMPUTE).join("manifest.json.minisig"), SIGNATURE).unwrap();
}
