//! Packing a root: the same tree, from disk to tmpfs, on all cores. Wall time and size against `tar` and a compressor with
//! threads of its own; memory by the number of threads.

use std::fs;
use std::num::NonZeroUsize;
use std::path::Path;
use std::process::Command;
use std::thread::available_parallelism;

use anyhow::{Context, Result, ensure};
use bootspec::manifest::Compression;
use imagebuild::archive::{PackOptions, pack, scan};
use imagebuild::progress::Progress;
use imagebuild::recipe::default_chunk_bytes;
use serde_json::json;

use crate::measure::{Cost, Goal, Measurement, Rounds, least_wall, status_bytes};
use crate::root::{Tmpfs, one_copy};

const MIB: f64 = (1 << 20) as f64;

/// What one thread may take.
const THREAD_MIB: f64 = 150.0;
/// A part of the root that has more chunks than threads are measured, and does not take minutes.
const PART: &str = "usr/lib/x86_64-linux-gnu";

/// Packs the directory `$1` into the file `$2`.
type Script = &'static str;

const TAR_XZ: Script =
    "tar --numeric-owner --xattrs --xattrs-include='*' -C \"$1\" -cf - . | xz -T0 -6 >\"$2\"";
const TAR_ZSTD: Script =
    "tar --numeric-owner --xattrs --xattrs-include='*' -C \"$1\" -cf - . | zstd -q -T0 -19 >\"$2\"";

pub fn xz(rounds: Rounds) -> Result<Vec<Measurement>> {
    let (wall, size) = against(["pack-xz", "pack-xz-size"], Compression::Xz, 6, TAR_XZ, 0.97, rounds)?;
    Ok(vec![wall, size])
}

pub fn zstd(rounds: Rounds) -> Result<Vec<Measurement>> {
    let (wall, size) =
        against(["pack-zstd", "pack-zstd-size"], Compression::Zstd, 19, TAR_ZSTD, 1.02, rounds)?;
    Ok(vec![wall, size])
}

/// What a pack took, and how large the archive is.
type Packed = (Cost, u64);

fn against(
    [wall_name, size_name]: [&'static str; 2],
    compression: Compression,
    level: u32,
    peer: Script,
    size_goal: f64,
    rounds: Rounds,
) -> Result<(Measurement, Measurement)> {
    let root = one_copy()?;
    let options = PackOptions {
        compression,
        level,
        x86_filter: true,
        chunk_bytes: default_chunk_bytes(compression),
        jobs: available_parallelism()?,
        source_date: None,
    };
    let [ours, peers] =
        rounds.in_turn(wall_name, [&mut || pack_ours(&root, options), &mut || pack_peer(&root, peer)])?;
    let ((ours, ours_bytes), (peers, peer_bytes)) = (split(ours)?, split(peers)?);
    let wall = Measurement::new(
        wall_name,
        least_wall(&ours),
        least_wall(&peers),
        "wall-seconds",
        Goal::AtMost(1.10),
    );
    let size = Measurement::new(
        size_name,
        ours_bytes as f64 / MIB,
        peer_bytes as f64 / MIB,
        "MiB",
        Goal::AtMost(size_goal),
    );
    let details = json!({
        "level": level, "chunk_bytes": options.chunk_bytes, "jobs": options.jobs, "peer_command": peer,
        "ours": ours, "peers": peers,
    });
    Ok((wall.with_details(details), size))
}

/// The costs, and the one length that all archives have.
fn split(packed: Vec<Packed>) -> Result<(Vec<Cost>, u64)> {
    let (costs, bytes): (Vec<Cost>, Vec<u64>) = packed.into_iter().unzip();
    let first = *bytes.first().context("there is a round")?;
    ensure!(
        bytes.iter().all(|other| *other == first),
        "the same root was packed to several lengths: {bytes:?}"
    );
    Ok((costs, first))
}

fn pack_ours(root: &Path, options: PackOptions) -> Result<Packed> {
    let out = Tmpfs::mount()?;
    let mut bytes = 0;
    let cost = Cost::of(|| {
        let step = Progress::quiet().step("pack");
        bytes = pack(root, scan(root)?, out.path(), options, &step)?.compressed_bytes();
        Ok(())
    })?;
    Ok((cost, bytes))
}

fn pack_peer(root: &Path, script: Script) -> Result<Packed> {
    let out = Tmpfs::mount()?;
    let file = out.path().join("root.tar.packed");
    let cost = Cost::of_command(Command::new("sh").args(["-ec", script, "sh"]).arg(root).arg(&file))?;
    Ok((cost, fs::metadata(&file)?.len()))
}

/// The most memory that one, two and four threads take, each.
pub fn memory(_: Rounds) -> Result<Vec<Measurement>> {
    let root = one_copy()?.join(PART);
    let measure = |name, compression, level| -> Result<Measurement> {
        let mib = |jobs: usize| -> Result<f64> {
            let jobs = NonZeroUsize::new(jobs).context("there is a thread")?;
            let options = PackOptions {
                compression,
                level,
                x86_filter: true,
                chunk_bytes: default_chunk_bytes(compression),
                jobs,
                source_date: None,
            };
            Ok(peak_bytes_of(|| pack_ours(&root, options).map(drop))? as f64 / MIB)
        };
        let peaks = [(1, mib(1)?), (2, mib(2)?), (4, mib(4)?)];
        let most = peaks.iter().map(|(jobs, mib)| mib / f64::from(*jobs)).fold(0.0, f64::max);
        let details = json!({"level": level, "peak_mib_by_threads": peaks});
        Ok(Measurement::new(name, most, THREAD_MIB, "MiB-a-thread", Goal::AtMost(1.0)).with_details(details))
    };
    Ok(vec![
        measure("pack-memory-xz", Compression::Xz, 6)?,
        measure("pack-memory-zstd", Compression::Zstd, 19)?,
    ])
}

/// By how much this process grows at most during `work` (proc_pid_status(5), proc_pid_clear_refs(5)).
fn peak_bytes_of(work: impl FnOnce() -> Result<()>) -> Result<u64> {
    fs::write("/proc/self/clear_refs", "5").context("cannot reset the peak of this process")?;
    let before = status_bytes("self", "VmRSS")?;
    work()?;
    Ok(status_bytes("self", "VmHWM")?.saturating_sub(before))
}
