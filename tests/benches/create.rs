//! Creating files: a tar that is not compressed, from tmpfs to tmpfs, by one thread. Both sides set owners, modes, times
//! and extended attributes.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::Command;

use anyhow::Result;
use bootspec::manifest::Compression;
use init::unpack::{Existing, extract};
use serde_json::json;

use crate::measure::{Cost, Goal, Measurement, Rounds, median_cpu};
use crate::root::{Packed, in_memory};

const GNU_TAR: [&str; 5] = ["--xattrs", "--xattrs-include=*", "--numeric-owner", "-xpf", "-C"];

pub fn run(rounds: Rounds) -> Result<Vec<Measurement>> {
    let (packed, source) = (Packed::with(Compression::Zstd)?, in_memory()?);
    let tar = source.path().join("root.tar");
    packed.write_tar(&tar)?;
    let [ours, peers] = rounds.in_turn("create", [&mut || create_ours(&tar), &mut || create_peer(&tar)])?;
    let (ours, peer) = (median_cpu(&ours), median_cpu(&peers));
    let details = json!({"tar_bytes": tar.metadata()?.len(), "inodes": packed.archive.inodes, "peer_arguments": GNU_TAR});
    let measurement = Measurement::new("create", ours, peer, "cpu-seconds", Goal::AtMost(0.70));
    Ok(vec![measurement.with_details(details)])
}

fn create_ours(tar: &Path) -> Result<Cost> {
    let target = in_memory()?;
    let root = OwnedFd::from(File::open(target.path())?);
    let tar = File::open(tar)?;
    Cost::of(|| Ok(extract(tar, &root, Existing::Refuse)?))
}

fn create_peer(tar: &Path) -> Result<Cost> {
    let target = in_memory()?;
    let [options @ .., directory] = GNU_TAR;
    Cost::of_command(Command::new("tar").args(options).arg(tar).arg(directory).arg(target.path()))
}
