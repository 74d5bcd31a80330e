//! Sockets that a service manager has opened for us (systemd.socket(5), sd_listen_fds(3)). They are there before we are and while
//! we are restarted, so that packets wait for us.

use std::net::{SocketAddr, SocketAddrV4};

use listenfd::ListenFd;
use socket2::Socket;
use tracing::warn;

/// Those that nobody has taken yet.
#[derive(Debug, Default)]
pub struct Passed {
    datagram: Vec<Socket>,
    stream: Vec<Socket>,
}

impl Passed {
    /// Takes those that the environment tells of.
    pub fn receive() -> Self {
        let mut descriptors = ListenFd::from_env();
        let mut passed = Self::default();
        for index in 0..descriptors.len() {
            // Each says whether it is of the kind, and leaves it there if not.
            if let Ok(Some(socket)) = descriptors.take_udp_socket(index) {
                passed.datagram.push(socket.into());
            } else if let Ok(Some(socket)) = descriptors.take_tcp_listener(index) {
                passed.stream.push(socket.into());
            } else {
                warn!(index, "the service manager passed what is no UDP socket and listens to no TCP port");
            }
        }
        passed
    }

    /// The UDP socket with this address.
    pub fn datagram(&mut self, address: SocketAddrV4) -> Option<Socket> {
        take(&mut self.datagram, address)
    }

    /// The one that listens to this address.
    pub fn stream(&mut self, address: SocketAddrV4) -> Option<Socket> {
        take(&mut self.stream, address)
    }
}

fn take(sockets: &mut Vec<Socket>, address: SocketAddrV4) -> Option<Socket> {
    let address = SocketAddr::V4(address);
    let has_it = |socket: &Socket| socket.local_addr().ok().and_then(|own| own.as_socket()) == Some(address);
    let found = sockets.iter().position(has_it)?;
    Some(sockets.swap_remove(found))
}

impl Drop for Passed {
    fn drop(&mut self) {
        for socket in self.datagram.iter().chain(&self.stream) {
            let address = socket.local_addr().ok().and_then(|address| address.as_socket());
            let hint = "compare the .socket unit with server.address and the ports of the configuration";
            warn!(
                ?address,
                hint, "the service manager passed a socket that the configuration has no use for"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, UdpSocket};

    #[test]
    fn a_socket_is_found_by_its_kind_and_address_and_taken_once() {
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        let SocketAddr::V4(address) = udp.local_addr().unwrap() else { panic!("no IPv4") };
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let SocketAddr::V4(listens) = tcp.local_addr().unwrap() else { panic!("no IPv4") };
        let mut passed = Passed { datagram: vec![udp.into()], stream: vec![tcp.into()] };
        let elsewhere = SocketAddrV4::new([127, 0, 0, 2].into(), address.port());
        assert!(passed.datagram(elsewhere).is_none() && passed.stream(address).is_none());
        assert!(passed.datagram(address).is_some() && passed.stream(listens).is_some());
        assert!(passed.datagram(address).is_none() && passed.stream(listens).is_none());
    }
}
