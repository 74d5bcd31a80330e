//! Packets of machines to the DHCP server. Every answer is a packet that another implementation reads, of the same exchange;
//! no address is acknowledged before its lease is to be stored, and none is two machines' at a time.
#![no_main]

use std::collections::HashMap;
use std::net::SocketAddrV4;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use bootnode_fuzz::packets;
use bootserve::config::Config;
use bootserve::dhcp::leases::Lease;
use bootserve::dhcp::proxy::Proxy;
use bootserve::dhcp::request::{Kind, Request};
use bootserve::dhcp::server::{Action, Server};
use bootserve::nbp::NbpSet;
use bootspec::MacAddr;
use dhcproto::v4::{Decodable, Decoder, Message, MessageType, Opcode, OptionCode};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let _ = Request::parse(data);
    let (config, nbps) = setting();
    let mut server = Server::new(Arc::clone(config), Arc::clone(nbps), Vec::new());
    let mut leases = Leases::default();
    let mut now = SystemTime::UNIX_EPOCH;
    let proxy = Proxy::new(Arc::clone(config), Arc::clone(nbps));
    let peer = SocketAddrV4::new([10, 77, 0, 11].into(), 4011);
    for packet in packets(data) {
        check_without_address(&proxy.offer(packet).unwrap_or_default());
        check_without_address(&proxy.acknowledge(packet, peer).unwrap_or_default());
        let actions = server.answer(now, packet).unwrap_or_default();
        assert_eq!(
            sent(&actions),
            sent(&server.answer(now, packet).unwrap_or_default()),
            "a repeated packet gets the same answer"
        );
        check(packet, &actions);
        leases.follow(now, packet, &actions);
        // Most packets end with 255: some of them still come within one lease.
        now += Duration::from_secs(u64::from(*packet.last().unwrap_or(&0)) * 4);
    }
});

fn sent(actions: &[Action]) -> Vec<&Action> {
    actions.iter().filter(|action| matches!(action, Action::Send(_))).collect()
}

fn check(packet: &[u8], actions: &[Action]) {
    let mut stored = None;
    for action in actions {
        match action {
            Action::Store(lease) => stored = Some(lease.address),
            Action::Booting(_) | Action::Declined | Action::Port(..) => {}
            Action::Probe(address) => panic!("{address} is probed, which was not wanted"),
            Action::Send(reply) => {
                let message = Message::decode(&mut Decoder::new(&reply.packet)).expect("it can be read");
                assert_eq!(message.opcode(), Opcode::BootReply);
                assert_eq!(message.xid().to_be_bytes(), packet[4..8]);
                let address = message.yiaddr();
                if !address.is_unspecified() {
                    let network = setting().0.networks.of(address).expect("it is of one of the networks");
                    assert_ne!(Some(address), network.router);
                    let is_ack = message.opts().has_msg_type(MessageType::Ack);
                    assert!(!is_ack || stored == Some(address), "{address} is acknowledged and not stored");
                }
            }
        }
    }
}

/// A proxy gives no addresses.
fn check_without_address(actions: &[Action]) {
    for action in actions {
        let Action::Send(reply) = action else { continue };
        let message = Message::decode(&mut Decoder::new(&reply.packet)).expect("it can be read");
        assert!(message.yiaddr().is_unspecified());
        assert!(message.opts().contains(OptionCode::ClassIdentifier));
    }
}

/// What the machines were told, by what was stored of it.
#[derive(Default)]
struct Leases(HashMap<MacAddr, Lease>);

impl Leases {
    fn follow(&mut self, now: SystemTime, packet: &[u8], actions: &[Action]) {
        if let Ok(Request { kind: Kind::Dhcp(MessageType::Decline), mac, .. }) = Request::parse(packet) {
            self.0.remove(&mac);
        }
        for action in actions {
            let Action::Store(lease) = action else { continue };
            let holds = |other: &Lease| other.address == lease.address && other.expires > now;
            let other = self.0.values().find(|other| other.mac != lease.mac && holds(other));
            assert_eq!(other, None, "{} has this address, too", lease.mac);
            self.0.insert(lease.mac, *lease);
        }
    }
}

fn setting() -> &'static (Arc<Config>, Arc<NbpSet>) {
    static SETTING: OnceLock<(Arc<Config>, Arc<NbpSet>)> = OnceLock::new();
    SETTING.get_or_init(|| {
        // The network of the captures that the corpus begins with.
        let text = include_str!("../../bootserve/bootserve.example.toml")
            .replace("192.168.0.101", "10.77.0.11")
            .replace("192.168.0.", "10.77.0.")
            .replace("[network]", "[[network]]")
            .replace(
                "[boot]\n",
                "[[network]]\nsubnet = '10.78.0.0/24'\nrange = '10.78.0.5-10.78.0.9'\n[boot]\n",
            );
        let config = Config::parse(&text).expect("the example is valid");
        let dir = std::env::temp_dir();
        for name in ["undionly.kpxe", "ipxe.efi"] {
            std::fs::write(dir.join(name), name).expect("TMPDIR is writable");
        }
        let nbps = NbpSet::read(&[dir]).expect("the programs can be read");
        (Arc::new(config), Arc::new(nbps))
    })
}
