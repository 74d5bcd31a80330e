//! The discover image: machines say what they are made of, and do what they are told.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bootlab::deadline::{wait_until, within};
use bootlab::images;
use bootlab::lab::Lab;
use bootlab::netns::SERVER_ADDRESS;
use bootlab::places::store_dir;
use bootlab::qemu::NodeSpec;
use bootspec::event::Phase;
use bootspec::facts::{CheckInAnswer, DISCOVER_PATH, Disk, Facts, FirmwareKind, Transport};
use bootspec::store::{INITRAMFS, VMLINUZ};

/// From power-on to the first check-in, on an idle machine without KVM.
const IDLE_BOOT: Duration = Duration::from_secs(60);
/// From power-on to multi-user.
const IDLE_BOOT_TO_READY: Duration = Duration::from_secs(120);

#[test]
fn a_machine_that_nobody_knows_becomes_a_node_by_a_policy_and_comes_up_with_its_image() -> Result<()> {
    let (discover, compute) = (images::shared("discover")?, images::shared("debian-12-compute")?);
    let lab = Lab::start("discover-unknown", &store_dir(), &[])?;
    let config = lab.dir().join("bootserve.toml");
    let spec = NodeSpec::classic(1, &compute.to_string());
    let strangers = format!("[boot]\ndefault_image = \"{discover}\"\n");
    let text = fs::read_to_string(&config)?.replacen("[boot]\n", &strangers, 1);
    let policy = format!(
        "[[discovery.tag]]\nname = 'lab'\nrule = 'firmware.kind == \"bios\" and cpu.cores >= 1'\n\
         [[discovery.policy]]\nname = 'lab'\ntags = ['lab']\nnodes = '{}'\naddress = '{}'\nimage = '{compute}'\n",
        spec.name, spec.address
    );
    fs::write(&config, format!("{text}\n{policy}"))?;
    let is_in_force = || log_of(&lab).contains("the configuration is in force");
    assert!(wait_until(within(IDLE_BOOT), is_in_force), "{}", log_of(&lab));

    let node = lab.boot(&spec)?;
    node.console().wait_for("the machine is to reboot; rebooting", within(IDLE_BOOT))?;
    assert!(node.console().wait_for_end(within(IDLE_BOOT)), "it did not reboot");
    for line in ["a machine introduced itself", "a policy has made a node of a machine"] {
        assert!(log_of(&lab).contains(line), "{}", log_of(&lab));
    }
    drop(node);

    let node = lab.boot(&spec)?;
    lab.wait_for_phase(&node, Phase::Ready, IDLE_BOOT_TO_READY)?;
    node.console().wait_for("node-001 login:", within(IDLE_BOOT))?;
    Ok(())
}

fn log_of(lab: &Lab) -> String {
    fs::read_to_string(lab.server().log()).unwrap_or_default()
}

/// Takes the facts of one check-in and answers. Reports of the boot are taken on the way.
fn answer(listener: &TcpListener, status: &str, body: &str) -> Result<Facts> {
    loop {
        let (path, json, mut stream) = request(listener.accept()?.0)?;
        let discovers = path == DISCOVER_PATH;
        let (status, body) = if discovers { (status, body) } else { ("204 No Content", "") };
        write!(
            stream,
            "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        )?;
        if discovers {
            return Facts::parse(&json).with_context(|| String::from_utf8_lossy(&json).into_owned());
        }
    }
}

/// The path and the body of a POST request, and where to answer it.
fn request(stream: TcpStream) -> Result<(String, Vec<u8>, TcpStream)> {
    let mut reader = BufReader::new(stream);
    let (mut first, mut line, mut length) = (String::new(), String::new(), 0);
    reader.read_line(&mut first)?;
    let path = first.split(' ').nth(1).context("the request has no path")?.to_owned();
    while line != "\r\n" {
        line.clear();
        ensure!(reader.read_line(&mut line)? > 0, "the request ends in its head");
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse()?;
        }
    }
    let mut json = vec![0; length];
    reader.read_exact(&mut json)?;
    Ok((path, json, reader.into_inner()))
}

