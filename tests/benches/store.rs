//! What is done with an image that is built: a new initramfs around the same root, and reading all of it again.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::{Command, Stdio};

use anyhow::{Result, ensure};
use bootlab::images;
use bootlab::places::{program, store_dir};
use bootspec::ImageRef;
use bootspec::manifest::Manifest;
use bootspec::store::{CURRENT, MANIFEST, image_dir};
use imagebuild::store::Store;
use imagebuild::verify;
use tempfile::TempDir;

use crate::measure::{Cost, Goal, Measurement, Rounds, least_wall};
use crate::root::bench_dir;

/// What repacking may take.
const REPACK_SECONDS: f64 = 5.0;

/// A store with the compute image alone, whose files are those of the lab's.
struct Scratch {
    dir: TempDir,
    image: ImageRef,
}

impl Scratch {
    fn new() -> Result<Self> {
        let image = images::shared("debian-12-compute")?;
        let dir = tempfile::tempdir_in(bench_dir())?;
        let copy = image.dir(dir.path());
        fs::create_dir_all(&copy)?;
        for entry in fs::read_dir(image.dir(&store_dir()))? {
            let entry = entry?;
            fs::hard_link(entry.path(), copy.join(entry.file_name()))?;
        }
        symlink(image.version.as_str(), image_dir(dir.path(), &image.name).join(CURRENT))?;
        Ok(Self { dir, image })
    }
}

pub fn repack(rounds: Rounds) -> Result<Vec<Measurement>> {
    let repack = &mut || {
        let scratch = Scratch::new()?;
        let mut command = Command::new(program("imagebuild")?);
        command.args(["repack", &scratch.image.to_string(), "--store"]).arg(scratch.dir.path());
        Cost::of_command(command.stdout(Stdio::null()).stderr(Stdio::null()))
    };
    let [ours] = rounds.in_turn("repack", [repack])?;
    let goal = Goal::Below(1.0);
    Ok(vec![Measurement::new("repack", least_wall(&ours), REPACK_SECONDS, "wall-seconds", goal)])
}

/// Both read every file of the version; ours the root once more, in the pieces that nodes check.
pub fn verify(rounds: Rounds) -> Result<Vec<Measurement>> {
    let scratch = Scratch::new()?;
    let store = Store::new(scratch.dir.path());
    let dir = scratch.image.dir(scratch.dir.path());
    let manifest = Manifest::parse(&fs::read(dir.join(MANIFEST))?)?;
    let ours = &mut || {
        Cost::of(|| {
            let damage = verify::verify(&store, &scratch.image, &[], |_| ())?;
            ensure!(damage.is_empty(), "{damage:?}");
            Ok(())
        })
    };
    let peer = &mut || {
        let mut command = Command::new("sha256sum");
        command.args(manifest.artifacts.keys().map(|name| dir.join(name.as_str()))).stdout(Stdio::null());
        Cost::of_command(&mut command)
    };
    let [ours, peers] = rounds.in_turn("verify", [ours, peer])?;
    let goal = Goal::AtMost(1.0);
    Ok(vec![Measurement::new("verify", least_wall(&ours), least_wall(&peers), "wall-seconds", goal)])
}
