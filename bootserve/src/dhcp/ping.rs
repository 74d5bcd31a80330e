//! Asks addresses whether someone has them, by ICMP echo (RFC 792).

use std::collections::VecDeque;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::time::Duration;

use etherparse::{IcmpEchoHeader, Icmpv4Header, Icmpv4Type, SlicedPacket, TransportSlice};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::UdpSocket;
use tokio::time::Instant;
use tracing::debug;

/// How long a host has for its answer. ROMs wait for at least a second for their first offer.
const TIMEOUT: Duration = Duration::from_millis(500);
const MAX_PACKET_BYTES: usize = 1500;

/// A socket that hears answers on `interface`. Needs CAP_NET_RAW.
pub fn bind(interface: &str) -> io::Result<std::net::UdpSocket> {
    let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4))?;
    socket.bind_device(Some(interface.as_bytes()))?;
    // A raw ICMP socket carries datagrams with IPv4 addresses, as a UDP socket does, and has no type of its own.
    Ok(socket.into())
}

/// How a question ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probed {
    /// The address.
    pub address: Ipv4Addr,
    /// Whether someone has it.
    pub in_use: bool,
}

/// The questions that are under way.
#[derive(Debug)]
pub struct Pinger {
    socket: Option<UdpSocket>,
    /// Tells our questions from those of ping(8).
    id: u16,
    /// All have the same time, so those that came first end first.
    waiting: VecDeque<(Instant, Ipv4Addr)>,
}

impl Pinger {
    /// Asks by `socket`; without one, no question is ever answered.
    pub fn new(socket: Option<UdpSocket>) -> Self {
        Self { socket, id: rand::random(), waiting: VecDeque::new() }
    }

    /// Asks `address`.
    pub fn ask(&mut self, address: Ipv4Addr) {
        let header = IcmpEchoHeader { id: self.id, seq: 0 };
        let packet = Icmpv4Header::with_checksum(Icmpv4Type::EchoRequest(header), &[]).to_bytes();
        let to = SocketAddrV4::new(address, 0).into();
        let sent = self.socket.as_ref().map(|socket| socket.try_send_to(&packet, to));
        if let Some(Err(error)) = sent {
            // It ends as if nobody had answered: whoever waits for the address is not to suffer.
            debug!(%address, %error, "cannot ask whether an address is in use");
        }
        self.waiting.push_back((Instant::now() + TIMEOUT, address));
    }

    /// The next that ends. May be dropped at any time.
    pub async fn next(&mut self) -> Probed {
        loop {
            while let Some(address) = self.receive() {
                if let Some(index) = self.waiting.iter().position(|(_, waiting)| *waiting == address) {
                    self.waiting.remove(index);
                    return Probed { address, in_use: true };
                }
            }
            let deadline = self.waiting.front().copied();
            tokio::select! {
                () = readable(self.socket.as_ref()) => {}
                address = ends(deadline) => {
                    self.waiting.pop_front();
                    return Probed { address, in_use: false };
                }
            }
        }
    }

    /// Who answers, if an answer is there.
    fn receive(&self) -> Option<Ipv4Addr> {
        let mut packet = [0; MAX_PACKET_BYTES];
        loop {
            // Errors are of packets that were sent: nobody is there.
            let (length, from) = self.socket.as_ref()?.try_recv_from(&mut packet).ok()?;
            match from {
                SocketAddr::V4(from) if is_reply(&packet[..length], self.id) => return Some(*from.ip()),
                _ => {}
            }
        }
    }
}

async fn readable(socket: Option<&UdpSocket>) {
    match socket {
        // Whatever is wrong with the socket, there is nothing to receive, and probes end by their time.
        Some(socket) if socket.readable().await.is_ok() => {}
        _ => std::future::pending().await,
    }
}

async fn ends(deadline: Option<(Instant, Ipv4Addr)>) -> Ipv4Addr {
    match deadline {
        Some((deadline, address)) => {
            tokio::time::sleep_until(deadline).await;
            address
        }
        None => std::future::pending().await,
    }
}

/// Whether an IPv4 packet is the answer to a question with this `id`.
fn is_reply(packet: &[u8], id: u16) -> bool {
    match SlicedPacket::from_ip(packet).map(|sliced| sliced.transport) {
        Ok(Some(TransportSlice::Icmpv4(icmp))) => {
            matches!(icmp.icmp_type(), Icmpv4Type::EchoReply(header) if header.id == id)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::PacketBuilder;
    use proptest::prelude::*;

    fn packet(icmp: Icmpv4Type) -> Vec<u8> {
        let mut packet = Vec::new();
        PacketBuilder::ipv4([192, 168, 0, 9], [192, 168, 0, 1], 64)
            .icmpv4(icmp)
            .write(&mut packet, &[])
            .unwrap();
        packet
    }

    #[test]
    fn answers_to_our_questions_are_told_from_all_other_packets() {
        let header = |id| IcmpEchoHeader { id, seq: 0 };
        assert!(is_reply(&packet(Icmpv4Type::EchoReply(header(7))), 7));
        assert!(!is_reply(&packet(Icmpv4Type::EchoReply(header(8))), 7));
        assert!(!is_reply(&packet(Icmpv4Type::EchoRequest(header(7))), 7));
    }

    #[tokio::test]
    async fn a_question_that_nobody_answers_ends_in_order() {
        let mut pinger = Pinger::new(None);
        let [one, two] = [1, 2].map(|last| Ipv4Addr::new(192, 0, 2, last));
        pinger.ask(one);
        pinger.ask(two);
        for address in [one, two] {
            assert_eq!(pinger.next().await, Probed { address, in_use: false });
        }
    }

    proptest! {
        #[test]
        fn any_packet_is_read_without_panic(packet in prop::collection::vec(any::<u8>(), 0..120)) {
            let _ = is_reply(&packet, 7);
        }
    }
}
