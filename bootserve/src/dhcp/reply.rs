//! The server's answers, written as RFC 2131 table 3 says, with the boot options that the asking firmware understands.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use dhcproto::error::EncodeError;
use dhcproto::v4::{
    CLIENT_PORT, DhcpOption, Encodable, Encoder, Message, MessageType, Opcode, OptionCode, SERVER_PORT,
    UnknownOption, encode_long_opt_bytes,
};

use super::boot::BootOptions;
use super::client::Client;
use super::relay::RelayAgent;
use super::request::{IPXE_ENCAPSULATED, Kind, Request};
use crate::config::{Config, Network, Node};

/// An encoded reply and where it goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// Address and port to send to.
    pub to: SocketAddrV4,
    /// The packet.
    pub packet: Vec<u8>,
    /// How long it is held back.
    pub delay: Duration,
}

/// RFC 2131 section 2: what every client takes, in bytes with IP and UDP headers.
const MIN_MAX_MESSAGE_BYTES: u16 = 576;
const IP_AND_UDP_HEADER_BYTES: u16 = 28;
/// What stands before the options, or what BOOTP calls the vendor area.
const BOOTP_FIELDS_BYTES: usize = 236;
/// RFC 1542 section 2.1: some clients and relays drop what is shorter than a BOOTP packet, with 64 bytes of vendor area.
const MIN_PACKET_BYTES: usize = 300;
/// The `file` field holds 127 characters and a NUL.
const MAX_FILE_BYTES: usize = 127;
/// iPXE's encapsulated option 176, no-pxedhcp = 1: do not wait two seconds for a proxyDHCP server.
const IPXE_NO_PXEDHCP: [u8; 3] = [176, 1, 1];
/// Encapsulated option 6 of PXE, discovery control = 8: load the boot file, look for no boot server.
const PXE_USE_BOOT_FILE: &[u8] = &[6, 1, 8];
const PXE_END: u8 = 255;
/// What goes first when a reply is too long for its client.
const DISPENSABLE: [OptionCode; 3] =
    [OptionCode::DomainName, OptionCode::DomainNameServer, OptionCode::Hostname];

/// An OFFER of, or ACK for, `address`, which is of `network`.
pub fn lease(
    config: &Config,
    network: &Network,
    client: &Client,
    kind: MessageType,
    address: Ipv4Addr,
    boot: &BootOptions,
) -> Result<Reply, EncodeError> {
    let mut message = answer(config, client.request, kind, address);
    let lease_seconds = seconds(network.lease);
    let options = message.opts_mut();
    options.insert(DhcpOption::AddressLeaseTime(lease_seconds));
    // RFC 2131 section 4.4.5: T1 and T2 are half and seven eighths of the lease.
    options.insert(DhcpOption::Renewal(lease_seconds / 2));
    options.insert(DhcpOption::Rebinding(lease_seconds - lease_seconds / 8));
    add_network(&mut message, network, client.node());
    add_boot(&mut message, config, client, boot);
    finish(message, client, destination(client.request))
}

/// An ACK for an INFORM of a host of `network`: everything but an address.
pub fn inform(
    config: &Config,
    network: &Network,
    client: &Client,
    boot: &BootOptions,
) -> Result<Reply, EncodeError> {
    let mut message = answer(config, client.request, MessageType::Ack, Ipv4Addr::UNSPECIFIED);
    add_network(&mut message, network, client.node());
    add_boot(&mut message, config, client, boot);
    finish(message, client, destination(client.request))
}

/// An answer of a proxy, to `to`: how to boot, and nothing else. Firmware knows it by the lack of an address and by option 60.
pub fn proxy(
    config: &Config,
    client: &Client,
    kind: MessageType,
    boot: &BootOptions,
    to: SocketAddrV4,
) -> Result<Reply, EncodeError> {
    let mut message = answer(config, client.request, kind, Ipv4Addr::UNSPECIFIED);
    match boot {
        BootOptions::Nothing(_) | BootOptions::Http(_) => add_boot(&mut message, config, client, boot),
        BootOptions::Tftp(file) | BootOptions::Ipxe(file) => {
            set_boot_file(&mut message, config, client, file);
            add_discovery_control(&mut message, client.request);
        }
    }
    finish(message, client, to)
}

