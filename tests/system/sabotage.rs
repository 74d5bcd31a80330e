//! What must not boot, does not, and says why.

use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bootlab::bootserve::overlays_dir;
use bootlab::deadline::within;
use bootlab::lab::{Lab, Node};
use bootlab::places::{lab_dir, lock, program, shell_store_dir, store_dir};
use bootlab::qemu::NodeSpec;
use bootlab::{api, images};
use bootspec::ImageRef;
use bootspec::event::Phase;
use bootspec::manifest::{Chunk, Manifest, Root, Stage};
use bootspec::store::{INITRAMFS, MANIFEST, MANIFEST_SIGNATURE};

/// From power-on to the end of unpacking, on an idle machine without KVM.
const IDLE_BOOT: Duration = Duration::from_secs(60);

/// An answer of the shell on the console.
const ANSWER: Duration = Duration::from_secs(10);

const COMPUTE: &str = "debian-12-compute";
/// The first thing that systemd prints.
const SYSTEMD: &str = "systemd[1]";

/// Boots `spec` out of `store` and waits for init to give up. Returns the lab with it, so that it stays on.
fn boot_to_failure(name: &str, store: &Path, spec: &NodeSpec) -> Result<(Lab, Node)> {
    let lab = Lab::start(name, store, std::slice::from_ref(spec))?;
    let node = lab.boot(spec)?;
    lab.wait_for_phase(&node, Phase::Init, IDLE_BOOT)?;
    // init's last line.
    node.console().wait_for_line("bootnode: remedy:", within(IDLE_BOOT))?;
    Ok((lab, node))
}

fn check_refused(node: &Node, expected: &[&str]) -> Result<()> {
    let text = node.console().text();
    for part in expected {
        ensure!(text.contains(part), "no '{part}' on the console\n{}", node.console().tail());
    }
    ensure!(!text.contains(SYSTEMD), "systemd was started\n{}", node.console().tail());
    Ok(())
}

/// A copy of the image in a store of its own.
fn copy_image(from: &Path, image: &ImageRef, store: &Path) -> Result<()> {
    let from = from.join(image.name.as_str());
    fs::create_dir_all(store)?;
    let copied = Command::new("cp").args(["-a", "--reflink=auto"]).arg(&from).arg(store).status()?;
    ensure!(copied.success(), "cannot copy {}", from.display());
    Ok(())
}

/// Flips one bit in the middle of `chunk` as the initramfs carries it.
fn flip_bit(dir: &Path, archive: &str, chunk: &Chunk) -> Result<()> {
    let size = usize::try_from(chunk.size_bytes)?;
    let mut bytes = vec![0; size];
    File::open(dir.join(archive))?.read_exact_at(&mut bytes, chunk.offset_bytes)?;
    let path = dir.join(INITRAMFS);
    let initramfs = fs::read(&path)?;
    let start =
        initramfs.windows(size).position(|window| window == bytes).context("the chunk is not there")?;
    let file = File::options().write(true).open(&path)?;
    file.write_all_at(&[bytes[size / 2] ^ 1], (start + size / 2).try_into()?)?;
    Ok(())
}

#[test]
fn a_flipped_bit_in_a_chunk_is_refused_with_its_name() -> Result<()> {
    let image = images::shared(COMPUTE)?;
    let dir = tempfile::tempdir()?;
    // bootserve reads the store as another user.
    fs::set_permissions(dir.path(), Permissions::from_mode(0o755))?;
    copy_image(&store_dir(), &image, dir.path())?;
    let manifest = Manifest::parse(&fs::read(image.dir(dir.path()).join(MANIFEST))?)?;
    let Some(Root::Archive(root)) = &manifest.root else { bail!("the compute image has a root archive") };
    let smallest = root.chunks.iter().enumerate().filter(|(_, chunk)| chunk.stage == Stage::Entries);
    let (index, chunk) = smallest.min_by_key(|(_, chunk)| chunk.size_bytes).context("it has entries")?;
    flip_bit(&image.dir(dir.path()), root.file.as_str(), chunk)?;

    let spec = NodeSpec::classic(1, &image.to_string());
    let (_lab, node) = boot_to_failure("flipped-bit", dir.path(), &spec)?;
    let name = bootspec::initramfs::chunk_path(index, root.compression);
    check_refused(&node, &["FAILED [E-VERIFY]", &name, "is damaged", "; rebooting in "])
}

