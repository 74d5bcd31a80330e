//! A hall of nodes that is switched on at once: each asks by DHCP, loads its boot program by TFTP, then its script and its image
//! by HTTP. The nodes are threads of this program, each with an address of its own at the end of the cable.

use std::collections::HashSet;
use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream, UdpSocket};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Barrier, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use bootlab::deadline::wait_until;
use bootlab::held::Held;
use bootlab::netns::SERVER_ADDRESS;
use bootlab::open_files::allow;
use bootlab::published::publish;
use bootlab::tftp::{Terms, fetch_from};
use bootspec::MacAddr;
use bootspec::store::INITRAMFS;
use dhcproto::v4::{
    CLIENT_PORT, Decodable, Decoder, DhcpOption, Encodable, Flags, Message, MessageType, SERVER_PORT,
};
use rustix::net::sockopt::set_socket_recv_buffer_size_force;
use rustix::net::{AddressFamily, RecvFlags, SocketType, bind, connect, recv, socket};
use serde_json::json;

use crate::http::read_head;
use crate::measure::{Goal, Measurement, Rounds};
use crate::root::bench_dir;
use crate::serving::{CLIENT_ADDRESS, CLIENT_INTERFACE, Running, Wire};

const NODES: u32 = 1000;
const FIRST_NODE: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 0);
const SUBNET: &str = "192.168.0.0/16";

const IMAGE: &str = "storm/v1";
const IMAGE_BYTES: u64 = 16 << 20;
/// So fast a node takes it: all of them together four gigabits a second.
const IMAGE_BYTES_PER_SECOND: f64 = (512 << 10) as f64;
/// What is read of it at a time.
const PIECE_BYTES: usize = 64 << 10;

/// As large as Debian's `ipxe.efi`, and asked for as EDK2 does, which waits four seconds.
const PROGRAM: &str = "ipxe.efi";
const PROGRAM_BYTES: usize = 1 << 20;
const TERMS: Terms = Terms { blksize: 1468, windowsize: 4, timeout: Duration::from_secs(4) };

/// How long a client waits for a DHCP answer before it asks again (RFC 2131 section 4.1, without the random part).
const DHCP_WAITS: [Duration; 5] = [
    Duration::from_secs(4),
    Duration::from_secs(8),
    Duration::from_secs(16),
    Duration::from_secs(32),
    Duration::from_secs(64),
];
/// A server that sends nothing for so long has forgotten its client.
const STALL: Duration = Duration::from_secs(60);
/// Answers to all nodes at once must fit.
const RECEIVE_BUFFER_BYTES: usize = 16 << 20;
/// bootserve closes what it does not need any more within this.
const REST: Duration = Duration::from_secs(5);

const MAX_FIRST_ANSWER_SECONDS: f64 = 1.0;
const MAX_MEMORY_MIB: f64 = 300.0;

pub fn run(rounds: Rounds) -> Result<Vec<Measurement>> {
    let [storms] = rounds.in_turn("storm", [&mut storm])?;
    // The worst of all: what is promised is promised each time.
    let worst = |figure: fn(&Storm) -> f64| storms.iter().map(figure).fold(0.0, f64::max);
    let steps: Vec<_> = storms.iter().map(Storm::steps).collect();
    Ok(vec![
        Measurement::new(
            "storm",
            worst(|storm| storm.p99(|times| times.first_answer)),
            MAX_FIRST_ANSWER_SECONDS,
            "p99-seconds",
            Goal::Below(1.0),
        )
        .with_details(json!({"nodes": NODES, "p99-seconds": steps})),
        Measurement::new(
            "storm-memory",
            worst(|storm| storm.memory_mib),
            MAX_MEMORY_MIB,
            "MiB",
            Goal::Below(1.0),
        ),
    ])
}

/// What happened.
struct Storm {
    nodes: Vec<Times>,
    /// The most that bootserve held.
    memory_mib: f64,
}

/// Since all were switched on.
#[derive(Clone, Copy)]
struct Times {
    first_answer: Duration,
    address: Duration,
    program: Duration,
    script: Duration,
    image: Duration,
}

impl Storm {
    fn p99(&self, step: impl Fn(&Times) -> Duration) -> f64 {
        let mut times: Vec<Duration> = self.nodes.iter().map(step).collect();
        times.sort();
        times[times.len() * 99 / 100].as_secs_f64()
    }

    fn steps(&self) -> serde_json::Value {
        json!({
            "first-answer": self.p99(|times| times.first_answer),
            "address": self.p99(|times| times.address),
            "program": self.p99(|times| times.program),
            "script": self.p99(|times| times.script),
            "image": self.p99(|times| times.image),
        })
    }
}