/// A boot server that is busy first, has the machine wait, and has it reboot at last. Returns the facts of each time.
fn serve(listener: &TcpListener) -> Result<Vec<Facts>> {
    let json = |answer: &CheckInAnswer| serde_json::to_string(answer);
    let answers = [
        ("503 Service Unavailable", String::new()),
        ("200 OK", json(&CheckInAnswer::Wait(Duration::from_secs(1)))?),
        ("200 OK", json(&CheckInAnswer::Reboot)?),
    ];
    answers.iter().map(|(status, body)| answer(listener, status, body)).collect()
}

/// A machine with disks of several kinds in `dir`, a management controller, and a kernel that it need not fetch: a boot
/// server would tell init to check in with itself.
fn machine(image: &Path, dir: &Path) -> Result<NodeSpec> {
    let spec = NodeSpec::classic(5, "discover");
    let mut qemu_args = vec!["-smbios".to_owned()];
    let system = "type=1,manufacturer=Example,product=Blade 9,serial=SN-0815,uuid=4c4c4544-0041-4210-8043-b1c04f444532";
    qemu_args.push(system.to_owned());
    for (id, mib, device) in [
        ("nvme", 64, "nvme,drive=nvme,serial=nvme-7"),
        ("virtio", 32, "virtio-blk-pci,drive=virtio,serial=virtio-8"),
        ("sata", 16, "ide-hd,bus=ahci.0,drive=sata,serial=sata-9"),
    ] {
        let file = dir.join(id);
        File::create(&file)?.set_len(mib << 20)?;
        if id == "sata" {
            qemu_args.extend(["-device", "ahci,id=ahci"].map(str::to_owned));
        }
        let drive = format!("id={id},if=none,format=raw,file={}", file.display());
        qemu_args.extend(["-drive", &drive, "-device", device].map(str::to_owned));
    }
    qemu_args
        .extend(["-device", "ipmi-bmc-sim,id=bmc", "-device", "isa-ipmi-kcs,bmc=bmc"].map(str::to_owned));
    let line = format!(
        "console=ttyS0,115200 panic=-1 bootnode.mac={} bootnode.address={}/24 bootnode.report=http://{SERVER_ADDRESS}",
        spec.mac, spec.address
    );
    for (option, value) in [
        ("-kernel", image.join(VMLINUZ).display().to_string()),
        ("-initrd", image.join(INITRAMFS).display().to_string()),
        ("-append", line),
    ] {
        qemu_args.extend([option.to_owned(), value]);
    }
    Ok(NodeSpec { qemu_args, ..spec })
}

#[test]
fn a_machine_says_what_it_is_made_of_until_it_is_told_to_reboot() -> Result<()> {
    let image = images::shared("discover")?.dir(&store_dir());
    let dir = tempfile::tempdir()?;
    let spec = machine(&image, dir.path())?;
    let lab = Lab::without_server("discover-answers")?;
    let listener = lab.netns().inside(|| TcpListener::bind((SERVER_ADDRESS, 80)))??;
    let (sender, facts) = mpsc::channel();
    // A machine that never comes leaves this thread waiting, and the test fails without it.
    thread::spawn(move || sender.send(serve(&listener)));
    let node = lab.boot(&spec)?;
    let mut switch = lab.netns().command("timeout").args(["300", "python3", "-c", SWITCH]).spawn()?;
    let facts = facts.recv_timeout(within(IDLE_BOOT));
    switch.kill()?;
    switch.wait()?;
    let facts = facts.with_context(|| format!("it did not check in\n{}", node.console().tail()))??;
    // The kernel's own words.
    node.console().wait_for("reboot: Restarting system", within(IDLE_BOOT))?;
    assert!(node.console().wait_for_end(within(IDLE_BOOT)), "it did not reboot");
    let text = node.console().text();
    for line in [
        "discover: this machine is Example Blade 9, serial SN-0815, MAC fc:ab:14:e8:66:06, UUID 4c4c4544-",
        "HTTP status 503; checking in again in",
        "the machine is known and is to wait; checking in again in 1 s",
        "the machine is to reboot; rebooting",
    ] {
        assert!(text.contains(line), "no '{line}'\n{}", node.console().tail());
    }
    assert_eq!(facts.len(), 3);
    check_facts(&facts[2], &spec);
    Ok(())
}

