//! What must not boot, does not, and says why.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bootlab::images;
use bootlab::lab::{Lab, Node};
use bootlab::places::store_dir;
use bootlab::qemu::NodeSpec;
use bootspec::ImageRef;
use bootspec::event::Phase;
use bootspec::manifest::{Chunk, Manifest, Root, Stage};
use bootspec::store::{INITRAMFS, MANIFEST};

/// From power-on to the end of unpacking, on an idle machine without KVM.
const IDLE_BOOT: Duration = Duration::from_secs(60);

const COMPUTE: &str = "debian-12-compute";
/// The first thing that systemd prints.
const SYSTEMD: &str = "systemd[1]";

/// Boots `spec` out of `store` and waits for init to give up. Returns the lab with it, so that it stays on.
fn boot_to_failure(name: &str, store: &Path, spec: &NodeSpec) -> Result<(Lab, Node)> {
    let lab = Lab::start(name, store, std::slice::from_ref(spec))?;
    let node = lab.boot(spec)?;
    lab.wait_for_phase(&node, Phase::Init, IDLE_BOOT)?;
    node.console().wait_for("bootnode: remedy:", bootlab::deadline::within(IDLE_BOOT))?;
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
fn copy_image(image: &ImageRef, store: &Path) -> Result<()> {
    let from = store_dir().join(image.name.as_str());
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
    fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    copy_image(&image, dir.path())?;
    let manifest = Manifest::parse(&fs::read(image.dir(dir.path()).join(MANIFEST))?)?;
    let Some(Root::Archive(root)) = &manifest.root else { bail!("the compute image has a root archive") };
    let smallest = root.chunks.iter().enumerate().filter(|(_, chunk)| chunk.stage == Stage::Entries);
    let (index, chunk) = smallest.min_by_key(|(_, chunk)| chunk.size_bytes).context("it has entries")?;
    flip_bit(&image.dir(dir.path()), root.file.as_str(), chunk)?;

    let spec = NodeSpec::classic(1, &image.to_string());
    let (_lab, node) = boot_to_failure("flipped-bit", dir.path(), &spec)?;
    let name = bootspec::initramfs::chunk_path(index, root.compression);
    check_refused(&node, &["FAILED [E-VERIFY]", &name, "is damaged", "rebooting in 10 s"])
}

#[test]
fn too_little_memory_is_refused_before_unpacking() -> Result<()> {
    let spec = NodeSpec { memory_mib: 384, ..NodeSpec::classic(1, &images::shared(COMPUTE)?.to_string()) };
    let (_lab, node) = boot_to_failure("little-memory", &store_dir(), &spec)?;
    check_refused(&node, &["FAILED [E-MEMORY]", "need ", " MiB, have ", "give the node more memory"])?;
    ensure!(!node.console().text().contains("bootnode: unpacking"), "it began to unpack");
    Ok(())
}
