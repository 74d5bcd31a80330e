//! A bootserve on loopback, on ports of its own, with a store that holds one small image; and its clients.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bootserve::config::Config;
use bootserve::nbp::NbpSet;
use bootserve::serve::run;
use bootserve::sockets::Sockets;
use bootserve::tftp::wire::{Packet, Request, TftpOption};
use bootspec::manifest::{
    Artifact, BootMode, Build, FORMAT, FileSystemFormat, Manifest, Root, RootFileSystem,
};
use bootspec::store::image_dir;
use bootspec::{ImageRef, Sha256Digest};
use serde_json::Value;
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
pub const ROOT_FILE: &str = "rootfs.squashfs";
pub const ROOT_BYTES: &[u8] = b"root";
pub const SIGNATURE: &str = "untrusted comment: of the manifest\n";
pub const MIRROR: &str = "http://127.0.0.2";
const DEADLINE: Duration = Duration::from_secs(20);

/// A running server. Dropping it stops it.
pub struct Daemon {
    dir: TempDir,
    http: SocketAddr,
    tftp: SocketAddr,
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
        let dir = tempfile::tempdir().unwrap();
        write_store(&dir.path().join("store"));
        std::fs::create_dir(dir.path().join("nbp")).unwrap();
        std::fs::write(dir.path().join("nbp/undionly.kpxe"), nbp()).unwrap();
        std::fs::create_dir(dir.path().join("state")).unwrap();
        Self::start_in(dir)
    }

    fn start_in(dir: TempDir) -> Self {
        let sockets = Sockets {
            dhcp: UdpSocket::bind("127.0.0.1:0").unwrap(),
            tftp: UdpSocket::bind("127.0.0.1:0").unwrap(),
            http: TcpListener::bind("127.0.0.1:0").unwrap(),
            router_solicitations: None,
            mtu_bytes: 1500,
        };
        let (http, tftp) = (sockets.http.local_addr().unwrap(), sockets.tftp.local_addr().unwrap());
        let config = Config::parse(&config(dir.path(), http.port())).unwrap();
        let nbps = NbpSet::read(&config.nbp_dirs).unwrap();
        let shutdown = CancellationToken::new();
        let token = shutdown.clone();
        let thread = std::thread::spawn(move || {
            tokio::runtime::Runtime::new().unwrap().block_on(run(sockets, config, nbps, token))
        });
        Self { dir, http, tftp, shutdown, thread: Some(thread) }
    }

    /// Stops the server and starts another on its state.
    pub fn restart(mut self) -> Self {
        self.join();
        let dir = std::mem::replace(&mut self.dir, tempfile::tempdir().unwrap());
        Self::start_in(dir)
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

    pub fn store(&self) -> PathBuf {
        self.dir.path().join("store")
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
        let request = ureq::http::Request::post(format!("{}{path}", self.url())).body(body).unwrap();
        read(agent().run(request).unwrap())
    }

    pub fn request(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> Response {
        let mut request = ureq::http::Request::builder().method(method).uri(format!("{}{path}", self.url()));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        read(agent().run(request.body(()).unwrap()).unwrap())
    }

    /// Asks until the answer is as expected.
    pub fn wait_for(&self, path: &str, expected: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let answer = self.json(path);
            if expected(&answer) {
                return answer;
            }
            assert!(Instant::now() < deadline, "{path} still answers {answer}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Fetches a file; an ERROR of the server is returned as it came.
    pub fn tftp(&self, filename: &str, mode: &str, options: &[(&str, &str)]) -> Result<Vec<u8>, Packet> {
        let socket = tftp_socket();
        self.send_read_request(&socket, filename, mode, options);
        receive_file(&socket)
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

pub fn tftp_socket() -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    socket
}

/// Receives a file from whoever answers first.
pub fn receive_file(socket: &UdpSocket) -> Result<Vec<u8>, Packet> {
    let mut blksize = 512;
    let mut server = None;
    let mut file = Vec::new();
    let mut buffer = [0; 65536];
    loop {
        let (length, peer) = socket.recv_from(&mut buffer).unwrap();
        if *server.get_or_insert(peer) != peer {
            continue;
        }
        let acknowledged = match Packet::parse(&buffer[..length]).unwrap() {
            Packet::OptionAck(options) => {
                let accepted = options.iter().find(|option| option.name == "blksize").unwrap();
                blksize = accepted.value.parse().unwrap();
                0
            }
            Packet::Data { block, data } => {
                file.extend_from_slice(&data);
                if data.len() < blksize {
                    socket.send_to(&Packet::Ack(block).encode(), peer).unwrap();
                    return Ok(file);
                }
                block
            }
            other => return Err(other),
        };
        socket.send_to(&Packet::Ack(acknowledged).encode(), peer).unwrap();
    }
}

fn agent() -> ureq::Agent {
    ureq::Agent::config_builder().http_status_as_error(false).timeout_global(Some(DEADLINE)).build().into()
}

fn read(response: ureq::http::Response<ureq::Body>) -> Response {
    let (parts, mut body) = response.into_parts();
    Response { status: parts.status.as_u16(), headers: parts.headers, body: body.read_to_vec().unwrap() }
}

/// The boot program: a few blocks whatever the block size.
pub fn nbp() -> Vec<u8> {
    (0..10_000_u32).map(|n| (n * 7) as u8).collect()
}

fn config(dir: &Path, http_port: u16) -> String {
    let dir = dir.display();
    format!(
        "[server]\ninterface = 'lo'\naddress = '127.0.0.1'\nstore = '{dir}/store'\nstate = '{dir}/state'\n\
         http_port = {http_port}\n\
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

/// Publishes `files` as an image that is current. Those with a root hold it in [`ROOT_FILE`].
pub fn publish(store: &Path, image: &str, mode: BootMode, files: &[(&str, &[u8])]) {
    let image: ImageRef = image.parse().unwrap();
    let dir = image.dir(store);
    std::fs::create_dir_all(&dir).unwrap();
    let mut artifacts = BTreeMap::new();
    for (index, (name, bytes)) in files.iter().enumerate() {
        std::fs::write(dir.join(name), bytes).unwrap();
        let sha256 = Sha256Digest::new([index as u8; 32]);
        artifacts.insert(name.parse().unwrap(), Artifact { size_bytes: bytes.len() as u64, sha256 });
    }
    let root = RootFileSystem {
        file: ROOT_FILE.parse().unwrap(),
        format: FileSystemFormat::Squashfs,
        size_bytes: ROOT_BYTES.len() as u64,
        block_bytes: 4096,
        blocks: vec![Sha256Digest::new([7; 32])],
    };
    let manifest = Manifest {
        format: FORMAT,
        image: image.clone(),
        architecture: "x86_64".to_owned(),
        kernel_release: "6.1".to_owned(),
        mode,
        kernel_args: vec!["quiet".parse().unwrap()],
        artifacts,
        root: (mode != BootMode::Failsafe).then_some(Root::FileSystem(root)),
        rollback_index: 0,
        packages: Vec::new(),
        build: Build {
            inputs: Sha256Digest::new([0; 32]),
            tool: "test".to_owned(),
            host: "test".to_owned(),
            time_unix: 0,
        },
    };
    std::fs::write(dir.join("manifest.json"), manifest.to_json()).unwrap();
    symlink(image.version.as_str(), image_dir(store, &image.name).join("current")).unwrap();
}
