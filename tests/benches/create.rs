//! Creating files: a tar that is not compressed, from tmpfs to tmpfs, by one thread. Both sides set owners, modes, times
//! and extended attributes; what they make is compared. What the kernel takes to copy so many bytes, which neither can
//! save, is measured beside them.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::Command;

use anyhow::{Result, ensure};
use bootspec::manifest::Compression;
use init::unpack::{Existing, extract};
use memmap2::{Mmap, MmapOptions};
use rustix::fs::Mode;
use rustix::process::umask;
use serde_json::json;

use crate::measure::{Cost, Goal, Measurement, Rounds, median_cpu, stdout_of};
use crate::root::{Packed, Tmpfs};

const GNU_TAR: [&str; 5] = ["--xattrs", "--xattrs-include=*", "--numeric-owner", "-xpf", "-C"];

/// Lists the tree `$1`: types, modes, owners, lengths, times, targets of links, extended attributes. Times of directories
/// are left out: GNU tar (1.34) makes links with absolute targets last, and then forgets the directories that they are in.
const LIST: &str = r#"
cd "$1"
find . -printf '%P %y %m %U %G %s %l %n\n' | LC_ALL=C sort
find . ! -type d -printf '%P %T@\n' | LC_ALL=C sort
find . -print0 | LC_ALL=C sort -z | xargs -0 getfattr --no-dereference --dump --match=- --encoding=hex
"#;

pub fn run(rounds: Rounds) -> Result<Vec<Measurement>> {
    let (packed, source) = (Packed::with(Compression::Zstd)?, Tmpfs::mount()?);
    let tar = source.path().join("root.tar");
    packed.write_tar(&tar)?;
    check_same(&tar)?;
    let ours = &mut || into_memory(|target| create_ours(&tar, target));
    let peer = &mut || into_memory(|target| create_peer(&tar, target));
    let [ours, peers, copies] =
        rounds.in_turn("create", [ours, peer, &mut || into_memory(|target| copy(&tar, target))])?;
    let (ours, peer) = (median_cpu(&ours), median_cpu(&peers));
    let details = json!({
        "tar_bytes": tar.metadata()?.len(), "inodes": packed.archive.inodes, "peer_arguments": GNU_TAR,
        "cpu_seconds_of_copying": median_cpu(&copies),
    });
    let measurement = Measurement::new("create", ours, peer, "cpu-seconds", Goal::AtMost(0.70));
    Ok(vec![measurement.with_details(details)])
}

fn into_memory(create: impl FnOnce(&Path) -> Result<Cost>) -> Result<Cost> {
    create(Tmpfs::mount()?.path())
}

fn create_ours(tar: &Path, target: &Path) -> Result<Cost> {
    let root = OwnedFd::from(File::open(target)?);
    let umask_before = umask(Mode::empty());
    let cost = Cost::of(|| Ok(extract(&mut &map(tar)?[..], &root, Existing::Refuse)?));
    umask(umask_before);
    cost
}

/// The file as bytes in memory, which is what a decoder hands to init on a node.
#[allow(unsafe_code, reason = "memory that others may change cannot be had safely")]
fn map(file: &Path) -> Result<Mmap> {
    let file = File::open(file)?;
    // SAFETY: the file lies in a directory of this process, and is complete.
    Ok(unsafe { MmapOptions::new().populate().map(&file) }?)
}

fn create_peer(tar: &Path, target: &Path) -> Result<Cost> {
    let [options @ .., directory] = GNU_TAR;
    Cost::of_command(Command::new("tar").args(options).arg(tar).arg(directory).arg(target))
}

fn copy(tar: &Path, target: &Path) -> Result<Cost> {
    let arguments = ["bs=128k".to_owned(), "status=none".to_owned()];
    let (from, to) = (format!("if={}", tar.display()), format!("of={}/copy", target.display()));
    Cost::of_command(Command::new("dd").args(arguments).args([from, to]))
}

/// A comparison of costs needs the same result.
fn check_same(tar: &Path) -> Result<()> {
    let (ours, peers) = (Tmpfs::mount()?, Tmpfs::mount()?);
    create_ours(tar, ours.path())?;
    create_peer(tar, peers.path())?;
    let list = |tree: &Path| stdout_of(Command::new("sh").args(["-ec", LIST, "sh"]).arg(tree));
    let (ours, peers) = (list(ours.path())?, list(peers.path())?);
    let different = ours.lines().zip(peers.lines()).find(|(ours, peers)| ours != peers);
    ensure!(ours == peers, "ours and GNU tar made different trees, first (ours, theirs): {different:?}");
    ensure!(peers.contains("security.capability="), "the root has a file with capabilities");
    Ok(())
}
