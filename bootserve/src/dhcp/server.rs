//! The state machine of the server (RFC 2131 section 4.3): a packet and the time in, actions out. It reads no clock and
//! no socket. A repeated packet gets the same answer.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bootspec::MacAddr;
use dhcproto::error::EncodeError;
use dhcproto::v4::MessageType;
use tracing::{debug, error, info, warn};

use super::leases::{Lease, LeaseTable};
use super::reply::{self, BootOptions, Reply};
use super::request::Request;
use crate::config::Config;
use crate::http;
use crate::nbp::NbpSet;
use crate::policy::{BootDecision, Machine, Stage, decide};

/// How long an offered address is kept for the client that has not asked for it yet. PXE firmware gathers offers for
/// several seconds.
const OFFER_HOLD: Duration = Duration::from_secs(60);
/// How long an address that is in use by someone else is kept out of the range.
const DECLINE_QUARANTINE: Duration = Duration::from_secs(600);

/// What the driver has to do, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Store the lease. It must be durable before the next `Send`: an address that a client was told is its own must
    /// not be forgotten.
    Store(Lease),
    /// Note that the firmware of this machine was given an address.
    Booting(MacAddr),
    /// Send a packet.
    Send(Reply),
}

/// The DHCP server of one network.
#[derive(Debug)]
pub struct Server {
    config: Arc<Config>,
    nbps: Arc<NbpSet>,
    leases: LeaseTable,
}

impl Server {
    /// A server that continues with `stored` leases.
    pub fn new(config: Arc<Config>, nbps: Arc<NbpSet>, stored: Vec<Lease>) -> Self {
        let leases = LeaseTable::new(&config, stored);
        Self { config, nbps, leases }
    }

    /// Answers a packet.
    pub fn handle(&mut self, now: SystemTime, packet: &[u8]) -> Vec<Action> {
        let request = match Request::parse(packet) {
            Ok(request) => request,
            Err(error) => {
                debug!(%error, "DHCP packet ignored");
                return Vec::new();
            }
        };
        let (mac, xid) = (request.mac, format_args!("{:08x}", request.xid));
        debug!(%mac, %xid, kind = ?request.kind, stage = ?request.stage, "DHCP request");
        if request.giaddr != Ipv4Addr::UNSPECIFIED && !self.is_ours(request.giaddr) {
            info!(%mac, %xid, relay = %request.giaddr, "DHCP request ignored: relayed from another subnet");
            return Vec::new();
        }
        match request.kind {
            MessageType::Discover => self.discover(now, &request),
            MessageType::Request => self.request(now, &request),
            MessageType::Release => self.release(now, &request),
            MessageType::Decline => self.decline(now, &request),
            MessageType::Inform => self.inform(&request),
            _ => Vec::new(),
        }
    }

    fn discover(&mut self, now: SystemTime, request: &Request) -> Vec<Action> {
        let mac = request.mac;
        let Some(address) = self.leases.choose(mac, request.requested, now) else {
            let range = self.config.network.range;
            warn!(%mac, %range, hint = "widen network.range or shorten network.lease_seconds", "no address left");
            return Vec::new();
        };
        self.leases.hold(mac, address, now + OFFER_HOLD);
        let boot = self.boot_options(request);
        debug!(%mac, node = self.config.node_name(mac), %address, offer = %boot, "DHCP offer");
        send(mac, reply::lease(&self.config, request, MessageType::Offer, address, &boot))
    }

    /// RFC 2131 section 4.3.2, in the order of its cases.
    fn request(&mut self, now: SystemTime, request: &Request) -> Vec<Action> {
        let wanted = match (request.server_id, request.requested) {
            // SELECTING: another server's offer was taken. Not ours to answer.
            (Some(server), _) if server != self.config.server.address => {
                debug!(mac = %request.mac, %server, "DHCP request is for another server");
                return Vec::new();
            }
            // SELECTING our offer, or INIT-REBOOT: back on the network, with an address remembered.
            (_, Some(requested)) => requested,
            // RENEWING or REBINDING: an address is in use.
            (_, None) => request.ciaddr,
        };
        if self.leases.may_use(request.mac, wanted, now) {
            self.acknowledge(now, request, wanted)
        } else {
            self.refuse(request, wanted)
        }
    }

