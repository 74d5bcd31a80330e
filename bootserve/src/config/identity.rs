//! What nodes are known by, and which MAC address a node has that is known by something else.
//!
//! Everything after DHCP knows a machine by its MAC address alone: iPXE's request for its script, init's reports, overlays.
//! For a node that is known by something else, DHCP learns the address.

use std::collections::HashMap;
use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;
use std::sync::{PoisonError, RwLock};

use bootspec::MacAddr;
use bootspec::store::NodeName;
use uuid::Uuid;

/// What a node is known by.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum NodeKey {
    /// The address of the interface that it boots from.
    Mac(MacAddr),
    /// The client identifier (option 61) that one of its boot stages sends.
    ClientId(OptionBytes),
    /// The UUID of the machine (option 97).
    Uuid(Uuid),
    /// Where it is plugged in (option 82, sub-option 1).
    Circuit {
        /// The port, as the relay or the switch calls it.
        id: OptionBytes,
        /// The relay that says so; none: whichever.
        relay: Option<Ipv4Addr>,
    },
}

impl NodeKey {
    /// The key of the configuration that it stands under.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Mac(_) => "mac",
            Self::ClientId(_) => "client_id",
            Self::Uuid(_) => "uuid",
            Self::Circuit { .. } => "circuit_id",
        }
    }

    /// Another key that the same machine may be known by.
    pub(super) fn alias(&self) -> Option<Self> {
        match self {
            // EDK2 sends the bytes as they stand in the SMBIOS table, where the first three fields are little-endian
            // since version 2.6; iPXE and dmidecode put them right.
            Self::Uuid(uuid) => Some(Self::Uuid(Uuid::from_bytes_le(uuid.into_bytes()))),
            Self::Circuit { id, relay: Some(_) } => Some(Self::Circuit { id: id.clone(), relay: None }),
            Self::Mac(_) | Self::ClientId(_) | Self::Circuit { .. } => None,
        }
    }
}

impl fmt::Display for NodeKey {
    /// The value, without its name.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mac(mac) => mac.fmt(f),
            Self::ClientId(id) | Self::Circuit { id, relay: None } => id.fmt(f),
            Self::Uuid(uuid) => uuid.fmt(f),
            Self::Circuit { id, relay: Some(relay) } => write!(f, "{id} of relay {relay}"),
        }
    }
}

/// The value of an option, written as its text, or `0x` and hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct OptionBytes(Vec<u8>);

impl OptionBytes {
    /// None if `bytes` are none, or more than fit into an option.
    pub fn new(bytes: Vec<u8>) -> Option<Self> {
        (1..=255).contains(&bytes.len()).then_some(Self(bytes))
    }

    /// The value.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl FromStr for OptionBytes {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        let bytes = match s.strip_prefix("0x") {
            Some(digits) => hex::decode(digits).ok(),
            None => Some(s.as_bytes().to_vec()),
        };
        let error = || {
            format!(
                "'{s}' is not the value of an option: expected a text, or 0x and pairs of hexadecimal digits"
            )
        };
        bytes.and_then(Self::new).ok_or_else(error)
    }
}

impl fmt::Display for OptionBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match std::str::from_utf8(&self.0) {
            Ok(text) if !text.starts_with("0x") && !text.chars().any(char::is_control) => f.write_str(text),
            _ => write!(f, "0x{}", hex::encode(&self.0)),
        }
    }
}

/// The MAC addresses of nodes that are known by something else: one of a node, the last that DHCP has seen it with.
#[derive(Debug, Default)]
pub struct LearnedMacs(RwLock<Learned>);

#[derive(Debug, Default)]
struct Learned {
    nodes: HashMap<MacAddr, NodeName>,
    macs: HashMap<NodeName, MacAddr>,
}

impl LearnedMacs {
    /// `node` has this address now, and no other.
    pub fn learn(&self, mac: MacAddr, node: &NodeName) {
        if self.mac(node) == Some(mac) {
            return;
        }
        self.forget(mac);
        let mut learned = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(before) = learned.macs.insert(node.clone(), mac) {
            learned.nodes.remove(&before);
        }
        learned.nodes.insert(mac, node.clone());
    }

    /// The machine with this address is no node.
    pub fn forget(&self, mac: MacAddr) {
        if self.node(mac).is_some() {
            let mut learned = self.0.write().unwrap_or_else(PoisonError::into_inner);
            if let Some(node) = learned.nodes.remove(&mac) {
                learned.macs.remove(&node);
            }
        }
    }

    pub(super) fn node(&self, mac: MacAddr) -> Option<NodeName> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).nodes.get(&mac).cloned()
    }

    pub(super) fn mac(&self, node: &NodeName) -> Option<MacAddr> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).macs.get(node).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_option_is_written_as_text_or_in_hexadecimal_digits() {
        for (text, expected) in
            [("Gi1/0/7:100", "Gi1/0/7:100"), ("0x47693A", "Gi:"), ("0x0004000a", "0x0004000a")]
        {
            assert_eq!(text.parse::<OptionBytes>().unwrap().to_string(), expected);
        }
        for bad in ["", "0x", "0x123", "0xgg"] {
            assert!(bad.parse::<OptionBytes>().unwrap_err().contains("hexadecimal"), "{bad}");
        }
    }

    #[test]
    fn a_node_has_one_learned_address_and_an_address_one_node() {
        let [a, b]: [NodeName; 2] = ["a", "b"].map(|name| name.parse().unwrap());
        let [one, two] = [1, 2].map(|last| MacAddr::new([2, 0, 0, 0, 0, last]));
        let learned = LearnedMacs::default();
        learned.learn(one, &a);
        learned.learn(two, &a);
        assert_eq!((learned.node(one), learned.mac(&a)), (None, Some(two)));
        learned.learn(two, &b);
        assert_eq!((learned.mac(&a), learned.node(two)), (None, Some(b.clone())));
        learned.forget(two);
        assert_eq!((learned.mac(&b), learned.node(two)), (None, None));
    }

    proptest! {
        #[test]
        fn any_option_round_trips(bytes in prop::collection::vec(any::<u8>(), 1..256)) {
            let option = OptionBytes::new(bytes).unwrap();
            prop_assert_eq!(option.to_string().parse(), Ok(option));
        }
    }
}
