//! A read-only TFTP server for network boot programs: RFC 1350 (revision 2), options of RFC 2347 with blksize (RFC
//! 2348), timeout and tsize (RFC 2349).
//!
//! [`wire`] is the packet format, [`transfer`] the state machine of one file to one client, [`driver`] the sockets.
//! Left out: writing, netascii, multicast (RFC 2090) and windowsize (RFC 7440), which the firmware of our nodes
//! either lacks or does without.

pub mod driver;
pub mod transfer;
pub mod wire;
