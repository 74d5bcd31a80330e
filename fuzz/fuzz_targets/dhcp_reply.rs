//! Packets that init gets while it asks for an address. They are made to look like answers to its own question, or nearly
//! all would be dropped unread.
#![no_main]

use std::time::{Duration, Instant};

use bootnode_fuzz::packets;
use bootspec::MacAddr;
use init::network::dhcp::client::Client;
use init::network::dhcp::wire::Reply;
use libfuzzer_sys::fuzz_target;

const MAC: MacAddr = MacAddr::new([0xfc, 0xab, 0x14, 0xe8, 0x66, 0x02]);
/// The longest pause between two messages, a quarter longer.
const MAX_PAUSE: Duration = Duration::from_secs(10);

fuzz_target!(|data: &[u8]| {
    let _ = Reply::parse(data);
    let mut now = Instant::now();
    let mut client = Client::new(MAC, 0x1234_5678, now);
    let mut xid = [0; 4];
    for packet in packets(data) {
        if client.next_deadline() <= now {
            let sent = client.transmit(now);
            xid.copy_from_slice(&sent[4..8]);
            assert!(client.next_deadline() > now && client.next_deadline() <= now + MAX_PAUSE);
        }
        let mut packet = packet.to_vec();
        if packet.len() >= 240 {
            packet[0] = 2;
            packet[4..8].copy_from_slice(&xid);
            packet[28..34].copy_from_slice(&MAC.octets());
            packet[236..240].copy_from_slice(&[99, 130, 83, 99]);
        }
        now += Duration::from_millis(u64::from(*packet.last().unwrap_or(&0)) * 64);
        if let Some(lease) = client.receive(now, &packet) {
            let address = lease.address.address;
            assert!(!address.is_unspecified() && !address.is_multicast() && !address.is_loopback());
            return;
        }
        assert!(client.next_deadline() <= now + MAX_PAUSE);
    }
});
