//! Captured requests of real firmware, answered by our state machine. Origin of the captures: `data/README.md`.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs::File;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use bootserve::config::Config;
use bootserve::dhcp::server::{Action, Server};
use bootserve::nbp::NbpSet;
use dhcproto::v4::{Decodable, Decoder, DhcpOption, Message, MessageType, OptionCode, UnknownOption};
use pcap_file::pcap::PcapReader;

const CONFIG: &str = r#"
[server]
interface = "br0"
address = "10.77.0.1"
store = "/store"
state = "/state"
[network]
subnet = "10.77.0.0/24"
range = "10.77.0.100-10.77.0.120"
router = "10.77.0.1"
[[node]]
name = "node-001"
mac = "fc:ab:14:e8:66:02"
address = "10.77.0.11"
image = "compute"
"#;

const SCRIPT: &str = "http://10.77.0.1/ipxe?mac=fc-ab-14-e8-66-02";
const HTTP_BOOT: &str = "http://10.77.0.1/nbp/ipxe.efi";

fn server() -> Server {
    let dir = tempfile::tempdir().unwrap();
    for name in ["undionly.kpxe", "ipxe.efi"] {
        std::fs::write(dir.path().join(name), name).unwrap();
    }
    let nbps = NbpSet::read(&[PathBuf::from(dir.path())]).unwrap();
    Server::new(Arc::new(Config::parse(CONFIG).unwrap()), Arc::new(nbps), Vec::new())
}

/// Payloads of the UDP packets to the port of DHCP servers.
fn requests(file: &str) -> Vec<Vec<u8>> {
    const ETHERNET_BYTES: usize = 14;
    const UDP_BYTES: usize = 8;
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(file);
    let mut reader = PcapReader::new(File::open(path).unwrap()).unwrap();
    let mut requests = Vec::new();
    while let Some(frame) = reader.next_packet() {
        let frame = frame.unwrap().data.into_owned();
        let ip = &frame[ETHERNET_BYTES..];
        let udp = &ip[usize::from(ip[0] & 15) * 4..];
        if udp[2..4] == 67_u16.to_be_bytes() {
            requests.push(udp[UDP_BYTES..].to_vec());
        }
    }
    requests
}

/// A reply, reduced to what its client needs.
#[derive(Debug, PartialEq)]
struct Answer {
    kind: MessageType,
    yiaddr: Ipv4Addr,
    siaddr: Ipv4Addr,
    file: String,
    /// Option 60.
    class: Option<Vec<u8>>,
    /// Option 175.
    ipxe: Option<Vec<u8>>,
}

fn answer(kind: MessageType, file: &str, class: Option<&str>, ipxe: Option<&[u8]>) -> Answer {
    Answer {
        kind,
        yiaddr: Ipv4Addr::new(10, 77, 0, 11),
        siaddr: Ipv4Addr::new(10, 77, 0, 1),
        file: file.to_owned(),
        class: class.map(|class| class.as_bytes().to_vec()),
        ipxe: ipxe.map(<[u8]>::to_vec),
    }
}

fn to_firmware(kind: MessageType, file: &str) -> Answer {
    answer(kind, file, None, None)
}

fn to_http_boot(kind: MessageType) -> Answer {
    answer(kind, HTTP_BOOT, Some("HTTPClient"), None)
}

fn to_ipxe(kind: MessageType) -> Answer {
    answer(kind, SCRIPT, None, Some(&[176, 1, 1]))
}

/// Hands `request` to `server` and decodes what it sends.
fn ask(server: &mut Server, request: &[u8]) -> Message {
    let actions = server.answer(SystemTime::UNIX_EPOCH, request).unwrap_or_default();
    let [.., Action::Send(reply)] = actions.as_slice() else { panic!("no reply in {actions:?}") };
    assert_eq!(reply.to, "255.255.255.255:68".parse().unwrap());
    let stored = actions.iter().any(|action| matches!(action, Action::Store(_)));
    let message = Message::decode(&mut Decoder::new(&reply.packet)).unwrap();
    assert_eq!(stored, message.opts().has_msg_type(MessageType::Ack), "an ACK, and only an ACK, is stored");
    check_echoes(&Message::decode(&mut Decoder::new(request)).unwrap(), &message);
    message
}

