//! Nodes that fetch their root, and roots that stay compressed in memory.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bootlab::bootserve::overlays_dir;
use bootlab::deadline::{wait_until, within};
use bootlab::firmware::Firmware;
use bootlab::lab::{Lab, Node};
use bootlab::places::{program, shell_store_dir, store_dir};
use bootlab::qemu::NodeSpec;
use bootlab::{api, images};
use bootspec::ImageRef;
use bootspec::event::Phase;
use bootspec::manifest::{Manifest, Root};
use bootspec::store::MANIFEST;

/// From power-on to multi-user, on an idle machine without KVM.
const IDLE_BOOT: Duration = Duration::from_secs(120);
/// An answer of the shell on the console.
const ANSWER: Duration = Duration::from_secs(10);

const COMPUTE: &str = "debian-12-compute";

fn fetched(number: u8, image: &ImageRef) -> NodeSpec {
    NodeSpec { settings: toml::toml! { mode = "fetched" }, ..NodeSpec::classic(number, &image.to_string()) }
}

/// The same with a shell in place of the root's init.
fn with_shell(mut spec: NodeSpec) -> NodeSpec {
    spec.settings.insert("init".to_owned(), "/bin/sh".into());
    spec
}

/// Boots a node into the shell that is its PID 1, which prints no prompts and no echo.
fn boot_to_shell(name: &str, spec: &NodeSpec) -> Result<(Lab, Node)> {
    let lab = Lab::start(name, &shell_store_dir(), std::slice::from_ref(spec))?;
    let node = lab.boot(spec)?;
    node.console().wait_for("bootnode: exec /bin/sh", within(IDLE_BOOT))?;
    let quiet = "cd /; stty -echo; PS1= PS2=; echo shell-$((6*7))";
    node.console().ask(quiet, "shell-42", within(ANSWER))?;
    Ok((lab, node))
}

/// The lines that `command` prints on the node.
fn lines_of(node: &Node, command: &str) -> Result<Vec<String>> {
    let before = node.console().text().len();
    node.console().ask(&format!("{command}; echo end-$((6*7))"), "end-42", within(ANSWER))?;
    let text = node.console().text();
    let lines = text[before..].lines().map(str::trim).filter(|line| !line.is_empty() && *line != "end-42");
    Ok(lines.map(str::to_owned).collect())
}

/// The mounts of the node: what, where, as which file system.
fn mounts(node: &Node) -> Result<Vec<(String, String, String)>> {
    let lines = lines_of(node, "while read -r a b c d; do echo mount $a $b $c; done < /proc/mounts")?;
    let fields = lines.iter().filter_map(|line| {
        let mut words = line.strip_prefix("mount ")?.split_whitespace().map(str::to_owned);
        Some((words.next()?, words.next()?, words.next()?))
    });
    Ok(fields.collect())
}

fn read_manifest(image: &ImageRef) -> Result<Manifest> {
    Ok(Manifest::parse(&fs::read(image.dir(&shell_store_dir()).join(MANIFEST))?)?)
}

#[test]
fn a_node_fetches_the_compute_image_and_comes_up() -> Result<()> {
    let spec = fetched(1, &images::shared(COMPUTE)?);
    let lab = Lab::start("fetched-compute", &store_dir(), std::slice::from_ref(&spec))?;
    let node = lab.boot(&spec)?;
    let timeline = lab.wait_for_phase(&node, Phase::Ready, IDLE_BOOT)?;
    let order = [
        Phase::Script,
        Phase::Kernel,
        Phase::Initramfs,
        Phase::Init,
        Phase::Network,
        Phase::Unpack,
        Phase::SwitchRoot,
        Phase::Ready,
    ];
    let times: Option<Vec<Duration>> = order.iter().map(|&phase| timeline.reached(phase)).collect();
    assert!(times.is_some_and(|times| times.is_sorted()), "{timeline:?}");
    assert!(!node.console().text().contains("Failed to start"), "{:?}", node.console().tail());
    // Reported during the boot and once more at its end, each phase is there once.
    let events = api::events(lab.netns(), &spec.name)?;
    let phases: Vec<Phase> =
        events.iter().map(|event| event.phase).filter(|phase| *phase >= Phase::Init).collect();
    assert_eq!(phases, order[3..]);
    Ok(())
}

