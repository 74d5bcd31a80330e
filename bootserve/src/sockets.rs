//! The sockets, bound while we still may bind low ports.

use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, UdpSocket};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::{io, iter};

use rustix::net::sockopt::{set_socket_recv_buffer_size_force, set_tcp_congestion};
use socket2::{Domain, Protocol, Socket, Type};
use tracing::{debug, warn};

use crate::api_socket::{self, ApiSocketError};
use crate::config::{Config, DhcpMode};
use crate::dhcp::ping;
use crate::passed::Passed;
use crate::radv;

const DHCP_PORT: u16 = 67;
/// PXE 2.1 specification, section 2.2.3.
const PXE_PORT: u16 = 4011;
const TFTP_PORT: u16 = 69;
/// RFC 1035 section 4.2.
pub const DNS_PORT: u16 = 53;
/// What a hall of nodes sends at once must wait in the socket, not be dropped.
const RECEIVE_BUFFER_BYTES: usize = 4 << 20;
const BACKLOG: i32 = 4096;
/// How HTTP is sent (tcp(7), TCP_CONGESTION), the first that the kernel has; it always has the last. BBR, which some systems have for all, sets a
/// timer for each packet and so serves a network of few switches at a fraction of its speed: docs/benchmarks.md, "Serving".
const CONGESTION_CONTROLS: [&str; 2] = ["cubic", "reno"];
/// What the running kernel has, without modules that are not loaded.
const AVAILABLE: &str = "/proc/sys/net/ipv4/tcp_available_congestion_control";

/// Bound sockets of all services.
#[derive(Debug)]
pub struct Sockets {
    /// Receives broadcasts of one interface, unless DHCP is none of our business.
    pub dhcp: Option<UdpSocket>,
    /// Asks addresses whether someone has them, where that is wanted and we may.
    pub ping: Option<UdpSocket>,
    /// Receives what PXE clients ask once they have an address.
    pub pxe: Option<UdpSocket>,
    /// Receives TFTP requests.
    pub tftp: UdpSocket,
    /// Receives DNS queries, where they are answered, and accepts connections for them.
    pub dns: Option<(UdpSocket, TcpListener)>,
    /// Accepts HTTP connections.
    pub http: TcpListener,
    /// Accepts HTTP connections with TLS, where it is spoken.
    pub https: Option<TcpListener>,
    /// Answers the API to users of this machine, where that is wanted.
    pub api: Option<UnixListener>,
    /// Hears router solicitations, where they are to be answered.
    pub router_solicitations: Option<UdpSocket>,
    /// MTU of the interface.
    pub mtu_bytes: u16,
}

/// A socket cannot be bound.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// There is no such interface.
    #[error("there is no network interface {name}\nhint: ip link shows what there is; set server.interface")]
    NoInterface {
        /// Its name.
        name: String,
    },
    /// What /sys says about it makes no sense.
    #[error("{} holds no number", path.display())]
    InterfaceFile {
        /// The file.
        path: PathBuf,
    },
    /// The socket of the API cannot be had.
    #[error(transparent)]
    Api(#[from] ApiSocketError),
    /// The kernel refused.
    #[error("cannot bind {service} to {address}\nhint: {}", hint(source))]
    Bind {
        /// `DHCP`, `PXE`, `TFTP`, `DNS`, `HTTP`, `HTTPS`.
        service: &'static str,
        /// Address and port.
        address: SocketAddrV4,
        /// Why.
        #[source]
        source: io::Error,
    },
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => "ports below 1024 need root; privileges are dropped afterwards",
        io::ErrorKind::AddrInUse => "another server uses the port; ss -lnptu shows which",
        io::ErrorKind::AddrNotAvailable => "the address is not on this machine; ip address shows what is",
        _ => "see the cause",
    }
}

