//! A socket for frames of one protocol, on all interfaces (packet(7)), for which there is no safe API.
#![allow(unsafe_code, reason = "sockaddr_ll and packet_mreq have no safe API")]

use std::io;
use std::mem;
use std::os::fd::AsRawFd;

use socket2::{Domain, Protocol, SockAddr, SockAddrStorage, Socket, Type};

/// Receives frames without their Ethernet headers.
#[derive(Debug)]
pub struct PacketSocket(Socket);

impl PacketSocket {
    /// For frames of this EtherType. It does not wait for them.
    pub fn open(ether_type: u16) -> io::Result<Self> {
        let protocol = Protocol::from(i32::from(ether_type.to_be()));
        let socket = Socket::new(Domain::PACKET, Type::DGRAM, Some(protocol))?;
        socket.set_nonblocking(true)?;
        Ok(Self(socket))
    }

    /// Has the interface with this index receive what is sent to a multicast address.
    pub fn join(&self, interface: u32, group: [u8; 6]) -> io::Result<()> {
        // SAFETY: a struct of integers, for all of which zero is a valid value.
        let mut request: libc::packet_mreq = unsafe { mem::zeroed() };
        request.mr_ifindex = interface.try_into().map_err(|_| io::ErrorKind::InvalidInput)?;
        request.mr_type = libc::PACKET_MR_MULTICAST as libc::c_ushort;
        request.mr_alen = 6;
        request.mr_address[..6].copy_from_slice(&group);
        // SAFETY: PACKET_ADD_MEMBERSHIP reads a struct packet_mreq of this length, which lives until the call returns.
        let result = unsafe {
            libc::setsockopt(
                self.0.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_ADD_MEMBERSHIP,
                (&raw const request).cast(),
                mem::size_of_val(&request) as libc::socklen_t,
            )
        };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// The next frame that is there: its length in `buffer`, to which it is cut, and the index of the interface that it came by.
    pub fn receive(&self, buffer: &mut [u8]) -> io::Result<(usize, u32)> {
        let mut storage = SockAddrStorage::zeroed();
        let mut length = storage.size_of();
        // SAFETY: both pointers are valid for the lengths that are given with them, until the call returns.
        let received = unsafe {
            libc::recvfrom(
                self.0.as_raw_fd(),
                buffer.as_mut_ptr().cast(),
                buffer.len(),
                0,
                (&raw mut storage).cast(),
                &raw mut length,
            )
        };
        let received = usize::try_from(received).map_err(|_| io::Error::last_os_error())?;
        // SAFETY: recvfrom has written an address of this length.
        let address = unsafe { SockAddr::new(storage, length) };
        if address.family() != libc::AF_PACKET as libc::sa_family_t {
            return Err(io::ErrorKind::InvalidData.into());
        }
        // SAFETY: an address of this family is a sockaddr_ll.
        let link: &libc::sockaddr_ll = unsafe { &*address.as_ptr().cast() };
        Ok((received, u32::try_from(link.sll_ifindex).unwrap_or(0)))
    }
}
