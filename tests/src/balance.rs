//! How evenly chunks fall to the threads that unpack them: counted, since few machines have as many processors as a node.
//!
//! Each chunk goes to the thread that is free first, and is taken to cost what its tar is long.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::num::NonZeroUsize;

use serde::Serialize;

/// What falls to the threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Balance {
    /// Tar bytes of the thread that has most of them.
    pub busiest_bytes: u64,
    /// Chunks of the thread that has most of them.
    pub most_chunks: usize,
    /// Tar bytes of each thread if chunks could be cut anywhere.
    pub ideal_bytes: u64,
    /// Length of the largest chunk.
    pub largest_bytes: u64,
}

impl Balance {
    /// Hands `chunks`, the lengths of their tars in the order of unpacking, to `workers` threads.
    pub fn new(chunks: &[u64], workers: NonZeroUsize) -> Self {
        let mut threads: BinaryHeap<Reverse<(u64, usize)>> = vec![Reverse((0, 0)); workers.get()].into();
        for bytes in chunks {
            let Reverse((taken_bytes, taken_chunks)) = threads.pop().expect("there is a thread");
            threads.push(Reverse((taken_bytes + bytes, taken_chunks + 1)));
        }
        let total_bytes: u64 = chunks.iter().sum();
        Self {
            busiest_bytes: threads.iter().map(|Reverse((bytes, _))| *bytes).max().unwrap_or(0),
            most_chunks: threads.iter().map(|Reverse((_, chunks))| *chunks).max().unwrap_or(0),
            ideal_bytes: total_bytes.div_ceil(workers.get() as u64),
            largest_bytes: chunks.iter().copied().max().unwrap_or(0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bootspec::Sha256Digest;
    use bootspec::manifest::{Chunk, Stage};
    use proptest::prelude::*;

    fn check(chunks: &[u64], workers: usize, busiest_bytes: u64, most_chunks: usize) {
        let balance = Balance::new(chunks, NonZeroUsize::new(workers).unwrap());
        assert_eq!((balance.busiest_bytes, balance.most_chunks), (busiest_bytes, most_chunks), "{chunks:?}");
    }

    #[test]
    fn each_chunk_goes_to_who_is_free() {
        check(&[4, 3, 2, 1], 2, 5, 2);
        check(&[1, 1, 1, 1, 16], 2, 18, 3);
        check(&[16; 63], 8, 128, 8);
        check(&[16; 63], 64, 16, 1);
        check(&[16; 65], 64, 32, 2);
        check(&[], 8, 0, 0);
    }

    /// The lengths of `tar_bytes`, in the order in which init unpacks carried chunks.
    fn in_order_of_init(tar_bytes: &[u64]) -> Vec<u64> {
        let chunk = |stage, tar_bytes| Chunk {
            stage,
            offset_bytes: 0,
            size_bytes: 1,
            tar_bytes,
            sha256: Sha256Digest::new([0; 32]),
        };
        let mut chunks = vec![chunk(Stage::Directories, 0)];
        chunks.extend(tar_bytes.iter().map(|&bytes| chunk(Stage::Entries, bytes)));
        chunks.push(chunk(Stage::Finish, 0));
        let order = init::unpack::unpacking_order(&chunks);
        order[1..order.len() - 1].iter().map(|&index| chunks[index].tar_bytes).collect()
    }

    #[test]
    fn one_large_file_at_the_end_of_the_archive_does_not_keep_the_others_waiting() {
        let mut archive = vec![16; 64];
        archive.push(128);
        let workers = NonZeroUsize::new(8).unwrap();
        assert_eq!(Balance::new(&archive, workers).busiest_bytes, 256);
        assert_eq!(Balance::new(&in_order_of_init(&archive), workers).busiest_bytes, 144);
    }

    proptest! {
        #[test]
        fn no_thread_has_more_than_its_share_and_one_chunk(
            chunks in proptest::collection::vec(0u64..1 << 30, 1..200),
            workers in 1usize..=64,
        ) {
            let ordered = in_order_of_init(&chunks);
            prop_assert_eq!(ordered.len(), chunks.len());
            let balance = Balance::new(&ordered, NonZeroUsize::new(workers).unwrap());
            prop_assert!(balance.busiest_bytes >= balance.ideal_bytes.max(balance.largest_bytes));
            prop_assert!(balance.busiest_bytes <= balance.ideal_bytes + balance.largest_bytes);
        }
    }
}
