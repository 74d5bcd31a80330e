//! From power-on to the exec of systemd, against dracut's livenet module: both fetch the same squashfs over HTTP and mount it
//! under an overlay. Same machine, network, firmware, boot server, kernel and image.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::slice::from_ref;
use std::time::Duration;

use anyhow::{Context, Result};
use bootlab::accel::Accel;
use bootlab::deadline::within;
use bootlab::lab::Lab;
use bootlab::netns::SERVER_ADDRESS;
use bootlab::places::store_dir;
use bootlab::qemu::NodeSpec;
use bootspec::ImageRef;
use bootspec::manifest::{Artifact, BootMode, Manifest};
use bootspec::store::{INITRAMFS, INITRAMFS_FETCHED, MANIFEST, VMLINUZ};
use serde_json::json;

use crate::image::{ARCHIVE, EXEC, EXEC_ARG, Image, SQUASHFS};
use crate::measure::{Goal, Measurement, Rounds, least, run, stdout_of};
use crate::root::{bench_dir, make_empty};

/// Enough for both: livenet holds the squashfs twice for a while.
const MEMORY_MIB: u32 = 2048;
const CPUS: u8 = 2;
/// From power-on to systemd with livenet, on an idle machine without KVM.
const IDLE_BOOT: Duration = Duration::from_secs(150);

/// Runs dracut in the tree `$1` for the kernel `$2`. Its mounts are in a namespace that ends with it. Of the modules for the
/// network dracut 059 would choose systemd-networkd's, with which livenet waits for ever.
const RUN_DRACUT: &str = r#"
mount -t proc proc "$1/proc"
mount --rbind /sys "$1/sys"
mount --rbind /dev "$1/dev"
exec chroot "$1" dracut --force --quiet --no-hostonly --no-hostonly-cmdline --zstd \
    --add "livenet network-legacy" --omit systemd-networkd --kver "$2" /livenet.img
"#;
/// Where [`RUN_DRACUT`] leaves the initramfs in the tree.
const DRACUT_RESULT: &str = "livenet.img";

/// A line for each of our two ways, both against the same boots of livenet.
pub fn boot(rounds: Rounds) -> Result<Vec<Measurement>> {
    let (squashfs, archive) = (SQUASHFS.build()?, ARCHIVE.build()?);
    let livenet = Livenet::prepare(&squashfs)?;
    let dracut = NodeSpec { kernel_args: livenet.kernel_args(), ..node(&livenet.image) };
    let fetch = |image: &Image| NodeSpec {
        settings: toml::toml! { mode = "fetched" },
        kernel_args: vec![EXEC_ARG.to_owned()],
        ..node(&image.image)
    };
    let (squashfs, archive, store) = (fetch(&squashfs), fetch(&archive), store_dir());
    let [overlay, unpacked, peers] = rounds.in_turn(
        "boot-livenet",
        [
            &mut || boot_once("boot-livenet-overlay", &store, &squashfs),
            &mut || boot_once("boot-livenet-zstd", &store, &archive),
            &mut || boot_once("boot-livenet-dracut", &livenet.store, &dracut),
        ],
    )?;
    let peer_initramfs_bytes = fs::metadata(livenet.image.dir(&livenet.store).join(INITRAMFS))?.len();
    let line = |name, ours: &[f64]| {
        let details = json!({
            "memory_mib": MEMORY_MIB, "cpus": CPUS, "accelerator": Accel::detect().name(), "ours": ours, "peers": peers,
            "peer_initramfs_bytes": peer_initramfs_bytes,
        });
        let goal = Goal::Below(1.0);
        Measurement::new(name, least(ours), least(&peers), "wall-seconds", goal).with_details(details)
    };
    Ok(vec![line("boot-livenet", &overlay), line("boot-livenet-zstd", &unpacked)])
}

fn node(image: &ImageRef) -> NodeSpec {
    NodeSpec { memory_mib: MEMORY_MIB, cpus: CPUS, ..NodeSpec::classic(0, &image.to_string()) }
}

