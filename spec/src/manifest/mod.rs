//! The description of one image version: what is in it, how large it is, how to check it.
//!
//! The store holds the complete manifest; the initramfs carries [`Manifest::carried`], the same document without
//! what init has no use for. Field by field: `docs/image-format.md`.

mod root;

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::cmdline::KernelArg;
use crate::digest::Sha256Digest;
use crate::store::{ArtifactName, ImageRef};

pub use root::{Chunk, Compression, FileSystemFormat, Piece, Root, RootArchive, RootFileSystem, Stage};

/// The version of the manifest format that this crate reads and writes.
pub const FORMAT: u32 = 2;

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
    /// The root file system. Absent for images of the modes failsafe and discover.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub root: Option<Root>,
    /// Counts up when older images must not boot any more: init refuses an image below the least index it is told.
    #[serde(default)]
    pub rollback_index: u64,
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
    /// The root rides in the initramfs.
    Carried,
    /// The initramfs is small; init fetches the root over HTTP.
    Fetched,
    /// No root: a shell on every console.
    Failsafe,
    /// No root: init tells bootserve what the machine is made of, and waits to be told what to do.
    Discover,
}

impl BootMode {
    /// Whether an image of this mode has a root file system.
    pub const fn has_root(self) -> bool {
        matches!(self, Self::Carried | Self::Fetched)
    }
}

/// The text is not a boot mode.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a boot mode: expected carried, fetched, failsafe or discover")]
pub struct ParseModeError(String);

impl FromStr for BootMode {
    type Err = ParseModeError;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        match s {
            "carried" => Ok(Self::Carried),
            "fetched" => Ok(Self::Fetched),
            "failsafe" => Ok(Self::Failsafe),
            "discover" => Ok(Self::Discover),
            _ => Err(ParseModeError(s.to_owned())),
        }
    }
}

impl fmt::Display for BootMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Carried => "carried",
            Self::Fetched => "fetched",
            Self::Failsafe => "failsafe",
            Self::Discover => "discover",
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
    /// Host name of the machine that built it; empty if it was built with SOURCE_DATE_EPOCH.
    pub host: String,
    /// When, in seconds since the epoch (SOURCE_DATE_EPOCH if that was set).
    pub time_unix: i64,
    /// How its root was made.
    #[serde(default, skip_serializing_if = "RootOrigin::is_empty")]
    pub root: RootOrigin,
}

/// How a root was made, as far as who makes another one of it must know.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootOrigin {
    /// The version whose root this was before it was edited by hand. What recipe made it is in that one's `inputs`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub edited_from: Option<ImageRef>,
    /// How it was compressed. Absent if there is nothing to choose: without a root, and with EROFS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub packing: Option<Packing>,
    /// The policy by which it was labelled for SELinux.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selinux_policy: Option<String>,
}

impl RootOrigin {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// How a root was compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Packing {
    /// The compressor.
    pub compression: Compression,
    /// Its level.
    pub level: u32,
    /// Whether code for x86 went through xz's filter for it. Left out if it did, or if the compressor has none.
    #[serde(default = "is_filtered", skip_serializing_if = "bool::clone")]
    pub x86_filter: bool,
    /// Tar in one chunk, in bytes, if the root is an archive.
    pub chunk_bytes: u64,
}

