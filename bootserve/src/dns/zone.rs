//! The zone: which name has which address, and the reverse.

use std::collections::{HashMap, HashSet};
use std::net::Ipv4Addr;

use bootspec::MacAddr;
use bootspec::store::NodeName;
use hickory_proto::rr::rdata::{A, NS, PTR, SOA};
use hickory_proto::rr::{Name, RData, Record};

/// What stands before the address in the name of a machine that has a lease and no reservation.
const MACHINE: &str = "mac-";
/// In seconds: how often a secondary server would look, look again, and until when it would go on by itself (RFC 1912 section 2.2).
const REFRESH: i32 = 3600;
const RETRY: i32 = 600;
const EXPIRE: i32 = 86_400;
/// Reverse names and those of the zone together; it matters to those alone who copy zones, which cannot be done here.
pub const SERIAL: u32 = 1;

/// Names and addresses of the nodes and of the server.
#[derive(Clone, Debug)]
pub struct Zone {
    apex: Name,
    server: Name,
    ttl_seconds: u32,
    addresses: HashMap<Name, Ipv4Addr>,
    names: HashMap<Ipv4Addr, Name>,
    /// What has no address and has names below it: `rack1.cluster`, where there is a node `n1.rack1`.
    between: HashSet<Name>,
}

/// There cannot be such a zone.
#[derive(Debug, thiserror::Error)]
pub enum ZoneError {
    /// It has no proper name.
    #[error("{name:?} is no name of a zone, expected a domain name such as cluster.example")]
    Apex {
        /// Its name.
        name: String,
    },
    /// A host has no proper name.
    #[error(
        "{name} cannot be the name of a host in the zone {apex}: expected letters, digits and hyphens inside, \
         at most 63 between dots and 253 in all\nhint: rename it, or do without the zone"
    )]
    Host {
        /// Its name.
        name: String,
        /// The zone's.
        apex: Name,
    },
    /// Upper and lower case are the same, and the server has a name, too.
    #[error("{first} and {second} both have the name {name}\nhint: rename one; dns.name is the server's")]
    Same {
        /// One address.
        first: Ipv4Addr,
        /// The other.
        second: Ipv4Addr,
        /// The name.
        name: Name,
    },
}

impl Zone {
    /// The zone called `apex` of a server, which is called `server` there, and of `nodes`. `ttl_seconds` is how long others may
    /// keep what they are told, and that they were told of nothing.
    pub fn new<'a>(
        apex: &str,
        server: (&str, Ipv4Addr),
        ttl_seconds: u32,
        nodes: impl IntoIterator<Item = (&'a NodeName, Ipv4Addr)>,
    ) -> Result<Self, ZoneError> {
        let name = host_name(apex.trim_end_matches('.'), &Name::root());
        let apex = name.ok_or_else(|| ZoneError::Apex { name: apex.to_owned() })?;
        let nodes = nodes.into_iter().map(|(name, address)| (name.as_str(), address));
        let mut zone = Self {
            server: apex.clone(),
            apex,
            ttl_seconds,
            addresses: HashMap::new(),
            names: HashMap::new(),
            between: HashSet::new(),
        };
        zone.server = zone.add(server.0, server.1)?;
        for (name, address) in nodes {
            zone.add(name, address)?;
        }
        Ok(zone)
    }

    /// A name that ends in that of the zone is taken for the whole.
    fn add(&mut self, text: &str, address: Ipv4Addr) -> Result<Name, ZoneError> {
        let invalid = || ZoneError::Host { name: text.to_owned(), apex: self.apex.clone() };
        let whole = host_name(text, &Name::root()).filter(|name| self.is_below(name));
        let name = whole.or_else(|| host_name(text, &self.apex)).ok_or_else(invalid)?;
        if let Some(first) = self.addresses.insert(name.clone(), address) {
            return Err(ZoneError::Same { first, second: address, name });
        }
        self.names.insert(address, name.clone());
        let above = std::iter::successors(Some(name.base_name()), |name| Some(name.base_name()));
        self.between.extend(above.take_while(|name| *name != self.apex));
        Ok(name)
    }

    fn is_below(&self, name: &Name) -> bool {
        self.apex.zone_of(name) && *name != self.apex
    }

    /// Its name.
    pub fn apex(&self) -> &Name {
        &self.apex
    }

    /// What the server is called.
    pub fn server(&self) -> &Name {
        &self.server
    }

    /// How long others may keep what they are told.
    pub fn ttl_seconds(&self) -> u32 {
        self.ttl_seconds
    }

    /// Whether `name` is of the zone, be there such a name or not.
    pub fn contains(&self, name: &Name) -> bool {
        self.apex.zone_of(name)
    }

    /// The address of the server or a node.
    pub fn address_of(&self, name: &Name) -> Option<Ipv4Addr> {
        self.addresses.get(name).copied()
    }

    /// The name of the server or a node.
    pub fn name_of(&self, address: Ipv4Addr) -> Option<&Name> {
        self.names.get(&address)
    }

    /// Whether there are names below this one.
    pub fn is_between(&self, name: &Name) -> bool {
        self.between.contains(name)
    }

    /// The server and all nodes, by address.
    pub fn hosts(&self) -> Vec<(Ipv4Addr, &Name)> {
        let mut hosts: Vec<_> = self.names.iter().map(|(address, name)| (*address, name)).collect();
        hosts.sort_by_key(|(address, _)| *address);
        hosts
    }

    /// The name of a machine that has a lease and no reservation: `mac-02-00-00-00-00-05.cluster`.
    pub fn name_of_machine(&self, mac: MacAddr) -> Option<Name> {
        host_name(&machine_label(mac), &self.apex)
    }

