//! Images that are edited by hand: what is published of an edit, and what is not. Needs root.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bootlab::deadline::wait_until;
use bootlab::images;
use bootlab::leftovers;
use bootlab::places::{program, shell_store_dir};
use bootlab::small_root::{self, CAP_NET_RAW, set_attribute};
use bootspec::manifest::Manifest;
use bootspec::store::MANIFEST;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// From the start of an edit to its command, on an idle machine.
const STEP: Duration = Duration::from_secs(30);
/// A store, and what its images are made of.
struct Bench(tempfile::TempDir);

impl Bench {
    /// With an image `site` whose root boots nothing, but has what tends to get lost.
    fn new() -> Result<Self> {
        let bench = Self(tempfile::tempdir()?);
        make_root(&bench.path("root"))?;
        bench.build("site", "")?;
        Ok(bench)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Runs imagebuild with these arguments on the store.
    fn run(&self, arguments: &[&str], options: &[&str]) -> Result<Output> {
        let mut command = Command::new(program("imagebuild")?);
        command.arg(arguments[0]).arg("--store").arg(self.path("store")).args(&arguments[1..]).args(options);
        if ["build", "shell"].contains(&arguments[0]) {
            command.env("BOOTNODE_CACHE", self.path("cache"));
        }
        Ok(command.output()?)
    }

    fn json(&self, arguments: &[&str], options: &[&str]) -> Result<Value> {
        let output = self.run(&[arguments, &["--json"]].concat(), options)?;
        ensure!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).with_context(|| format!("{arguments:?} printed no JSON"))
    }

    /// Builds the image `name` of the root, by a recipe that ends in `rest`.
    fn build(&self, name: &str, rest: &str) -> Result<Value> {
        let recipe = self.path(&format!("{name}.toml"));
        let text = format!(
            "name = '{name}'\nkernel.args = ['console=ttyS0', 'quiet']\ninitramfs.modules = []\n\
             [source]\ntype = 'directory'\npath = 'root'\n{rest}"
        );
        let compression =
            if rest.contains("erofs") { "" } else { "[compression]\nformat = 'zstd'\nlevel = 1\n" };
        let text = text + compression;
        fs::write(&recipe, text)?;
        self.json(&["build", &recipe.to_string_lossy(), "--if-changed"], &[])
    }

    /// Edits `image` by a script; returns what was published.
    fn edit(&self, image: &str, script: &str) -> Result<String> {
        let edited = self.json(&["shell", image], &["--", "sh", "-c", script])?;
        ensure!(edited["reused"] == false, "{script} changed nothing: {edited}");
        text(&edited["image"])
    }

    /// What an edit that publishes nothing says, with its exit status. The store must be as it was.
    fn edit_in_vain(&self, image: &str, options: &[&str]) -> Result<(Option<i32>, String)> {
        let before = files_of(&self.path("store"))?;
        let output = self.run(&["shell", image], options)?;
        ensure!(files_of(&self.path("store"))? == before, "the store is another after {options:?}");
        Ok((output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned()))
    }

    fn manifest(&self, image: &str) -> Result<Manifest> {
        let path = self.path("store").join(image).join(MANIFEST);
        Ok(serde_json::from_slice(&fs::read(path)?)?)
    }

    /// The paths of the files that differ.
    fn difference(&self, before: &str, after: &str) -> Result<Vec<String>> {
        let difference = self.json(&["diff", before, after], &[])?;
        let files = difference["files"].as_array().context("files")?;
        files.iter().map(|change| text(&change["what"])).collect()
    }
}

fn text(value: &Value) -> Result<String> {
    value.as_str().map(str::to_owned).with_context(|| format!("{value} is no text"))
}

/// All files below `dir` with their contents, and links with their targets.
fn files_of(dir: &Path) -> Result<BTreeMap<PathBuf, Vec<u8>>> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let kind = path.symlink_metadata()?.file_type();
        if kind.is_dir() {
            files.extend(files_of(&path)?);
            files.insert(path, Vec::new());
        } else if kind.is_symlink() {
            files.insert(path.clone(), fs::read_link(&path)?.into_os_string().into_encoded_bytes());
        } else {
            files.insert(path.clone(), fs::read(&path)?);
        }
    }
    Ok(files)
}

