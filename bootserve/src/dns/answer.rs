//! What is answered: a query in; out comes a reply, or what has to be found out before there can be one. It reads no clock and no
//! socket.

use std::net::Ipv4Addr;
use std::time::SystemTime;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, Record, RecordType};
use ipnet::Ipv4Net;
use tracing::debug;

use super::reverse::{self, ReverseName};
use super::zone::{SERIAL, Zone};
use crate::config::{Config, Dns};
use crate::dhcp::leases::Lease;
use crate::dhcp::store::LeaseOf;

/// RFC 1035 section 4.1.1.
const HEADER_BYTES: usize = 12;
/// RFC 1035 section 4.2.1: without EDNS no client takes more over UDP.
const MIN_UDP_BYTES: u16 = 512;
/// What goes through every network in one packet (DNS flag day 2020).
const UDP_BYTES: u16 = 1232;

/// How a query came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// In a datagram.
    Udp,
    /// In a connection.
    Tcp,
}

/// What became of a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// It was answered from what we know.
    Answered,
    /// There is such a name, and nothing of the kind that was asked for.
    NoData,
    /// There is no such name.
    NoName,
    /// A forwarder answered it.
    Forwarded,
    /// None did, or we could not look.
    Failed,
    /// We do not answer such questions, or not this client's.
    Refused,
    /// It was no proper query.
    Malformed,
}

impl Outcome {
    /// Each, by the word for it.
    pub const ALL: [(Self, &'static str); 7] = [
        (Self::Answered, "answered"),
        (Self::NoData, "no-data"),
        (Self::NoName, "no-name"),
        (Self::Forwarded, "forwarded"),
        (Self::Failed, "failed"),
        (Self::Refused, "refused"),
        (Self::Malformed, "malformed"),
    ];

    /// The word for it.
    pub fn word(self) -> &'static str {
        Self::ALL.iter().find(|(outcome, _)| *outcome == self).map_or("", |(_, word)| word)
    }
}

/// What is done about a query.
#[derive(Debug)]
pub enum Answer {
    /// It is answered with this.
    Reply(Reply),
    /// It depends on a lease.
    Lease(LeaseQuestion),
    /// It is a forwarder's to answer; or, where none does, with [`Asked::failed`].
    Forward(Asked),
    /// Nothing: it is no query.
    Nothing(Outcome),
}

/// A reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// The packet.
    pub packet: Vec<u8>,
    /// What it says.
    pub outcome: Outcome,
}

/// A query that was understood.
#[derive(Debug)]
pub struct Asked {
    request: Message,
    transport: Transport,
    /// Whether we would ask forwarders for this client.
    recursion: bool,
}

/// A query that depends on a lease.
#[derive(Debug)]
pub struct LeaseQuestion {
    /// Which.
    pub lease: LeaseOf,
    asked: Asked,
    question: Query,
    apex: Name,
}

/// What is known of a name.
enum Known {
    /// These records.
    Records(Vec<Record>),
    /// It is there; this is its zone.
    NoData(Name),
    /// It is not there; this is its zone.
    NoName(Name),
    /// It is there if there is such a lease; this is its zone.
    Lease(LeaseOf, Name),
    /// Nothing: it is of no zone of ours.
    Elsewhere,
}

/// Answers the query `packet` of `peer`.
pub fn answer(config: &Config, dns: &Dns, transport: Transport, peer: Ipv4Addr, packet: &[u8]) -> Answer {
    let request = match Message::from_vec(packet) {
        Ok(request) if request.metadata.message_type == MessageType::Query => request,
        // An answer to it would be answered in turn.
        Ok(_) => return Answer::Nothing(Outcome::Malformed),
        Err(error) => {
            debug!(%peer, %error, "malformed DNS query");
            return malformed(packet);
        }
    };
    let recursion = !dns.forwarders.is_empty() && config.networks.of(peer).is_some();
    let asked = Asked { request, transport, recursion };
    let refuse =
        |asked: Asked, code, outcome| Answer::Reply(asked.reply(outcome, |reply| set_code(reply, code)));
    if asked.request.metadata.op_code != OpCode::Query {
        return refuse(asked, ResponseCode::NotImp, Outcome::Refused);
    }
    if asked.request.edns.as_ref().is_some_and(|edns| edns.version() > 0) {
        return refuse(asked, ResponseCode::BADVERS, Outcome::Refused);
    }
    let [question] = &asked.request.queries[..] else {
        return refuse(asked, ResponseCode::FormErr, Outcome::Malformed);
    };
    let is_transfer = matches!(question.query_type(), RecordType::AXFR | RecordType::IXFR);
    if question.query_class() != DNSClass::IN || is_transfer {
        return refuse(asked, ResponseCode::Refused, Outcome::Refused);
    }
    let question = question.clone();
    match known(config, &dns.zone, &question) {
        Known::Elsewhere if recursion && asked.request.metadata.recursion_desired => Answer::Forward(asked),
        Known::Elsewhere => refuse(asked, ResponseCode::Refused, Outcome::Refused),
        Known::Lease(lease, apex) => Answer::Lease(LeaseQuestion { lease, asked, question, apex }),
        known => Answer::Reply(asked.reply_known(&dns.zone, known)),
    }
}

