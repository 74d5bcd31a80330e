//! The calls that give a network interface its address (netdevice(7), rtnetlink's older sibling), for which there is no
//! safe API.
#![allow(unsafe_code, reason = "ioctl(2) on network interfaces has no safe API")]

use std::ffi::{CString, c_char, c_short};
use std::io;
use std::mem;
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;

use bootspec::cmdline::InterfaceAddress;
use socket2::{Domain, Socket, Type};

/// Switches an interface on or off.
pub fn set_up(interface: &str, up: bool) -> io::Result<()> {
    let mut request = ifreq(interface)?;
    interface_call(libc::SIOCGIFFLAGS, &mut request)?;
    // SAFETY: SIOCGIFFLAGS has filled in this member of the union; any bits are a valid integer.
    let flags = unsafe { request.ifr_ifru.ifru_flags };
    let wanted = if up { flags | IFF_UP } else { flags & !IFF_UP };
    request.ifr_ifru.ifru_flags = wanted;
    interface_call(libc::SIOCSIFFLAGS, &mut request)
}

/// Gives an interface its address, in place of one that it had.
pub fn set_address(interface: &str, address: InterfaceAddress) -> io::Result<()> {
    let mut request = ifreq(interface)?;
    request.ifr_ifru.ifru_addr = sockaddr(address.address);
    interface_call(libc::SIOCSIFADDR, &mut request)?;
    request.ifr_ifru.ifru_netmask = sockaddr(address.netmask());
    interface_call(libc::SIOCSIFNETMASK, &mut request)
}

/// Takes an interface its address, and with it the routes through it.
pub fn remove_address(interface: &str) -> io::Result<()> {
    let mut request = ifreq(interface)?;
    request.ifr_ifru.ifru_addr = sockaddr(Ipv4Addr::UNSPECIFIED);
    interface_call(libc::SIOCSIFADDR, &mut request)
}

/// A way to other machines.
#[derive(Clone, Copy, Debug)]
pub enum Route {
    /// To one machine, which is on the interface's own wire.
    Host(Ipv4Addr),
    /// To all that have no way of their own, by this machine.
    Default(Ipv4Addr),
}

/// Adds a route through an interface. One that is there already stays.
pub fn add_route(interface: &str, route: Route) -> io::Result<()> {
    let mut device = CString::new(interface)?.into_bytes_with_nul();
    let (destination, mask, gateway, flags) = match route {
        Route::Host(host) => (host, Ipv4Addr::BROADCAST, Ipv4Addr::UNSPECIFIED, libc::RTF_HOST),
        Route::Default(gateway) => (Ipv4Addr::UNSPECIFIED, Ipv4Addr::UNSPECIFIED, gateway, libc::RTF_GATEWAY),
    };
    // SAFETY: a struct of integers, addresses and a pointer, for all of which zero is a valid value.
    let mut entry: libc::rtentry = unsafe { mem::zeroed() };
    entry.rt_dst = sockaddr(destination);
    entry.rt_genmask = sockaddr(mask);
    entry.rt_gateway = sockaddr(gateway);
    entry.rt_flags = libc::RTF_UP | flags;
    entry.rt_dev = device.as_mut_ptr().cast();
    let socket = control_socket()?;
    // SAFETY: SIOCADDRT reads one struct rtentry and the string at rt_dev; `entry` and `device`, which ends in a NUL, both
    // live until the call returns.
    match check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCADDRT, &raw mut entry) }) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        result => result,
    }
}

const IFF_UP: c_short = libc::IFF_UP as c_short;

/// A request for this interface, with no value yet.
fn ifreq(interface: &str) -> io::Result<libc::ifreq> {
    let mut ifr_name = [0; libc::IFNAMSIZ];
    if interface.len() >= ifr_name.len() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the interface's name is too long"));
    }
    for (to, from) in ifr_name.iter_mut().zip(interface.bytes()) {
        *to = from as c_char;
    }
    Ok(libc::ifreq {
        ifr_name,
        ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_addr: sockaddr(Ipv4Addr::UNSPECIFIED) },
    })
}

/// The `struct sockaddr_in` of an address, port 0, as the calls take it.
fn sockaddr(address: Ipv4Addr) -> libc::sockaddr {
    let mut sa_data = [0; 14];
    for (to, from) in sa_data[2..].iter_mut().zip(address.octets()) {
        *to = from as c_char;
    }
    libc::sockaddr { sa_family: libc::AF_INET as libc::sa_family_t, sa_data }
}

/// One of the calls of netdevice(7) that take a `struct ifreq`.
fn interface_call(call: libc::Ioctl, request: &mut libc::ifreq) -> io::Result<()> {
    let socket = control_socket()?;
    // SAFETY: the calls that this module passes read or write one struct ifreq and nothing else, and `request` is one that
    // nobody else uses until the call returns.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), call, &raw mut *request) })
}

/// Any socket of the protocol will do.
fn control_socket() -> io::Result<Socket> {
    Socket::new(Domain::IPV4, Type::DGRAM, None)
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
