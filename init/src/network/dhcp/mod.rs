//! Asks for an address by DHCP (RFC 2131): the socket and the clock around [`client`], which knows the protocol.

#[doc(hidden)]
pub mod client;
#[doc(hidden)]
pub mod wire;

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::time::{Duration, Instant};

use bootspec::mac::MacAddr;
use socket2::{Domain, Protocol, Socket, Type};

use crate::jitter::random;
use crate::kmsg;
use client::Client;
pub use client::Lease;

/// RFC 2131 section 4.1.
const CLIENT_PORT: u16 = 68;
const SERVER_PORT: u16 = 67;
/// Longer than any packet on an Ethernet with its usual frames; servers keep to what the client says it takes.
const PACKET_BYTES: usize = 2048;

/// DHCP gave no address.
#[derive(Debug, thiserror::Error)]
pub enum DhcpError {
    /// No server has answered.
    #[error("no DHCP answer on {interface} in {} s", waited.as_secs())]
    Silent {
        /// Where it was asked.
        interface: String,
        /// For how long.
        waited: Duration,
    },
    /// Servers have answered, but no address could be had.
    #[error(
        "no address by DHCP on {interface} in {} s: {offers} offers were accepted, {refusals} of them refused afterwards",
        waited.as_secs()
    )]
    Refused {
        /// Where it was asked.
        interface: String,
        /// For how long.
        waited: Duration,
        /// How many addresses were offered and asked for.
        offers: u32,
        /// How often the server then answered with a NAK; otherwise it did not answer.
        refusals: u32,
    },
    /// There is no socket to ask by.
    #[error("cannot ask for an address by DHCP on {interface}")]
    Socket {
        /// Where.
        interface: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// Asks on `interface`, which is switched on and has no address, until a server gives one, for as long as `limit`.
pub fn acquire(interface: &str, mac: MacAddr, limit: Duration) -> Result<Lease, DhcpError> {
    let failed = |source| DhcpError::Socket { interface: interface.to_owned(), source };
    let socket = open_socket(interface).map_err(failed)?;
    let began = Instant::now();
    let mut client = Client::new(mac, random(), began);
    let mut packet = [0; PACKET_BYTES];
    loop {
        let now = Instant::now();
        if now >= began + limit {
            return Err(client.give_up(interface, limit));
        }
        if now >= client.next_deadline() {
            send(&socket, &client.transmit(now));
        }
        // The client's next deadline was moved to later than now; a time-out of zero would be none.
        let until = client.next_deadline().min(began + limit);
        let wait = until.saturating_duration_since(now).max(Duration::from_millis(1));
        socket.set_read_timeout(Some(wait)).map_err(failed)?;
        match socket.recv(&mut packet) {
            Ok(length) => {
                if let Some(lease) = client.receive(Instant::now(), &packet[..length]) {
                    return Ok(lease);
                }
            }
            Err(error) if is_timeout(&error) => {}
            Err(error) => return Err(failed(error)),
        }
    }
}

/// A socket that the kernel gives the broadcasts of one interface, although that has no address yet.
fn open_socket(interface: &str) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
    socket.bind_device(Some(interface.as_bytes()))?;
    socket.set_broadcast(true)?;
    socket.set_reuse_address(true)?;
    socket.bind(&SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, CLIENT_PORT).into())?;
    Ok(socket.into())
}

/// A message that cannot be sent counts as one that was lost; the next attempt follows.
fn send(socket: &UdpSocket, message: &[u8]) {
    if let Err(error) = socket.send_to(message, (Ipv4Addr::BROADCAST, SERVER_PORT)) {
        kmsg::warn(&format!("cannot send a DHCP message: {error}"));
    }
}

fn is_timeout(error: &io::Error) -> bool {
    use io::ErrorKind::{Interrupted, TimedOut, WouldBlock};
    matches!(error.kind(), WouldBlock | TimedOut | Interrupted)
}
