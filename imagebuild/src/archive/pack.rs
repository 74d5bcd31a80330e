//! Compresses the planned chunks on all cores and writes them end to end.

use std::fs::File;
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use bootspec::manifest::{Chunk, Compression, RootArchive, Stage};
use bootspec::store::ArtifactName;

use super::content::{Content, read_content};
use super::encoder::{Encoded, Encoder, decoder_bytes};
use super::plan::{ChunkPlan, plan};
use super::scan::{Entry, Kind, ScanError};
use super::tar_entry::{END_OF_ARCHIVE, write_entry};
use crate::interrupt;
use crate::progress::Step;

/// tmpfs rounds each file up to whole pages.
const PAGE_BYTES: u64 = 4096;

/// How an archive is made.
#[derive(Clone, Copy, Debug)]
pub struct PackOptions {
    /// Compression of the chunks.
    pub compression: Compression,
    /// Its level: xz 0 to 9, zstd 1 to 22.
    pub level: u32,
    /// Whether code for x86 goes through xz's filter for it, which makes it smaller and which busybox cannot read.
    pub x86_filter: bool,
    /// Tar bytes after which a new chunk begins.
    pub chunk_bytes: u64,
    /// Chunks compressed at once. Each xz encoder at level 6 takes 140 MiB.
    pub jobs: NonZeroUsize,
    /// SOURCE_DATE_EPOCH: modification times after it are set back to it.
    pub source_date: Option<i64>,
}

/// The archive cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// The tree cannot be read.
    #[error(transparent)]
    Scan(#[from] ScanError),
    /// A file or device of the tree cannot be packed.
    #[error("cannot pack {path}")]
    Entry {
        /// Path in the tree.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The archive cannot be written.
    #[error("cannot write {path}")]
    Write {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The user asked to stop.
    #[error("interrupted")]
    Interrupted,
}

/// Packs the tree at `root`, of which `entries` is the scan, into `dir`/`rootfs.tar.*` and describes the archive. Chunks are held in anonymous files in
/// `dir` until they are complete, so memory does not grow with the tree.
pub fn pack(
    root: &Path,
    mut entries: Vec<Entry>,
    dir: &Path,
    options: PackOptions,
    step: &Step,
) -> Result<RootArchive, PackError> {
    if let Some(latest) = options.source_date {
        entries.iter_mut().for_each(|entry| entry.clamp_mtime(latest));
    }
    step.set_total(entries.iter().map(apparent_bytes).sum());
    let contents = entries
        .iter()
        .map(|entry| read_content(root, entry).map_err(|source| cannot_pack(entry, source)))
        .collect::<Result<Vec<_>, _>>()?;
    let chunks = plan(&entries, &contents, options.chunk_bytes);
    let packer = Packer { root, dir, options, step, chunks: &chunks };
    let packed = packer.pack_all()?;

    let file: ArtifactName =
        format!("rootfs.{}", options.compression.tar_suffix()).parse().expect("the suffixes are plain names");
    let path = dir.join(file.as_str());
    let table = concatenate(&path, &chunks, &packed).map_err(|source| PackError::Write { path, source })?;
    Ok(RootArchive {
        file,
        compression: options.compression,
        chunks: table,
        unpacked_bytes: packed.iter().map(|chunk| chunk.data_bytes).sum(),
        page_rounded_bytes: packed.iter().map(|chunk| chunk.page_rounded_bytes).sum(),
        inodes: entries.iter().filter(|entry| !matches!(entry.kind, Kind::HardLink(_))).count() as u64,
        decoder_bytes: decoder_bytes(options.compression, options.level),
    })
}

fn cannot_pack(entry: &Entry, source: io::Error) -> PackError {
    PackError::Entry { path: entry.path.clone(), source }
}

fn apparent_bytes(entry: &Entry) -> u64 {
    if let Kind::File { size_bytes, .. } = entry.kind { size_bytes } else { 0 }
}

struct Packer<'a> {
    root: &'a Path,
    dir: &'a Path,
    options: PackOptions,
    step: &'a Step,
    chunks: &'a [ChunkPlan<'a>],
}

/// A compressed chunk in a file of its own.
struct PackedChunk {
    file: File,
    encoded: Encoded,
    data_bytes: u64,
    page_rounded_bytes: u64,
}

