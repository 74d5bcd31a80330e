use dhcproto::v4::{self, DhcpOption, OptionCode};
use dhcproto::{Decodable, Encodable};
use proptest::prelude::*;

use super::*;

const MAC: MacAddr = MacAddr::new([0xfc, 0xab, 0x14, 0xe8, 0x66, 0x01]);
const SERVER: Ipv4Addr = Ipv4Addr::new(192, 168, 0, 1);
const OTHER_SERVER: Ipv4Addr = Ipv4Addr::new(192, 168, 0, 2);
const ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 168, 0, 11);

/// The client and a clock that only the test moves.
struct Bench {
    client: Client,
    now: Instant,
}

impl Bench {
    fn new() -> Self {
        let now = Instant::now();
        Self { client: Client::new(MAC, 42, now), now }
    }

    /// Moves the clock to the deadline and returns what is sent then, and after how many seconds.
    fn transmit(&mut self) -> (v4::Message, f64) {
        let waited = self.client.next_deadline() - self.now;
        self.now += waited;
        let message = v4::Message::from_bytes(&self.client.transmit(self.now)).unwrap();
        assert!(self.client.next_deadline() > self.now);
        (message, waited.as_secs_f64())
    }

    fn transmitted(&mut self) -> v4::MessageType {
        self.transmit().0.opts().msg_type().unwrap()
    }

    fn receive(&mut self, message: &v4::Message) -> Option<Lease> {
        self.client.receive(self.now, &message.to_vec().unwrap())
    }

    /// A server's answer to the last message.
    fn reply(&self, kind: v4::MessageType, server: Ipv4Addr) -> v4::Message {
        let none = Ipv4Addr::UNSPECIFIED;
        let yiaddr = if kind == v4::MessageType::Nak { none } else { ADDRESS };
        let mut reply = v4::Message::new_with_id(self.client.xid, none, yiaddr, none, none, &MAC.octets());
        reply.set_opcode(v4::Opcode::BootReply);
        reply.opts_mut().insert(DhcpOption::MessageType(kind));
        reply.opts_mut().insert(DhcpOption::ServerIdentifier(server));
        reply.opts_mut().insert(DhcpOption::SubnetMask(Ipv4Addr::new(255, 255, 255, 0)));
        reply.opts_mut().insert(DhcpOption::Router(vec![SERVER]));
        reply.opts_mut().insert(DhcpOption::AddressLeaseTime(3600));
        reply
    }

    fn answer(&mut self, kind: v4::MessageType) -> Option<Lease> {
        self.receive(&self.reply(kind, SERVER))
    }
}

#[test]
fn four_messages_give_a_lease() {
    let mut bench = Bench::new();
    let (discover, waited) = bench.transmit();
    assert_eq!((discover.opts().msg_type(), waited), (Some(v4::MessageType::Discover), 0.0));
    assert_eq!(bench.answer(v4::MessageType::Offer), None);
    let (request, waited) = bench.transmit();
    assert_eq!((request.opts().msg_type(), waited), (Some(v4::MessageType::Request), 0.0));
    assert_eq!(
        request.opts().get(OptionCode::RequestedIpAddress),
        Some(&DhcpOption::RequestedIpAddress(ADDRESS))
    );
    let lease = bench.answer(v4::MessageType::Ack).unwrap();
    let address = "192.168.0.11/24".parse().unwrap();
    let duration = Some(Duration::from_secs(3600));
    assert_eq!(lease, Lease { address, gateway: Some(SERVER), server: SERVER, duration });
}

#[test]
fn an_address_may_be_given_for_ever() {
    let mut bench = Bench::new();
    bench.transmit();
    bench.answer(v4::MessageType::Offer);
    bench.transmit();
    let mut ack = bench.reply(v4::MessageType::Ack, SERVER);
    ack.opts_mut().insert(DhcpOption::AddressLeaseTime(u32::MAX));
    assert_eq!(bench.receive(&ack).unwrap().duration, None);
}

#[test]
fn silence_is_met_with_longer_and_longer_pauses() {
    let mut bench = Bench::new();
    let waits: Vec<f64> = (0..8).map(|_| bench.transmit().1).collect();
    for (wait, nominal) in waits.iter().zip([0.0, 1.0, 2.0, 4.0, 8.0, 8.0, 8.0, 8.0]) {
        assert!((0.75 * nominal..=1.25 * nominal).contains(wait), "{waits:?}");
    }
    assert!(waits.windows(2).all(|pair| pair[0] != pair[1]), "no jitter: {waits:?}");
    let error = bench.client.give_up("eth0", Duration::from_secs(60)).to_string();
    assert_eq!(error, "no DHCP answer on eth0 in 60 s");
}