fn make_root(root: &Path) -> Result<()> {
    small_root::make(root)?;
    let at = |path: &str| root.join(path);
    symlink("busybox", at("bin/true"))?;
    let built_in =
        ["loop", "overlay", "squashfs", "erofs"].map(|name| format!("kernel/{name}.ko\n")).concat();
    fs::write(at("lib/modules/1.0/modules.builtin"), built_in)?;
    fs::write(at("srv/gone"), "")?;
    fs::write(at("bin/su"), "setuid")?;
    fs::set_permissions(at("bin/su"), PermissionsExt::from_mode(0o4755))?;
    fs::hard_link(at("bin/su"), at("srv/another-name"))?;
    fs::write(at("bin/ping"), "capable")?;
    set_attribute(&at("bin/ping"), "security.capability", &CAP_NET_RAW)
}

#[test]
fn what_a_command_changes_is_published_and_nothing_else_differs() -> Result<()> {
    let bench = Bench::new()?;
    let first = text(&bench.json(&["show", "site"], &[])?["image"])?;
    let script = "echo new > /etc/motd; rm /srv/gone; chmod 600 /etc/passwd; echo left | tee /tmp/left > /boot/initrd.img-1.0; \
                  test \"$(ls /sys/class/net)\" = lo && test -c /dev/null && test -d /proc/1";
    let second = bench.edit("site", script)?;
    ensure!(second != first && bench.json(&["show", "site"], &[])?["image"] == second.as_str());
    ensure!(bench.difference(&first, &second)? == ["/etc/motd", "/etc/passwd", "/srv/gone"]);
    check_unpacked(&bench, &second)?;

    let (old, new) = (bench.manifest(&first)?, bench.manifest(&second)?);
    ensure!(new.build.root.edited_from.as_ref() == Some(&old.image), "{:?}", new.build);
    ensure!(new.build.root.packing == old.build.root.packing && old.build.root.packing.is_some());
    ensure!((&new.kernel_args, new.mode) == (&old.kernel_args, old.mode));
    let modules = "modules-fetched.img".parse()?;
    ensure!(
        old.artifacts.contains_key(&modules) && new.artifacts.get(&modules) == old.artifacts.get(&modules)
    );
    ensure!(new.artifacts.keys().eq(old.artifacts.keys()), "{:?}", new.artifacts);
    ensure!(new.kernel_release == old.kernel_release && new.rollback_index == old.rollback_index);
    let inode = |image: &str| {
        Ok::<_, std::io::Error>(fs::metadata(bench.path("store").join(image).join("vmlinuz"))?.ino())
    };
    ensure!(inode(&first)? == inode(&second)?, "the kernel was copied");
    ensure!(bench.json(&["verify", "site"], &[])?["damage"].as_array().is_some_and(Vec::is_empty));
    let shown = String::from_utf8(bench.run(&["show", "site"], &[])?.stdout)?;
    ensure!(shown.contains(&format!("edited        by hand, from {first}")), "{shown}");

    // What comes of it later: repack keeps the edit, a build of the recipe is without it.
    let repacked = text(&bench.json(&["repack", "site"], &[])?["image"])?;
    let origin = bench.manifest(&repacked)?.build.root;
    ensure!(origin == new.build.root, "{origin:?}");
    let built = bench.build("site", "")?;
    ensure!(built["reused"] == false, "the edited version was taken for one of the recipe");
    ensure!(bench.difference(&first, &text(&built["image"])?)?.is_empty());
    Ok(())
}

