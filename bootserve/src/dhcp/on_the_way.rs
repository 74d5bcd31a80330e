//! How many replies may be on their way at once, so that a small receiver loses none.
//!
//! When a hall of nodes is switched on, all answers go to one relay, whose socket holds some 160 (Linux' default of 208 KiB). So there is a
//! window, as TCP has one (RFC 5681). A REQUEST shows that its OFFER was read, and with it all that was sent before; that makes room for
//! others, and widens the window. A relay is so served as quickly as it reads. An OFFER that no REQUEST follows in time was lost, or its machine
//! waits or has taken another server's: that makes room as well, and narrows the window.
//!
//! That a REQUEST is late says nothing of the receiver while it may be waiting in our own socket. So the window is narrowed only when all that
//! had come was handled; where there is more to do than we can, what left long ago makes room, and no more.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

/// Replies that nobody has shown to have read: to begin with and at least, and at most.
const FIRST_WINDOW: usize = 96;
const MAX_WINDOW: usize = 1024;
/// REQUESTs after which the window is one wider: an avalanche of a thousand machines is over before it comes to 160.
const REQUESTS_TO_WIDEN: usize = 32;
/// After this time a reply is read, or lost. With it, whoever shows nothing gets 10 a millisecond.
const MAX_AGE: Duration = Duration::from_millis(10);
/// After this time a reply makes room though nobody has looked whether it was read.
const MAX_UNHEARD_AGE: Duration = Duration::from_millis(20);

/// The transaction of a message (`xid` of RFC 2131).
pub type Transaction = [u8; 4];

/// Replies in the order in which they are to leave.
#[derive(Debug)]
pub struct OnTheWay<T> {
    left: VecDeque<(Instant, Option<Transaction>)>,
    waiting: VecDeque<(T, Option<Transaction>)>,
    window: usize,
    requests: usize,
}

impl<T> Default for OnTheWay<T> {
    fn default() -> Self {
        Self { left: VecDeque::new(), waiting: VecDeque::new(), window: FIRST_WINDOW, requests: 0 }
    }
}

impl<T> OnTheWay<T> {
    /// Adds a reply that is to leave after those before it; `offer` is the transaction that it offers an address to.
    pub fn push(&mut self, reply: T, offer: Option<Transaction>) {
        self.waiting.push_back((reply, offer));
    }

    /// A machine has shown that it read what it was offered. That widens the window also where the OFFER was forgotten meanwhile.
    pub fn was_read(&mut self, offer: Transaction) {
        if let Some(index) = self.left.iter().position(|(_, left)| *left == Some(offer)) {
            self.left.drain(..=index);
        }
        self.requests += 1;
        if self.requests.is_multiple_of(REQUESTS_TO_WIDEN) {
            self.window = (self.window + 1).min(MAX_WINDOW);
        }
    }

    /// All is handled that had come until `now`. What left long enough before, and nobody has shown to have read, is lost or nobody will;
    /// where an OFFER is among it, the window is half as wide.
    pub fn heard_until(&mut self, now: Instant) {
        if self.forget(now, MAX_AGE) {
            self.window = (self.window / 2).max(FIRST_WINDOW);
        }
    }

    /// The next reply, if there is room for it; it leaves at `now`.
    pub fn pop(&mut self, now: Instant) -> Option<T> {
        self.forget(now, MAX_UNHEARD_AGE);
        if self.left.len() >= self.window {
            return None;
        }
        let (reply, offer) = self.waiting.pop_front()?;
        self.left.push_back((now, offer));
        Some(reply)
    }

    /// Takes what left so long ago for read; says whether an OFFER was among it.
    fn forget(&mut self, now: Instant, age: Duration) -> bool {
        let is_old = |(left, _): &&(Instant, Option<Transaction>)| *left + age <= now;
        let count = self.left.iter().take_while(is_old).count();
        self.left.drain(..count).any(|(_, offer)| offer.is_some())
    }

