//! The sending side of one transfer: packets and the time in, packets out. It has no socket and no clock.

use std::time::{Duration, Instant};

use bytes::Bytes;

use super::wire::{ErrorCode, Packet, Request, TftpOption};

/// RFC 1350: the size of a block unless blksize is negotiated.
const DEFAULT_BLKSIZE: u16 = 512;
/// RFC 2348: the smallest blksize.
const MIN_BLKSIZE: u16 = 8;
/// How long an answer is waited for unless timeout is negotiated.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(1);
/// How often a packet is repeated before the client is given up.
const MAX_REPEATS: u32 = 8;

/// A transfer under way.
#[derive(Debug)]
pub struct Transfer {
    data: Bytes,
    blksize: u16,
    timeout: Duration,
    /// What was sent and is not acknowledged yet.
    pending: Packet,
    /// The number of the pending block, not wrapped; 0 is the OACK.
    block: u64,
    repeats: u32,
    deadline: Instant,
}

/// What to do after an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Send this and wait.
    Send(Packet),
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
        /// The block that was not acknowledged.
        block: u64,
        /// How often it was sent again.
        repeats: u32,
    },
    /// The client sent something that has no place in a transfer.
    #[error("the client sent an unexpected packet")]
    Unexpected,
}

impl Transfer {
    /// Begins to send `data`, in blocks of at most `max_blksize` bytes. The packet is the first to send.
    pub fn start(now: Instant, request: &Request, data: Bytes, max_blksize: u16) -> (Self, Packet) {
        let terms = Terms::negotiate(request, data.len(), max_blksize);
        let mut transfer = Self {
            data,
            blksize: terms.blksize,
            timeout: terms.timeout,
            pending: Packet::OptionAck(terms.accepted),
            block: 0,
            repeats: 0,
            deadline: now + terms.timeout,
        };
        // RFC 2347: without options to acknowledge, the first block is the acknowledgement.
        if transfer.pending == Packet::OptionAck(Vec::new()) {
            transfer.advance(now);
        }
        let first = transfer.pending.clone();
        (transfer, first)
    }

    /// Takes what the client sent.
    pub fn handle(&mut self, now: Instant, packet: Packet) -> Step {
        match packet {
            Packet::Ack(block) if block == self.block as u16 => {
                if self.block == self.last_block() {
                    return Step::Done;
                }
                self.advance(now);
                Step::Send(self.pending.clone())
            }
            // An acknowledgement that comes twice is never answered with a repetition, or every later block would be
            // sent twice, too (RFC 1123 section 4.2.3.1, the Sorcerer's Apprentice Syndrome).
            Packet::Ack(_) => Step::Wait,
            Packet::Error { code, message } => Step::Failed(TransferError::Aborted { code, message }, None),
            _ => Step::Failed(TransferError::Unexpected, Some(illegal_operation())),
        }
    }

    /// When to call [`Self::time_out`].
    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Repeats what was not acknowledged in time.
    pub fn time_out(&mut self, now: Instant) -> Step {
        if self.repeats == MAX_REPEATS {
            let error = TransferError::TimedOut { block: self.block, repeats: self.repeats };
            return Step::Failed(error, None);
        }
        self.repeats += 1;
        self.deadline = now + self.timeout;
        Step::Send(self.pending.clone())
    }

    /// The file ends with a block shorter than blksize, which is empty if the size is a multiple of it.
    fn last_block(&self) -> u64 {
        self.data.len() as u64 / u64::from(self.blksize) + 1
    }

    fn advance(&mut self, now: Instant) {
        let blksize = usize::from(self.blksize);
        let start = self.block as usize * blksize;
        let data = self.data.slice(start..self.data.len().min(start + blksize));
        self.block += 1;
        // Block numbers of large files roll over to 0, which every client of such files expects.
        self.pending = Packet::Data { block: self.block as u16, data };
        self.repeats = 0;
        self.deadline = now + self.timeout;
    }
}

/// What client and server agree on.
struct Terms {
    blksize: u16,
    timeout: Duration,
    accepted: Vec<TftpOption>,
}

impl Terms {
    /// Options that are unknown or malformed are left out of the OACK, which refuses them (RFC 2347).
    fn negotiate(request: &Request, size_bytes: usize, max_blksize: u16) -> Self {
        let mut terms = Self { blksize: DEFAULT_BLKSIZE, timeout: DEFAULT_TIMEOUT, accepted: Vec::new() };
        if let Some(blksize) = option::<u16>(request, "blksize").filter(|size| *size >= MIN_BLKSIZE) {
            terms.blksize = blksize.min(max_blksize);
            terms.accept("blksize", terms.blksize);
        }
        if let Some(seconds) = option::<u8>(request, "timeout").filter(|seconds| *seconds > 0) {
            terms.timeout = Duration::from_secs(seconds.into());
            terms.accept("timeout", seconds);
        }
        if request.option("tsize").is_some() {
            terms.accept("tsize", size_bytes);
        }
        terms
    }

    fn accept(&mut self, name: &str, value: impl ToString) {
        self.accepted.push(TftpOption { name: name.to_owned(), value: value.to_string() });
    }
}

