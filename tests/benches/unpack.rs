//! Unpacking, ours against the tools that others use: the same root file system, the same bytes, from tmpfs to tmpfs, on
//! the same machine, in turn.
//!
//! The root is the compute image's three times over, packed once (xz level 1, to have it within a minute: the level changes
//! the ratio of sizes, and hardly the work of a decoder). Walls are the least of all rounds, since other work on the
//! machine only adds to them; CPU seconds are medians. `make bench` runs it; `make bench ONLY=NAME` runs one line.

use std::fs;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use bootlab::images;
use bootlab::places::{lab_dir, store_dir};
use bootspec::manifest::{Compression, Manifest, RootArchive};
use bootspec::store::MANIFEST;
use imagebuild::archive::{PackOptions, pack};
use imagebuild::progress::Progress;
use nix::sys::resource::{UsageWho, getrusage};
use serde_json::json;

const ROUNDS: usize = 3;
const COPIES: usize = 3;

/// What one run took.
#[derive(Clone, Copy)]
struct Cost {
    wall_seconds: f64,
    cpu_seconds: f64,
}

/// A line of the result: how both sides unpack `archive`.
struct Bench {
    name: &'static str,
    compression: Compression,
    workers: usize,
    unit: Unit,
    /// Reads the archive `$1`, which is compressed, and fills the directory `$2`.
    peer: &'static str,
}

#[derive(Clone, Copy)]
enum Unit {
    Wall,
    Cpu,
}

const BENCHES: [Bench; 3] = [
    Bench {
        name: "unpack-xz",
        compression: Compression::Xz,
        workers: 2,
        unit: Unit::Wall,
        peer: "busybox xz -dc \"$1\" | busybox tar -x -C \"$2\"",
    },
    Bench {
        name: "unpack-zstd",
        compression: Compression::Zstd,
        workers: 2,
        unit: Unit::Wall,
        peer: "zstd -dcq \"$1\" | tar -x -C \"$2\"",
    },
    Bench {
        name: "unpack-cpu",
        compression: Compression::Xz,
        workers: 1,
        unit: Unit::Cpu,
        peer: "tar -xJf \"$1\" -C \"$2\"",
    },
];

fn main() -> Result<()> {
    // cargo adds --bench.
    let only = std::env::args().skip(1).find(|argument| !argument.starts_with("--"));
    let root = prepare_root()?;
    let mut results = Vec::new();
    for bench in BENCHES.iter().filter(|bench| only.as_deref().is_none_or(|only| only == bench.name)) {
        let (archive, file) = prepare_archive(&root, bench.compression)?;
        let (ours, peer) = bench.run(&archive, &file)?;
        let (name, ratio, unit) = (bench.name, ours / peer, bench.unit.name());
        println!("bench {name} ours={ours:.2} peer={peer:.2} ratio={ratio:.2} unit={unit}");
        let unpacked = archive.unpacked_bytes;
        results.push(json!({"name": name, "ours": ours, "peer": peer, "ratio": ratio, "unit": unit,
            "rounds": ROUNDS, "unpacked_bytes": unpacked, "peer_command": bench.peer}));
    }
    ensure!(!results.is_empty(), "no such bench: {}", only.unwrap_or_default());
    let path = bench_dir().join("unpack.json");
    fs::write(&path, serde_json::to_string_pretty(&results)?)?;
    eprintln!("results: {}", path.display());
    Ok(())
}

impl Bench {
    /// Both sides in turn; what each took according to the unit.
    fn run(&self, archive: &RootArchive, file: &Path) -> Result<(f64, f64)> {
        let (mut ours, mut peers) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            ours.push(unpack_ours(archive, file, self.workers)?);
            peers.push(unpack_peer(self.peer, file)?);
        }
        Ok((self.unit.of(&ours), self.unit.of(&peers)))
    }
}

impl Unit {
    const fn name(self) -> &'static str {
        match self {
            Self::Wall => "wall-seconds",
            Self::Cpu => "cpu-seconds",
        }
    }

    fn of(self, costs: &[Cost]) -> f64 {
        let mut values: Vec<f64> = match self {
            Self::Wall => costs.iter().map(|cost| cost.wall_seconds).collect(),
            Self::Cpu => costs.iter().map(|cost| cost.cpu_seconds).collect(),
        };
        values.sort_by(f64::total_cmp);
        match self {
            Self::Wall => values[0],
            Self::Cpu => values[values.len() / 2],
        }
    }
}

