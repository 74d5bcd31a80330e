//! The DHCP server (RFC 2131, options of RFC 2132, PXE of RFC 4578) for machines that boot from the network and for
//! the systems they boot.
//!
//! [`request`] reads packets ([`relay`] what relays add to them), [`client`] says whose they are, [`server`] is the state machine that answers them from its [`leases`], [`reply`]
//! writes the answers, with what [`boot`] has to say; [`driver`] moves packets between them and the socket, no faster than their receivers read them ([`outbox`]). Addresses
//! are [probed](ping) before they are first offered. We are the
//! authoritative server of our networks, or a [`proxy`] beside it. Left out: DHCPv6.

pub mod boot;
pub mod client;
pub mod driver;
pub mod ignored;
pub mod leases;
mod on_the_way;
mod outbox;
pub mod ping;
mod probe;
pub mod proxy;
pub mod relay;
pub mod reply;
pub mod request;
pub mod server;
pub mod store;
