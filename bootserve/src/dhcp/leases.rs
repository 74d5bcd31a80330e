//! Which machine has which address. Reservations come from the configuration and never change; the rest of the ranges
//! is given out here, one address to a MAC. A machine gets an address of the link that it is on, which is a list of the
//! networks on one wire.
//!
//! The table lives in memory and only decides; the server tells its driver what has to be stored.

use std::collections::{HashMap, HashSet};
use std::net::Ipv4Addr;
use std::time::SystemTime;

use bootspec::MacAddr;

use crate::config::{AddressRange, Config, Network};

/// An address that a machine may use for a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// The machine.
    pub mac: MacAddr,
    /// Its address.
    pub address: Ipv4Addr,
    /// Until when. Wall-clock time, because leases outlive the server process.
    pub expires: SystemTime,
}

/// All leases and reservations.
#[derive(Debug)]
pub struct LeaseTable {
    reservations: HashMap<MacAddr, Ipv4Addr>,
    /// Addresses in ranges that are not to be given out: ours, the router's, the reserved ones.
    excluded: HashSet<Ipv4Addr>,
    leases: HashMap<Ipv4Addr, Lease>,
    by_mac: HashMap<MacAddr, Ipv4Addr>,
    quarantine: HashMap<Ipv4Addr, SystemTime>,
}

impl LeaseTable {
    /// A table for `config` that continues with `stored` leases. Those that the configuration no longer allows are
    /// forgotten, so that their holders are sent to their new address when they ask next.
    pub fn new(config: &Config, stored: impl IntoIterator<Item = Lease>) -> Self {
        let reservations: HashMap<_, _> = config.nodes().iter().map(|n| (n.mac, n.address)).collect();
        let mut excluded: HashSet<_> = reservations.values().copied().collect();
        excluded.insert(config.server.address);
        excluded.extend(config.networks.iter().filter_map(|network| network.router));
        let mut table = Self {
            reservations,
            excluded,
            leases: HashMap::new(),
            by_mac: HashMap::new(),
            quarantine: HashMap::new(),
        };
        for lease in stored {
            let link = config.networks.on_link_of(lease.address).unwrap_or_default();
            if table.reservation(lease.mac, link).is_none() && table.is_dynamic(lease.address, link) {
                table.insert(lease);
            }
        }
        table
    }

    /// The address to offer to `mac` on `link`: its reservation there; else the one it has or had; else the one it asks for,
    /// a fresh one, or the one that has been expired longest. `None`: the ranges are exhausted.
    pub fn choose(
        &self,
        mac: MacAddr,
        link: &[Network],
        requested: Option<Ipv4Addr>,
        now: SystemTime,
    ) -> Option<Ipv4Addr> {
        if let Some(reserved) = self.reservation(mac, link) {
            return Some(reserved);
        }
        let usable = |address: &Ipv4Addr| self.may_use(mac, link, *address, now);
        let familiar = self.by_mac.get(&mac).copied().filter(usable);
        familiar
            .or(requested.filter(usable))
            .or_else(|| self.fresh(link, now))
            .or_else(|| self.longest_expired(link, now))
    }

    /// The address that is reserved for `mac`, if it is one of `link`.
    pub fn reservation(&self, mac: MacAddr, link: &[Network]) -> Option<Ipv4Addr> {
        let reserved = self.reservations.get(&mac).copied();
        reserved.filter(|address| link.iter().any(|network| network.subnet.contains(address)))
    }

    fn fresh(&self, link: &[Network], now: SystemTime) -> Option<Ipv4Addr> {
        let mut addresses = link.iter().filter_map(|network| network.range).flat_map(AddressRange::addresses);
        addresses.find(|address| {
            !self.excluded.contains(address)
                && !self.leases.contains_key(address)
                && !self.is_quarantined(*address, now)
        })
    }

    fn longest_expired(&self, link: &[Network], now: SystemTime) -> Option<Ipv4Addr> {
        let expired = self.leases.values().filter(|lease| lease.expires <= now);
        let usable = expired
            .filter(|lease| self.is_dynamic(lease.address, link) && !self.is_quarantined(lease.address, now));
        usable.min_by_key(|lease| (lease.expires, lease.address)).map(|lease| lease.address)
    }

