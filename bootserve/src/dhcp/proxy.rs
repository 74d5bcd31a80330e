//! proxyDHCP: how to boot, beside another server that gives the addresses (Preboot Execution Environment specification 2.1,
//! section 2.2). It knows of no leases and repeats itself.

use std::net::SocketAddrV4;
use std::sync::Arc;

use dhcproto::v4::MessageType;
use tracing::info;

use super::boot::{BootOptions, boot_options};
use super::client::Client;
use super::ignored::Ignored;
use super::reply;
use super::request::{Kind, Request};
use super::server::{Action, send};
use crate::config::Config;
use crate::nbp::NbpSet;

/// The proxy of all networks.
#[derive(Clone, Debug)]
pub struct Proxy {
    config: Arc<Config>,
    nbps: Arc<NbpSet>,
}

impl Proxy {
    /// One that offers what `config` says.
    pub fn new(config: Arc<Config>, nbps: Arc<NbpSet>) -> Self {
        Self { config, nbps }
    }

    /// Answers a packet on the port of DHCP servers: the DISCOVER of firmware, which takes address and boot options of
    /// different offers.
    pub fn offer(&self, packet: &[u8]) -> Result<Vec<Action>, Ignored> {
        let request = Request::parse(packet)?;
        let (mac, at) = (request.mac, request.link().unwrap_or(self.config.server.address));
        match request.kind {
            Kind::Dhcp(MessageType::Discover) if self.config.networks.on_link_of(at).is_none() => {
                Err(Ignored::Network { mac, at })
            }
            Kind::Dhcp(MessageType::Discover) => {
                self.answer(&request, MessageType::Offer, reply::destination(&request))
            }
            kind => Err(Ignored::Kind(kind)),
        }
    }

    /// Answers a packet on port 4011, where firmware asks that was not content with an offer. It listens where it sends from.
    pub fn acknowledge(&self, packet: &[u8], peer: SocketAddrV4) -> Result<Vec<Action>, Ignored> {
        let request = Request::parse(packet)?;
        match request.kind {
            Kind::Dhcp(MessageType::Request | MessageType::Inform) => {
                self.answer(&request, MessageType::Ack, peer)
            }
            kind => Err(Ignored::Kind(kind)),
        }
    }

    fn answer(&self, request: &Request, kind: MessageType, to: SocketAddrV4) -> Result<Vec<Action>, Ignored> {
        let client = Client::identify(&self.config, request);
        let mac = client.mac();
        let boot = boot_options(&self.config, &self.nbps, &client);
        if let BootOptions::Nothing(reason) = boot {
            return Err(Ignored::NothingToBoot(reason));
        }
        info!(%mac, node = client.node_name(), offer = %boot, "proxyDHCP offer");
        // Not of others: whoever makes up MAC addresses would fill the disk.
        client.remember(&self.config);
        let mut actions: Vec<_> =
            client.node().is_some().then_some(Action::Booting(mac)).into_iter().collect();
        actions.extend(send(mac, reply::proxy(&self.config, &client, kind, &boot, to)));
        Ok(actions)
    }
}

#[cfg(test)]
mod tests {
    use super::super::request::tests::packet;
    use super::*;
    use crate::dhcp::boot::Nothing;
    use crate::policy::Reason;
    use dhcproto::v4::{Decodable, Decoder, DhcpOption, Message, OptionCode};
    use proptest::prelude::*;

    const DISCOVER: &[u8] = &[53, 1, 1];
    const REQUEST: &[u8] = &[53, 1, 3];
    const BIOS: &[u8] = b"\x3c\x09PXEClient\x5d\x02\x00\x00";
    const HTTP: &[u8] = b"\x3c\x0aHTTPClient\x5d\x02\x00\x10";
    const IPXE: &[u8] = b"\x3c\x09PXEClient\x4d\x04iPXE";

    fn proxy() -> Proxy {
        let config = Config::parse(include_str!("../../bootserve.example.toml")).unwrap();
        let dir = tempfile::tempdir().unwrap();
        for name in ["undionly.kpxe", "ipxe.efi"] {
            std::fs::write(dir.path().join(name), name).unwrap();
        }
        Proxy::new(Arc::new(config), Arc::new(NbpSet::read(&[dir.path().into()]).unwrap()))
    }

    fn sent(actions: &[Action]) -> Option<(Message, SocketAddrV4)> {
        actions.iter().find_map(|action| match action {
            Action::Send(reply) => {
                Some((Message::decode(&mut Decoder::new(&reply.packet)).unwrap(), reply.to))
            }
            _ => None,
        })
    }

