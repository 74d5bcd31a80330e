//! imagebuild without root. That it makes the same bytes: `reproducible.rs` and `dnf.rs`, where a user builds what root
//! builds. Here: roots that exist already, what he leaves behind, and what he is told where it is not possible.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Result, ensure};
use bootlab::deadline::wait_until;
use bootlab::places::program;
use bootlab::rpm_repo;
use bootlab::small_root::{self, CAP_NET_RAW, set_attribute};
use bootlab::user::{self, SUBORDINATE_IDS, User};
use rustix::fs::{CWD, FileType, Mode, XattrFlags, makedev, mknodat, setxattr};

/// From the start of a build to the work of its package manager, and from its end to that of its namespaces, on an idle
/// machine.
const STEP: Duration = Duration::from_secs(30);
const SOURCE_DATE: &str = "1790000000";

/// Runs imagebuild as `user`, after the shell commands `before`.
fn imagebuild(user: &User, before: &str, arguments: &[&str]) -> Result<Output> {
    Ok(command(user, before, arguments)?.output()?)
}

fn command(user: &User, before: &str, arguments: &[&str]) -> Result<Command> {
    let mut command = user.command(before)?;
    command.arg(program("imagebuild")?).args(arguments).stdin(Stdio::null());
    command.env("BOOTNODE_STORE", user.home().join("store")).env("BOOTNODE_CACHE", user.home().join("cache"));
    command.env("SOURCE_DATE_EPOCH", SOURCE_DATE);
    Ok(command)
}