/// Unpacks the root of `image` by tar.
fn check_unpacked(bench: &Bench, image: &str) -> Result<()> {
    let unpacked = bench.path("unpacked");
    fs::create_dir(&unpacked)?;
    let archive = bench.path("store").join(image).join("rootfs.tar.xz");
    let archive = if archive.exists() { archive } else { archive.with_extension("zst") };
    let mut tar = Command::new("tar");
    tar.args(["--extract", "--xattrs", "--xattrs-include=*", "--directory"]).arg(&unpacked).arg("--file");
    ensure!(tar.arg(archive).status()?.success());
    ensure!(fs::read_to_string(unpacked.join("etc/motd"))? == "new\n" && !unpacked.join("srv/gone").exists());
    let su = fs::metadata(unpacked.join("bin/su"))?;
    ensure!(su.mode() & 0o7777 == 0o4755, "setuid is lost: {:o}", su.mode());
    ensure!(su.ino() == fs::metadata(unpacked.join("srv/another-name"))?.ino(), "the hard link is lost");
    let mut capability = [0; 32];
    let length = rustix::fs::lgetxattr(unpacked.join("bin/ping"), "security.capability", &mut capability)?;
    ensure!(capability[..length] == CAP_NET_RAW, "the capability is lost");
    Ok(())
}

#[test]
fn a_failure_a_dry_run_and_an_edit_that_changes_nothing_publish_nothing() -> Result<()> {
    let bench = Bench::new()?;
    let (status, message) = bench.edit_in_vain("site", &["--", "sh", "-c", "echo x > /etc/motd; exit 3"])?;
    ensure!(
        status == Some(1) && message.contains("sh ended with exit status: 3: nothing was published"),
        "{message}"
    );
    let (status, message) = bench.edit_in_vain("site", &["--", "no-such-program"])?;
    ensure!(status == Some(1) && message.contains("cannot run no-such-program"), "{message}");
    // Of a file that was written again alone, only the time is another.
    let same = "cat /etc/passwd > /tmp/x; cat /tmp/x > /etc/passwd; true";
    let (status, message) = bench.edit_in_vain("site", &["--", "sh", "-c", same])?;
    ensure!(status == Some(0) && message.contains("nothing was changed, nothing is published"), "{message}");
    let unchanged = bench.json(&["shell", "site"], &["--", "true"])?;
    ensure!(
        unchanged["reused"] == true && unchanged["image"] == bench.json(&["show", "site"], &[])?["image"]
    );

    let change = ["--", "sh", "-c", "echo x > /etc/motd; rm /srv/gone; touch -d 2001-01-01 /etc/passwd"];
    let (status, _) = bench.edit_in_vain("site", &[&["--dry-run"][..], &change].concat())?;
    ensure!(status == Some(0));
    let what = |options: &[&str]| -> Result<Vec<String>> {
        let dry = bench.json(&[&["shell", "site", "--dry-run"], options].concat(), &change)?;
        ensure!(dry["would"] == "publish", "{dry}");
        dry["files"].as_array().context("files")?.iter().map(|change| text(&change["what"])).collect()
    };
    ensure!(what(&[])? == ["/etc/motd", "/srv/gone"]);
    let with_times = what(&["--times"])?;
    ensure!(with_times.iter().any(|path| path == "/etc/passwd"), "{with_times:?}");
    let listed = bench.run(&["shell", "site", "--dry-run"], &change)?;
    let listed = String::from_utf8(listed.stdout)?;
    ensure!(listed.contains("files:\n  + /etc/motd  file 0644 0:0 2 bytes\n  - /srv/gone"), "{listed}");
    Ok(())
}

