//! The sending side of one transfer: packets and the time in, packets out. It has no socket and no clock.
//!
//! Blocks go out in windows (RFC 7440). The lockstep of RFC 1350 is a window of one block.

use std::time::{Duration, Instant};

use bytes::Bytes;

use super::terms::Terms;
use super::wire::{ErrorCode, Packet, Request, TftpOption};

/// How often a packet is repeated before the client is given up.
pub const MAX_REPEATS: u32 = 8;
/// The same before the client was heard of. It repeats a request that is not answered, and whoever writes another's address
/// on a request should not have that one sent much.
pub const MAX_FIRST_REPEATS: u32 = 3;
/// How long a transfer may take. The largest file takes a tenth of it at the speed of the slowest firmware known.
pub const TIME_LIMIT: Duration = Duration::from_secs(15 * 60);
/// How soon a window is repeated after a hint that its first block was lost.
const EARLY_REPEAT: Duration = Duration::from_millis(100);

/// A transfer under way.
#[derive(Debug)]
pub struct Transfer {
    data: Bytes,
    terms: Terms,
    /// The options, until the client has acknowledged them. No block is sent before.
    offered: Option<Vec<TftpOption>>,
    /// The newest block acknowledged, not wrapped.
    acknowledged: u64,
    /// The newest block sent.
    sent: u64,
    /// The first block that [`Self::window`] gives.
    first: u64,
    /// Whether blocks of the window were sent more than once, so that the client may speak of the first time.
    repeated: bool,
    /// Whether the client has acknowledged anything.
    heard: bool,
    /// Whether the client asked again since it was heard.
    superseded: bool,
    repeats: u32,
    deadline: Instant,
    end: Instant,
}

/// What to do after an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Send [`Transfer::window`] and wait.
    Send,
    /// Go on waiting.
    Wait,
    /// The client has everything.
    Done,
    /// The transfer is over; tell the client, if there is something to tell it.
    Failed(TransferError, Option<Packet>),
}

/// Why a transfer ended early.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TransferError {
    /// The client sent an ERROR.
    #[error("the client ended the transfer with error {}: {message}", u16::from(*code))]
    Aborted {
        /// Its code.
        code: ErrorCode,
        /// Its text.
        message: String,
    },
    /// The client stopped answering.
    #[error("no answer to block {block} after {repeats} repetitions")]
    TimedOut {
        /// The first block that was not acknowledged; 0 is the OACK.
        block: u64,
        /// How often it was sent again.
        repeats: u32,
    },
    /// It takes too long.
    #[error("{acknowledged} of {blocks} blocks after {} seconds", TIME_LIMIT.as_secs())]
    Overdue {
        /// How many blocks the client has.
        acknowledged: u64,
        /// How many there are.
        blocks: u64,
    },
    /// The client sent something that has no place in a transfer.
    #[error("the client sent an unexpected packet")]
    Unexpected,
    /// The client asked again, and went on with the later transfer.
    #[error("the client began again")]
    Superseded,
}

impl Transfer {
    /// Begins to send `data`, in blocks of at most `max_blksize` bytes. [`Self::window`] is to be sent first.
    pub fn start(now: Instant, request: &Request, data: Bytes, max_blksize: u16) -> Self {
        let (terms, options) = Terms::negotiate(request, data.len(), max_blksize);
        let mut transfer = Self {
            data,
            // RFC 2347: without options to acknowledge, the first block is the acknowledgement.
            offered: (!options.is_empty()).then_some(options),
            acknowledged: 0,
            sent: 0,
            first: 1,
            repeated: false,
            heard: false,
            superseded: false,
            repeats: 0,
            deadline: now + terms.timeout,
            end: now + TIME_LIMIT,
            terms,
        };
        if transfer.offered.is_none() {
            transfer.send_from(now, 1);
        }
        transfer
    }

    /// What is to be sent: the OACK, or blocks.
    pub fn window(&self) -> impl Iterator<Item = Packet> {
        let offer = self.offered.iter().map(|options| Packet::OptionAck(options.clone()));
        offer.chain((self.first..=self.sent).map(|block| self.block(block)))
    }

    /// The client asked again from the same port: it was reset, or our answer was lost, or the network doubled its request.
    /// Only in the last case may it go on with this transfer. So this one keeps silent and ends at its next time-out, unless
    /// it hears of the client again.
    pub fn supersede(&mut self) {
        self.superseded = true;
    }

