//! Images of roots that exist already: a directory, a tar archive, container images, another image. Each way must keep all
//! that the root has. Needs root.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, ensure};
use bootlab::images;
use bootlab::places::{self, cache_dir, program};
use bootlab::small_root::{self, CAP_NET_RAW, set_attribute};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use serde_json::Value;

/// All times in the images: what a layer keeps of a time is less than what a directory does.
const SOURCE_DATE: &str = "1000000000";

/// The source that the others are compared with.
const DIRECTORY: &str = "type = 'directory'\npath = 'root'";

/// A store, and recipes beside it.
struct Bench(tempfile::TempDir);

impl Bench {
    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Writes the recipe `name` with this source.
    fn recipe(&self, name: &str, source: &str) -> Result<PathBuf> {
        let path = self.path(&format!("{name}.toml"));
        let rest = "[initramfs]\nmodules = []\n[compression]\nformat = 'zstd'\nlevel = 1\n";
        fs::write(&path, format!("name = '{name}'\n[source]\n{source}\n{rest}"))?;
        Ok(path)
    }

    fn try_build(&self, name: &str, source: &str) -> Result<Output> {
        let mut command = Command::new(program("imagebuild")?);
        command.arg("build").arg(self.recipe(name, source)?).args(["--if-changed", "--json", "--store"]);
        command.arg(self.path("store")).arg("--cache").arg(self.path("cache"));
        Ok(command.env("SOURCE_DATE_EPOCH", SOURCE_DATE).output()?)
    }

