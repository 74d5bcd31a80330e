//! What machines of each architecture are told, byte for byte: firmware and iPXE, by an authoritative server, a proxy, through
//! a relay, and on port 4011. The expected packets are written out here, without our encoder.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::SocketAddrV4;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use bootserve::config::Config;
use bootserve::dhcp::ignored::Ignored;
use bootserve::dhcp::proxy::Proxy;
use bootserve::dhcp::server::{Action, Server};
use bootserve::nbp::NbpSet;

const SERVER: [u8; 4] = [192, 168, 0, 1];
const RELAY: [u8; 4] = [10, 1, 0, 1];
const NODE: [u8; 4] = [192, 168, 0, 101];
const BEHIND_RELAY: [u8; 4] = [10, 1, 0, 5];
const MAC: [u8; 6] = [0xfc, 0xab, 0x14, 0xe8, 0x66, 0x02];
const XID: [u8; 4] = [1, 2, 3, 4];
const UUID: [u8; 17] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16];
const CIRCUIT: &[u8] = b"\x01\x04eth7";
const PEER: &str = "192.168.0.101:4011";

const SCRIPT: &str = "http://192.168.0.1/ipxe?mac=fc-ab-14-e8-66-02";

/// Architecture, its network boot program, and whether its firmware loads that by HTTP.
const ARCHITECTURES: [(u16, Option<&str>, bool); 20] = [
    (0, Some("undionly.kpxe"), false),
    (6, Some("ipxe-i386.efi"), false),
    (7, Some("ipxe.efi"), false),
    (9, Some("ipxe.efi"), false),
    (10, Some("ipxe-arm32.efi"), false),
    (11, Some("ipxe-arm64.efi"), false),
    (15, Some("ipxe-i386.efi"), true),
    (16, Some("ipxe.efi"), true),
    (17, None, true),
    (18, Some("ipxe-arm32.efi"), true),
    (19, Some("ipxe-arm64.efi"), true),
    (25, Some("ipxe-riscv32.efi"), false),
    (26, Some("ipxe-riscv32.efi"), true),
    (27, Some("ipxe-riscv64.efi"), false),
    (28, Some("ipxe-riscv64.efi"), true),
    (37, None, false),
    (38, None, true),
    (39, Some("ipxe-loong64.efi"), false),
    (40, Some("ipxe-loong64.efi"), true),
    (41, None, false),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Authoritative,
    Relayed,
    Proxy,
    Port4011,
}

/// Who is told what about booting.
enum Told {
    Nothing,
    Firmware(String),
    HttpBoot(String),
    Ipxe,
}

type Options = Vec<(u8, Vec<u8>)>;

fn packet(op: u8, fields: [[u8; 4]; 4], file: &str, options: Options) -> Vec<u8> {
    let mut packet = vec![op, 1, 6, 0];
    packet.extend(XID);
    packet.extend([0; 4]);
    packet.extend(fields.concat());
    packet.extend(MAC);
    packet.extend([0; 10 + 64]);
    packet.extend(file.as_bytes());
    packet.resize(236, 0);
    packet.extend([99, 130, 83, 99]);
    for (code, value) in options {
        packet.extend([code, u8::try_from(value.len()).unwrap()]);
        packet.extend(value);
    }
    packet.push(255);
    packet.resize(packet.len().max(300), 0);
    packet
}

fn request(arch: u16, is_http: bool, is_ipxe: bool, way: Way) -> Vec<u8> {
    let kind = if way == Way::Port4011 { 3 } else { 1 };
    let class: &[u8] = if is_http && !is_ipxe { b"HTTPClient:Arch:00016:UNDI:003001" } else { b"PXEClient" };
    let mut options =
        vec![(53, vec![kind]), (60, class.to_vec()), (93, arch.to_be_bytes().to_vec()), (97, UUID.to_vec())];
    if is_ipxe {
        options.push((77, b"iPXE".to_vec()));
    }
    let giaddr = if way == Way::Relayed { RELAY } else { [0; 4] };
    if way == Way::Relayed {
        options.push((82, CIRCUIT.to_vec()));
    }
    packet(1, [[0; 4], [0; 4], [0; 4], giaddr], "", options)
}

/// The reply that is expected; options are sorted by code, and what a relay added is the last.
fn expected(told: &Told, way: Way) -> Vec<u8> {
    expected_with(told, way, Vec::new())
}

