//! Others on bootserve's wire: a host that has an address of the range without having asked for it, and another DHCP server.

use std::fs;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bootlab::api::get;
use bootlab::daemon::Daemon;
use bootlab::deadline::{wait_until, within};
use bootlab::netns::{BRIDGE, NetNs, SERVER_ADDRESS};
use bootlab::other_dhcp::OtherDhcp;
use bootlab::served::spawn;
use dhcproto::v4::{Decodable, Decoder, DhcpOption, Encodable, Flags, Message, MessageType, OptionCode};

/// All of this takes less than a second.
const LIMIT: Duration = Duration::from_secs(10);
/// Whoever has no answer by now asks again.
const REPEAT: Duration = Duration::from_secs(1);
/// Addresses of the range: the first, which a host of another admin has, and the second.
const SQUATTED: Ipv4Addr = Ipv4Addr::new(192, 168, 0, 200);
const NEXT: Ipv4Addr = Ipv4Addr::new(192, 168, 0, 201);
const RESERVED: Ipv4Addr = Ipv4Addr::new(192, 168, 0, 100);
const CLIENT_ADDRESS: &str = "192.168.0.5";
const STRANGER: [u8; 6] = [2, 0, 0, 0, 0, 1];
const NODE: [u8; 6] = [0xfc, 0xab, 0x14, 0xe8, 0x66, 1];

/// A server, and a machine on its wire that speaks for all clients.
struct Wire {
    // In this order they are dropped: the programs before their namespaces.
    _bootserve: Daemon,
    socket: UdpSocket,
    _clients: NetNs,
    server: NetNs,
    dir: tempfile::TempDir,
}