    fn acknowledge(&mut self, now: SystemTime, request: &Request, address: Ipv4Addr) -> Vec<Action> {
        let mac = request.mac;
        let expires = now + self.config.network.lease;
        self.leases.hold(mac, address, expires);
        let boot = self.boot_options(request);
        info!(%mac, node = self.config.node_name(mac), %address, offer = %boot, "DHCP lease");
        let mut actions = vec![Action::Store(Lease { mac, address, expires })];
        if request.stage != Stage::OperatingSystem {
            actions.push(Action::Booting(mac));
        }
        actions.extend(send(mac, reply::lease(&self.config, request, MessageType::Ack, address, &boot)));
        actions
    }

    fn refuse(&self, request: &Request, address: Ipv4Addr) -> Vec<Action> {
        let mac = request.mac;
        let reason =
            if self.is_ours(address) { "not your address" } else { "not an address of this network" };
        info!(%mac, node = self.config.node_name(mac), %address, reason, "DHCP request refused");
        send(mac, reply::nak(&self.config, request, reason))
    }

    fn release(&mut self, now: SystemTime, request: &Request) -> Vec<Action> {
        let Some(lease) = self.leases.release(request.mac, request.ciaddr, now) else { return Vec::new() };
        info!(mac = %lease.mac, address = %lease.address, "DHCP lease released");
        vec![Action::Store(lease)]
    }

    fn decline(&mut self, now: SystemTime, request: &Request) -> Vec<Action> {
        let Some(address) = request.requested else { return Vec::new() };
        let mac = request.mac;
        if self.leases.quarantine(mac, address, now + DECLINE_QUARANTINE) {
            warn!(%mac, %address, "address is in use by another machine and is left out for ten minutes");
        } else {
            let node = self.config.node_name(mac);
            error!(%mac, node, %address, hint = "find the other machine that uses it", "address declined");
        }
        Vec::new()
    }

    fn inform(&self, request: &Request) -> Vec<Action> {
        // The reply goes to whatever address the packet claims, so it must be one of this network.
        if !self.is_ours(request.ciaddr) {
            return Vec::new();
        }
        send(request.mac, reply::inform(&self.config, request, &self.boot_options(request)))
    }

    fn is_ours(&self, address: Ipv4Addr) -> bool {
        self.config.network.subnet.contains(&address)
    }

    fn boot_options(&self, request: &Request) -> BootOptions {
        let mac = request.mac;
        match decide(&self.config, &Machine { mac, stage: request.stage }) {
            BootDecision::NbpByTftp(platform) => match self.nbps.for_platform(platform) {
                Some(name) => BootOptions::Tftp(name.to_owned()),
                None => no_program(mac, platform),
            },
            BootDecision::NbpByHttp(platform) => match self.nbps.for_platform(platform) {
                Some(name) => BootOptions::Http(http::nbp_url(&self.config, name)),
                None => no_program(mac, platform),
            },
            BootDecision::FetchScript => BootOptions::Ipxe(http::script_url(&self.config, mac)),
            BootDecision::NextDevice(reason) => {
                warn!(%mac, %reason, "nothing to boot");
                BootOptions::None
            }
            BootDecision::Boot(_) | BootDecision::NotBooting => BootOptions::None,
        }
    }
}

fn no_program(mac: MacAddr, platform: crate::arch::Platform) -> BootOptions {
    let hint = "install the ipxe package or set nbp.dirs";
    warn!(%mac, ?platform, hint, "no network boot program for this machine");
    BootOptions::None
}

