//! Images and scripts over HTTP: bootserve and nginx, as it is set up to serve files.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use bootlab::netns::SERVER_ADDRESS;
use bootlab::published::publish;
use bootspec::store::INITRAMFS;
use bootspec::{ImageRef, MacAddr};
use rustix::net::{RecvFlags, recv};
use serde_json::json;

use crate::measure::{
    CONGESTION_CONTROL, Cost, Goal, Measurement, Rounds, least_wall, median_cpu, stdout_of,
};
use crate::root::bench_dir;
use crate::serving::{Running, Wire};

const FILE_BYTES: u64 = 1 << 30;
/// So much is downloaded in a run.
const RUN_BYTES: u64 = 8 << 30;
const SCRIPT_CONNECTIONS: u32 = 64;
const SCRIPT_SECONDS: u32 = 5;
const NODES: u32 = 1000;
const FIRST_NODE: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 0);

/// A file of 1 GiB by one connection, 8, 64: throughput, and what a GiB costs the server.
pub fn download_1(rounds: Rounds) -> Result<Vec<Measurement>> {
    Download::by(1, "http-1", "http-cpu-1").measure(rounds)
}

pub fn download_8(rounds: Rounds) -> Result<Vec<Measurement>> {
    Download::by(8, "http-8", "http-cpu-8").measure(rounds)
}

pub fn download_64(rounds: Rounds) -> Result<Vec<Measurement>> {
    Download::by(64, "http-64", "http-cpu-64").measure(rounds)
}

/// By one connection, with the same congestion control for both: the kernel does the same for them.
pub fn download_alike(rounds: Rounds) -> Result<Vec<Measurement>> {
    let alike = Download::by(1, "http-alike", "http-cpu-alike");
    let spread = 0.1;
    Download { congestion_control: Some("reno"), least: 1.0 - spread, most_cpu: 1.0 + spread, ..alike }
        .measure(rounds)
}

struct Download {
    name: &'static str,
    name_of_cpu: &'static str,
    connections: u64,
    /// None: bootserve's own, and the system's.
    congestion_control: Option<&'static str>,
    /// The throughput should be so many times the peer's, and the CPU seconds at most so many times.
    least: f64,
    most_cpu: f64,
}

impl Download {
    fn by(connections: u64, name: &'static str, name_of_cpu: &'static str) -> Self {
        Self { name, name_of_cpu, connections, congestion_control: None, least: 1.0, most_cpu: 1.0 }
    }

    fn measure(self, rounds: Rounds) -> Result<Vec<Measurement>> {
        let store = store()?;
        let image: ImageRef = IMAGE.parse()?;
        let path = image.url_path(INITRAMFS);
        let wire = Wire::connect("bench-http")?;
        if let Some(name) = self.congestion_control {
            wire.server.inside(|| fs::write(CONGESTION_CONTROL, name))??;
        }
        let fetch_all = |server: &Running<'_>| {
            let cpu_before = server.cpu_seconds()?;
            let started = Instant::now();
            wire.client.inside(|| fetch_by(self.connections, &path))??;
            let wall_seconds = started.elapsed().as_secs_f64();
            Ok(Cost { wall_seconds, cpu_seconds: server.cpu_seconds()? - cpu_before })
        };
        let mut ours = || fetch_all(&bootserve(&wire, &store, self.congestion_control)?);
        let mut peer = || fetch_all(&nginx(&wire, &store)?);
        let [ours, peer] = rounds.in_turn(self.name, [&mut ours, &mut peer])?;
        let gib = (RUN_BYTES >> 30) as f64;
        let rate = |costs: &[Cost]| gib / least_wall(costs);
        let details =
            json!({"connections": self.connections, "ours": ours, "peer": peer, "bytes": RUN_BYTES});
        Ok(vec![
            Measurement::new(self.name, rate(&ours), rate(&peer), "GiB/s", Goal::AtLeast(self.least))
                .with_details(details),
            Measurement::new(
                self.name_of_cpu,
                median_cpu(&ours) / gib,
                median_cpu(&peer) / gib,
                "cpu-seconds/GiB",
                Goal::AtMost(self.most_cpu),
            ),
        ])
    }
}

/// iPXE scripts of as many nodes in turn, against a file of the same length.
pub fn scripts(rounds: Rounds) -> Result<Vec<Measurement>> {
    let store = store()?;
    let wire = Wire::connect("bench-scripts")?;
    let script = {
        let _server = bootserve(&wire, &store, None)?;
        bootlab::api::get(&wire.client, &format!("/ipxe?mac={}", mac(0)))?
    };
    fs::write(store.join("script.ipxe"), script)?;
    let mut ours = || {
        let _server = bootserve(&wire, &store, None)?;
        requests_per_second(&wire, "/ipxe")
    };
    let mut peer = || {
        let _server = nginx(&wire, &store)?;
        requests_per_second(&wire, "/images/script.ipxe")
    };
    let [ours, peer] = rounds.in_turn("scripts", [&mut ours, &mut peer])?;
    let most = |rates: &[f64]| rates.iter().copied().fold(0.0, f64::max);
    let details = json!({"ours": ours, "peer": peer, "connections": SCRIPT_CONNECTIONS});
    Ok(vec![
        Measurement::new("scripts", most(&ours), most(&peer), "requests/s", Goal::AtLeast(1.0))
            .with_details(details),
    ])
}

