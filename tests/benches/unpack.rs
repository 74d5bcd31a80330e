//! Unpacking a compressed root: the same root, the same bytes, from tmpfs to tmpfs.

use std::fs;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};
use bootlab::balance::Balance;
use bootspec::manifest::{Chunk, Compression, Stage};
use init::unpack::{Carried, ChunkSource, unpack, unpacking_order};
use serde_json::{Value, json};

use crate::measure::{Cost, Goal, Measurement, Rounds, least_wall, median_cpu};
use crate::root::{Packed, Tmpfs};

const MIB: f64 = (1 << 20) as f64;

/// Reads the compressed archive `$1` and fills the directory `$2`.
type Script = &'static str;

const BUSYBOX_XZ: Script = "busybox xz -dc \"$1\" | busybox tar -x -C \"$2\"";
const GNU_ZSTD: Script = "zstd -dcq \"$1\" | tar -x -C \"$2\"";
const GNU_XZ: Script = "tar -xJf \"$1\" -C \"$2\"";

pub fn xz(rounds: Rounds) -> Result<Vec<Measurement>> {
    against("unpack-xz", Compression::Xz, BUSYBOX_XZ, Goal::AtMost(0.30), rounds)
}

pub fn zstd(rounds: Rounds) -> Result<Vec<Measurement>> {
    against("unpack-zstd", Compression::Zstd, GNU_ZSTD, Goal::AtMost(0.50), rounds)
}

fn against(
    name: &'static str,
    compression: Compression,
    peer: Script,
    goal: Goal,
    rounds: Rounds,
) -> Result<Vec<Measurement>> {
    let packed = Packed::with(compression)?;
    let [ours, peers] =
        rounds.in_turn(name, [&mut || unpack_ours(&packed, 2), &mut || unpack_peer(&packed, peer)])?;
    let measurement = Measurement::new(name, least_wall(&ours), least_wall(&peers), "wall-seconds", goal);
    Ok(vec![measurement.with_details(details(&packed, peer, &ours, &peers))])
}

pub fn cpu(rounds: Rounds) -> Result<Vec<Measurement>> {
    let (name, packed) = ("unpack-cpu", Packed::with(Compression::Xz)?);
    let [ours, peers] =
        rounds.in_turn(name, [&mut || unpack_ours(&packed, 1), &mut || unpack_peer(&packed, GNU_XZ)])?;
    let measurement =
        Measurement::new(name, median_cpu(&ours), median_cpu(&peers), "cpu-seconds", Goal::AtMost(0.75));
    Ok(vec![measurement.with_details(details(&packed, GNU_XZ, &ours, &peers))])
}

/// How much of unpacking is verification.
pub fn verification(rounds: Rounds) -> Result<Vec<Measurement>> {
    let measure = |name, compression| -> Result<Measurement> {
        let packed = Packed::with(compression)?;
        let [verifying, unpacking] =
            rounds.in_turn(name, [&mut || verify_ours(&packed), &mut || unpack_ours(&packed, 1)])?;
        let (verifying, unpacking) = (median_cpu(&verifying), median_cpu(&unpacking));
        Ok(Measurement::new(name, verifying, unpacking, "cpu-seconds", Goal::AtMost(0.10)))
    };
    Ok(vec![measure("verification-xz", Compression::Xz)?, measure("verification-zstd", Compression::Zstd)?])
}

/// Two threads against one, both ours. The ratio is the speed-up.
pub fn scaling(rounds: Rounds) -> Result<Vec<Measurement>> {
    let (name, packed) = ("unpack-scaling", Packed::with(Compression::Xz)?);
    let [two, one] =
        rounds.in_turn(name, [&mut || unpack_ours(&packed, 2), &mut || unpack_ours(&packed, 1)])?;
    let (two, one) = (least_wall(&two), least_wall(&one));
    let measurement = Measurement::new(name, two, one, "wall-seconds", Goal::AtLeast(1.70));
    Ok(vec![Measurement { ratio: one / two, ..measurement }])
}