impl Packer<'_> {
    /// All chunks, in order, compressed by as many threads as there are jobs.
    fn pack_all(&self) -> Result<Vec<PackedChunk>, PackError> {
        let next = AtomicUsize::new(0);
        let done: Mutex<Vec<Option<PackedChunk>>> = Mutex::new(self.chunks.iter().map(|_| None).collect());
        std::thread::scope(|scope| {
            let workers: Vec<_> = (0..self.options.jobs.get().min(self.chunks.len()))
                .map(|_| scope.spawn(|| self.work(&next, &done)))
                .collect();
            workers.into_iter().try_for_each(|worker| worker.join().expect("packing does not panic"))
        })?;
        let done = done.into_inner().expect("no worker panicked");
        Ok(done.into_iter().map(|chunk| chunk.expect("every chunk was packed, or a worker failed")).collect())
    }

    fn work(&self, next: &AtomicUsize, done: &Mutex<Vec<Option<PackedChunk>>>) -> Result<(), PackError> {
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(chunk) = self.chunks.get(index) else { return Ok(()) };
            let packed = self.pack_chunk(chunk).inspect_err(|_| {
                // The other workers find nothing more to do.
                next.store(self.chunks.len(), Ordering::Relaxed);
            })?;
            done.lock().expect("no worker panicked")[index] = Some(packed);
        }
    }

    fn pack_chunk(&self, chunk: &ChunkPlan<'_>) -> Result<PackedChunk, PackError> {
        let failed = |source| PackError::Write { path: self.dir.to_owned(), source };
        let file = tempfile::tempfile_in(self.dir).map_err(failed)?;
        let PackOptions { compression, level, x86_filter, .. } = self.options;
        let x86 = x86_filter && chunk.content == Content::X86Code;
        let mut encoder = Encoder::new(compression, level, x86, BufWriter::new(file)).map_err(failed)?;
        let (mut data_bytes, mut page_rounded_bytes) = (0, 0);
        for entry in &chunk.entries {
            if interrupt::requested() {
                return Err(PackError::Interrupted);
            }
            let bytes = write_entry(self.root, entry, chunk.stage, &mut encoder).map_err(|source| {
                // What is read is not to blame for that.
                match source.kind() {
                    io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => failed(source),
                    _ => cannot_pack(entry, source),
                }
            })?;
            data_bytes += bytes;
            page_rounded_bytes += bytes.next_multiple_of(PAGE_BYTES);
            self.step.advance(apparent_bytes(entry));
        }
        if chunk.stage == Stage::Finish {
            encoder.write_all(&END_OF_ARCHIVE).map_err(failed)?;
        }
        let (out, encoded) = encoder.finish().map_err(failed)?;
        let file = out.into_inner().map_err(|error| failed(error.into_error()))?;
        Ok(PackedChunk { file, encoded, data_bytes, page_rounded_bytes })
    }
}

/// Writes the chunks one after the other to `path` and returns their table.
fn concatenate(path: &Path, plans: &[ChunkPlan<'_>], packed: &[PackedChunk]) -> io::Result<Vec<Chunk>> {
    let mut out = File::create_new(path)?;
    let mut offset_bytes = 0;
    let mut table = Vec::new();
    for (plan, PackedChunk { file, encoded, .. }) in plans.iter().zip(packed) {
        let mut file = file;
        file.seek(SeekFrom::Start(0))?;
        io::copy(&mut file, &mut out)?;
        table.push(Chunk {
            stage: plan.stage,
            offset_bytes,
            size_bytes: encoded.output_bytes,
            tar_bytes: encoded.input_bytes,
            sha256: encoded.sha256,
        });
        offset_bytes += encoded.output_bytes;
    }
    Ok(table)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::scan;
    use crate::progress::Progress;
    use std::fs;
    use std::time::{Duration, SystemTime};

    /// The names and times in an archive of `root`.
    fn packed_times(root: &Path, source_date: Option<i64>) -> Vec<(String, u64)> {
        let dir = tempfile::tempdir().unwrap();
        let options = PackOptions {
            compression: Compression::Zstd,
            level: 1,
            x86_filter: true,
            chunk_bytes: 1 << 20,
            jobs: NonZeroUsize::MIN,
            source_date,
        };
        let archive =
            pack(root, scan(root).unwrap(), dir.path(), options, &Progress::quiet().step("pack")).unwrap();
        let file = File::open(dir.path().join(archive.file.as_str())).unwrap();
        let mut tar = tar::Archive::new(zstd::Decoder::new(file).unwrap());
        let entries = tar.entries().unwrap().map(|entry| {
            let mut entry = entry.unwrap();
            let has_fraction = entry.pax_extensions().unwrap().is_some();
            assert!(source_date.is_none() || !has_fraction, "a time between two seconds is left");
            let path = entry.path().unwrap().display().to_string();
            (path, entry.header().mtime().unwrap())
        });
        entries.collect()
    }

    #[test]
    fn times_after_the_source_date_are_set_back_to_it() {
        let root = tempfile::tempdir().unwrap();
        let set_time = |name: &str, time: Duration| {
            let file = File::create(root.path().join(name)).unwrap();
            file.set_modified(SystemTime::UNIX_EPOCH + time).unwrap();
        };
        set_time("old", Duration::from_secs(1_400_000_000));
        set_time("same", Duration::new(1_500_000_000, 7));
        fs::write(root.path().join("new"), "").unwrap();
        let times = packed_times(root.path(), Some(1_500_000_000));
        // The root comes twice: at the end with its time.
        let expected = [
            ("./", 1_500_000_000),
            ("new", 1_500_000_000),
            ("old", 1_400_000_000),
            ("same", 1_500_000_000),
            ("./", 1_500_000_000),
        ];
        assert_eq!(times, expected.map(|(name, time)| (name.to_owned(), time)));
        let unchanged = packed_times(root.path(), None);
        assert!(unchanged.iter().any(|(name, time)| name == "new" && *time > 1_500_000_000), "{unchanged:?}");
    }
}
