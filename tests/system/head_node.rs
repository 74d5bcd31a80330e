//! bootserve as sites run it: by its unit, under systemd, on a machine of its own. That machine is a node of the lab, and boots
//! another one. The program is the one that is tested, so the machine that builds it must not have a newer libc than Debian 12.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bootlab::bootserve::overlays_dir;
use bootlab::deadline::within;
use bootlab::images;
use bootlab::lab::{Lab, Node};
use bootlab::places::{lab_dir, program, store_dir};
use bootlab::qemu::NodeSpec;
use bootlab::tftp::{Terms, fetch};
use bootspec::event::Phase;

/// From power-on to multi-user, on an idle machine without KVM.
const IDLE_BOOT: Duration = Duration::from_secs(120);
const IDLE_COMMAND: Duration = Duration::from_secs(20);

const UNIT: &str = include_str!("../../bootserve/bootserve.service");
const NBP: &str = "undionly.kpxe";

/// The overlay of the head node: what an admin would write there, the unit where `make install` puts it, and a console that
/// asks for no password. Programs and images come on a disk, mounted at `/usr/local`.
fn write_overlay(dir: &Path, head: Ipv4Addr, node: &NodeSpec) -> Result<()> {
    let config = format!(
        r#"
[server]
interface = "eth0"
address = "{head}"
store = "/usr/local/srv/store"
state = "/var/lib/bootnode/state"
user = "nobody"
http_port = 80

[nbp]
dirs = ["/usr/local/srv/nbp"]

[network]
subnet = "192.168.0.0/24"
range = "192.168.0.200-192.168.0.250"
lease_seconds = 3600

[boot]
kernel_args = ["console=ttyS0,115200", "panic=-1"]

[[node]]
name = "{}"
mac = "{}"
address = "{}"
image = "failsafe"
"#,
        node.name, node.mac, node.address
    );
    let console =
        "[Service]\nExecStart=\nExecStart=-/sbin/agetty --autologin root --keep-baud 115200 - dumb\n";
    let units = "etc/systemd/system";
    let files = [
        ("etc/fstab".to_owned(), "/dev/vda /usr/local squashfs ro,nodev 0 0\n"),
        ("etc/bootnode/bootserve.toml".to_owned(), &config),
        (format!("{units}/bootserve.service"), UNIT),
        (format!("{units}/bootserve.service.d/watchdog.conf"), "[Service]\nWatchdogSec=15\n"),
        (format!("{units}/serial-getty@ttyS0.service.d/login.conf"), console),
    ];
    for (path, text) in files {
        let path = dir.join(path);
        fs::create_dir_all(path.parent().context("the path has no parent")?)?;
        fs::write(path, text)?;
    }
    // What `systemctl enable` does.
    let wants = dir.join(units).join("multi-user.target.wants");
    fs::create_dir_all(&wants)?;
    symlink("../bootserve.service", wants.join("bootserve.service"))?;
    Ok(())
}

/// A disk with bootserve, the image that it is to serve, and a boot program for firmware.
fn make_disk(dir: &Path, image: &str) -> Result<PathBuf> {
    let (root, disk) = (dir.join("usr-local"), dir.join("usr-local.squashfs"));
    for path in ["bin", "srv/nbp", "srv/store/failsafe"] {
        fs::create_dir_all(root.join(path))?;
    }
    fs::copy(program("bootserve")?, root.join("bin/bootserve"))?;
    fs::write(root.join("srv/nbp").join(NBP), "a boot program")?;
    let version = image.rsplit_once('/').map_or(image, |(_, version)| version);
    let target = root.join("srv/store/failsafe").join(version);
    fs::create_dir(&target)?;
    for file in fs::read_dir(store_dir().join(image))? {
        let file = file?;
        fs::copy(file.path(), target.join(file.file_name()))?;
    }
    symlink(version, root.join("srv/store/failsafe/current"))?;
    let mut mksquashfs = Command::new("mksquashfs");
    let mksquashfs = mksquashfs.arg(&root).arg(&disk).args(["-all-root", "-noI", "-noD", "-noF", "-quiet"]);
    let made = mksquashfs.output()?;
    ensure!(made.status.success(), "mksquashfs: {}", String::from_utf8_lossy(&made.stderr));
    fs::remove_dir_all(&root)?;
    Ok(disk)
}