#[test]
fn an_edit_that_is_interrupted_or_killed_leaves_nothing() -> Result<()> {
    let bench = Bench::new()?;
    let store = bench.path("store");
    let before = files_of(&store)?;
    for signal in [Signal::INT, Signal::KILL] {
        let begun = bench.path(&format!("begun-{}", signal.as_raw()));
        let mut command = Command::new(program("imagebuild")?);
        command.args(["shell", "site", "--store"]).arg(&store).env("BOOTNODE_CACHE", bench.path("cache"));
        command.args(["--", "sh", "-c", "echo x > /etc/motd; echo begun; sleep 1000; true"]);
        let edit = command.stderr(File::create(&begun)?).stdout(Stdio::null()).spawn()?;
        let has_begun = || fs::read_to_string(&begun).is_ok_and(|text| text.contains("\nbegun"));
        ensure!(wait_until(STEP, has_begun), "the command has not begun");
        kill_process(Pid::from_child(&edit), signal)?;
        let ended = edit.wait_with_output()?;
        // The kernel ends the namespaces a moment after the process.
        wait_until(STEP, || leftovers::check(&store).is_ok());
        leftovers::check(&store)?;
        if signal == Signal::INT {
            let message = fs::read_to_string(&begun)?;
            ensure!(ended.status.code() == Some(1), "{}", ended.status);
            ensure!(message.contains("interrupted: sh was ended, and nothing was published"), "{message}");
            ensure!(files_of(&store)? == before, "something is left");
        }
    }
    let listed = bench.json(&["list"], &[])?;
    ensure!(listed.as_array().is_some_and(|list| list.len() == 1), "the draft counts as a version: {listed}");
    // The next edit removes the dead draft, though it publishes nothing.
    ensure!(bench.run(&["shell", "site"], &["--", "true"])?.status.success());
    ensure!(files_of(&store)? == before, "something is left");
    Ok(())
}

#[test]
fn what_the_initramfs_has_too_cannot_be_edited() -> Result<()> {
    let bench = Bench::new()?;
    for (path, what) in [
        ("/boot/vmlinuz-2.0", "the kernel changed"),
        ("/lib/modules/1.0/kernel/new.ko", "the kernel or its modules changed"),
    ] {
        let (status, message) =
            bench.edit_in_vain("site", &["--", "sh", "-c", &format!("echo x > {path}")])?;
        ensure!(status == Some(1) && message.contains(what) && message.contains(path), "{message}");
        ensure!(message.contains("\nhint: make this change in the recipe"), "{message}");
    }
    Ok(())
}

#[test]
fn labels_of_selinux_are_kept_and_what_has_none_is_refused() -> Result<()> {
    let bench = Bench(tempfile::tempdir()?);
    let root = bench.path("root");
    make_root(&root)?;
    let label = |path: &str| set_attribute(&root.join(path), "security.selinux", b"u:object_r:etc_t:s0\0");
    ["etc", "etc/passwd", "srv/gone"].into_iter().try_for_each(label)?;
    let first = text(&bench.build("site", "")?["image"])?;
    let second = bench.edit("site", "echo more >> /etc/passwd; rm /srv/gone")?;
    ensure!(bench.difference(&first, &second)? == ["/etc/passwd", "/srv/gone"], "a label is lost");
    let (status, message) = bench.edit_in_vain("site", &["--", "sh", "-c", "echo x > /etc/motd"])?;
    ensure!(
        status == Some(1) && message.contains("has no label") && message.contains("  /etc/motd\n"),
        "{message}"
    );

    // Where the policy is known, its labels are set again. This setfiles counts its calls.
    fs::create_dir_all(root.join("etc/selinux/test/policy"))?;
    fs::write(root.join("etc/selinux/test/policy/policy.33"), "policy")?;
    fs::write(root.join("usr/sbin/setfiles"), "#!/bin/sh\necho \"$@\" >> /srv/calls\n")?;
    fs::set_permissions(root.join("usr/sbin/setfiles"), PermissionsExt::from_mode(0o755))?;
    let first = text(&bench.build("labelled", "[selinux]\npolicy = 'test'\n")?["image"])?;
    let second = bench.edit("labelled", "echo x > /etc/motd")?;
    ensure!(bench.difference(&first, &second)? == ["/etc/motd", "/srv/calls"], "it was not labelled again");
    ensure!(bench.manifest(&second)?.build.root.selinux_policy.as_deref() == Some("test"));
    let change = ["--", "sh", "-c", "echo x > /etc/selinux/test/policy/policy.34"];
    let (_, message) = bench.edit_in_vain("labelled", &change)?;
    ensure!(message.contains("the SELinux policy changed"), "{message}");
    Ok(())
}