fn option<T: std::str::FromStr>(request: &Request, name: &str) -> Option<T> {
    request.option(name)?.parse().ok()
}

fn illegal_operation() -> Packet {
    Packet::Error { code: ErrorCode::IllegalOperation, message: "expected an acknowledgement".to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn request(options: &[(&str, &str)]) -> Request {
        let options =
            options.iter().map(|(name, value)| TftpOption { name: (*name).into(), value: (*value).into() });
        Request { filename: "x".into(), mode: "octet".into(), options: options.collect() }
    }

    fn start(options: &[(&str, &str)], size: usize) -> (Transfer, Packet) {
        Transfer::start(Instant::now(), &request(options), vec![7; size].into(), 1468)
    }

    fn data(block: u16, size: usize) -> Packet {
        Packet::Data { block, data: vec![7; size].into() }
    }

    #[test]
    fn without_options_the_first_block_is_sent_at_once() {
        let (mut transfer, first) = start(&[], 600);
        assert_eq!(first, data(1, 512));
        assert_eq!(transfer.handle(Instant::now(), Packet::Ack(1)), Step::Send(data(2, 88)));
        assert_eq!(transfer.handle(Instant::now(), Packet::Ack(2)), Step::Done);
    }

    #[test]
    fn a_multiple_of_the_block_size_ends_with_an_empty_block() {
        let (mut transfer, first) = start(&[], 512);
        assert_eq!(first, data(1, 512));
        assert_eq!(transfer.handle(Instant::now(), Packet::Ack(1)), Step::Send(data(2, 0)));
        assert_eq!(start(&[], 0).1, data(1, 0));
    }

    #[test]
    fn options_are_negotiated() {
        let check = |options: &[(&str, &str)], expected: &[(&str, &str)]| {
            assert_eq!(start(options, 5000).1, Packet::OptionAck(request(expected).options), "{options:?}");
        };
        check(&[("tsize", "0"), ("blksize", "1432")], &[("blksize", "1432"), ("tsize", "5000")]);
        check(&[("blksize", "65464")], &[("blksize", "1468")]);
        check(&[("timeout", "3"), ("windowsize", "4")], &[("timeout", "3")]);
        for refused in [("blksize", "7"), ("blksize", "x"), ("timeout", "0"), ("multicast", "")] {
            assert_eq!(start(&[refused], 5000).1, data(1, 512), "{refused:?}");
        }
    }

    #[test]
    fn duplicate_acknowledgements_are_not_answered() {
        let (mut transfer, _) = start(&[("blksize", "8")], 100);
        let now = Instant::now();
        assert_eq!(transfer.handle(now, Packet::Ack(0)), Step::Send(data(1, 8)));
        assert_eq!(transfer.handle(now, Packet::Ack(0)), Step::Wait);
        assert_eq!(transfer.handle(now, Packet::Ack(1)), Step::Send(data(2, 8)));
        assert_eq!(transfer.handle(now, Packet::Ack(1)), Step::Wait);
        assert_eq!(transfer.handle(now, Packet::Ack(9)), Step::Wait);
    }

    #[test]
    fn silence_is_answered_by_repeating_until_the_client_is_given_up() {
        let (mut transfer, first) = start(&[("timeout", "3")], 100);
        let now = Instant::now();
        for _ in 0..MAX_REPEATS {
            assert_eq!(transfer.time_out(now), Step::Send(first.clone()));
            assert_eq!(transfer.deadline(), now + Duration::from_secs(3));
        }
        let error = TransferError::TimedOut { block: 0, repeats: MAX_REPEATS };
        assert_eq!(transfer.time_out(now), Step::Failed(error, None));
    }

    #[test]
    fn an_error_of_the_client_ends_the_transfer() {
        let (mut transfer, _) = start(&[("tsize", "0")], 100);
        let code = ErrorCode::OptionsRefused;
        let message = "probe".to_owned();
        let step = transfer.handle(Instant::now(), Packet::Error { code, message: message.clone() });
        assert_eq!(step, Step::Failed(TransferError::Aborted { code, message }, None));
    }

    #[test]
    fn block_numbers_roll_over() {
        let blocks = 70_000_usize;
        let (mut transfer, mut packet) = start(&[("blksize", "8")], blocks * 8 + 3);
        let mut received = 0;
        loop {
            let block = match packet {
                Packet::Data { block, ref data } => {
                    received += data.len();
                    block
                }
                _ => 0,
            };
            match transfer.handle(Instant::now(), Packet::Ack(block)) {
                Step::Send(next) => packet = next,
                step => break assert_eq!(step, Step::Done),
            }
        }
        assert_eq!(received, blocks * 8 + 3);
    }

    proptest! {
        #[test]
        fn any_acknowledgements_lead_to_the_whole_file_or_nothing(
            acks: Vec<u16>, size in 0_usize..100, blksize in 8_u16..16
        ) {
            let (mut transfer, _) = start(&[("blksize", &blksize.to_string())], size);
            let done = acks.iter().any(|block| {
                transfer.handle(Instant::now(), Packet::Ack(*block % 16)) == Step::Done
            });
            prop_assert!(!done || transfer.block == transfer.last_block());
        }
    }
}
