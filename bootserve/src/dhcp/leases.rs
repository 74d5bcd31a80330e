//! Which machine has which address of the ranges. Reserved ones come from the configuration and are left out; the rest
//! is given out here, one address to a MAC. A machine gets an address of the link that it is on, which is a list of the
//! networks on one wire.
//!
//! The table lives in memory and only decides; the server tells its driver what has to be stored. Whatever is asked of it costs
//! the logarithm of its size, so that thousands of machines can come at once.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::Ipv4Addr;
use std::time::{Duration, SystemTime};

use bootspec::MacAddr;
use rangemap::RangeInclusiveSet;

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

/// All leases.
#[derive(Debug)]
pub struct LeaseTable {
    /// Addresses in ranges that are not to be given out: ours, the router's, the reserved ones.
    excluded: HashSet<Ipv4Addr>,
    used: HashMap<Ipv4Addr, Use>,
    by_mac: HashMap<MacAddr, Ipv4Addr>,
    /// By the first address of each.
    ranges: BTreeMap<Ipv4Addr, Range>,
}

/// What an address is used for.
#[derive(Clone, Copy, Debug)]
struct Use {
    /// Who has it, or had it last. None: a machine that is not ours.
    holder: Option<MacAddr>,
    until: SystemTime,
}

/// The addresses of one network that may be given out, each in one of the two sets.
#[derive(Debug)]
struct Range {
    /// Those that are not used, as bits.
    fresh: RangeInclusiveSet<u32>,
    /// Those that are, by the end of their use.
    used: BTreeSet<(SystemTime, Ipv4Addr)>,
}

impl Range {
    fn new<'a>(range: AddressRange, excluded: impl IntoIterator<Item = &'a Ipv4Addr>) -> Self {
        let mut fresh = RangeInclusiveSet::new();
        fresh.insert(range.first().to_bits()..=range.last().to_bits());
        for address in excluded {
            fresh.remove(address.to_bits()..=address.to_bits());
        }
        Self { fresh, used: BTreeSet::new() }
    }

    fn first_fresh(&self) -> Option<Ipv4Addr> {
        self.fresh.first().map(|addresses| Ipv4Addr::from_bits(*addresses.start()))
    }
}

impl LeaseTable {
    /// A table for `config` that continues with `stored` leases. Those that the configuration no longer allows are
    /// forgotten, so that their holders are sent to their new address when they ask next.
    pub fn new(config: &Config, stored: impl IntoIterator<Item = Lease>) -> Self {
        let mut excluded: HashSet<_> = config.nodes().iter().map(|node| node.address).collect();
        excluded.insert(config.server.address);
        excluded.extend(config.networks.iter().filter_map(|network| network.router));
        let ranges = config.networks.iter().filter_map(|network| network.range);
        let ranges = ranges.map(|range| (range.first(), Range::new(range, &excluded))).collect();
        let mut table = Self { excluded, used: HashMap::new(), by_mac: HashMap::new(), ranges };
        for lease in stored {
            let link = config.networks.on_link_of(lease.address).unwrap_or_default();
            let is_reserved = |network: &Network| {
                config.node(lease.mac).is_some_and(|node| network.subnet.contains(&node.address))
            };
            if !link.iter().any(is_reserved) && table.is_dynamic(lease.address, link) {
                table.insert(lease);
            }
        }
        table
    }

    /// This table for another configuration.
    pub fn with_config(&self, config: &Config) -> Self {
        let uses = || self.used.iter().map(|(address, used)| (*address, *used));
        let lease = |(address, Use { holder, until }): (_, Use)| {
            holder.map(|mac| Lease { mac, address, expires: until })
        };
        let mut table = Self::new(config, uses().filter_map(lease));
        for (address, used) in uses().filter(|(_, used)| used.holder.is_none()) {
            if table.is_dynamic(address, config.networks.on_link_of(address).unwrap_or_default()) {
                table.set(address, used);
            }
        }
        table
    }

    /// The address to offer to `mac`, for which none of `link` is reserved: the one it has or had; else the one it asks for,
    /// a fresh one, or the one that has been free longest. `None`: the ranges are exhausted.
    pub fn choose(
        &self,
        mac: MacAddr,
        link: &[Network],
        requested: Option<Ipv4Addr>,
        now: SystemTime,
    ) -> Option<Ipv4Addr> {
        let usable = |address: &Ipv4Addr| self.may_use(mac, link, *address, now);
        let familiar = self.by_mac.get(&mac).copied().filter(usable);
        familiar
            .or(requested.filter(usable))
            .or_else(|| self.ranges_of(link).find_map(Range::first_fresh))
            .or_else(|| self.longest_free(link, now))
    }