    #[test]
    fn firmware_is_offered_a_program_and_no_address() {
        let check = |client: &[u8], file: &str, class: &str, control: bool| {
            let (offer, to) = sent(&proxy().offer(&packet(&[DISCOVER, client])).unwrap()).unwrap();
            assert_eq!(to, "255.255.255.255:68".parse().unwrap());
            assert!(
                offer.yiaddr().is_unspecified() && offer.siaddr().octets() == [192, 168, 0, 1],
                "{offer:?}"
            );
            assert_eq!(offer.fname().unwrap().trim_ascii_end(), format!("{file}\0").as_bytes());
            let option = |code| offer.opts().get(code).cloned();
            let class = DhcpOption::ClassIdentifier(class.as_bytes().to_vec());
            assert_eq!(option(OptionCode::ClassIdentifier), Some(class));
            assert_eq!(option(OptionCode::VendorExtensions).is_some(), control);
            for code in [OptionCode::AddressLeaseTime, OptionCode::SubnetMask, OptionCode::Unknown(175)] {
                assert_eq!(option(code), None);
            }
        };
        check(BIOS, "undionly.kpxe", "PXEClient", true);
        check(HTTP, "http://192.168.0.1/nbp/ipxe.efi", "HTTPClient", false);
        check(IPXE, "http://192.168.0.1/ipxe?mac=fc-ab-14-e8-66-02", "PXEClient", true);
    }

    #[test]
    fn only_boots_of_nodes_are_noted() {
        let mut discover = packet(&[DISCOVER, BIOS]);
        assert!(matches!(proxy().offer(&discover).unwrap()[..], [Action::Booting(_), Action::Send(_)]));
        discover[33] = 0x77;
        assert!(matches!(proxy().offer(&discover).unwrap()[..], [Action::Send(_)]));
    }

    #[test]
    fn others_are_left_to_the_server_that_gives_addresses() {
        let check = |packet: Vec<u8>, expected| assert_eq!(proxy().offer(&packet), Err(expected));
        check(packet(&[DISCOVER]), Ignored::NothingToBoot(Nothing::NotBooting));
        check(packet(&[REQUEST, BIOS]), Ignored::Kind(Kind::Dhcp(MessageType::Request)));
        let unknown = Nothing::Decided(Reason::Architecture(41.into()));
        check(packet(&[DISCOVER, b"\x3c\x09PXEClient\x5d\x02\x00\x29"]), Ignored::NothingToBoot(unknown));
        let mut relayed = packet(&[DISCOVER, BIOS]);
        relayed[24..28].copy_from_slice(&[10, 9, 0, 1]);
        let mac = "fc:ab:14:e8:66:02".parse().unwrap();
        check(relayed, Ignored::Network { mac, at: [10, 9, 0, 1].into() });
    }

    #[test]
    fn on_port_4011_the_answer_goes_where_the_question_came_from() {
        let peer = "192.168.0.77:4011".parse().unwrap();
        // PXE boot item of type 0, layer 0: what firmware asks that takes part in the discovery of boot servers.
        let item: &[u8] = b"\x2b\x07\x47\x04\x00\x00\x00\x00\xff";
        let (ack, to) = sent(&proxy().acknowledge(&packet(&[REQUEST, BIOS, item]), peer).unwrap()).unwrap();
        assert_eq!(to, peer);
        assert!(ack.opts().has_msg_type(MessageType::Ack));
        let vendor = ack.opts().get(OptionCode::VendorExtensions).cloned();
        let expected = b"\x06\x01\x08\x47\x04\x00\x00\x00\x00\xff".to_vec();
        assert_eq!(vendor, Some(DhcpOption::VendorExtensions(expected)));
        let discover = proxy().acknowledge(&packet(&[DISCOVER, BIOS]), peer);
        assert_eq!(discover, Err(Ignored::Kind(Kind::Dhcp(MessageType::Discover))));
        let system = proxy().acknowledge(&packet(&[REQUEST]), peer);
        assert_eq!(system, Err(Ignored::NothingToBoot(Nothing::NotBooting)));
    }

    proptest! {
        #[test]
        fn any_options_are_handled_without_panic(tail in prop::collection::vec(any::<u8>(), 0..80)) {
            let peer = "192.168.0.77:4011".parse().unwrap();
            let packet = packet(&[BIOS, &tail]);
            let _ = proxy().offer(&packet);
            let _ = proxy().acknowledge(&packet, peer);
        }
    }
}