    /// When there could be room for the next reply, if one waits, though nobody has shown anything: once all is handled that had come until
    /// then.
    pub fn next_leaves(&self) -> Option<Instant> {
        self.waiting.front().and(self.left.front()).map(|(left, _)| *left + MAX_AGE)
    }

    /// How many wait.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// The next reply, whether there is room for it or not.
    pub fn pop_regardless(&mut self) -> Option<T> {
        self.waiting.pop_front().map(|(reply, _)| reply)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offer(number: usize) -> Transaction {
        u32::try_from(number).unwrap().to_be_bytes()
    }

    /// With so many OFFERs that wait.
    fn with_offers(count: usize) -> OnTheWay<usize> {
        let mut on_the_way = OnTheWay::default();
        (0..count).for_each(|number| on_the_way.push(number, Some(offer(number))));
        on_the_way
    }

    fn leave(on_the_way: &mut OnTheWay<usize>, now: Instant) -> Vec<usize> {
        std::iter::from_fn(|| on_the_way.pop(now)).collect()
    }

    #[test]
    fn no_more_leave_at_once_than_a_receiver_holds() {
        let (mut on_the_way, start) = (with_offers(100), Instant::now());
        assert_eq!(leave(&mut on_the_way, start), (0..96).collect::<Vec<_>>());
        assert_eq!(on_the_way.waiting(), 4);
        assert_eq!(on_the_way.next_leaves(), Some(start + MAX_AGE));
        assert_eq!(
            leave(&mut on_the_way, start + MAX_AGE),
            [0; 0],
            "nobody has looked whether a REQUEST is there"
        );
        on_the_way.heard_until(start + MAX_AGE);
        assert_eq!(leave(&mut on_the_way, start + MAX_AGE), [96, 97, 98, 99]);
        assert_eq!(on_the_way.next_leaves(), None);
    }

    #[test]
    fn a_request_shows_that_all_was_read_that_left_before() {
        let (mut on_the_way, start) = (with_offers(2), Instant::now());
        (2..96).for_each(|number| on_the_way.push(number, None));
        (96..200).for_each(|number| on_the_way.push(number, Some(offer(number))));
        leave(&mut on_the_way, start);
        on_the_way.was_read(offer(1));
        assert_eq!(leave(&mut on_the_way, start), [96, 97]);
        on_the_way.was_read(offer(97));
        assert_eq!(leave(&mut on_the_way, start).len(), 96);
    }

    #[test]
    fn who_reads_quickly_is_sent_more_at_once_until_something_is_lost() {
        let (mut on_the_way, start) = (with_offers(4000), Instant::now());
        let mut read = 0;
        while read < 3200 {
            leave(&mut on_the_way, start);
            on_the_way.was_read(offer(read));
            read += 1;
        }
        leave(&mut on_the_way, start);
        assert_eq!(on_the_way.left.len(), FIRST_WINDOW + 100);
        on_the_way.heard_until(start + MAX_AGE);
        leave(&mut on_the_way, start + MAX_AGE);
        assert_eq!(on_the_way.left.len(), (FIRST_WINDOW + 100) / 2);
        on_the_way.heard_until(start + MAX_AGE * 2);
        leave(&mut on_the_way, start + MAX_AGE * 2);
        assert_eq!(on_the_way.left.len(), FIRST_WINDOW);
    }

    #[test]
    fn where_nobody_has_looked_what_left_long_ago_makes_room_and_no_more() {
        let (mut on_the_way, start) = (with_offers(400), Instant::now());
        on_the_way.window = 200;
        assert_eq!(leave(&mut on_the_way, start).len(), 200);
        assert_eq!(leave(&mut on_the_way, start + MAX_AGE), [0; 0]);
        assert_eq!(leave(&mut on_the_way, start + MAX_UNHEARD_AGE).len(), 200);
    }

    #[test]
    fn a_request_without_an_offer_makes_no_room() {
        let (mut on_the_way, start) = (with_offers(97), Instant::now());
        leave(&mut on_the_way, start);
        on_the_way.was_read(offer(4711));
        assert_eq!(on_the_way.pop(start), None);
        assert_eq!(on_the_way.pop_regardless(), Some(96));
    }
}