/// What a sabotaged node that fetches its root must do: print the code and these texts, tell bootserve, with the end of the console, and not boot.
fn check_fetch_fails(
    test: &str,
    store: &Path,
    node: u8,
    image: &ImageRef,
    change: impl FnOnce(&mut NodeSpec),
    code: &str,
    texts: &[&str],
) -> Result<()> {
    let settings = toml::toml! { mode = "fetched" };
    let mut spec = NodeSpec { settings, ..NodeSpec::classic(node, &image.to_string()) };
    change(&mut spec);
    let (lab, node) = boot_to_failure(test, store, &spec)?;
    check_refused(&node, &[&[&format!("FAILED [{code}]"), "bootnode: remedy:"], texts].concat())?;
    let events = api::events(lab.netns(), &spec.name)?;
    let failed = events.iter().find(|event| event.phase == Phase::Failed);
    let message = failed.and_then(|event| event.message.as_deref()).unwrap_or_default();
    ensure!(message.starts_with(&format!("[{code}] ")), "bootserve was told '{message}': {events:?}");
    let console = api::get(lab.netns(), &format!("/v1/nodes/{}/console", spec.name))?;
    for expected in [&format!("] bootnode: FAILED [{code}]"), "] bootnode: remedy: "] {
        ensure!(
            console.contains(expected),
            "'{expected}' is not in the console that bootserve has: {console}"
        );
    }
    let lines = console.lines().filter(|line| line.contains("] bootnode: ")).count();
    ensure!(lines > 2, "nothing of the kernel's log is in the console that bootserve has: {console}");
    Ok(())
}

/// A copy of the shell image in a store of its own, changed by `sabotage`, which gets the version's directory.
fn sabotaged_copy(sabotage: impl FnOnce(&Path) -> Result<()>) -> Result<(tempfile::TempDir, ImageRef)> {
    let image = images::shell("shell-tmpfs", "tmpfs", &[])?;
    sabotaged_copy_of(&image, sabotage)
}

fn sabotaged_copy_of(
    image: &ImageRef,
    sabotage: impl FnOnce(&Path) -> Result<()>,
) -> Result<(tempfile::TempDir, ImageRef)> {
    let store = tempfile::tempdir()?;
    fs::set_permissions(store.path(), Permissions::from_mode(0o755))?;
    copy_image(&shell_store_dir(), image, store.path())?;
    sabotage(&image.dir(store.path()))?;
    Ok((store, image.clone()))
}

/// Changes a text in the manifest. A signature, if there is one, stays.
fn edit_manifest(dir: &Path, from: &str, to: &str) -> Result<()> {
    let path = dir.join(MANIFEST);
    let json = fs::read_to_string(&path)?;
    ensure!(json.contains(from), "no '{from}' in {json}");
    Ok(fs::write(&path, json.replacen(from, to, 1))?)
}

#[test]
fn a_bit_flipped_on_the_server_is_refused_and_reported() -> Result<()> {
    let (store, image) = sabotaged_copy(|dir| {
        let file = File::options().read(true).write(true).open(dir.join("rootfs.tar.zst"))?;
        let (mut byte, at) = ([0], file.metadata()?.len() / 2);
        file.read_exact_at(&mut byte, at)?;
        Ok(file.write_all_at(&[byte[0] ^ 1], at)?)
    })?;
    let texts = ["rootfs.tar.zst is damaged in the ", "the manifest says"];
    check_fetch_fails("fetched-flipped", store.path(), 10, &image, |_| {}, "E-VERIFY", &texts)
}

#[test]
fn a_root_that_the_server_does_not_give_is_waited_for_and_then_given_up() -> Result<()> {
    let (store, image) = sabotaged_copy(|dir| Ok(fs::remove_file(dir.join("rootfs.tar.zst"))?))?;
    let impatient = |spec: &mut NodeSpec| spec.kernel_args.push("bootnode.fetch_timeout=3".to_owned());
    let texts = ["HTTP status 500; next from http://192.168.0.1", "no byte of rootfs.tar.zst came for 3 s"];
    check_fetch_fails("fetched-missing", store.path(), 11, &image, impatient, "E-FETCH", &texts)
}

#[test]
fn another_kernel_than_the_images_own_is_refused() -> Result<()> {
    let (store, image) =
        sabotaged_copy(|dir| edit_manifest(dir, "\"kernel_release\": \"", "\"kernel_release\": \"7."))?;
    let texts = ["kernel 6.1.", "is made for 7.6.1."];
    check_fetch_fails("fetched-kernel", store.path(), 12, &image, |_| {}, "E-KERNEL", &texts)
}