    /// The machine that has this name, if it has a lease and no reservation.
    pub fn machine(&self, name: &Name) -> Option<MacAddr> {
        let label = std::str::from_utf8(name.iter().next()?).ok()?.to_ascii_lowercase();
        let mac: MacAddr = label.strip_prefix(MACHINE)?.parse().ok()?;
        // One machine has one name, though its address can be written in several ways.
        (self.name_of_machine(mac)? == *name).then_some(mac)
    }

    /// What tells where the zone `apex` begins, this one or a reverse one, and how long what is not there may be remembered as
    /// such (RFC 2308 section 3).
    pub fn soa(&self, apex: &Name, serial: u32) -> Record {
        let contact = self.apex.prepend_label("hostmaster").unwrap_or_else(|_| self.apex.clone());
        let soa = SOA::new(self.server.clone(), contact, serial, REFRESH, RETRY, EXPIRE, self.ttl_seconds);
        self.record(apex, RData::SOA(soa))
    }

    /// What names the server of the zone `apex`.
    pub fn ns(&self, apex: &Name) -> Record {
        self.record(apex, RData::NS(NS(self.server.clone())))
    }

    /// The address of `name`.
    pub fn a(&self, name: &Name, address: Ipv4Addr) -> Record {
        self.record(name, RData::A(A(address)))
    }

    /// `host` as that which the reverse name `name` stands for.
    pub fn ptr(&self, name: &Name, host: &Name) -> Record {
        self.record(name, RData::PTR(PTR(host.clone())))
    }

    fn record(&self, name: &Name, data: RData) -> Record {
        Record::from_rdata(name.clone(), self.ttl_seconds, data)
    }
}

/// The name of a machine that has a lease and no reservation, without that of the zone.
pub fn machine_label(mac: MacAddr) -> String {
    format!("{MACHINE}{}", mac.hyphenated())
}

/// `text` below `apex`, if it can be the name of a host (RFC 1123 section 2.1).
fn host_name(text: &str, apex: &Name) -> Option<Name> {
    let is_plain = |label: &str| {
        let inside = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
        label.bytes().all(inside) && !label.starts_with('-') && !label.ends_with('-') && !label.is_empty()
    };
    let name =
        text.split('.').all(is_plain).then(|| Name::from_ascii(text).ok()?.append_domain(apex).ok())??;
    Some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVER: (&str, Ipv4Addr) = ("head", Ipv4Addr::new(10, 0, 0, 1));

    fn zone(names: &[&str]) -> Result<Zone, ZoneError> {
        let names: Vec<NodeName> = names.iter().map(|name| name.parse().unwrap()).collect();
        let nodes = names.iter().zip(2..).map(|(name, last)| (name, Ipv4Addr::new(10, 0, 0, last)));
        Zone::new("cluster.example", SERVER, 60, nodes)
    }

    fn name(text: &str) -> Name {
        Name::from_ascii(text).unwrap()
    }

    #[test]
    fn names_have_addresses_in_any_case_and_addresses_have_names() {
        let zone = zone(&["n1.rack1", "N2", "n3.cluster.example"]).unwrap();
        for (text, last) in [("head", 1), ("N1.Rack1", 2), ("n2", 3), ("n3", 4)] {
            let name = name(&format!("{text}.cluster.example."));
            let address = Ipv4Addr::new(10, 0, 0, last);
            assert_eq!(zone.address_of(&name), Some(address), "{text}");
            assert_eq!(zone.name_of(address), Some(&name));
        }
        assert!(zone.is_between(&name("rack1.cluster.example.")));
        assert!(!zone.is_between(zone.apex()) && !zone.is_between(&name("n2.cluster.example.")));
        assert!(zone.contains(&name("x.CLUSTER.example.")) && !zone.contains(&name("xcluster.example.")));
        assert_eq!(zone.hosts().first().unwrap().1, zone.server());
    }

    #[test]
    fn a_machine_has_one_name() {
        let zone = zone(&[]).unwrap();
        let mac = MacAddr::new([2, 0, 0, 0, 0, 0xa5]);
        let of = |label: &str| zone.machine(&name(&format!("{label}.cluster.example.")));
        assert_eq!(zone.name_of_machine(mac), Some(name("mac-02-00-00-00-00-a5.cluster.example.")));
        assert_eq!(of("MAC-02-00-00-00-00-A5"), Some(mac));
        for other in ["mac-0200000000a5", "02-00-00-00-00-a5", "mac-", "mac-02-00-00-00-00-a5.x"] {
            assert_eq!(of(other), None, "{other}");
        }
    }

    #[test]
    fn what_cannot_be_a_host_is_named() {
        let check = |names: &[&str], expected: &str| {
            let error = zone(names).unwrap_err().to_string();
            assert!(error.contains(expected) && error.contains("hint:"), "{error}");
        };
        check(&["a_b"], "a_b cannot be the name of a host in the zone cluster.example.");
        check(&["a..b"], "a..b cannot");
        check(&["a-"], "a- cannot");
        check(&[&"x".repeat(64)], "cannot");
        check(&["n1", "N1"], "10.0.0.2 and 10.0.0.3 both have the name");
        check(&["head"], "10.0.0.1 and 10.0.0.2 both have the name");
        for bad in ["", ".", "a b", "-a", &"x.".repeat(130)] {
            let error = Zone::new(bad, SERVER, 60, []).unwrap_err().to_string();
            assert!(error.contains("is no name of a zone"), "{error}");
        }
    }
}