/// The answer to a BOOTP client, which has `address` for good (RFC 1534 section 2): no options of DHCP, and no more than fits
/// into the vendor area of RFC 951.
pub fn bootp(
    config: &Config,
    network: &Network,
    client: &Client,
    address: Ipv4Addr,
    boot: &BootOptions,
) -> Result<Reply, EncodeError> {
    let mut message = message(client.request, address);
    add_network(&mut message, network, client.node());
    add_boot(&mut message, config, client, boot);
    finish(message, client, destination(client.request))
}

/// A NAK with a text for whoever looks at the client's log.
pub fn nak(config: &Config, client: &Client, reason: &str) -> Result<Reply, EncodeError> {
    let mut message = answer(config, client.request, MessageType::Nak, Ipv4Addr::UNSPECIFIED);
    message.set_ciaddr(Ipv4Addr::UNSPECIFIED);
    message.opts_mut().insert(DhcpOption::Message(reason.to_owned()));
    // The client's address may be wrong for this network, so a NAK is never sent to it (RFC 2131 section 4.1), and a
    // relay is told to broadcast it, too (section 4.3.2).
    let to = match client.request.giaddr {
        Ipv4Addr::UNSPECIFIED => broadcast(),
        relay => {
            message.set_flags(client.request.flags.set_broadcast());
            SocketAddrV4::new(relay, SERVER_PORT)
        }
    };
    finish(message, client, to)
}

/// An answer without options.
fn message(request: &Request, yiaddr: Ipv4Addr) -> Message {
    let unset = Ipv4Addr::UNSPECIFIED;
    let mac = request.mac.octets();
    let mut message = Message::new_with_id(request.xid, request.ciaddr, yiaddr, unset, request.giaddr, &mac);
    message.set_opcode(Opcode::BootReply).set_flags(request.flags);
    message
}

fn answer(config: &Config, request: &Request, kind: MessageType, yiaddr: Ipv4Addr) -> Message {
    let mut message = message(request, yiaddr);
    let options = message.opts_mut();
    options.insert(DhcpOption::MessageType(kind));
    options
        .insert(DhcpOption::ServerIdentifier(request.server_id_of_relay().unwrap_or(config.server.address)));
    if let Some(uuid) = request.client_uuid {
        options.insert(DhcpOption::ClientMachineIdentifier(uuid.to_vec()));
    }
    if let Some(subnet) = request.subnet {
        options.insert(DhcpOption::SubnetSelection(subnet));
    }
    message
}

fn add_network(message: &mut Message, network: &Network, node: Option<&Node>) {
    let options = message.opts_mut();
    options.insert(DhcpOption::SubnetMask(network.subnet.netmask()));
    options.insert(DhcpOption::BroadcastAddr(network.subnet.broadcast()));
    if let Some(router) = network.router {
        options.insert(DhcpOption::Router(vec![router]));
    }
    if !network.dns.is_empty() {
        options.insert(DhcpOption::DomainNameServer(network.dns.clone()));
    }
    if let Some(domain) = &network.domain {
        options.insert(DhcpOption::DomainName(domain.clone()));
    }
    if let Some(node) = node {
        options.insert(DhcpOption::Hostname(node.name.to_string()));
    }
}

fn add_boot(message: &mut Message, config: &Config, client: &Client, boot: &BootOptions) {
    match boot {
        BootOptions::Nothing(_) => {}
        // By default neither option 60 nor 43 goes to PXE firmware: with 60 alone EDK2 takes us for a "BINL" server, asks
        // port 4011 and gives up after ten seconds.
        BootOptions::Tftp(name) => {
            set_boot_file(message, config, client, name);
            if client.quirks.discovery_control {
                add_discovery_control(message, client.request);
            }
        }
        BootOptions::Http(url) => {
            set_boot_file(message, config, client, url);
            // EDK2's HTTP Boot drops replies without this.
            message.opts_mut().insert(DhcpOption::ClassIdentifier(b"HTTPClient".to_vec()));
        }
        BootOptions::Ipxe(url) => {
            set_boot_file(message, config, client, url);
            let encapsulated = UnknownOption::new(IPXE_ENCAPSULATED, IPXE_NO_PXEDHCP.to_vec());
            message.opts_mut().insert(DhcpOption::Unknown(encapsulated));
        }
    }
}

fn add_discovery_control(message: &mut Message, request: &Request) {
    let control = [PXE_USE_BOOT_FILE, request.pxe_boot_item.as_deref().unwrap_or_default(), &[PXE_END]];
    let options = message.opts_mut();
    options.insert(DhcpOption::ClassIdentifier(b"PXEClient".to_vec()));
    // Without this, EDK2 takes option 60 for that of a "BINL" server.
    options.insert(DhcpOption::VendorExtensions(control.concat()));
}