fn bench_dir() -> PathBuf {
    lab_dir().join("bench")
}

/// The compute image's root, [`COPIES`] times over, made once.
fn prepare_root() -> Result<PathBuf> {
    let root = bench_dir().join("root");
    let complete = bench_dir().join("root.complete");
    if complete.exists() {
        return Ok(root);
    }
    let image = images::shared("debian-12-compute")?;
    let dir = image.dir(&store_dir());
    let manifest = Manifest::parse(&fs::read(dir.join(MANIFEST))?)?;
    let archive = dir.join(manifest.root.context("the compute image has a root")?.file().as_str());
    for copy in 0..COPIES {
        let copy = root.join(copy.to_string());
        fs::create_dir_all(&copy)?;
        run(Command::new("tar").args(["--numeric-owner", "-xpf"]).arg(&archive).arg("-C").arg(&copy))?;
    }
    fs::write(complete, "")?;
    Ok(root)
}

/// The root packed, once for each compression.
fn prepare_archive(root: &Path, compression: Compression) -> Result<(RootArchive, PathBuf)> {
    let dir = bench_dir().join(compression.to_string());
    let description = dir.join("archive.json");
    if !description.exists() {
        // What an interrupted run left.
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir)?;
        let jobs = std::thread::available_parallelism()?;
        let options = PackOptions { compression, level: 1, chunk_bytes: 16 << 20, jobs };
        let archive =
            pack(root, &dir, options, &Progress::on_stderr().step(format!("pack with {compression}")))?;
        fs::write(&description, serde_json::to_vec(&archive)?)?;
    }
    let archive: RootArchive = serde_json::from_slice(&fs::read(&description)?)?;
    let file = dir.join(archive.file.as_str());
    Ok((archive, file))
}

/// A directory on a tmpfs.
fn in_memory() -> Result<tempfile::TempDir> {
    tempfile::tempdir_in("/dev/shm").context("cannot make a directory on the tmpfs /dev/shm")
}

/// init's unpacking, with the chunks as files on a tmpfs, as the initramfs has them.
fn unpack_ours(archive: &RootArchive, file: &Path, workers: usize) -> Result<Cost> {
    let (chunks, target) = (in_memory()?, in_memory()?);
    let bytes = fs::read(file)?;
    let mut paths = Vec::new();
    for (index, chunk) in archive.chunks.iter().enumerate() {
        let path = chunks.path().join(index.to_string());
        let start = usize::try_from(chunk.offset_bytes)?;
        fs::write(&path, &bytes[start..start + usize::try_from(chunk.size_bytes)?])?;
        paths.push(path);
    }
    let workers = NonZeroUsize::new(workers).context("there is a worker")?;
    measure(UsageWho::RUSAGE_SELF, || {
        Ok(init::unpack::unpack(
            &init::unpack::Carried::new(&paths, archive),
            archive,
            target.path(),
            workers,
        )?)
    })
}

fn unpack_peer(script: &str, file: &Path) -> Result<Cost> {
    let (source, target) = (in_memory()?, in_memory()?);
    let copy = source.path().join("archive").with_extension(file.extension().unwrap_or_default());
    fs::copy(file, &copy)?;
    measure(UsageWho::RUSAGE_CHILDREN, || {
        run(Command::new("sh").args(["-ec", script, "sh"]).arg(&copy).arg(target.path()))
    })
}

fn measure(who: UsageWho, work: impl FnOnce() -> Result<()>) -> Result<Cost> {
    let cpu = || -> Result<f64> {
        let usage = getrusage(who)?;
        let seconds = |time: nix::sys::time::TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
        Ok(seconds(usage.user_time()) + seconds(usage.system_time()))
    };
    let (cpu_before, started) = (cpu()?, Instant::now());
    work()?;
    Ok(Cost { wall_seconds: started.elapsed().as_secs_f64(), cpu_seconds: cpu()? - cpu_before })
}

fn run(command: &mut Command) -> Result<()> {
    let status = command.status()?;
    ensure!(status.success(), "{command:?}: {status}");
    Ok(())
}
