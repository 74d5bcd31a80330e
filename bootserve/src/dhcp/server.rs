//! The state machine of the server (RFC 2131 section 4.3): a packet and the time in, actions out. It reads no clock and
//! no socket. A repeated packet gets the same answer.

use std::collections::HashSet;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bootspec::MacAddr;
use dhcproto::error::EncodeError;
use dhcproto::v4::MessageType;
use tracing::{debug, error, info, warn};

use super::boot::{BootOptions, boot_options};
use super::client::Client;
use super::ignored::Ignored;
use super::leases::{Lease, LeaseTable};
use super::ping::Probed;
use super::probe::Probes;
use super::reply::{self, Reply};
use super::request::{Kind, Request};
use crate::config::{Config, Network, Node, NodeKey};
use crate::discovery::port::RelayPort;
use crate::nbp::NbpSet;
use crate::policy::Stage;

/// How long an offered address is kept for the client that has not asked for it yet. PXE firmware gathers offers for
/// several seconds.
const OFFER_HOLD: Duration = Duration::from_secs(60);
/// How long an address that is in use by someone else is kept out of the range.
const DECLINE_QUARANTINE: Duration = Duration::from_secs(600);

/// Other servers that are told from each other. Whoever makes them up takes no more memory.
const MAX_OTHER_SERVERS: usize = 64;

/// What the driver has to do, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Store the lease. It must be durable before the next `Send`: an address that a client was told is its own must
    /// not be forgotten.
    Store(Lease),
    /// Note that the firmware of this machine was given an address.
    Booting(MacAddr),
    /// Store where a relay has seen a machine that is no node.
    Port(MacAddr, RelayPort),
    /// Count an address that its client found to be in use.
    Declined,
    /// Ask this address whether someone has it, and tell [`Server::probed`].
    Probe(Ipv4Addr),
    /// Send a packet.
    Send(Reply),
}

/// The DHCP server of one network.
#[derive(Debug)]
pub struct Server {
    config: Arc<Config>,
    nbps: Arc<NbpSet>,
    leases: LeaseTable,
    /// None: addresses are offered unseen.
    probes: Option<Probes>,
    /// The servers that clients on our wire talked to.
    others: HashSet<Ipv4Addr>,
}

impl Server {
    /// A server that continues with `stored` leases.
    pub fn new(config: Arc<Config>, nbps: Arc<NbpSet>, stored: Vec<Lease>) -> Self {
        recall(&config, &stored);
        let leases = LeaseTable::new(&config, stored);
        Self { config, nbps, leases, probes: None, others: HashSet::new() }
    }

    /// From now on, addresses that the machine has not had are probed before they are offered.
    pub fn probe_addresses(&mut self) {
        self.probes.get_or_insert_default();
    }

    /// Goes on with another configuration, and the leases that it allows.
    pub fn reconfigure(&mut self, config: Arc<Config>, nbps: Arc<NbpSet>) {
        self.leases = self.leases.with_config(&config);
        (self.config, self.nbps) = (config, nbps);
    }

    /// Goes on after the clock was set from `before` to `now`; returns what has to be stored.
    pub fn set_clock(&mut self, before: SystemTime, now: SystemTime) -> Vec<Action> {
        let config = &self.config;
        let longest = |address| config.networks.of(address).map(|network| network.lease).unwrap_or_default();
        self.leases.set_clock(before, now, longest).into_iter().map(Action::Store).collect()
    }

    /// Answers a packet, or says why not.
    pub fn answer(&mut self, now: SystemTime, packet: &[u8]) -> Result<Vec<Action>, Ignored> {
        self.handle(now, &Request::parse(packet)?)
    }

    /// Offers the address whose probe has ended to whoever waits for it, or another one if it is in use.
    pub fn probed(&mut self, now: SystemTime, probed: Probed) -> Result<Vec<Action>, Ignored> {
        let Probed { address, in_use } = probed;
        let request = self.probes.as_mut().and_then(|probes| probes.end(address));
        // It may have asked for another address since.
        let Some(request) = request.filter(|request| self.leases.has(request.mac, address)) else {
            return Ok(Vec::new());
        };
        if in_use {
            let hint = "another machine has it without asking us: find it (ip neigh), or leave the address out of the range";
            warn!(mac = %request.mac, %address, hint, "address answers before it was given out and is left out for ten minutes");
            self.leases.quarantine(request.mac, address, now + DECLINE_QUARANTINE);
            return self.handle(now, &request);
        }
        let config = Arc::clone(&self.config);
        Ok(self.offer(&Client::identify(&config, &request), address))
    }