const fn is_filtered() -> bool {
    true
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
    /// The blocks do not cover the file system image.
    #[error(
        "the manifest lists {found} blocks of {block_bytes} bytes for a file system image of {size_bytes} bytes"
    )]
    Blocks {
        /// Length of the image.
        size_bytes: u64,
        /// Length of a block.
        block_bytes: u64,
        /// Number of blocks.
        found: usize,
    },
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
        match (&self.root, self.mode.has_root()) {
            (None, true) => Err(ManifestError::Mode(self.mode, "needs a root")),
            (Some(_), false) => Err(ManifestError::Mode(self.mode, "has no root")),
            (Some(root), true) => root.check(),
            (None, false) => Ok(()),
        }
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
            rollback_index: 0,
            root: Some(Root::Archive(RootArchive {
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
            })),
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
                root: RootOrigin {
                    edited_from: Some("compute/0".parse().unwrap()),
                    packing: Some(Packing {
                        compression: Compression::Xz,
                        level: 6,
                        x86_filter: false,
                        chunk_bytes: 1 << 24,
                    }),
                    selinux_policy: Some("targeted".into()),
                },
            },
        }
    }

    fn archive(manifest: &mut Manifest) -> &mut RootArchive {
        match manifest.root.as_mut() {
            Some(Root::Archive(archive)) => archive,
            _ => panic!("the sample has a root archive"),
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
    fn how_the_root_was_made_may_be_left_out() {
        let mut manifest = sample();
        manifest.build.root = RootOrigin::default();
        let json = manifest.to_json();
        assert!(!json.contains("packing") && !json.contains("edited_from"), "{json}");
        assert_eq!(Manifest::parse(json.as_bytes()).unwrap(), manifest);
    }

    #[test]
    fn another_format_is_named_even_if_its_fields_differ() {
        let error = Manifest::parse(br#"{"format": 9, "new": true}"#).unwrap_err();
        assert!(error.to_string().contains("format 9"), "{error}");
    }

    #[test]
    fn gaps_empty_chunks_and_stages_out_of_order_are_rejected() {
        assert!(check_rejected(|m| archive(m).chunks[1].offset_bytes = 11).contains("chunk 1"));
        assert!(check_rejected(|m| archive(m).chunks[0].size_bytes = 0).contains("empty"));
        assert!(check_rejected(|m| archive(m).chunks[0].stage = Stage::Finish).contains("stage"));
        assert!(check_rejected(|m| archive(m).chunks.truncate(2)).contains("chunk 1"));
        assert!(check_rejected(|m| archive(m).chunks.truncate(1)).contains("chunk"));
        let past_the_end = |m: &mut Manifest| {
            let chunks = &mut archive(m).chunks;
            chunks[1].size_bytes = u64::MAX;
        };
        assert!(check_rejected(past_the_end).contains("2^64"));
    }

    #[test]
    fn a_file_system_image_is_cut_into_blocks_that_cover_it() {
        let image = |size_bytes, blocks| RootFileSystem {
            file: "rootfs.squashfs".parse().unwrap(),
            format: FileSystemFormat::Squashfs,
            size_bytes,
            block_bytes: 4096,
            blocks: vec![Sha256Digest::new([3; 32]); blocks],
        };
        let pieces: Vec<_> =
            image(5000, 2).pieces().map(|piece| (piece.offset_bytes, piece.size_bytes)).collect();
        assert_eq!(pieces, [(0, 4096), (4096, 904)]);
        let with = |root| check_rejected(|m| m.root = Some(Root::FileSystem(root)));
        for (size_bytes, blocks) in [(5000, 1), (5000, 3), (0, 0), (u64::MAX, 1)] {
            assert!(
                with(image(size_bytes, blocks)).contains("blocks of 4096 bytes"),
                "{size_bytes} {blocks}"
            );
        }
        assert!(with(RootFileSystem { block_bytes: 0, ..image(1, 1) }).contains("blocks of 0 bytes"));
    }

    #[test]
    fn mode_and_root_must_agree() {
        assert!(check_rejected(|m| m.root = None).contains("needs a root"));
        for mode in [BootMode::Failsafe, BootMode::Discover] {
            assert!(check_rejected(|m| m.mode = mode).contains("has no root"));
        }
    }

    #[test]
    fn modes_round_trip() {
        for mode in [BootMode::Carried, BootMode::Fetched, BootMode::Failsafe, BootMode::Discover] {
            assert_eq!(mode.to_string().parse(), Ok(mode));
            assert_eq!(serde_json::to_value(mode).unwrap(), mode.to_string());
        }
    }
}
