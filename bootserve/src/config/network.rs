//! The networks that we give addresses on. Those of one link are on the same wire: a machine there may have an address of
//! any of them.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;
use std::time::Duration;

use bootspec::cmdline::InterfaceAddress;
use ipnet::Ipv4Net;

/// A subnet, and what machines in it are told.
#[derive(Clone, Debug)]
pub struct Network {
    /// Addresses and mask.
    pub subnet: Ipv4Net,
    /// Addresses for machines without a reservation.
    pub range: Option<AddressRange>,
    /// Default gateway.
    pub router: Option<Ipv4Addr>,
    /// Name servers.
    pub dns: Vec<Ipv4Addr>,
    /// Domain of the nodes.
    pub domain: Option<String>,
    /// How long a machine may keep an address without asking again.
    pub lease: Duration,
    /// Name of the wire, where other networks are on it as well.
    pub link: Option<String>,
}

/// All networks. They do not overlap, and one of them is the server's own.
#[derive(Clone, Debug)]
pub struct Networks {
    /// Those of one link lie side by side.
    sorted: Vec<Network>,
    own: usize,
}

impl Networks {
    /// None if `server` is in none of `networks`.
    pub(super) fn new(mut networks: Vec<Network>, server: Ipv4Addr) -> Option<Self> {
        networks.sort_by_key(|network| (network.link.clone(), network.subnet));
        let own = networks.iter().position(|network| network.subnet.contains(&server))?;
        Some(Self { sorted: networks, own })
    }

    /// The one that the server's address is of.
    pub fn own(&self) -> &Network {
        &self.sorted[self.own]
    }

    /// Each, those of one link side by side.
    pub fn iter(&self) -> impl Iterator<Item = &Network> {
        self.sorted.iter()
    }

    /// The one that `address` is of.
    pub fn of(&self, address: Ipv4Addr) -> Option<&Network> {
        self.iter().find(|network| network.subnet.contains(&address))
    }

    /// All that are on the same wire as the one that `address` is of: at least that.
    pub fn on_link_of(&self, address: Ipv4Addr) -> Option<&[Network]> {
        let same_link = |a: &Network, b: &Network| a.link.is_some() && a.link == b.link;
        self.sorted
            .chunk_by(same_link)
            .find(|link| link.iter().any(|network| network.subnet.contains(&address)))
    }

    /// `address` as an interface is given it, if it is of one of the networks.
    pub fn on_interface(&self, address: Ipv4Addr) -> Option<InterfaceAddress> {
        let prefix_len = self.of(address)?.subnet.prefix_len();
        Some(InterfaceAddress::new(address, prefix_len).expect("an Ipv4Net has at most 32 bits of prefix"))
    }
}

/// An inclusive range of addresses, written `192.168.0.200-192.168.0.250`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressRange {
    pub(super) first: Ipv4Addr,
    pub(super) last: Ipv4Addr,
}

impl AddressRange {
    /// The lowest address.
    pub fn first(self) -> Ipv4Addr {
        self.first
    }

    /// The highest address.
    pub fn last(self) -> Ipv4Addr {
        self.last
    }

    /// Whether `address` is one of them.
    pub fn contains(self, address: Ipv4Addr) -> bool {
        (self.first..=self.last).contains(&address)
    }
}

impl FromStr for AddressRange {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        let error = || format!("'{s}' is not an address range: expected FIRST-LAST");
        let (first, last) = s.split_once('-').ok_or_else(error)?;
        let parse = |text: &str| text.trim().parse::<Ipv4Addr>().map_err(|_| error());
        let range = Self { first: parse(first)?, last: parse(last)? };
        if range.first <= range.last { Ok(range) } else { Err(format!("'{s}' ends before it begins")) }
    }
}

impl fmt::Display for AddressRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(subnet: &str, link: Option<&str>) -> Network {
        Network {
            subnet: subnet.parse().unwrap(),
            range: None,
            router: None,
            dns: Vec::new(),
            domain: None,
            lease: Duration::from_secs(60),
            link: link.map(str::to_owned),
        }
    }

    #[test]
    fn networks_of_one_link_are_found_by_any_of_their_addresses() {
        let all = [
            ("10.3.0.0/24", Some("a")),
            ("10.1.0.0/24", None),
            ("10.2.0.0/24", Some("a")),
            ("10.4.0.0/24", None),
        ];
        let networks = all.map(|(subnet, link)| network(subnet, link)).to_vec();
        let networks = Networks::new(networks, [10, 1, 0, 1].into()).unwrap();
        assert_eq!(networks.own().subnet.to_string(), "10.1.0.0/24");
        let check = |address: [u8; 4], expected: &[&str]| {
            let link = networks.on_link_of(address.into()).unwrap_or_default();
            let subnets: Vec<_> = link.iter().map(|network| network.subnet.to_string()).collect();
            assert_eq!(subnets, expected);
        };
        check([10, 1, 0, 9], &["10.1.0.0/24"]);
        check([10, 4, 0, 9], &["10.4.0.0/24"]);
        check([10, 2, 0, 9], &["10.2.0.0/24", "10.3.0.0/24"]);
        check([10, 3, 0, 9], &["10.2.0.0/24", "10.3.0.0/24"]);
        check([10, 5, 0, 9], &[]);
        assert_eq!(networks.on_interface([10, 2, 0, 9].into()).unwrap().to_string(), "10.2.0.9/24");
        assert!(Networks::new(vec![network("10.1.0.0/24", None)], [10, 9, 0, 1].into()).is_none());
    }

    #[test]
    fn a_range_round_trips() {
        let range: AddressRange = "10.0.0.9-10.0.0.11".parse().unwrap();
        assert_eq!(range.to_string().parse(), Ok(range));
        assert!(range.contains([10, 0, 0, 11].into()) && !range.contains([10, 0, 0, 12].into()));
        assert!("10.0.0.9-10.0.0.8".parse::<AddressRange>().is_err());
    }
}