/// RFC 1035 section 4.1.1: format error, if there is a header, and it is a query's.
fn malformed(packet: &[u8]) -> Answer {
    match packet {
        [a, b, flags, _, ..] if packet.len() >= HEADER_BYTES && flags & 0x80 == 0 => {
            let id = u16::from_be_bytes([*a, *b]);
            let packet = header_alone(id, OpCode::from_u8(flags >> 3 & 0xf), ResponseCode::FormErr);
            Answer::Reply(Reply { packet, outcome: Outcome::Malformed })
        }
        _ => Answer::Nothing(Outcome::Malformed),
    }
}

/// A response that says no more than its code.
fn header_alone(id: u16, operation: OpCode, code: ResponseCode) -> Vec<u8> {
    let [a, b] = id.to_be_bytes();
    let mut header = vec![a, b, 0x80 | u8::from(operation) << 3, code.low()];
    header.resize(HEADER_BYTES, 0);
    header
}

fn set_code(reply: &mut Message, code: ResponseCode) {
    reply.metadata.response_code = code;
}

fn known(config: &Config, zone: &Zone, question: &Query) -> Known {
    let name = question.name();
    if zone.contains(name) {
        return known_in_zone(zone, question);
    }
    let reverse = ReverseName::of(name);
    let in_zone = |reverse: ReverseName| {
        let subnets = config.networks.iter().map(|network| network.subnet);
        let of = subnets.into_iter().find_map(|subnet| reverse.zone(subnet))?;
        Some(known_in_reverse(config, zone, question, &reverse, of))
    };
    reverse.and_then(in_zone).unwrap_or(Known::Elsewhere)
}

fn known_in_zone(zone: &Zone, question: &Query) -> Known {
    let name = question.name();
    let apex = zone.apex().clone();
    if *name == apex {
        known_of_apex(zone, question)
    } else if let Some(address) = zone.address_of(name) {
        of_type(question, RecordType::A, apex, || zone.a(name, address))
    } else if zone.is_between(name) {
        Known::NoData(apex)
    } else if let Some(mac) = zone.machine(name) {
        Known::Lease(LeaseOf::Machine(mac), apex)
    } else {
        Known::NoName(apex)
    }
}

fn known_in_reverse(
    config: &Config,
    zone: &Zone,
    question: &Query,
    reverse: &ReverseName,
    reverse_zone: Ipv4Net,
) -> Known {
    let name = question.name();
    let apex = reverse::apex(reverse_zone);
    let Some(address) = reverse.address() else {
        return match reverse.is_between() {
            true if *name == apex => known_of_apex(zone, question),
            // There may be addresses below.
            true => Known::NoData(apex),
            false => Known::NoName(apex),
        };
    };
    match zone.name_of(address) {
        Some(host) => of_type(question, RecordType::PTR, apex, || zone.ptr(name, host)),
        None if config.networks.of(address).is_some() => Known::Lease(LeaseOf::Address(address), apex),
        None => Known::NoName(apex),
    }
}

fn known_of_apex(zone: &Zone, question: &Query) -> Known {
    let name = question.name();
    let (soa, ns) = (|| zone.soa(name, SERIAL), || zone.ns(name));
    match question.query_type() {
        RecordType::SOA => Known::Records(vec![soa()]),
        RecordType::NS => Known::Records(vec![ns()]),
        RecordType::ANY => Known::Records(vec![soa(), ns()]),
        _ => Known::NoData(name.clone()),
    }
}

