//! Which node a client is.
//!
//! ROM, iPXE, initramfs and operating system of one node send different client ids, and not all of them a UUID; what they have
//! in common is the MAC address. So a node that is known by its MAC address is known by that alone, and one that is known by
//! something else stays the node while that MAC address asks, until another machine turns up as it.

use std::fmt;
use std::net::Ipv4Addr;

use bootspec::MacAddr;
use uuid::Uuid;

use super::request::Request;
use crate::config::{Config, Network, Node, NodeKey, Quirks};
use crate::policy::Stage;

/// Who sent a request.
#[derive(Clone, Debug)]
pub struct Client<'a> {
    /// What it asks.
    pub request: &'a Request,
    /// What its firmware needs.
    pub quirks: Quirks,
    /// The node that it is, and how we know.
    known: Option<(&'a Node, KnownBy)>,
}

/// How we know that a client is a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KnownBy {
    /// The request says so.
    Key(NodeKey),
    /// An earlier one from the same MAC address did.
    Earlier,
}

impl<'a> Client<'a> {
    /// Looks the client up: by its MAC address, its client id, its UUID, where it is plugged in, and what was
    /// [learned](Self::remember).
    pub fn identify(config: &'a Config, request: &'a Request) -> Self {
        let known = keys(request).find_map(|key| Some((config.node_known_by(&key)?, KnownBy::Key(key))));
        let learned = || config.node_learned(request.mac).filter(|node| !contradicts(request, node));
        let known = known.or_else(|| Some((learned()?, KnownBy::Earlier)));
        let quirks = |arch| config.quirks(known.as_ref().map(|(node, _)| *node), arch);
        let quirks = match request.stage {
            Stage::Pxe(arch) | Stage::HttpBoot(arch) => quirks(Some(arch)),
            // It may be the ROM of a card.
            Stage::Ipxe => quirks(None),
            Stage::Script | Stage::OperatingSystem => Quirks::default(),
        };
        Self { request, quirks, known }
    }

    /// The interface that asks.
    pub fn mac(&self) -> MacAddr {
        self.request.mac
    }

    /// Which node it is.
    pub fn node(&self) -> Option<&'a Node> {
        self.known.as_ref().map(|(node, _)| *node)
    }

    /// The name of the node, for logs.
    pub fn node_name(&self) -> Option<&'a str> {
        self.node().map(|node| node.name.as_str())
    }

    /// How we know.
    pub fn known_by(&self) -> Option<&KnownBy> {
        self.known.as_ref().map(|(_, by)| by)
    }

    /// The address that is reserved for it, if it is one of `link`.
    pub fn reservation(&self, link: &[Network]) -> Option<Ipv4Addr> {
        let reserved = self.node()?.address;
        link.iter().any(|network| network.subnet.contains(&reserved)).then_some(reserved)
    }

    /// Has `config` know the machine by its MAC address from now on as what it is.
    pub fn remember(&self, config: &Config) {
        match &self.known {
            Some((_, KnownBy::Key(NodeKey::Mac(_)) | KnownBy::Earlier)) => {}
            Some((node, KnownBy::Key(_))) => config.learned.learn(self.mac(), &node.name),
            None => config.learned.forget(self.mac()),
        }
    }
}

/// What a node could be known by, in the order of precedence.
fn keys(request: &Request) -> impl Iterator<Item = NodeKey> {
    let relay = Some(request.giaddr).filter(|giaddr| !giaddr.is_unspecified());
    let circuit = request.relay.as_ref().and_then(|agent| agent.circuit_id.clone());
    let keys = [
        Some(NodeKey::Mac(request.mac)),
        request.client_id.clone().map(NodeKey::ClientId),
        request.client_uuid.map(|[_, uuid @ ..]| NodeKey::Uuid(Uuid::from_bytes(uuid))),
        circuit.map(|id| NodeKey::Circuit { id, relay }),
    ];
    keys.into_iter().flatten()
}

/// Whether the request, which has not the key of `node`, has another in its place. Client ids say nothing: each boot stage has
/// its own.
fn contradicts(request: &Request, node: &Node) -> bool {
    match node.key {
        NodeKey::Uuid(_) => request.client_uuid.is_some(),
        NodeKey::Circuit { .. } => request.relay.as_ref().is_some_and(|agent| agent.circuit_id.is_some()),
        NodeKey::Mac(_) | NodeKey::ClientId(_) => false,
    }
}