/// Runs `command` in the shell on the node's console until it prints `answer`, which may be some times.
fn expect(node: &Node, command: &str, answer: &str) -> Result<()> {
    // What is typed is echoed; with its quotation marks it is no answer.
    let line = format!("echo 'it says '\"$({command})\"' to that'");
    let answer = format!("it says {answer} to that");
    Ok(node.console().ask(&line, &answer, within(IDLE_COMMAND))?)
}

/// Runs `command` once, and does not wait for its end.
fn run(node: &Node, command: &str) -> Result<()> {
    Ok(node.console().send(command)?)
}

#[test]
fn a_head_node_boots_others_by_the_unit_and_is_started_again_when_it_fails() -> Result<()> {
    let (compute, failsafe) = (images::shared("debian-12-compute")?, images::shared("failsafe")?);
    let node = NodeSpec::classic(1, &failsafe.to_string());
    let overlay = overlays_dir(&store_dir()).join("head-node");
    if overlay.exists() {
        fs::remove_dir_all(&overlay)?;
    }
    let files = tempfile::tempdir_in(lab_dir())?;
    let disk = make_disk(files.path(), &failsafe.to_string())?;
    let head = NodeSpec {
        settings: toml::toml! { overlays = ["head-node"] },
        kernel_args: vec!["net.ifnames=0".to_owned()],
        qemu_args: vec![
            "-drive".to_owned(),
            format!("if=virtio,format=raw,readonly=on,file={}", disk.display()),
        ],
        ..NodeSpec::classic(0, &compute.to_string())
    };
    let address = head.address;
    write_overlay(&overlay, address, &node)?;
    let lab = Lab::start("head-node", &store_dir(), std::slice::from_ref(&head))?;
    let head = lab.boot(&head)?;
    lab.wait_for_phase(&head, Phase::Ready, IDLE_BOOT)?;
    expect(&head, "systemctl is-active bootserve", "active")?;

    // From here on the head node is the only server.
    lab.server().kill9();
    let node = lab.boot(&node)?;
    node.console().ask("echo $((6 * 7))", "42", within(IDLE_BOOT))?;
    let status = "bootserve status --config /etc/bootnode/bootserve.toml | grep -c 'node-001 *parked'";
    expect(&head, status, "1")?;
    let server = SocketAddr::from((address, 69));
    let terms = Terms { blksize: 1428, windowsize: 1, timeout: within(Duration::from_secs(5)) };
    ensure!(lab.netns().inside(|| fetch(server, NBP, terms))?? == b"a boot program");

    // Nobody, with nothing left of what it started with.
    let pid = "$(systemctl show --property MainPID --value bootserve)";
    expect(&head, &format!("ps -o user= -p {pid}"), "nobody")?;
    expect(&head, &format!("grep CapEff /proc/{pid}/status | tr -d '[:space:]'"), "CapEff:0000000000000000")?;
    expect(&head, &format!("grep NoNewPrivs /proc/{pid}/status | tr -d '[:space:]'"), "NoNewPrivs:1")?;
    expect(
        &head,
        &format!("grep 'open files' /proc/{pid}/limits | tr -s ' '"),
        "Max open files 65536 65536 files ",
    )?;
    expect(&head, "systemd-analyze security --threshold=30 bootserve >/dev/null; echo $?", "0")?;

    run(&head, "sed -i s/3600/7200/ /etc/bootnode/bootserve.toml; systemctl reload bootserve")?;
    expect(&head, "journalctl -u bootserve | grep -c 'the configuration is in force'", "1")?;
    let restarts = "systemctl show --property NRestarts --value bootserve";
    run(&head, &format!("kill -KILL {pid}"))?;
    expect(&head, restarts, "1")?;
    expect(&head, "systemctl is-active bootserve", "active")?;
    // It hangs, and the watchdog sees it.
    run(&head, &format!("kill -STOP {pid}"))?;
    expect(&head, restarts, "2")?;
    expect(&head, "systemctl is-active bootserve", "active")?;
    expect(
        &head,
        &format!("curl --silent http://{address}/metrics | grep '^bootserve_leases'"),
        "bootserve_leases 1",
    )?;
    expect(&head, "journalctl -u bootserve | grep -c 'Watchdog timeout'", "1")?;
    Ok(())
}