/// What every client checks before it looks at anything else.
fn check_echoes(request: &Message, reply: &Message) {
    assert_eq!(reply.xid(), request.xid());
    assert_eq!(reply.chaddr(), request.chaddr());
    assert_eq!(reply.flags(), request.flags());
    let server_id = reply.opts().get(OptionCode::ServerIdentifier);
    assert_eq!(server_id, Some(&DhcpOption::ServerIdentifier(Ipv4Addr::new(10, 77, 0, 1))));
    let uuid = OptionCode::ClientMachineIdentifier;
    assert_eq!(reply.opts().get(uuid), request.opts().get(uuid));
    assert!(!reply.opts().contains(OptionCode::VendorExtensions));
}

fn reduce(message: &Message) -> Answer {
    let file = message.fname().unwrap_or_default();
    let class = message.opts().get(OptionCode::ClassIdentifier);
    let ipxe = message.opts().get(OptionCode::Unknown(175));
    Answer {
        kind: message.opts().msg_type().unwrap(),
        yiaddr: message.yiaddr(),
        siaddr: message.siaddr(),
        file: String::from_utf8(file.strip_suffix(b"\0").unwrap_or(file).to_vec()).unwrap(),
        class: class.map(|option| match option {
            DhcpOption::ClassIdentifier(class) => class.clone(),
            other => panic!("{other:?}"),
        }),
        ipxe: ipxe.map(|option| match option {
            DhcpOption::Unknown(option) => UnknownOption::data(option).to_vec(),
            other => panic!("{other:?}"),
        }),
    }
}

/// Answers the first packets of a capture, and each of them twice.
fn check(file: &str, expected: &[Answer]) {
    let mut server = server();
    for (request, expected) in requests(file).iter().zip(expected) {
        assert_eq!(&reduce(&ask(&mut server, request)), expected, "{file}");
        assert_eq!(&reduce(&ask(&mut server, request)), expected, "{file}, repeated");
    }
}

#[test]
fn the_ipxe_rom_of_qemu_gets_its_script() {
    let offer = || to_ipxe(MessageType::Offer);
    check("bios-virtio.pcap", &[offer(), offer(), to_ipxe(MessageType::Ack)]);
}

#[test]
fn ovmf_gets_ipxe_by_tftp_and_ipxe_its_script() {
    check(
        "ovmf-native.pcap",
        &[
            to_firmware(MessageType::Offer, "ipxe.efi"),
            to_firmware(MessageType::Ack, "ipxe.efi"),
            to_ipxe(MessageType::Offer),
            to_ipxe(MessageType::Offer),
        ],
    );
}

#[test]
fn ovmf_http_boot_gets_a_url_and_ipxe_its_script() {
    check(
        "ovmf-http.pcap",
        &[
            to_http_boot(MessageType::Offer),
            to_http_boot(MessageType::Ack),
            to_ipxe(MessageType::Offer),
            to_ipxe(MessageType::Offer),
        ],
    );
}

#[test]
fn networkd_gets_an_address_and_nothing_to_boot() {
    let mut server = server();
    let discover = requests("ovmf-http.pcap").remove(4);
    let offer = reduce(&ask(&mut server, &discover));
    assert_eq!(offer.yiaddr, Ipv4Addr::new(10, 77, 0, 100));
    assert_eq!((offer.siaddr, offer.file.as_str()), (Ipv4Addr::UNSPECIFIED, ""));
    assert_eq!((offer.class, offer.ipxe), (None, None));
}

#[test]
fn every_captured_packet_is_a_request_that_is_understood() {
    for (file, count) in [("bios-virtio.pcap", 3), ("ovmf-native.pcap", 4), ("ovmf-http.pcap", 7)] {
        assert_eq!(requests(file).len(), count, "{file}");
    }
}