    /// Builds an image of this source; returns what was printed.
    fn build(&self, name: &str, source: &str) -> Result<Value> {
        let output = self.try_build(name, source)?;
        ensure!(output.status.success(), "{source}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(serde_json::from_slice(&output.stdout)?)
    }

    /// What the build of this source says when it fails.
    fn refused(&self, name: &str, source: &str) -> Result<String> {
        let output = self.try_build(name, source)?;
        ensure!(!output.status.success(), "{source} was built");
        Ok(String::from_utf8_lossy(&output.stderr).into_owned())
    }

    /// How the current version of `name` differs from that of the directory.
    fn difference(&self, name: &str) -> Result<String> {
        let mut command = Command::new(program("imagebuild")?);
        command.args(["diff", "--times", "directory", name, "--store"]).arg(self.path("store"));
        Ok(String::from_utf8_lossy(&command.output()?.stdout).into_owned())
    }

    /// The packed root of the current version of `name`.
    fn root(&self, name: &str) -> Result<Vec<u8>> {
        let path = self.path("store").join(name).join("current/rootfs.tar.zst");
        fs::read(&path).with_context(|| format!("cannot read {}", path.display()))
    }
}

/// A root that boots nothing, but has what tends to get lost.
fn make_root(root: &Path) {
    small_root::make(root).unwrap();
    let at = |path: &str| root.join(path);
    fs::create_dir_all(at("var/mail")).unwrap();
    fs::write(at("bin/su"), "setuid").unwrap();
    chown(at("bin/su"), Some(0), Some(42)).unwrap();
    fs::set_permissions(at("bin/su"), PermissionsExt::from_mode(0o4755)).unwrap();
    fs::hard_link(at("bin/su"), at("srv/another-name")).unwrap();
    fs::write(at("bin/ping"), "capable").unwrap();
    set_attribute(&at("bin/ping"), "security.capability", &CAP_NET_RAW).unwrap();
    chown(at("var/mail"), Some(1000), Some(3_000_000)).unwrap();
    fs::set_permissions(at("var/mail"), PermissionsExt::from_mode(0o2775)).unwrap();
    mknodat(CWD, at("srv/fifo"), FileType::Fifo, Mode::from_raw_mode(0o640), 0).unwrap();
    mknodat(CWD, at("srv/null"), FileType::CharacterDevice, Mode::from_raw_mode(0o640), 0x103).unwrap();
}

fn run(program: &str, arguments: &[&str], dir: &Path) -> Result<()> {
    let output = Command::new(program).args(arguments).current_dir(dir).output()?;
    ensure!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// Makes a container image out of `root`, in two layers of which the second takes something away again, in each form
/// that there is.
fn make_container(dir: &Path, root: &Path) -> Result<()> {
    run("umoci", &["init", "--layout", "layout"], dir)?;
    run("umoci", &["new", "--image", "layout:site"], dir)?;
    let change = |change: &dyn Fn(&Path) -> Result<()>| -> Result<()> {
        run("umoci", &["unpack", "--image", "layout:site", "bundle"], dir)?;
        change(&dir.join("bundle/rootfs"))?;
        run("umoci", &["repack", "--image", "layout:site", "bundle"], dir)?;
        Ok(fs::remove_dir_all(dir.join("bundle"))?)
    };
    change(&|rootfs| {
        let copy = format!("{}/.", root.display());
        run("cp", &["--archive", &copy, &rootfs.display().to_string()], dir)?;
        fs::create_dir(rootfs.join("srv/gone"))?;
        Ok(fs::write(rootfs.join("srv/gone/file"), "")?)
    })?;
    change(&|rootfs| Ok(fs::remove_dir_all(rootfs.join("srv/gone"))?))?;
    for archive in ["docker-archive:docker.tar:site:latest", "oci-archive:oci.tar:site"] {
        run("skopeo", &["copy", "--quiet", "--insecure-policy", "oci:layout:site", archive], dir)?;
    }
    Ok(())
}

/// Builds an image of the directory and one of each of these sources: all roots must be the same, byte for byte.
fn check_same(bench: &Bench, sources: &[(&str, &str)]) -> Result<()> {
    bench.build("directory", DIRECTORY)?;
    let expected = bench.root("directory")?;
    for (name, source) in sources {
        bench.build(name, source)?;
        let same = bench.root(name)? == expected;
        ensure!(same, "the root of {name} is another: {}", bench.difference(name)?);
    }
    Ok(())
}

#[test]
fn every_source_gives_the_same_root() -> Result<()> {
    let bench = Bench(tempfile::tempdir()?);
    let root = bench.path("root");
    make_root(&root);
    File::create(root.join("srv/sparse"))?.set_len(1 << 24)?;
    let tar =
        ["--create", "--file=root.tar.xz", "--xz", "--sparse", "--acls", "--xattrs", "--xattrs-include=*"];
    run("tar", &[&tar[..], &["--numeric-owner", "--directory=root", "."]].concat(), bench.0.path())?;
    check_same(
        &bench,
        &[("tar", "type = 'tar'\npath = 'root.tar.xz'"), ("image", "type = 'image'\nimage = 'directory'")],
    )?;

    // No layer keeps holes.
    fs::remove_file(root.join("srv/sparse"))?;
    make_container(bench.0.path(), &root)?;
    check_same(
        &bench,
        &[
            ("layout", "type = 'oci'\nlayout = 'layout'\ntag = 'site'"),
            ("docker", "type = 'oci'\narchive = 'docker.tar'"),
            ("oci", "type = 'oci'\narchive = 'oci.tar'"),
        ],
    )?;

    // Unchanged sources are not built again, changed ones are.
    let reused =
        |name: &str, source: &str| Ok::<_, anyhow::Error>(bench.build(name, source)?["reused"] == true);
    let image = "type = 'image'\nimage = 'directory'";
    ensure!(!reused("image", image)?, "the base is another");
    ensure!(reused("directory", DIRECTORY)? && reused("image", image)?, "built again");
    fs::write(root.join("srv/new"), "new")?;
    ensure!(!reused("directory", DIRECTORY)? && !reused("image", image)?, "a change was not seen");

    let message = bench.refused("odd", "type = 'oci'\narchive = 'root.tar.xz'")?;
    ensure!(message.contains("root.tar.xz"), "{message}");
    let message = bench.refused("lost", "type = 'image'\nimage = 'nosuch'")?;
    ensure!(message.contains("there is no image nosuch"), "{message}");
    let message = bench.refused("more", "type = 'directory'\npath = 'root'\n[kernel]\npackage = 'linux'")?;
    ensure!(message.contains("the root has no package manager to add linux with"), "{message}");
    Ok(())
}

/// Takes a byte of the base's root away: nothing may be built on it.
#[test]
fn a_damaged_base_is_refused() -> Result<()> {
    let bench = Bench(tempfile::tempdir()?);
    make_root(&bench.path("root"));
    bench.build("base", "type = 'directory'\npath = 'root'")?;
    let file = fs::canonicalize(bench.path("store/base/current/rootfs.tar.zst"))?;
    let mut bytes = fs::read(&file)?;
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&file, bytes)?;
    let message = bench.refused("site", "type = 'image'\nimage = 'base'")?;
    ensure!(message.contains("is damaged"), "{message}");
    ensure!(!bench.path("store/site/current").exists());
    Ok(())
}

/// Its programs are for other machines, as their headers say (elf(5): e_machine, two bytes at 18).
#[test]
fn a_root_for_other_machines_is_refused() -> Result<()> {
    const AARCH64: u8 = 183;
    let bench = Bench(tempfile::tempdir()?);
    make_root(&bench.path("root"));
    let busybox = bench.path("root/bin/busybox");
    let mut bytes = fs::read(&busybox)?;
    bytes[18] = AARCH64;
    fs::write(&busybox, &bytes)?;
    let message = bench.refused("foreign", DIRECTORY)?;
    ensure!(message.contains("the root is for aarch64") && message.contains("hint:"), "{message}");

    // Nor does init, which is this machine's, come into an image for others.
    let recipe = bench.recipe("foreign", DIRECTORY)?;
    fs::write(&recipe, format!("architecture = 'aarch64'\n{}", fs::read_to_string(&recipe)?))?;
    let mut command = Command::new(program("imagebuild")?);
    command.arg("build").arg(&recipe).arg("--store").arg(bench.path("store"));
    let output = command.arg("--cache").arg(bench.path("cache")).output()?;
    let message = String::from_utf8_lossy(&output.stderr);
    ensure!(!output.status.success() && message.contains("init is not for aarch64"), "{message}");
    ensure!(!bench.path("store/foreign/current").exists());
    Ok(())
}

/// Debian's own apt adds a package to a Debian image: with the network, though scripts have none.
#[test]
fn packages_are_added_by_the_package_manager_of_the_base() -> Result<()> {
    let base = images::shell("shell-tmpfs", "tmpfs", &[])?;
    let dir = tempfile::tempdir()?;
    let recipe = dir.path().join("recipe.toml");
    let text = r#"
name = "shell-and-less"
packages = ["less"]
[source]
type = "image"
image = "shell-tmpfs"
[[script]]
name = "no network"
run = "test \"$(ls /sys/class/net)\" = lo"
[compression]
format = "zstd"
level = 1
"#;
    fs::write(&recipe, text)?;
    let store = places::shell_store_dir();
    let built = images::build(&recipe.to_string_lossy(), &store, Stdio::piped())?;
    let mut diff = Command::new(program("imagebuild")?);
    diff.arg("diff").arg(base.to_string()).arg(built.to_string()).args(["--json", "--store"]).arg(&store);
    let difference: Value = serde_json::from_slice(&diff.output()?.stdout)?;
    let added: Vec<_> = difference["packages"].as_array().context("packages")?.iter().collect();
    ensure!(added.len() == 1 && added[0]["what"] == "less.amd64", "{difference:#}");
    let files: Vec<_> = difference["files"].as_array().context("files")?.iter().map(|f| &f["what"]).collect();
    ensure!(files.iter().any(|path| *path == "/usr/bin/less"), "{files:?}");
    for trace in ["policy-rc.d", "resolv.conf", ".bootnode-script"] {
        ensure!(!files.iter().any(|path| path.to_string().contains(trace)), "{trace} was left: {files:?}");
    }
    ensure!(cache_dir().is_dir());
    Ok(())
}