#[test]
fn a_node_goes_on_fetching_when_the_server_comes_back() -> Result<()> {
    let spec = with_shell(fetched(2, &images::shell("shell-tmpfs", "tmpfs", &[])?));
    let lab = Lab::start("fetched-crash", &shell_store_dir(), std::slice::from_ref(&spec))?;
    let node = lab.boot(&spec)?;
    node.console().wait_for("bootnode: unpacked 20 %", within(IDLE_BOOT))?;
    lab.server().kill9();
    node.console().wait_for("; next from http://192.168.0.1", within(ANSWER))?;
    lab.server().restart(lab.netns())?;
    node.console().wait_for("bootnode: exec /bin/sh", within(IDLE_BOOT))?;
    Ok(())
}

#[test]
fn nothing_of_init_is_left_in_an_unpacked_root() -> Result<()> {
    let image = images::shell("shell-tmpfs", "tmpfs", &[])?;
    let manifest = read_manifest(&image)?;
    let Some(Root::Archive(root)) = &manifest.root else { anyhow::bail!("it has a root archive") };
    let (_lab, node) = boot_to_shell("fetched-leftovers", &with_shell(fetched(3, &image)))?;
    let mounts = mounts(&node)?;
    let places: Vec<_> = mounts.iter().map(|(_, place, kind)| (place.as_str(), kind.as_str())).collect();
    // The initramfs' own file system is under the root for ever (it cannot be unmounted), and has nothing in it.
    let expected = [
        ("/", "rootfs"),
        ("/", "tmpfs"),
        ("/proc", "proc"),
        ("/sys", "sysfs"),
        ("/dev", "devtmpfs"),
        ("/run", "tmpfs"),
    ];
    let unexpected: Vec<_> = places.iter().filter(|place| !expected.contains(place)).collect();
    ensure!(unexpected.is_empty(), "{unexpected:?}");
    let tasks = lines_of(&node, "echo tasks $(ls /proc/1/task | wc -l)")?;
    assert_eq!(tasks, ["tasks 1"]);
    let descriptors = lines_of(&node, "ls -l /proc/1/fd")?;
    let targets: Vec<_> = descriptors.iter().filter_map(|line| Some(line.split_once(" -> ")?.1)).collect();
    ensure!(targets.len() >= 3 && targets.iter().all(|target| *target == "/dev/console"), "{descriptors:?}");
    let shmem = lines_of(&node, "grep Shmem: /proc/meminfo")?;
    let shmem_kib: u64 = shmem[0].split_whitespace().nth(1).context("it has a number")?.parse()?;
    // The initramfs had megabytes of init, busybox and modules.
    ensure!(shmem_kib * 1024 <= root.page_rounded_bytes + (1 << 20), "{shmem_kib} KiB of {root:?}");
    // The image's own network configuration finds an interface that is off, with no address.
    let network = lines_of(&node, "cat /sys/class/net/eth0/operstate; grep -c 192.168 /proc/net/fib_trie")?;
    assert_eq!(network, ["down", "0"]);
    let programs = lines_of(&node, "echo programs $(readlink /proc/[0-9]*/exe | sort -u)")?;
    ensure!(programs[0].contains("/bin/") && !programs[0].contains("/init"), "{programs:?}");
    Ok(())
}

#[test]
fn a_uefi_node_fetches_its_root() -> Result<()> {
    let image = images::shell("shell-tmpfs", "tmpfs", &[])?;
    let spec = NodeSpec { firmware: Firmware::Uefi, ..with_shell(fetched(6, &image)) };
    let (_lab, node) = boot_to_shell("fetched-uefi", &spec)?;
    let found = lines_of(&node, "ls -d /sys/firmware/efi; grep -o 'bootnode.image=[^ ]*' /proc/cmdline")?;
    assert_eq!(found, ["/sys/firmware/efi".to_owned(), format!("bootnode.image={image}")]);
    let mounts = mounts(&node)?;
    ensure!(mounts.iter().any(|(_, place, kind)| place == "/" && kind == "tmpfs"), "{mounts:?}");
    Ok(())
}

