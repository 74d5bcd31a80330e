//! The transfers under way: which there are, how many there may be, and which is to be looked at next.

use std::collections::HashMap;
use std::net::SocketAddrV4;
use std::time::{Duration, Instant};

use super::transfer::{Step, Transfer};
use super::wire::Packet;

/// A client has so long to answer before it is one that may not exist: in a crowd, its answer waits behind the requests of others.
const PATIENCE: Duration = Duration::from_secs(1);

/// Names a transfer: the client's address and port, and ours (RFC 1350 section 4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tids {
    /// The client's.
    pub client: SocketAddrV4,
    /// Our port.
    pub port: u16,
}

/// A transfer and what belongs to it. `L` is the way to the client.
#[derive(Debug)]
pub struct Active<L> {
    /// The name of the file.
    pub file: &'static str,
    /// The state machine.
    pub transfer: Transfer,
    /// How packets get to the client.
    pub link: L,
    began: Instant,
}

/// There are as many transfers as there may be, and all clients answer, or have not had the time.
#[derive(Debug, PartialEq, Eq)]
pub struct Full;

/// All transfers.
#[derive(Debug)]
pub struct Table<L> {
    active: HashMap<Tids, Active<L>>,
    limit: usize,
    /// No transfer has an earlier deadline.
    wake: Option<Instant>,
}

impl<L> Table<L> {
    /// A table of at most `limit` transfers.
    pub fn new(limit: usize) -> Self {
        Self { active: HashMap::new(), limit, wake: None }
    }

    /// Makes room for another transfer. In a full table, that goes which waits longest for a client that may not exist, so that
    /// requests from made-up addresses do not keep out those who mean it.
    pub fn make_room(&mut self, now: Instant) -> Result<Option<(Tids, Active<L>)>, Full> {
        if self.active.len() < self.limit {
            return Ok(None);
        }
        let is_silent = |active: &Active<L>| active.transfer.is_unheard() && active.began + PATIENCE <= now;
        let unheard = self.active.iter().filter(|(_, active)| is_silent(active));
        let oldest = unheard.min_by_key(|(_, active)| active.began).map(|(tids, _)| *tids);
        Ok(Some(oldest.and_then(|tids| self.active.remove_entry(&tids)).ok_or(Full)?))
    }

    /// Tells the transfers to `client` that it asked again.
    pub fn supersede(&mut self, client: SocketAddrV4) {
        let others = self.active.iter_mut().filter(|(tids, _)| tids.client == client);
        others.for_each(|(_, active)| active.transfer.supersede());
    }

    /// Adds a transfer, and returns the one that was there.
    pub fn insert(
        &mut self,
        now: Instant,
        tids: Tids,
        file: &'static str,
        transfer: Transfer,
        link: L,
    ) -> Option<Active<L>> {
        self.wake_by(transfer.deadline());
        self.active.insert(tids, Active { file, transfer, link, began: now })
    }

    /// A transfer.
    pub fn find(&self, tids: Tids) -> Option<&Active<L>> {
        self.active.get(&tids)
    }

    /// Hands a transfer what its client sent.
    pub fn handle(&mut self, now: Instant, tids: Tids, packet: Packet) -> Step {
        let Some(active) = self.active.get_mut(&tids) else { return Step::Wait };
        let step = active.transfer.handle(now, packet);
        let deadline = active.transfer.deadline();
        self.wake_by(deadline);
        step
    }

    /// Ends a transfer.
    pub fn remove(&mut self, tids: Tids) -> Option<Active<L>> {
        self.active.remove(&tids)
    }

    /// When to call [`Self::time_out`]: at this time or earlier, as deadlines are put off with each packet.
    pub fn wake(&self) -> Option<Instant> {
        self.wake
    }

