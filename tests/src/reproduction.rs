//! Whether a recipe gives the same image, whoever builds it where.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use bootspec::ImageRef;
use serde_json::Value;

use crate::places::{cache_dir, program};
use crate::user::{self, User};

/// A way to call imagebuild.
struct Surroundings {
    shell: &'static str,
    jobs: &'static str,
}

const ONE: Surroundings = Surroundings { shell: "umask 022", jobs: "2" };
const OTHER: Surroundings = Surroundings {
    shell: "umask 077; cd /; hostname elsewhere; export TZ=Pacific/Auckland LC_ALL=C HOME=/nonexistent",
    jobs: "1",
};

impl Surroundings {
    /// Builds the recipe into `store` as root.
    fn build(&self, recipe: &Path, store: &Path) -> Result<ImageRef> {
        let mut command = Command::new("sh");
        command.args(["-c", &format!("{}; exec \"$@\"", self.shell), "sh"]);
        self.run(command, recipe, store, &cache_dir())
    }

    /// Builds the recipe into `store` as `user`.
    fn build_as(&self, user: &User, recipe: &Path, store: &Path) -> Result<ImageRef> {
        self.run(user.command(self.shell)?, recipe, store, &user.cache()?)
    }

    /// Returns the version.
    fn run(&self, mut command: Command, recipe: &Path, store: &Path, cache: &Path) -> Result<ImageRef> {
        command.arg(program("imagebuild")?).arg("build").arg(recipe).args(["--json", "--jobs", self.jobs]);
        command.arg("--store").arg(store).arg("--cache").arg(cache).env("SOURCE_DATE_EPOCH", "1790000000");
        let output = command.output()?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let built: Value = serde_json::from_slice(&output.stdout)?;
        Ok(built["image"].as_str().context("it says what it built")?.parse()?)
    }
}

/// The files of a version.
fn files(store: &Path, image: &ImageRef) -> Result<BTreeMap<String, Vec<u8>>> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(image.dir(store))? {
        let entry = entry?;
        files.insert(entry.file_name().to_string_lossy().into_owned(), fs::read(entry.path())?);
    }
    Ok(files)
}

/// Builds the recipe twice, in surroundings that differ in who builds, root or another user, in umask, working directory,
/// host name, time zone, locale, store, cache, number of cores and, by the length of a build, time. Both versions must
/// have the same files, byte for byte.
pub fn check(recipe: &Path) -> Result<()> {
    let (dir, user) = (tempfile::tempdir()?, User::new()?);
    let recipe = &user.give("recipe.toml", &fs::read_to_string(recipe)?)?;
    let (one, other) = (dir.path().join("one"), user.home().join("other"));
    let image = ONE.build(recipe, &one)?;
    ensure!(image == OTHER.build_as(&user, recipe, &other)?, "the versions have other names");
    let (built, again) = (files(&one, &image)?, files(&other, &image)?);
    let names = built.keys().chain(again.keys());
    let differing: Vec<_> = names.filter(|name| built.get(*name) != again.get(*name)).collect();
    ensure!(differing.is_empty(), "{differing:?} differ: {}", difference(&one, &other, &image)?);
    // bootserve reads the store as another user.
    let version = fs::metadata(image.dir(&other))?;
    let mode = version.permissions().mode() & 0o777;
    ensure!(mode == 0o755, "the version has mode {mode:o}");
    ensure!(version.uid() == user::UID, "the version belongs to {}", version.uid());
    Ok(())
}

/// What `imagebuild diff` says of the two, put into one store.
fn difference(one: &Path, other: &Path, image: &ImageRef) -> Result<String> {
    let copy = one.join(image.name.as_str()).join("other");
    let copied = Command::new("cp").arg("-a").arg(image.dir(other)).arg(&copy).status()?;
    ensure!(copied.success(), "cp: {copied}");
    let mut diff = Command::new(program("imagebuild")?);
    diff.arg("diff").arg("--times").arg(image.to_string()).arg(format!("{}/other", image.name));
    let output = diff.arg("--store").arg(one).output()?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