fn check_overlay(name: &str, format: &str, mode: &str) -> Result<()> {
    let image = images::shell(&format!("shell-{format}"), format, &[])?;
    let mut spec = with_shell(NodeSpec::classic(4, &image.to_string()));
    spec.settings.insert("mode".to_owned(), mode.into());
    let (_lab, node) = boot_to_shell(name, &spec)?;
    let mounts = mounts(&node)?;
    ensure!(mounts.iter().any(|(_, place, kind)| place == "/" && kind == "overlay"), "{mounts:?}");
    // The layers have no place of their own any more.
    ensure!(mounts.iter().all(|(_, _, kind)| kind != format), "{mounts:?}");
    let written =
        lines_of(&node, "echo written > /etc/hostname && cat /etc/hostname; stat -c %a / /tmp /etc/shadow")?;
    assert_eq!(written, ["written", "755", "1777", "640"]);
    Ok(())
}

#[test]
fn a_fetched_squashfs_is_a_root_that_can_be_written_to() -> Result<()> {
    check_overlay("fetched-squashfs", "squashfs", "fetched")
}

#[test]
fn a_carried_erofs_is_a_root_that_can_be_written_to() -> Result<()> {
    check_overlay("carried-erofs", "erofs", "carried")
}

#[test]
fn a_node_gets_its_own_files_over_the_root_in_both_modes() -> Result<()> {
    let image = images::shell("shell-tmpfs", "tmpfs", &[])?;
    let overlays = overlays_dir(&shell_store_dir());
    fs::create_dir_all(&overlays)?;
    let files = tempfile::tempdir()?;
    fs::create_dir(files.path().join("etc"))?;
    fs::write(files.path().join("etc/hostname"), "own-name\n")?;
    fs::write(files.path().join("etc/own-key"), "secret\n")?;
    fs::set_permissions(files.path().join("etc/own-key"), Permissions::from_mode(0o600))?;
    // What is made of templates lies below the tar, which is made by hand.
    fs::create_dir_all(overlays.join("lab/etc"))?;
    fs::write(overlays.join("lab/etc/hostname"), "of-the-overlay\n")?;
    let template =
        "{{ node.name }} {{ node.mac }} {{ node.address }}/{{ network.prefix }} boots {{ image.name }}\n";
    fs::write(overlays.join("lab/etc/lab.conf.j2"), template)?;
    fs::write(overlays.join("lab/overlay.toml"), "[files.'/etc/lab.conf']\nmode = '0640'\ngid = 1\n")?;
    // What is handed out once a boot lies above both.
    fs::create_dir_all(overlays.join("lab-secret/etc"))?;
    fs::write(overlays.join("lab-secret/etc/lab.key.j2"), format!("{{{{ node.name }}}} {SECRET}\n"))?;
    fs::write(overlays.join("lab-secret/etc/own-key"), "of-the-secrets\n")?;
    fs::write(
        overlays.join("lab-secret/overlay.toml"),
        "[files.'/etc/lab.key']\nmode = '0400'\nuid = 7\n[files.'/etc/own-key']\nmode = '0600'\n",
    )?;
    // A kernel is given the initramfs with what opens the secrets in one way by BIOS, and in another by UEFI.
    for (name, mode, firmware) in [
        ("carried", "carried", Firmware::Bios),
        ("fetched", "fetched", Firmware::Bios),
        ("fetched-uefi", "fetched", Firmware::Uefi),
    ] {
        let mut settings = toml::toml! { mode = mode overlays = ["lab"] };
        if mode == "fetched" {
            settings.insert("secrets".to_owned(), vec!["lab-secret"].into());
        }
        let spec = with_shell(NodeSpec { settings, firmware, ..NodeSpec::classic(5, &image.to_string()) });
        let tar = overlays.join(format!("{}.tar", spec.name));
        let made =
            Command::new("tar").arg("-C").arg(files.path()).arg("-cf").arg(&tar).arg("etc").status()?;
        ensure!(made.success(), "tar: {made}");
        let (lab, node) = boot_to_shell(&format!("node-files-{name}"), &spec)?;
        let found = lines_of(
            &node,
            "cat /etc/hostname /etc/own-key; stat -c %a:%U /etc/own-key; wc -l < /etc/passwd",
        )?;
        let own_key = if mode == "fetched" { "of-the-secrets" } else { "secret" };
        assert_eq!(found[..3], ["own-name", own_key, "600:root"]);
        ensure!(found[3].parse::<u32>()? > 10, "the rest of the root is as it was: {found:?}");
        let found = lines_of(&node, "cat /etc/lab.conf; stat -c %a:%u:%g /etc/lab.conf")?;
        let rendered = Command::new(program("bootserve")?)
            .args(["overlay", "render", spec.name.as_str(), "/etc/lab.conf", "--config"])
            .arg(lab.dir().join("bootserve.toml"))
            .output()?;
        ensure!(rendered.status.success(), "{rendered:?}");
        assert_eq!(found, [String::from_utf8(rendered.stdout)?.trim_end(), "640:0:1"]);
        if mode == "fetched" {
            check_secrets(&lab, &node, &spec)?;
        }
    }
    Ok(())
}

