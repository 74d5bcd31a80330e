//! A read-only TFTP server for network boot programs: RFC 1350 (revision 2), options of RFC 2347 with blksize (RFC
//! 2348), timeout and tsize (RFC 2349), and windowsize (RFC 7440).
//!
//! [`wire`] is the packet format, [`terms`] what a client and the server agree on, [`transfer`] the state machine of one
//! file to one client, [`table`] the transfers under way and their limits, [`driver`] the sockets. Left out: writing and
//! multicast (RFC 2090).

pub mod driver;
pub mod files;
pub mod netascii;
pub mod table;
pub mod terms;
pub mod transfer;
pub mod wire;