    fn longest_free(&self, link: &[Network], now: SystemTime) -> Option<Ipv4Addr> {
        let (free_since, address) = self.ranges_of(link).filter_map(|range| range.used.first()).min()?;
        (*free_since <= now).then_some(*address)
    }

    /// Whether `mac` has `address`, or had it last.
    pub fn has(&self, mac: MacAddr, address: Ipv4Addr) -> bool {
        self.by_mac.get(&mac) == Some(&address)
    }

    /// Whether `mac`, for which none of `link` is reserved, may have `address`: it is in a range and no one else's.
    pub fn may_use(&self, mac: MacAddr, link: &[Network], address: Ipv4Addr, now: SystemTime) -> bool {
        let is_taken = |used: &Use| used.holder != Some(mac) && used.until > now;
        self.is_dynamic(address, link) && !self.used.get(&address).is_some_and(is_taken)
    }

    /// Keeps `address` for `mac` until `expires`, unless it is reserved and so kept for good. The caller has made sure that
    /// the machine [may use](Self::may_use) it.
    /// A shorter time than it has already is no reason to take the rest away.
    pub fn hold(&mut self, mac: MacAddr, address: Ipv4Addr, expires: SystemTime) {
        if self.excluded.contains(&address) {
            return;
        }
        let held = self.used.get(&address).filter(|used| used.holder == Some(mac)).map(|used| used.until);
        self.insert(Lease { mac, address, expires: held.map_or(expires, |held| held.max(expires)) });
    }

    /// Ends the lease of `mac` on `address` early and returns it, if there was one. The address stays associated with
    /// the machine until someone else needs it.
    pub fn release(&mut self, mac: MacAddr, address: Ipv4Addr, now: SystemTime) -> Option<Lease> {
        if !self.has(mac, address) {
            return None;
        }
        self.set(address, Use { holder: Some(mac), until: now });
        Some(Lease { mac, address, expires: now })
    }

    /// Takes `address` out of the range until `until`: its holder `mac` found another machine using it. Returns
    /// whether that is possible: a reservation is the admin's word. After `until` it is as any that someone had.
    pub fn quarantine(&mut self, mac: MacAddr, address: Ipv4Addr, until: SystemTime) -> bool {
        if !self.has(mac, address) {
            return false;
        }
        self.by_mac.remove(&mac);
        self.set(address, Use { holder: None, until });
        true
    }

    /// The clock was set from `before` to `now`. Whatever was to last goes on as long as before, leases no longer than
    /// `longest` says of their address: the clock was wrong either before or now, and a stored time may be of either. Returns
    /// all leases, which have to be stored again.
    pub fn set_clock(
        &mut self,
        before: SystemTime,
        now: SystemTime,
        longest: impl Fn(Ipv4Addr) -> Duration,
    ) -> Vec<Lease> {
        let uses: Vec<_> = self.used.iter().map(|(address, used)| (*address, *used)).collect();
        let mut leases = Vec::new();
        for (address, Use { holder, until }) in uses {
            let until = match until.duration_since(before) {
                Ok(left) if holder.is_some() => now + left.min(longest(address)),
                Ok(left) => now + left,
                Err(ago) => now.checked_sub(ago.duration()).unwrap_or(SystemTime::UNIX_EPOCH),
            };
            self.set(address, Use { holder, until });
            leases.extend(holder.map(|mac| Lease { mac, address, expires: until }));
        }
        leases
    }

    fn insert(&mut self, lease: Lease) {
        let Lease { mac, address, expires } = lease;
        if let Some(previous) = self.by_mac.insert(mac, address)
            && previous != address
        {
            self.forget(previous);
        }
        let replaced = self.set(address, Use { holder: Some(mac), until: expires });
        if let Some(holder) = replaced.and_then(|used| used.holder).filter(|holder| *holder != mac) {
            self.by_mac.remove(&holder);
        }
    }

    /// Notes how `address` is used from now on, and returns how it was.
    fn set(&mut self, address: Ipv4Addr, used: Use) -> Option<Use> {
        let replaced = self.used.insert(address, used);
        if let Some(range) = self.range_of(address) {
            match replaced {
                Some(before) => drop(range.used.remove(&(before.until, address))),
                None => range.fresh.remove(address.to_bits()..=address.to_bits()),
            }
            range.used.insert((used.until, address));
        }
        replaced
    }