impl Wire {
    fn start(dhcp: &str) -> Result<Self> {
        bootlab::netns::sweep()?;
        let (server, clients, dir) = (NetNs::create()?, NetNs::empty()?, tempfile::tempdir()?);
        server.connect(&clients, "clients")?;
        clients.add_address("clients", CLIENT_ADDRESS)?;
        let socket = clients.inside(|| {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 68))?;
            socket.set_broadcast(true)?;
            socket.set_read_timeout(Some(within(REPEAT)))?;
            Ok::<_, std::io::Error>(socket)
        })??;
        let path = dir.path().display();
        fs::write(
            dir.path().join("bootserve.toml"),
            format!(
                "[server]\ninterface = '{BRIDGE}'\naddress = '{SERVER_ADDRESS}'\nstore = '{path}'\nstate = '{path}/state'\n\
                 user = 'nobody'\n[dhcp]\n{dhcp}\n\
                 [network]\nsubnet = '192.168.0.0/24'\nrange = '{SQUATTED}-{NEXT}'\n\
                 [[node]]\nname = 'node'\nmac = 'fc:ab:14:e8:66:01'\naddress = '{RESERVED}'\nimage = 'failsafe'\n"
            ),
        )?;
        let bootserve = spawn(&server, dir.path(), &[])?;
        Ok(Self { _bootserve: bootserve, socket, _clients: clients, server, dir })
    }

    /// A host that has `address` and knows nothing of DHCP.
    fn host_at(&self, address: Ipv4Addr) -> Result<NetNs> {
        let host = NetNs::empty()?;
        self.server.connect(&host, "squatter")?;
        host.add_address("squatter", &address.to_string())?;
        Ok(host)
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("bootserve.log")).unwrap_or_default()
    }

    fn send(&self, mac: [u8; 6], options: Vec<DhcpOption>) -> Result<()> {
        let unset = Ipv4Addr::UNSPECIFIED;
        let mut message = Message::new_with_id(mac[5].into(), unset, unset, unset, unset, &mac);
        // dnsmasq would send to the address of the client, which nobody has here.
        message.set_flags(Flags::default().set_broadcast());
        for option in options {
            message.opts_mut().insert(option);
        }
        self.socket.send_to(&message.to_vec()?, ("192.168.0.255", 67))?;
        Ok(())
    }

    fn discover(&self, mac: [u8; 6]) -> Result<()> {
        self.send(mac, vec![DhcpOption::MessageType(MessageType::Discover)])
    }

    /// The next reply; none if there is silence.
    fn receive(&self) -> Result<Option<Message>> {
        let mut packet = [0; 1500];
        match self.socket.recv(&mut packet) {
            Ok(length) => Ok(Some(Message::decode(&mut Decoder::new(&packet[..length]))?)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// The addresses that are offered, in this order.
    fn offers<const N: usize>(&self) -> Result<[Ipv4Addr; N]> {
        let mut offers = [Ipv4Addr::UNSPECIFIED; N];
        for offer in &mut offers {
            let message = self.receive()?.with_context(|| format!("no offer: {}", self.log()))?;
            *offer = message.yiaddr();
        }
        Ok(offers)
    }

    fn counts(&self, line: &str) -> Result<()> {
        let metrics = get(&self.server, "/metrics")?;
        ensure!(metrics.lines().any(|found| found == line), "{line} in {metrics}");
        Ok(())
    }
}

#[test]
fn an_address_that_a_host_has_is_not_offered_and_a_node_does_not_wait_for_that() -> Result<()> {
    let wire = Wire::start("")?;
    let _host = wire.host_at(SQUATTED)?;
    wire.discover(STRANGER)?;
    wire.discover(NODE)?;
    // The stranger's comes later, as nobody answers for it at the second address.
    let offers = wire.offers::<2>()?;
    ensure!(offers == [RESERVED, NEXT], "{offers:?}\n{}", wire.log());
    let log = wire.log();
    let warning = log.lines().find(|line| line.contains("answers before it was given out"));
    ensure!(warning.is_some_and(|line| line.contains("192.168.0.200")), "{log}");
    wire.counts("bootserve_dhcp_conflicts_total{found_by=\"probe\"} 1")
}

#[test]
fn without_the_check_the_address_is_offered_at_once() -> Result<()> {
    let wire = Wire::start("ping_check = false")?;
    let _host = wire.host_at(SQUATTED)?;
    wire.discover(STRANGER)?;
    let offers = wire.offers::<1>()?;
    ensure!(offers == [SQUATTED], "{offers:?}\n{}", wire.log());
    wire.counts("bootserve_dhcp_conflicts_total{found_by=\"probe\"} 0")
}

/// A client takes the offer of the other server, and its REQUEST is heard by both.
#[test]
fn another_server_on_the_wire_is_told_once() -> Result<()> {
    let wire = Wire::start("")?;
    let _other = OtherDhcp::Dnsmasq.start(&wire.server, wire.dir.path(), &[])?;
    for _ in 0..2 {
        let (server, address) = other_offer(&wire)?;
        wire.send(
            STRANGER,
            vec![
                DhcpOption::MessageType(MessageType::Request),
                DhcpOption::ServerIdentifier(server),
                DhcpOption::RequestedIpAddress(address),
            ],
        )?;
        let is_acknowledged = |message: &Message| message.opts().has_msg_type(MessageType::Ack);
        while !is_acknowledged(&wire.receive()?.context("dnsmasq does not acknowledge its offer")?) {}
    }
    let is_warned = |log: &str| log.matches("there is another DHCP server").count() == 1;
    ensure!(wait_until(LIMIT, || is_warned(&wire.log())), "{}", wire.log());
    for part in ["192.168.0.3", "02:00:00:00:00:01", "hint="] {
        ensure!(wire.log().contains(part), "{part} in {}", wire.log());
    }
    wire.counts("bootserve_dhcp_other_servers_total 1")?;
    // And what it keeps from booting is said of the node.
    let (server, address) = other_offer(&wire)?;
    wire.send(
        NODE,
        vec![
            DhcpOption::MessageType(MessageType::Request),
            DhcpOption::ServerIdentifier(server),
            DhcpOption::RequestedIpAddress(address),
        ],
    )?;
    let status = || get(&wire.server, "/v1/status?node=node");
    let cause = format!("DHCP: it talks to another server, {server}");
    ensure!(wait_until(LIMIT, || status().is_ok_and(|status| status.contains(&cause))), "{:?}", status());
    Ok(())
}

/// Who else makes an offer, and of which address.
fn other_offer(wire: &Wire) -> Result<(Ipv4Addr, Ipv4Addr)> {
    let ours: Ipv4Addr = SERVER_ADDRESS.parse()?;
    let mut found = None;
    let is_found = wait_until(LIMIT, || {
        wire.discover(STRANGER).expect("the socket sends");
        while let (None, Some(message)) = (found, wire.receive().expect("the socket receives")) {
            if let Some(DhcpOption::ServerIdentifier(server)) =
                message.opts().get(OptionCode::ServerIdentifier)
                && message.opts().has_msg_type(MessageType::Offer)
                && *server != ours
            {
                found = Some((*server, message.yiaddr()));
            }
        }
        found.is_some()
    });
    match found {
        Some(found) if is_found => Ok(found),
        _ => bail!("dnsmasq offers nothing: {}", fs::read_to_string(wire.dir.path().join("other-dhcp.log"))?),
    }
}
