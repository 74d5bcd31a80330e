//! A network of packets and time, without either: what the server's state machine sends reaches a client of RFC 7440 unless
//! the network loses it, doubles it, or lets later ones pass.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bootserve::tftp::transfer::{Step, Transfer, TransferError};
use bootserve::tftp::wire::{Packet, Request};
use bytes::Bytes;

/// How long a packet is on its way.
const DELAY: Duration = Duration::from_millis(1);
/// How long the client waits for a packet. Other than the server's time, so that both come to repeat.
const PATIENCE: Duration = Duration::from_millis(1700);
/// How often it repeats its last acknowledgement.
const MAX_REPEATS: u32 = 8;

/// What happens to a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It arrives.
    Arrives,
    /// It does not.
    IsLost,
    /// It arrives twice.
    IsDoubled,
    /// It arrives behind the next ones.
    IsLate,
}

/// How a client of RFC 7440 takes a block that it does not expect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// It acknowledges once what it has, and is silent until a window is over. So do most.
    Once,
    /// It acknowledges what it has each time, as EDK2 does.
    EachTime,
    /// It waits.
    Silent,
}

/// How it went.
#[derive(Debug)]
pub struct Outcome {
    /// What the client has.
    pub file: Vec<u8>,
    /// How the server's side ended.
    pub result: Result<(), TransferError>,
    /// DATA packets that were sent.
    pub data_packets: usize,
    /// Packets of either side that were lost.
    pub lost: usize,
}

/// Sends `data` as `request` asks. Packets meet the `fates` in the order in which they are sent; later ones arrive.
pub fn run(request: &Request, data: Bytes, fates: impl IntoIterator<Item = Fate>, manner: Manner) -> Outcome {
    let now = Instant::now();
    let transfer = Transfer::start(now, request, data, 1468);
    let client = Client {
        manner,
        file: Vec::new(),
        next: 1,
        blksize: 512,
        windowsize: 1,
        left: 1,
        silent: false,
        done: false,
    };
    let fates = fates.into_iter();
    let mut network = Network { now, fates, under_way: BTreeMap::new(), count: 0, lost: 0, data_packets: 0 };
    network.send_window(&transfer);
    let (result, client) = network.exchange(transfer, client);
    Outcome { file: client.file, result, data_packets: network.data_packets, lost: network.lost }
}

#[derive(Clone)]
enum To {
    Client(Packet),
    Server(Packet),
}

struct Network<F> {
    now: Instant,
    fates: F,
    /// By the time of arrival, then in the order of sending.
    under_way: BTreeMap<(Instant, usize), To>,
    count: usize,
    lost: usize,
    data_packets: usize,
}

impl<F: Iterator<Item = Fate>> Network<F> {
    fn exchange(
        &mut self,
        mut transfer: Transfer,
        mut client: Client,
    ) -> (Result<(), TransferError>, Client) {
        let (mut patience, mut repeats) = (self.now + PATIENCE, 0);
        let mut result = None;
        loop {
            let arrival = self.under_way.first_key_value().map(|((time, _), _)| *time);
            let server = transfer.deadline();
            // When one side is done, the other may still wait; the client has no word of the server's end.
            let client_waits = !client.done && repeats < MAX_REPEATS;
            let first = arrival
                .into_iter()
                .chain(result.is_none().then_some(server))
                .chain(client_waits.then_some(patience))
                .min();
            let Some(now) = first else { return (result.expect("the server has a deadline"), client) };
            self.now = now;
            let step = if arrival == Some(now) {
                match self.under_way.pop_first().expect("it arrives").1 {
                    To::Client(packet) => {
                        let before = client.next;
                        if let Some(answer) = client.take(packet) {
                            self.send(To::Server(answer));
                        }
                        // What it has already is no sign of progress.
                        if client.next > before {
                            (patience, repeats) = (now + PATIENCE, 0);
                        }
                        continue;
                    }
                    To::Server(_) if result.is_some() => continue,
                    To::Server(packet) => transfer.handle(now, packet),
                }
            } else if result.is_none() && now == server {
                transfer.time_out(now)
            } else {
                (patience, repeats) = (now + PATIENCE, repeats + 1);
                if let Some(packet) = client.time_out() {
                    self.send(To::Server(packet));
                }
                continue;
            };
            match step {
                Step::Wait => {}
                Step::Send => self.send_window(&transfer),
                Step::Done => result = Some(Ok(())),
                Step::Failed(error, _) => result = Some(Err(error)),
            }
        }
    }

    fn send_window(&mut self, transfer: &Transfer) {
        for packet in transfer.window() {
            self.data_packets += usize::from(matches!(packet, Packet::Data { .. }));
            self.send(To::Client(packet));
        }
    }

    fn send(&mut self, packet: To) {
        let mut put = |delay| {
            self.count += 1;
            self.under_way.insert((self.now + delay, self.count), packet.clone());
        };
        match self.fates.next().unwrap_or(Fate::Arrives) {
            Fate::Arrives => put(DELAY),
            Fate::IsLost => self.lost += 1,
            Fate::IsDoubled => {
                put(DELAY);
                put(DELAY);
            }
            Fate::IsLate => put(DELAY * 4),
        }
    }
}

struct Client {
    manner: Manner,
    file: Vec<u8>,
    /// The block that is to come, not wrapped.
    next: u64,
    blksize: usize,
    windowsize: u16,
    /// Blocks up to the next acknowledgement.
    left: u16,
    /// Whether the block that is missing was told of.
    silent: bool,
    done: bool,
}

impl Client {
    fn take(&mut self, packet: Packet) -> Option<Packet> {
        match packet {
            Packet::OptionAck(options) if self.next == 1 => {
                let number = |name: &str| {
                    options.iter().find(|o| o.name == name).map(|o| o.value.parse::<u16>().unwrap())
                };
                self.blksize = number("blksize").unwrap_or(512).into();
                self.windowsize = number("windowsize").unwrap_or(1);
                Some(self.acknowledge())
            }
            Packet::OptionAck(_) => None,
            Packet::Data { block, data } if block == self.next as u16 => {
                if self.done {
                    return Some(self.acknowledge());
                }
                self.file.extend_from_slice(&data);
                self.next += 1;
                self.left -= 1;
                self.silent = false;
                self.done = data.len() < self.blksize;
                (self.done || self.left == 0).then(|| self.acknowledge())
            }
            Packet::Data { .. } if self.done => Some(self.acknowledge()),
            Packet::Data { .. } if self.windowsize == 1 => Some(self.acknowledge()),
            Packet::Data { block, .. } => match self.manner {
                Manner::Silent => None,
                Manner::Once if self.silent || block.wrapping_sub(self.next as u16) > self.windowsize => None,
                Manner::Once | Manner::EachTime => {
                    let acknowledgement = self.acknowledge();
                    self.silent = true;
                    Some(acknowledgement)
                }
            },
            other => panic!("a server does not send {other:?}"),
        }
    }

    /// Repeats what it said last. Of a server that was never heard, it has nothing to say; it would ask again.
    fn time_out(&mut self) -> Option<Packet> {
        let heard = self.next > 1 || self.windowsize > 1;
        heard.then(|| self.acknowledge())
    }

    fn acknowledge(&mut self) -> Packet {
        self.left = self.windowsize;
        self.silent = false;
        Packet::Ack((self.next - 1) as u16)
    }
}
