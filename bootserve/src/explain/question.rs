//! The packet that a machine would send.

use std::net::{Ipv4Addr, SocketAddrV4};

use bootspec::MacAddr;
use dhcproto::error::EncodeError;
use dhcproto::v4::relay::{RelayAgentInformation, RelayInfo};
use dhcproto::v4::{
    CLIENT_PORT, DhcpOption, Encodable, Message, MessageType, OptionCode, SERVER_PORT, UnknownOption,
};

use uuid::Uuid;

use super::capture::{Captured, Port};
use crate::arch::Arch;
use crate::config::OptionBytes;

/// Who asks what.
#[derive(Clone, Debug)]
pub struct Question {
    /// The interface that asks.
    pub mac: MacAddr,
    /// As what.
    pub asks: Asks,
    /// Its client identifier.
    pub client_id: Option<OptionBytes>,
    /// Its UUID.
    pub uuid: Option<Uuid>,
    /// The relay that passes it on.
    pub relay: Option<Ipv4Addr>,
    /// The port that it is plugged in at, as the relay calls it.
    pub circuit_id: Option<OptionBytes>,
}

/// As what a machine asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asks {
    /// Firmware of this architecture.
    Firmware(u16),
    /// iPXE.
    Ipxe,
    /// An operating system.
    System,
}

impl Question {
    /// The DISCOVER.
    pub fn packet(&self) -> Result<Captured, EncodeError> {
        let unset = Ipv4Addr::UNSPECIFIED;
        let giaddr = self.relay.unwrap_or(unset);
        let mut message = Message::new(unset, unset, unset, giaddr, &self.mac.octets());
        let options = message.opts_mut();
        options.insert(DhcpOption::MessageType(MessageType::Discover));
        if let Some(id) = &self.client_id {
            options.insert(DhcpOption::ClientIdentifier(id.as_bytes().to_vec()));
        }
        if let Some(uuid) = self.uuid {
            let value = [&[0], &uuid.as_bytes()[..]].concat();
            options.insert(DhcpOption::ClientMachineIdentifier(value));
        }
        if let Some(id) = &self.circuit_id {
            let mut information = RelayAgentInformation::default();
            information.insert(RelayInfo::AgentCircuitId(id.as_bytes().to_vec()));
            options.insert(DhcpOption::RelayAgentInformation(information));
        }
        let mut class = |class: &str| {
            options.insert(DhcpOption::ClassIdentifier(class.as_bytes().to_vec()));
        };
        match self.asks {
            Asks::Firmware(arch) => {
                class(if Arch::from(arch).is_http() { "HTTPClient" } else { "PXEClient" });
                let code = OptionCode::ClientSystemArchitecture;
                options.insert(DhcpOption::Unknown(UnknownOption::new(code, arch.to_be_bytes().to_vec())));
            }
            Asks::Ipxe => {
                class("PXEClient");
                let code = OptionCode::UserClass;
                options.insert(DhcpOption::Unknown(UnknownOption::new(code, b"iPXE".to_vec())));
            }
            Asks::System => {}
        }
        let from = match self.relay {
            Some(relay) => SocketAddrV4::new(relay, SERVER_PORT),
            None => SocketAddrV4::new(unset, CLIENT_PORT),
        };
        Ok(Captured { port: Port::Dhcp, from, packet: message.to_vec()? })
    }
}
