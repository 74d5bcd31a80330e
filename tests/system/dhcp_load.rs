//! Many DHCP clients at once, while the server is killed, its disk is full, or its configuration changes: whoever was told that
//! an address is its own has it alone, and nobody has to ask twice for what the server does.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::net::{Ipv4Addr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bootlab::daemon::Daemon;
use bootlab::deadline::wait_until;
use bootlab::netns::{BRIDGE, NetNs, SERVER_ADDRESS};
use bootlab::places::program;
use bootlab::served::spawn;
use dhcproto::v4::{Decodable, Decoder, DhcpOption, Encodable, Message, MessageType};

/// All of this takes the server less than a second.
const LIMIT: Duration = Duration::from_secs(20);
/// Whoever has no answer by now asks again.
const REPEAT: Duration = Duration::from_millis(300);
/// The relay, in the network of its clients.
const RELAY: Ipv4Addr = Ipv4Addr::new(10, 64, 0, 1);
const CLIENTS: u16 = 600;

/// A server and, behind a relay, its clients.
struct Site {
    // Dropped before the namespace of the server.
    clients: NetNs,
    server: NetNs,
    dir: tempfile::TempDir,
}

impl Site {
    fn new() -> Result<Self> {
        bootlab::netns::sweep()?;
        let (server, clients) = (NetNs::create()?, NetNs::empty()?);
        server.connect(&clients, "eth0")?;
        clients.add_address("eth0", "192.168.0.2")?;
        clients.add_address("eth0", &RELAY.to_string())?;
        server.route("10.64.0.0/16", "192.168.0.2")?;
        Ok(Self { clients, server, dir: tempfile::tempdir()? })
    }

    fn config(&self) -> PathBuf {
        self.dir.path().join("bootserve.toml")
    }

    /// Addresses are not asked before they are offered: answers come at once, or not at all.
    fn write_config(&self, state: &Path, more: &str) -> Result<()> {
        let (dir, state) = (self.dir.path().display(), state.display());
        let text = format!(
            "[server]\ninterface = '{BRIDGE}'\naddress = '{SERVER_ADDRESS}'\nstore = '{dir}'\nstate = '{state}'\n\
             [dhcp]\nping_check = false\n[[network]]\nsubnet = '192.168.0.0/24'\n\
             [[network]]\nsubnet = '10.64.0.0/16'\nrange = '10.64.1.0-10.64.3.250'\n{more}"
        );
        Ok(fs::write(self.config(), text)?)
    }

    fn start_bootserve(&self, state: &Path) -> Result<Daemon> {
        self.write_config(state, "")?;
        spawn(&self.server, self.dir.path(), &[])
    }

    fn log(&self) -> PathBuf {
        self.dir.path().join("bootserve.log")
    }

    /// What the server that runs has logged.
    fn says(&self) -> String {
        fs::read_to_string(self.log()).unwrap_or_default()
    }

    /// The relay's socket.
    fn relay(&self) -> Result<Relay> {
        let socket = self.clients.inside(|| {
            let socket = UdpSocket::bind((RELAY, 67))?;
            socket.connect((SERVER_ADDRESS, 67))?;
            socket.set_read_timeout(Some(REPEAT))?;
            Ok::<_, std::io::Error>(socket)
        })??;
        Ok(Relay { socket, acknowledged: BTreeMap::new(), wires: None })
    }
}

/// One direction of a wire that loses a fifth of the packets and lets another fifth be overtaken. It does so alike in each run.
#[derive(Default)]
struct BadWire {
    packets: u32,
    overtaken: Option<Vec<u8>>,
}

impl BadWire {
    /// What comes out when a packet goes in.
    fn pass(&mut self, packet: Vec<u8>) -> Vec<Vec<u8>> {
        self.packets += 1;
        // Fibonacci hashing: no pattern that requests and their answers share.
        match (self.packets.wrapping_mul(2_654_435_769) >> 16) % 5 {
            0 => Vec::new(),
            1 => self.overtaken.replace(packet).into_iter().collect(),
            _ => [packet].into_iter().chain(self.overtaken.take()).collect(),
        }
    }
}

/// To the server, and from it; with the answers that have come out of it and were not looked at.
#[derive(Default)]
struct BadWires {
    requests: BadWire,
    answers: BadWire,
    arrived: VecDeque<Vec<u8>>,
}

/// Clients are numbers here.
struct Relay {
    socket: UdpSocket,
    acknowledged: BTreeMap<u16, Ipv4Addr>,
    wires: Option<BadWires>,
}

impl Relay {
    /// What `client` says; of a REQUEST, the address.
    fn send(&mut self, client: u16, kind: MessageType, address: Option<Ipv4Addr>) -> Result<()> {
        let [high, low] = client.to_be_bytes();
        let unset = Ipv4Addr::UNSPECIFIED;
        let mut message =
            Message::new_with_id(client.into(), unset, unset, unset, RELAY, &[2, 0, 0, 0, high, low]);
        message.opts_mut().insert(DhcpOption::MessageType(kind));
        if let Some(address) = address {
            message.opts_mut().insert(DhcpOption::RequestedIpAddress(address));
            message.opts_mut().insert(DhcpOption::ServerIdentifier(SERVER_ADDRESS.parse()?));
        }
        let packet = message.to_vec()?;
        let packets = match &mut self.wires {
            Some(wires) => wires.requests.pass(packet),
            None => vec![packet],
        };
        packets.iter().try_for_each(|packet| match self.socket.send(packet) {
            // What is sent while the server is dead comes back as an error of the next call.
            Err(error) if error.kind() != ErrorKind::ConnectionRefused => Err(error.into()),
            _ => Ok(()),
        })
    }