#[test]
fn a_server_that_goes_silent_after_its_offer_is_given_up() {
    let mut bench = Bench::new();
    bench.transmit();
    bench.answer(v4::MessageType::Offer);
    let stale = bench.reply(v4::MessageType::Offer, SERVER);
    let sent: Vec<_> = (0..5).map(|_| bench.transmitted()).collect();
    assert_eq!(sent[..4], [v4::MessageType::Request; 4]);
    assert_eq!(sent[4], v4::MessageType::Discover);
    bench.receive(&stale);
    assert_eq!(
        bench.transmitted(),
        v4::MessageType::Discover,
        "an offer of the exchange before counts no more"
    );
    let error = bench.client.give_up("eth0", Duration::from_secs(60)).to_string();
    assert!(error.contains("1 offers were accepted, 0 of them refused"), "{error}");
}

#[test]
fn a_refusal_begins_anew_after_a_pause() {
    let mut bench = Bench::new();
    bench.transmit();
    bench.answer(v4::MessageType::Offer);
    bench.transmit();
    let foreign = bench.reply(v4::MessageType::Nak, OTHER_SERVER);
    bench.receive(&foreign);
    assert_eq!(bench.client.refusals, 0);
    bench.answer(v4::MessageType::Nak);
    let (message, waited) = bench.transmit();
    assert_eq!(message.opts().msg_type(), Some(v4::MessageType::Discover));
    assert!(waited >= 0.75, "{waited}");
    bench.answer(v4::MessageType::Offer);
    bench.transmit();
    assert!(bench.answer(v4::MessageType::Ack).is_some());
}

#[test]
fn what_is_meant_for_others_or_out_of_place_is_dropped() {
    let mut bench = Bench::new();
    bench.transmit();
    assert_eq!(bench.answer(v4::MessageType::Ack), None);
    let mut foreign = bench.reply(v4::MessageType::Offer, SERVER);
    foreign.set_chaddr(&[1, 2, 3, 4, 5, 6]);
    bench.receive(&foreign);
    let mut stale = bench.reply(v4::MessageType::Offer, SERVER);
    stale.set_xid(bench.client.xid.wrapping_sub(1));
    bench.receive(&stale);
    let mut anonymous = bench.reply(v4::MessageType::Offer, SERVER);
    anonymous.opts_mut().remove(OptionCode::ServerIdentifier);
    bench.receive(&anonymous);
    let mut nowhere = bench.reply(v4::MessageType::Offer, SERVER);
    nowhere.set_yiaddr(Ipv4Addr::UNSPECIFIED);
    bench.receive(&nowhere);
    assert_eq!(bench.client.state, State::Selecting);
    bench.answer(v4::MessageType::Offer);
    bench.transmit();
    let foreign = bench.reply(v4::MessageType::Ack, OTHER_SERVER);
    assert_eq!(bench.receive(&foreign), None);
    assert!(bench.answer(v4::MessageType::Ack).is_some());
}

#[test]
fn a_server_without_mask_and_router_gives_a_lease_by_class() {
    for (address, expected) in
        [("10.1.2.3", "10.1.2.3/8"), ("172.16.0.1", "172.16.0.1/16"), ("192.168.0.1", "192.168.0.1/24")]
    {
        let mut bench = Bench::new();
        bench.transmit();
        bench.answer(v4::MessageType::Offer);
        bench.transmit();
        let mut ack = bench.reply(v4::MessageType::Ack, SERVER);
        ack.set_yiaddr(address.parse::<Ipv4Addr>().unwrap());
        ack.opts_mut().remove(OptionCode::SubnetMask);
        ack.opts_mut().remove(OptionCode::Router);
        let lease = bench.receive(&ack).unwrap();
        assert_eq!((lease.address.to_string().as_str(), lease.gateway), (expected, None));
    }
}

proptest! {
    /// Whatever comes, the client goes on sending and never hands out an address that no machine can have.
    #[test]
    fn any_sequence_of_packets_leaves_a_working_client(
        packets in proptest::collection::vec((0u8..9, any::<u32>(), any::<u32>(), 0u64..9000), 0..40),
    ) {
        let mut bench = Bench::new();
        for (kind, yiaddr, mask, later_ms) in packets {
            if bench.now >= bench.client.next_deadline() {
                bench.client.transmit(bench.now);
            }
            let mut reply = bench.reply(v4::MessageType::from(kind), SERVER);
            reply.set_yiaddr(Ipv4Addr::from(yiaddr));
            reply.opts_mut().insert(DhcpOption::SubnetMask(mask.into()));
            if let Some(lease) = bench.receive(&reply) {
                prop_assert!(!lease.address.address.is_unspecified() && !lease.address.address.is_multicast());
            }
            bench.now += Duration::from_millis(later_ms);
            prop_assert!(bench.client.next_deadline() <= bench.now + Duration::from_secs(10));
        }
    }
}
