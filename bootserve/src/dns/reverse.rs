//! Names of addresses: `5.0.168.192.in-addr.arpa` (RFC 1035 section 3.5). Reverse zones begin where octets do: a network of 20
//! bits has sixteen of 24, and one of 26 bits has that of the 24 bits around it.

use std::net::Ipv4Addr;

use hickory_proto::rr::Name;
use ipnet::Ipv4Net;

/// Labels of `in-addr.arpa`.
const SUFFIX: [&[u8]; 2] = [b"arpa", b"in-addr"];

/// The reverse zone that holds `address`, which is of `subnet`.
pub fn zone_of(subnet: Ipv4Net, address: Ipv4Addr) -> Ipv4Net {
    let octets = subnet.prefix_len().div_ceil(8).clamp(1, 3);
    Ipv4Net::new(address, octets * 8).expect("three octets are 24 bits").trunc()
}

/// Its name.
pub fn apex(zone: Ipv4Net) -> Name {
    Name::from(zone.network()).trim_to(usize::from(zone.prefix_len() / 8) + SUFFIX.len())
}

/// A name below `in-addr.arpa`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReverseName {
    /// The octets of the address, from the first on; at most four.
    octets: Vec<u8>,
    /// Whether that is all of the name.
    is_whole: bool,
}

impl ReverseName {
    /// `name`, if it is one.
    pub fn of(name: &Name) -> Option<Self> {
        let mut labels = name.iter().rev();
        for expected in SUFFIX {
            labels.next().filter(|label| label.eq_ignore_ascii_case(expected))?;
        }
        let count = labels.len();
        let octets: Vec<u8> = labels.take(4).map_while(octet).collect();
        Some(Self { is_whole: octets.len() == count, octets })
    }

    /// The address that it is the name of.
    pub fn address(&self) -> Option<Ipv4Addr> {
        let octets: [u8; 4] = self.octets.as_slice().try_into().ok()?;
        self.is_whole.then_some(octets.into())
    }

    /// The reverse zone of `subnet` that it is in.
    pub fn zone(&self, subnet: Ipv4Net) -> Option<Ipv4Net> {
        let mut octets = [0; 4];
        octets[..self.octets.len()].copy_from_slice(&self.octets);
        let zone = zone_of(subnet, octets.into());
        let is_there = subnet.contains(&zone.network()) || zone.contains(&subnet);
        (is_there && self.octets.len() >= usize::from(zone.prefix_len() / 8)).then_some(zone)
    }

    /// Whether it has fewer octets than an address, and so may have names below it.
    pub fn is_between(&self) -> bool {
        self.is_whole && self.octets.len() < 4
    }
}

/// An octet as it is written, without zeros before it.
fn octet(label: &[u8]) -> Option<u8> {
    let text = std::str::from_utf8(label).ok()?;
    text.parse().ok().filter(|octet: &u8| octet.to_string() == text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> Ipv4Net {
        text.parse().unwrap()
    }

    fn reverse(text: &str) -> Option<ReverseName> {
        ReverseName::of(&Name::from_ascii(text).unwrap())
    }

    #[test]
    fn zones_begin_where_octets_do() {
        for (subnet, address, expected) in [
            ("192.168.0.0/24", [192, 168, 0, 9], "0.168.192.in-addr.arpa."),
            ("192.168.0.64/26", [192, 168, 0, 70], "0.168.192.in-addr.arpa."),
            ("10.1.16.0/20", [10, 1, 17, 5], "17.1.10.in-addr.arpa."),
            ("172.16.0.0/12", [172, 20, 1, 1], "20.172.in-addr.arpa."),
            ("10.0.0.0/8", [10, 1, 1, 1], "10.in-addr.arpa."),
            ("0.0.0.0/0", [10, 1, 1, 1], "10.in-addr.arpa."),
        ] {
            assert_eq!(apex(zone_of(net(subnet), address.into())).to_string(), expected);
        }
    }

    #[test]
    fn a_reverse_name_is_an_address_or_part_of_one() {
        let name = reverse("5.0.168.192.IN-ADDR.arpa.").unwrap();
        assert_eq!(name.address(), Some(Ipv4Addr::new(192, 168, 0, 5)));
        assert_eq!(Name::from(name.address().unwrap()).to_string(), "5.0.168.192.in-addr.arpa.");
        for (text, between) in [
            ("0.168.192.in-addr.arpa.", true),
            ("in-addr.arpa.", true),
            ("05.0.168.192.in-addr.arpa.", false),
            ("256.0.168.192.in-addr.arpa.", false),
            ("x.0.168.192.in-addr.arpa.", false),
            ("1.5.0.168.192.in-addr.arpa.", false),
        ] {
            let name = reverse(text).unwrap();
            assert_eq!((name.address(), name.is_between()), (None, between), "{text}");
        }
        assert_eq!(reverse("5.0.168.192.ip6.arpa."), None);
        assert_eq!(reverse("arpa."), None);
    }

    #[test]
    fn a_name_is_in_the_zones_of_its_networks_alone() {
        let zone = |text: &str, subnet| reverse(text).unwrap().zone(net(subnet)).map(|zone| zone.to_string());
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(zone("5.0.168.192.in-addr.arpa.", "192.168.0.0/24"), some("192.168.0.0/24"));
        assert_eq!(zone("x.0.168.192.in-addr.arpa.", "192.168.0.0/24"), some("192.168.0.0/24"));
        assert_eq!(zone("5.1.168.192.in-addr.arpa.", "192.168.0.0/24"), None);
        assert_eq!(zone("168.192.in-addr.arpa.", "192.168.0.0/24"), None);
        assert_eq!(zone("5.0.168.192.in-addr.arpa.", "192.168.0.64/26"), some("192.168.0.0/24"));
        assert_eq!(zone("1.17.1.10.in-addr.arpa.", "10.1.16.0/20"), some("10.1.17.0/24"));
        assert_eq!(zone("1.32.1.10.in-addr.arpa.", "10.1.16.0/20"), None);
    }
}