    fn handle(&mut self, now: SystemTime, request: &Request) -> Result<Vec<Action>, Ignored> {
        let (mac, xid) = (request.mac, format_args!("{:08x}", request.xid));
        debug!(%mac, %xid, kind = ?request.kind, stage = ?request.stage, "DHCP request");
        let config = Arc::clone(&self.config);
        let client = Client::identify(&config, request);
        let at = request.link().unwrap_or(config.server.address);
        let link = config.networks.on_link_of(at).ok_or(Ignored::Network { mac, at })?;
        match request.kind {
            Kind::Dhcp(MessageType::Discover) => self.discover(now, &client, link),
            Kind::Dhcp(MessageType::Request) => self.request(now, &client, link),
            Kind::Dhcp(MessageType::Release) => self.release(now, request),
            Kind::Dhcp(MessageType::Decline) => Ok(self.decline(now, &client)),
            Kind::Dhcp(MessageType::Inform) => self.inform(&client),
            Kind::Bootp { .. } => self.bootp(now, &client, link),
            kind => Err(Ignored::Kind(kind)),
        }
    }

    fn discover(
        &mut self,
        now: SystemTime,
        client: &Client,
        link: &[Network],
    ) -> Result<Vec<Action>, Ignored> {
        let mac = client.mac();
        let free = || self.leases.choose(mac, link, client.request.requested, now);
        let address = client.reservation(link).or_else(free).ok_or_else(|| Ignored::NoAddress {
            mac,
            subnets: link.iter().map(|network| network.subnet).collect(),
        })?;
        let is_new = client.reservation(link).is_none() && !self.leases.has(mac, address);
        self.leases.hold(mac, address, now + OFFER_HOLD);
        if let Some(probes) = &mut self.probes {
            if probes.wait(address, client.request) {
                return Ok(Vec::new());
            }
            if is_new && probes.begin(address, client.request, now) {
                return Ok(vec![Action::Probe(address)]);
            }
        }
        Ok(self.offer(client, address))
    }

    fn offer(&self, client: &Client, address: Ipv4Addr) -> Vec<Action> {
        let mac = client.mac();
        let boot = boot_options(&self.config, &self.nbps, client);
        if let Some(node) = client.node().filter(|node| node.address != address) {
            let hint = "change its address, or move it back";
            warn!(%mac, node = %node.name, reserved = %node.address, offered = %address, hint, "node is in another network than its reserved address");
        }
        debug!(%mac, node = client.node_name(), %address, offer = %boot, "DHCP offer");
        send(mac, self.lease(client, MessageType::Offer, address, &boot))
    }

    fn lease(
        &self,
        client: &Client,
        kind: MessageType,
        address: Ipv4Addr,
        boot: &BootOptions,
    ) -> Result<Reply, EncodeError> {
        reply::lease(&self.config, self.network_of(address), client, kind, address, boot)
    }

    /// `address` is one that the leases have chosen or accepted.
    fn network_of(&self, address: Ipv4Addr) -> &Network {
        self.config.networks.of(address).expect("addresses that are given out are of the networks")
    }

    /// RFC 2131 section 4.3.2, in the order of its cases.
    fn request(
        &mut self,
        now: SystemTime,
        client: &Client,
        link: &[Network],
    ) -> Result<Vec<Action>, Ignored> {
        let request = client.request;
        let ours = [Some(self.config.server.address), request.server_id_of_relay()];
        let wanted = match (request.server_id, request.requested) {
            // SELECTING: another server's offer was taken. Not ours to answer.
            (Some(server), _) if !ours.contains(&Some(server)) => {
                return Err(self.other_server(request, server));
            }
            // SELECTING our offer, or INIT-REBOOT: back on the network, with an address remembered.
            (_, Some(requested)) => requested,
            // RENEWING or REBINDING: an address is in use.
            (_, None) => request.ciaddr,
        };
        let may_use = match client.reservation(link) {
            Some(reserved) => reserved == wanted,
            None => self.leases.may_use(client.mac(), link, wanted, now),
        };
        Ok(match may_use {
            true => self.acknowledge(now, client, wanted),
            false => self.refuse(client, link, wanted),
        })
    }

    /// A relay may ask several servers on purpose, each on a wire of its own.
    fn other_server(&mut self, request: &Request, server: Ipv4Addr) -> Ignored {
        let is_here = request.giaddr.is_unspecified() && self.others.len() < MAX_OTHER_SERVERS;
        Ignored::OtherServer { mac: request.mac, server, is_new: is_here && self.others.insert(server) }
    }

