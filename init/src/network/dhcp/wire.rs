//! DHCP messages: bytes to types and back. smoltcp knows the format (RFC 2131 section 2, options of RFC 2132).

use std::net::Ipv4Addr;

use bootspec::mac::MacAddr;
pub use smoltcp::wire::DhcpMessageType as MessageType;
use smoltcp::wire::{DhcpOption, DhcpPacket, DhcpRepr, EthernetAddress};

const SUBNET_MASK: u8 = 1;
const ROUTER: u8 = 3;
const LEASE_TIME: u8 = 51;
const MESSAGE_TYPE: u8 = 53;
const SERVER_IDENTIFIER: u8 = 54;
/// BOOTREPLY in the field `op`.
const BOOT_REPLY: u8 = 2;
const MAGIC: u32 = 0x6382_5363;
/// Relays and servers may drop a shorter message (RFC 1542 section 2.1).
const MIN_BYTES: usize = 300;
/// What option 57 says that the client takes: an Ethernet frame without the headers of IP and UDP.
const MAX_MESSAGE_BYTES: u16 = 1472;

/// What a client sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// Whether an address is sought, or asked for.
    pub kind: RequestKind,
    /// Marks the messages of one exchange.
    pub xid: u32,
    /// Seconds since the client began to seek an address.
    pub secs: u16,
    /// The client's hardware address, which is its client identifier as well.
    pub chaddr: MacAddr,
}

/// The messages that a client without an address sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestKind {
    /// To all servers: offer me an address.
    Discover,
    /// To the server that has offered it: give me this address.
    Request {
        /// Its server identifier.
        server: Ipv4Addr,
        /// What it has offered.
        address: Ipv4Addr,
    },
}

impl Request {
    /// The message's bytes.
    pub fn emit(&self) -> Vec<u8> {
        let chaddr = EthernetAddress(self.chaddr.octets());
        let (message_type, server_identifier, requested_ip) = match self.kind {
            RequestKind::Discover => (MessageType::Discover, None, None),
            RequestKind::Request { server, address } => (MessageType::Request, Some(server), Some(address)),
        };
        let message = DhcpRepr {
            message_type,
            transaction_id: self.xid,
            secs: self.secs,
            client_hardware_address: chaddr,
            client_ip: Ipv4Addr::UNSPECIFIED,
            your_ip: Ipv4Addr::UNSPECIFIED,
            server_ip: Ipv4Addr::UNSPECIFIED,
            router: None,
            subnet_mask: None,
            relay_agent_ip: Ipv4Addr::UNSPECIFIED,
            // The kernel passes nothing to an interface without an address but broadcasts.
            broadcast: true,
            requested_ip,
            client_identifier: Some(chaddr),
            server_identifier,
            parameter_request_list: Some(&[SUBNET_MASK, ROUTER]),
            dns_servers: None,
            max_size: Some(MAX_MESSAGE_BYTES),
            lease_duration: None,
            renew_duration: None,
            rebind_duration: None,
            additional_options: &[],
        };
        let mut bytes = vec![0; message.buffer_len().max(MIN_BYTES)];
        let emitted = message.emit(&mut DhcpPacket::new_unchecked(&mut bytes[..]));
        emitted.expect("the buffer has the length that the message asks for");
        bytes
    }
}

/// What a server sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reply {
    /// OFFER, ACK, NAK, or what is of no use here.
    pub kind: MessageType,
    /// That of the client's message.
    pub xid: u32,
    /// The client's hardware address.
    pub chaddr: MacAddr,
    /// The address for the client.
    pub yiaddr: Ipv4Addr,
    /// Which server it is.
    pub server: Option<Ipv4Addr>,
    /// The length of the prefix that is common to the client's network.
    pub prefix_len: Option<u8>,
    /// The first of the routers.
    pub router: Option<Ipv4Addr>,
    /// For how many seconds the address is given.
    pub lease_s: Option<u32>,
}

impl Reply {
    /// None if it is no reply of DHCP. Options of a wrong length count as absent.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let packet = DhcpPacket::new_checked(bytes).ok()?;
        if u8::from(packet.opcode()) != BOOT_REPLY || packet.magic_number() != MAGIC {
            return None;
        }
        let option = |kind| packet.options().find(|option| option.kind == kind);
        let address = |kind| option(kind).and_then(first_address);
        Some(Self {
            kind: MessageType::from(*option(MESSAGE_TYPE)?.data.first()?),
            xid: packet.transaction_id(),
            chaddr: MacAddr::new(packet.client_hardware_address().0),
            yiaddr: packet.your_ip(),
            server: address(SERVER_IDENTIFIER),
            prefix_len: address(SUBNET_MASK).and_then(prefix_len),
            router: address(ROUTER),
            lease_s: option(LEASE_TIME)
                .and_then(|option| option.data.first_chunk().copied())
                .map(u32::from_be_bytes),
        })
    }
}

fn first_address(option: DhcpOption<'_>) -> Option<Ipv4Addr> {
    option.data.first_chunk::<4>().map(|&octets| Ipv4Addr::from(octets))
}

