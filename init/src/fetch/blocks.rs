//! A verified piece in memory, given back block by block as it is read.

use std::collections::VecDeque;
use std::io::{self, Read};

/// Large enough that the allocator gives each back to the kernel on its own.
const BLOCK_BYTES: usize = 256 * 1024;

/// The contents of a piece. Reading consumes them: what was read takes no memory any more, so that even a file larger than
/// any other chunk is never in memory twice.
#[derive(Debug, Default)]
pub struct Blocks {
    blocks: VecDeque<Vec<u8>>,
    /// How much of the first block was read.
    position: usize,
}

impl Blocks {
    /// A block for the next of `missing_bytes`.
    pub(super) fn allocate(missing_bytes: u64) -> Vec<u8> {
        vec![0; usize::try_from(missing_bytes).map_or(BLOCK_BYTES, |missing| missing.min(BLOCK_BYTES))]
    }

    pub(super) fn push(&mut self, block: Vec<u8>) {
        self.blocks.push_back(block);
    }
}

impl Read for Blocks {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let Some(first) = self.blocks.front() else { return Ok(0) };
            let rest = &first[self.position..];
            if rest.is_empty() {
                self.blocks.pop_front();
                self.position = 0;
                continue;
            }
            let length = rest.len().min(buffer.len());
            buffer[..length].copy_from_slice(&rest[..length]);
            self.position += length;
            return Ok(length);
        }
    }
}