#[test]
fn roots_that_are_file_systems_are_edited_too() -> Result<()> {
    let bench = Bench::new()?;
    let change = "echo new > /etc/motd; rm /srv/gone";
    let expected = bench.edit("site", change)?;
    for root in ["squashfs", "erofs"] {
        bench.build(root, &format!("[boot]\nroot = '{root}'\nmode = 'fetched'\n"))?;
        let edited = bench.edit(root, change)?;
        ensure!(bench.manifest(&edited)?.build.root.packing.is_some() == (root == "squashfs"));
        // An archive of it can be compared.
        let recipe = bench.path("again.toml");
        let name = format!("{root}-again");
        fs::write(
            &recipe,
            format!("name = '{name}'\ninitramfs.modules = []\n[source]\ntype = 'image'\nimage = '{root}'\n"),
        )?;
        let again = text(&bench.json(&["build", &recipe.to_string_lossy()], &[])?["image"])?;
        let difference = bench.difference(&expected, &again)?;
        ensure!(difference.is_empty(), "{root}: {difference:?}");
    }
    let refused = bench.run(&["shell", "erofs", "--level", "3"], &["--", "true"])?;
    ensure!(String::from_utf8_lossy(&refused.stderr).contains("always compressed with lz4hc"));
    Ok(())
}

/// The manifest lists what the root's own package manager says, and the edit says what everyone could read.
#[test]
fn packages_are_listed_again_and_secrets_looked_for() -> Result<()> {
    let bench = Bench(tempfile::tempdir()?);
    let root = bench.path("root");
    make_root(&root)?;
    fs::write(root.join("usr/sbin/dpkg-query"), "#!/bin/sh\ncat /srv/packages\n")?;
    fs::set_permissions(root.join("usr/sbin/dpkg-query"), PermissionsExt::from_mode(0o755))?;
    fs::write(root.join("srv/packages"), "bash\t5.2\tamd64\n")?;
    bench.build("site", "")?;
    let script = "printf 'less\\t590\\tamd64\\n' >> /srv/packages; mkdir /root/.ssh; echo key > /root/.ssh/id_x; \
                  test ! -e /etc/resolv.conf";
    let options = [
        "--network",
        "--version",
        "by-hand",
        "--compression",
        "zstd",
        "--level",
        "2",
        "--",
        "sh",
        "-c",
        script,
    ];
    let without = bench.run(&["shell", "site"], &options)?;
    ensure!(!without.status.success(), "there is no /etc/resolv.conf with --network");
    let script = script.replace("test ! -e", "test -e");
    let options = [&options[..options.len() - 1], &[&script]].concat();
    let edited = bench.run(&["shell", "site", "--json"], &options)?;
    let message = String::from_utf8_lossy(&edited.stderr).into_owned();
    ensure!(message.contains("can read /root/.ssh/id_x: private SSH key"), "{message}");
    ensure!(message.contains("2 files added, 0 removed, 1 changed; 1 packages differ"), "{message}");
    let edited: Value = serde_json::from_slice(&edited.stdout)?;
    ensure!(edited["image"] == "site/by-hand", "{edited}");
    let manifest = bench.manifest("site/by-hand")?;
    let packages: Vec<_> = manifest.packages.iter().map(|package| package.name.as_str()).collect();
    ensure!(packages == ["bash", "less"], "{packages:?}");
    ensure!(manifest.build.root.packing.is_some_and(|packing| packing.level == 2));
    let sbom = String::from_utf8(bench.run(&["sbom", "site"], &[])?.stdout)?;
    ensure!(sbom.contains("\"less\""), "{sbom}");
    let (status, message) = bench.edit_in_vain("site", &["--version", "by-hand", "--", "true"])?;
    ensure!(status == Some(1) && message.contains("there is another site/by-hand"), "{message}");
    Ok(())
}