/// None if the mask has a hole.
fn prefix_len(mask: Ipv4Addr) -> Option<u8> {
    let ones = mask.to_bits().leading_ones();
    (mask.to_bits().count_ones() == ones).then(|| u8::try_from(ones).expect("a mask has 32 bits"))
}

#[cfg(test)]
mod tests {
    use dhcproto::v4::{self, DhcpOption as Option4, OptionCode};
    use dhcproto::{Decodable, Encodable};
    use proptest::prelude::*;

    use super::*;

    const MAC: MacAddr = MacAddr::new([0xfc, 0xab, 0x14, 0xe8, 0x66, 0x01]);
    const SERVER: Ipv4Addr = Ipv4Addr::new(192, 168, 0, 1);
    const ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 168, 0, 11);

    /// The message as another implementation reads it.
    fn decode(request: Request) -> v4::Message {
        v4::Message::from_bytes(&request.emit()).unwrap()
    }

    #[test]
    fn a_discover_is_what_servers_expect() {
        let request = Request { kind: RequestKind::Discover, xid: 0x1234_5678, secs: 3, chaddr: MAC };
        let message = decode(request);
        assert_eq!(
            (message.opcode(), message.xid(), message.secs()),
            (v4::Opcode::BootRequest, 0x1234_5678, 3)
        );
        assert_eq!(message.chaddr(), MAC.octets());
        assert!(message.flags().broadcast());
        assert_eq!(message.opts().msg_type(), Some(v4::MessageType::Discover));
        let expected = [&[1], &MAC.octets()[..]].concat();
        assert_eq!(
            message.opts().get(OptionCode::ClientIdentifier),
            Some(&Option4::ClientIdentifier(expected))
        );
        assert_eq!(
            message.opts().get(OptionCode::ParameterRequestList),
            Some(&Option4::ParameterRequestList(vec![OptionCode::SubnetMask, OptionCode::Router]))
        );
        assert!(request.emit().len() >= MIN_BYTES);
    }

    #[test]
    fn a_request_names_the_server_and_the_address() {
        let kind = RequestKind::Request { server: SERVER, address: ADDRESS };
        let message = decode(Request { kind, xid: 1, secs: 0, chaddr: MAC });
        assert_eq!(message.opts().msg_type(), Some(v4::MessageType::Request));
        assert_eq!(
            message.opts().get(OptionCode::ServerIdentifier),
            Some(&Option4::ServerIdentifier(SERVER))
        );
        assert_eq!(
            message.opts().get(OptionCode::RequestedIpAddress),
            Some(&Option4::RequestedIpAddress(ADDRESS))
        );
    }

    fn offer(options: impl IntoIterator<Item = Option4>) -> Vec<u8> {
        let none = Ipv4Addr::UNSPECIFIED;
        let mut message = v4::Message::new_with_id(7, none, ADDRESS, none, none, &MAC.octets());
        message.set_opcode(v4::Opcode::BootReply);
        message.opts_mut().insert(Option4::MessageType(v4::MessageType::Offer));
        options.into_iter().for_each(|option| _ = message.opts_mut().insert(option));
        message.to_vec().unwrap()
    }

    #[test]
    fn an_offer_of_another_implementation_is_read() {
        let offer = offer([
            Option4::ServerIdentifier(SERVER),
            Option4::SubnetMask(Ipv4Addr::new(255, 255, 254, 0)),
            Option4::Router(vec![SERVER, ADDRESS]),
            Option4::AddressLeaseTime(7200),
        ]);
        let expected = Reply {
            kind: MessageType::Offer,
            xid: 7,
            chaddr: MAC,
            yiaddr: ADDRESS,
            server: Some(SERVER),
            prefix_len: Some(23),
            router: Some(SERVER),
            lease_s: Some(7200),
        };
        assert_eq!(Reply::parse(&offer), Some(expected));
    }

    #[test]
    fn what_is_damaged_counts_as_absent() {
        let holes = offer([Option4::SubnetMask(Ipv4Addr::new(255, 0, 255, 0)), Option4::Router(vec![])]);
        let reply = Reply::parse(&holes).unwrap();
        assert_eq!((reply.prefix_len, reply.router, reply.server), (None, None, None));
        let request = Request { kind: RequestKind::Discover, xid: 1, secs: 0, chaddr: MAC };
        assert_eq!(Reply::parse(&request.emit()), None, "a request is no reply");
        assert_eq!(Reply::parse(&offer([])[..239]), None);
    }

    proptest! {
        #[test]
        fn any_packet_is_read_or_dropped_without_panic(
            mut bytes in proptest::collection::vec(any::<u8>(), 0..400),
            is_reply: bool,
        ) {
            if is_reply && bytes.len() >= 240 {
                bytes[0] = BOOT_REPLY;
                bytes[236..240].copy_from_slice(&MAGIC.to_be_bytes());
            }
            let _ = Reply::parse(&bytes);
        }

        #[test]
        fn requests_survive_another_implementation(xid: u32, secs: u16, octets: [u8; 6], address: u32) {
            let kind = RequestKind::Request { server: SERVER, address: address.into() };
            let message = decode(Request { kind, xid, secs, chaddr: MacAddr::new(octets) });
            prop_assert_eq!((message.xid(), message.secs(), message.chaddr()), (xid, secs, &octets[..]));
        }
    }
}