/// Boots to the first program of the image; the seconds since power-on.
fn boot_once(name: &str, store: &Path, spec: &NodeSpec) -> Result<f64> {
    let lab = Lab::start(name, store, from_ref(spec))?;
    let node = lab.boot(spec)?;
    node.console().wait_for(EXEC, within(IDLE_BOOT))?;
    let time = node.console().time_of(EXEC).context("it was printed")?;
    Ok(time.duration_since(node.power_on())?.as_secs_f64())
}

/// dracut's initramfs and the squashfs, published so that bootserve hands them out as it does ours.
struct Livenet {
    store: PathBuf,
    image: ImageRef,
    squashfs: String,
}

impl Livenet {
    fn prepare(image: &Image) -> Result<Self> {
        let dir = bench_dir().join("livenet");
        let root = image.manifest.root.as_ref().context("the image has a root")?;
        let livenet = Self {
            store: dir.join("store"),
            image: ImageRef { name: "livenet".parse()?, version: image.image.version.clone() },
            squashfs: root.file().to_string(),
        };
        let version = livenet.image.dir(&livenet.store);
        let recipe = dir.join("dracut.sh");
        if version.join(MANIFEST).exists()
            && fs::read_to_string(&recipe).is_ok_and(|made_by| made_by == RUN_DRACUT)
        {
            return Ok(livenet);
        }
        make_empty(&dir)?;
        fs::create_dir_all(&version)?;
        for file in [VMLINUZ, &livenet.squashfs] {
            fs::copy(image.dir.join(file), version.join(file))?;
        }
        make_dracut_initramfs(image, &dir.join("tree"), &version.join(INITRAMFS))?;
        // To bootserve it is an image without a root of ours: it serves the initramfs and adds no mode.
        let mut manifest = Manifest {
            image: livenet.image.clone(),
            mode: BootMode::Failsafe,
            root: None,
            ..image.manifest.clone()
        };
        manifest.artifacts.remove(&INITRAMFS_FETCHED.parse()?);
        manifest.artifacts.insert(INITRAMFS.parse()?, describe(&version.join(INITRAMFS))?);
        fs::write(version.join(MANIFEST), manifest.to_json())?;
        fs::write(recipe, RUN_DRACUT)?;
        Ok(livenet)
    }

    fn kernel_args(&self) -> Vec<String> {
        let url = format!("http://{SERVER_ADDRESS}{}", self.image.url_path(&self.squashfs));
        let live = ["rd.live.overlay.overlayfs=1", "rd.neednet=1", "ip=dhcp", EXEC_ARG];
        [format!("root=live:{url}")].into_iter().chain(live.map(str::to_owned)).collect()
    }
}

/// Has the image's own dracut make an initramfs for the image's kernel.
fn make_dracut_initramfs(image: &Image, tree: &Path, initramfs: &Path) -> Result<()> {
    let root = image.manifest.root.as_ref().context("the image has a root")?;
    let squashfs = image.dir.join(root.file().as_str());
    run(Command::new("unsquashfs").args(["-quiet", "-no-progress", "-dest"]).arg(tree).arg(squashfs))?;
    let mut dracut = Command::new("unshare");
    dracut.args(["--mount", "--pid", "--fork", "sh", "-ec", RUN_DRACUT, "sh"]);
    run(dracut.arg(tree).arg(&image.manifest.kernel_release))?;
    fs::copy(tree.join(DRACUT_RESULT), initramfs)?;
    // dracut lets root alone read it, but bootserve is nobody.
    fs::set_permissions(initramfs, Permissions::from_mode(0o644))?;
    fs::remove_dir_all(tree).with_context(|| format!("cannot remove {}", tree.display()))
}

fn describe(file: &Path) -> Result<Artifact> {
    let line = stdout_of(Command::new("sha256sum").arg("--binary").arg(file))?;
    let sha256 = line.split(' ').next().unwrap_or_default().parse()?;
    Ok(Artifact { size_bytes: fs::metadata(file)?.len(), sha256 })
}
