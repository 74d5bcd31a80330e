//! Nothing is lost on the way: every file's metadata and contents on the node, against the same archive as bsdtar
//! extracts it on the host.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bootlab::lab::Lab;
use bootlab::places::store_dir;
use bootlab::qemu::NodeSpec;
use bootlab::{deadline, images};
use bootspec::manifest::Manifest;
use bootspec::store::MANIFEST;

/// From power-on to the last digest, on an idle machine without KVM.
const IDLE_RUN: Duration = Duration::from_secs(180);

const COMPUTE: &str = "debian-12-compute";

/// Prints a digest for each part of the tree that it is started in: first of names, types, modes, owners, sizes, times,
/// link targets and link counts, then of contents, then of file capabilities. What a running system mounts over is left
/// out, and so are the sizes of directories, which differ from file system to file system.
const DIGESTS: &str = r#"
export LC_ALL=C PATH=/usr/sbin:/usr/bin:/sbin:/bin
mounts='( -path ./proc -o -path ./sys -o -path ./dev -o -path ./run ) -prune -o'
for part in '' bin boot etc home lib* media mnt opt root sbin srv tmp usr/* var/*; do
    depth=; [ "$part" ] || depth='-maxdepth 1'
    set -f
    names=$(find ".${part:+/$part}" $depth $mounts \( -type d -printf '%p|%y|%m|%U|%G|%T@\n' -o -printf '%p|%y|%m|%U|%G|%T@|%s|%l|%n\n' \) | sort | sha256sum)
    data=$(find ".${part:+/$part}" $depth $mounts -type f -print0 | sort -z | xargs -0r sha256sum | sha256sum)
    set +f
    echo "digest ./$part ${names%% *} ${data%% *}"
done
echo "digest capabilities $(getcap -r . 2>/dev/null | sort | sha256sum)"
echo digests"-end"
"#;

fn lines(output: &str) -> Vec<&str> {
    output.lines().map(str::trim).filter(|line| line.starts_with("digest ")).collect()
}

/// The digests of the image's root archive, extracted by bsdtar.
fn expected(archive: &Path) -> Result<String> {
    let root = tempfile::tempdir_in(archive.parent().and_then(Path::parent).context("the store is above")?)?;
    let extracted = Command::new("bsdtar")
        .args(["--numeric-owner", "-xpf"])
        .arg(archive)
        .arg("-C")
        .arg(root.path())
        .status()?;
    ensure!(extracted.success(), "bsdtar failed on {}", archive.display());
    let run = Command::new("sh").args(["-c", DIGESTS]).current_dir(root.path()).output()?;
    Ok(String::from_utf8(run.stdout)?)
}

#[test]
fn the_node_has_every_file_as_it_was_packed() -> Result<()> {
    let image = images::shared(COMPUTE)?;
    let dir = image.dir(&store_dir());
    let manifest = Manifest::parse(&fs::read(dir.join(MANIFEST))?)?;
    let root = manifest.root.as_ref().context("the compute image has a root")?;
    let expected = expected(&dir.join(root.file().as_str()))?;
    ensure!(lines(&expected).len() > 20, "the host's list is incomplete: {expected}");

    // A shell in place of systemd, so that the root is as init left it.
    let kernel_args = vec!["init=/bin/sh".to_owned()];
    let spec = NodeSpec { kernel_args, ..NodeSpec::classic(1, &image.to_string()) };
    let lab = Lab::start("fidelity", &store_dir(), std::slice::from_ref(&spec))?;
    let node = lab.boot(&spec)?;
    node.console().wait_for("bootnode: exec /bin/sh", deadline::within(IDLE_RUN))?;
    node.console().ask(
        "cd /; stty -echo; PS1= PS2=; echo shell-$((6*7))",
        "shell-42",
        deadline::within(IDLE_RUN),
    )?;
    for line in DIGESTS.lines() {
        node.console().send(line)?;
    }
    node.console().wait_for("digests-end", deadline::within(IDLE_RUN))?;
    let text = node.console().text();
    let found = lines(&text);
    let lost: Vec<_> = lines(&expected).into_iter().filter(|line| !found.contains(line)).collect();
    ensure!(lost.is_empty(), "these parts differ on the node: {lost:#?}\nthe node has: {found:#?}");
    Ok(())
}
