//! Builds that are killed, and builds for which the disk is too small, step by step: the store must be as it was, and the
//! next build must work. Needs root.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bootlab::deadline::wait_until;
use bootlab::leftovers;
use bootlab::places::program;
use bootlab::small_root;
use serde_json::Value;

/// From the end of imagebuild to that of its namespaces, on an idle machine.
const END: Duration = Duration::from_secs(10);
/// The script of the recipe sleeps for longer, so that it is hit.
const INTO_A_STEP: Duration = Duration::from_millis(100);
/// How many points of time a publication is killed at.
const PUBLICATION_POINTS: u32 = 8;
const MIB: u64 = 1 << 20;
/// No build here needs more. A limit to inodes cannot be set later where there is none.
const LARGE: &str = "size=96m,nr_inodes=100000";
const NO_SPACE: &str = "No space left on device";

/// A recipe of which every step of a build is part, and a store on a file system of its own.
struct Bench {
    // Unmounted before it is removed with the directory.
    disk: Disk,
    dir: tempfile::TempDir,
}

/// A tmpfs, unmounted when it is dropped.
struct Disk(PathBuf);

impl Disk {
    fn mount(dir: PathBuf, options: &str) -> Result<Self> {
        fs::create_dir_all(&dir)?;
        run(Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(&dir))?;
        Ok(Self(dir))
    }

    fn remount(&self, options: &str) -> Result<()> {
        run(Command::new("mount").args(["-o", &format!("remount,{options}")]).arg(&self.0))
    }

    /// Bytes and inodes that are taken.
    fn used(&self) -> Result<(u64, u64)> {
        let stat = rustix::fs::statvfs(&self.0)?;
        Ok(((stat.f_blocks - stat.f_bfree) * stat.f_frsize, stat.f_files - stat.f_ffree))
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if let Err(error) = run(Command::new("umount").arg("--lazy").arg(&self.0)) {
            eprintln!("{error}");
        }
    }
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.output()?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

impl Bench {
    /// With an image `site` whose root is of this kind: `tmpfs`, `squashfs` or `erofs`.
    fn new(kind: &str) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let disk = Disk::mount(dir.path().join("disk"), LARGE)?;
        let bench = Self { dir, disk };
        make_root(&bench.path("root"), kind)?;
        fs::write(bench.path("recipe.toml"), recipe(kind))?;
        let init = "void _start(void) { for (;;); }";
        fs::write(bench.path("init.c"), init)?;
        let mut cc = Command::new("cc");
        cc.args(["-static", "-nostdlib", "-s", "-o"]).args([bench.path("init"), bench.path("init.c")]);
        run(&mut cc)?;
        run(bench.imagebuild()?.args(["key", "new", "--out"]).arg(bench.path("keys")))?;
        bench.succeed()?;
        Ok(bench)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn store(&self) -> PathBuf {
        self.disk.0.join("store")
    }

    fn imagebuild(&self) -> Result<Command> {
        let mut command = Command::new(program("imagebuild")?);
        command.env("BOOTNODE_STORE", self.store()).env("BOOTNODE_CACHE", self.path("cache"));
        Ok(command)
    }

    fn build(&self) -> Result<Command> {
        let mut command = self.imagebuild()?;
        command.arg("build").arg(self.path("recipe.toml")).arg("--init").arg(self.path("init"));
        command.arg("--busybox").arg(self.path("init"));
        command.arg("--sign-key").arg(self.path("keys/bootnode.key"));
        command.arg("--trust").arg(self.path("keys/bootnode.pub"));
        Ok(command)
    }

    /// Builds, and returns what it says of its progress.
    fn succeed(&self) -> Result<String> {
        let output = self.build()?.output()?;
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.success(), "{message}");
        self.check_whole()?;
        Ok(message)
    }

    fn versions(&self) -> Result<BTreeSet<String>> {
        let output = self.imagebuild()?.args(["list", "--json"]).output()?;
        let list: Value = serde_json::from_slice(&output.stdout)?;
        let image = |published: &Value| published["image"].as_str().map(str::to_owned).context("a name");
        list.as_array().context("a list")?.iter().map(image).collect()
    }