fn send(mac: MacAddr, reply: Result<Reply, EncodeError>) -> Vec<Action> {
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
    use super::super::request::tests::packet;
    use super::*;
    use dhcproto::v4::{Decodable, Decoder, Message};
    use proptest::prelude::*;

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
        let offer = server.handle(T0, &packet(&[DISCOVER]));
        assert_eq!(offer.len(), 1);
        assert_eq!(reply(&offer), Some((MessageType::Offer, host(101))));
        let ack = server.handle(T0, &packet(&[REQUEST, OUR_ID, &requested(101)]));
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
            assert_eq!(reply(&server().handle(T0, &packet)), expected, "{case}");
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
    fn leases_survive_a_restart() {
        let mut before = server();
        let request = from_stranger(packet(&[REQUEST, &requested(222)]), 1);
        let actions = before.handle(T0, &request);
        let Action::Store(lease) = actions[0] else { panic!("{actions:?}") };
        let mut after = server_with(vec![lease]);
        let discover = after.handle(T0, &from_stranger(packet(&[DISCOVER]), 1));
        assert_eq!(reply(&discover), Some((MessageType::Offer, host(222))));
        let other = after.handle(T0, &from_stranger(packet(&[REQUEST, &requested(222)]), 2));
        assert_eq!(reply(&other), Some((MessageType::Nak, Ipv4Addr::UNSPECIFIED)));
    }

    #[test]
    fn an_exhausted_range_is_silent() {
        let mut server = server();
        let mut discover = |number| reply(&server.handle(T0, &from_stranger(packet(&[DISCOVER]), number)));
        let offers = (1..=51).map(|number| discover(number).unwrap().1).collect::<Vec<_>>();
        assert_eq!((offers[0], offers[50]), (host(200), host(250)));
        assert_eq!(discover(52), None);
    }

    #[test]
    fn released_and_declined_addresses_are_given_up() {
        let mut server = server();
        server.handle(T0, &from_stranger(packet(&[REQUEST, &requested(222)]), 1));
        let release = with_ciaddr(from_stranger(packet(&[&[53, 1, 7]]), 1), [192, 168, 0, 222]);
        assert!(matches!(server.handle(T0, &release)[..], [Action::Store(lease)] if lease.expires == T0));
        let request = from_stranger(packet(&[REQUEST, &requested(222)]), 2);
        assert_eq!(reply(&server.handle(T0, &request)), Some((MessageType::Ack, host(222))));
        assert_eq!(server.handle(T0, &from_stranger(packet(&[&[53, 1, 4], &requested(222)]), 2)), []);
        assert_eq!(reply(&server.handle(T0, &request)), Some((MessageType::Nak, Ipv4Addr::UNSPECIFIED)));
        let later = T0 + DECLINE_QUARANTINE;
        assert_eq!(reply(&server.handle(later, &request)), Some((MessageType::Ack, host(222))));
    }

    #[test]
    fn an_inform_is_answered_without_address_and_only_to_our_network() {
        let inform = packet(&[&[53, 1, 8]]);
        let ours = server().handle(T0, &with_ciaddr(inform.clone(), [192, 168, 0, 77]));
        assert_eq!(reply(&ours), Some((MessageType::Ack, Ipv4Addr::UNSPECIFIED)));
        assert_eq!(server().handle(T0, &with_ciaddr(inform, [10, 0, 0, 1])), []);
    }

    #[test]
    fn relays_of_other_subnets_are_ignored() {
        let mut relayed = packet(&[DISCOVER]);
        relayed[24..28].copy_from_slice(&[10, 0, 0, 1]);
        assert_eq!(server().handle(T0, &relayed), []);
        relayed[24..28].copy_from_slice(&[192, 168, 0, 9]);
        assert!(reply(&server().handle(T0, &relayed)).is_some());
    }

    #[test]
    fn only_firmware_that_was_given_an_address_begins_a_boot() {
        let mut server = server();
        let mut is_boot = |options: &[&[u8]]| {
            let actions = server.handle(T0, &packet(options));
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
            let mut server = server();
            for options in packets {
                server.handle(T0, &packet(&[&options]));
            }
        }
    }
}