    /// Whether there may be nobody at the other end.
    pub fn is_unheard(&self) -> bool {
        !self.heard || self.superseded
    }

    /// Takes what the client sent.
    pub fn handle(&mut self, now: Instant, packet: Packet) -> Step {
        let superseded = std::mem::take(&mut self.superseded);
        match packet {
            // It knows the later transfer alone, and refuses our port as unknown.
            Packet::Error { .. } if superseded => Step::Failed(TransferError::Superseded, None),
            Packet::Ack(number) => self.acknowledge(now, number),
            Packet::Error { code, message } => Step::Failed(TransferError::Aborted { code, message }, None),
            _ => {
                let message = "expected an acknowledgement".to_owned();
                let last = Packet::Error { code: ErrorCode::IllegalOperation, message };
                Step::Failed(TransferError::Unexpected, Some(last))
            }
        }
    }

    /// When to call [`Self::time_out`].
    pub fn deadline(&self) -> Instant {
        self.deadline.min(self.end)
    }

    /// Repeats what was not acknowledged in time.
    pub fn time_out(&mut self, now: Instant) -> Step {
        if self.superseded {
            return Step::Failed(TransferError::Superseded, None);
        }
        if now >= self.end {
            let error = TransferError::Overdue { acknowledged: self.acknowledged, blocks: self.last_block() };
            let last =
                Packet::Error { code: ErrorCode::NotDefined, message: "this takes too long".to_owned() };
            return Step::Failed(error, Some(last));
        }
        if self.repeats == if self.heard { MAX_REPEATS } else { MAX_FIRST_REPEATS } {
            let block = if self.offered.is_some() { 0 } else { self.acknowledged + 1 };
            return Step::Failed(TransferError::TimedOut { block, repeats: self.repeats }, None);
        }
        self.repeats += 1;
        self.first = self.acknowledged + 1;
        self.repeated = true;
        self.deadline = now + self.terms.timeout;
        Step::Send
    }

    /// The acknowledgement of any block of the window begins the next window behind it: where that block is not the
    /// window's last, the client lacks the one after it (RFC 7440 section 4). But if the window was repeated, the client may
    /// only have met a block that it has already, and what follows is on its way. Sent again, that would be met twice again,
    /// and so on to the end of the file; so only what was never sent follows.
    fn acknowledge(&mut self, now: Instant, number: u16) -> Step {
        let ahead = u64::from(number.wrapping_sub(self.acknowledged as u16));
        if ahead > self.sent - self.acknowledged {
            return Step::Wait;
        }
        if ahead == 0 && self.offered.take().is_none() {
            self.repeat_early(now);
            return Step::Wait;
        }
        self.heard = true;
        self.acknowledged += ahead;
        if self.acknowledged == self.last_block() {
            return Step::Done;
        }
        let lacks_blocks = self.acknowledged < self.sent;
        if lacks_blocks && self.repeated {
            self.send_from(now, self.sent + 1);
            self.repeat_early(now);
        } else {
            self.send_from(now, self.acknowledged + 1);
            self.repeated = lacks_blocks;
        }
        Step::Send
    }

    /// An acknowledgement that comes twice is never answered with a repetition, or every later block would be sent twice,
    /// too (RFC 1123 section 4.2.3.1, the Sorcerer's Apprentice Syndrome). In a window, it can also be all that the client
    /// says when it misses the first block. Which of both it is shows soon: in the first case, the next acknowledgement is
    /// on its way. OVMF sends one for each block that it did not expect (EDK2, Mtftp4RrqHandleData).
    fn repeat_early(&mut self, now: Instant) {
        if self.terms.windowsize > 1 && self.repeats == 0 {
            self.deadline = self.deadline.min(now + EARLY_REPEAT);
        }
    }

    fn send_from(&mut self, now: Instant, first: u64) {
        self.first = first;
        self.sent = self.last_block().min(self.acknowledged + u64::from(self.terms.windowsize));
        self.repeats = 0;
        self.deadline = now + self.terms.timeout;
    }

    /// The file ends with a block shorter than blksize, which is empty if the size is a multiple of it.
    fn last_block(&self) -> u64 {
        self.data.len() as u64 / u64::from(self.terms.blksize) + 1
    }

