//! An image installed by real dnf, from a signed repository that is made of Debian packages because no RPM mirror can be
//! reached from test machines. The `rocky-*` recipes differ from this one in repositories and package names.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Result, ensure};
use bootlab::deadline::wait_until;
use bootlab::images;
use bootlab::lab::Lab;
use bootlab::places::{lab_dir, program};
use bootlab::qemu::NodeSpec;
use bootlab::reproduction;
use bootlab::rpm_repo;
use bootspec::event::Phase;

/// From power-on to multi-user, on an idle machine without KVM; xz takes most of it.
const IDLE_BOOT: Duration = Duration::from_secs(180);

/// From the start of a build to the work of its package manager, on an idle machine.
const STEP: Duration = Duration::from_secs(30);

/// Writes a recipe called `name` that installs `packages`, and returns its path.
fn recipe(name: &str, repository: &Path, packages: &str) -> Result<PathBuf> {
    let dir = lab_dir().join("recipes");
    fs::create_dir_all(&dir)?;
    let path = dir.join(format!("{name}.toml"));
    let repository = repository.display();
    let text = format!(
        r#"
name = "{name}"
packages = [{packages}]

[source]
type = "dnf"
releasever = "9"

[[source.repository]]
name = "test"
baseurl = "file://{repository}/repo"
gpgkeys = ["file://{repository}/RPM-GPG-KEY-test"]
repo_gpgcheck = true

[compression]
format = "xz"
level = 1
"#
    );
    fs::write(&path, text)?;
    Ok(path)
}

#[test]
fn an_image_made_by_dnf_boots_to_multi_user() -> Result<()> {
    let recipe = recipe("dnf-compute", &rpm_repo::full()?, r#""image-base""#)?;
    let store = lab_dir().join("store-dnf");
    let image = images::build(&recipe.display().to_string(), &store, Stdio::piped())?;
    let spec = NodeSpec::classic(1, &image.to_string());
    let lab = Lab::start("dnf-compute", &store, std::slice::from_ref(&spec))?;
    let node = lab.boot(&spec)?;
    lab.wait_for_phase(&node, Phase::Ready, IDLE_BOOT)?;
    let console = node.console().text();
    ensure!(!console.contains("Failed to start"), "{}", node.console().tail());
    Ok(())
}

#[test]
fn two_builds_by_dnf_give_the_same_bytes_in_other_surroundings() -> Result<()> {
    reproduction::check(&recipe("dnf-twice", &rpm_repo::full()?, r#""image-base""#)?)
}

/// dnf itself exits with 0 here.
#[test]
fn a_failing_scriptlet_fails_the_build_with_its_output_and_publishes_nothing() -> Result<()> {
    let recipe = recipe("dnf-bad-post", &rpm_repo::full()?, r#""image-base", "bad-post""#)?;
    let store = lab_dir().join("store-dnf-bad-post");
    let error = images::build(&recipe.display().to_string(), &store, Stdio::piped()).unwrap_err().to_string();
    ensure!(error.contains("bad-post"), "{error}");
    ensure!(error.contains("allow_failure"), "{error}");
    check_nothing_left(&store)?;
    let left: Vec<_> = fs::read_dir(store.join("dnf-bad-post"))?.collect();
    ensure!(left.is_empty(), "something is left: {left:?}");
    Ok(())
}

/// The worst moment: dnf is at work in the sandbox, with /proc, /sys and /dev mounted in the root.
#[test]
fn a_build_that_is_killed_leaves_no_mount_no_process_and_no_image() -> Result<()> {
    let recipe = recipe("dnf-killed", &rpm_repo::full()?, r#""image-base""#)?;
    let store = lab_dir().join("store-dnf-killed");
    let (cache, log) =
        (lab_dir().join("cache-dnf-killed"), lab_dir().join("cache-dnf-killed/logs/dnf-killed.log"));
    // A log of the run before would look like one of this run.
    let _ = fs::remove_file(&log);
    let mut build = Command::new(program("imagebuild")?)
        .arg("build")
        .arg(&recipe)
        .arg("--store")
        .arg(&store)
        .arg("--cache")
        .arg(&cache)
        .stderr(Stdio::null())
        .spawn()?;
    let begun = || fs::metadata(&log).is_ok_and(|log| log.len() > 0);
    wait_until(STEP, || begun() || !matches!(build.try_wait(), Ok(None)));
    build.kill()?;
    build.wait()?;
    ensure!(begun(), "dnf has not begun");
    // The kernel ends the namespaces a moment after the process.
    wait_until(STEP, || check_nothing_left(&store).is_ok());
    check_nothing_left(&store)?;

    // The next build finds the dead draft and removes it.
    let image = images::build(&recipe.display().to_string(), &store, Stdio::piped())?;
    let names: Vec<_> = fs::read_dir(store.join("dnf-killed"))?.collect::<Result<_, _>>()?;
    ensure!(names.len() == 2, "more than {} and its link: {names:?}", image.version);
    fs::remove_dir_all(&store)?;
    Ok(())
}

/// Nothing is mounted in `store`, no process works there, and nothing was published.
fn check_nothing_left(store: &Path) -> Result<()> {
    let path = store.display().to_string();
    let mounts = fs::read_to_string("/proc/mounts")?;
    ensure!(!mounts.contains(&path), "something is mounted:\n{mounts}");
    for process in fs::read_dir("/proc")? {
        let arguments = fs::read(process?.path().join("cmdline")).unwrap_or_default();
        let arguments = String::from_utf8_lossy(&arguments).into_owned();
        ensure!(!arguments.contains(&path), "a process is left: {arguments:?}");
    }
    let images: Vec<_> =
        store.read_dir()?.flatten().filter(|image| image.path().join("current").exists()).collect();
    ensure!(images.is_empty(), "something was published: {images:?}");
    Ok(())
}