impl Sockets {
    /// Binds the services as `config` says.
    pub fn bind(config: &Config) -> Result<Self, BindError> {
        let server = &config.server;
        let mtu_bytes = mtu_bytes(&server.interface)?;
        let router_solicitations = match config.router_advertisements {
            true => router_solicitations(&server.interface)?,
            false => None,
        };
        let mut passed = Passed::receive();
        let mut udp = |service, address, port, open: &dyn Fn(Option<Socket>, SocketAddrV4) -> _| {
            let address = SocketAddrV4::new(address, port);
            let opened: io::Result<UdpSocket> = open(passed.datagram(address), address);
            opened.map_err(cannot_bind(service, address))
        };
        let (mut dhcp_socket, mut pxe_socket) = (None, None);
        if config.dhcp != DhcpMode::Off {
            let open = |passed, at| dhcp(passed, &server.interface, at);
            dhcp_socket = Some(udp("DHCP", Ipv4Addr::UNSPECIFIED, DHCP_PORT, &open)?);
            pxe_socket = Some(udp("PXE", server.address, PXE_PORT, &datagram)?);
        }
        let tftp_socket = udp("TFTP", server.address, TFTP_PORT, &buffered)?;
        let dns_udp =
            config.dns.as_ref().map(|_| udp("DNS", server.address, DNS_PORT, &buffered)).transpose()?;
        let mut tcp = |service, port| {
            let address = SocketAddrV4::new(server.address, port);
            listener(passed.stream(address), address).map_err(cannot_bind(service, address))
        };
        let dns_tcp = config.dns.as_ref().map(|_| tcp("DNS", DNS_PORT)).transpose()?;
        let http = tcp("HTTP", server.http_port)?;
        let https = config.tls.as_ref().map(|tls| tcp("HTTPS", tls.port)).transpose()?;
        for listener in iter::once(&http).chain(&https) {
            set_congestion_control(listener, config.congestion_control.as_deref());
        }
        Ok(Self {
            dhcp: dhcp_socket,
            ping: match config.dhcp == DhcpMode::Authoritative && config.ping_check {
                true => ping(&server.interface),
                false => None,
            },
            pxe: pxe_socket,
            tftp: tftp_socket,
            dns: dns_udp.zip(dns_tcp),
            http,
            https,
            api: api_socket::bind(server)?,
            router_solicitations,
            mtu_bytes,
        })
    }
}

/// A host without IPv6 serves as well; its nodes only boot more slowly.
fn router_solicitations(interface: &str) -> Result<Option<UdpSocket>, BindError> {
    let index = read_interface_file(interface, "ifindex")?;
    Ok(radv::bind(interface, index)
        .inspect_err(|error| {
            let hint = "iPXE waits 12 s for IPv6 routers; network.router_advertisements = false hides this";
            warn!(interface, %error, hint, "cannot answer IPv6 router solicitations");
        })
        .ok())
}

/// Addresses are given out without it as well; only a conflict is found later.
fn ping(interface: &str) -> Option<UdpSocket> {
    ping::bind(interface)
        .inspect_err(|error| {
            let hint = "it needs CAP_NET_RAW; dhcp.ping_check = false hides this";
            warn!(interface, %error, hint, "cannot look whether an address is in use before it is offered");
        })
        .ok()
}

fn cannot_bind(service: &'static str, address: SocketAddrV4) -> impl Fn(io::Error) -> BindError {
    move |source| BindError::Bind { service, address, source }
}

/// Only a socket without an address receives broadcasts; the interface keeps it from answering other networks.
fn dhcp(passed: Option<Socket>, interface: &str, address: SocketAddrV4) -> io::Result<UdpSocket> {
    let socket = match passed {
        Some(socket) => {
            // Without privileges it can be bound to an interface once.
            if socket.device()?.is_none_or(|device| device != interface.as_bytes()) {
                socket.bind_device(Some(interface.as_bytes()))?;
            }
            socket
        }
        None => {
            let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
            // First, so that another server may have the port on another interface.
            socket.bind_device(Some(interface.as_bytes()))?;
            socket.bind(&address.into())?;
            socket
        }
    };
    socket.set_broadcast(true)?;
    set_receive_buffer(&socket)?;
    Ok(socket.into())
}