    /// All versions are whole, one is current, and nothing else is in the store.
    fn check_whole(&self) -> Result<()> {
        let versions = self.versions()?;
        for version in &versions {
            run(self
                .imagebuild()?
                .args(["verify", version])
                .arg("--trust")
                .arg(self.path("keys/bootnode.pub")))?;
        }
        run(self.imagebuild()?.args(["show", "site"]))?;
        let there = fs::read_dir(self.store().join("site"))?.count();
        ensure!(there == versions.len() + 1, "{there} entries for {versions:?} and the link");
        Ok(())
    }

    /// Makes the oldest version current and removes the others.
    fn back_to_the_first(&self) -> Result<()> {
        let versions = self.versions()?;
        let first = versions.first().context("there is one")?;
        run(self.imagebuild()?.args(["rollback", first]))?;
        versions.iter().skip(1).try_for_each(|version| run(self.imagebuild()?.args(["rm", version])))
    }
}

fn make_root(root: &Path, kind: &str) -> Result<()> {
    small_root::make(root)?;
    let at = |path: &str| root.join(path);
    fs::create_dir_all(at("etc/selinux/test/policy"))?;
    noise(&at("boot/vmlinuz-1.0"))?;
    noise(&at("bin/noise"))?;
    noise(&at("etc/selinux/test/policy/policy.33"))?;
    fs::write(at("usr/sbin/setfiles"), "#!/bin/sh\n")?;
    fs::set_permissions(at("usr/sbin/setfiles"), PermissionsExt::from_mode(0o755))?;
    let module = at("lib/modules/1.0/kernel/card.ko");
    fs::write(root.with_extension("c"), "int card;")?;
    run(Command::new("cc").args(["-c", "-o"]).arg(&module).arg(root.with_extension("c")))?;
    fs::write(at("lib/modules/1.0/modules.dep"), "kernel/card.ko:\n")?;
    let built_in = ["loop", "overlay", kind].map(|name| format!("kernel/{name}.ko\n")).concat();
    Ok(fs::write(at("lib/modules/1.0/modules.builtin"), built_in)?)
}

/// 1 MiB that no compressor makes smaller.
fn noise(path: &Path) -> Result<()> {
    let mut noise = vec![0; 1 << 20];
    File::open("/dev/urandom")?.read_exact(&mut noise)?;
    Ok(fs::write(path, noise)?)
}

fn recipe(kind: &str) -> String {
    let rest = match kind {
        "tmpfs" => "[selinux]\npolicy = 'test'\n[compression]\nformat = 'zstd'\nlevel = 1\n",
        "squashfs" => "[compression]\nformat = 'zstd'\nlevel = 1\n",
        _ => "",
    };
    format!(
        r#"
name = "site"
[source]
type = "directory"
path = "root"
[initramfs]
modules = ["card"]
[boot]
root = "{kind}"
[[file]]
path = "/etc/motd"
content = "hello"
[[script]]
name = "some work"
run = "sleep 0.3; seq 10000"
[[check]]
name = "it was done"
run = "ls /etc/motd"
{rest}"#
    )
}

/// What is published: the files of each version, and which is current.
fn files(dir: &Path) -> Result<BTreeMap<PathBuf, Vec<u8>>> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let kind = path.symlink_metadata()?.file_type();
        if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(".draft-")) {
            continue;
        }
        if kind.is_dir() {
            files.append(&mut self::files(&path)?);
        } else if kind.is_symlink() {
            files.insert(path.clone(), fs::read_link(&path)?.into_os_string().into_encoded_bytes());
        } else {
            files.insert(path.clone(), fs::read(&path)?);
        }
    }
    Ok(files)
}

/// The steps that a build says that it begins, without the name of a version.
fn steps(progress: &str) -> Vec<String> {
    let begun = progress.lines().filter_map(|line| line.strip_suffix(" ..."));
    begun.filter_map(|step| step.split('/').next()).map(str::to_owned).collect()
}

