//! What is unpacked: the compute image's root, several times over, packed by imagebuild. Made once, and again when the
//! image changes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use bootlab::images;
use bootlab::places::{lab_dir, store_dir};
use bootspec::manifest::{Compression, Manifest, RootArchive};
use bootspec::store::MANIFEST;
use imagebuild::archive::{PackOptions, pack, scan};
use imagebuild::progress::Progress;
use imagebuild::recipe::default_chunk_bytes;

use crate::measure::run;

/// So that the root has more than 900 MiB.
const COPIES: usize = 3;

/// Everything that `make bench` keeps.
pub fn bench_dir() -> PathBuf {
    lab_dir().join("bench")
}

/// A packed root.
pub struct Packed {
    pub archive: RootArchive,
    pub file: PathBuf,
}

impl Packed {
    /// The root packed so: with zstd at the level of the shipped recipe, with xz at the least, since its higher ones take
    /// minutes and hardly change the work of a decoder.
    pub fn with(compression: Compression) -> Result<Self> {
        let root = unpacked()?;
        let dir = packed_dir(compression);
        let description = dir.join("archive.json");
        if !description.exists() {
            make_empty(&dir)?;
            let jobs = std::thread::available_parallelism()?;
            let options = PackOptions {
                compression,
                level: level(compression),
                // busybox, a peer, has no filter.
                x86_filter: false,
                chunk_bytes: default_chunk_bytes(compression),
                jobs,
                source_date: None,
            };
            let step = Progress::on_stderr().step(format!("pack with {compression}"));
            let archive = pack(&root, scan(&root)?, &dir, options, &step)?;
            fs::write(&description, serde_json::to_vec(&archive)?)?;
        }
        let archive: RootArchive = serde_json::from_slice(&fs::read(&description)?)?;
        let file = dir.join(archive.file.as_str());
        Ok(Self { archive, file })
    }

    /// Decompresses it into `path`.
    pub fn write_tar(&self, path: &Path) -> Result<()> {
        let program = match self.archive.compression {
            Compression::Xz => "xz",
            Compression::Zstd => "zstd",
        };
        run(Command::new(program).args(["-dcq"]).arg(&self.file).stdout(fs::File::create(path)?))
    }
}

fn packed_dir(compression: Compression) -> PathBuf {
    bench_dir().join(format!("{compression}-{}", level(compression)))
}

const fn level(compression: Compression) -> u32 {
    match compression {
        Compression::Xz => 1,
        Compression::Zstd => 9,
    }
}

/// The root as it is in the image, as a tree.
pub fn one_copy() -> Result<PathBuf> {
    Ok(unpacked()?.join("0"))
}

/// The root as a tree, several times over.
fn unpacked() -> Result<PathBuf> {
    let root = bench_dir().join("root");
    let complete = bench_dir().join("root.complete");
    let image = images::shared("debian-12-compute")?;
    let dir = image.dir(&store_dir());
    let manifest = Manifest::parse(&fs::read(dir.join(MANIFEST))?)?;
    let archive = manifest.root.context("the compute image has a root")?;
    // The image is rebuilt whenever a program changes; the root is another one only if its archive is.
    let digest =
        manifest.artifacts.get(archive.file()).context("the root is an artifact")?.sha256.to_string();
    if fs::read_to_string(&complete).is_ok_and(|known| known == digest) {
        return Ok(root);
    }
    for stale in [Compression::Xz, Compression::Zstd] {
        let _ = fs::remove_file(packed_dir(stale).join("archive.json"));
    }
    make_empty(&root)?;
    for copy in 0..COPIES {
        let copy = root.join(copy.to_string());
        fs::create_dir(&copy)?;
        let mut tar = Command::new("tar");
        tar.args(["--numeric-owner", "--xattrs", "--xattrs-include=*", "-xpf"]);
        run(tar.arg(dir.join(archive.file().as_str())).arg("-C").arg(&copy))?;
    }
    fs::write(complete, digest)?;
    Ok(root)
}

/// Makes the directory without what an interrupted run left in it.
pub fn make_empty(dir: &Path) -> Result<()> {
    if dir.exists() {
        fs::remove_dir_all(dir).with_context(|| format!("cannot empty {}", dir.display()))?;
    }
    fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))
}

/// A tmpfs of its own, which takes memory in large folios as the root of a node does while init unpacks it.
pub struct Tmpfs {
    target: tempfile::TempDir,
}

impl Tmpfs {
    pub fn mount() -> Result<Self> {
        let target = tempfile::tempdir().context("cannot make a directory to mount a tmpfs at")?;
        run(Command::new("mount")
            .args(["-t", "tmpfs", "-o", "huge=within_size,size=90%", "bench"])
            .arg(target.path()))?;
        Ok(Self { target })
    }

    pub fn path(&self) -> &Path {
        self.target.path()
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        if let Err(error) = run(Command::new("umount").arg("--lazy").arg(self.path())) {
            eprintln!("{} stays mounted: {error:#}", self.path().display());
        }
    }
}