/// The boot file goes into the `file` field, where its NUL has a place: EDK2 writes a NUL behind the end of option 67.
/// The server goes into siaddr, the only place where iPXE looks for it; EDK2 never reads option 66.
fn set_boot_file(message: &mut Message, config: &Config, client: &Client, file: &str) {
    message.set_siaddr(config.server.address);
    let fits = file.len() <= MAX_FILE_BYTES;
    if fits {
        message.set_fname_str(file);
    }
    if !fits || client.quirks.boot_file_option {
        message.opts_mut().insert(DhcpOption::BootfileName(file.as_bytes().to_vec()));
    }
}

/// RFC 2131 section 4.1: to the relay, to the address in use, or to everyone. We always broadcast to a client that
/// has no address yet, as we would need a raw socket to reach it; a broadcast is right whatever its flag says.
pub(super) fn destination(request: &Request) -> SocketAddrV4 {
    match (request.giaddr, request.ciaddr) {
        (Ipv4Addr::UNSPECIFIED, Ipv4Addr::UNSPECIFIED) => broadcast(),
        (Ipv4Addr::UNSPECIFIED, ciaddr) => SocketAddrV4::new(ciaddr, CLIENT_PORT),
        (relay, _) => SocketAddrV4::new(relay, SERVER_PORT),
    }
}

fn broadcast() -> SocketAddrV4 {
    SocketAddrV4::new(Ipv4Addr::BROADCAST, CLIENT_PORT)
}

/// Encodes the message, without what makes it too long for the client, which would drop it.
fn finish(mut message: Message, client: &Client, to: SocketAddrV4) -> Result<Reply, EncodeError> {
    let request = client.request;
    let limit = match request.kind {
        Kind::Bootp { .. } => MIN_PACKET_BYTES,
        Kind::Dhcp(_) => {
            let message_bytes = request.max_message_bytes.unwrap_or(0).max(MIN_MAX_MESSAGE_BYTES);
            usize::from(message_bytes - IP_AND_UDP_HEADER_BYTES)
        }
    };
    let mut packet = encode(&message, request.relay.as_ref())?;
    for option in DISPENSABLE {
        if packet.len() <= limit {
            break;
        }
        message.opts_mut().remove(option);
        packet = encode(&message, request.relay.as_ref())?;
    }
    if request.kind == (Kind::Bootp { reads_options: false }) {
        packet.truncate(BOOTP_FIELDS_BYTES);
    }
    packet.resize(packet.len().max(MIN_PACKET_BYTES), 0);
    Ok(Reply { to, packet, delay: client.quirks.delay })
}

/// What a relay added comes last (RFC 3046 section 2.1), as it was: dhcproto would sort its parts.
fn encode(message: &Message, relay: Option<&RelayAgent>) -> Result<Vec<u8>, EncodeError> {
    let mut packet = message.to_vec()?;
    let Some(relay) = relay else { return Ok(packet) };
    let (end, mut last) = (packet.pop(), Vec::new());
    encode_long_opt_bytes(OptionCode::RelayAgentInformation, &relay.echo, &mut Encoder::new(&mut last))?;
    packet.extend(last.into_iter().chain(end));
    Ok(packet)
}