/// Debian's own apt installs a package, and nothing but that is left.
#[test]
fn a_package_is_installed_with_the_network() -> Result<()> {
    let base = images::shell("shell-tmpfs", "tmpfs", &[])?;
    let mut command = Command::new(program("imagebuild")?);
    command.arg("shell").arg(base.to_string()).arg("--store").arg(shell_store_dir());
    command.args(["--dry-run", "--json", "--network", "--", "sh", "-c"]);
    let output = command.arg("apt-get update && apt-get -y --no-install-recommends install less").output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let dry: Value = serde_json::from_slice(&output.stdout)?;
    let added: Vec<_> = dry["packages"].as_array().context("packages")?.iter().collect();
    ensure!(added.len() == 1 && added[0]["what"] == "less.amd64", "{dry:#}");
    let files = dry["files"].as_array().context("files")?;
    let files: Vec<_> = files.iter().map(|change| text(&change["what"])).collect::<Result<_>>()?;
    ensure!(files.iter().any(|path| path == "/usr/bin/less"), "{files:?}");
    for trace in
        ["policy-rc.d", "resolv.conf", "/var/cache/apt", "/var/lib/apt/lists", "/var/log/dpkg.log", "history"]
    {
        ensure!(!files.iter().any(|path| path.contains(trace)), "{trace} was left: {files:?}");
    }
    Ok(())
}

/// A shell at a terminal, which script(1) makes.
struct Session {
    script: Child,
    keys: ChildStdin,
    seen: Arc<Mutex<String>>,
}

impl Session {
    fn start(bench: &Bench) -> Result<Self> {
        let shell = format!(
            "{} shell site --store {} --cache {}",
            program("imagebuild")?.display(),
            bench.path("store").display(),
            bench.path("cache").display()
        );
        let mut script = Command::new("script");
        script.args(["--quiet", "--return", "--command", &shell, "/dev/null"]);
        let mut script = script.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let keys = script.stdin.take().context("stdin")?;
        let (seen, mut output) =
            (Arc::new(Mutex::new(String::new())), script.stdout.take().context("stdout")?);
        let shared = Arc::clone(&seen);
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(length @ 1..) = output.read(&mut buffer) {
                let text = String::from_utf8_lossy(&buffer[..length]);
                shared.lock().expect("no reader panics").push_str(&text);
            }
        });
        Ok(Self { script, keys, seen })
    }

    fn seen(&self) -> String {
        self.seen.lock().expect("no reader panics").clone()
    }

    /// Types `keys` when `expected` is there, after what was typed before.
    fn type_after(&mut self, expected: &str, keys: &str) -> Result<()> {
        let there = wait_until(STEP, || self.seen().contains(expected));
        ensure!(there, "{expected:?} is not there: {}", self.seen());
        self.seen.lock().expect("no reader panics").clear();
        Ok(self.keys.write_all(keys.as_bytes())?)
    }

    /// Waits for the end; tells whether imagebuild succeeded, and what was seen since the last keys.
    fn end(mut self) -> Result<(bool, String)> {
        let succeeded = self.script.wait()?.success();
        Ok((succeeded, self.seen()))
    }
}

/// The shell has job control, and Ctrl-C is for what runs in it alone.
#[test]
fn a_shell_has_a_terminal_of_its_own() -> Result<()> {
    let bench = Bench::new()?;
    let mut session = Session::start(&bench)?;
    session.type_after("/ # ", "tty\n")?;
    session.type_after("/dev/pts/0", "sleep 1000 & echo $((40 + 2)); kill %1\n")?;
    // What prints 51 is already what Ctrl-C is for; ash loses an interrupt that comes while it forks.
    session.type_after("42", "sh -c 'echo $((50 + 1)); exec sleep 1000'\n")?;
    session.type_after("51", "\u{3}")?;
    session.type_after("/ # ", "echo after > /etc/motd; exit 0\n")?;
    let (published, seen) = session.end()?;
    ensure!(published && seen.contains("1 files added"), "{seen}");

    let mut session = Session::start(&bench)?;
    session.type_after("/ # ", "echo never > /etc/motd; exit 1\n")?;
    let (published, seen) = session.end()?;
    ensure!(!published && seen.contains("nothing was published"), "{seen}");
    Ok(())
}