    /// The next packet; none if there is silence.
    fn next_packet(&mut self) -> Result<Option<Vec<u8>>> {
        let mut buffer = [0; 1500];
        loop {
            if let Some(packet) = self.wires.as_mut().and_then(|wires| wires.arrived.pop_front()) {
                return Ok(Some(packet));
            }
            let packet = match self.socket.recv(&mut buffer) {
                Ok(length) => buffer[..length].to_vec(),
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::ConnectionRefused) =>
                {
                    return Ok(None);
                }
                Err(error) => return Err(error.into()),
            };
            let Some(BadWires { answers, arrived, .. }) = &mut self.wires else { return Ok(Some(packet)) };
            arrived.extend(answers.pass(packet));
        }
    }

    /// The next answer; none if there is silence.
    fn receive(&mut self) -> Result<Option<(u16, MessageType, Ipv4Addr)>> {
        let Some(packet) = self.next_packet()? else { return Ok(None) };
        let message = Message::decode(&mut Decoder::new(&packet))?;
        let kind = message.opts().msg_type().context("an answer without a type")?;
        Ok(Some((message.xid().try_into()?, kind, message.yiaddr())))
    }

    /// `clients` ask, and ask again, until as many as `enough` says are acknowledged; whoever was so before must get the same
    /// address.
    fn serve(&mut self, clients: &[u16], enough: usize) -> Result<()> {
        let mut done = HashSet::new();
        let is_served = wait_until(LIMIT, || {
            let waiting = clients.iter().filter(|client| !done.contains(*client));
            waiting.for_each(|client| {
                self.send(*client, MessageType::Discover, None).expect("the socket sends")
            });
            while done.len() < enough
                && let Some((client, kind, address)) = self.receive().expect("the socket receives")
            {
                match kind {
                    MessageType::Offer => {
                        self.send(client, MessageType::Request, Some(address)).expect("the socket sends");
                    }
                    MessageType::Ack => {
                        done.insert(client);
                        let before = self.acknowledged.insert(client, address);
                        assert!(before.is_none_or(|before| before == address), "{client} had {before:?}");
                    }
                    _ => {}
                }
            }
            done.len() >= enough
        });
        ensure!(is_served, "{} of {enough} clients were served", done.len());
        Ok(())
    }

    /// Acknowledgements that were on the way when the server died.
    fn receive_rest(&mut self) -> Result<()> {
        while let Some((client, kind, address)) = self.receive()? {
            if kind == MessageType::Ack {
                self.acknowledged.insert(client, address);
            }
        }
        Ok(())
    }
}

#[test]
fn no_acknowledged_address_is_lost_when_the_server_is_killed_under_load() -> Result<()> {
    let site = Site::new()?;
    let state = site.dir.path().join("state");
    let mut relay = site.relay()?;
    for enough in [40, 120, 200] {
        let server = site.start_bootserve(&state)?;
        // Those that have no address yet: they would be given one that was forgotten.
        let strangers: Vec<u16> =
            (0..CLIENTS).filter(|client| !relay.acknowledged.contains_key(client)).collect();
        relay.serve(&strangers, enough)?;
        // By SIGKILL.
        drop(server);
        relay.receive_rest()?;
        ensure!(relay.acknowledged.len() < CLIENTS.into(), "the server was killed too late to be under load");
    }
    let _server = site.start_bootserve(&state)?;
    let strangers: Vec<u16> =
        (0..CLIENTS).filter(|client| !relay.acknowledged.contains_key(client)).collect();
    relay.serve(&strangers, strangers.len())?;
    let all: Vec<u16> = (0..CLIENTS).collect();
    relay.serve(&all, all.len())?;
    let addresses: HashSet<_> = relay.acknowledged.values().collect();
    ensure!(addresses.len() == usize::from(CLIENTS), "{} addresses", addresses.len());
    Ok(())
}

#[test]
fn on_a_wire_that_loses_and_reorders_packets_each_has_an_address_of_its_own() -> Result<()> {
    let site = Site::new()?;
    let _server = site.start_bootserve(&site.dir.path().join("state"))?;
    let mut relay = Relay { wires: Some(BadWires::default()), ..site.relay()? };
    let all: Vec<u16> = (0..CLIENTS).collect();
    relay.serve(&all, all.len())?;
    let addresses: HashSet<_> = relay.acknowledged.values().collect();
    ensure!(addresses.len() == usize::from(CLIENTS), "{} addresses", addresses.len());
    // On a good wire, all get the same again.
    relay.wires = None;
    relay.receive_rest()?;
    relay.serve(&all, all.len())
}