fn seconds(duration: Duration) -> u32 {
    u32::try_from(duration.as_secs()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::super::boot::Nothing;
    use super::super::request::tests::packet;
    use super::*;
    use dhcproto::v4::{Decodable, Decoder};

    const NOTHING: BootOptions = BootOptions::Nothing(Nothing::NotBooting);

    fn config() -> Config {
        Config::parse(include_str!("../../bootserve.example.toml")).unwrap()
    }

    fn request(options: &[&[u8]]) -> Request {
        Request::parse(&packet(&[&[&[53, 1, 1][..]], options].concat())).unwrap()
    }

    fn offer(config: &Config, request: &Request, boot: BootOptions) -> Reply {
        lease(
            config,
            config.networks.own(),
            &Client::identify(config, request),
            MessageType::Offer,
            Ipv4Addr::new(192, 168, 0, 101),
            &boot,
        )
        .unwrap()
    }

    fn refusal(config: &Config, request: &Request) -> Reply {
        nak(config, &Client::identify(config, request), "no").unwrap()
    }

    fn decode(reply: &Reply) -> Message {
        Message::decode(&mut Decoder::new(&reply.packet)).unwrap()
    }

    #[test]
    fn offer_has_address_network_and_name() {
        let reply = offer(&config(), &request(&[]), NOTHING);
        assert_eq!(reply.to, "255.255.255.255:68".parse().unwrap());
        let message = decode(&reply);
        assert_eq!(message.opcode(), Opcode::BootReply);
        assert_eq!(message.yiaddr(), Ipv4Addr::new(192, 168, 0, 101));
        assert_eq!(message.siaddr(), Ipv4Addr::UNSPECIFIED);
        assert_eq!(message.fname(), None);
        let option = |code| message.opts().get(code).cloned().unwrap();
        assert_eq!(option(OptionCode::AddressLeaseTime), DhcpOption::AddressLeaseTime(3600));
        assert_eq!(option(OptionCode::Rebinding), DhcpOption::Rebinding(3150));
        assert_eq!(option(OptionCode::Hostname), DhcpOption::Hostname("node-001".into()));
        assert_eq!(option(OptionCode::SubnetMask), DhcpOption::SubnetMask(Ipv4Addr::new(255, 255, 255, 0)));
    }

    #[test]
    fn each_firmware_gets_the_options_it_understands() {
        let check = |boot: BootOptions, file: &str, class: bool, ipxe: bool| {
            let message = decode(&offer(&config(), &request(&[]), boot));
            assert_eq!(message.fname().unwrap().trim_ascii_end(), format!("{file}\0").as_bytes());
            assert_eq!(message.siaddr(), config().server.address);
            assert_eq!(message.opts().contains(OptionCode::ClassIdentifier), class);
            assert_eq!(message.opts().contains(IPXE_ENCAPSULATED), ipxe);
            assert!(!message.opts().contains(OptionCode::VendorExtensions));
        };
        check(BootOptions::Tftp("ipxe.efi".into()), "ipxe.efi", false, false);
        check(BootOptions::Http("http://h/nbp/ipxe.efi".into()), "http://h/nbp/ipxe.efi", true, false);
        check(BootOptions::Ipxe("http://h/ipxe".into()), "http://h/ipxe", false, true);
    }

    #[test]
    fn a_long_boot_file_moves_to_option_67() {
        let url = format!("http://h/{}", "x".repeat(150));
        let message = decode(&offer(&config(), &request(&[]), BootOptions::Http(url.clone())));
        assert_eq!(message.fname(), None);
        let option = message.opts().get(OptionCode::BootfileName).cloned();
        assert_eq!(option, Some(DhcpOption::BootfileName(url.into_bytes())));
    }

    #[test]
    fn uuid_is_echoed() {
        let uuid = [&[97, 17, 0][..], &[7; 16]].concat();
        let message = decode(&offer(&config(), &request(&[&uuid]), NOTHING));
        let option = message.opts().get(OptionCode::ClientMachineIdentifier).cloned();
        assert_eq!(option, Some(DhcpOption::ClientMachineIdentifier(uuid[2..].to_vec())));
    }

    #[test]
    fn replies_fit_what_the_client_takes_and_are_never_shorter_than_bootp() {
        let text = include_str!("../../bootserve.example.toml");
        let domain = format!("domain = \"{}\"", "x".repeat(253));
        let config = Config::parse(&text.replace("domain = \"cluster\"", &domain)).unwrap();
        let long_url = BootOptions::Http("x".repeat(200));
        let small = offer(&config, &request(&[&[57, 2, 2, 64]]), long_url.clone());
        assert!(small.packet.len() <= 548 && !decode(&small).opts().contains(OptionCode::DomainName));
        let large = offer(&config, &request(&[&[57, 2, 5, 220]]), long_url);
        assert!(decode(&large).opts().contains(OptionCode::DomainName));
        assert!(refusal(&config, &request(&[])).packet.len() >= 300);
    }

    #[test]
    fn replies_go_to_relay_address_or_everyone() {
        let mut request = request(&[]);
        request.ciaddr = Ipv4Addr::new(192, 168, 0, 101);
        assert_eq!(offer(&config(), &request, NOTHING).to, "192.168.0.101:68".parse().unwrap());
        assert_eq!(refusal(&config(), &request).to, "255.255.255.255:68".parse().unwrap());
        request.giaddr = Ipv4Addr::new(192, 168, 0, 5);
        assert_eq!(offer(&config(), &request, NOTHING).to, "192.168.0.5:67".parse().unwrap());
        let nak = refusal(&config(), &request);
        assert_eq!(nak.to, "192.168.0.5:67".parse().unwrap());
        assert!(decode(&nak).flags().broadcast());
    }
}