    /// Block numbers of large files roll over to 0, which every client of such files expects.
    fn block(&self, block: u64) -> Packet {
        let blksize = usize::from(self.terms.blksize);
        let start = (block as usize - 1) * blksize;
        let data = self.data.slice(start..self.data.len().min(start + blksize));
        Packet::Data { block: block as u16, data }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn start(options: &[(&str, &str)], size: usize) -> Transfer {
        let options =
            options.iter().map(|(name, value)| TftpOption { name: (*name).into(), value: (*value).into() });
        let request = Request { filename: "x".into(), mode: "octet".into(), options: options.collect() };
        Transfer::start(Instant::now(), &request, vec![7; size].into(), 1468)
    }

    fn data(block: u16, size: usize) -> Packet {
        Packet::Data { block, data: vec![7; size].into() }
    }

    /// The numbers of the blocks that are to be sent.
    fn blocks(transfer: &Transfer) -> Vec<u16> {
        let number = |packet| match packet {
            Packet::Data { block, .. } => block,
            other => panic!("{other:?}"),
        };
        transfer.window().map(number).collect()
    }

    /// Acknowledges `block`, which must lead to these blocks, or to nothing.
    #[track_caller]
    fn check(transfer: &mut Transfer, block: u16, expected: &[u16]) {
        let step = transfer.handle(Instant::now(), Packet::Ack(block));
        if expected.is_empty() {
            assert_eq!(step, Step::Wait);
        } else {
            assert_eq!((step, blocks(transfer)), (Step::Send, expected.to_vec()));
        }
    }

    #[test]
    fn without_options_the_first_block_is_sent_at_once() {
        let mut transfer = start(&[], 600);
        assert_eq!(transfer.window().collect::<Vec<_>>(), [data(1, 512)]);
        assert_eq!(transfer.handle(Instant::now(), Packet::Ack(1)), Step::Send);
        assert_eq!(transfer.window().collect::<Vec<_>>(), [data(2, 88)]);
        assert_eq!(transfer.handle(Instant::now(), Packet::Ack(2)), Step::Done);
    }

    #[test]
    fn a_multiple_of_the_block_size_ends_with_an_empty_block() {
        let mut transfer = start(&[], 512);
        check(&mut transfer, 1, &[2]);
        assert_eq!(transfer.window().collect::<Vec<_>>(), [data(2, 0)]);
        assert_eq!(start(&[], 0).window().collect::<Vec<_>>(), [data(1, 0)]);
    }

    #[test]
    fn options_are_acknowledged_before_the_first_block() {
        let transfer = start(&[("tsize", "0")], 600);
        let tsize = TftpOption { name: "tsize".into(), value: "600".into() };
        assert_eq!(transfer.window().collect::<Vec<_>>(), [Packet::OptionAck(vec![tsize])]);
    }

    #[test]
    fn duplicate_acknowledgements_are_not_answered() {
        let mut transfer = start(&[("blksize", "8")], 100);
        check(&mut transfer, 0, &[1]);
        check(&mut transfer, 0, &[]);
        check(&mut transfer, 1, &[2]);
        check(&mut transfer, 1, &[]);
        check(&mut transfer, 9, &[]);
    }

    #[test]
    fn a_window_goes_on_behind_the_block_acknowledged() {
        let mut transfer = start(&[("blksize", "8"), ("windowsize", "4")], 90);
        check(&mut transfer, 0, &[1, 2, 3, 4]);
        check(&mut transfer, 4, &[5, 6, 7, 8]);
        // Block 7 was lost. What the client says to block 8 is no news.
        check(&mut transfer, 6, &[7, 8, 9, 10]);
        check(&mut transfer, 6, &[]);
        // Block 8 was late and came before 7 and 8: the client meets 8 again.
        check(&mut transfer, 8, &[11, 12]);
        // An old one that was late.
        check(&mut transfer, 4, &[]);
        assert_eq!(transfer.handle(Instant::now(), Packet::Ack(12)), Step::Done);
    }

    #[test]
    fn a_hint_that_the_first_block_of_a_window_was_lost_shortens_the_wait_once() {
        let mut transfer = start(&[("blksize", "8"), ("windowsize", "4")], 90);
        check(&mut transfer, 0, &[1, 2, 3, 4]);
        let now = Instant::now();
        assert_eq!(transfer.handle(now, Packet::Ack(0)), Step::Wait);
        assert_eq!(transfer.deadline(), now + EARLY_REPEAT);
        assert_eq!((transfer.time_out(now), blocks(&transfer)), (Step::Send, vec![1, 2, 3, 4]));
        assert_eq!(transfer.handle(now, Packet::Ack(0)), Step::Wait);
        assert_eq!(transfer.deadline(), now + Duration::from_secs(1));
    }

    #[test]
    fn silence_is_answered_by_repeating_until_the_client_is_given_up() {
        let mut transfer = start(&[("timeout", "3")], 1000);
        let check = |transfer: &mut Transfer, repeats, block| {
            let now = Instant::now();
            for _ in 0..repeats {
                assert_eq!(transfer.time_out(now), Step::Send);
                assert_eq!(transfer.deadline(), now + Duration::from_secs(3));
            }
            let error = TransferError::TimedOut { block, repeats };
            assert_eq!(transfer.time_out(now), Step::Failed(error, None));
        };
        check(&mut transfer, MAX_FIRST_REPEATS, 0);
        assert_eq!(transfer.handle(Instant::now(), Packet::Ack(0)), Step::Send);
        check(&mut transfer, MAX_REPEATS, 1);
    }

    #[test]
    fn a_transfer_ends_when_it_takes_too_long_however_often_the_client_is_heard() {
        let mut transfer = start(&[("blksize", "8")], 5000);
        let started = Instant::now();
        let late = started + TIME_LIMIT;
        assert_eq!(transfer.handle(started, Packet::Ack(0)), Step::Send);
        assert_eq!(transfer.handle(late, Packet::Ack(1)), Step::Send);
        assert!(transfer.deadline() <= late);
        let Step::Failed(error, Some(Packet::Error { .. })) = transfer.time_out(late) else { panic!() };
        assert_eq!(error, TransferError::Overdue { acknowledged: 1, blocks: 626 });
    }

    #[test]
    fn of_two_transfers_to_one_client_that_ends_which_is_not_heard_of() {
        let mut transfer = start(&[], 600);
        transfer.supersede();
        assert_eq!(transfer.time_out(Instant::now()), Step::Failed(TransferError::Superseded, None));
        let mut transfer = start(&[], 600);
        transfer.supersede();
        check(&mut transfer, 1, &[2]);
        assert_eq!(transfer.time_out(Instant::now()), Step::Send);
    }

    #[test]
    fn an_error_of_the_client_ends_the_transfer() {
        let mut transfer = start(&[("tsize", "0")], 100);
        let code = ErrorCode::OptionsRefused;
        let message = "probe".to_owned();
        let step = transfer.handle(Instant::now(), Packet::Error { code, message: message.clone() });
        assert_eq!(step, Step::Failed(TransferError::Aborted { code, message }, None));
    }

    #[test]
    fn block_numbers_roll_over() {
        for windowsize in [1, 5, 64] {
            let size = 140_000 * 8 + 3;
            let mut transfer = start(&[("blksize", "8"), ("windowsize", &windowsize.to_string())], size);
            let (mut received, mut newest) = (0, 0_u16);
            loop {
                for packet in transfer.window() {
                    if let Packet::Data { block, data } = packet {
                        assert_eq!(block, newest.wrapping_add(1));
                        received += data.len();
                        newest = block;
                    }
                }
                match transfer.handle(Instant::now(), Packet::Ack(newest)) {
                    Step::Send => {}
                    step => break assert_eq!(step, Step::Done),
                }
            }
            assert_eq!(received, size);
        }
    }

    proptest! {
        #[test]
        fn any_acknowledgements_lead_to_the_whole_file_or_nothing(
            acks: Vec<u16>, size in 0_usize..100, blksize in 8_u16..16, windowsize in 1_u16..8
        ) {
            let options = [("blksize", blksize.to_string()), ("windowsize", windowsize.to_string())];
            let mut transfer = start(&options.each_ref().map(|(name, value)| (*name, value.as_str())), size);
            let done = acks.iter().any(|block| {
                transfer.handle(Instant::now(), Packet::Ack(*block % 16)) == Step::Done
            });
            prop_assert!(transfer.sent - transfer.acknowledged <= u64::from(windowsize));
            prop_assert!(!done || transfer.acknowledged == transfer.last_block());
        }
    }
}
