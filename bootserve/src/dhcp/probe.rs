//! Which addresses are looked at before they are offered: those that no machine of ours has had, in case one of another admin
//! has. Whoever asks for such an address waits for the result, and nobody else does.

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::Ipv4Addr;
use std::time::{Duration, SystemTime};

use super::request::Request;

/// How long an address that did not answer counts as free.
const MEMORY: Duration = Duration::from_secs(60);
/// How long the kernel asks for the hardware address of a host that is not there: three times, a second apart
/// (arp(7): mcast_solicit, retrans_time_ms), and a little more.
const ARP_TIME: Duration = Duration::from_secs(4);
/// Probes that may begin in that time. Each takes one of the kernel's 1024 places for neighbours (gc_thresh3), and nodes that
/// boot need theirs: while there is none, their own ARP requests are not answered.
const MAX_PROBES: usize = 256;

/// The probes under way, and those of the last minute.
#[derive(Debug, Default)]
pub(super) struct Probes {
    /// The DISCOVER that waits for each.
    waiting: HashMap<Ipv4Addr, Request>,
    /// When each began, in order.
    begun: VecDeque<(SystemTime, Ipv4Addr)>,
    recent: HashSet<Ipv4Addr>,
}

impl Probes {
    /// Has `request` wait, if `address` is being probed: in place of one that waits already, which its client has repeated.
    pub fn wait(&mut self, address: Ipv4Addr, request: &Request) -> bool {
        let waiting = self.waiting.get_mut(&address);
        waiting.map(|waiting| *waiting = request.clone()).is_some()
    }

    /// Has `request` wait for a new probe of `address`, unless it was probed a moment ago or there are too many.
    pub fn begin(&mut self, address: Ipv4Addr, request: &Request, now: SystemTime) -> bool {
        self.forget_before(now);
        let age = |began: &SystemTime| now.duration_since(*began).unwrap_or_default();
        let under_way =
            self.begun.iter().rev().take(MAX_PROBES).filter(|(began, _)| age(began) < ARP_TIME).count();
        if under_way == MAX_PROBES || !self.recent.insert(address) {
            return false;
        }
        self.begun.push_back((now, address));
        self.waiting.insert(address, request.clone());
        true
    }

    /// Ends a probe, and returns who waited for it.
    pub fn end(&mut self, address: Ipv4Addr) -> Option<Request> {
        self.waiting.remove(&address)
    }

    fn forget_before(&mut self, now: SystemTime) {
        while let Some((began, address)) = self.begun.front()
            // A clock that was put back is no reason to remember them for longer.
            && !now.duration_since(*began).is_ok_and(|age| age < MEMORY)
        {
            self.recent.remove(address);
            self.begun.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::request::tests::packet;
    use super::*;

    const T0: SystemTime = SystemTime::UNIX_EPOCH;

    fn address(number: usize) -> Ipv4Addr {
        Ipv4Addr::from_bits(u32::try_from(number).unwrap())
    }

    #[test]
    fn an_address_is_probed_once_a_minute() {
        let request = Request::parse(&packet(&[&[53, 1, 1]])).unwrap();
        let mut probes = Probes::default();
        assert!(!probes.wait(address(1), &request));
        assert!(probes.begin(address(1), &request, T0) && probes.wait(address(1), &request));
        assert_eq!(probes.end(address(1)), Some(request.clone()));
        assert_eq!(probes.end(address(1)), None);
        assert!(!probes.begin(address(1), &request, T0 + Duration::from_secs(59)));
        assert!(probes.begin(address(1), &request, T0 + MEMORY));
    }

    #[test]
    fn a_storm_leaves_room_for_the_neighbours_of_the_kernel() {
        let request = Request::parse(&packet(&[&[53, 1, 1]])).unwrap();
        let mut probes = Probes::default();
        let mut begin = |number, now| probes.begin(address(number), &request, now);
        assert_eq!((0..1000).filter(|number| begin(*number, T0)).count(), MAX_PROBES);
        assert!(!begin(1001, T0 + ARP_TIME - Duration::from_millis(1)));
        assert!(begin(1002, T0 + ARP_TIME));
    }
}
