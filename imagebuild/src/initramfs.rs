//! Composes the initramfs: concatenated newc archives (kernel: Documentation/driver-api/early-userspace/buffer-format).
//!
//! 1. Init's segment, gzip-compressed, since every kernel reads gzip: init, the rescue busybox, the directories and the
//!    console that init needs before it has mounted anything.
//! 2. The root's segment, not compressed: the manifest and the root archive's chunks, which are compressed already.
//!    init unlinks each chunk as it is consumed.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use bootspec::initramfs::{BOOTNODE_DIR, BUSYBOX, CHUNKS_DIR, INIT, MANIFEST, chunk_path};
use bootspec::manifest::{Manifest, Root};
use cpio::newc;
use flate2::Compression;
use flate2::write::GzEncoder;

const DIRECTORY: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const DATA: u32 = 0o100_644;
const CONSOLE: u32 = 0o020_600;
/// The kernel recognises an uncompressed archive only at a multiple of this (init/initramfs.c).
const ALIGNMENT: usize = 4;

/// The programs that ride in init's segment.
#[derive(Clone, Debug)]
pub struct Programs {
    /// PID 1, a static executable.
    pub init: PathBuf,
    /// A static busybox for the rescue shell.
    pub busybox: Option<PathBuf>,
}

/// The initramfs cannot be composed.
#[derive(Debug, thiserror::Error)]
pub enum InitramfsError {
    /// A file that goes into it cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The result cannot be written.
    #[error("cannot write the initramfs")]
    Write(#[source] io::Error),
    /// A chunk is shorter than the manifest says.
    #[error("{name}: expected {expected} bytes, the root archive has {found} left")]
    Short {
        /// The member of the initramfs.
        name: String,
        /// Bytes that the manifest promises.
        expected: u32,
        /// Bytes that were there.
        found: u64,
    },
    /// newc holds lengths in 32 bits.
    #[error("chunk {index} has {size_bytes} bytes, but the initramfs format ends at 4 GiB a file")]
    TooLarge {
        /// Position in the chunk table.
        index: usize,
        /// Its compressed length.
        size_bytes: u64,
    },
}

/// Writes the complete initramfs to `out`. `archive` is the image's root archive, if it has a root.
pub fn compose(
    programs: &Programs,
    manifest: &Manifest,
    archive: Option<&Path>,
    out: &mut impl Write,
) -> Result<(), InitramfsError> {
    let segment = init_segment(programs)?;
    out.write_all(&segment).map_err(InitramfsError::Write)?;
    root_segment(manifest, archive, out)
}

/// The first segment, padded so that the second one begins aligned.
fn init_segment(programs: &Programs) -> Result<Vec<u8>, InitramfsError> {
    let gzip = GzEncoder::new(Vec::new(), Compression::best());
    let mut archive = Newc::new(gzip);
    for directory in ["bin", "dev", "proc", "run", "sys"] {
        archive.add(directory, DIRECTORY, b"")?;
    }
    archive.add_console()?;
    archive.add(INIT, PROGRAM, &read(&programs.init)?)?;
    if let Some(busybox) = &programs.busybox {
        archive.add(BUSYBOX, PROGRAM, &read(busybox)?)?;
    }
    let mut segment = archive.finish()?.finish().map_err(InitramfsError::Write)?;
    segment.resize(segment.len().next_multiple_of(ALIGNMENT), 0);
    Ok(segment)
}

fn root_segment(
    manifest: &Manifest,
    archive: Option<&Path>,
    out: &mut impl Write,
) -> Result<(), InitramfsError> {
    let mut segment = Newc::new(out);
    segment.add(BOOTNODE_DIR, DIRECTORY, b"")?;
    segment.add(MANIFEST, DATA, manifest.carried().to_json().as_bytes())?;
    if let (Some(Root::Archive(root)), Some(path)) = (&manifest.root, archive) {
        segment.add(CHUNKS_DIR, DIRECTORY, b"")?;
        let unreadable = |source| InitramfsError::Read { path: path.to_owned(), source };
        let mut file = File::open(path).map_err(unreadable)?;
        for (index, chunk) in root.chunks.iter().enumerate() {
            file.seek(SeekFrom::Start(chunk.offset_bytes)).map_err(unreadable)?;
            let size_bytes = u32::try_from(chunk.size_bytes)
                .map_err(|_| InitramfsError::TooLarge { index, size_bytes: chunk.size_bytes })?;
            segment.copy(&chunk_path(index, root.compression), DATA, size_bytes, &mut file)?;
        }
    }
    segment.finish()?;
    Ok(())
}

fn read(path: &Path) -> Result<Vec<u8>, InitramfsError> {
    std::fs::read(path).map_err(|source| InitramfsError::Read { path: path.to_owned(), source })
}

/// A newc archive being written. All times and owners are zero, inode numbers count up, so the same members give the
/// same bytes.
struct Newc<W: Write> {
    out: W,
    next_inode: u32,
}

impl<W: Write> Newc<W> {
    fn new(out: W) -> Self {
        Self { out, next_inode: 1 }
    }

    fn member(&mut self, name: &str, mode: u32) -> newc::Builder {
        let inode = self.next_inode;
        self.next_inode += 1;
        newc::Builder::new(name).ino(inode).mode(mode).nlink(1)
    }

    fn add(&mut self, name: &str, mode: u32, contents: &[u8]) -> Result<(), InitramfsError> {
        let size_bytes =
            u32::try_from(contents.len()).expect("programs and manifests are far smaller than 4 GiB");
        self.copy(name, mode, size_bytes, &mut &contents[..])
    }

    /// Adds a file whose contents are the next `size_bytes` of `from`.
    fn copy(
        &mut self,
        name: &str,
        mode: u32,
        size_bytes: u32,
        from: &mut impl Read,
    ) -> Result<(), InitramfsError> {
        let mut writer = self.member(name, mode).write(&mut self.out, size_bytes);
        let copied =
            io::copy(&mut from.take(size_bytes.into()), &mut writer).map_err(InitramfsError::Write)?;
        if copied != u64::from(size_bytes) {
            return Err(InitramfsError::Short { name: name.to_owned(), expected: size_bytes, found: copied });
        }
        writer.finish().map_err(InitramfsError::Write)?;
        Ok(())
    }

    /// The kernel opens /dev/console for PID 1 before anything is mounted: character device 5:1.
    fn add_console(&mut self) -> Result<(), InitramfsError> {
        let console = self.member("dev/console", CONSOLE).rdev_major(5).rdev_minor(1);
        console.write(&mut self.out, 0).finish().map_err(InitramfsError::Write)?;
        Ok(())
    }

    fn finish(self) -> Result<W, InitramfsError> {
        newc::trailer(self.out).map_err(InitramfsError::Write)
    }
}
