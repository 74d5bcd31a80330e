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
use bootspec::manifest::Manifest;
use bootspec::store::MANIFEST;

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

[[file]]
path = "/etc/systemd/system-preset/00-site.preset"
content = "disable chrony.service\nenable ssh.service\n"

[[group]]
name = "hpc"
gid = 4000

[[user]]
name = "alice"
uid = 4001
group = "hpc"

[services]
presets = true

[[script]]
name = "files of others"
run = "echo x > /opt/file; chown alice:65535 /opt/file; chmod 2755 /opt/file"

[[script]]
name = "what the image must be"
run = """
test "$(stat -c '%U %g' /opt/file)" = "alice 65535"
test "$(systemctl is-enabled ssh.service)" = enabled
test "$(systemctl is-enabled chrony.service)" = disabled
test "$(id -u alice) $(id -g alice) $(id -gn alice)" = "4001 4000 hpc"
"""

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

/// Builds a small image of `packages` with further keys of the source, and returns what is installed: `hello-2.0-1`.
fn installed(name: &str, packages: &str, source: &str) -> Result<Vec<String>> {
    let path = small_recipe(name, packages, source)?;
    let store = lab_dir().join("store-dnf-small");
    let image = images::build(&path.display().to_string(), &store, Stdio::piped())?;
    let manifest: Manifest =
        serde_json::from_slice(&fs::read(store.join(image.to_string()).join(MANIFEST))?)?;
    fs::remove_dir_all(store.join(name))?;
    Ok(manifest.packages.iter().map(|package| format!("{}-{}", package.name, package.version)).collect())
}

/// A recipe with the kernel and `packages`, whose source has these keys and repositories.
fn small_recipe(name: &str, packages: &str, source: &str) -> Result<PathBuf> {
    let path = lab_dir().join("recipes").join(format!("{name}.toml"));
    fs::create_dir_all(lab_dir().join("recipes"))?;
    let text = format!(
        "name = \"{name}\"\narchitecture = \"x86_64\"\npackages = [{packages}]\nkernel.package = \"kernel-core\"\n\
         compression = {{ format = \"zstd\", level = 1 }}\ninitramfs.modules = []\n\n\
         [source]\ntype = \"dnf\"\nreleasever = \"9\"\n{source}"
    );
    fs::write(&path, text)?;
    Ok(path)
}

/// The test's repository under another name, with these keys.
fn repository(name: &str, keys: &str) -> Result<String> {
    let dir = rpm_repo::full()?;
    let dir = dir.display();
    Ok(format!(
        "\n[[source.repository]]\nname = \"{name}\"\nbaseurl = \"file://{dir}/repo\"\n\
         gpgkeys = [\"file://{dir}/RPM-GPG-KEY-test\"]\n{keys}\n"
    ))
}

#[test]
fn streams_groups_and_variables_are_those_of_the_recipe() -> Result<()> {
    let dir = rpm_repo::full()?;
    let path = format!("{}/repo", dir.display());
    let by_variable = repository("test", "")?.replace(&path, "$testdir/repo");
    let source = format!(
        "modules = [\"greeter:1\"]\ngroups = [\"greetings\"]\nvars.testdir = \"{}\"\n{by_variable}",
        dir.display()
    );
    let installed = installed("dnf-streams", "", &source)?;
    // The other stream has a newer one. The group has the first two, and a third that is optional.
    for package in ["greeter-1.0-1", "hello-weak-1.0-1"] {
        ensure!(installed.iter().any(|installed| installed == package), "no {package}: {installed:?}");
    }
    ensure!(!installed.iter().any(|package| package.starts_with("conflict-a")), "{installed:?}");
    Ok(())
}

#[test]
fn a_repository_is_preferred_limited_and_takes_part_in_modules_as_it_says() -> Result<()> {
    let source = [
        repository("preferred", "priority = 10\nexcludes = [\"hello-2.0*\"]")?,
        repository("all", "")?,
        repository("fixes", "includes = [\"greeter\"]\nmodule_hotfixes = true")?,
    ];
    // Without the first, hello would be of version 2.0; without the last, there would be no greeter.
    let installed = installed("dnf-repositories", r#""hello", "greeter""#, &source.concat())?;
    for package in ["hello-1.0-1", "greeter-2.0-1"] {
        ensure!(installed.iter().any(|installed| installed == package), "no {package}: {installed:?}");
    }
    Ok(())
}

#[test]
fn a_stream_a_group_or_a_package_that_is_not_there_fails_the_build_by_its_name() -> Result<()> {
    let store = lab_dir().join("store-dnf-missing");
    for (name, packages, keys, expected) in [
        ("dnf-no-stream", "", "modules = [\"greeter:3\"]\n", "greeter:3"),
        ("dnf-no-module", "", "modules = [\"nosuch:1\"]\n", "nosuch:1"),
        ("dnf-no-group", r#""hello""#, "groups = [\"nosuchgroup\"]\n", "'nosuchgroup' is not available"),
        ("dnf-no-package", r#""hello", "nosuchpackage""#, "", "Unable to find a match: nosuchpackage"),
        ("dnf-hidden-package", r#""greeter""#, "", "greeter"),
    ] {
        let path = small_recipe(name, packages, &format!("{keys}{}", repository("test", "")?))?;
        let built = images::build(&path.display().to_string(), &store, Stdio::piped());
        let error = built.err().map(|error| error.to_string()).unwrap_or_default();
        ensure!(error.contains(expected) && error.contains("with dnf failed"), "{name}: {error:?}");
    }
    Ok(())
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
