//! The root file system as an image stores it.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::ManifestError;
use crate::digest::Sha256Digest;
use crate::store::ArtifactName;

/// The root file system.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum Root {
    /// Unpacked into a tmpfs.
    Archive(RootArchive),
    /// Stays compressed in memory, as the lower layer of an overlay; a tmpfs takes what is written.
    FileSystem(RootFileSystem),
}

/// A part of the root's file that is verified as a whole before any of it is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Where it begins in the file.
    pub offset_bytes: u64,
    /// Its length.
    pub size_bytes: u64,
    /// Digest of its bytes.
    pub sha256: Sha256Digest,
}

impl Root {
    /// The artifact that holds the root.
    pub fn file(&self) -> &ArtifactName {
        match self {
            Self::Archive(archive) => &archive.file,
            Self::FileSystem(file_system) => &file_system.file,
        }
    }

    /// Length of the artifact that holds the root.
    pub fn file_bytes(&self) -> u64 {
        match self {
            Self::Archive(archive) => archive.compressed_bytes(),
            Self::FileSystem(file_system) => file_system.size_bytes,
        }
    }

    pub(super) fn check(&self) -> Result<(), ManifestError> {
        match self {
            Self::Archive(archive) => archive.check(),
            Self::FileSystem(file_system) => file_system.check(),
        }
    }
}

/// A read-only file system image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootFileSystem {
    /// The artifact.
    pub file: ArtifactName,
    /// What the kernel mounts it as.
    pub format: FileSystemFormat,
    /// Length of the image.
    pub size_bytes: u64,
    /// Length of each block that is verified on its own; the last may be shorter.
    pub block_bytes: u64,
    /// Digests of the blocks, in order.
    pub blocks: Vec<Sha256Digest>,
}

/// A file system that is made once and only read afterwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FileSystemFormat {
    /// squashfs (kernel: Documentation/filesystems/squashfs.rst).
    Squashfs,
    /// EROFS (kernel: Documentation/filesystems/erofs.rst).
    Erofs,
}

impl fmt::Display for FileSystemFormat {
    /// The kernel's name, which is that of its module and the suffix of the artifact too.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Squashfs => "squashfs",
            Self::Erofs => "erofs",
        })
    }
}

impl RootFileSystem {
    /// The blocks with their places.
    pub fn pieces(&self) -> impl Iterator<Item = Piece> + '_ {
        let mut offset_bytes = 0;
        self.blocks.iter().map(move |sha256| {
            let size_bytes = self.block_bytes.min(self.size_bytes - offset_bytes);
            let piece = Piece { offset_bytes, size_bytes, sha256: *sha256 };
            offset_bytes += size_bytes;
            piece
        })
    }

    fn check(&self) -> Result<(), ManifestError> {
        let covers = self.block_bytes > 0
            && usize::try_from(self.size_bytes.div_ceil(self.block_bytes)) == Ok(self.blocks.len());
        if covers && !self.blocks.is_empty() {
            Ok(())
        } else {
            Err(ManifestError::Blocks {
                size_bytes: self.size_bytes,
                block_bytes: self.block_bytes,
                found: self.blocks.len(),
            })
        }
    }
}

/// The root archive: a tar cut into independently compressed chunks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootArchive {
    /// The artifact that is all chunks one after the other: a standard compressed tar.
    pub file: ArtifactName,
    /// How each chunk is compressed.
    pub compression: Compression,
    /// The chunks in the order of the archive.
    pub chunks: Vec<Chunk>,
    /// Sum of the lengths of all regular files, holes left out, hard links counted once.
    pub unpacked_bytes: u64,
    /// The same with each file rounded up to 4 KiB pages: what a tmpfs holds.
    pub page_rounded_bytes: u64,
    /// Number of inodes that the unpacked root takes.
    pub inodes: u64,
    /// Memory that decompressing one chunk takes.
    pub decoder_bytes: u64,
}

/// Compression of a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// The .xz format.
    Xz,
    /// The Zstandard format (RFC 8878).
    Zstd,
}

impl Compression {
    /// The usual suffix of a tar archive compressed so.
    pub const fn tar_suffix(self) -> &'static str {
        match self {
            Self::Xz => "tar.xz",
            Self::Zstd => "tar.zst",
        }
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Xz => "xz",
            Self::Zstd => "zstd",
        })
    }
}

/// A run of whole tar entries, compressed as one stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chunk {
    /// What the entries are, and so when they may be extracted.
    pub stage: Stage,
    /// Where the chunk begins in [`RootArchive::file`].
    pub offset_bytes: u64,
    /// Compressed length.
    pub size_bytes: u64,
    /// Length of the tar entries, decompressed.
    pub tar_bytes: u64,
    /// Digest of the compressed bytes.
    pub sha256: Sha256Digest,
}

impl Chunk {
    /// The chunk as a part of the archive's file.
    pub fn piece(&self) -> Piece {
        Piece { offset_bytes: self.offset_bytes, size_bytes: self.size_bytes, sha256: self.sha256 }
    }
}

/// The order of extraction: the one chunk of directories, then the chunks of entries, which are independent of each other
/// and can be extracted in parallel, then the one chunk that finishes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// All directories, parents first.
    Directories,
    /// Regular files, symbolic links, device nodes and FIFOs.
    Entries,
    /// Hard links, then all directories again so that their times are right, then the end-of-archive marker.
    Finish,
}

impl RootArchive {
    /// The most runs of data that a file with holes may have in the archive; one with more is stored as if it had none. The
    /// map of the runs stands before the data, so a node holds it in memory: 4 MiB.
    pub const MAX_SPARSE_RUNS: u64 = 1 << 18;

    /// Compressed length of all chunks.
    pub fn compressed_bytes(&self) -> u64 {
        self.chunks.iter().map(|chunk| chunk.size_bytes).sum()
    }

    /// The chunks with their places.
    pub fn pieces(&self) -> impl Iterator<Item = Piece> + '_ {
        self.chunks.iter().map(Chunk::piece)
    }

    /// Chunks lie end to end; the directories are the first, the finish is the last, and entries are between.
    fn check(&self) -> Result<(), ManifestError> {
        let mut offset: u64 = 0;
        for (index, chunk) in self.chunks.iter().enumerate() {
            let problem = |problem| ManifestError::Chunk { index, problem };
            let stage = match index {
                0 => Stage::Directories,
                last if last + 1 == self.chunks.len() => Stage::Finish,
                _ => Stage::Entries,
            };
            if chunk.stage != stage {
                return Err(problem("is of a stage that does not belong at its place"));
            }
            if chunk.size_bytes == 0 {
                return Err(problem("is empty"));
            }
            if chunk.offset_bytes != offset {
                return Err(problem("does not begin where the one before it ends"));
            }
            offset = offset.checked_add(chunk.size_bytes).ok_or_else(|| problem("ends past 2^64 bytes"))?;
        }
        if self.chunks.len() < 2 {
            return Err(ManifestError::TooFewChunks(self.chunks.len()));
        }
        Ok(())
    }
}
