//! What a switch, or whoever is at the other end of the wire, says by LLDP. What is read goes through JSON as facts do.
#![no_main]

use bootspec::facts::Neighbour;
use init::discover::lldp::wire::{Advertisement, parse};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some(Advertisement::Port(neighbour)) = parse(data) else { return };
    let json = serde_json::to_vec(&neighbour).expect("a neighbour is JSON");
    let read: Neighbour = serde_json::from_slice(&json).expect("bootserve takes what init sends");
    assert_eq!(read, neighbour);
});