/// What falls to the busiest of many threads against an even share, counted in the archive's chunk table.
pub fn balance(_: Rounds) -> Result<Vec<Measurement>> {
    let archive = Packed::with(Compression::Xz)?.archive;
    let parallel = |chunk: &&Chunk| chunk.stage == Stage::Entries;
    let order = unpacking_order(&archive.chunks);
    let carried: Vec<u64> = order
        .iter()
        .map(|index| &archive.chunks[*index])
        .filter(parallel)
        .map(|chunk| chunk.tar_bytes)
        .collect();
    let fetched: Vec<u64> = archive.chunks.iter().filter(parallel).map(|chunk| chunk.tar_bytes).collect();
    let count = |name, workers: usize| -> Result<Measurement> {
        let workers = NonZeroUsize::new(workers).context("there is a worker")?;
        let balance = Balance::new(&carried, workers);
        let (busiest, ideal) = (balance.busiest_bytes as f64 / MIB, balance.ideal_bytes as f64 / MIB);
        let goal = Goal::AtMost(1.0 + balance.largest_bytes as f64 / balance.ideal_bytes as f64);
        let details = json!({
            "chunks": carried.len(), "workers": workers, "carried": balance, "fetched": Balance::new(&fetched, workers),
        });
        Ok(Measurement::new(name, busiest, ideal, "MiB-of-tar", goal).with_details(details))
    };
    Ok(vec![count("unpack-balance-8", 8)?, count("unpack-balance-64", 64)?])
}

fn details(packed: &Packed, peer: Script, ours: &[Cost], peers: &[Cost]) -> Value {
    json!({
        "unpacked_bytes": packed.archive.unpacked_bytes, "compressed_bytes": packed.archive.compressed_bytes(),
        "peer_command": peer, "ours": ours, "peers": peers,
    })
}

/// init's unpacking.
fn unpack_ours(packed: &Packed, workers: usize) -> Result<Cost> {
    let (chunks, target) = (CarriedChunks::of(packed)?, Tmpfs::mount()?);
    let workers = NonZeroUsize::new(workers).context("there is a worker")?;
    let source = Carried::new(&chunks.paths, &packed.archive);
    Cost::of(|| Ok(unpack(&source, &packed.archive, target.path(), workers)?))
}

/// What init does before it unpacks a chunk, for all of them: hand it out verified.
fn verify_ours(packed: &Packed) -> Result<Cost> {
    let chunks = CarriedChunks::of(packed)?;
    let source = Carried::new(&chunks.paths, &packed.archive);
    Cost::of(|| {
        for _ in &chunks.paths {
            source.next()?;
        }
        Ok(())
    })
}

/// The chunks as files on a tmpfs, as the initramfs has them.
struct CarriedChunks {
    paths: Vec<PathBuf>,
    _tmpfs: Tmpfs,
}

impl CarriedChunks {
    fn of(packed: &Packed) -> Result<Self> {
        let tmpfs = Tmpfs::mount()?;
        let bytes = fs::read(&packed.file)?;
        let mut paths = Vec::new();
        for (index, piece) in packed.archive.pieces().enumerate() {
            let path = tmpfs.path().join(index.to_string());
            let start = usize::try_from(piece.offset_bytes)?;
            fs::write(&path, &bytes[start..start + usize::try_from(piece.size_bytes)?])?;
            paths.push(path);
        }
        Ok(Self { paths, _tmpfs: tmpfs })
    }
}

fn unpack_peer(packed: &Packed, script: Script) -> Result<Cost> {
    let (source, target) = (Tmpfs::mount()?, Tmpfs::mount()?);
    let copy = source.path().join("archive").with_extension(packed.file.extension().unwrap_or_default());
    fs::copy(&packed.file, &copy)?;
    Cost::of_command(Command::new("sh").args(["-ec", script, "sh"]).arg(&copy).arg(target.path()))
}
