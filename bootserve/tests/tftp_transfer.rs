//! The TFTP server's state machine against a client, over networks of every kind.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/tftp_network.rs"]
mod network;

use bootserve::tftp::transfer::{MAX_FIRST_REPEATS, TransferError};
use bootserve::tftp::wire::{Request, TftpOption};
use network::{Fate, Manner, run};
use proptest::prelude::*;

fn request(blksize: u16, windowsize: u16) -> Request {
    let option = |name: &str, value: u16| TftpOption { name: name.into(), value: value.to_string() };
    let options = vec![option("blksize", blksize), option("windowsize", windowsize)];
    Request { filename: "x".into(), mode: "octet".into(), options }
}

fn file(size: usize) -> Vec<u8> {
    (0..size).map(|n| (n * 7 + n / 251) as u8).collect()
}

fn any_manner() -> impl Strategy<Value = Manner> {
    prop_oneof![Just(Manner::Once), Just(Manner::EachTime), Just(Manner::Silent)]
}

fn any_fates() -> impl Strategy<Value = Vec<Fate>> {
    let fate = prop_oneof![
        4 => Just(Fate::Arrives),
        1 => Just(Fate::IsLost),
        1 => Just(Fate::IsDoubled),
        1 => Just(Fate::IsLate),
    ];
    prop::collection::vec(fate, 0..200)
}

proptest! {
    #[test]
    fn the_client_has_the_whole_file_whatever_the_network_does(
        fates in any_fates(), manner in any_manner(), size in 0_usize..600, windowsize in 1_u16..9
    ) {
        let outcome = run(&request(8, windowsize), file(size).into(), fates, manner);
        match outcome.result {
            Ok(()) => prop_assert_eq!(outcome.file, file(size)),
            // It may be that only the last acknowledgements were lost.
            Err(TransferError::TimedOut { .. }) => prop_assert!(outcome.lost > MAX_FIRST_REPEATS as usize),
            Err(other) => prop_assert!(false, "{:?}", other),
        }
    }

    /// The Sorcerer's Apprentice: each packet is doubled, and yet each block is sent once.
    #[test]
    fn a_network_that_doubles_everything_has_no_block_sent_twice(
        manner in prop_oneof![Just(Manner::Once), Just(Manner::Silent)], size in 0_usize..600, windowsize in 1_u16..9
    ) {
        let outcome = run(&request(8, windowsize), file(size).into(), [Fate::IsDoubled].into_iter().cycle().take(10_000), manner);
        prop_assert_eq!(outcome.result, Ok(()));
        prop_assert_eq!(outcome.file, file(size));
        prop_assert_eq!(outcome.data_packets, size / 8 + 1);
    }

    /// What goes wrong once costs its window, and the one that was begun before the server knew; the rest goes on as before.
    #[test]
    fn one_mishap_costs_no_more_than_two_windows(
        mishap in prop_oneof![Just(Fate::IsLost), Just(Fate::IsDoubled), Just(Fate::IsLate)],
        at in 0_usize..80, manner in any_manner(), size in 0_usize..600, windowsize in 1_u16..9
    ) {
        let fates = (0..=at).map(|n| if n == at { mishap } else { Fate::Arrives });
        let outcome = run(&request(8, windowsize), file(size).into(), fates, manner);
        prop_assert_eq!(outcome.result, Ok(()));
        prop_assert_eq!(outcome.file, file(size));
        prop_assert!(outcome.data_packets <= size / 8 + 1 + 2 * usize::from(windowsize), "{}", outcome.data_packets);
    }
}

#[test]
fn a_large_file_comes_whole_though_its_block_numbers_roll_over_twice() {
    let size = 140_000 * 8;
    for windowsize in [1, 16] {
        // Some are lost.
        let fates = (1..).map(|n| if n % 5003 == 0 { Fate::IsLost } else { Fate::Arrives });
        let outcome = run(&request(8, windowsize), file(size).into(), fates, Manner::Once);
        assert_eq!(outcome.result, Ok(()));
        assert!(outcome.file == file(size), "windowsize {windowsize}");
    }
}