fn buffered(passed: Option<Socket>, address: SocketAddrV4) -> io::Result<UdpSocket> {
    let socket = datagram(passed, address)?.into();
    set_receive_buffer(&socket)?;
    Ok(socket.into())
}

fn datagram(passed: Option<Socket>, address: SocketAddrV4) -> io::Result<UdpSocket> {
    passed.map_or_else(|| UdpSocket::bind(address), |socket| Ok(socket.into()))
}

/// Only root gets more than net.core.rmem_max, which holds some 160 packets.
fn set_receive_buffer(socket: &Socket) -> io::Result<()> {
    set_socket_recv_buffer_size_force(socket, RECEIVE_BUFFER_BYTES)
        .or_else(|_| socket.set_recv_buffer_size(RECEIVE_BUFFER_BYTES))
}

fn listener(passed: Option<Socket>, address: SocketAddrV4) -> io::Result<TcpListener> {
    let socket = match passed {
        Some(socket) => socket,
        None => {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
            // So that a restarted server need not wait for the connections of the one before.
            socket.set_reuse_address(true)?;
            socket.bind(&address.into())?;
            socket
        }
    };
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Connections have what the socket has that accepts them. Any of them serves, if more slowly.
fn set_congestion_control(listener: &TcpListener, name: Option<&str>) {
    if let Some(name) = name {
        let Err(error) = set_tcp_congestion(listener, name) else { return };
        let available = std::fs::read_to_string(AVAILABLE).unwrap_or_default();
        let hint = "of those that are not in net.ipv4.tcp_allowed_congestion_control, it needs CAP_NET_ADMIN";
        warn!(name, %error, available = available.trim(), hint, "cannot set http.congestion_control");
    }
    if !CONGESTION_CONTROLS.iter().any(|name| set_tcp_congestion(listener, name).is_ok()) {
        debug!("HTTP has the congestion control of the system");
    }
}

/// MTU of an interface, which tells at the same time whether there is one.
pub(crate) fn mtu_bytes(interface: &str) -> Result<u16, BindError> {
    // Loopback has 65536; no datagram is longer than what 16 bits count.
    Ok(u16::try_from(read_interface_file(interface, "mtu")?).unwrap_or(u16::MAX))
}

/// A number that the kernel tells of an interface (kernel: Documentation/ABI/testing/sysfs-class-net).
fn read_interface_file(interface: &str, file: &str) -> Result<u32, BindError> {
    let path = Path::new("/sys/class/net").join(interface).join(file);
    let text =
        std::fs::read_to_string(&path).map_err(|_| BindError::NoInterface { name: interface.to_owned() })?;
    text.trim().parse().map_err(|_| BindError::InterfaceFile { path })
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use rustix::net::sockopt::tcp_congestion;

    use super::*;

    #[test]
    fn a_missing_interface_is_named() {
        let error = mtu_bytes("nosuch0").unwrap_err().to_string();
        assert!(error.contains("nosuch0") && error.contains("hint:"), "{error}");
    }

    #[test]
    fn connections_have_the_congestion_control_that_is_named_or_ours() {
        for (name, expected) in [
            (Some("reno"), &["reno"][..]),
            (None, &CONGESTION_CONTROLS),
            (Some("nosuch"), &CONGESTION_CONTROLS),
        ] {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            set_congestion_control(&listener, name);
            let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let found = tcp_congestion(listener.accept().unwrap().0).unwrap();
            assert!(expected.contains(&found.trim_end_matches('\0')), "{name:?}: {found:?}");
        }
    }

    #[test]
    fn a_port_in_use_is_named_with_a_hint() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = SocketAddrV4::new(Ipv4Addr::LOCALHOST, taken.local_addr().unwrap().port());
        let error = listener(None, address).map_err(cannot_bind("HTTP", address)).unwrap_err().to_string();
        assert!(error.contains("HTTP to 127.0.0.1") && error.contains("another server"), "{error}");
    }
}
