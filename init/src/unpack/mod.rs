//! From chunks to a root file system: each chunk is verified, decoded, extracted and unlinked, by several threads at once.
//!
//! ```text
//! directories (one chunk)  ->  entries (all threads, largest chunk first)  ->  finish (one chunk)
//! ```
//! A chunk is hashed as a whole before the first byte of it is decoded, so no byte of a damaged chunk becomes visible in
//! the root. Memory beside the root: a decoder and a copy buffer a thread.

mod extract;
mod metadata;
mod parents;
mod pax;
mod sparse;

use std::cmp::Reverse;
use std::fs::{self, File};
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::num::NonZeroUsize;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use bootspec::Sha256Digest;
use bootspec::manifest::{Chunk, Compression, RootArchive};
use rustix::fs::{CWD, Mode, OFlags, openat};
use sha2::{Digest, Sha256};
use xz2::stream::Stream;

pub use extract::ExtractError;

use crate::kmsg;

const READ_BYTES: usize = 256 * 1024;
/// A decoder that asks for more is refused: the largest dictionary that any xz preset uses is half of it.
const XZ_MEMORY_LIMIT_BYTES: u64 = 128 << 20;

/// The root could not be unpacked.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// A chunk is not what the manifest says. Nothing of it was unpacked.
    #[error("{path} is damaged: it has SHA-256 {found}, the manifest says {expected}")]
    Digest {
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
    /// A chunk cannot be decoded or its entries cannot be created.
    #[error("cannot unpack {path}")]
    Extract {
        /// The chunk.
        path: PathBuf,
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

/// Unpacks the chunks at `paths`, which `archive` describes, into the empty directory `target`, and unlinks them.
pub fn unpack(
    paths: &[PathBuf],
    archive: &RootArchive,
    target: &Path,
    workers: NonZeroUsize,
) -> Result<(), UnpackError> {
    let _umask = Umask::clear();
    let target = open_target(target)?;
    let mut chunks = paths.iter().zip(&archive.chunks);
    let first = chunks.next();
    let last = chunks.next_back();
    // The largest first, so that no thread begins with a large one when the others are done.
    let mut middle: Vec<_> = chunks.collect();
    middle.sort_by_key(|(_, chunk)| Reverse(chunk.tar_bytes));

    let unpacker = Unpacker { archive, target: &target, progress: Meter::new(archive) };
    unpacker.each(first.as_slice(), NonZeroUsize::MIN)?;
    unpacker.each(&middle, workers)?;
    unpacker.each(last.as_slice(), NonZeroUsize::MIN)
}

struct Unpacker<'a> {
    archive: &'a RootArchive,
    target: &'a OwnedFd,
    progress: Meter,
}

impl Unpacker<'_> {
    /// Unpacks `chunks` with so many threads; the first error ends the others after the chunk they are at.
    fn each(&self, chunks: &[(&PathBuf, &Chunk)], workers: NonZeroUsize) -> Result<(), UnpackError> {
        let next = AtomicUsize::new(0);
        let work = || {
            while let Some((path, chunk)) = chunks.get(next.fetch_add(1, Ordering::Relaxed)) {
                self.unpack_chunk(path, chunk)
                    .inspect_err(|_| next.store(chunks.len(), Ordering::Relaxed))?;
            }
            Ok(())
        };
        std::thread::scope(|scope| {
            let others: Vec<_> = (1..workers.get()).map(|_| scope.spawn(work)).collect();
            let own = work();
            others.into_iter().fold(own, |result, other| {
                result.and(other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            })
        })
    }

    fn unpack_chunk(&self, path: &Path, chunk: &Chunk) -> Result<(), UnpackError> {
        let unreadable = |source| UnpackError::Read { path: path.to_owned(), source };
        let mut file = File::open(path).map_err(unreadable)?;
        let found = hash(&mut file).map_err(unreadable)?;
        if found != chunk.sha256 {
            return Err(UnpackError::Digest { path: path.to_owned(), expected: chunk.sha256, found });
        }
        file.seek(SeekFrom::Start(0)).map_err(unreadable)?;
        let failed = |source| UnpackError::Extract { path: path.to_owned(), source };
        let decoder =
            decoder(self.archive.compression, file).map_err(|error| failed(ExtractError::Archive(error)))?;
        extract::extract(decoder, self.target).map_err(failed)?;
        fs::remove_file(path).map_err(unreadable)?;
        self.progress.advance(chunk.tar_bytes);
        Ok(())
    }
}

fn hash(file: &mut File) -> io::Result<Sha256Digest> {
    let mut digest = Sha256::new();
    let mut buffer = vec![0; READ_BYTES];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(Sha256Digest::new(digest.finalize().into())),
            length => digest.update(&buffer[..length]),
        }
    }
}

fn decoder(compression: Compression, file: File) -> io::Result<Box<dyn Read>> {
    let file = BufReader::with_capacity(READ_BYTES, file);
    Ok(match compression {
        Compression::Xz => {
            let stream = Stream::new_stream_decoder(XZ_MEMORY_LIMIT_BYTES, 0)?;
            Box::new(xz2::bufread::XzDecoder::new_stream(file, stream))
        }
        Compression::Zstd => Box::new(zstd::Decoder::with_buffer(file)?),
    })
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

/// Logs how far unpacking has come, each tenth once.
struct Meter {
    total_bytes: u64,
    state: Mutex<MeterState>,
}

#[derive(Default)]
struct MeterState {
    done_bytes: u64,
    tenths: u64,
}

impl Meter {
    fn new(archive: &RootArchive) -> Self {
        let total_bytes = archive.chunks.iter().fold(0u64, |sum, chunk| sum.saturating_add(chunk.tar_bytes));
        Self { total_bytes, state: Mutex::default() }
    }

    fn advance(&self, bytes: u64) {
        let mut state = self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        state.done_bytes = state.done_bytes.saturating_add(bytes);
        let tenths = u64::try_from(u128::from(state.done_bytes) * 10 / u128::from(self.total_bytes.max(1)))
            .unwrap_or(u64::MAX);
        if tenths > state.tenths {
            state.tenths = tenths;
            kmsg::info(&format!("unpacked {} %", tenths.min(10) * 10));
        }
    }
}

#[cfg(test)]
mod tests;