/// The record that a name has, if it is of the type that was asked for.
fn of_type(question: &Query, has: RecordType, apex: Name, record: impl FnOnce() -> Record) -> Known {
    match question.query_type() == has || question.query_type() == RecordType::ANY {
        true => Known::Records(vec![record()]),
        false => Known::NoData(apex),
    }
}

impl LeaseQuestion {
    /// The reply to it at `now`, when the lease is known, if there is one.
    pub fn reply(self, config: &Config, zone: &Zone, lease: Option<Lease>, now: SystemTime) -> Reply {
        let Self { lease: of, asked, question, apex } = self;
        // What is reserved has a name already, and a lease may be of a network that is no more.
        let is_ours = |lease: &Lease| {
            zone.name_of(lease.address).is_none() && config.networks.of(lease.address).is_some()
        };
        let known = lease.filter(is_ours).and_then(|lease| {
            let name = question.name();
            let (record, has) = match of {
                LeaseOf::Machine(_) => (zone.a(name, lease.address), RecordType::A),
                LeaseOf::Address(_) => (zone.ptr(name, &zone.name_of_machine(lease.mac)?), RecordType::PTR),
            };
            Some(of_type(&question, has, apex.clone(), || until(record, &lease, now)))
        });
        asked.reply_known(zone, known.unwrap_or(Known::NoName(apex)))
    }

    /// The reply if nobody can say.
    pub fn failed(&self) -> Reply {
        self.asked.failed()
    }
}

/// Nobody should remember it for longer than it is true.
fn until(mut record: Record, lease: &Lease, now: SystemTime) -> Record {
    let rest = lease.expires.duration_since(now).unwrap_or_default().as_secs();
    record.ttl = record.ttl.min(u32::try_from(rest).unwrap_or(u32::MAX));
    record
}

impl Asked {
    /// The reply where no forwarder has answered.
    pub fn failed(&self) -> Reply {
        self.reply(Outcome::Failed, |reply| set_code(reply, ResponseCode::ServFail))
    }

    fn reply_known(&self, zone: &Zone, known: Known) -> Reply {
        let negative = |reply: &mut Message, apex: &Name, code| {
            set_code(reply, code);
            reply.metadata.authoritative = true;
            reply.add_authority(zone.soa(apex, SERIAL));
        };
        match known {
            Known::Records(records) => self.reply(Outcome::Answered, |reply| {
                reply.metadata.authoritative = true;
                if records.iter().any(|record| record.record_type() == RecordType::NS)
                    && let Some(address) = zone.address_of(zone.server())
                {
                    reply.add_additional(zone.a(zone.server(), address));
                }
                reply.add_answers(records);
            }),
            Known::NoData(apex) => {
                self.reply(Outcome::NoData, |reply| negative(reply, &apex, ResponseCode::NoError))
            }
            Known::NoName(apex) => {
                self.reply(Outcome::NoName, |reply| negative(reply, &apex, ResponseCode::NXDomain))
            }
            Known::Lease(..) | Known::Elsewhere => self.failed(),
        }
    }

    /// A reply to it that `fill` completes.
    fn reply(&self, outcome: Outcome, fill: impl FnOnce(&mut Message)) -> Reply {
        let request = &self.request;
        let mut reply = Message::response(request.metadata.id, request.metadata.op_code);
        reply.metadata.recursion_desired = request.metadata.recursion_desired;
        reply.metadata.recursion_available = self.recursion;
        reply.add_queries(request.queries.iter().take(1).cloned());
        if request.edns.is_some() {
            let mut edns = Edns::new();
            edns.set_max_payload(UDP_BYTES);
            reply.set_edns(edns);
        }
        fill(&mut reply);
        Reply { packet: self.encode(&reply), outcome }
    }