/// Kills a build so long after it says that it begins `step`; tells whether it had not ended before.
fn kill_build(bench: &Bench, step: &str, after: Duration) -> Result<bool> {
    let mut build = bench.build()?.stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
    let lines = BufReader::new(build.stderr.take().context("stderr")?).lines();
    for line in lines {
        let line = line?;
        if line.ends_with(" ...") && line.starts_with(step) {
            sleep(after);
            break;
        }
    }
    build.kill()?;
    Ok(!build.wait()?.success())
}

/// Kills a build there: what was published must be as it was, unless the build was done; then its version must be whole.
fn check_killed(bench: &Bench, step: &str, after: Duration) -> Result<bool> {
    let before = files(&bench.store())?;
    let was_killed = kill_build(bench, step, after)?;
    // The kernel ends the namespaces a moment after the process.
    wait_until(END, || leftovers::check(&bench.disk.0).is_ok());
    leftovers::check(&bench.disk.0).with_context(|| format!("killed at '{step}'"))?;
    let left = files(&bench.store())?;
    if left != before {
        ensure!(
            !was_killed || step.starts_with("publish"),
            "a build that was killed at '{step}' has published"
        );
        let link = bench.store().join("site/current");
        let kept = before.iter().filter(|(path, _)| **path != link);
        for (path, contents) in kept {
            ensure!(left.get(path) == Some(contents), "{} is another after '{step}'", path.display());
        }
    }
    for version in bench.versions()? {
        run(bench.imagebuild()?.args(["verify", &version]))?;
    }
    // It removes what is left of the one before.
    bench.succeed().with_context(|| format!("after a build that was killed at '{step}'"))?;
    Ok(was_killed)
}

#[test]
fn a_build_that_is_killed_at_any_step_leaves_the_store_as_it_was() -> Result<()> {
    let bench = Bench::new("tmpfs")?;
    let steps = steps(&bench.succeed()?);
    for step in ["unpack", "customise", "look for", "find", "label", "collect", "pack", "make", "publish"] {
        ensure!(steps.iter().any(|line| line.starts_with(step)), "no step {step}: {steps:?}");
    }
    let mut hit = 0;
    for step in &steps {
        for after in [Duration::ZERO, INTO_A_STEP] {
            hit += usize::from(check_killed(&bench, step, after)?);
        }
        bench.back_to_the_first()?;
    }
    ensure!(hit >= steps.len(), "no more than {hit} builds were killed in {steps:?}");
    Ok(())
}

#[test]
fn a_build_that_is_killed_while_it_packs_a_file_system_leaves_the_store_as_it_was() -> Result<()> {
    for kind in ["squashfs", "erofs"] {
        let bench = Bench::new(kind)?;
        ensure!(check_killed(&bench, "pack the root file system", Duration::ZERO)?, "{kind} was not hit");
    }
    Ok(())
}

/// The moment at which a version appears is one rename, and `current` another.
#[test]
fn a_publication_that_is_killed_gives_a_whole_version_or_none() -> Result<()> {
    let bench = Bench::new("tmpfs")?;
    let mut build = bench.build()?.stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
    let mut lines = BufReader::new(build.stderr.take().context("stderr")?).lines();
    lines.find(|line| line.as_ref().is_ok_and(|line| line.starts_with("publish"))).context("publish")??;
    let begun = Instant::now();
    ensure!(build.wait()?.success());
    let takes = begun.elapsed();
    for point in 0..=PUBLICATION_POINTS {
        check_killed(&bench, "publish", takes * point / PUBLICATION_POINTS)?;
        bench.back_to_the_first()?;
    }
    Ok(())
}

/// Where a build ended for which there was no room: the step that it had begun.
fn failed_at(output: &Output) -> Result<String> {
    let message = String::from_utf8_lossy(&output.stderr);
    steps(&message).pop().context("it had begun something")
}

