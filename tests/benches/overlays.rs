//! What it costs bootserve to make the overlay of a node of templates, and whether it costs more where there are many nodes.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream, UdpSocket};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use bootlab::netns::SERVER_ADDRESS;
use bootlab::published::publish;
use dhcproto::v4::{
    Architecture, CLIENT_PORT, Decodable, Decoder, DhcpOption, Encodable, Flags, Message, MessageType,
    SERVER_PORT,
};
use serde_json::json;

use crate::measure::{Goal, Measurement, Rounds, least};
use crate::serving::{CLIENT_ADDRESS, CLIENT_INTERFACE, Running, Wire};

const FEW_NODES: u32 = 100;
const MANY_NODES: u32 = 4000;
const TEMPLATES: usize = 10;
/// So many ask at the same time, so often each.
const CLIENTS: usize = 8;
const REQUESTS: usize = 100;
const IMAGE: &str = "overlays/v1";
/// The node at the end of the cable.
const MAC: [u8; 6] = [0xfc, 0xab, 0x15, 0, 0, 1];
const PATIENCE: Duration = Duration::from_secs(10);
/// What we set ourselves.
const MAX_P99_MS: f64 = 50.0;

/// What requests took, in milliseconds.
#[derive(Clone, Copy)]
struct Times {
    p99: f64,
    /// CPU of the server for one.
    cpu: f64,
}

pub fn run(rounds: Rounds) -> Result<Vec<Measurement>> {
    let wire = Wire::connect("bench-overlays")?;
    let store = wire.dir().join("store");
    publish(&store, IMAGE, 1 << 20)?;
    write_overlay(&wire.dir().join("overlays"))?;
    // Broadcasts of who has no address yet.
    let route = ["route", "add", "255.255.255.255/32", "dev", CLIENT_INTERFACE];
    ensure!(wire.client.command("ip").args(route).status()?.success(), "ip {route:?}");
    let at = |nodes| measure(&wire, &store, nodes);
    let [few, many] = rounds.in_turn("overlays", [&mut || at(FEW_NODES), &mut || at(MANY_NODES)])?;
    // What is promised is promised each time.
    let p99 = many.iter().map(|times| times.p99).fold(0.0, f64::max);
    let [cpu_few, cpu_many] =
        [&few, &many].map(|runs| least(&runs.iter().map(|times| times.cpu).collect::<Vec<_>>()));
    Ok(vec![
        Measurement::new("overlays", p99, MAX_P99_MS, "p99-ms", Goal::Below(1.0))
            .with_details(json!({"nodes": MANY_NODES, "templates": TEMPLATES, "clients": CLIENTS})),
        Measurement::new("overlays-nodes", cpu_many, cpu_few, "cpu-ms", Goal::AtMost(1.1)),
    ])
}

/// Templates as sites have them: some lines about the node, its network and what the site says of it.
fn write_overlay(dir: &Path) -> Result<()> {
    let etc = dir.join("base/etc");
    fs::create_dir_all(&etc)?;
    for number in 0..TEMPLATES {
        let text = "# {{ node.name }} of {{ groups | join(\", \") }}\n{% for number in range(20) %}\n\
                    host{{ number }} = {{ node.address }}/{{ network.prefix }} via {{ server.url }}\n{% endfor %}\n\
                    {% if metadata.rack is defined %}\nrack = {{ metadata.rack }}\n{% endif %}\n";
        fs::write(etc.join(format!("service-{number}.conf.j2")), text)?;
    }
    Ok(())
}

fn measure(wire: &Wire, store: &Path, nodes: u32) -> Result<Times> {
    let server = start(wire, store, nodes)?;
    wire.client.inside(begin_boot)??;
    let path = "/overlays/client.tar";
    // What is made once for all requests is made now.
    wire.client.inside(|| get(path))??;
    let cpu_before = server.cpu_seconds()?;
    let mut times = wire.client.inside(|| ask_all(path))??;
    let cpu = (server.cpu_seconds()? - cpu_before) / times.len() as f64;
    times.sort();
    let p99 = times[times.len() * 99 / 100].as_secs_f64();
    Ok(Times { p99: p99 * 1000.0, cpu: cpu * 1000.0 })
}