/// Says by LLDP which port the first machine is plugged in at, to it alone: bridges do not pass it on.
const SWITCH: &str = r#"
import socket, time
tlv = lambda kind, value: (kind << 9 | len(value)).to_bytes(2, "big") + value
head = bytes.fromhex("0180c200000e 020000000001 88cc")
frame = head + tlv(1, b"\x04\x02\0\0\0\0\x01") + tlv(2, b"\x05Ethernet7") + tlv(3, b"\0\x78") + tlv(5, b"leaf3") + tlv(0, b"")
wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
wire.bind(("tap0", 0))
while True:
    wire.send(frame)
    time.sleep(0.5)
"#;

fn check_facts(facts: &Facts, spec: &NodeSpec) {
    let text = |text: &str| text.parse().ok();
    assert_eq!(facts.mac, spec.mac);
    assert_eq!(facts.uuid, "4c4c4544-0041-4210-8043-b1c04f444532".parse().ok());
    assert_eq!((&facts.system.manufacturer, &facts.system.product), (&text("Example"), &text("Blade 9")));
    assert_eq!((facts.firmware.kind, &facts.firmware.vendor), (FirmwareKind::Bios, &text("SeaBIOS")));
    assert_eq!(facts.architecture, text("x86_64"));
    assert_eq!((facts.cpu.sockets, facts.cpu.cores, facts.cpu.threads), (1, 1, 1));
    let installed: u64 = facts.memory_modules.iter().map(|module| module.size_bytes).sum();
    assert_eq!(installed, u64::from(spec.memory_mib) << 20);
    assert!(facts.memory_bytes < installed && facts.memory_bytes > installed / 2, "{}", facts.memory_bytes);

    let [interface] = &facts.interfaces[..] else { panic!("{:?}", facts.interfaces) };
    assert_eq!((interface.mac, interface.link), (Some(spec.mac), Some(true)));
    assert_eq!((&interface.driver, interface.id), (&text("virtio_net"), "1af4:1000".parse().ok()));
    let lldp = interface.lldp.clone().unwrap_or_default();
    assert_eq!((lldp.system_name, lldp.port_id), (text("leaf3"), text("Ethernet7")));
    assert_eq!(lldp.chassis_id, text("02:00:00:00:00:01"));

    let disk = |disk: &Disk| {
        let serial = disk.serial.as_ref().map(ToString::to_string).unwrap_or_default();
        (serial, disk.size_bytes >> 20, disk.transport)
    };
    let disks: Vec<_> = facts.disks.iter().map(disk).collect();
    let expected = [
        ("nvme-7".to_owned(), 64, Transport::Nvme),
        ("sata-9".to_owned(), 16, Transport::Ata),
        ("virtio-8".to_owned(), 32, Transport::Virtio),
    ];
    assert_eq!(disks, expected, "{:?}", facts.disks);

    let nvme = facts.pci_devices.iter().find(|device| device.class.to_string() == "0108");
    assert_eq!(nvme.map(|device| &device.driver), Some(&text("nvme")), "{:?}", facts.pci_devices);
    let bmc = facts.bmc.as_ref().map(|bmc| (bmc.interface.as_str(), bmc.ipmi.as_str()));
    assert_eq!(bmc, Some(("KCS", "2.0")));
}
