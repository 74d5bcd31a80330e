//! From the kernel's start to the exec of systemd, against the classic way: an initramfs of busybox, whose script pipes the
//! root archive through xz and tar. Same machine, same kernel and command line, same archive.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bootlab::deadline::within;
use bootlab::direct::DirectSpec;
use bootlab::lab::Lab;
use bootspec::store::{INITRAMFS, VMLINUZ};
use serde_json::json;

use crate::image::{EXEC, EXEC_ARG, Image, XZ};
use crate::measure::{Goal, Measurement, Rounds, least, run};
use crate::root::{bench_dir, make_empty};

/// Enough for both: the kernel holds the archive twice while it unpacks the initramfs, and then the root comes beside it.
const MEMORY_MIB: u32 = 2048;
const CPUS: u8 = 2;
/// From power-on to systemd in the classic way, on an idle machine without KVM.
const IDLE_BOOT: Duration = Duration::from_secs(150);

/// What people write. The moves keep it fair: systemd finds as much mounted as after our init.
const CLASSIC_INIT: &str = r#"#!/bin/busybox sh
busybox mount -t proc proc /proc
busybox mount -t sysfs sysfs /sys
busybox mount -t devtmpfs devtmpfs /dev
busybox mount -t tmpfs -o mode=755,size=90% tmpfs /newroot
busybox xz -dc /root.tar.xz | busybox tar -x -C /newroot
for dir in proc sys dev; do busybox mount -o move /$dir /newroot/$dir; done
exec busybox switch_root /newroot /sbin/bench-exec
"#;

pub fn boot(rounds: Rounds) -> Result<Vec<Measurement>> {
    let name = "boot-classic";
    let image = XZ.build()?;
    let classic = make_classic_initramfs(&image)?;
    let lab = Lab::without_server(name)?;
    let carried = image.dir.join(INITRAMFS);
    let [ours, peers] = rounds.in_turn(
        name,
        [&mut || boot_once(&lab, "ours", &image, &carried), &mut || {
            boot_once(&lab, "classic", &image, &classic)
        }],
    )?;
    let measurement = Measurement::new(name, least(&ours), least(&peers), "wall-seconds", Goal::AtMost(0.50));
    let root = image.manifest.root.as_ref().context("the image has a root")?;
    let details = json!({
        "memory_mib": MEMORY_MIB, "cpus": CPUS, "accelerator": bootlab::accel::Accel::detect().name(),
        "archive_bytes": root.file_bytes(), "ours": ours, "peers": peers,
    });
    Ok(vec![measurement.with_details(details)])
}

/// Boots to the first program of the image; the time that the kernel says then.
fn boot_once(lab: &Lab, name: &str, image: &Image, initramfs: &Path) -> Result<f64> {
    let spec = DirectSpec {
        name: name.parse()?,
        kernel: image.dir.join(VMLINUZ),
        initramfs: initramfs.to_owned(),
        kernel_args: EXEC_ARG.to_owned(),
        memory_mib: MEMORY_MIB,
        cpus: CPUS,
    };
    let node = lab.boot_directly(&spec)?;
    node.console().wait_for(EXEC, within(IDLE_BOOT))?;
    let time = node.console().kernel_time_of(EXEC).context("the kernel's log has times")?;
    Ok(time.as_secs_f64())
}

/// An initramfs of busybox, the script and the archive that imagebuild has published.
fn make_classic_initramfs(image: &Image) -> Result<PathBuf> {
    let dir = bench_dir().join("classic");
    make_empty(&dir)?;
    let tree = dir.join("tree");
    for name in ["bin", "dev", "newroot", "proc", "sys"] {
        fs::create_dir_all(tree.join(name))?;
    }
    // scripts/setup sees to it that this one is static.
    run(Command::new("sh").args(["-ec", "cp \"$(command -v busybox)\" bin"]).current_dir(&tree))?;
    symlink("busybox", tree.join("bin/sh"))?;
    fs::write(tree.join("init"), CLASSIC_INIT)?;
    fs::set_permissions(tree.join("init"), Permissions::from_mode(0o755))?;
    let root = image.manifest.root.as_ref().context("the image has a root")?;
    fs::copy(image.dir.join(root.file().as_str()), tree.join("root.tar.xz"))?;
    let initramfs = dir.join("initramfs.img");
    let mut find = Command::new("find").arg(".").current_dir(&tree).stdout(Stdio::piped()).spawn()?;
    let names = find.stdout.take().context("it is piped")?;
    let mut cpio = Command::new("cpio");
    cpio.args(["--create", "--format=newc", "--quiet"]).current_dir(&tree);
    run(cpio.stdin(names).stdout(File::create(&initramfs)?))?;
    ensure!(find.wait()?.success(), "find failed");
    Ok(initramfs)
}
