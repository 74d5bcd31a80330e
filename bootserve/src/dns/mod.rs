//! A name server for the nodes' zone (RFC 1034, 1035, 2308, 6891, 7766): names and addresses of the configured nodes, of the server
//! itself and of machines that have a lease and no reservation. It is asked for other names as well, and passes those on to the
//! configured forwarders.
//!
//! There are no zone transfers, no updates, no DNSSEC and no cache: a forwarder has one. Nothing has an IPv6 address.

pub mod answer;
pub mod driver;
pub mod forward;
pub mod reverse;
pub mod zone;
