//! A verified piece in memory, given back block by block as it is read.

use std::collections::VecDeque;
use std::io::{self, BufRead, Read};

/// Large enough that the allocator gives each back to the kernel on its own ([`crate::sys::give_back_large_blocks`]).
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

impl BufRead for Blocks {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.blocks.front().is_some_and(|first| first.len() == self.position) {
            self.blocks.pop_front();
            self.position = 0;
        }
        Ok(self.blocks.front().map_or(&[], |first| &first[self.position..]))
    }

    fn consume(&mut self, length: usize) {
        self.position += length;
    }
}

impl Read for Blocks {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.fill_buf()?.read(buffer)?;
        self.consume(length);
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_read_in_order_and_are_gone_then() {
        let mut blocks = Blocks::default();
        for block in [&b"abc"[..], b"", b"de"] {
            blocks.push(block.to_vec());
        }
        assert_eq!(blocks.fill_buf().unwrap(), b"abc");
        blocks.consume(2);
        assert_eq!(blocks.fill_buf().unwrap(), b"c");
        blocks.consume(1);
        assert_eq!(blocks.fill_buf().unwrap(), b"de");
        assert_eq!(blocks.blocks.len(), 1);
        let mut rest = Vec::new();
        blocks.read_to_end(&mut rest).unwrap();
        assert_eq!(rest, b"de");
        assert!(blocks.fill_buf().unwrap().is_empty() && blocks.blocks.is_empty());
    }
}
