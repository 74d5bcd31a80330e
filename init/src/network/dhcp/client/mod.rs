//! The client's side of DHCP (RFC 2131 sections 3.1 and 4.4) up to the first lease. Reads no clock and no socket.
//!
//! The first offer is taken. Left out: the random pause before the first message (what starts all nodes at once has spread
//! them by the time they are here), the check by ARP that an address is free (servers make it), and renewal.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use bootspec::cmdline::InterfaceAddress;
use bootspec::mac::MacAddr;

use super::DhcpError;
use super::wire::{MessageType, Reply, Request, RequestKind};

/// The longest pause between two messages. RFC 2131 section 4.1 begins with 4 s and doubles up to 64 s; a node that boots
/// begins earlier and asks more often.
const MAX_PAUSE_S: u32 = 8;
/// So often a server is asked for what it has offered, before others are asked again.
const MAX_REQUESTS: u32 = 4;

/// RFC 2131 section 3.3.
const FOR_EVER: u32 = u32::MAX;

/// What a server has given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// The node's address.
    pub address: InterfaceAddress,
    /// The way out of the network, if the server knows one.
    pub gateway: Option<Ipv4Addr>,
    /// Which server it was.
    pub server: Ipv4Addr,
    /// How long the address may be used; none for ever.
    pub duration: Option<Duration>,
}

/// A client that seeks an address.
#[derive(Debug)]
pub struct Client {
    mac: MacAddr,
    xid: u32,
    /// State of a generator of numbers that differ from node to node, for the pauses.
    random: u32,
    began: Instant,
    state: State,
    /// Messages sent in this state.
    sent: u32,
    deadline: Instant,
    offers: u32,
    refusals: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Waiting for offers.
    Selecting,
    /// Waiting for the server to confirm its offer.
    Requesting { server: Ipv4Addr, address: Ipv4Addr },
}

impl Client {
    /// A client that wants to [`Self::transmit`] at once. `random` differs from node to node and from boot to boot.
    pub fn new(mac: MacAddr, random: u32, now: Instant) -> Self {
        let (state, deadline) = (State::Selecting, now);
        Self { mac, xid: random, random, began: now, state, sent: 0, deadline, offers: 0, refusals: 0 }
    }

    /// When to [`Self::transmit`] next, unless a packet comes before.
    pub fn next_deadline(&self) -> Instant {
        self.deadline
    }

    /// The message to be sent now. Moves the deadline to after `now`.
    pub fn transmit(&mut self, now: Instant) -> Vec<u8> {
        if self.sent == MAX_REQUESTS && self.state != State::Selecting {
            self.select(now);
        }
        let kind = match self.state {
            State::Selecting => RequestKind::Discover,
            State::Requesting { server, address } => RequestKind::Request { server, address },
        };
        self.deadline = now + self.pause();
        self.sent += 1;
        let secs = u16::try_from((now - self.began).as_secs()).unwrap_or(u16::MAX);
        Request { kind, xid: self.xid, secs, chaddr: self.mac }.emit()
    }

    /// Takes a packet. What is not meant for this client, or comes at the wrong time, is dropped.
    pub fn receive(&mut self, now: Instant, packet: &[u8]) -> Option<Lease> {
        let reply = Reply::parse(packet)?;
        if (reply.xid, reply.chaddr) != (self.xid, self.mac) {
            return None;
        }
        match (self.state, reply.kind) {
            (State::Selecting, MessageType::Offer) => self.request(&reply, now),
            (State::Requesting { server, .. }, MessageType::Ack) if is_from(&reply, server) => {
                return lease(&reply, server);
            }
            (State::Requesting { server, .. }, MessageType::Nak) if is_from(&reply, server) => {
                self.refusals += 1;
                self.select(now);
                // Not at once, or a server that refuses what it offers would be asked without end.
                self.deadline = now + self.pause();
            }
            _ => {}
        }
        None
    }

    /// Why there is no lease by now.
    pub fn give_up(&self, interface: &str, waited: Duration) -> DhcpError {
        let interface = interface.to_owned();
        match self.offers {
            0 => DhcpError::Silent { interface, waited },
            offers => DhcpError::Refused { interface, waited, offers, refusals: self.refusals },
        }
    }

    fn request(&mut self, offer: &Reply, now: Instant) {
        let (Some(server), Some(_)) = (offer.server, address(offer)) else { return };
        self.offers += 1;
        self.enter(State::Requesting { server, address: offer.yiaddr }, now);
    }

    /// Begins anew, so that answers to what was before count no more.
    fn select(&mut self, now: Instant) {
        self.xid = self.xid.wrapping_add(1);
        self.enter(State::Selecting, now);
    }

    fn enter(&mut self, state: State, now: Instant) {
        self.state = state;
        self.sent = 0;
        self.deadline = now;
    }

    /// 1, 2, 4, 8, 8… seconds, each a quarter longer or shorter at random.
    fn pause(&mut self) -> Duration {
        // The generator of Numerical Recipes; its upper bits are the better ones.
        self.random = self.random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let seconds = 1_u32.checked_shl(self.sent).unwrap_or(MAX_PAUSE_S).min(MAX_PAUSE_S);
        let per_mille = 750 + (self.random >> 16) % 501;
        Duration::from_millis(u64::from(seconds * per_mille))
    }
}

/// A server that does not say which it is can only be the one that was asked.
fn is_from(reply: &Reply, server: Ipv4Addr) -> bool {
    reply.server.is_none_or(|from| from == server)
}

fn lease(ack: &Reply, server: Ipv4Addr) -> Option<Lease> {
    Some(Lease {
        address: address(ack)?,
        gateway: ack.router.filter(|router| !router.is_unspecified()),
        server,
        duration: ack.lease_s.filter(|seconds| *seconds != FOR_EVER).map(|s| Duration::from_secs(s.into())),
    })
}

/// The address that is offered or given, if it is one that a machine can have.
fn address(reply: &Reply) -> Option<InterfaceAddress> {
    let address = reply.yiaddr;
    if address.is_unspecified() || address.is_broadcast() || address.is_multicast() || address.is_loopback() {
        return None;
    }
    InterfaceAddress::new(address, reply.prefix_len.unwrap_or_else(|| classful(address)))
}

/// The length of the prefix where the server gives no mask: by the address' class, as the kernel does it.
fn classful(address: Ipv4Addr) -> u8 {
    match address.octets()[0] {
        0..128 => 8,
        128..192 => 16,
        _ => 24,
    }
}

#[cfg(test)]
mod tests;
