//! Router advertisements (RFC 4861) of a router that routes nothing: lifetime 0, no prefix, no DHCPv6.
//!
//! After its DHCP lease, iPXE asks for IPv6 routers and waits about 12 seconds for one that is not there. Told at once
//! that there is none, it goes on. A lifetime of 0 keeps every host from using us as a router, and an advertisement
//! speaks for its sender alone, so a real router beside us is not affected.

use std::io;
use std::net::{Ipv6Addr, SocketAddr, SocketAddrV6};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::UdpSocket;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ALL_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);
/// Receivers drop what has passed a router, which would have counted this down (RFC 4861 section 6.1.2).
const HOP_LIMIT: u32 = 255;
const ROUTER_SOLICITATION: u8 = 133;
/// RFC 4861 section 4.1: type, code, checksum and a reserved word.
const SOLICITATION_BYTES: usize = 8;
/// RFC 4861 section 4.2: type 134, code 0, a checksum that the kernel fills in, hop limit 64; no flags, router lifetime
/// 0, and nothing said about reachable time and retransmission.
const ADVERTISEMENT: [u8; 16] = [134, 0, 0, 0, 64, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// A socket that hears what hosts on `interface` ask routers. Needs CAP_NET_RAW.
pub fn bind(interface: &str, index: u32) -> io::Result<std::net::UdpSocket> {
    let socket = Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::ICMPV6))?;
    socket.bind_device(Some(interface.as_bytes()))?;
    socket.join_multicast_v6(&ALL_ROUTERS, index)?;
    socket.set_multicast_hops_v6(HOP_LIMIT)?;
    socket.set_unicast_hops_v6(HOP_LIMIT)?;
    // A raw ICMPv6 socket carries datagrams with IPv6 addresses, as a UDP socket does, and has no type of its own.
    Ok(socket.into())
}

/// Answers solicitations until `shutdown`.
pub async fn run(socket: UdpSocket, shutdown: CancellationToken) {
    let mut packet = [0; 1500];
    loop {
        let received = tokio::select! {
            () = shutdown.cancelled() => return,
            received = socket.recv_from(&mut packet) => received,
        };
        let answer = match received {
            Ok((length, SocketAddr::V6(from))) => answer(&packet[..length], from),
            Ok((_, SocketAddr::V4(_))) => None,
            Err(error) => {
                warn!(%error, "cannot receive router solicitations");
                None
            }
        };
        if let Some(to) = answer {
            match socket.send_to(&ADVERTISEMENT, to).await {
                Ok(_) => debug!(peer = %to, "router advertisement sent"),
                Err(error) => warn!(peer = %to, %error, "cannot send a router advertisement"),
            }
        }
    }
}

/// Where an answer to `packet` goes, if it is a solicitation. A host that has no address yet is among all nodes.
fn answer(packet: &[u8], from: SocketAddrV6) -> Option<SocketAddrV6> {
    let is_solicitation = packet.len() >= SOLICITATION_BYTES && packet[..2] == [ROUTER_SOLICITATION, 0];
    let address = if from.ip().is_unspecified() { ALL_NODES } else { *from.ip() };
    is_solicitation.then(|| SocketAddrV6::new(address, 0, 0, from.scope_id()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOLICITATION: [u8; 8] = [ROUTER_SOLICITATION, 0, 0x12, 0x34, 0, 0, 0, 0];

    fn check(packet: &[u8], from: &str, expected: Option<&str>) {
        let from = SocketAddrV6::new(from.parse().unwrap(), 0, 0, 7);
        let expected = expected.map(|to| SocketAddrV6::new(to.parse().unwrap(), 0, 0, 7));
        assert_eq!(answer(packet, from), expected, "{packet:?}");
    }

    #[test]
    fn solicitations_are_answered_to_their_sender_or_to_all() {
        check(&SOLICITATION, "fe80::1", Some("fe80::1"));
        check(&SOLICITATION, "::", Some("ff02::1"));
    }

    #[test]
    fn other_and_short_messages_are_not_answered() {
        check(&ADVERTISEMENT, "fe80::1", None);
        check(&SOLICITATION[..7], "fe80::1", None);
        check(&[], "fe80::1", None);
    }
}