fn start<'a>(wire: &'a Wire, store: &Path, nodes: u32) -> Result<Running<'a>> {
    let (dir, last, mac) = (wire.dir().display(), nodes - 1, bootspec::MacAddr::new(MAC));
    let mut inventory = format!(
        "[defaults]\nimage = 'overlays'\noverlays = ['base']\nmetadata = {{ rack = 7 }}\n\
         [groups]\nsome = 'node-[00000-00049]'\nall = '@*'\n\
         [[nodes]]\nnames = 'client'\naddresses = '{CLIENT_ADDRESS}'\nmacs = '{mac}'\n\
         [[nodes]]\nnames = 'node-[00000-{last:05}]'\naddresses = '10.1.[0-{}].[100-199]'\nmacs = [",
        nodes / 100 - 1
    );
    for block in 0..=last >> 8 {
        let end = if block == last >> 8 { last & 0xff } else { 0xff };
        inventory += &format!("'fc:ab:14:00:{block:02x}:[00-{end:02x}]',");
    }
    fs::write(wire.dir().join("nodes.toml"), inventory + "]\n")?;
    let more = format!(
        "inventory = '{dir}/nodes.toml'\noverlays = '{dir}/overlays'\n\
         [[network]]\nsubnet = '192.168.0.0/24'\n[[network]]\nsubnet = '10.1.0.0/16'\n"
    );
    wire.start_bootserve(store, &more)
}

/// Asks for an address as firmware does.
fn begin_boot() -> Result<()> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, CLIENT_PORT))?;
    socket.set_broadcast(true)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let address = CLIENT_ADDRESS.parse()?;
    for (kind, wanted) in
        [(MessageType::Discover, MessageType::Offer), (MessageType::Request, MessageType::Ack)]
    {
        socket.send_to(&question(kind, address)?, (Ipv4Addr::BROADCAST, SERVER_PORT))?;
        let mut packet = [0; 1500];
        let length = socket.recv(&mut packet).context("the DHCP server is silent")?;
        let answer = Message::decode(&mut Decoder::new(&packet[..length]))?;
        if answer.opts().msg_type() != Some(wanted) {
            bail!("{wanted:?} was expected: {answer}");
        }
    }
    Ok(())
}

fn question(kind: MessageType, address: Ipv4Addr) -> Result<Vec<u8>> {
    let unset = Ipv4Addr::UNSPECIFIED;
    let mut message = Message::new_with_id(1, unset, unset, unset, unset, &MAC);
    message.set_flags(Flags::default().set_broadcast());
    message.opts_mut().insert(DhcpOption::MessageType(kind));
    message.opts_mut().insert(DhcpOption::ClassIdentifier(b"PXEClient".to_vec()));
    message.opts_mut().insert(DhcpOption::ClientSystemArchitecture(Architecture(0)));
    if kind == MessageType::Request {
        message.opts_mut().insert(DhcpOption::RequestedIpAddress(address));
        message.opts_mut().insert(DhcpOption::ServerIdentifier(SERVER_ADDRESS.parse()?));
    }
    Ok(message.to_vec()?)
}

/// How long each request took.
fn ask_all(path: &'static str) -> Result<Vec<Duration>> {
    let client = || (0..REQUESTS).map(|_| get(path)).collect::<Result<Vec<_>>>();
    let clients: Vec<_> = (0..CLIENTS).map(|_| thread::spawn(client)).collect();
    let times = clients.into_iter().map(|client| client.join().expect("no client panics"));
    Ok(times.collect::<Result<Vec<_>>>()?.concat())
}

fn get(path: &str) -> Result<Duration> {
    let asked = Instant::now();
    let mut stream = TcpStream::connect((SERVER_ADDRESS, 80))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {SERVER_ADDRESS}\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    ensure!(
        answer.starts_with(b"HTTP/1.1 200 "),
        "{}",
        String::from_utf8_lossy(&answer[..answer.len().min(200)])
    );
    Ok(asked.elapsed())
}
