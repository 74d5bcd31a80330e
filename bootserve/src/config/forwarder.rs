//! A name server of others, as it is written: `10.0.0.53`, `10.0.0.53:5353`, `[2001:db8::53]:5353`.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use crate::sockets::DNS_PORT;

/// Its address and port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Forwarder(pub(super) SocketAddr);

impl FromStr for Forwarder {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        let address = s.parse::<IpAddr>().map(|address| SocketAddr::new(address, DNS_PORT));
        let parsed = address.or_else(|_| s.parse());
        parsed.map(Self).map_err(|_| format!("'{s}' is not a name server: expected ADDRESS or ADDRESS:PORT"))
    }
}

impl fmt::Display for Forwarder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.port() {
            DNS_PORT => self.0.ip().fmt(f),
            _ => self.0.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_forwarder_round_trips_and_has_port_53_by_itself() {
        for text in ["10.0.0.53", "10.0.0.53:5353", "2001:db8::53", "[2001:db8::53]:5353"] {
            assert_eq!(text.parse::<Forwarder>().unwrap().to_string(), text);
        }
        assert_eq!("10.0.0.53".parse::<Forwarder>(), "10.0.0.53:53".parse());
        assert!("ns.example".parse::<Forwarder>().unwrap_err().contains("expected ADDRESS"));
    }
}