/// A small file system, unmounted when dropped.
struct SmallDisk<'a>(&'a Path);

impl<'a> SmallDisk<'a> {
    fn mount(path: &'a Path) -> Result<Self> {
        fs::create_dir(path)?;
        let status =
            Command::new("mount").args(["-t", "tmpfs", "-o", "size=512k", "tmpfs"]).arg(path).status()?;
        ensure!(status.success(), "mount: {status}");
        Ok(Self(path))
    }

    fn fill(&self) -> Result<()> {
        let mut file = File::create(self.0.join("filler"))?;
        loop {
            match file.write_all(&[1; 512]) {
                Err(error) if error.kind() == ErrorKind::StorageFull => return Ok(()),
                written => written?,
            }
        }
    }

    fn empty(&self) -> Result<()> {
        Ok(fs::remove_file(self.0.join("filler"))?)
    }
}

impl Drop for SmallDisk<'_> {
    fn drop(&mut self) {
        // Lazily: bootserve may not be gone yet.
        let _ = Command::new("umount").arg("--lazy").arg(self.0).status();
    }
}

#[test]
fn with_a_full_disk_nothing_is_acknowledged_and_the_log_says_why_until_there_is_space() -> Result<()> {
    let site = Site::new()?;
    let state = site.dir.path().join("state");
    let disk = SmallDisk::mount(&state)?;
    let _server = site.start_bootserve(&state)?;
    let mut relay = site.relay()?;
    relay.serve(&[1], 1)?;
    disk.fill()?;
    let mut asked = 100..CLIENTS;
    let fails = wait_until(LIMIT, || {
        let client = asked.next().expect("one of them finds no space");
        relay.send(client, MessageType::Discover, None).expect("the socket sends");
        let offer = relay.receive().expect("the socket receives");
        let Some((_, MessageType::Offer, address)) = offer else { panic!("no offer: {offer:?}") };
        relay.send(client, MessageType::Request, Some(address)).expect("the socket sends");
        relay.receive().expect("the socket receives").is_none()
    });
    ensure!(fails, "leases find space: {}", site.says());
    let log = site.says();
    for part in ["cannot store DHCP leases", "database or disk is full", "hint=", "server.state"] {
        ensure!(log.contains(part), "{part} in {log}");
    }
    disk.empty()?;
    relay.serve(&[2, 3, 4], 3)?;
    ensure!(site.says().contains("DHCP leases are stored again"), "{}", site.says());
    Ok(())
}

#[test]
fn no_request_is_lost_while_the_configuration_is_read_again() -> Result<()> {
    let site = Site::new()?;
    let state = site.dir.path().join("state");
    let server = site.start_bootserve(&state)?;
    let mut relay = site.relay()?;
    let reads = || site.says().matches("the configuration is in force").count();
    for round in 0..10_u16 {
        // The last client of each round is a node now, with an address outside of the range.
        let node = round * 20 + 19;
        let reserved = Ipv4Addr::new(10, 64, 9, node.try_into()?);
        let [high, low] = node.to_be_bytes();
        let more = format!(
            "[[node]]\nname = 'n{node}'\nmac = '02:00:00:00:{high:02x}:{low:02x}'\naddress = '{reserved}'\nimage = 'x/1'\n"
        );
        let before = reads();
        for client in round * 20..node {
            relay.send(client, MessageType::Discover, None)?;
            if client % 20 == 3 {
                site.write_config(&state, &more)?;
                server.signal("HUP")?;
            }
        }
        let mut offered = HashSet::new();
        while offered.len() < 19 {
            let answer = relay.receive()?.with_context(|| format!("after {offered:?}: {}", site.says()))?;
            offered.insert(answer.0);
        }
        ensure!(wait_until(LIMIT, || reads() > before), "not read again: {}", site.says());
        relay.send(node, MessageType::Discover, None)?;
        let offer = relay.receive()?;
        ensure!(offer == Some((node, MessageType::Offer, reserved)), "{offer:?} for {reserved}");
    }
    Ok(())
}

#[test]
fn what_a_service_manager_receives_before_the_server_runs_is_answered() -> Result<()> {
    let site = Site::new()?;
    site.write_config(&site.dir.path().join("state"), "")?;
    let mut command = site.server.command("systemd-socket-activate");
    command.args(["--datagram", "--listen=0.0.0.0:67", "--listen"]).arg(format!("{SERVER_ADDRESS}:69"));
    command.arg(program("bootserve")?).args(["serve", "--config"]).arg(site.config());
    let _manager = Daemon::start(command, &site.log())?;
    ensure!(wait_until(LIMIT, || site.says().contains("Listening on")), "{}", site.says());
    let mut relay = site.relay()?;
    relay.send(1, MessageType::Discover, None)?;
    let mut offer = None;
    wait_until(LIMIT, || {
        offer = relay.receive().expect("the socket receives");
        offer.is_some()
    });
    ensure!(matches!(offer, Some((1, MessageType::Offer, _))), "{offer:?}: {}", site.says());
    // Taken, not bound beside: nobody else could answer on the port.
    ensure!(!site.says().contains("no use for"), "{}", site.says());
    Ok(())
}
