//! The description of one image version: what is in it, how large it is, how to check it.
//!
//! The store holds the complete manifest; the initramfs carries [`Manifest::carried`], the same document without
//! what init has no use for. Field by field: `docs/image-format.md`.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::cmdline::KernelArg;
use crate::digest::Sha256Digest;
use crate::store::{ArtifactName, ImageRef};

/// The version of the manifest format that this crate reads and writes.
pub const FORMAT: u32 = 1;

/// One version of an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of this format: [`FORMAT`].
    pub format: u32,
    /// Name and version of the image.
    pub image: ImageRef,
    /// What the kernel calls the machine: `x86_64`.
    pub architecture: String,
    /// Release of the kernel and of its modules: `6.1.0-56-cloud-amd64`.
    pub kernel_release: String,
    /// How init boots the image unless the kernel command line says otherwise.
    pub mode: BootMode,
    /// Kernel arguments that the recipe asks for, in order.
    pub kernel_args: Vec<KernelArg>,
    /// The files of this version in the store, by name.
    pub artifacts: BTreeMap<ArtifactName, Artifact>,
    /// The root file system's archive. Absent for failsafe images, which have no root.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub root: Option<RootArchive>,
    /// The packages in the root, sorted by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub packages: Vec<Package>,
    /// Where the image comes from.
    pub build: Build,
}

/// What init does with an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BootMode {
    /// The root's chunks ride in the initramfs and are unpacked into a tmpfs.
    Carried,
    /// No root: a shell on every console.
    Failsafe,
}

/// The text is not a boot mode.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a boot mode: expected carried or failsafe")]
pub struct ParseModeError(String);

impl FromStr for BootMode {
    type Err = ParseModeError;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        match s {
            "carried" => Ok(Self::Carried),
            "failsafe" => Ok(Self::Failsafe),
            _ => Err(ParseModeError(s.to_owned())),
        }
    }
}

impl fmt::Display for BootMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Carried => "carried",
            Self::Failsafe => "failsafe",
        })
    }
}

/// A file of the image in the store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Artifact {
    /// Length in bytes.
    pub size_bytes: u64,
    /// Digest of the whole file.
    pub sha256: Sha256Digest,
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

/// An installed package.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Package {
    /// Package name.
    pub name: String,
    /// Version as the package manager prints it, epoch included.
    pub version: String,
    /// Package architecture.
    pub architecture: String,
}

/// Origin of an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Build {
    /// Digest of everything that decides the image and that imagebuild can see: the recipe, the files it names,
    /// init, busybox and imagebuild's own version. Not the contents of package repositories.
    pub inputs: Sha256Digest,
    /// The program that built it: `imagebuild 0.1.0`.
    pub tool: String,
    /// Host name of the machine that built it.
    pub host: String,
    /// When, in seconds since the epoch (SOURCE_DATE_EPOCH if that was set).
    pub time_unix: i64,
}

