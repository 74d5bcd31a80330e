//! Packets to the TFTP server: a request, and what follows it in the transfer.
#![no_main]

use std::time::Instant;

use bootnode_fuzz::packets;
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
    let mut packets = packets(data);
    let Some(Ok(Packet::Read(request))) = packets.next().map(Packet::parse) else { return };
    let now = Instant::now();
    let (mut transfer, first) = Transfer::start(now, &request, Bytes::from_static(FILE), MAX_BLKSIZE);
    let mut file = Vec::new();
    receive(first, &mut file);
    for packet in packets {
        let step = match Packet::parse(packet) {
            Ok(packet) => transfer.handle(now, packet),
            Err(_) => transfer.time_out(now),
        };
        match step {
            Step::Send(packet) => receive(packet, &mut file),
            Step::Wait => {}
            Step::Done => {
                assert_eq!(file.concat(), FILE);
                return;
            }
            Step::Failed(..) => return,
        }
    }
});

/// Takes a block as a client does: the next, or one that it has.
fn receive(packet: Packet, file: &mut Vec<Bytes>) {
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