    /// Makes `address` as if nobody had ever had it.
    fn forget(&mut self, address: Ipv4Addr) {
        let used = self.used.remove(&address);
        if let Some((range, used)) = self.range_of(address).zip(used) {
            range.used.remove(&(used.until, address));
            range.fresh.insert(address.to_bits()..=address.to_bits());
        }
    }

    /// The range that `address` is of; only such addresses are ever used.
    fn range_of(&mut self, address: Ipv4Addr) -> Option<&mut Range> {
        self.ranges.range_mut(..=address).next_back().map(|(_, range)| range)
    }

    fn ranges_of<'a>(&'a self, link: &'a [Network]) -> impl Iterator<Item = &'a Range> {
        link.iter().filter_map(|network| self.ranges.get(&network.range?.first()))
    }

    fn is_dynamic(&self, address: Ipv4Addr, link: &[Network]) -> bool {
        let in_range = link.iter().filter_map(|network| network.range).any(|range| range.contains(address));
        in_range && !self.excluded.contains(&address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

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
    fn range(range: &str) -> Config {
        let text = include_str!("../../bootserve.example.toml");
        Config::parse(&text.replace("192.168.0.200-192.168.0.250", range)).unwrap()
    }

    fn link() -> Vec<Network> {
        config().networks.iter().cloned().collect()
    }

    fn table() -> LeaseTable {
        LeaseTable::new(&config(), [])
    }

    #[test]
    fn a_reserved_address_is_none_of_the_range() {
        let mut table = table();
        assert!(!table.may_use(A, &link(), host(100), T0));
        table.hold(NODE_000, host(100), after(10));
        assert_eq!(table.release(NODE_000, host(100), T0), None);
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
    fn when_the_clock_is_set_leases_last_as_long_as_they_were_to() {
        let day = 86_400;
        for now in [after(10 * day), after(12 * day), after(8 * day)] {
            let mut table = table();
            table.hold(A, host(200), after(10 * day + 1000));
            table.hold(B, host(201), after(10 * day - 5));
            let mut leases = table.set_clock(after(10 * day), now, |_| Duration::from_secs(3600));
            leases.sort_by_key(|lease| lease.mac);
            let of = |mac, last, expires| Lease { mac, address: host(last), expires };
            let second = Duration::from_secs(1);
            assert_eq!(leases, [of(A, 200, now + 1000 * second), of(B, 201, now - 5 * second)]);
            assert!(!table.may_use(C, &link(), host(200), now + 999 * second));
            assert!(table.may_use(C, &link(), host(200), now + 1000 * second));
            assert_eq!(table.choose(C, &link(), None, now), Some(host(201)));
        }
    }

    #[test]
    fn a_lease_of_another_clock_lasts_no_longer_than_any() {
        let mut table =
            LeaseTable::new(&config(), [Lease { mac: A, address: host(200), expires: after(1 << 30) }]);
        let leases = table.set_clock(after(7), after(7), |_| Duration::from_secs(3600));
        assert_eq!(leases[0].expires, after(3607));
        assert!(table.may_use(B, &link(), host(200), after(3607)));
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
    fn with_another_configuration_leases_offers_and_quarantines_go_on_where_it_allows_them() {
        let (wide, narrow) = (range("192.168.0.200-192.168.0.210"), range("192.168.0.203-192.168.0.206"));
        let [wide_link, narrow_link] =
            [&wide, &narrow].map(|config| config.networks.iter().cloned().collect::<Vec<_>>());
        let mut table = LeaseTable::new(&wide, []);
        table.hold(A, host(200), after(1000));
        table.hold(B, host(205), after(1000));
        table.hold(C, host(206), after(1000));
        assert!(table.quarantine(C, host(206), after(1000)));
        let table = table.with_config(&narrow);
        assert_eq!(table.choose(B, &narrow_link, None, after(1)), Some(host(205)));
        assert_eq!(table.choose(A, &narrow_link, Some(host(200)), after(1)), Some(host(203)));
        assert!(!table.may_use(A, &narrow_link, host(206), after(1)));
        assert!(table.may_use(A, &narrow_link, host(206), after(1000)));
        // And back again: what the range lost in between is nobody's.
        let table = table.with_config(&wide);
        assert!(table.may_use(C, &wide_link, host(200), after(1)));
    }

    #[test]
    fn on_another_link_a_node_gets_an_address_of_that() {
        let text = include_str!("../../bootserve.example.toml").replace("[network]", "[[network]]").replace(
            "[boot]\n",
            "[[network]]\nsubnet = '10.1.0.0/24'\nrange = '10.1.0.5-10.1.0.5'\nlink = 'b'\n\
             [[network]]\nsubnet = '10.2.0.0/24'\nrange = '10.2.0.5-10.2.0.5'\nlink = 'b'\n\n[boot]\n",
        );
        let config = Config::parse(&text).unwrap();
        let mut table = LeaseTable::new(&config, []);
        let link = |address: [u8; 4]| config.networks.on_link_of(address.into()).unwrap();
        let (own, other) = (link([192, 168, 0, 1]), link([10, 2, 0, 1]));
        let first = table.choose(NODE_000, other, Some(host(100)), T0).unwrap();
        assert_eq!(first, Ipv4Addr::new(10, 1, 0, 5));
        table.hold(NODE_000, first, after(100));
        // The second network of the link has the next one, and there is no third.
        let second = table.choose(A, other, None, T0).unwrap();
        assert_eq!(second, Ipv4Addr::new(10, 2, 0, 5));
        table.hold(A, second, after(100));
        assert_eq!(table.choose(B, other, None, T0), None);
        assert!(!table.may_use(A, own, second, T0) && table.may_use(A, other, second, T0));

        let stored = [Lease { mac: NODE_000, address: first, expires: after(100) }];
        let again = LeaseTable::new(&config, stored);
        assert_eq!(again.choose(NODE_000, other, None, T0), Some(first));
        assert_eq!(again.choose(A, other, None, T0), Some(second));
    }

    /// What [`LeaseTable::choose`] says of machines without a reservation, looked for address by address.
    fn choose_naively(
        table: &LeaseTable,
        mac: MacAddr,
        link: &[Network],
        requested: Option<Ipv4Addr>,
        now: SystemTime,
    ) -> Option<Ipv4Addr> {
        let ranges = link.iter().filter_map(|network| network.range);
        let all: Vec<Ipv4Addr> = ranges
            .flat_map(|range| (range.first().to_bits()..=range.last().to_bits()).map(Ipv4Addr::from_bits))
            .filter(|address| !table.excluded.contains(address))
            .collect();
        let is_free = |address: &Ipv4Addr| {
            let taken = |used: &Use| used.until > now && used.holder != Some(mac);
            all.contains(address) && !table.used.get(address).is_some_and(taken)
        };
        let had =
            all.iter().copied().find(|a| table.used.get(a).is_some_and(|used| used.holder == Some(mac)));
        let fresh = all.iter().copied().find(|address| !table.used.contains_key(address));
        let used = all.iter().copied().filter(|address| table.used.contains_key(address) && is_free(address));
        let oldest = used.min_by_key(|address| (table.used[address].until, *address));
        had.filter(is_free).or(requested.filter(is_free)).or(fresh).or(oldest)
    }

    /// Two networks of three addresses each, one of them the router's.
    const SMALL: &str = "[server]\ninterface = 'br0'\naddress = '10.0.0.1'\nstore = '/s'\nstate = '/t'\n\
        [[network]]\nsubnet = '10.0.0.0/24'\nrange = '10.0.0.5-10.0.0.7'\nlink = 'a'\nrouter = '10.0.0.6'\n\
        [[network]]\nsubnet = '10.0.1.0/24'\nrange = '10.0.1.5-10.0.1.7'\n";

    proptest! {
        #[test]
        fn addresses_are_chosen_as_if_all_of_them_were_looked_at(
            steps in prop::collection::vec((0..4_u8, 0..6_u8, 0..2_u8, prop::option::of(4..9_u8), 0..50_u64), 1..80)
        ) {
            let config = Config::parse(SMALL).unwrap();
            let mut table = LeaseTable::new(&config, []);
            let mut now = T0;
            for (step, machine, network, requested, seconds) in steps {
                now += Duration::from_secs(seconds);
                let mac = MacAddr::new([2, 0, 0, 0, 0, machine]);
                let link = config.networks.on_link_of([10, 0, network, 1].into()).unwrap();
                let requested = requested.map(|last| Ipv4Addr::new(10, 0, network, last));
                let chosen = table.choose(mac, link, requested, now);
                prop_assert_eq!(chosen, choose_naively(&table, mac, link, requested, now));
                let Some(address) = chosen else { continue };
                prop_assert!(table.may_use(mac, link, address, now));
                match step {
                    0 | 1 => table.hold(mac, address, now + Duration::from_secs(100)),
                    2 => drop(table.release(mac, address, now)),
                    _ => drop(table.quarantine(mac, address, now + Duration::from_secs(60))),
                }
            }
        }
    }
}