/// The manifest cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// Not JSON, or a field is missing or malformed.
    #[error("the manifest is not valid")]
    Json(#[source] serde_json::Error),
    /// Written in another format version.
    #[error(
        "the manifest has format {found}, this program reads format {FORMAT}: use imagebuild, init and bootserve of one release"
    )]
    Format {
        /// The format found.
        found: u32,
    },
    /// The chunk table contradicts itself.
    #[error("chunk {index} of the manifest {problem}")]
    Chunk {
        /// Position in the table.
        index: usize,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The directories' chunk or the final chunk is missing.
    #[error("the manifest lists {0} chunks, a root archive has at least two")]
    TooFewChunks(usize),
    /// The boot mode does not fit the presence of a root archive.
    #[error("the manifest says boot mode {0}, which {1}")]
    Mode(BootMode, &'static str),
}

impl Manifest {
    /// Reads a manifest and checks that it is consistent with itself.
    pub fn parse(json: &[u8]) -> Result<Self, ManifestError> {
        #[derive(Deserialize)]
        struct Head {
            format: u32,
        }
        let head: Head = serde_json::from_slice(json).map_err(ManifestError::Json)?;
        if head.format != FORMAT {
            return Err(ManifestError::Format { found: head.format });
        }
        let manifest: Self = serde_json::from_slice(json).map_err(ManifestError::Json)?;
        manifest.check()?;
        Ok(manifest)
    }

    /// Pretty JSON with a final newline. Deterministic: the same manifest gives the same bytes.
    pub fn to_json(&self) -> String {
        let mut json = serde_json::to_string_pretty(self).expect("a manifest has only string keys");
        json.push('\n');
        json
    }

    /// What rides in the initramfs: without the package list, and without the artifacts (a file cannot carry its
    /// own digest, and init has no use for the others).
    pub fn carried(&self) -> Self {
        Self { artifacts: BTreeMap::new(), packages: Vec::new(), ..self.clone() }
    }

    fn check(&self) -> Result<(), ManifestError> {
        match (&self.root, self.mode) {
            (None, BootMode::Carried) => Err(ManifestError::Mode(self.mode, "needs a root archive")),
            (Some(_), BootMode::Failsafe) => Err(ManifestError::Mode(self.mode, "has no root archive")),
            (Some(root), _) => root.check(),
            (None, _) => Ok(()),
        }
    }
}

impl RootArchive {
    /// Compressed length of all chunks.
    pub fn compressed_bytes(&self) -> u64 {
        self.chunks.iter().map(|chunk| chunk.size_bytes).sum()
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

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(stage: Stage, offset_bytes: u64, size_bytes: u64) -> Chunk {
        Chunk { stage, offset_bytes, size_bytes, tar_bytes: 1024, sha256: Sha256Digest::new([7; 32]) }
    }

    fn sample() -> Manifest {
        let artifact = Artifact { size_bytes: 30, sha256: Sha256Digest::new([1; 32]) };
        Manifest {
            format: FORMAT,
            image: "compute/1".parse().unwrap(),
            architecture: "x86_64".into(),
            kernel_release: "6.1.0".into(),
            mode: BootMode::Carried,
            kernel_args: vec!["console=ttyS0".parse().unwrap()],
            artifacts: BTreeMap::from([("rootfs.tar.xz".parse().unwrap(), artifact)]),
            root: Some(RootArchive {
                file: "rootfs.tar.xz".parse().unwrap(),
                compression: Compression::Xz,
                chunks: vec![
                    chunk(Stage::Directories, 0, 10),
                    chunk(Stage::Entries, 10, 15),
                    chunk(Stage::Finish, 25, 5),
                ],
                unpacked_bytes: 1,
                page_rounded_bytes: 4096,
                inodes: 2,
                decoder_bytes: 1,
            }),
            packages: vec![Package {
                name: "bash".into(),
                version: "5".into(),
                architecture: "amd64".into(),
            }],
            build: Build {
                inputs: Sha256Digest::new([2; 32]),
                tool: "imagebuild 0".into(),
                host: "head".into(),
                time_unix: 0,
            },
        }
    }

    /// Parses `sample()` after `change` and returns the error's text.
    fn check_rejected(change: impl FnOnce(&mut Manifest)) -> String {
        let mut manifest = sample();
        change(&mut manifest);
        Manifest::parse(manifest.to_json().as_bytes()).unwrap_err().to_string()
    }

    #[test]
    fn json_round_trips() {
        let manifest = sample();
        assert_eq!(Manifest::parse(manifest.to_json().as_bytes()).unwrap(), manifest);
        let carried = manifest.carried();
        assert_eq!(Manifest::parse(carried.to_json().as_bytes()).unwrap(), carried);
        assert!(carried.packages.is_empty() && carried.artifacts.is_empty());
    }

    #[test]
    fn another_format_is_named_even_if_its_fields_differ() {
        let error = Manifest::parse(br#"{"format": 9, "new": true}"#).unwrap_err();
        assert!(error.to_string().contains("format 9"), "{error}");
    }

    #[test]
    fn gaps_empty_chunks_and_stages_out_of_order_are_rejected() {
        assert!(check_rejected(|m| m.root.as_mut().unwrap().chunks[1].offset_bytes = 11).contains("chunk 1"));
        assert!(check_rejected(|m| m.root.as_mut().unwrap().chunks[0].size_bytes = 0).contains("empty"));
        assert!(
            check_rejected(|m| m.root.as_mut().unwrap().chunks[0].stage = Stage::Finish).contains("stage")
        );
        assert!(check_rejected(|m| m.root.as_mut().unwrap().chunks.truncate(2)).contains("chunk 1"));
        assert!(check_rejected(|m| m.root.as_mut().unwrap().chunks.truncate(1)).contains("chunk"));
        let past_the_end = |m: &mut Manifest| {
            let chunks = &mut m.root.as_mut().unwrap().chunks;
            chunks[1].size_bytes = u64::MAX;
        };
        assert!(check_rejected(past_the_end).contains("2^64"));
    }

    #[test]
    fn mode_and_root_must_agree() {
        assert!(check_rejected(|m| m.root = None).contains("needs a root archive"));
        assert!(check_rejected(|m| m.mode = BootMode::Failsafe).contains("has no root archive"));
    }
}
