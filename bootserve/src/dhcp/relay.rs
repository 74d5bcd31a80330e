//! Option 82, relay agent information (RFC 3046): what a relay, or a switch on the way, adds to a client's packet.

use std::net::Ipv4Addr;

use dhcproto::v4::relay::{RelayAgentInformation, RelayCode, RelayInfo};
use dhcproto::v4::{Decodable, Decoder};

use crate::config::OptionBytes;

/// What a relay says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelayAgent {
    /// The whole option, which every answer repeats as it came (RFC 3046 section 2.2).
    pub echo: Vec<u8>,
    /// The port that the client is plugged in at, as the relay or the switch calls it (section 3.1).
    pub circuit_id: Option<OptionBytes>,
    /// The switch or relay that says so (section 3.2).
    pub remote_id: Option<OptionBytes>,
    /// An address of the client's link, where the relay's own is not one (RFC 3527).
    pub link: Option<Ipv4Addr>,
    /// The address that clients are to take for the server's, so that their renewals go by the relay (RFC 5107).
    pub server_id: Option<Ipv4Addr>,
}

impl RelayAgent {
    /// Reads the value of option 82. What cannot be understood is repeated all the same.
    pub fn read(bytes: Vec<u8>) -> Self {
        let information = RelayAgentInformation::decode(&mut Decoder::new(&bytes)).unwrap_or_default();
        let address = |code| match information.get(code) {
            Some(RelayInfo::LinkSelection(address) | RelayInfo::ServerIdentifierOverride(address)) => {
                Some(*address)
            }
            _ => None,
        };
        let circuit_id = match information.get(RelayCode::AgentCircuitId) {
            Some(RelayInfo::AgentCircuitId(id)) => OptionBytes::new(id.clone()),
            _ => None,
        };
        let remote_id = match information.get(RelayCode::AgentRemoteId) {
            Some(RelayInfo::AgentRemoteId(id)) => OptionBytes::new(id.clone()),
            _ => None,
        };
        Self {
            circuit_id,
            remote_id,
            link: address(RelayCode::LinkSelection),
            server_id: address(RelayCode::ServerIdentifierOverride),
            echo: bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sub_options_are_found_and_all_of_them_repeated() {
        let bytes = [
            &[1, 4][..],
            b"eth1",
            &[2, 3],
            b"sw1",
            &[11, 4, 10, 0, 0, 1],
            &[200, 1, 7],
            &[5, 4, 10, 1, 0, 0],
        ]
        .concat();
        let relay = RelayAgent::read(bytes.clone());
        assert_eq!(relay.circuit_id, Some("eth1".parse().unwrap()));
        assert_eq!(relay.remote_id, Some("sw1".parse().unwrap()));
        assert_eq!(relay.link, Some([10, 1, 0, 0].into()));
        assert_eq!(relay.server_id, Some([10, 0, 0, 1].into()));
        assert_eq!(relay.echo, bytes);
    }

    #[test]
    fn what_cannot_be_understood_is_repeated() {
        let bytes = vec![5, 2, 10, 1];
        let expected = RelayAgent {
            echo: bytes.clone(),
            circuit_id: None,
            remote_id: None,
            link: None,
            server_id: None,
        };
        assert_eq!(RelayAgent::read(bytes), expected);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            prop_assert_eq!(&RelayAgent::read(bytes.clone()).echo, &bytes);
        }
    }
}
