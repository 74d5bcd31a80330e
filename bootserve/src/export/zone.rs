//! Zone files (RFC 1035 section 5) for other name servers: that of the names, and those of the addresses.

use std::collections::BTreeSet;
use std::fmt;
use std::net::Ipv4Addr;

use hickory_proto::rr::{Name, Record};
use ipnet::Ipv4Net;
use serde::Serialize;

use super::{ExportError, Inventory, without_dot};
use crate::dns::reverse;
use crate::dns::zone::Zone;

/// A zone.
#[derive(Clone, Debug, Serialize)]
pub struct ZoneFile {
    /// Its name, without the dot at its end.
    pub zone: String,
    /// The records, SOA and NS first.
    pub records: Vec<ZoneRecord>,
}

/// A record.
#[derive(Clone, Debug, Serialize)]
pub struct ZoneRecord {
    /// Whose; a whole name.
    pub name: String,
    /// How long it may be kept.
    pub ttl_seconds: u32,
    /// `SOA`, `NS`, `A`, `PTR`.
    #[serde(rename = "type")]
    pub kind: String,
    /// What it says, as in a zone file.
    pub data: String,
}

impl ZoneFile {
    /// The names of all zones, that of the names first.
    pub fn names(inventory: &Inventory) -> Result<Vec<String>, ExportError> {
        let zone = inventory.zone()?.ok_or(ExportError::NoZone)?;
        let reverse = reverse_zones(inventory, &inventory.names(&zone));
        let reverse = reverse.into_iter().map(|zone| without_dot(&reverse::apex(zone)));
        Ok([without_dot(zone.apex())].into_iter().chain(reverse).collect())
    }

    /// The zone `name`; that of the names if none is named. Servers that copy zones know by a greater `serial` that it is new.
    pub fn of(inventory: &Inventory, name: Option<&str>, serial: u32) -> Result<Self, ExportError> {
        let zone = inventory.zone()?.ok_or(ExportError::NoZone)?;
        let names = inventory.names(&zone);
        let name = name.map(|name| name.trim_end_matches('.'));
        let own = without_dot(zone.apex());
        if name.is_none_or(|name| name.eq_ignore_ascii_case(&own)) {
            let addresses = names.iter().map(|(address, name)| zone.a(name, *address));
            return Ok(Self::new(&zone, zone.apex(), serial, addresses));
        }
        let is_meant = |reverse: &Ipv4Net| {
            name.is_some_and(|name| name.eq_ignore_ascii_case(&without_dot(&reverse::apex(*reverse))))
        };
        match reverse_zones(inventory, &names).into_iter().find(is_meant) {
            Some(reverse) => {
                let inside = names.iter().filter(|(address, _)| reverse.contains(address));
                let pointers = inside.map(|(address, name)| zone.ptr(&Name::from(*address), name));
                Ok(Self::new(&zone, &reverse::apex(reverse), serial, pointers))
            }
            None => Err(ExportError::UnknownZone {
                name: name.unwrap_or_default().to_owned(),
                zones: Self::names(inventory)?,
            }),
        }
    }

    fn new(zone: &Zone, apex: &Name, serial: u32, records: impl Iterator<Item = Record>) -> Self {
        let first = [zone.soa(apex, serial), zone.ns(apex)];
        let records = first.into_iter().chain(records).map(|record| ZoneRecord {
            name: record.name.to_ascii(),
            ttl_seconds: record.ttl,
            kind: record.record_type().to_string(),
            data: record.data.to_string(),
        });
        Self { zone: without_dot(apex), records: records.collect() }
    }
}

/// The reverse zones that hold one of these addresses, in order.
fn reverse_zones(inventory: &Inventory, names: &[(Ipv4Addr, Name)]) -> BTreeSet<Ipv4Net> {
    let zone = |address| {
        let network = inventory.config.networks.of(address)?;
        Some(reverse::zone_of(network.subnet, address))
    };
    names.iter().filter_map(|(address, _)| zone(*address)).collect()
}

impl fmt::Display for ZoneFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.records.iter().try_for_each(|ZoneRecord { name, ttl_seconds, kind, data }| {
            writeln!(f, "{name} {ttl_seconds} IN {kind} {data}")
        })
    }
}
