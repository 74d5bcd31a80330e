//! `bootserve export`: what other programs want to know of the nodes, in their formats. Everything is in the order of addresses.

mod ethers;
mod genders;
mod hosts;
mod zone;

use std::net::Ipv4Addr;
use std::time::SystemTime;

use hickory_proto::rr::Name;

use crate::config::{Config, DEFAULT_DNS_NAME, DEFAULT_TTL_SECONDS, Node};
use crate::database::{Database, DatabaseError};
use crate::dhcp::leases::Lease;
use crate::dhcp::store::read_leases;
use crate::dns::zone::{Zone, ZoneError};

pub use ethers::{Ether, Ethers};
pub use genders::{Gender, Genders};
pub use hosts::{Host, Hosts};
pub use zone::{ZoneFile, ZoneRecord};

/// What is exported.
#[derive(Debug)]
pub struct Inventory {
    config: Config,
    /// Of machines without a reservation.
    leases: Vec<Lease>,
}

/// Something cannot be written as it would have to be.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// A name cannot be part of a zone.
    #[error(transparent)]
    Zone(#[from] ZoneError),
    /// There is no zone.
    #[error("the zone has no name\nhint: set dns.zone, or network.domain of the network of server.address")]
    NoZone,
    /// There is no such zone.
    #[error("there is no zone {name}, expected one of {}", zones.join(", "))]
    UnknownZone {
        /// Its name.
        name: String,
        /// Those that there are.
        zones: Vec<String>,
    },
    /// The name of a node is not one for a genders file.
    #[error(
        "node {name} has a name with a dot, expected the first part of its host name alone (genders)\nhint: rename it"
    )]
    DottedGender {
        /// Its name.
        name: String,
    },
}

impl Inventory {
    /// The nodes of `config`, and the leases that have not run out at `now`, if that is given.
    pub async fn read(config: Config, leases_at: Option<SystemTime>) -> Result<Self, DatabaseError> {
        let mut leases = Vec::new();
        if let Some(now) = leases_at
            && let Some(database) = Database::open_to_read(&config.server.state).await?
        {
            leases = read_leases(&database).await?;
            leases.retain(|lease| lease.expires > now);
        }
        Ok(Self::new(config, leases))
    }

    /// What is reserved has a name already, and a lease may be of a network that is no more.
    fn new(config: Config, mut leases: Vec<Lease>) -> Self {
        leases.retain(|lease| {
            let is_reserved =
                config.node_at(lease.address).is_some() || lease.address == config.server.address;
            !is_reserved && config.networks.of(lease.address).is_some()
        });
        Self { config, leases }
    }

    fn nodes(&self) -> Vec<&Node> {
        let mut nodes: Vec<_> = self.config.nodes().iter().collect();
        nodes.sort_by_key(|node| node.address);
        nodes
    }

    /// That of `[dns]`; without it, one that is called as the domain of the server's own network.
    fn zone(&self) -> Result<Option<Zone>, ZoneError> {
        if let Some(dns) = &self.config.dns {
            return Ok(Some(dns.zone.clone()));
        }
        let Some(domain) = &self.config.networks.own().domain else { return Ok(None) };
        let nodes = self.config.nodes().iter().map(|node| (&node.name, node.address));
        let server = (DEFAULT_DNS_NAME, self.config.server.address);
        Zone::new(domain, server, DEFAULT_TTL_SECONDS, nodes).map(Some)
    }

    /// The server, the nodes and the machines that have a lease and no reservation.
    fn names(&self, zone: &Zone) -> Vec<(Ipv4Addr, Name)> {
        let hosts = zone.hosts().into_iter().map(|(address, name)| (address, name.clone()));
        let leased = self.leases.iter();
        let leased = leased.filter_map(|lease| Some((lease.address, zone.name_of_machine(lease.mac)?)));
        let mut names: Vec<_> = hosts.chain(leased).collect();
        names.sort_by_key(|(address, _)| *address);
        names
    }
}