/// With these options besides.
fn expected_with(told: &Told, way: Way, more: Options) -> Vec<u8> {
    let gives_addresses = matches!(way, Way::Authoritative | Way::Relayed);
    let mut options: Options = vec![
        (53, vec![if way == Way::Port4011 { 5 } else { 2 }]),
        (54, SERVER.to_vec()),
        (97, UUID.to_vec()),
    ];
    options.extend(more);
    let (mut siaddr, mut file) = (SERVER, SCRIPT.to_owned());
    match told {
        Told::Nothing => (siaddr, file) = ([0; 4], String::new()),
        Told::Firmware(program) => file = program.clone(),
        Told::HttpBoot(program) => {
            file = format!("http://192.168.0.1/nbp/{program}");
            options.push((60, b"HTTPClient".to_vec()));
        }
        Told::Ipxe if gives_addresses => options.push((175, vec![176, 1, 1])),
        Told::Ipxe => {}
    }
    if !gives_addresses && !matches!(told, Told::HttpBoot(_)) {
        options.extend([(43, vec![6, 1, 8, 255]), (60, b"PXEClient".to_vec())]);
    }
    let (yiaddr, giaddr) = match way {
        Way::Authoritative => (NODE, [0; 4]),
        Way::Relayed => (BEHIND_RELAY, RELAY),
        Way::Proxy | Way::Port4011 => ([0; 4], [0; 4]),
    };
    if gives_addresses {
        let [a, b, c, _] = yiaddr;
        options.extend([
            (1, vec![255, 255, 255, 0]),
            (3, vec![a, b, c, 1]),
            (12, b"node-001".to_vec()),
            (28, vec![a, b, c, 255]),
            (51, 3600_u32.to_be_bytes().to_vec()),
            (58, 1800_u32.to_be_bytes().to_vec()),
            (59, 3150_u32.to_be_bytes().to_vec()),
        ]);
    }
    if way == Way::Authoritative {
        options.push((15, b"cluster".to_vec()));
    }
    options.sort();
    if way == Way::Relayed {
        options.push((82, CIRCUIT.to_vec()));
    }
    packet(2, [[0; 4], yiaddr, siaddr, giaddr], &file, options)
}

fn setting() -> (Arc<Config>, Arc<NbpSet>) {
    let network =
        "[[network]]\nsubnet = '10.1.0.0/24'\nrange = '10.1.0.5-10.1.0.5'\nrouter = '10.1.0.1'\n[boot]\n";
    let text = include_str!("../bootserve.example.toml").replace("[network]", "[[network]]");
    let config = Config::parse(&text.replace("[boot]\n", network)).unwrap();
    let dir = tempfile::tempdir().unwrap();
    for name in ARCHITECTURES.iter().filter_map(|(_, program, _)| *program) {
        std::fs::write(dir.path().join(name), name).unwrap();
    }
    (Arc::new(config), Arc::new(NbpSet::read(&[PathBuf::from(dir.path())]).unwrap()))
}

#[test]
fn a_bootp_client_is_told_byte_for_byte_what_it_can_read() {
    let (config, nbps) = setting();
    let vendor_area = vec![
        (1, vec![255, 255, 255, 0]),
        (3, SERVER.to_vec()),
        (12, b"node-001".to_vec()),
        (15, b"cluster".to_vec()),
        (28, vec![192, 168, 0, 255]),
    ];
    let reply = packet(2, [[0; 4], NODE, SERVER, [0; 4]], "undionly.kpxe", vendor_area);
    assert_eq!(reply.len(), 300);
    let with_options = packet(1, [[0; 4]; 4], "", vec![(12, b"n".to_vec())]);
    let mut plain = with_options.clone();
    plain[236..].fill(0);
    let mut plain_reply = reply.clone();
    plain_reply[236..].fill(0);
    for (request, expected) in [(with_options, reply), (plain, plain_reply)] {
        let mut server = Server::new(Arc::clone(&config), Arc::clone(&nbps), Vec::new());
        let actions = server.answer(SystemTime::UNIX_EPOCH, &request).unwrap();
        let [.., Action::Send(reply)] = &actions[..] else { panic!("{actions:?}") };
        assert_eq!(reply.to, "255.255.255.255:68".parse().unwrap());
        assert_eq!(reply.packet, expected);
    }
}

