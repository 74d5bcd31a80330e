//! Why a packet gets no answer.

use std::net::Ipv4Addr;

use bootspec::MacAddr;
use ipnet::Ipv4Net;
use tracing::{debug, info, warn};

use super::boot::Nothing;
use super::request::{Kind, RequestError};

/// The reason.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Ignored {
    /// It cannot be read.
    #[error(transparent)]
    Malformed(#[from] RequestError),
    /// It is of a network that we know nothing of.
    #[error("no [[network]] of the configuration has the address {at}\nhint: add a [[network]] for it")]
    Network {
        /// Who asks.
        mac: MacAddr,
        /// An address of the network, as the relay or the client says.
        at: Ipv4Addr,
    },
    /// All addresses are given out.
    #[error(
        "no address is left in {}\nhint: widen network.range or shorten network.lease_seconds",
        subnets.iter().map(Ipv4Net::to_string).collect::<Vec<_>>().join(", ")
    )]
    NoAddress {
        /// Who asks.
        mac: MacAddr,
        /// The networks of its link.
        subnets: Vec<Ipv4Net>,
    },
    /// Another server's offer was taken.
    #[error("it talks to another server, {server}")]
    OtherServer {
        /// Who.
        mac: MacAddr,
        /// The address by which it calls the server.
        server: Ipv4Addr,
        /// Whether the server is on our wire and not known yet.
        is_new: bool,
    },
    /// Only servers send such messages, or nobody.
    #[error("a DHCP server does not answer {0}")]
    Kind(Kind),
    /// BOOTP knows no leases, so only a node that has a reservation is answered.
    #[error("{mac} speaks BOOTP and has no [[node]] with an address of its network")]
    Bootp {
        /// Who asks.
        mac: MacAddr,
    },
    /// It releases an address that it does not have.
    #[error("it gives back {0}, which it does not have")]
    NoLease(Ipv4Addr),
    /// We do not speak DHCP.
    #[error("DHCP is off\nhint: the answer is another server's; dhcp.mode says so")]
    Off,
    /// A proxy has nothing to say to it.
    #[error("a proxy has nothing for it: {0}")]
    NothingToBoot(Nothing),
}

impl Ignored {
    /// The names of all reasons, for counters.
    pub const REASONS: [&'static str; 9] = [
        "malformed",
        "unknown-network",
        "no-address",
        "other-server",
        "message-type",
        "no-lease",
        "off",
        "nothing-to-boot",
        "bootp",
    ];

    /// The reason's name, one of [`Self::REASONS`].
    pub fn reason(&self) -> &'static str {
        let index = match self {
            Self::Malformed(_) => 0,
            Self::Network { .. } => 1,
            Self::NoAddress { .. } => 2,
            Self::OtherServer { .. } => 3,
            Self::Kind(_) => 4,
            Self::NoLease(_) => 5,
            Self::Off => 6,
            Self::NothingToBoot(_) => 7,
            Self::Bootp { .. } => 8,
        };
        Self::REASONS[index]
    }

    /// The machine that cannot go on for a reason that somebody has to mend.
    pub fn holds_up(&self) -> Option<MacAddr> {
        match self {
            Self::Network { mac, .. }
            | Self::NoAddress { mac, .. }
            | Self::OtherServer { mac, .. }
            | Self::Bootp { mac } => Some(*mac),
            Self::Malformed(_) | Self::Kind(_) | Self::NoLease(_) | Self::Off | Self::NothingToBoot(_) => {
                None
            }
        }
    }

    /// Tells the log, as loudly as it concerns an admin.
    pub fn log(&self) {
        match self {
            Self::NoAddress { mac, subnets } => {
                let hint = "widen network.range or shorten network.lease_seconds";
                warn!(%mac, ?subnets, hint, "no address left");
            }
            Self::Network { mac, at } => {
                let hint = "add a [[network]] for it";
                info!(%mac, network_of = %at, hint, "DHCP request ignored: no such network");
            }
            Self::OtherServer { mac, server, is_new: true } => {
                let hint = "two servers on one wire give one address to two machines, and other boot programs to nodes: \
                            find it by its address (ip neigh) and turn it off, or set dhcp.mode = \"proxy\" or \"off\"";
                warn!(%server, %mac, hint, "there is another DHCP server: this machine has taken its offer");
            }
            _ => debug!(reason = %self, "DHCP packet ignored"),
        }
    }
}