    fn acknowledge(&mut self, now: SystemTime, client: &Client, address: Ipv4Addr) -> Vec<Action> {
        let mac = client.mac();
        client.remember(&self.config);
        let expires = now + self.network_of(address).lease;
        self.leases.hold(mac, address, expires);
        let boot = boot_options(&self.config, &self.nbps, client);
        info!(%mac, node = client.node_name(), %address, offer = %boot, "DHCP lease");
        let mut actions = vec![Action::Store(Lease { mac, address, expires })];
        actions.extend(port_of(client).map(|port| Action::Port(mac, port)));
        if client.request.stage != Stage::OperatingSystem {
            actions.push(Action::Booting(mac));
        }
        actions.extend(send(mac, self.lease(client, MessageType::Ack, address, &boot)));
        actions
    }

    fn refuse(&self, client: &Client, link: &[Network], address: Ipv4Addr) -> Vec<Action> {
        let mac = client.mac();
        let is_here = link.iter().any(|network| network.subnet.contains(&address));
        let reason = if is_here { "not your address" } else { "not an address of this network" };
        info!(%mac, node = client.node_name(), %address, reason, "DHCP request refused");
        send(mac, reply::nak(&self.config, client, reason))
    }

    fn release(&mut self, now: SystemTime, request: &Request) -> Result<Vec<Action>, Ignored> {
        let released = self.leases.release(request.mac, request.ciaddr, now);
        let lease = released.ok_or(Ignored::NoLease(request.ciaddr))?;
        info!(mac = %lease.mac, address = %lease.address, "DHCP lease released");
        Ok(vec![Action::Store(lease)])
    }

    fn decline(&mut self, now: SystemTime, client: &Client) -> Vec<Action> {
        let Some(address) = client.request.requested else { return Vec::new() };
        let mac = client.mac();
        if self.leases.quarantine(mac, address, now + DECLINE_QUARANTINE) {
            warn!(%mac, %address, "address is in use by another machine and is left out for ten minutes");
        } else {
            let node = client.node_name();
            error!(%mac, node, %address, hint = "find the other machine that uses it", "address declined");
        }
        vec![Action::Declined]
    }

    fn inform(&self, client: &Client) -> Result<Vec<Action>, Ignored> {
        // The reply goes to whatever address the packet claims, so it must be one of our networks.
        let (mac, at) = (client.mac(), client.request.ciaddr);
        let network = self.config.networks.of(at).ok_or(Ignored::Network { mac, at })?;
        let boot = boot_options(&self.config, &self.nbps, client);
        Ok(send(mac, reply::inform(&self.config, network, client, &boot)))
    }

    /// A BOOTP client asks once and keeps the address, so it gets one that is kept for it.
    fn bootp(&mut self, now: SystemTime, client: &Client, link: &[Network]) -> Result<Vec<Action>, Ignored> {
        let mac = client.mac();
        let address = client.reservation(link).ok_or(Ignored::Bootp { mac })?;
        client.remember(&self.config);
        let (network, boot) = (self.network_of(address), boot_options(&self.config, &self.nbps, client));
        info!(%mac, node = client.node_name(), %address, offer = %boot, "BOOTP reply");
        let lease = Lease { mac, address, expires: now + network.lease };
        let mut actions = vec![Action::Store(lease), Action::Booting(mac)];
        actions.extend(send(mac, reply::bootp(&self.config, network, client, address, &boot)));
        Ok(actions)
    }
}

/// Who had the address of a node that is not known by its MAC address is taken for it.
fn recall(config: &Config, stored: &[Lease]) {
    for lease in stored {
        let is_other = |node: &Node| !matches!(node.key, NodeKey::Mac(_));
        if let Some(node) = config.node_at(lease.address).filter(|node| is_other(node)) {
            config.learned.learn(lease.mac, &node.name);
        }
    }
}

/// Where the relay has seen a machine that may become a node.
fn port_of(client: &Client) -> Option<RelayPort> {
    let relay = client.request.relay.as_ref().filter(|_| client.node().is_none())?;
    let port = RelayPort { circuit_id: relay.circuit_id.clone(), remote_id: relay.remote_id.clone() };
    (port.circuit_id.is_some() || port.remote_id.is_some()).then_some(port)
}