impl fmt::Display for KnownBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key(key) => write!(f, "{} {key}", key.name()),
            Self::Earlier => f.write_str("an earlier request of this MAC address"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::request::tests::packet;
    use super::*;

    const DISCOVER: &[u8] = &[53, 1, 1];
    const UUID: &[u8] = b"\x61\x11\x00\x33\x22\x11\x00\x55\x44\x77\x66\x88\x99\xaa\xbb\xcc\xdd\xee\xff";
    const CIRCUIT: &[u8] = b"\x52\x04\x01\x02p1";
    const RELAY: [u8; 4] = [192, 168, 0, 9];

    /// One node by each key, and one more by the same circuit of another relay.
    fn config() -> Config {
        let nodes = [
            ("by-mac", "mac = 'fc:ab:14:e8:66:02'"),
            ("by-id", "client_id = 'rom'"),
            ("by-uuid", "uuid = '00112233-4455-6677-8899-aabbccddeeff'"),
            ("by-circuit", "circuit_id = 'p1'\nrelay = '192.168.0.9'"),
            ("elsewhere", "circuit_id = 'p1'\nrelay = '192.168.0.8'"),
        ];
        let nodes = nodes.iter().enumerate().map(|(number, (name, key))| {
            format!("[[node]]\nname = '{name}'\n{key}\naddress = '192.168.0.{}'\nimage = 'a'\n", number + 10)
        });
        let server = "[server]\ninterface = 'br0'\naddress = '192.168.0.1'\nstore = '/s'\nstate = '/t'\n\
                      [network]\nsubnet = '192.168.0.0/24'\n";
        Config::parse(&format!("{server}{}", nodes.collect::<String>())).unwrap()
    }

    /// Of a machine that is none of the nodes by its MAC address, unless `number` is 0.
    fn request(number: u8, options: &[&[u8]], giaddr: [u8; 4]) -> Request {
        let mut packet = packet(&[&[DISCOVER], options].concat());
        if number > 0 {
            packet[28..34].copy_from_slice(&[2, 0, 0, 0, 0, number]);
        }
        packet[24..28].copy_from_slice(&giaddr);
        Request::parse(&packet).unwrap()
    }

    fn check(config: &Config, request: Request, expected: Option<(&str, &str)>) {
        let client = Client::identify(config, &request);
        let by = client.known_by().map(KnownBy::to_string);
        assert_eq!(client.node_name().zip(by.as_deref()), expected, "{request:?}");
        client.remember(config);
    }

    #[test]
    fn the_most_particular_key_counts() {
        const ID: &[u8] = b"\x3d\x03rom";
        let config = config();
        check(&config, request(0, &[ID, UUID, CIRCUIT], RELAY), Some(("by-mac", "mac fc:ab:14:e8:66:02")));
        check(&config, request(1, &[ID, UUID, CIRCUIT], RELAY), Some(("by-id", "client_id rom")));
        let uuid = "uuid 33221100-5544-7766-8899-aabbccddeeff";
        check(&config, request(2, &[UUID, CIRCUIT], RELAY), Some(("by-uuid", uuid)));
        let circuit = "circuit_id p1 of relay 192.168.0.9";
        check(&config, request(3, &[CIRCUIT], RELAY), Some(("by-circuit", circuit)));
        check(&config, request(4, &[CIRCUIT], [192, 168, 0, 7]), None);
    }

    #[test]
    fn a_uuid_is_known_in_both_orders_of_its_bytes() {
        let plain = b"\x61\x11\x00\x00\x11\x22\x33\x44\x55\x66\x77\x88\x99\xaa\xbb\xcc\xdd\xee\xff";
        for bytes in [&plain[..], UUID] {
            let request = request(1, &[bytes], [0; 4]);
            assert_eq!(Client::identify(&config(), &request).node_name(), Some("by-uuid"));
        }
    }

    #[test]
    fn a_node_stays_itself_whatever_its_next_boot_stage_sends() {
        let config = config();
        let earlier = "an earlier request of this MAC address";
        for (number, options, name) in
            [(1, &b"\x3d\x03rom"[..], "by-id"), (2, UUID, "by-uuid"), (3, CIRCUIT, "by-circuit")]
        {
            let first = request(number, &[options], RELAY);
            Client::identify(&config, &first).remember(&config);
            check(&config, request(number, &[b"\x3d\x05other"], [0; 4]), Some((name, earlier)));
            let node = config.node_named(name).unwrap();
            assert_eq!(config.mac_of(node), Some(first.mac));
            assert_eq!(config.node(first.mac).unwrap().name, node.name);
        }
        check(&config, request(0, &[b"\x3d\x05other"], [0; 4]), Some(("by-mac", "mac fc:ab:14:e8:66:02")));
    }

    #[test]
    fn what_was_learned_ends_where_the_machine_is_another_or_in_another_place() {
        let config = config();
        let other_uuid = [b"\x61\x11\x00", &[7; 16][..]].concat();
        for (number, options, other) in [(2, UUID, &other_uuid[..]), (3, CIRCUIT, b"\x52\x04\x01\x02p2")] {
            Client::identify(&config, &request(number, &[options], RELAY)).remember(&config);
            check(&config, request(number, &[other], RELAY), None);
            check(&config, request(number, &[], RELAY), None);
        }
        // Another machine has taken the place of the first.
        Client::identify(&config, &request(5, &[CIRCUIT], RELAY)).remember(&config);
        Client::identify(&config, &request(6, &[CIRCUIT], RELAY)).remember(&config);
        check(&config, request(5, &[], [0; 4]), None);
    }
}