#[test]
fn quirks_change_byte_for_byte_what_firmware_is_told() {
    let (_, nbps) = setting();
    let node = "[[quirk]]\nnode = 'node-001'\n";
    let bios = "[[quirk]]\narch = 0\n";
    let control: Options = vec![(43, vec![6, 1, 8, 255]), (60, b"PXEClient".to_vec())];
    let option_67: Options = vec![(67, b"undionly.kpxe".to_vec())];
    for (quirk, options, delay_ms) in [
        (format!("{bios}delay_ms = 250\n"), vec![], 250),
        (format!("{bios}discovery_control = true\n"), control.clone(), 0),
        (format!("{node}boot_file_option = true\n"), option_67.clone(), 0),
        (
            format!("{node}boot_file_option = true\n{bios}discovery_control = true\n"),
            [control, option_67].concat(),
            0,
        ),
        ("[[quirk]]\narch = 7\ndelay_ms = 250\n".to_owned(), vec![], 0),
    ] {
        let config = Config::parse(&format!("{}{quirk}", include_str!("../bootserve.example.toml"))).unwrap();
        let mut server = Server::new(Arc::new(config), Arc::clone(&nbps), Vec::new());
        let actions = server.answer(SystemTime::UNIX_EPOCH, &request(0, false, false, Way::Authoritative));
        let Ok([Action::Send(reply)]) = actions.as_deref() else { panic!("{quirk}: {actions:?}") };
        let told = Told::Firmware("undionly.kpxe".to_owned());
        assert_eq!(reply.packet, expected_with(&told, Way::Authoritative, options), "{quirk}");
        assert_eq!(reply.delay.as_millis(), delay_ms, "{quirk}");
    }
}

#[test]
fn a_long_domain_does_not_make_a_bootp_reply_longer() {
    let text = include_str!("../bootserve.example.toml");
    let long = format!("domain = \"{}\"", "x".repeat(60));
    let config = Config::parse(&text.replace("domain = \"cluster\"", &long)).unwrap();
    let mut server = Server::new(Arc::new(config), setting().1, Vec::new());
    let request = packet(1, [[0; 4]; 4], "", vec![(12, b"n".to_vec())]);
    let actions = server.answer(SystemTime::UNIX_EPOCH, &request).unwrap();
    let [.., Action::Send(reply)] = &actions[..] else { panic!("{actions:?}") };
    assert_eq!(reply.packet.len(), 300);
    assert!(
        !reply.packet.windows(3).any(|found| found == b"xxx")
            && reply.packet.windows(8).any(|found| found == b"node-001")
    );
}

#[test]
fn every_architecture_is_told_byte_for_byte_what_it_needs() {
    let (config, nbps) = setting();
    let proxy = Proxy::new(Arc::clone(&config), Arc::clone(&nbps));
    let peer: SocketAddrV4 = PEER.parse().unwrap();
    for (arch, program, is_http) in ARCHITECTURES {
        for is_ipxe in [false, true] {
            let told = match (is_ipxe, program, is_http) {
                (true, ..) => Told::Ipxe,
                (false, None, _) => Told::Nothing,
                (false, Some(program), true) => Told::HttpBoot(program.to_owned()),
                (false, Some(program), false) => Told::Firmware(program.to_owned()),
            };
            for way in [Way::Authoritative, Way::Relayed, Way::Proxy, Way::Port4011] {
                let request = request(arch, is_http, is_ipxe, way);
                let mut server = Server::new(Arc::clone(&config), Arc::clone(&nbps), Vec::new());
                let (actions, to) = match way {
                    Way::Authoritative => {
                        (server.answer(SystemTime::UNIX_EPOCH, &request), "255.255.255.255:68")
                    }
                    Way::Relayed => (server.answer(SystemTime::UNIX_EPOCH, &request), "10.1.0.1:67"),
                    Way::Proxy => (proxy.offer(&request), "255.255.255.255:68"),
                    Way::Port4011 => (proxy.acknowledge(&request, peer), PEER),
                };
                let case = format!("architecture {arch}, iPXE {is_ipxe}, {way:?}");
                if matches!((&told, way), (Told::Nothing, Way::Proxy | Way::Port4011)) {
                    assert!(matches!(actions, Err(Ignored::NothingToBoot(_))), "{case}");
                    continue;
                }
                let Ok([.., Action::Send(reply)]) = actions.as_deref() else { panic!("{case}: {actions:?}") };
                assert_eq!(reply.to, to.parse().unwrap(), "{case}");
                assert_eq!(reply.packet, expected(&told, way), "{case}");
            }
        }
    }
}