fn mac(node: u32) -> MacAddr {
    let [_, _, high, low] = node.to_be_bytes();
    MacAddr::new([0xfc, 0xab, 0x14, 0xe8, high, low])
}

fn bootserve<'a>(wire: &'a Wire, store: &Path, congestion_control: Option<&str>) -> Result<Running<'a>> {
    let mut more = "[network]\nsubnet = '192.168.0.0/16'\n".to_owned();
    if let Some(name) = congestion_control {
        more += &format!("[http]\ncongestion_control = '{name}'\n");
    }
    for number in 0..NODES {
        let (mac, address) = (mac(number), Ipv4Addr::from_bits(FIRST_NODE.to_bits() + number));
        more += &format!(
            "[[node]]\nname = 'node-{number:03}'\nmac = '{mac}'\naddress = '{address}'\nimage = 'bench'\n"
        );
    }
    wire.start_bootserve(store, &more)
}

/// With as many workers as cores, and the settings that its documentation has for large files.
fn nginx<'a>(wire: &'a Wire, store: &Path) -> Result<Running<'a>> {
    let config = wire.dir().join("nginx.conf");
    let dir = wire.dir().display();
    let text = format!(
        "daemon off; user root; worker_processes auto; pid {dir}/nginx.pid; error_log stderr;\n\
         events {{ worker_connections 4096; }}\n\
         http {{ access_log off; sendfile on; tcp_nopush on; keepalive_requests 1000000;\n\
         server {{ listen {SERVER_ADDRESS}:80; location /images/ {{ alias {}/; }} }} }}\n",
        store.display()
    );
    fs::write(&config, text)?;
    let mut command = wire.server.command("nginx");
    command.arg("-c").arg(&config);
    let is_up = || wire.client.inside(|| TcpStream::connect((SERVER_ADDRESS, 80))).is_ok_and(|it| it.is_ok());
    wire.start(command, is_up)
}

const IMAGE: &str = "bench/v1";

/// An image whose initramfs has the bench's size.
fn store() -> Result<PathBuf> {
    let store = bench_dir().join("store-http");
    publish(&store, IMAGE, FILE_BYTES)?;
    Ok(store)
}

/// Downloads [`RUN_BYTES`] in as many connections, each the same share of the file again and again.
fn fetch_by(connections: u64, path: &str) -> Result<()> {
    let share = (RUN_BYTES / connections).min(FILE_BYTES);
    let times = RUN_BYTES / connections / share;
    thread::scope(|scope| {
        let threads: Vec<_> = (0..connections).map(|_| scope.spawn(|| fetch(path, share, times))).collect();
        threads.into_iter().try_for_each(|thread| thread.join().expect("no client panics"))
    })
}

/// The first `bytes` of the file, so many times, by one connection.
fn fetch(path: &str, bytes: u64, times: u64) -> Result<()> {
    let mut stream = TcpStream::connect((SERVER_ADDRESS, 80))?;
    let mut buffer = vec![0; 1 << 20];
    for _ in 0..times {
        let last = bytes - 1;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {SERVER_ADDRESS}\r\nRange: bytes=0-{last}\r\n\r\n")?;
        let (head, body) = read_head(&mut stream)?;
        ensure!(head.starts_with("HTTP/1.1 206 "), "{head}");
        let mut left = bytes - body.len() as u64;
        while left > 0 {
            let most = usize::try_from(left)?.min(buffer.len());
            // The kernel drops them (tcp(7), MSG_TRUNC): a client that copied would be measured instead of the server.
            let (_, received) = recv(&stream, &mut buffer[..most], RecvFlags::TRUNC)?;
            ensure!(received > 0, "the connection ended {left} bytes early");
            left -= received as u64;
        }
    }
    Ok(())
}

/// The head of a response, and what came with it of the body.
pub fn read_head(stream: &mut TcpStream) -> Result<(String, Vec<u8>)> {
    let mut received = Vec::new();
    loop {
        let mut buffer = [0; 4096];
        let length = stream.read(&mut buffer)?;
        ensure!(length > 0, "the connection ended in the head");
        received.extend_from_slice(&buffer[..length]);
        if let Some(end) = received.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
            let body = received.split_off(end + 4);
            return Ok((String::from_utf8(received)?, body));
        }
    }
}

fn requests_per_second(wire: &Wire, path: &str) -> Result<f64> {
    let nodes = wire.dir().join("nodes.lua");
    // Both are asked alike; nginx does not look at what follows the question mark.
    let requests = "local n = 0\nrequest = function()\n  n = (n + 1) % NODES\n  \
                    local mac = string.format('fc-ab-14-e8-%02x-%02x', math.floor(n / 256), n % 256)\n  \
                    return wrk.format('GET', wrk.path .. '?mac=' .. mac)\nend\n";
    fs::write(&nodes, requests.replace("NODES", &NODES.to_string()))?;
    let mut wrk = wire.client.command("wrk");
    wrk.args([
        "--threads=1",
        &format!("--connections={SCRIPT_CONNECTIONS}"),
        &format!("--duration={SCRIPT_SECONDS}s"),
    ]);
    wrk.arg("--script").arg(&nodes).arg(format!("http://{SERVER_ADDRESS}{path}"));
    let report = stdout_of(&mut wrk)?;
    ensure!(!report.contains("Non-2xx"), "{report}");
    let rate = report.lines().find_map(|line| line.strip_prefix("Requests/sec:"));
    Ok(rate.with_context(|| report.clone())?.trim().parse()?)
}
