//! Images go through an object store: rclone, which serves a directory as S3, checks signatures and takes uploads in parts.

use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bootlab::deadline::wait_until;
use bootlab::netns::NetNs;
use bootlab::places::program;
use bootspec::ImageRef;
use bootspec::manifest::{Artifact, BootMode, Build, FORMAT, Manifest, RootOrigin};
use imagebuild::digest::digest;
use imagebuild::store::Store;
use serde_json::Value;

const ADDRESS: &str = "127.0.0.1:9000";
const KEY: [&str; 2] = ["AKIABOOTNODE", "a-secret-of-the-test"];
const URL: &str = "s3://images/lab";
/// Enough for several parts.
const KERNEL_BYTES: usize = 96 << 20;

/// rclone in a network of its own, and the directory that it serves.
struct Server {
    netns: NetNs,
    root: tempfile::TempDir,
    rclone: Child,
}

impl Server {
    fn start() -> Result<Self> {
        // target/debug/imagebuild -> target/s3, where scripts/setup installs it.
        let imagebuild = program("imagebuild")?;
        let target = imagebuild.ancestors().nth(2).context("imagebuild lies in a target directory")?;
        let program = target.join("s3/bin/rclone");
        ensure!(program.exists(), "there is no {}\nhint: run scripts/setup", program.display());
        let (netns, root) = (NetNs::create()?, tempfile::tempdir()?);
        fs::create_dir(root.path().join("images"))?;
        let rclone = netns
            .command(program)
            .args(["serve", "s3", "--config", "/dev/null", "--addr", ADDRESS, "--auth-key", &KEY.join(",")])
            .arg(root.path())
            .stderr(Stdio::null())
            .spawn()?;
        let server = Self { netns, root, rclone };
        let answers = || server.netns.inside(|| TcpStream::connect(ADDRESS).is_ok()).is_ok_and(|up| up);
        ensure!(wait_until(Duration::from_secs(10), answers), "rclone does not answer");
        Ok(server)
    }

    /// imagebuild in the same network, with the credentials in its environment.
    fn command(&self, store: &Path, arguments: &[&str]) -> Result<Command> {
        let mut command = self.netns.command(program("imagebuild")?);
        command.args(arguments).arg("--store").arg(store);
        command.env("AWS_ENDPOINT_URL", format!("http://{ADDRESS}"));
        command.env("AWS_ACCESS_KEY_ID", KEY[0]).env("AWS_SECRET_ACCESS_KEY", KEY[1]);
        Ok(command)
    }

    fn json(&self, store: &Path, arguments: &[&str]) -> Result<Value> {
        let output = self.command(store, &[arguments, &["--json"]].concat())?.output()?;
        ensure!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).with_context(|| format!("{arguments:?} printed no JSON"))
    }

    /// Where a file of the image is on the server.
    fn object(&self, image: &ImageRef, file: &str) -> PathBuf {
        self.root.path().join("images/lab").join(image.to_string()).join(file)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.rclone.kill();
        let _ = self.rclone.wait();
    }
}

/// Publishes an image whose kernel is large.
fn publish(store: &Path) -> Result<ImageRef> {
    let store = Store::new(store);
    let draft = store.begin(&"failsafe".parse()?, &"1".parse()?)?;
    let kernel: Vec<u8> =
        (0u32..).flat_map(|n| n.wrapping_mul(0x9e37_79b9).to_le_bytes()).take(KERNEL_BYTES).collect();
    let mut artifacts = std::collections::BTreeMap::new();
    for (name, contents) in [("initramfs.img", &b"init"[..]), ("vmlinuz", &kernel)] {
        fs::write(draft.dir().join(name), contents)?;
        let (size_bytes, sha256) = digest(contents)?;
        artifacts.insert(name.parse()?, Artifact { size_bytes, sha256 });
    }
    let build = Build {
        inputs: digest(&b""[..])?.1,
        tool: "test".into(),
        host: "test".into(),
        time_unix: 0,
        root: RootOrigin::default(),
    };
    let manifest = Manifest {
        format: FORMAT,
        image: draft.image.clone(),
        architecture: "x86_64".into(),
        kernel_release: "6.1".into(),
        mode: BootMode::Failsafe,
        kernel_args: vec![],
        artifacts,
        root: None,
        rollback_index: 0,
        packages: vec![],
        build,
    };
    Ok(draft.publish(&manifest.to_json(), None, &manifest)?)
}

/// What a command that fails says.
fn message(output: Output) -> Result<String> {
    let message = String::from_utf8(output.stderr)?;
    ensure!(output.status.code() == Some(1), "{}: {message}", output.status);
    Ok(message)
}