/// Sends `reply`, if it could be written.
pub(super) fn send(mac: MacAddr, reply: Result<Reply, EncodeError>) -> Vec<Action> {
    match reply {
        Ok(reply) => vec![Action::Send(reply)],
        Err(error) => {
            error!(%mac, %error, "cannot encode the DHCP reply");
            Vec::new()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::request::RequestError;
    use super::super::request::tests::packet;
    use super::*;
    use dhcproto::v4::{Decodable, Decoder, DhcpOption, Message, OptionCode};
    use proptest::prelude::*;

    impl Server {
        /// What is done about a packet, whatever the reason if that is nothing.
        fn act(&mut self, now: SystemTime, packet: &[u8]) -> Vec<Action> {
            self.answer(now, packet).unwrap_or_default()
        }
    }

    const T0: SystemTime = SystemTime::UNIX_EPOCH;
    const DISCOVER: &[u8] = &[53, 1, 1];
    const REQUEST: &[u8] = &[53, 1, 3];
    const OUR_ID: &[u8] = &[54, 4, 192, 168, 0, 1];

    /// The classic network; packets come from node-001, whose address is .101.
    fn server() -> Server {
        server_with(Vec::new())
    }

    fn server_with(stored: Vec<Lease>) -> Server {
        let config = Config::parse(include_str!("../../bootserve.example.toml")).unwrap();
        Server::new(Arc::new(config), Arc::default(), stored)
    }

    fn requested(last: u8) -> [u8; 6] {
        [50, 4, 192, 168, 0, last]
    }

    /// Makes the packet one of a machine without a reservation.
    fn from_stranger(mut packet: Vec<u8>, number: u8) -> Vec<u8> {
        packet[28..34].copy_from_slice(&[2, 0, 0, 0, 0, number]);
        packet
    }

    fn with_ciaddr(mut packet: Vec<u8>, address: [u8; 4]) -> Vec<u8> {
        packet[12..16].copy_from_slice(&address);
        packet
    }

    /// Type and address of the reply among the actions.
    fn reply(actions: &[Action]) -> Option<(MessageType, Ipv4Addr)> {
        let sent = actions.iter().find_map(|action| match action {
            Action::Send(reply) => Some(Message::decode(&mut Decoder::new(&reply.packet)).unwrap()),
            _ => None,
        });
        sent.map(|message| (message.opts().msg_type().unwrap(), message.yiaddr()))
    }

    fn host(last: u8) -> Ipv4Addr {
        Ipv4Addr::new(192, 168, 0, last)
    }

    #[test]
    fn an_offer_is_not_stored_and_an_acknowledgement_is_before_it_is_sent() {
        let mut server = server();
        let offer = server.act(T0, &packet(&[DISCOVER]));
        assert_eq!(offer.len(), 1);
        assert_eq!(reply(&offer), Some((MessageType::Offer, host(101))));
        let ack = server.act(T0, &packet(&[REQUEST, OUR_ID, &requested(101)]));
        let mac = "fc:ab:14:e8:66:02".parse().unwrap();
        let lease = Lease { mac, address: host(101), expires: T0 + Duration::from_secs(3600) };
        assert_eq!(ack[0], Action::Store(lease));
        assert_eq!(reply(&ack[1..]), Some((MessageType::Ack, host(101))));
    }

    #[test]
    fn requests_are_answered_as_rfc_2131_says() {
        let nak = Some((MessageType::Nak, Ipv4Addr::UNSPECIFIED));
        let ack = Some((MessageType::Ack, host(101)));
        let check = |packet: Vec<u8>, expected, case: &str| {
            assert_eq!(reply(&server().act(T0, &packet)), expected, "{case}");
        };
        check(packet(&[REQUEST, OUR_ID, &requested(101)]), ack, "selecting, even if we forgot the offer");
        check(packet(&[REQUEST, OUR_ID, &requested(102)]), nak, "selecting another address");
        check(
            packet(&[REQUEST, &[54, 4, 192, 168, 0, 9], &requested(101)]),
            None,
            "selecting another server",
        );
        check(packet(&[REQUEST, &requested(101)]), ack, "init-reboot");
        check(packet(&[REQUEST, &[50, 4, 10, 0, 0, 9]]), nak, "init-reboot from another network");
        check(with_ciaddr(packet(&[REQUEST]), [192, 168, 0, 101]), ack, "renewing");
        check(with_ciaddr(packet(&[REQUEST]), [192, 168, 0, 102]), nak, "renewing another address");
    }

    #[test]
    fn a_node_known_by_its_uuid_is_the_same_to_all_its_boot_stages_and_after_a_restart() {
        const UUID: &[u8] = b"\x61\x11\x00\x00\x11\x22\x33\x44\x55\x66\x77\x88\x99\xaa\xbb\xcc\xdd\xee\xff";
        let new_server = |stored| {
            let key = "uuid = '00112233-4455-6677-8899-aabbccddeeff'";
            let text =
                include_str!("../../bootserve.example.toml").replace("mac = \"fc:ab:14:e8:66:02\"", key);
            Server::new(Arc::new(Config::parse(&text).unwrap()), Arc::default(), stored)
        };
        let mut server = new_server(Vec::new());
        assert_eq!(reply(&server.act(T0, &packet(&[DISCOVER, UUID]))), Some((MessageType::Offer, host(101))));
        let ack = server.act(T0, &packet(&[REQUEST, OUR_ID, &requested(101), UUID]));
        let [Action::Store(lease), ..] = ack[..] else { panic!("{ack:?}") };
        let later = packet(&[DISCOVER, b"\x3d\x04\xff\x01\x02\x03"]);
        for mut server in [server, new_server(vec![lease])] {
            assert_eq!(reply(&server.act(T0, &later)), Some((MessageType::Offer, host(101))));
            assert_eq!(server.config.node_name(lease.mac), Some("node-001"));
        }
        let stranger = new_server(Vec::new()).act(T0, &later);
        assert_eq!(reply(&stranger), Some((MessageType::Offer, host(200))));
    }

    #[test]
    fn bootp_is_answered_for_nodes_and_a_machine_that_is_none_is_told_nothing() {
        let mut server = server();
        let actions = server.act(T0, &packet(&[b"\x0c\x01n"]));
        assert!(
            matches!(actions[..], [Action::Store(_), Action::Booting(_), Action::Send(_)]),
            "{actions:?}"
        );
        let stranger = server.answer(T0, &from_stranger(packet(&[b"\x0c\x01n"]), 1));
        let mac = "02:00:00:00:00:01".parse().unwrap();
        assert_eq!(stranger, Err(Ignored::Bootp { mac }));
    }

    /// One that looks at addresses before it offers them.
    fn probing_server() -> Server {
        let mut server = server();
        server.probe_addresses();
        server
    }

    #[test]
    fn an_address_is_offered_once_it_is_known_to_be_free() {
        let mut server = probing_server();
        let discover = from_stranger(packet(&[DISCOVER]), 1);
        assert_eq!(server.act(T0, &discover), [Action::Probe(host(200))]);
        assert_eq!(server.act(T0, &discover), [], "the client repeats itself");
        let others = server.act(T0, &from_stranger(packet(&[DISCOVER]), 2));
        assert_eq!(others, [Action::Probe(host(201))], "another one has an address of its own");
        let offer = server.probed(T0, Probed { address: host(200), in_use: false }).unwrap();
        assert_eq!(reply(&offer), Some((MessageType::Offer, host(200))));
        assert_eq!(server.probed(T0, Probed { address: host(200), in_use: false }), Ok(Vec::new()));
        let again = server.act(T0, &discover);
        assert_eq!(reply(&again), Some((MessageType::Offer, host(200))), "it has been offered before");
    }

    #[test]
    fn an_address_that_answers_is_left_out_and_the_next_one_is_probed() {
        let mut server = probing_server();
        server.act(T0, &from_stranger(packet(&[DISCOVER]), 1));
        let in_use = |last| Probed { address: host(last), in_use: true };
        assert_eq!(server.probed(T0, in_use(200)), Ok(vec![Action::Probe(host(201))]));
        let offer = server.probed(T0, Probed { address: host(201), in_use: false }).unwrap();
        assert_eq!(reply(&offer), Some((MessageType::Offer, host(201))));
        let request = from_stranger(packet(&[REQUEST, &requested(200)]), 2);
        let nak = Some((MessageType::Nak, Ipv4Addr::UNSPECIFIED));
        assert_eq!(reply(&server.act(T0, &request)), nak);
        let later = T0 + DECLINE_QUARANTINE;
        assert_eq!(reply(&server.act(later, &request)), Some((MessageType::Ack, host(200))));
    }

    #[test]
    fn when_every_address_answers_none_is_offered() {
        let mut server = probing_server();
        server.act(T0, &from_stranger(packet(&[DISCOVER]), 1));
        let mut probed = |last| server.probed(T0, Probed { address: host(last), in_use: true });
        for last in 200..250 {
            assert_eq!(probed(last), Ok(vec![Action::Probe(host(last + 1))]));
        }
        assert!(matches!(probed(250), Err(Ignored::NoAddress { .. })));
    }

    #[test]
    fn reserved_and_familiar_addresses_are_not_probed() {
        let mut server = probing_server();
        let offer = |last| Some((MessageType::Offer, host(last)));
        assert_eq!(reply(&server.act(T0, &packet(&[DISCOVER]))), offer(101));
        server.act(T0, &from_stranger(packet(&[REQUEST, &requested(222)]), 1));
        let much_later = T0 + Duration::from_secs(100_000);
        let familiar = server.act(much_later, &from_stranger(packet(&[DISCOVER]), 1));
        assert_eq!(reply(&familiar), offer(222));
        let unasked = server.probed(T0, Probed { address: host(222), in_use: true });
        assert_eq!(unasked, Ok(Vec::new()), "nobody waits for this");
    }

    #[test]
    fn who_has_chosen_another_address_meanwhile_is_offered_no_second_one() {
        let mut server = probing_server();
        server.act(T0, &from_stranger(packet(&[DISCOVER]), 1));
        server.act(T0, &from_stranger(packet(&[REQUEST, &requested(222)]), 1));
        assert_eq!(server.probed(T0, Probed { address: host(200), in_use: false }), Ok(Vec::new()));
    }

    #[test]
    fn another_server_on_the_wire_is_news_once() {
        let mut server = server();
        let mut is_new = |packet: Vec<u8>| match server.answer(T0, &packet) {
            Err(Ignored::OtherServer { is_new, .. }) => is_new,
            other => panic!("{other:?}"),
        };
        let request = |last| packet(&[REQUEST, &[54, 4, 192, 168, 0, last], &requested(101)]);
        assert!(!is_new(relayed(request(9), [192, 168, 0, 5])), "a relay may ask another one, too");
        assert_eq!([9, 9, 8, 9].map(|last| is_new(request(last))), [true, false, true, false]);
        let many = (10..=255_u8).filter(|last| is_new(request(*last))).count();
        assert_eq!(many, MAX_OTHER_SERVERS - 2, "made-up ones take no memory without bound");
    }

    #[test]
    fn leases_survive_a_restart() {
        let mut before = server();
        let request = from_stranger(packet(&[REQUEST, &requested(222)]), 1);
        let actions = before.act(T0, &request);
        let Action::Store(lease) = actions[0] else { panic!("{actions:?}") };
        let mut after = server_with(vec![lease]);
        let discover = after.act(T0, &from_stranger(packet(&[DISCOVER]), 1));
        assert_eq!(reply(&discover), Some((MessageType::Offer, host(222))));
        let other = after.act(T0, &from_stranger(packet(&[REQUEST, &requested(222)]), 2));
        assert_eq!(reply(&other), Some((MessageType::Nak, Ipv4Addr::UNSPECIFIED)));
    }

    #[test]
    fn an_exhausted_range_is_silent() {
        let mut server = server();
        let mut discover = |number| reply(&server.act(T0, &from_stranger(packet(&[DISCOVER]), number)));
        let offers = (1..=51).map(|number| discover(number).unwrap().1).collect::<Vec<_>>();
        assert_eq!((offers[0], offers[50]), (host(200), host(250)));
        assert_eq!(discover(52), None);
    }

    #[test]
    fn released_and_declined_addresses_are_given_up() {
        let mut server = server();
        server.act(T0, &from_stranger(packet(&[REQUEST, &requested(222)]), 1));
        let release = with_ciaddr(from_stranger(packet(&[&[53, 1, 7]]), 1), [192, 168, 0, 222]);
        assert!(matches!(server.act(T0, &release)[..], [Action::Store(lease)] if lease.expires == T0));
        let request = from_stranger(packet(&[REQUEST, &requested(222)]), 2);
        assert_eq!(reply(&server.act(T0, &request)), Some((MessageType::Ack, host(222))));
        let decline = from_stranger(packet(&[&[53, 1, 4], &requested(222)]), 2);
        assert_eq!(server.act(T0, &decline), [Action::Declined]);
        assert_eq!(reply(&server.act(T0, &request)), Some((MessageType::Nak, Ipv4Addr::UNSPECIFIED)));
        let later = T0 + DECLINE_QUARANTINE;
        assert_eq!(reply(&server.act(later, &request)), Some((MessageType::Ack, host(222))));
    }

    #[test]
    fn an_inform_is_answered_without_address_and_only_to_our_network() {
        let inform = packet(&[&[53, 1, 8]]);
        let ours = server().act(T0, &with_ciaddr(inform.clone(), [192, 168, 0, 77]));
        assert_eq!(reply(&ours), Some((MessageType::Ack, Ipv4Addr::UNSPECIFIED)));
        assert_eq!(server().act(T0, &with_ciaddr(inform, [10, 0, 0, 1])), []);
    }

    /// Two more networks behind relays; on the second, node-001 has no reservation.
    fn server_with_relays() -> Server {
        let text = include_str!("../../bootserve.example.toml").replace("[network]", "[[network]]");
        let more = "[[network]]\nsubnet = '10.1.0.0/24'\nrange = '10.1.0.5-10.1.0.9'\nrouter = '10.1.0.1'\n\
                    [[network]]\nsubnet = '10.2.0.0/24'\nrange = '10.2.0.5-10.2.0.9'\n\n[boot]\n";
        let config = Config::parse(&text.replace("[boot]\n", more)).unwrap();
        Server::new(Arc::new(config), Arc::default(), Vec::new())
    }

    fn relayed(mut packet: Vec<u8>, giaddr: [u8; 4]) -> Vec<u8> {
        packet[24..28].copy_from_slice(&giaddr);
        packet
    }

    #[test]
    fn a_relay_says_which_network_its_clients_are_in() {
        const RELAY: [u8; 4] = [10, 1, 0, 1];
        // Option 82: circuit id "eth1", and link selection, 10.2.0.0.
        const CIRCUIT: &[u8] = b"\x52\x06\x01\x04eth1";
        const LINK: &[u8] = b"\x52\x06\x05\x04\x0a\x02\x00\x00";
        const SUBNET: &[u8] = b"\x76\x04\x0a\x01\x00\x00";
        let check = |packet: Vec<u8>, expected: Option<[u8; 4]>, case: &str| {
            let address = reply(&server_with_relays().act(T0, &packet)).map(|(_, address)| address);
            assert_eq!(address, expected.map(Ipv4Addr::from), "{case}");
        };
        check(packet(&[DISCOVER]), Some([192, 168, 0, 101]), "no relay");
        check(relayed(packet(&[DISCOVER]), [192, 168, 0, 9]), Some([192, 168, 0, 101]), "our own network");
        check(relayed(packet(&[DISCOVER, CIRCUIT]), RELAY), Some([10, 1, 0, 5]), "the relay's network");
        check(relayed(packet(&[DISCOVER, LINK]), RELAY), Some([10, 2, 0, 5]), "the one that it selects");
        check(packet(&[DISCOVER, LINK]), Some([192, 168, 0, 101]), "nobody relayed this");
        check(packet(&[DISCOVER, SUBNET]), Some([10, 1, 0, 5]), "the one that the client selects");
        check(
            relayed(packet(&[DISCOVER, SUBNET, LINK]), RELAY),
            Some([10, 2, 0, 5]),
            "the relay comes first",
        );
        check(relayed(packet(&[DISCOVER]), [10, 9, 0, 1]), None, "no network of ours");
        let renewing = with_ciaddr(from_stranger(packet(&[REQUEST]), 1), [10, 1, 0, 7]);
        check(renewing, Some([10, 1, 0, 7]), "renewing, past the relay");
    }

    #[test]
    fn where_a_relay_sees_a_machine_that_is_no_node_is_stored_with_its_lease() {
        let option = b"\x52\x09\x01\x02p9\x02\x03sw1";
        let request = packet(&[REQUEST, &[50, 4, 10, 1, 0, 7], option]);
        let port = |mut server: Server, request: Vec<u8>| {
            let actions = server.act(T0, &relayed(request, [10, 1, 0, 1]));
            let port = actions.iter().find_map(|action| match action {
                Action::Port(mac, port) => Some((*mac, port.clone())),
                _ => None,
            });
            port.map(|(mac, port)| (mac.to_string(), port.fact().to_string()))
        };
        let expected =
            ("02:00:00:00:00:01".to_owned(), r#"{"circuit_id":"p9","remote_id":"sw1"}"#.to_owned());
        assert_eq!(port(server_with_relays(), from_stranger(request.clone(), 1)), Some(expected));
        assert_eq!(port(server_with_relays(), request), None, "it is a node");
        let plain = packet(&[REQUEST, &[50, 4, 10, 1, 0, 7]]);
        assert_eq!(port(server_with_relays(), from_stranger(plain, 1)), None);
    }

    #[test]
    fn answers_repeat_what_the_relay_added_as_the_last_option() {
        let discover = packet(&[DISCOVER, b"\x52\x08\xc8\x02\x07\x07\x01\x02p9"]);
        let actions = server_with_relays().act(T0, &relayed(discover, [10, 1, 0, 1]));
        let [Action::Send(sent)] = &actions[..] else { panic!("{actions:?}") };
        assert_eq!(sent.to, "10.1.0.1:67".parse().unwrap());
        let end = sent.packet.iter().rposition(|byte| *byte != 0).unwrap();
        assert_eq!(sent.packet[end - 10..=end], *b"\x52\x08\xc8\x02\x07\x07\x01\x02p9\xff");
    }

    #[test]
    fn a_relay_may_stand_in_for_the_server() {
        const OVERRIDE: &[u8] = b"\x52\x06\x0b\x04\x0a\x01\x00\x01";
        let ids = [[10, 1, 0, 1], [192, 168, 0, 1], [10, 1, 0, 2]];
        let answers = ids.map(|[a, b, c, d]| {
            let request = packet(&[REQUEST, OVERRIDE, &[54, 4, a, b, c, d], &[50, 4, 10, 1, 0, 5]]);
            reply(&server_with_relays().act(T0, &relayed(request, [10, 1, 0, 1])))
        });
        let ack = Some((MessageType::Ack, Ipv4Addr::new(10, 1, 0, 5)));
        assert_eq!(answers, [ack, ack, None]);
        let offer = server_with_relays().act(T0, &relayed(packet(&[DISCOVER, OVERRIDE]), [10, 1, 0, 1]));
        let [Action::Send(sent)] = &offer[..] else { panic!("{offer:?}") };
        let message = Message::decode(&mut Decoder::new(&sent.packet)).unwrap();
        let id = message.opts().get(OptionCode::ServerIdentifier).cloned();
        assert_eq!(id, Some(DhcpOption::ServerIdentifier([10, 1, 0, 1].into())));
    }

    #[test]
    fn what_is_ignored_has_a_reason() {
        let check = |packet: Vec<u8>, expected: Ignored| {
            assert_eq!(server().answer(T0, &packet), Err(expected));
        };
        let mac = "fc:ab:14:e8:66:02".parse().unwrap();
        let other = [10, 0, 0, 9].into();
        check(vec![1; 9], Ignored::Malformed(RequestError::TooShort(9)));
        check(relayed(packet(&[DISCOVER]), [10, 0, 0, 9]), Ignored::Network { mac, at: other });
        check(
            packet(&[REQUEST, &[54, 4, 10, 0, 0, 9], &requested(101)]),
            Ignored::OtherServer { mac, server: other, is_new: true },
        );
        check(packet(&[&[53, 1, 2]]), Ignored::Kind(Kind::Dhcp(MessageType::Offer)));
        check(with_ciaddr(packet(&[&[53, 1, 7]]), [192, 168, 0, 101]), Ignored::NoLease(host(101)));
    }

    #[test]
    fn a_machine_in_another_network_is_refused_its_old_address() {
        let request = relayed(packet(&[REQUEST, &requested(101)]), [10, 1, 0, 1]);
        let nak = Some((MessageType::Nak, Ipv4Addr::UNSPECIFIED));
        assert_eq!(reply(&server_with_relays().act(T0, &request)), nak);
    }

    #[test]
    fn only_firmware_that_was_given_an_address_begins_a_boot() {
        let mut server = server();
        let mut is_boot = |options: &[&[u8]]| {
            let actions = server.act(T0, &packet(options));
            actions.iter().any(|action| matches!(action, Action::Booting(_)))
        };
        let ipxe: &[u8] = b"\x4d\x04iPXE";
        assert!(is_boot(&[REQUEST, &requested(101), ipxe]));
        assert!(!is_boot(&[REQUEST, &requested(101)]));
        assert!(!is_boot(&[DISCOVER, ipxe]));
    }

    proptest! {
        #[test]
        fn any_packets_are_handled_without_panic(
            packets in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..60), 1..8)
        ) {
            let mut server = server_with_relays();
            for options in packets {
                server.act(T0, &packet(&[&options]));
                server.act(T0, &relayed(packet(&[&options]), [10, 1, 0, 1]));
            }
        }
    }
}