/// All nodes boot, and bootserve has no more threads or descriptors afterwards than before; or it fails.
fn storm() -> Result<Storm> {
    let wire = Wire::connect("bench-storm")?;
    let server = start_bootserve(&wire)?;
    add_addresses(&wire)?;
    // Its first request makes bootserve start threads that stay.
    bootlab::api::get(&wire.client, &format!("/ipxe?mac={}", Node(0).mac()))?;
    let before = Held::by(&wire.server)?;
    let nodes = wire.client.inside(switch_on)??;
    let memory_mib = server.peak_memory_bytes()? as f64 / f64::from(1 << 20);
    let rests = || Held::by(&wire.server).is_ok_and(|now| now.is_within(&before));
    ensure!(wait_until(REST, rests), "before: {before:?}, after: {:?}", Held::by(&wire.server)?);
    Ok(Storm { nodes, memory_mib })
}

fn start_bootserve(wire: &Wire) -> Result<Running<'_>> {
    let store = bench_dir().join("store-storm");
    publish(&store, IMAGE, IMAGE_BYTES)?;
    let programs = wire.dir().display();
    fs::write(wire.dir().join(PROGRAM), vec![0x5a; PROGRAM_BYTES])?;
    let mut more = format!("[network]\nsubnet = '{SUBNET}'\n[nbp]\ndirs = ['{programs}']\n");
    for node in (0..NODES).map(Node) {
        let (number, mac, address) = (node.0, node.mac(), node.address());
        more += &format!(
            "[[node]]\nname = 'node-{number:03}'\nmac = '{mac}'\naddress = '{address}'\nimage = 'storm'\n"
        );
    }
    wire.start_bootserve(&store, &more)
}

/// The machine at the end of the cable has the addresses of all nodes. To the server it is a router, as otherwise there would be
/// more neighbours than the kernel keeps by default.
fn add_addresses(wire: &Wire) -> Result<()> {
    wire.server.route(SUBNET, CLIENT_ADDRESS)?;
    let batch: String = (0..NODES)
        .map(|number| format!("address add {}/32 dev {CLIENT_INTERFACE}\n", Node(number).address()))
        .collect();
    // Broadcasts of who has no address yet.
    let batch = batch + &format!("route add 255.255.255.255/32 dev {CLIENT_INTERFACE}\n");
    let path = wire.dir().join("addresses");
    fs::write(&path, batch)?;
    let status = wire.client.command("ip").arg("-batch").arg(path).status()?;
    ensure!(status.success(), "ip -batch: {status}");
    Ok(())
}

/// Switches all on at once and waits for them.
fn switch_on() -> Result<Vec<Times>> {
    allow(u64::from(NODES) * 2)?;
    let air = Arc::new(Air::open()?);
    let (senders, inboxes): (Vec<_>, Vec<_>) = (0..NODES).map(|_| mpsc::channel()).unzip();
    let listener = {
        let air = Arc::clone(&air);
        thread::spawn(move || air.listen(&senders))
    };
    let power = Arc::new((Barrier::new(NODES as usize), OnceLock::new()));
    let start = |(node, inbox): (Node, Receiver<Heard>)| {
        let (air, power) = (Arc::clone(&air), Arc::clone(&power));
        let boot = move || {
            power.0.wait();
            // Of all of them: a node that this machine lets run late has waited, too.
            let power_on = *power.1.get_or_init(Instant::now);
            node.boot(power_on, &air, inbox).with_context(|| format!("node {}", node.0))
        };
        thread::Builder::new().stack_size(256 << 10).spawn(boot)
    };
    let nodes: Vec<_> = (0..NODES).map(Node).zip(inboxes).map(start).collect::<Result<_, _>>()?;
    let times: Result<_> = nodes.into_iter().map(|node| node.join().expect("no node panics")).collect();
    listener.join().expect("the listener does not panic")?;
    times
}

/// What a node hears by DHCP.
type Heard = (MessageType, Ipv4Addr);

/// The broadcasts of all nodes and to them.
struct Air(UdpSocket);

impl Air {
    fn open() -> Result<Self> {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, CLIENT_PORT))?;
        socket.set_broadcast(true)?;
        socket.set_read_timeout(Some(STALL))?;
        set_socket_recv_buffer_size_force(&socket, RECEIVE_BUFFER_BYTES)?;
        Ok(Self(socket))
    }

    /// Hands what it hears to the nodes, by the xid, until all have an address.
    fn listen(&self, nodes: &[Sender<Heard>]) -> Result<()> {
        let (mut acknowledged, mut packet) = (HashSet::new(), [0; 1500]);
        while acknowledged.len() < nodes.len() {
            let length = self.0.recv(&mut packet).context("the DHCP server is silent")?;
            let message = Message::decode(&mut Decoder::new(&packet[..length]))?;
            let kind = message.opts().msg_type().context("an answer without a type")?;
            if kind == MessageType::Ack {
                acknowledged.insert(message.xid());
            }
            // One that has its address does not listen any more.
            let _ = nodes[message.xid() as usize].send((kind, message.yiaddr()));
        }
        Ok(())
    }
}