    /// Whether `mac` may have `address` on `link`: it is reserved for it, or in a range and no one else's.
    pub fn may_use(&self, mac: MacAddr, link: &[Network], address: Ipv4Addr, now: SystemTime) -> bool {
        if let Some(reserved) = self.reservation(mac, link) {
            return reserved == address;
        }
        let taken = self.leases.get(&address).is_some_and(|lease| lease.mac != mac && lease.expires > now);
        self.is_dynamic(address, link) && !taken && !self.is_quarantined(address, now)
    }

    /// Keeps `address` for `mac` until `expires`. The caller has made sure that it [may use](Self::may_use) it.
    /// A shorter time than it has already is no reason to take the rest away.
    pub fn hold(&mut self, mac: MacAddr, address: Ipv4Addr, expires: SystemTime) {
        if self.reservations.get(&mac) == Some(&address) {
            return;
        }
        let held = self.leases.get(&address).filter(|lease| lease.mac == mac).map(|lease| lease.expires);
        self.insert(Lease { mac, address, expires: held.map_or(expires, |held| held.max(expires)) });
    }

    /// Ends the lease of `mac` on `address` early and returns it, if there was one. The address stays associated with
    /// the machine until someone else needs it.
    pub fn release(&mut self, mac: MacAddr, address: Ipv4Addr, now: SystemTime) -> Option<Lease> {
        let lease = self.leases.get_mut(&address).filter(|lease| lease.mac == mac)?;
        lease.expires = now;
        Some(*lease)
    }

    /// Takes `address` out of the range until `until`: its holder `mac` found another machine using it. Returns
    /// whether that is possible: a reservation is the admin's word.
    pub fn quarantine(&mut self, mac: MacAddr, address: Ipv4Addr, until: SystemTime) -> bool {
        if self.by_mac.get(&mac) != Some(&address) {
            return false;
        }
        self.by_mac.remove(&mac);
        self.leases.remove(&address);
        self.quarantine.insert(address, until);
        true
    }

    fn insert(&mut self, lease: Lease) {
        if let Some(previous) = self.by_mac.insert(lease.mac, lease.address)
            && previous != lease.address
        {
            self.leases.remove(&previous);
        }
        if let Some(previous) = self.leases.insert(lease.address, lease)
            && previous.mac != lease.mac
        {
            self.by_mac.remove(&previous.mac);
        }
    }

    fn is_dynamic(&self, address: Ipv4Addr, link: &[Network]) -> bool {
        let in_range = link.iter().filter_map(|network| network.range).any(|range| range.contains(address));
        in_range && !self.excluded.contains(&address)
    }

