//! Composes the initramfs: concatenated newc archives (kernel: Documentation/driver-api/early-userspace/buffer-format).
//!
//! 0. The microcode's, not compressed, if the root has any: the kernel looks for it before it can unpack anything. A file of
//!    its own in the store too, as the modules' segment.
//! 1. Init's segment, compressed: init, the rescue busybox, the directories and the console that init needs before it
//!    has mounted anything, and what init is to trust.
//! 2. The modules' segment, compressed: kernel modules, their indexes and their firmware. A file of its own in the store
//!    too, so that init's segment can be renewed without the root file system that the modules were in.
//! 3. The root's segment, not compressed: the manifest and the root, which is compressed already. init unlinks each chunk
//!    of a root archive as it is consumed.
//!
//! `initramfs.img` carries the root and so has all of them; `initramfs-fetched.img` has all but the last.

mod compression;
#[doc(hidden)]
pub mod newc;

use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use bootspec::initramfs::{
    BUSYBOX, CHUNKS_DIR, INIT, MANIFEST, MANIFEST_SIGNATURE, chunk_path, file_system_path,
};
use bootspec::manifest::{Root, RootArchive, RootFileSystem};

use crate::microcode::Updates;
use crate::modules::ModuleSet;
use crate::signing::Trust;

pub use compression::SegmentCompression;
use newc::Newc;

/// The artifact that is the microcode's segment of both initramfs. Absent if there is none.
pub const MICROCODE: &str = "microcode.img";
/// The artifact that is the modules' segment of `initramfs.img`. Absent if it needs none.
pub const MODULES: &str = "modules.img";
/// The artifact that is the modules' segment of `initramfs-fetched.img`.
pub const MODULES_FETCHED: &str = "modules-fetched.img";

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
    #[error("{name}: expected {expected} bytes, the root's file has {found} left")]
    Short {
        /// The member of the initramfs.
        name: String,
        /// Bytes that the manifest promises.
        expected: u32,
        /// Bytes that were there.
        found: u64,
    },
    /// newc holds lengths in 32 bits.
    #[error(
        "{name} has {size_bytes} bytes, but the initramfs format ends at 4 GiB a file\nhint: let nodes fetch the root: set [boot] mode = \"fetched\" in the recipe"
    )]
    TooLarge {
        /// The member of the initramfs.
        name: String,
        /// Its length.
        size_bytes: u64,
    },
}

/// Init's segment: the programs, and what init is to trust.
pub fn init_segment(
    programs: &Programs,
    trust: &Trust,
    compression: SegmentCompression,
) -> Result<Vec<u8>, InitramfsError> {
    let mut archive = Newc::new(Vec::new());
    for directory in ["bin", "dev", "proc", "run", "sys"] {
        archive.directory(directory)?;
    }
    archive.console()?;
    archive.program(INIT, &read(&programs.init)?)?;
    if let Some(busybox) = &programs.busybox {
        archive.program(BUSYBOX, &read(busybox)?)?;
    }
    for (path, contents) in trust.members() {
        archive.data(&path, contents.as_bytes())?;
    }
    compression.compress(&archive.finish()?).map_err(InitramfsError::Write)
}

/// The microcode's segment.
pub fn microcode_segment(updates: &[Updates]) -> Result<Vec<u8>, InitramfsError> {
    let mut archive = Newc::new(Vec::new());
    for vendor in updates {
        archive.data(vendor.member, &vendor.contents)?;
    }
    Ok(compression::padded(archive.finish()?))
}

/// The modules' segment.
pub fn modules_segment(
    modules: &ModuleSet,
    compression: SegmentCompression,
) -> Result<Vec<u8>, InitramfsError> {
    let mut archive = Newc::new(Vec::new());
    for file in &modules.files {
        archive.data(&file.path, &file.contents)?;
    }
    compression.compress(&archive.finish()?).map_err(InitramfsError::Write)
}

/// Writes the root's segment to `out`: the carried manifest with its signature, and the root with the file that holds it.
pub fn write_root_segment(
    carried_json: &str,
    signature: Option<&str>,
    root: Option<(&Root, &Path)>,
    out: &mut impl Write,
) -> Result<(), InitramfsError> {
    let mut segment = Newc::new(out);
    segment.data(MANIFEST, carried_json.as_bytes())?;
    if let Some(signature) = signature {
        segment.data(MANIFEST_SIGNATURE, signature.as_bytes())?;
    }
    match root {
        Some((Root::Archive(archive), path)) => add_chunks(archive, path, &mut segment)?,
        Some((Root::FileSystem(image), path)) => add_image(image, path, &mut segment)?,
        None => {}
    }
    segment.finish()?;
    Ok(())
}

fn add_chunks(
    archive: &RootArchive,
    path: &Path,
    segment: &mut Newc<impl Write>,
) -> Result<(), InitramfsError> {
    segment.directory(CHUNKS_DIR)?;
    let unreadable = |source| InitramfsError::Read { path: path.to_owned(), source };
    let mut file = File::open(path).map_err(unreadable)?;
    for (index, chunk) in archive.chunks.iter().enumerate() {
        file.seek(SeekFrom::Start(chunk.offset_bytes)).map_err(unreadable)?;
        let name = chunk_path(index, archive.compression);
        segment.copy(&name, member_bytes(&name, chunk.size_bytes)?, &mut file)?;
    }
    Ok(())
}

fn add_image(
    image: &RootFileSystem,
    path: &Path,
    segment: &mut Newc<impl Write>,
) -> Result<(), InitramfsError> {
    let mut file =
        File::open(path).map_err(|source| InitramfsError::Read { path: path.to_owned(), source })?;
    let name = file_system_path(image.format);
    segment.copy(&name, member_bytes(&name, image.size_bytes)?, &mut file)
}

/// The length of a member, which newc holds in 32 bits.
fn member_bytes(name: &str, size_bytes: u64) -> Result<u32, InitramfsError> {
    u32::try_from(size_bytes).map_err(|_| InitramfsError::TooLarge { name: name.to_owned(), size_bytes })
}

fn read(path: &Path) -> Result<Vec<u8>, InitramfsError> {
    std::fs::read(path).map_err(|source| InitramfsError::Read { path: path.to_owned(), source })
}
