//! Packets to the TFTP server: a request, and what follows it in the transfer.
#![no_main]

use std::time::Instant;

use bootnode_fuzz::packets;
use bootserve::tftp::netascii;
use bootserve::tftp::transfer::{Step, Transfer};
use bootserve::tftp::wire::Packet;
use bytes::Bytes;
use libfuzzer_sys::fuzz_target;

const FILE: &[u8] = &[7; 3000];
const MAX_BLKSIZE: u16 = 1468;

fuzz_target!(|data: &[u8]| {
    if let Ok(packet) = Packet::parse(data) {
        assert_eq!(Packet::parse(&packet.encode()), Ok(packet));
    }
    assert!(netascii::encode(data).len() <= 2 * data.len());
    let mut packets = packets(data);
    let Some(Ok(Packet::Read(request))) = packets.next().map(Packet::parse) else { return };
    let mut now = Instant::now();
    let mut transfer = Transfer::start(now, &request, Bytes::from_static(FILE), MAX_BLKSIZE);
    let mut file = Vec::new();
    receive(&transfer, &mut file);
    for packet in packets {
        let step = match Packet::parse(packet) {
            Ok(packet) => transfer.handle(now, packet),
            // A packet of one byte that is none: the client asked again.
            Err(_) if packet.len() == 1 => {
                transfer.supersede();
                Step::Wait
            }
            Err(_) => {
                now = now.max(transfer.deadline());
                transfer.time_out(now)
            }
        };
        match step {
            Step::Send => receive(&transfer, &mut file),
            Step::Wait => {}
            Step::Done => {
                assert_eq!(file.concat(), FILE);
                return;
            }
            Step::Failed(..) => return,
        }
    }
});

/// Takes blocks as a client does: the next, or one that it has. The file has fewer than 65536.
fn receive(transfer: &Transfer, file: &mut Vec<Bytes>) {
    for packet in transfer.window() {
        match packet {
            Packet::Data { block, data } => {
                assert!(data.len() <= usize::from(MAX_BLKSIZE));
                if usize::from(block) == file.len() + 1 {
                    file.push(data);
                } else {
                    assert_eq!(file.get(usize::from(block) - 1), Some(&data));
                }
            }
            Packet::OptionAck(_) => assert!(file.is_empty()),
            other => panic!("a server does not send {other:?}"),
        }
    }
}