/// A name without the dot at its end.
fn without_dot(name: &Name) -> String {
    name.to_ascii().trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn inventory(change: impl Fn(&str) -> String) -> Inventory {
        let config = Config::parse(&change(include_str!("../../bootserve.example.toml"))).unwrap();
        let lease = |last, address| Lease {
            mac: [2, 0, 0, 0, 0, last].map(|octet| format!("{octet:02x}")).join(":").parse().unwrap(),
            address,
            expires: SystemTime::UNIX_EPOCH + Duration::from_secs(1),
        };
        let leases = [
            lease(5, [192, 168, 0, 201].into()),
            lease(6, [192, 168, 0, 9].into()),
            lease(7, [10, 0, 0, 1].into()),
            lease(8, [192, 168, 0, 100].into()),
        ];
        Inventory::new(config, leases.to_vec())
    }

    #[test]
    fn hosts_have_whole_and_short_names_in_the_order_of_addresses() {
        let with_dns =
            inventory(|text| text.replace("[boot]", "[dns]\nzone = 'c.example'\nname = 'head'\n[boot]"));
        let expected = "192.168.0.1\thead.c.example head\n\
                        192.168.0.9\tmac-02-00-00-00-00-06.c.example mac-02-00-00-00-00-06\n\
                        192.168.0.100\tnode-000.c.example node-000\n\
                        192.168.0.101\tnode-001.c.example node-001\n\
                        192.168.0.201\tmac-02-00-00-00-00-05.c.example mac-02-00-00-00-00-05\n";
        assert_eq!(Hosts::of(&with_dns).unwrap().to_string(), expected);
        let without = Hosts::of(&inventory(|text| text.replace("domain = \"cluster\"", ""))).unwrap();
        assert!(without.to_string().contains("\n192.168.0.100\tnode-000\n"), "{without}");
        assert_eq!(without.to_string().lines().count(), 5);
    }

    #[test]
    fn ethers_and_genders_list_the_nodes() {
        let inventory = inventory(|text| text.replace("# mode =", "mode ="));
        let ethers = "fc:ab:14:e8:66:01 node-000\nfc:ab:14:e8:66:02 node-001\n";
        assert_eq!(Ethers::of(&inventory).to_string(), ethers);
        let genders = "node-000 all,image=failsafe\nnode-001 all,image=debian-12-compute,mode=fetched\n";
        assert_eq!(Genders::of(&inventory).unwrap().to_string(), genders);
    }

    #[test]
    fn a_dotted_name_is_no_gender() {
        let inventory = inventory(|text| text.replace("node-001", "n1.rack1"));
        let error = Genders::of(&inventory).unwrap_err().to_string();
        assert!(error.contains("node n1.rack1 has a name with a dot"), "{error}");
    }

    #[test]
    fn zones_are_those_of_the_addresses_that_have_names() {
        let inventory = inventory(str::to_owned);
        let names = ZoneFile::names(&inventory).unwrap();
        assert_eq!(names, ["cluster", "0.168.192.in-addr.arpa"]);
        let file = |name| ZoneFile::of(&inventory, name, 7).unwrap().to_string();
        let forward = file(None);
        let expected = "cluster. 60 IN SOA bootserve.cluster. hostmaster.cluster. 7 3600 600 86400 60\n\
                        cluster. 60 IN NS bootserve.cluster.\n\
                        bootserve.cluster. 60 IN A 192.168.0.1\n";
        assert!(forward.starts_with(expected), "{forward}");
        let reverse = file(Some("0.168.192.in-addr.arpa."));
        assert!(reverse.contains("\n100.0.168.192.in-addr.arpa. 60 IN PTR node-000.cluster.\n"), "{reverse}");
        let error = ZoneFile::of(&inventory, Some("x"), 1).unwrap_err().to_string();
        assert!(error.contains("cluster, 0.168.192.in-addr.arpa"), "{error}");
    }

    #[test]
    fn a_zone_needs_a_name() {
        let inventory = inventory(|text| text.replace("domain = \"cluster\"", ""));
        assert!(matches!(ZoneFile::names(&inventory), Err(ExportError::NoZone)));
    }
}
