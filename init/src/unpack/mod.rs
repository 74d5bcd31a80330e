//! From chunks to a root file system: each chunk is verified, decoded, extracted and freed, by several threads at once.
//!
//! ```text
//! directories (one chunk)  ->  entries (all threads)  ->  finish (one chunk)
//! ```
//! A chunk is verified as a whole before the first byte of it is decoded, so no byte of a damaged chunk becomes visible in
//! the root, and decoded no further than the manifest says. Memory beside the root: a decoder and a buffer a thread, and
//! what [`source`] holds.

pub(crate) mod blocks;
mod extract;
mod limit;
mod metadata;
mod parents;
mod pax;
mod source;
mod sparse;

use std::io::{self, BufRead, BufReader, Read};
use std::num::NonZeroUsize;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use bootspec::initramfs::chunk_path;
use bootspec::manifest::{Compression, RootArchive};
use rustix::fs::{CWD, Mode, OFlags, openat};
use xz2::stream::Stream;

use limit::Limited;

pub use extract::{Existing, ExtractError, extract};
pub use source::{Carried, ChunkError, ChunkSource, Fetched, unpacking_order};

use crate::fetch::FetchError;
use crate::kmsg;
use crate::threads::run_on;

/// Files are written in parts of at most this size. More falls out of the processor's caches.
const TAR_BYTES: usize = 128 * 1024;
/// A decoder that asks for more is refused: the largest dictionary that any xz preset uses is half of it.
const XZ_MEMORY_LIMIT_BYTES: u64 = 128 << 20;

/// The root could not be unpacked.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// A chunk is not to be had as the manifest describes it.
    #[error(transparent)]
    Chunk(#[from] ChunkError),
    /// A chunk cannot be decoded or its entries cannot be created.
    #[error("cannot unpack {chunk}")]
    Extract {
        /// The chunk, by its path in the initramfs.
        chunk: String,
        /// Why not.
        #[source]
        source: ExtractError,
    },
    /// The directory to unpack into cannot be opened.
    #[error("cannot open {path}")]
    Target {
        /// The directory.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// Unpacks the chunks of `archive` that `source` hands out into the empty directory `target`.
pub fn unpack(
    source: &impl ChunkSource,
    archive: &RootArchive,
    target: &Path,
    workers: NonZeroUsize,
) -> Result<(), UnpackError> {
    let _umask = Umask::clear();
    let target = open_target(target)?;
    let tar_bytes = archive.chunks.iter().fold(0u64, |sum, chunk| sum.saturating_add(chunk.tar_bytes));
    let unpacker = Unpacker {
        source,
        archive,
        target: &target,
        progress: Mutex::new(kmsg::Progress::new("unpacked", tar_bytes)),
    };
    let chunks = archive.chunks.len();
    unpacker.unpack_chunks(1.min(chunks), NonZeroUsize::MIN)?;
    unpacker.unpack_chunks(chunks.saturating_sub(2), workers)?;
    unpacker.unpack_chunks(1.min(chunks.saturating_sub(1)), NonZeroUsize::MIN)
}

/// Extracts the plain `tar` over what is in the directory `target`.
pub fn lay_over(mut tar: &[u8], target: &Path) -> Result<(), UnpackError> {
    let _umask = Umask::clear();
    let target = open_target(target)?;
    let failed = |source| UnpackError::Extract { chunk: "the tar".to_owned(), source };
    extract(&mut tar, &target, Existing::Replace).map_err(failed)
}

struct Unpacker<'a, S> {
    source: &'a S,
    archive: &'a RootArchive,
    target: &'a OwnedFd,
    progress: Mutex<kmsg::Progress>,
}

impl<S: ChunkSource> Unpacker<'_, S> {
    /// Unpacks the next `count` chunks with so many threads; the first error ends the others after the chunk they are at.
    fn unpack_chunks(&self, count: usize, workers: NonZeroUsize) -> Result<(), UnpackError> {
        let left = AtomicUsize::new(count);
        let take = || left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        let work = || {
            while take().is_ok() {
                self.unpack_next().inspect_err(|_| left.store(0, Ordering::Relaxed))?;
            }
            Ok(())
        };
        let threads = NonZeroUsize::new(count).map_or(NonZeroUsize::MIN, |count| count.min(workers));
        run_on(threads, work).into_iter().fold(Ok(()), first_cause)
    }

    fn unpack_next(&self) -> Result<(), UnpackError> {
        let (index, chunk) = self.source.next()?;
        let (compression, tar_bytes) = (self.archive.compression, self.archive.chunks[index].tar_bytes);
        let decoded = decode(compression, chunk, |tar| {
            // Compressed, a terabyte of zeros is a small chunk.
            let tar = Limited::new(tar, tar_bytes);
            extract(&mut BufReader::with_capacity(TAR_BYTES, tar), self.target, Existing::Refuse)
        });
        decoded.map_err(|source| UnpackError::Extract { chunk: chunk_path(index, compression), source })?;
        let mut progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        progress.advance(tar_bytes);
        Ok(())
    }
}

/// Of what two threads have come to, the error that says more. Fetching ends with the error that one thread is handed, and
/// the others find only that it has ended.
fn first_cause(one: Result<(), UnpackError>, other: Result<(), UnpackError>) -> Result<(), UnpackError> {
    match (one, other) {
        (Err(UnpackError::Chunk(ChunkError::Fetch(FetchError::Ended))), Err(cause)) => Err(cause),
        (one, other) => one.and(other),
    }
}

/// Hands the decompressed `chunk` to `extract`.
fn decode(
    compression: Compression,
    chunk: impl BufRead,
    extract: impl FnOnce(&mut dyn Read) -> Result<(), ExtractError>,
) -> Result<(), ExtractError> {
    match compression {
        Compression::Xz => {
            let stream = Stream::new_stream_decoder(XZ_MEMORY_LIMIT_BYTES, 0)
                .map_err(|error| ExtractError::Archive(error.into()))?;
            extract(&mut xz2::bufread::XzDecoder::new_stream(chunk, stream))
        }
        Compression::Zstd => extract(&mut zstd::Decoder::with_buffer(chunk).map_err(ExtractError::Archive)?),
    }
}

fn open_target(path: &Path) -> Result<OwnedFd, UnpackError> {
    openat(CWD, path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|errno| UnpackError::Target { path: path.to_owned(), source: errno.into() })
}

/// Modes are those of the archive while this lives.
struct Umask(Mode);

impl Umask {
    fn clear() -> Self {
        Self(rustix::process::umask(Mode::empty()))
    }
}

impl Drop for Umask {
    fn drop(&mut self) {
        rustix::process::umask(self.0);
    }
}

#[cfg(test)]
mod tests;