    /// What is too long for the client is left out, and it asks again over TCP.
    fn encode(&self, reply: &Message) -> Vec<u8> {
        let limit = match (self.transport, &self.request.edns) {
            (Transport::Tcp, _) => u16::MAX,
            (Transport::Udp, Some(edns)) => edns.max_payload().clamp(MIN_UDP_BYTES, UDP_BYTES),
            (Transport::Udp, None) => MIN_UDP_BYTES,
        };
        let whole = reply.to_vec().ok().filter(|packet| packet.len() <= usize::from(limit));
        let metadata = &reply.metadata;
        // That a name which was read cannot be written is for the crate to say, and no reason to end.
        whole
            .or_else(|| reply.truncate().to_vec().ok())
            .unwrap_or_else(|| header_alone(metadata.id, metadata.op_code, ResponseCode::ServFail))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bootspec::MacAddr;
    use hickory_proto::rr::RData;
    use proptest::prelude::*;
    use std::time::Duration;

    const NODE: Ipv4Addr = Ipv4Addr::new(192, 168, 0, 101);
    const FOREIGN: Ipv4Addr = Ipv4Addr::new(10, 9, 9, 9);
    const LEASED: Ipv4Addr = Ipv4Addr::new(192, 168, 0, 200);
    const MAC: MacAddr = MacAddr::new([2, 0, 0, 0, 0, 5]);

    fn config(dns: &str) -> Config {
        let text = include_str!("../../bootserve.example.toml");
        Config::parse(&text.replace("[boot]", &format!("[dns]\nzone = 'cluster'\n{dns}\n[boot]"))).unwrap()
    }

    fn query(name: &str, kind: RecordType) -> Message {
        let mut message = Message::query();
        message.metadata.recursion_desired = true;
        message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
        message
    }

    fn ask(config: &Config, peer: Ipv4Addr, query: &Message) -> Answer {
        let packet = query.to_vec().unwrap();
        answer(config, config.dns.as_ref().unwrap(), Transport::Udp, peer, &packet)
    }

    fn replied(answer: Answer) -> (Outcome, Message) {
        let Answer::Reply(reply) = answer else { panic!("{answer:?}") };
        (reply.outcome, Message::from_vec(&reply.packet).unwrap())
    }

    fn reply(name: &str, kind: RecordType) -> (Outcome, Message) {
        let query = query(name, kind);
        let (outcome, reply) = replied(ask(&config(""), NODE, &query));
        assert_eq!(reply.metadata.id, query.metadata.id);
        assert_eq!(reply.queries, query.queries);
        (outcome, reply)
    }

    #[test]
    fn what_is_known_is_answered_with_authority() {
        for (name, kind, expected) in [
            ("node-001.cluster.", RecordType::A, "192.168.0.101"),
            ("NODE-001.Cluster.", RecordType::A, "192.168.0.101"),
            ("node-001.cluster.", RecordType::ANY, "192.168.0.101"),
            ("bootserve.cluster.", RecordType::A, "192.168.0.1"),
            ("101.0.168.192.in-addr.arpa.", RecordType::PTR, "node-001.cluster."),
            ("1.0.168.192.in-addr.arpa.", RecordType::PTR, "bootserve.cluster."),
            ("cluster.", RecordType::NS, "bootserve.cluster."),
            ("0.168.192.in-addr.arpa.", RecordType::NS, "bootserve.cluster."),
        ] {
            let (outcome, reply) = reply(name, kind);
            let found: Vec<_> = reply.answers.iter().map(|record| record.data.to_string()).collect();
            assert_eq!((outcome, found), (Outcome::Answered, vec![expected.to_owned()]), "{name}");
            assert!(reply.metadata.authoritative && !reply.metadata.recursion_available);
            assert!(reply.answers.iter().all(|record| record.ttl == 60));
        }
        let (_, soa) = reply("0.168.192.in-addr.arpa.", RecordType::SOA);
        assert!(matches!(soa.answers[0].data, RData::SOA(_)));
    }

    #[test]
    fn what_is_not_there_is_denied_with_the_zone() {
        let check = |name: &str, kind, expected: Outcome, code, zone: &str| {
            let (outcome, reply) = reply(name, kind);
            assert_eq!((outcome, reply.metadata.response_code), (expected, code), "{name}");
            assert!(reply.metadata.authoritative && reply.answers.is_empty());
            assert_eq!(reply.authorities[0].name.to_string(), zone);
            let RData::SOA(soa) = &reply.authorities[0].data else { panic!("no SOA") };
            assert_eq!(soa.minimum, 60);
        };
        let no_data = |name, kind, zone| check(name, kind, Outcome::NoData, ResponseCode::NoError, zone);
        no_data("node-001.cluster.", RecordType::AAAA, "cluster.");
        no_data("cluster.", RecordType::A, "cluster.");
        no_data("101.0.168.192.in-addr.arpa.", RecordType::A, "0.168.192.in-addr.arpa.");
        let no_name = |name, kind, zone| check(name, kind, Outcome::NoName, ResponseCode::NXDomain, zone);
        no_name("node-009.cluster.", RecordType::A, "cluster.");
        no_name("node-009.cluster.", RecordType::AAAA, "cluster.");
        no_name("x.node-001.cluster.", RecordType::A, "cluster.");
        no_name("x.0.168.192.in-addr.arpa.", RecordType::PTR, "0.168.192.in-addr.arpa.");
    }

    #[test]
    fn other_names_are_forwarded_for_clients_of_the_networks() {
        let forwarding = config("forwarders = ['10.0.0.53']");
        let other = query("example.org.", RecordType::A);
        assert!(matches!(ask(&forwarding, NODE, &other), Answer::Forward(_)));
        let check = |config: &Config, peer, query: &Message| {
            let (outcome, reply) = replied(ask(config, peer, query));
            assert_eq!((outcome, reply.metadata.response_code), (Outcome::Refused, ResponseCode::Refused));
            assert!(!reply.metadata.authoritative);
        };
        check(&forwarding, FOREIGN, &other);
        check(&config(""), NODE, &other);
        let mut iterative = other.clone();
        iterative.metadata.recursion_desired = false;
        check(&forwarding, NODE, &iterative);
        // Others may know what we know, and a name of ours is never a forwarder's.
        let (outcome, reply) = replied(ask(&forwarding, FOREIGN, &query("node-001.cluster.", RecordType::A)));
        assert_eq!((outcome, reply.metadata.recursion_available), (Outcome::Answered, false));
        let (outcome, reply) = replied(ask(&forwarding, NODE, &query("node-001.cluster.", RecordType::AAAA)));
        assert_eq!((outcome, reply.metadata.recursion_available), (Outcome::NoData, true));
    }

    #[test]
    fn a_machine_with_a_lease_is_known_until_it_ends() {
        let config = config("ttl_seconds = 3600");
        let zone = &config.dns.as_ref().unwrap().zone;
        let now = SystemTime::UNIX_EPOCH;
        let lease = |address| Lease { mac: MAC, address, expires: now + Duration::from_secs(90) };
        let ask = |name: &str, kind, expected: LeaseOf, lease: Option<Lease>| {
            let Answer::Lease(question) = ask(&config, NODE, &query(name, kind)) else { panic!("{name}") };
            assert_eq!(question.lease, expected);
            let reply = question.reply(&config, zone, lease, now);
            (reply.outcome, Message::from_vec(&reply.packet).unwrap())
        };
        let (name, reverse) = ("mac-02-00-00-00-00-05.cluster.", "200.0.168.192.in-addr.arpa.");
        let (outcome, reply) = ask(name, RecordType::A, LeaseOf::Machine(MAC), Some(lease(LEASED)));
        assert_eq!((outcome, reply.answers[0].data.to_string()), (Outcome::Answered, LEASED.to_string()));
        assert_eq!(reply.answers[0].ttl, 90);
        let (outcome, reply) = ask(reverse, RecordType::PTR, LeaseOf::Address(LEASED), Some(lease(LEASED)));
        assert_eq!((outcome, reply.answers[0].data.to_string()), (Outcome::Answered, name.to_owned()));
        let outcome = |name, kind, of, lease| ask(name, kind, of, lease).0;
        assert_eq!(
            outcome(name, RecordType::AAAA, LeaseOf::Machine(MAC), Some(lease(LEASED))),
            Outcome::NoData
        );
        assert_eq!(outcome(name, RecordType::A, LeaseOf::Machine(MAC), None), Outcome::NoName);
        assert_eq!(
            outcome(name, RecordType::A, LeaseOf::Machine(MAC), Some(lease(NODE))),
            Outcome::NoName,
            "it has the node's name"
        );
        assert_eq!(
            outcome(name, RecordType::A, LeaseOf::Machine(MAC), Some(lease(FOREIGN))),
            Outcome::NoName,
            "its network is gone"
        );
    }

    #[test]
    fn what_is_no_proper_query_is_told_so_or_not_answered_at_all() {
        let config = config("");
        let code = |query: &Message| replied(ask(&config, NODE, query)).1.metadata.response_code;
        let name = "node-001.cluster.";
        assert_eq!(code(&query(name, RecordType::AXFR)), ResponseCode::Refused);
        let mut chaos = query("version.bind.", RecordType::TXT);
        chaos.queries[0].set_query_class(DNSClass::CH);
        assert_eq!(code(&chaos), ResponseCode::Refused);
        let mut two = query(name, RecordType::A);
        two.add_query(two.queries[0].clone());
        assert_eq!(code(&two), ResponseCode::FormErr);
        let mut notify = query(name, RecordType::SOA);
        notify.metadata.op_code = OpCode::Notify;
        assert_eq!(code(&notify), ResponseCode::NotImp);
        let mut newer = query(name, RecordType::A);
        let mut edns = Edns::new();
        edns.set_version(1);
        newer.set_edns(edns);
        // BADSIG has the same number.
        assert_eq!(u16::from(code(&newer)), u16::from(ResponseCode::BADVERS));
        let mut response = query(name, RecordType::A);
        response.metadata.message_type = MessageType::Response;
        assert!(matches!(ask(&config, NODE, &response), Answer::Nothing(_)));
        let short = query(name, RecordType::A).to_vec().unwrap();
        let answer =
            |packet: &[u8]| answer(&config, config.dns.as_ref().unwrap(), Transport::Udp, NODE, packet);
        let (outcome, reply) = replied(answer(&short[..20]));
        assert_eq!((outcome, reply.metadata.response_code), (Outcome::Malformed, ResponseCode::FormErr));
        assert!(matches!(answer(&short[..11]), Answer::Nothing(_)));
    }

    #[test]
    fn a_reply_that_is_too_long_for_a_datagram_is_cut() {
        let mut config = config("");
        let long = vec!["x".repeat(60); 4].join(".");
        let zone = Zone::new(&long, ("n", NODE), 60, []).unwrap();
        std::sync::Arc::make_mut(config.dns.as_mut().unwrap()).zone = zone;
        let query = query(&format!("{long}."), RecordType::ANY);
        let (_, cut) = replied(ask(&config, NODE, &query));
        let dns = config.dns.as_ref().unwrap();
        let whole = answer(&config, dns, Transport::Tcp, NODE, &query.to_vec().unwrap());
        let (_, whole) = replied(whole);
        assert!(whole.answers.len() == 2 && !whole.metadata.truncation);
        let is_cut = whole.to_vec().unwrap().len() > usize::from(MIN_UDP_BYTES);
        assert_eq!(cut.metadata.truncation, is_cut);
        assert_eq!(cut.answers.is_empty(), is_cut);
    }

    proptest! {
        /// Whatever comes: the reply is a response to it, and small.
        #[test]
        fn any_bytes_are_answered_with_a_response_or_not_at_all(
            start in prop::sample::select(vec![0_usize, 4, 12, 33]),
            bytes in prop::collection::vec(any::<u8>(), 0..300),
            cut in 0_usize..400,
        ) {
            let config = config("forwarders = ['10.0.0.53']");
            let mut packet = query("mac-02-00-00-00-00-05.cluster.", RecordType::A).to_vec().unwrap();
            packet.truncate(start);
            packet.extend(bytes);
            packet.truncate(cut);
            let dns = config.dns.as_ref().unwrap();
            let reply = match answer(&config, dns, Transport::Udp, NODE, &packet) {
                Answer::Reply(reply) => reply,
                Answer::Lease(question) => question.reply(&config, &dns.zone, None, SystemTime::UNIX_EPOCH),
                Answer::Forward(asked) => asked.failed(),
                Answer::Nothing(_) => return Ok(()),
            };
            prop_assert_eq!(&reply.packet[..2], &packet[..2]);
            prop_assert!(reply.packet[2] & 0x80 != 0 && reply.packet.len() <= usize::from(UDP_BYTES));
        }
    }
}
