//! Machines behind a relay that are switched on at a steady rate, each for one exchange (RFC 2131): DISCOVER, OFFER, REQUEST,
//! ACK. It is perfdhcp's task at a tenth of the cost: perfdhcp takes a core for itself before a quick server has used up another.

use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};
use std::{io, mem};

use dhcproto::v4::SERVER_PORT;
use rustix::net::sockopt::set_socket_recv_buffer_size_force;

/// Answers must fit that come while the sockets are not looked at.
const RECEIVE_BUFFER_BYTES: usize = 16 << 20;
/// How often they are looked at.
const STEP: Duration = Duration::from_micros(500);

/// The fixed part of a message, and the magic cookie (RFC 2131 section 2, RFC 2132 section 2).
const HEADER_BYTES: usize = 240;
const XID: usize = 4;
const YIADDR: usize = 16;
const GIADDR: usize = 24;
const CHADDR: usize = 28;
const COOKIE: [u8; 4] = [99, 130, 83, 99];

/// Options, and values of the first.
const MESSAGE_TYPE: u8 = 53;
const DISCOVER: u8 = 1;
const OFFER: u8 = 2;
const REQUEST: u8 = 3;
const ACK: u8 = 5;
const REQUESTED_ADDRESS: u8 = 50;
const SERVER_IDENTIFIER: u8 = 54;
const PAD: u8 = 0;
const END: u8 = 255;

/// How many of the exchanges that begin at `rate` a second for `time` are completed `grace` after it.
pub fn exchange(
    relay: Ipv4Addr,
    server: Ipv4Addr,
    rate: u32,
    time: Duration,
    grace: Duration,
) -> io::Result<u32> {
    let socket = UdpSocket::bind(SocketAddrV4::new(relay, SERVER_PORT))?;
    set_socket_recv_buffer_size_force(&socket, RECEIVE_BUFFER_BYTES)?;
    socket.connect(SocketAddrV4::new(server, SERVER_PORT))?;
    socket.set_nonblocking(true)?;
    let all = (time.as_secs_f64() * f64::from(rate)) as u32;
    let mut acknowledged = vec![false; all as usize];
    let (mut begun, mut completed, mut buffer) = (0, 0, [0; 1500]);
    let start = Instant::now();
    while completed < all && start.elapsed() < time + grace {
        let due = ((start.elapsed().as_secs_f64() * f64::from(rate)) as u32).min(all);
        for machine in begun..due {
            socket.send(&message(relay, machine, DISCOVER, &[]))?;
        }
        begun = due;
        while let Some(reply) = receive(&socket, &mut buffer)? {
            match reply {
                Reply { message_type: OFFER, machine, address } => {
                    let options = [(REQUESTED_ADDRESS, address), (SERVER_IDENTIFIER, server)];
                    socket.send(&message(relay, machine, REQUEST, &options))?;
                }
                Reply { message_type: ACK, machine, .. } => {
                    completed += u32::from(!mem::replace(&mut acknowledged[machine as usize], true));
                }
                _ => {}
            }
        }
        thread::sleep(STEP);
    }
    Ok(completed)
}

/// A request of this machine as the relay passes it on. Its number is the transaction id and the end of its MAC.
fn message(relay: Ipv4Addr, machine: u32, message_type: u8, options: &[(u8, Ipv4Addr)]) -> Vec<u8> {
    let mut message = vec![0; HEADER_BYTES];
    // BOOTREQUEST, Ethernet, six bytes of hardware address, one hop.
    message[..4].copy_from_slice(&[1, 1, 6, 1]);
    message[XID..XID + 4].copy_from_slice(&machine.to_be_bytes());
    message[GIADDR..GIADDR + 4].copy_from_slice(&relay.octets());
    message[CHADDR] = 2;
    message[CHADDR + 2..CHADDR + 6].copy_from_slice(&machine.to_be_bytes());
    message[HEADER_BYTES - 4..].copy_from_slice(&COOKIE);
    message.extend([MESSAGE_TYPE, 1, message_type]);
    for (option, address) in options {
        message.extend([*option, 4]);
        message.extend(address.octets());
    }
    message.push(END);
    message
}

struct Reply {
    message_type: u8,
    machine: u32,
    address: Ipv4Addr,
}

/// The next reply that is there.
fn receive(socket: &UdpSocket, buffer: &mut [u8]) -> io::Result<Option<Reply>> {
    let length = match socket.recv(buffer) {
        Ok(length) => length,
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
        Err(error) => return Err(error),
    };
    let packet = &buffer[..length];
    let four = |at: usize| -> [u8; 4] { packet[at..at + 4].try_into().expect("four bytes") };
    Ok(Some(Reply {
        message_type: message_type(packet),
        machine: u32::from_be_bytes(four(XID)),
        address: four(YIADDR).into(),
    }))
}

/// 0 if it has none.
fn message_type(packet: &[u8]) -> u8 {
    let mut options = packet.get(HEADER_BYTES..).unwrap_or_default();
    loop {
        match options {
            [PAD, rest @ ..] => options = rest,
            [MESSAGE_TYPE, 1, message_type, ..] => return *message_type,
            [_, length, rest @ ..] => options = rest.get(usize::from(*length)..).unwrap_or_default(),
            _ => return 0,
        }
    }
}