#[test]
fn a_root_file_system_without_room_is_refused() -> Result<()> {
    let image = images::shell("shell-tmpfs", "tmpfs", &[])?;
    let small = |spec: &mut NodeSpec| _ = spec.settings.insert("root_size".to_owned(), "20M".into());
    let texts = ["No space left on device"];
    check_fetch_fails("fetched-full", &shell_store_dir(), 13, &image, small, "E-FULL", &texts)
}

#[test]
fn a_root_without_the_wanted_init_is_refused_while_bootserve_can_be_told() -> Result<()> {
    let image = images::shell("shell-tmpfs", "tmpfs", &[])?;
    let texts = ["has no /sbin/init to execute"];
    check_fetch_fails("fetched-noinit", &shell_store_dir(), 14, &image, |_| {}, "E-NOINIT", &texts)
}

#[test]
fn too_little_memory_is_refused_before_fetching() -> Result<()> {
    let image = images::shell("shell-tmpfs", "tmpfs", &[])?;
    let small = |spec: &mut NodeSpec| spec.memory_mib = 224;
    let texts = ["need ", " MiB, have "];
    check_fetch_fails("fetched-memory", &shell_store_dir(), 15, &image, small, "E-MEMORY", &texts)
}

#[test]
fn an_image_that_was_not_asked_for_is_refused() -> Result<()> {
    let image = images::shell("shell-tmpfs", "tmpfs", &[])?;
    let mut spec = NodeSpec::classic(23, &image.to_string());
    // bootserve says which image it means in fetched mode; here somebody else does.
    spec.kernel_args.push("bootnode.image=other/1".to_owned());
    let (_lab, node) = boot_to_failure("other-image", &shell_store_dir(), &spec)?;
    let found =
        format!("found the image {image}, and the kernel command line asks for bootnode.image=other/1");
    check_refused(&node, &["FAILED [E-OTHERIMAGE]", &found])?;
    ensure!(!node.console().text().contains("bootnode: unpacking"), "it began to unpack");
    Ok(())
}

/// A pair of keys, made once for all tests.
fn keys() -> Result<PathBuf> {
    let dir = lab_dir().join("keys");
    fs::create_dir_all(&dir)?;
    let _lock = lock(&dir.with_extension("lock"))?;
    if !dir.join("bootnode.pub").exists() {
        let made = Command::new(program("imagebuild")?).args(["key", "new", "--out"]).arg(&dir).status()?;
        ensure!(made.success(), "imagebuild key new: {made}");
    }
    Ok(dir)
}

/// An image that boots only what our key has signed.
fn signed_image() -> Result<ImageRef> {
    let keys = keys()?;
    let (key, public) = (keys.join("bootnode.key"), keys.join("bootnode.pub"));
    let options = [OsStr::new("--sign-key"), key.as_os_str(), OsStr::new("--trust"), public.as_os_str()];
    Ok(images::shell("shell-signed", "tmpfs", &options)?)
}

#[test]
fn a_signed_image_boots_carried_and_fetched() -> Result<()> {
    let image = signed_image()?.to_string();
    for mode in ["carried", "fetched"] {
        let settings = toml::toml! { init = "/bin/sh" mode = mode };
        let spec = NodeSpec { settings, ..NodeSpec::classic(16, &image) };
        let lab = Lab::start("signed", &shell_store_dir(), std::slice::from_ref(&spec))?;
        lab.boot(&spec)?.console().wait_for("bootnode: exec /bin/sh", within(IDLE_BOOT))?;
    }
    Ok(())
}

/// A tar with one file of this node alone, which holds `content`, where bootserve looks for it. Signed by our key.
fn signed_overlay(node: u8, content: &str) -> Result<PathBuf> {
    let dir = overlays_dir(&shell_store_dir());
    fs::create_dir_all(&dir)?;
    let files = tempfile::tempdir()?;
    fs::create_dir(files.path().join("etc"))?;
    fs::write(files.path().join("etc/own-key"), content)?;
    let tar = dir.join(format!("{}.tar", NodeSpec::classic(node, "").name));
    let made = Command::new("tar").arg("-C").arg(files.path()).arg("-cf").arg(&tar).arg("etc").status()?;
    ensure!(made.success(), "tar: {made}");
    let key = keys()?.join("bootnode.key");
    let signed = Command::new(program("imagebuild")?).arg("sign").arg(&tar).arg("--key").arg(key).status()?;
    ensure!(signed.success(), "imagebuild sign: {signed}");
    Ok(tar)
}