const SECRET: &str = "for-nobody-else";

/// The node has its secrets, nothing else has them, and nobody is given them again.
fn check_secrets(lab: &Lab, node: &Node, spec: &NodeSpec) -> Result<()> {
    let found = lines_of(node, "cat /etc/lab.key; stat -c %a:%u:%g /etc/lab.key")?;
    assert_eq!(found, [format!("{} {SECRET}", spec.name), "400:7:0".to_owned()]);
    // Where the token could be: what the kernel was told, what init leaves, and the file system that it came from.
    let found =
        lines_of(node, "grep -c -E '[0-9a-f]{64}' /proc/cmdline; find / -xdev -path '*bootnode/credential'")?;
    assert_eq!(found, ["0"]);
    let log = fs::read_to_string(lab.server().log())?;
    ensure!(log.contains("secrets handed out"), "{log}");
    ensure!(
        !log.contains(SECRET) && !node.console().text().contains(&format!("{SECRET}\n{SECRET}")),
        "{log}"
    );
    let plain = Command::new(program("bootserve")?)
        .args(["overlay", "render", spec.name.as_str(), "--output", "-", "--config"])
        .arg(lab.dir().join("bootserve.toml"))
        .output()?;
    ensure!(plain.status.success() && !String::from_utf8_lossy(&plain.stdout).contains(SECRET));
    // The node's network is down; from here on its address is ours.
    let events = api::events(lab.netns(), &spec.name)?;
    let boot = events.iter().rev().find_map(|event| event.boot).context("it has booted")?;
    lab.netns().add_address("lo", &spec.address.to_string())?;
    let again = |url: &str| -> Result<String> {
        let mut curl = lab.netns().command("curl");
        curl.args(["--silent", "--insecure", "--output", "/dev/null", "--write-out", "%{http_code}"]);
        let output = curl.args(["--interface", &spec.address.to_string(), url]).output()?;
        Ok(String::from_utf8(output.stdout)?)
    };
    let (name, address) = (&spec.name, spec.address);
    for (what, url) in [
        ("credential", format!("http://192.168.0.1/credentials/{name}.img?boot={boot}")),
        ("secrets", format!("https://192.168.0.1/v1/secrets/{name}")),
    ] {
        let refusal = format!("secrets refused to {address} ({what}): ");
        let is_noted = || -> Result<bool> {
            ensure!(again(&url)? == "401", "{url}");
            let events = api::events(lab.netns(), name)?;
            Ok(events.iter().any(|event| event.message.iter().any(|text| text.starts_with(&refusal))))
        };
        let mut noted = false;
        ensure!(
            wait_until(ANSWER, || {
                noted = noted || is_noted().unwrap_or(false);
                noted
            }),
            "no event {refusal:?}"
        );
    }
    Ok(())
}