    /// Takes the transfers whose deadline has come.
    pub fn time_out(&mut self, now: Instant) -> Vec<(Tids, Step)> {
        if self.wake.is_none_or(|wake| now < wake) {
            return Vec::new();
        }
        let due = self.active.iter_mut().filter(|(_, active)| active.transfer.deadline() <= now);
        let steps = due.map(|(tids, active)| (*tids, active.transfer.time_out(now))).collect();
        self.wake = self.active.values().map(|active| active.transfer.deadline()).min();
        steps
    }

    fn wake_by(&mut self, deadline: Instant) {
        self.wake = Some(self.wake.map_or(deadline, |wake| wake.min(deadline)));
    }
}

/// An IPv4 address and two ports fill 64 bits.
impl From<Tids> for u64 {
    fn from(Tids { client, port }: Tids) -> Self {
        Self::from(client.ip().to_bits()) << 32 | Self::from(client.port()) << 16 | Self::from(port)
    }
}

impl From<u64> for Tids {
    fn from(bits: u64) -> Self {
        let client = SocketAddrV4::new(((bits >> 32) as u32).into(), (bits >> 16) as u16);
        Self { client, port: bits as u16 }
    }
}

#[cfg(test)]
mod tests {
    use super::super::wire::Request;
    use super::*;

    fn tids(host: u8) -> Tids {
        Tids { client: SocketAddrV4::new([10, 0, 0, host].into(), 2000), port: 69 }
    }

    fn table(now: Instant, hosts: std::ops::Range<u8>) -> Table<()> {
        let mut table = Table::new(hosts.len());
        for host in hosts {
            insert(&mut table, now + Duration::from_millis(host.into()), host);
        }
        table
    }

    fn insert(table: &mut Table<()>, now: Instant, host: u8) -> Option<Active<()>> {
        let request = Request { filename: "x".into(), mode: "octet".into(), options: vec![] };
        let transfer = Transfer::start(now, &request, vec![7; 2000].into(), 1468);
        table.insert(now, tids(host), "x", transfer, ())
    }

    #[test]
    fn names_are_told_apart_by_each_of_their_parts() {
        for name in [tids(1), tids(2), Tids { port: 65535, ..tids(1) }] {
            assert_eq!(Tids::from(u64::from(name)), name);
        }
    }

    #[test]
    fn a_full_table_makes_room_by_the_oldest_client_that_never_answered() {
        let now = Instant::now();
        let mut table = table(now, 0..3);
        assert_eq!(table.handle(now, tids(0), Packet::Ack(1)), Step::Send);
        assert_eq!(table.make_room(now + PATIENCE).unwrap_err(), Full);
        let later = now + PATIENCE + Duration::from_millis(2);
        assert_eq!(table.make_room(later).unwrap().unwrap().0, tids(1));
        assert!(table.make_room(later).unwrap().is_none());
        insert(&mut table, now, 3);
        assert_eq!(table.handle(now, tids(2), Packet::Ack(1)), Step::Send);
        assert_eq!(table.handle(now, tids(3), Packet::Ack(1)), Step::Send);
        assert_eq!(table.make_room(later).unwrap_err(), Full);
        table.supersede(tids(2).client);
        assert_eq!(table.make_room(later).unwrap().unwrap().0, tids(2));
    }

    #[test]
    fn transfers_time_out_at_their_own_deadlines_and_not_before() {
        let now = Instant::now();
        let mut table = table(now, 0..2);
        let first = table.wake().unwrap();
        assert_eq!(first, table.find(tids(0)).unwrap().transfer.deadline());
        // The deadline of one is put off; the wake-up finds nothing due and knows the next.
        assert_eq!(table.handle(first, tids(0), Packet::Ack(1)), Step::Send);
        assert_eq!(table.time_out(first), vec![]);
        let second = table.wake().unwrap();
        assert_eq!(second, table.find(tids(1)).unwrap().transfer.deadline());
        assert_eq!(table.time_out(second), vec![(tids(1), Step::Send)]);
        assert!(table.wake().unwrap() > second);
        for host in 0..2 {
            table.remove(tids(host));
        }
        table.time_out(table.wake().unwrap());
        assert_eq!(table.wake(), None);
    }
}