#[test]
fn a_version_comes_back_from_an_object_store_as_it_went() -> Result<()> {
    let (server, dir) = (Server::start()?, tempfile::tempdir()?);
    let (here, there) = (dir.path().join("here"), dir.path().join("there"));
    let image = publish(&here)?;
    let planned = server.json(&here, &["push", "failsafe", URL, "--dry-run"])?;
    ensure!(planned["sent_bytes"] == KERNEL_BYTES + 4, "{planned}");
    ensure!(server.json(&here, &["list", URL])? == Value::Array(vec![]), "a dry run sent something");
    ensure!(
        server.json(&here, &["push", "failsafe", URL])?["sent"]
            .as_array()
            .is_some_and(|sent| sent.len() == 2)
    );
    let again = server.json(&here, &["push", "failsafe", URL])?;
    ensure!(again["sent"] == Value::Array(vec![]), "{again}");
    ensure!(server.json(&here, &["list", URL])?[0]["image"] == image.to_string());

    let pulled = server.json(&there, &["pull", URL, "failsafe"])?;
    ensure!(pulled["image"] == image.to_string() && pulled["current"] == false, "{pulled}");
    let versions = [&here, &there].map(|store| store.join(image.to_string()));
    ensure!(Command::new("diff").arg("-r").args(versions).status()?.success(), "its files differ");

    // Somebody changes one byte on the server.
    let object = server.object(&image, "vmlinuz");
    let mut kernel = fs::read(&object)?;
    kernel[KERNEL_BYTES / 2] ^= 1;
    fs::write(&object, kernel)?;
    let elsewhere = dir.path().join("elsewhere");
    let refused = message(server.command(&elsewhere, &["pull", URL, &image.to_string()])?.output()?)?;
    ensure!(refused.contains("vmlinuz of s3://images/lab/failsafe/1 has SHA-256"), "{refused}");
    ensure!(fs::read_dir(elsewhere.join("failsafe"))?.next().is_none(), "something is left");
    Ok(())
}

#[test]
fn a_push_that_is_killed_leaves_no_version_and_goes_on_the_next_time() -> Result<()> {
    let (server, dir) = (Server::start()?, tempfile::tempdir()?);
    let image = publish(dir.path())?;
    let mut push = server.command(dir.path(), &["push", "failsafe", URL])?.stderr(Stdio::null()).spawn()?;
    // The kernel, which is sent after it, takes much longer.
    let first = || server.object(&image, "initramfs.img").exists();
    ensure!(wait_until(Duration::from_secs(10), first), "nothing was sent");
    push.kill()?;
    ensure!(push.wait()?.code().is_none(), "it was too fast to be killed");
    ensure!(!server.object(&image, "manifest.json").exists() && !server.object(&image, "vmlinuz").exists());
    ensure!(server.json(dir.path(), &["list", URL])? == Value::Array(vec![]));
    let there = dir.path().join("there");
    let refused = message(server.command(&there, &["pull", URL, "failsafe/1"])?.output()?)?;
    ensure!(refused.contains("there is no image failsafe/1 at s3://images/lab\nhint: "), "{refused}");
    let again = server.json(dir.path(), &["push", "failsafe", URL])?;
    ensure!(again["sent"] == Value::from(vec!["vmlinuz"]), "{again}");
    server.json(&there, &["pull", URL, "failsafe/1"])?;
    Ok(())
}

#[test]
fn what_is_wrong_with_an_object_store_is_said_with_the_remedy() -> Result<()> {
    let (server, dir) = (Server::start()?, tempfile::tempdir()?);
    let list = |url: &str, change: &dyn Fn(&mut Command)| -> Result<String> {
        let mut command = server.command(dir.path(), &["list", url])?;
        change(&mut command);
        message(command.output()?)
    };
    let check = |found: Result<String>, expected: &str| -> Result<()> {
        let found = found?;
        ensure!(found.contains(expected) && found.contains("\nhint: "), "{found}");
        Ok(())
    };
    check(list("s3://others", &|_| ()), "there is no bucket others at http://127.0.0.1:9000")?;
    let wrong = |command: &mut Command| {
        command.env("AWS_SECRET_ACCESS_KEY", "guessed");
    };
    check(list(URL, &wrong), "does not allow to list s3://images/lab: SignatureDoesNotMatch")?;
    let none = |command: &mut Command| {
        command.env_remove("AWS_ACCESS_KEY_ID");
    };
    check(list(URL, &none), "there are no credentials for s3://images/lab")?;
    let nobody = |command: &mut Command| {
        command.env("AWS_ENDPOINT_URL", "http://127.0.0.1:9");
    };
    check(list(URL, &nobody), "cannot be reached: Connection refused")?;
    Ok(())
}