#[test]
fn a_signed_overlay_is_laid_over_the_root_in_both_modes() -> Result<()> {
    let image = signed_image()?.to_string();
    signed_overlay(21, "this node's own")?;
    for mode in ["carried", "fetched"] {
        let settings = toml::toml! { init = "/bin/sh" mode = mode };
        let spec = NodeSpec { settings, ..NodeSpec::classic(21, &image) };
        let lab = Lab::start("signed-overlay", &shell_store_dir(), std::slice::from_ref(&spec))?;
        let node = lab.boot(&spec)?;
        node.console().wait_for("bootnode: exec /bin/sh", within(IDLE_BOOT))?;
        node.console().ask("cat /etc/own-key", "this node's own", within(ANSWER))?;
    }
    Ok(())
}

#[test]
fn an_overlay_that_was_changed_after_signing_is_refused() -> Result<()> {
    let tar = signed_overlay(22, "this node's own")?;
    let text = fs::read(&tar)?;
    let at = text.windows(4).position(|window| window == b"this").context("the file is not in the tar")?;
    File::options().write(true).open(&tar)?.write_all_at(b"that", at.try_into()?)?;
    let texts =
        ["cannot trust the node's overlay", "or of another document", "remedy: sign the node's overlay"];
    check_fetch_fails(
        "signed-overlay-changed",
        &shell_store_dir(),
        22,
        &signed_image()?,
        |_| {},
        "E-SIGNATURE",
        &texts,
    )
}

#[test]
fn a_manifest_that_was_changed_after_signing_is_refused() -> Result<()> {
    let (store, image) =
        sabotaged_copy_of(&signed_image()?, |dir| edit_manifest(dir, "\"host\": \"", "\"host\": \"x"))?;
    let texts = ["cannot trust the image's manifest", "or of another document"];
    check_fetch_fails("signed-changed", store.path(), 17, &image, |_| {}, "E-SIGNATURE", &texts)
}

#[test]
fn a_manifest_without_signature_is_refused() -> Result<()> {
    let (store, image) =
        sabotaged_copy_of(&signed_image()?, |dir| Ok(fs::remove_file(dir.join(MANIFEST_SIGNATURE))?))?;
    let texts = ["it is not signed"];
    check_fetch_fails("signed-unsigned", store.path(), 18, &image, |_| {}, "E-SIGNATURE", &texts)
}

#[test]
fn an_image_older_than_it_may_be_is_refused() -> Result<()> {
    let image = images::shell("shell-tmpfs", "tmpfs", &[])?;
    let later = |spec: &mut NodeSpec| spec.kernel_args.push("bootnode.min_rollback_index=7".to_owned());
    let texts = ["has rollback index 0, and the least that may boot is 7"];
    check_fetch_fails("fetched-rollback", &shell_store_dir(), 19, &image, later, "E-ROLLBACK", &texts)
}

#[test]
fn an_initramfs_that_was_cut_short_is_refused() -> Result<()> {
    let (store, image) = sabotaged_copy(|dir| {
        let file = File::options().write(true).open(dir.join(INITRAMFS))?;
        let (size, kept) = (file.metadata()?.len(), file.metadata()?.len() * 2 / 3);
        file.set_len(kept)?;
        // bootserve hands out only files of the size in the manifest.
        edit_manifest(dir, &format!("\"size_bytes\": {size}"), &format!("\"size_bytes\": {kept}"))
    })?;
    let spec = NodeSpec::classic(20, &image.to_string());
    let (_lab, node) = boot_to_failure("cut-short", store.path(), &spec)?;
    let text = node.console().text();
    ensure!(
        text.contains("FAILED [E-VERIFY]") || text.contains("FAILED [E-IMAGE]"),
        "{}",
        node.console().tail()
    );
    check_refused(&node, &["bootnode: remedy:"])
}

#[test]
fn too_little_memory_is_refused_before_unpacking() -> Result<()> {
    let spec = NodeSpec { memory_mib: 384, ..NodeSpec::classic(1, &images::shared(COMPUTE)?.to_string()) };
    let (_lab, node) = boot_to_failure("little-memory", &store_dir(), &spec)?;
    check_refused(&node, &["FAILED [E-MEMORY]", "need ", " MiB, have ", "give the node more memory"])?;
    ensure!(!node.console().text().contains("bootnode: unpacking"), "it began to unpack");
    Ok(())
}