/// What imagebuild prints when it succeeds.
fn succeed(user: &User, arguments: &[&str]) -> Result<String> {
    let output = imagebuild(user, ":", arguments)?;
    ensure!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

/// What it says when it fails.
fn fail(user: &User, before: &str, arguments: &[&str]) -> Result<String> {
    let output = imagebuild(user, before, arguments)?;
    ensure!(!output.status.success(), "{arguments:?} succeeded after `{before}`");
    Ok(String::from_utf8(output.stderr)?)
}

/// Builds the recipe as root.
fn build_as_root(user: &User, recipe: &Path) -> Result<()> {
    let mut build = Command::new(program("imagebuild")?);
    build.arg("build").arg(recipe).env("SOURCE_DATE_EPOCH", SOURCE_DATE);
    build
        .arg("--store")
        .arg(user.home().join("of-root"))
        .arg("--cache")
        .arg(user.home().join("cache-of-root"));
    let output = build.output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// A recipe that starts from a root that exists already.
fn recipe(user: &User, name: &str, source: &str) -> Result<PathBuf> {
    let rest = "[[check]]\nname = 'read-only'\nrun = '! busybox touch /file && busybox touch /dev/shm/file'\n\
                [initramfs]\nmodules = []\n[compression]\nformat = 'zstd'\nlevel = 1\n";
    Ok(user.give(&format!("{name}.toml"), &format!("name = '{name}'\n[source]\n{source}\n{rest}"))?)
}

/// A root that boots nothing, with files of several owners, of which `owner` is the first.
fn make_root(root: &Path, owner: u32) -> Result<()> {
    small_root::make(root)?;
    fs::set_permissions(root.join("bin/busybox"), PermissionsExt::from_mode(0o4755))?;
    fs::create_dir_all(root.join("var/mail"))?;
    chown(root.join("var/mail"), Some(owner + 8), Some(owner + 65_000))?;
    let capable = root.join("bin/capable");
    fs::write(&capable, "capable")?;
    set_attribute(&capable, "security.capability", &CAP_NET_RAW)
}

fn make_node(path: &Path) -> Result<()> {
    Ok(mknodat(CWD, path, FileType::CharacterDevice, Mode::from_raw_mode(0o666), makedev(1, 3))?)
}

fn run(program: &str, arguments: &[&str], dir: &Path) -> Result<()> {
    let output = Command::new(program).args(arguments).current_dir(dir).output()?;
    ensure!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// Packs what [`make_root`] makes into an archive that the user can read.
fn make_tar(user: &User, name: &str, change: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    let root = tempfile::tempdir()?;
    make_root(root.path(), 0)?;
    change(root.path())?;
    let path = user.give(name, "")?;
    let file = path.display().to_string();
    run("tar", &["--create", "--xattrs", "--xattrs-include=*", "--file", &file, "."], root.path())?;
    Ok(path)
}

/// Packs what [`make_root`] makes into a container image that the user can read.
fn make_container(user: &User) -> Result<PathBuf> {
    let (dir, path) = (tempfile::tempdir()?, user.give("container.tar", "")?);
    make_root(&dir.path().join("root"), 0)?;
    run("umoci", &["init", "--layout", "layout"], dir.path())?;
    run("umoci", &["new", "--image", "layout:site"], dir.path())?;
    run("umoci", &["insert", "--image", "layout:site", "root", "/"], dir.path())?;
    // skopeo does not write into a file that is there.
    fs::remove_file(&path)?;
    let archive = format!("docker-archive:{}:site:latest", path.display());
    run("skopeo", &["copy", "--quiet", "--insecure-policy", "oci:layout:site", &archive], dir.path())?;
    fs::set_permissions(&path, PermissionsExt::from_mode(0o644))?;
    Ok(path)
}

/// The files of the current version of `name`.
fn files(store: &Path, name: &str) -> Result<BTreeMap<OsString, Vec<u8>>> {
    let dir = store.join(name).join("current");
    let read = |entry: std::io::Result<fs::DirEntry>| {
        let name = entry?.file_name();
        Ok((name.clone(), fs::read(dir.join(name))?))
    };
    dir.read_dir()?.map(read).collect()
}

#[test]
fn archives_and_container_images_give_the_same_bytes_as_root_gets_of_them() -> Result<()> {
    let user = User::new()?;
    // Nodes in /dev are those of a running system, which has its own.
    let tar = make_tar(&user, "root.tar", |root| make_node(&root.join("dev/null")))?;
    let container = make_container(&user)?;
    // As home directories often are: what a mount forbids, a user namespace may not permit again.
    let home = user.home().display().to_string();
    let forbid = format!("mount --bind {home} {home}; mount -o remount,bind,nosuid,nodev {home}");
    for (name, source) in [
        ("tar", format!("type = 'tar'\npath = '{}'", tar.display())),
        ("oci", format!("type = 'oci'\narchive = '{}'", container.display())),
    ] {
        let recipe = recipe(&user, name, &source)?;
        build_as_root(&user, &recipe)?;
        let output = imagebuild(&user, &forbid, &["build", &recipe.display().to_string()])?;
        ensure!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
        let (of_root, of_user) =
            (files(&user.home().join("of-root"), name)?, files(&user.home().join("store"), name)?);
        let names = of_root.keys().chain(of_user.keys());
        let differing: Vec<_> = names.filter(|name| of_root.get(*name) != of_user.get(*name)).collect();
        ensure!(
            differing.is_empty() && of_root.contains_key(OsStr::new("rootfs.tar.zst")),
            "{differing:?} differ"
        );
    }
    Ok(())
}

#[test]
fn an_image_is_edited_without_root_unless_only_root_can_read_its_root() -> Result<()> {
    let user = User::new()?;
    // What a root that is a file system needs of its kernel.
    let built_in = ["loop", "overlay", "squashfs"].map(|name| format!("kernel/{name}.ko\n")).concat();
    let tar = make_tar(&user, "root.tar", |root| {
        Ok(fs::write(root.join("lib/modules/1.0/modules.builtin"), &built_in)?)
    })?;
    let source = format!("type = 'tar'\npath = '{}'", tar.display());
    let recipe = recipe(&user, "edited", &source)?;
    succeed(&user, &["build", &recipe.display().to_string()])?;
    succeed(
        &user,
        &["shell", "edited", "--", "sh", "-c", "echo changed > /etc/passwd; chown 42 /etc/passwd"],
    )?;
    let listed = succeed(&user, &["list"])?;
    ensure!(listed.lines().count() == 2, "{listed}");
    let difference =
        succeed(&user, &["shell", "edited", "--dry-run", "--", "sh", "-c", "chown 0 /etc/passwd"])?;
    ensure!(difference.contains("/etc/passwd") && difference.contains("42"), "{difference}");

    let text =
        fs::read_to_string(&recipe)?.replace("[compression]", "[boot]\nroot = 'squashfs'\n[compression]");
    let recipe = user.give("squashfs.toml", &text.replace("'edited'", "'squashfs'"))?;
    succeed(&user, &["build", &recipe.display().to_string()])?;
    let error = fail(&user, ":", &["shell", "squashfs", "--", "true"])?;
    ensure!(error.contains("rootfs.squashfs: the kernel lets only root mount"), "{error}");
    Ok(())
}

#[test]
fn what_an_archive_has_and_only_root_can_make_fails_the_build_by_its_name() -> Result<()> {
    let user = User::new()?;
    let attribute = |root: &Path| -> Result<()> {
        Ok(setxattr(root.join("etc/passwd"), "trusted.site", b"x", XattrFlags::empty())?)
    };
    for (name, expected, archive) in [
        (
            "node",
            "./etc/node: Cannot mknod",
            make_tar(&user, "1.tar", |root| make_node(&root.join("etc/node")))?,
        ),
        ("attribute", "Cannot set 'trusted.site'", make_tar(&user, "2.tar", attribute)?),
        (
            "number",
            "./etc/passwd: Cannot change ownership to uid 70000",
            make_tar(&user, "3.tar", |root| Ok(chown(root.join("etc/passwd"), Some(70_000), None)?))?,
        ),
    ] {
        let recipe = recipe(&user, name, &format!("type = 'tar'\npath = '{}'", archive.display()))?;
        let error = fail(&user, ":", &["build", &recipe.display().to_string()])?;
        ensure!(error.contains(expected), "{name}: {error}");
    }
    Ok(())
}

#[test]
fn the_owners_of_a_directory_are_those_that_the_user_sees_or_it_is_refused() -> Result<()> {
    let user = User::new()?;
    let root = user.home().join("root");
    make_root(&root, 1_999_999)?;
    // The user becomes root, and his first subordinate id 1.
    run("chown", &["-hR", "--from=0:0", &format!("{0}:{0}", user::UID), "."], &root)?;
    let recipe = recipe(&user, "directory", &format!("type = 'directory'\npath = '{}'", root.display()))?;
    let recipe = recipe.display().to_string();
    succeed(&user, &["build", &recipe])?;
    let archive = user.home().join("store/directory/current/rootfs.tar.zst");
    let listed = Command::new("tar").args(["--numeric-owner", "-tvf"]).arg(archive).output()?;
    let listed = String::from_utf8(listed.stdout)?;
    let owner = |path: &str| {
        let line = listed.lines().find(|line| line.trim_end_matches('/').ends_with(path));
        line.and_then(|line| line.split_whitespace().nth(1)).map(str::to_owned)
    };
    ensure!(owner(" bin/busybox").as_deref() == Some("0/0"), "{listed}");
    ensure!(owner(" var/mail").as_deref() == Some("8/65000"), "{listed}");

    chown(root.join("etc/passwd"), Some(0), Some(0))?;
    let error = fail(&user, ":", &["build", &recipe])?;
    ensure!(
        error.contains("cannot copy /etc/passwd of the directory") && error.contains("\nhint: "),
        "{error}"
    );
    Ok(())
}

/// A recipe that installs packages by dnf.
fn dnf_recipe(user: &User, packages: &str) -> Result<String> {
    let repository = rpm_repo::full()?;
    let repository = repository.display();
    let text = format!(
        "name = 'dnf-user'\npackages = [{packages}]\nkernel.package = 'kernel-core'\ninitramfs.modules = []\n\
         compression = {{ format = 'zstd', level = 1 }}\n[source]\ntype = 'dnf'\nreleasever = '9'\n\
         [[source.repository]]\nname = 'test'\nbaseurl = 'file://{repository}/repo'\n\
         gpgkeys = ['file://{repository}/RPM-GPG-KEY-test']\n"
    );
    Ok(user.give("home/dnf.toml", &text)?.display().to_string())
}

#[test]
fn a_build_that_is_killed_leaves_nothing_that_the_next_one_does_not_remove() -> Result<()> {
    let user = User::new()?;
    let recipe = dnf_recipe(&user, "'hello'")?;
    let first = succeed(&user, &["build", &recipe])?;
    let (images, log) = (user.home().join("store/dnf-user"), user.home().join("cache/logs/dnf-user.log"));
    fs::remove_file(&log)?;

    let mut build = command(&user, ":", &["build", &recipe])?.stderr(Stdio::null()).spawn()?;
    let begun = || fs::metadata(&log).is_ok_and(|log| log.len() > 0);
    wait_until(STEP, || begun() || !matches!(build.try_wait(), Ok(None)));
    ensure!(nothing_is_left(&user).is_err(), "what works is not seen");
    build.kill()?;
    build.wait()?;
    ensure!(begun(), "dnf has not begun");
    // The kernel ends the namespaces a moment after the process.
    wait_until(STEP, || nothing_is_left(&user).is_ok());
    nothing_is_left(&user)?;

    let drafts = || -> Result<usize> {
        let names: Vec<_> = images.read_dir()?.collect::<Result<_, _>>()?;
        Ok(names.iter().filter(|entry| entry.file_name().to_string_lossy().starts_with(".draft-")).count())
    };
    ensure!(drafts()? == 1, "the build was not killed while it worked");
    // This needs no namespace, and so cannot remove files of subordinate ids.
    succeed(&user, &["repack", first.trim()])?;
    let third = succeed(&user, &["build", &recipe])?;
    ensure!(third != first && drafts()? == 0, "the draft is still there");
    Ok(())
}

/// No process has the user's directory among its arguments or its mounts.
fn nothing_is_left(user: &User) -> Result<()> {
    let path = user.home().display().to_string();
    for process in fs::read_dir("/proc")? {
        let process = process?.path();
        for file in ["cmdline", "mountinfo"] {
            let contents = fs::read(process.join(file)).unwrap_or_default();
            ensure!(
                !String::from_utf8_lossy(&contents).contains(&path),
                "{} has {path} in its {file}",
                process.display()
            );
        }
    }
    Ok(())
}

#[test]
fn a_locked_build_uses_its_kept_root_again_and_root_does_not() -> Result<()> {
    let user = User::new()?;
    let recipe = dnf_recipe(&user, "'hello'")?;
    let cache = user.home().join("cache");
    succeed(&user, &["lock", &recipe])?;
    succeed(&user, &["build", "--locked", &recipe])?;
    let reuses = |output: &Output| {
        let log = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.success(), "{log}");
        Ok(log.contains("the root of an earlier build"))
    };
    ensure!(reuses(&imagebuild(&user, ":", &["build", "--locked", &recipe])?)?, "the root was not used");
    let mut of_root = Command::new(program("imagebuild")?);
    of_root.args(["build", "--locked", &recipe]).env("SOURCE_DATE_EPOCH", SOURCE_DATE);
    of_root.arg("--store").arg(user.home().join("of-root")).arg("--cache").arg(&cache);
    ensure!(!reuses(&of_root.output()?)?, "for root its files belong to others");
    Ok(())
}

#[test]
fn a_package_with_a_device_node_fails_the_build_and_the_node_is_named() -> Result<()> {
    let user = User::new()?;
    let error = fail(&user, ":", &["build", &dnf_recipe(&user, "'odd-files'")?])?;
    ensure!(
        error.contains("cannot install packages: ") && error.contains("/usr/libexec/odd/loop"),
        "{error}"
    );
    ensure!(error.contains("\nhint: without root, no device node can be made"), "{error}");
    Ok(())
}

#[test]
fn commands_that_make_no_root_need_neither_root_nor_subordinate_ids() -> Result<()> {
    let user = User::new()?;
    let archive = make_tar(&user, "root.tar", |_| Ok(()))?;
    let recipe = recipe(&user, "listed", &format!("type = 'tar'\npath = '{}'", archive.display()))?;
    let recipe = recipe.display().to_string();
    let image = succeed(&user, &["build", &recipe])?;
    let image = image.trim();
    let store = user.home().join("store");
    let stranger = User::with_ids("")?;
    // He must see nothing but the store of the other.
    for arguments in [
        ["list"].as_slice(),
        &["show", image],
        &["verify", image],
        &["recipe", "show", &recipe],
        &["sbom", image],
    ] {
        let output = command(&stranger, ":", arguments)?.env("BOOTNODE_STORE", &store).output()?;
        ensure!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    for entry in store.join(image).read_dir()? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        let mode = metadata.permissions().mode() & 0o777;
        ensure!(
            (metadata.uid(), mode) == (user::UID, 0o644),
            "{:?}: {} {mode:o}",
            entry.path(),
            metadata.uid()
        );
    }
    Ok(())
}

#[test]
fn where_it_is_not_possible_the_user_is_told_why_and_what_helps() -> Result<()> {
    // A copy of newuidmap that is not setuid.
    let powerless = "cp /usr/bin/newuidmap /etc; mount --bind /etc/newuidmap /usr/bin/newuidmap";
    // The limit is one of the user namespace in which it is set, and this one has the ids of all.
    let forbid = r#"set -- unshare --user --map-users=0,0,4000000 --map-groups=0,0,4000000 \
                    sh -c 'echo 0 > /proc/sys/user/max_user_namespaces; exec "$@"' sh "$@""#;
    let ids_of_all = format!("root:0:4000000\n{SUBORDINATE_IDS}");
    for (ids, before, expected) in [
        ("", ":", "expected 65536 subordinate user ids in /etc/subuid, found 0\nhint: "),
        ("bootlab-user:2000000:1000\n", ":", "in /etc/subuid, found 1000\nhint: "),
        (SUBORDINATE_IDS, "rm /etc/subgid", "subordinate group ids in /etc/subgid, found 0\nhint: "),
        (
            SUBORDINATE_IDS,
            "mount --bind /dev/null /usr/bin/newuidmap",
            "this machine has no newuidmap\nhint: install it",
        ),
        (
            SUBORDINATE_IDS,
            powerless,
            "write to uid_map failed: Operation not permitted\nhint: newuidmap and newgidmap must be setuid",
        ),
        (
            &ids_of_all,
            forbid,
            "\nhint: this machine permits no user namespaces: sysctl user.max_user_namespaces",
        ),
    ] {
        let user = User::with_ids(ids)?;
        let error = fail(&user, before, &["build", "failsafe"])?;
        ensure!(error.contains(expected), "`{before}` with `{ids}`: {error}");
    }
    Ok(())
}

/// As containers do it, which hide parts of both under mounts.
#[test]
fn where_parts_of_proc_or_sys_are_hidden_the_user_is_told_so() -> Result<()> {
    let user = User::new()?;
    let archive = make_tar(&user, "root.tar", |_| Ok(()))?;
    let recipe = recipe(&user, "hidden", &format!("type = 'tar'\npath = '{}'", archive.display()))?;
    for (hidden, expected) in
        [("/proc/irq", "cannot run tar: Operation not permitted"), ("/sys/firmware", "cannot mount /sys for")]
    {
        let hide = format!("mount -t tmpfs tmpfs {hidden}");
        let error = fail(&user, &hide, &["build", &recipe.display().to_string()])?;
        ensure!(
            error.contains(expected) && error.contains("where parts of the existing ones are hidden"),
            "{hidden}: {error}"
        );
    }
    Ok(())
}