/// Builds with more and more room, `limit` after `limit` as an option of the mount, until one is enough. Returns the steps
/// at which those before it ended.
fn fill(bench: &Bench, limits: impl Iterator<Item = String>) -> Result<BTreeSet<String>> {
    let before = files(&bench.store())?;
    let mut ended = BTreeSet::new();
    for limit in limits {
        bench.disk.remount(&limit)?;
        let output = bench.build()?.output()?;
        if output.status.success() {
            bench.disk.remount(LARGE)?;
            bench.check_whole()?;
            return Ok(ended);
        }
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        let error = message.lines().skip_while(|line| !line.starts_with("imagebuild: "));
        let error = error.collect::<Vec<_>>().join("\n");
        ensure!(output.status.code() == Some(1), "{limit}: {}", output.status);
        ensure!(error.contains(NO_SPACE) && error.contains("`imagebuild gc`"), "{limit}: {message}");
        let disk = bench.disk.0.to_string_lossy();
        ensure!(error.contains(&*disk) || error.contains(" in the root: "), "it names no file: {message}");
        ensure!(files(&bench.store())? == before, "{limit}: the store is another: {message}");
        bench.check_whole()?;
        leftovers::check(&bench.disk.0)?;
        if ended.insert(failed_at(&output)?) {
            bench.disk.remount(LARGE)?;
            bench.succeed().with_context(|| format!("with room again, after {message}"))?;
            bench.back_to_the_first()?;
            ensure!(files(&bench.store())? == before);
        }
    }
    anyhow::bail!("no room was enough after {ended:?}")
}

/// Builds with `more` room each time.
fn check_full(kind: &str, more: u64, steps: &[&str]) -> Result<()> {
    let bench = Bench::new(kind)?;
    let (used, _) = bench.disk.used()?;
    let ended = fill(&bench, (1..40).map(|times| format!("size={}", used + times * more)))?;
    for step in steps {
        ensure!(ended.iter().any(|ended| ended.starts_with(step)), "{kind}: none at {step}: {ended:?}");
    }
    Ok(())
}

/// Publishing itself needs no room: the unpacked root has been removed by then.
#[test]
fn a_disk_that_is_full_at_any_step_leaves_the_store_as_it_was() -> Result<()> {
    check_full("tmpfs", MIB, &["unpack", "collect kernel modules", "pack", "make the initramfs"])
}

#[test]
fn a_disk_that_is_full_for_a_file_system_leaves_the_store_as_it_was() -> Result<()> {
    check_full(
        "squashfs",
        2 * MIB,
        &["unpack", "pack the root file system as squashfs", "make the initramfs"],
    )?;
    check_full("erofs", 2 * MIB, &["unpack", "pack the root file system as erofs", "make the initramfs"])
}

#[test]
fn a_disk_without_inodes_leaves_the_store_as_it_was() -> Result<()> {
    let bench = Bench::new("tmpfs")?;
    let (_, used) = bench.disk.used()?;
    let ended = fill(&bench, (1..80).map(|inodes| format!("nr_inodes={}", used + inodes * 2)))?;
    ensure!(ended.iter().any(|step| step.starts_with("unpack")), "{ended:?}");
    Ok(())
}

/// The cache has the log of the programs that work on the root.
#[test]
fn a_cache_that_is_full_fails_the_build_by_its_name() -> Result<()> {
    let bench = Bench::new("tmpfs")?;
    let before = files(&bench.store())?;
    let cache = Disk::mount(bench.path("small"), "size=4k")?;
    let failed = bench.build()?.env("BOOTNODE_CACHE", &cache.0).output()?;
    let message = String::from_utf8_lossy(&failed.stderr).into_owned();
    ensure!(failed.status.code() == Some(1), "{}: {message}", failed.status);
    let log = cache.0.join("logs/site.log");
    let names = format!("cannot write the log {}: {NO_SPACE}", log.display());
    ensure!(message.contains(&names) && message.contains("\nhint: "), "{message}");
    ensure!(files(&bench.store())? == before, "the store is another");
    bench.check_whole()?;
    cache.remount("size=4m")?;
    ensure!(bench.build()?.env("BOOTNODE_CACHE", &cache.0).output()?.status.success());
    Ok(())
}