    fn is_quarantined(&self, address: Ipv4Addr, now: SystemTime) -> bool {
        self.quarantine.get(&address).is_some_and(|until| *until > now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const NODE_000: MacAddr = MacAddr::new([0xfc, 0xab, 0x14, 0xe8, 0x66, 0x01]);
    const A: MacAddr = MacAddr::new([2, 0, 0, 0, 0, 1]);
    const B: MacAddr = MacAddr::new([2, 0, 0, 0, 0, 2]);
    const C: MacAddr = MacAddr::new([2, 0, 0, 0, 0, 3]);
    const T0: SystemTime = SystemTime::UNIX_EPOCH;

    fn after(seconds: u64) -> SystemTime {
        T0 + Duration::from_secs(seconds)
    }

    fn host(last: u8) -> Ipv4Addr {
        Ipv4Addr::new(192, 168, 0, last)
    }

    /// The classic network with two dynamic addresses: .200 and .201.
    fn config() -> Config {
        let text = include_str!("../../bootserve.example.toml")
            .replace("0.200-192.168.0.250", "0.200-192.168.0.201");
        Config::parse(&text).unwrap()
    }

    /// The one network, which is a link of its own.
    fn link() -> Vec<Network> {
        config().networks.iter().cloned().collect()
    }

    fn table() -> LeaseTable {
        LeaseTable::new(&config(), [])
    }

    #[test]
    fn a_reservation_is_all_that_its_node_gets() {
        let table = table();
        assert_eq!(table.choose(NODE_000, &link(), Some(host(200)), T0), Some(host(100)));
        assert!(table.may_use(NODE_000, &link(), host(100), T0));
        assert!(!table.may_use(NODE_000, &link(), host(200), T0));
        assert!(!table.may_use(A, &link(), host(100), T0));
    }

    #[test]
    fn a_machine_keeps_its_address_even_after_the_lease_ran_out() {
        let mut table = table();
        table.hold(A, host(201), after(10));
        assert_eq!(table.choose(A, &link(), Some(host(200)), after(100)), Some(host(201)));
        assert_eq!(table.choose(B, &link(), Some(host(201)), after(5)), Some(host(200)));
    }

    #[test]
    fn an_exhausted_range_reuses_the_longest_expired_lease() {
        let mut table = table();
        table.hold(A, host(200), after(20));
        table.hold(B, host(201), after(10));
        assert_eq!(table.choose(C, &link(), None, after(5)), None);
        assert_eq!(table.choose(C, &link(), None, after(30)), Some(host(201)));
        table.hold(C, host(201), after(100));
        assert_eq!(table.choose(B, &link(), None, after(30)), Some(host(200)));
    }

    #[test]
    fn a_released_address_is_free_for_others() {
        let mut table = table();
        table.hold(A, host(200), after(1000));
        assert!(!table.may_use(B, &link(), host(200), after(1)));
        assert_eq!(table.release(B, host(200), after(1)), None);
        assert_eq!(table.release(A, host(200), after(1)).unwrap().expires, after(1));
        assert!(table.may_use(B, &link(), host(200), after(1)));
    }

    #[test]
    fn a_declined_address_is_quarantined_for_a_time() {
        let mut table = table();
        table.hold(A, host(200), after(1000));
        assert!(!table.quarantine(B, host(200), after(600)));
        assert!(table.quarantine(A, host(200), after(600)));
        assert_eq!(table.choose(A, &link(), Some(host(200)), after(1)), Some(host(201)));
        assert!(table.may_use(B, &link(), host(200), after(600)));
    }

    #[test]
    fn an_offer_does_not_shorten_a_lease() {
        let mut table = table();
        table.hold(A, host(200), after(1000));
        table.hold(A, host(200), after(60));
        assert!(!table.may_use(B, &link(), host(200), after(500)));
    }

    #[test]
    fn stored_leases_continue_unless_the_configuration_took_the_address_away() {
        let lease = |mac, last| Lease { mac, address: host(last), expires: after(1000) };
        let table = LeaseTable::new(&config(), [lease(A, 201), lease(B, 77), lease(NODE_000, 200)]);
        assert_eq!(table.choose(A, &link(), None, T0), Some(host(201)));
        assert_eq!(table.choose(B, &link(), None, T0), Some(host(200)));
    }

    #[test]
    fn on_another_link_a_machine_gets_an_address_of_that_and_its_reservation_waits() {
        let text = include_str!("../../bootserve.example.toml").replace("[network]", "[[network]]").replace(
            "[boot]\n",
            "[[network]]\nsubnet = '10.1.0.0/24'\nrange = '10.1.0.5-10.1.0.5'\nlink = 'b'\n\
             [[network]]\nsubnet = '10.2.0.0/24'\nrange = '10.2.0.5-10.2.0.5'\nlink = 'b'\n\n[boot]\n",
        );
        let config = Config::parse(&text).unwrap();
        let mut table = LeaseTable::new(&config, []);
        let link = |address: [u8; 4]| config.networks.on_link_of(address.into()).unwrap();
        let (own, other) = (link([192, 168, 0, 1]), link([10, 2, 0, 1]));
        assert_eq!(table.choose(NODE_000, own, None, T0), Some(host(100)));
        let first = table.choose(NODE_000, other, Some(host(100)), T0).unwrap();
        assert_eq!(first, Ipv4Addr::new(10, 1, 0, 5));
        table.hold(NODE_000, first, after(100));
        // The second network of the link has the next one, and there is no third.
        let second = table.choose(A, other, None, T0).unwrap();
        assert_eq!(second, Ipv4Addr::new(10, 2, 0, 5));
        table.hold(A, second, after(100));
        assert_eq!(table.choose(B, other, None, T0), None);
        assert!(!table.may_use(A, own, second, T0) && table.may_use(A, other, second, T0));
        assert_eq!(table.choose(NODE_000, own, None, T0), Some(host(100)));

        let stored = [Lease { mac: NODE_000, address: first, expires: after(100) }];
        let again = LeaseTable::new(&config, stored);
        assert_eq!(again.choose(NODE_000, other, None, T0), Some(first));
        assert_eq!(again.choose(A, other, None, T0), Some(second));
    }
}
