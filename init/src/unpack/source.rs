//! Where chunks come from: the initramfs that carries them, or the network.
//!
//! Either hands out a chunk only when its SHA-256 is the manifest's, the chunk of directories first and the final one last,
//! and frees it while it is read.

use std::cmp::Reverse;
use std::fs::{self, File};
use std::io::{self, BufRead, Read};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::Receiver;
use std::sync::{Mutex, PoisonError};

use bootspec::Sha256Digest;
use bootspec::manifest::{Chunk, RootArchive};
use memmap2::Mmap;
use rustix::fs::{FallocateFlags, fallocate};
use sha2::{Digest, Sha256};

use crate::fetch::{Blocks, FetchError};
use crate::sys::map;

/// How much of a chunk's file is read before its memory is given back.
const FREE_BYTES: usize = 4 << 20;

/// There is no chunk to unpack.
#[derive(Debug, thiserror::Error)]
pub enum ChunkError {
    /// A chunk is not what the manifest says. Nothing of it was unpacked.
    #[error("{path} is damaged: it has SHA-256 {found}, the manifest says {expected}")]
    Damaged {
        /// The chunk.
        path: PathBuf,
        /// Digest according to the manifest.
        expected: Sha256Digest,
        /// Digest of what is there.
        found: Sha256Digest,
    },
    /// A chunk cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// The chunk.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A chunk cannot be fetched.
    #[error("cannot fetch the root file system")]
    Fetch(#[source] FetchError),
}

/// Hands out the chunks of an archive, each once, to several threads.
pub trait ChunkSource: Sync {
    /// A verified chunk, still compressed.
    type Chunk: BufRead;

    /// The next chunk and its place in the manifest's table. Asked as often as there are chunks.
    fn next(&self) -> Result<(usize, Self::Chunk), ChunkError>;
}

/// The chunks that ride in the initramfs.
pub struct Carried<'a> {
    paths: &'a [PathBuf],
    archive: &'a RootArchive,
    order: Vec<usize>,
    next: AtomicUsize,
}

impl<'a> Carried<'a> {
    /// The chunks at `paths`, which `archive` describes.
    pub fn new(paths: &'a [PathBuf], archive: &'a RootArchive) -> Self {
        Self { paths, archive, order: unpacking_order(&archive.chunks), next: AtomicUsize::new(0) }
    }
}

/// The order in which chunks at hand are unpacked: of those that are independent of each other the largest first, so that
/// no thread begins with a large one when the others are done.
pub fn unpacking_order(chunks: &[Chunk]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..chunks.len()).collect();
    if let [_, middle @ .., _] = order.as_mut_slice() {
        middle.sort_by_key(|index| Reverse(chunks[*index].tar_bytes));
    }
    order
}

impl ChunkSource for Carried<'_> {
    type Chunk = Consumed;

    fn next(&self) -> Result<(usize, Consumed), ChunkError> {
        let index = self.order[self.next.fetch_add(1, Ordering::Relaxed)];
        let (path, expected) = (&self.paths[index], self.archive.chunks[index].sha256);
        let unreadable = |source| ChunkError::Read { path: path.clone(), source };
        let file = File::options().read(true).write(true).open(path).map_err(unreadable)?;
        let bytes = map(&file).map_err(unreadable)?;
        let found = Sha256Digest::new(Sha256::digest(&bytes).into());
        if found != expected {
            return Err(ChunkError::Damaged { path: path.clone(), expected, found });
        }
        // The open file and its mapping are the last that hold it.
        fs::remove_file(path).map_err(unreadable)?;
        Ok((index, Consumed { file, bytes, read_bytes: 0, freed_bytes: 0 }))
    }
}

/// A file whose memory is given back as it is read, so that a large one is not in memory twice.
pub struct Consumed {
    file: File,
    bytes: Mmap,
    read_bytes: usize,
    freed_bytes: usize,
}

impl BufRead for Consumed {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        // No more than what is freed at a time: a decoder may take all that it is shown at once.
        let end = self.bytes.len().min(self.read_bytes + FREE_BYTES);
        Ok(&self.bytes[self.read_bytes..end])
    }

    fn consume(&mut self, length: usize) {
        self.read_bytes += length;
        let unfreed_bytes = self.read_bytes - self.freed_bytes;
        if unfreed_bytes >= FREE_BYTES {
            // What is mapped of it is never looked at again. A ramfs has no holes: there, the memory is given back with the file.
            let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            let _ = fallocate(&self.file, flags, self.freed_bytes as u64, unfreed_bytes as u64);
            self.freed_bytes = self.read_bytes;
        }
    }
}

impl Read for Consumed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.fill_buf()?.read(buffer)?;
        self.consume(length);
        Ok(length)
    }
}

/// The chunks as they come from the network, in the order of the archive.
pub struct Fetched {
    chunks: Mutex<(usize, Receiver<Result<Blocks, FetchError>>)>,
}

impl Fetched {
    /// What `pieces` brings are the chunks of the archive.
    pub fn new(pieces: Receiver<Result<Blocks, FetchError>>) -> Self {
        Self { chunks: Mutex::new((0, pieces)) }
    }
}

impl ChunkSource for Fetched {
    type Chunk = Blocks;

    fn next(&self) -> Result<(usize, Blocks), ChunkError> {
        let mut chunks = self.chunks.lock().unwrap_or_else(PoisonError::into_inner);
        let blocks = chunks.1.recv().unwrap_or(Err(FetchError::Ended)).map_err(ChunkError::Fetch)?;
        let index = chunks.0;
        chunks.0 += 1;
        Ok((index, blocks))
    }
}