/// By its number.
#[derive(Clone, Copy)]
struct Node(u32);

impl Node {
    fn mac(self) -> MacAddr {
        let [_, _, high, low] = self.0.to_be_bytes();
        MacAddr::new([0xfc, 0xab, 0x14, 0xe8, high, low])
    }

    fn address(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(FIRST_NODE.to_bits() + self.0)
    }

    fn boot(self, power_on: Instant, air: &Air, inbox: Receiver<Heard>) -> Result<Times> {
        let offered = self.ask(air, &inbox, MessageType::Discover, MessageType::Offer, None)?;
        let first_answer = power_on.elapsed();
        let given = self.ask(air, &inbox, MessageType::Request, MessageType::Ack, Some(offered))?;
        ensure!(given == self.address(), "{given} is another node's");
        drop(inbox);
        let address = power_on.elapsed();
        let server = SocketAddr::new(SERVER_ADDRESS.parse()?, 69);
        let fetched = fetch_from((self.address(), 0).into(), server, PROGRAM, TERMS)?;
        ensure!(fetched.len() == PROGRAM_BYTES, "the boot program has {} bytes", fetched.len());
        let program = power_on.elapsed();
        let path = self.fetch_script()?;
        let script = power_on.elapsed();
        self.fetch_image(&path)?;
        Ok(Times { first_answer, address, program, script, image: power_on.elapsed() })
    }

    /// Sends a `kind`, again if need be, until the `wanted` answer comes; its address.
    fn ask(
        self,
        air: &Air,
        inbox: &Receiver<Heard>,
        kind: MessageType,
        wanted: MessageType,
        address: Option<Ipv4Addr>,
    ) -> Result<Ipv4Addr> {
        let unset = Ipv4Addr::UNSPECIFIED;
        let chaddr = self.mac().octets();
        let mut message = Message::new_with_id(self.0, unset, unset, unset, unset, &chaddr);
        message.set_flags(Flags::default().set_broadcast());
        message.opts_mut().insert(DhcpOption::MessageType(kind));
        if let Some(address) = address {
            message.opts_mut().insert(DhcpOption::RequestedIpAddress(address));
            message.opts_mut().insert(DhcpOption::ServerIdentifier(SERVER_ADDRESS.parse()?));
        }
        let packet = message.to_vec()?;
        for patience in DHCP_WAITS {
            air.0.send_to(&packet, (Ipv4Addr::BROADCAST, SERVER_PORT))?;
            let deadline = Instant::now() + patience;
            while let Ok((kind, address)) =
                inbox.recv_timeout(deadline.saturating_duration_since(Instant::now()))
            {
                if kind == wanted {
                    return Ok(address);
                }
            }
        }
        bail!("no {wanted:?} comes")
    }

    /// The path of the image that the script names.
    fn fetch_script(self) -> Result<String> {
        let mut stream = self.get(&format!("/ipxe?mac={}", self.mac().hyphenated()))?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let origin = format!("http://{SERVER_ADDRESS}");
        let paths = answer.split_whitespace().filter_map(|word| word.strip_prefix(&origin));
        let path = paths.into_iter().find(|path| path.contains(INITRAMFS));
        Ok(path.with_context(|| format!("no initramfs in {answer}"))?.to_owned())
    }

    /// No faster than [`IMAGE_BYTES_PER_SECOND`].
    fn fetch_image(self, path: &str) -> Result<()> {
        let mut stream = self.get(path)?;
        let (head, body) = read_head(&mut stream)?;
        ensure!(head.starts_with("HTTP/1.1 200 "), "{head}");
        let (began, mut fetched) = (Instant::now(), body.len() as u64);
        let mut buffer = vec![0; PIECE_BYTES];
        while fetched < IMAGE_BYTES {
            let most = usize::try_from(IMAGE_BYTES - fetched)?.min(buffer.len());
            let (_, received) = recv(&stream, &mut buffer[..most], RecvFlags::TRUNC)?;
            ensure!(received > 0, "the connection ended after {fetched} bytes");
            fetched += received as u64;
            let due = began + Duration::from_secs_f64(fetched as f64 / IMAGE_BYTES_PER_SECOND);
            thread::sleep(due.saturating_duration_since(Instant::now()));
        }
        Ok(())
    }

    /// A connection from the node's address, on which the request was sent.
    fn get(self, path: &str) -> Result<TcpStream> {
        let socket = socket(AddressFamily::INET, SocketType::STREAM, None)?;
        bind(&socket, &SocketAddrV4::new(self.address(), 0))?;
        connect(&socket, &SocketAddrV4::new(SERVER_ADDRESS.parse()?, 80))?;
        let mut stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(STALL))?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {SERVER_ADDRESS}\r\nConnection: close\r\n\r\n")?;
        Ok(stream)
    }
}
