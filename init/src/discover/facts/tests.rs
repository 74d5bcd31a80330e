//! Directories as machines have them, and the machine that runs the tests.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use bootspec::facts::{FirmwareKind, Transport};

use super::*;

const MAC: &str = "fc:ab:14:e8:66:01";

/// A made-up machine.
struct Tree {
    dir: tempfile::TempDir,
}

impl Tree {
    fn new() -> Self {
        let tree = Self { dir: tempfile::tempdir().unwrap() };
        fs::create_dir(tree.path("sys")).unwrap();
        fs::create_dir(tree.path("proc")).unwrap();
        tree
    }

    fn path(&self, path: &str) -> PathBuf {
        self.dir.path().join(path)
    }

    fn put(&self, path: &str, contents: impl AsRef<[u8]>) -> &Self {
        fs::create_dir_all(self.path(path).parent().unwrap()).unwrap();
        fs::write(self.path(path), contents).unwrap();
        self
    }

    /// A link at `path` to `target`, both from the tree's root.
    fn link(&self, path: &str, target: &str) -> &Self {
        fs::create_dir_all(self.path(path).parent().unwrap()).unwrap();
        fs::create_dir_all(self.path(target)).unwrap();
        symlink(self.path(target), self.path(path)).unwrap();
        self
    }

    /// A PCI device at `place` below /sys/devices, the last part of which is its address.
    fn pci(&self, place: &str, class: &str, vendor: &str, device: &str, driver: Option<&str>) -> &Self {
        let dir = format!("sys/devices/{place}");
        for (file, text) in [("class", class), ("vendor", vendor), ("device", device), ("numa_node", "-1")] {
            self.put(&format!("{dir}/{file}"), format!("{text}\n"));
        }
        if let Some(driver) = driver {
            self.link(&format!("{dir}/driver"), &format!("sys/bus/pci/drivers/{driver}"));
        }
        self.link(&format!("sys/bus/pci/devices/{}", place.rsplit('/').next().unwrap()), &dir)
    }

    /// An interface of the device at `place`.
    fn interface(&self, place: &str, name: &str, files: &[(&str, &str)]) -> &Self {
        let dir = format!("sys/devices/{place}/net/{name}");
        files.iter().for_each(|(file, text)| _ = self.put(&format!("{dir}/{file}"), format!("{text}\n")));
        self.link(&format!("{dir}/device"), &format!("sys/devices/{place}"));
        self.link(&format!("sys/class/net/{name}"), &dir)
    }

    /// A disk of the device at `place`.
    fn disk(&self, place: &str, name: &str, sectors: u64, files: &[(&str, &str)]) -> &Self {
        let dir = format!("sys/devices/{place}/block/{name}");
        self.put(&format!("{dir}/size"), format!("{sectors}\n"));
        self.link(&format!("{dir}/device"), &format!("sys/devices/{place}"));
        files.iter().for_each(|(file, text)| _ = self.put(&format!("{dir}/{file}"), format!("{text}\n")));
        self.link(&format!("sys/block/{name}"), &dir)
    }

    fn gather(&self) -> Facts {
        gather(&self.path("sys"), &self.path("proc"), MAC.parse().unwrap())
    }
}

fn text(text: &str) -> Option<Text> {
    Some(text.parse().unwrap())
}

#[test]
fn a_machine_that_says_nothing_has_an_address() {
    let facts = Tree::new().gather();
    assert_eq!(facts.mac, MAC.parse().unwrap());
    assert_eq!((facts.cpu.threads, facts.memory_bytes, facts.disks.len()), (0, 0, 0));
    assert_eq!(identity(&facts), format!("of an unknown make, no serial number, MAC {MAC}"));
    assert!(summary(&facts).contains("no BMC"), "{}", summary(&facts));
}

#[test]
fn firmware_names_the_machine() {
    let tree = Tree::new();
    let id = "sys/class/dmi/id";
    for (file, contents) in [
        ("sys_vendor", "Dell Inc.\n"),
        ("product_name", "PowerEdge R640\n"),
        ("product_version", "Not Specified\n"),
        ("product_serial", "1ABCDE2\n"),
        ("product_uuid", "4C4C4544-0041-4210-8043-B1C04F444532\n"),
        ("board_serial", ".1ABCDE2.CNFCP0012345A6.\n"),
        ("board_name", "0H28RR\n"),
        ("chassis_type", "23\n"),
        ("chassis_asset_tag", "  \n"),
        ("bios_version", "2.21.2\n"),
        ("bios_date", "02/19/2024\n"),
    ] {
        tree.put(&format!("{id}/{file}"), contents);
    }
    tree.put("sys/firmware/efi/fw_platform_size", "64\n").put("proc/sys/kernel/osrelease", "6.1.0\n");
    let facts = tree.gather();
    assert_eq!(
        identity(&facts),
        format!(
            "Dell Inc. PowerEdge R640, serial 1ABCDE2, MAC {MAC}, UUID 4c4c4544-0041-4210-8043-b1c04f444532"
        )
    );
    assert_eq!((&facts.system.version, &facts.chassis.asset_tag), (&None, &None));
    assert_eq!((facts.board.product, facts.chassis.product), (text("0H28RR"), text("23")));
    assert_eq!((facts.firmware.kind, facts.firmware.version), (FirmwareKind::Uefi, text("2.21.2")));
    assert_eq!(facts.kernel, text("6.1.0"));

    tree.put(&format!("{id}/product_uuid"), "03000200-0400-0500-0006-000700080009\n");
    assert_eq!(tree.gather().uuid, None);
}

#[test]
fn sockets_cores_and_threads_are_counted() {
    let tree = Tree::new();
    // Two sockets of two cores of two threads; the cores of both sockets have the same numbers, and one thread is off.
    for (cpu, package, core, siblings) in [
        (0, 0, 0, "0,4"),
        (1, 0, 1, "1,5"),
        (2, 1, 0, "2,6"),
        (3, 1, 1, "3"),
        (4, 0, 0, "0,4"),
        (5, 0, 1, "1,5"),
        (6, 1, 0, "2,6"),
    ] {
        let topology = format!("sys/devices/system/cpu/cpu{cpu}/topology");
        tree.put(&format!("{topology}/physical_package_id"), format!("{package}\n"));
        tree.put(&format!("{topology}/core_id"), format!("{core}\n"));
        tree.put(&format!("{topology}/thread_siblings_list"), format!("{siblings}\n"));
    }
    tree.put("sys/devices/system/cpu/cpu7/online", "0\n").put("sys/devices/system/cpu/cpufreq/x", "");
    tree.put(
        "proc/cpuinfo",
        "processor\t: 0\nmodel name\t: AMD EPYC 7763 64-Core  Processor\nflags\t: fpu\n",
    );
    tree.put("proc/meminfo", "MemTotal:       24685272 kB\nMemFree: 1 kB\n");
    for (node, kib) in [(0, 100), (1, 200), (10, 300)] {
        let dir = format!("sys/devices/system/node/node{node}");
        tree.put(&format!("{dir}/meminfo"), format!("\nNode {node} MemTotal:       {kib} kB\n"));
        tree.put(&format!("{dir}/cpulist"), format!("{node},4\n"));
    }
    let facts = tree.gather();
    assert_eq!((facts.cpu.sockets, facts.cpu.cores, facts.cpu.threads), (2, 4, 7));
    assert_eq!(facts.cpu.model, text("AMD EPYC 7763 64-Core Processor"));
    assert_eq!(facts.memory_bytes, 24_685_272 << 10);
    let nodes: Vec<_> = facts.numa_nodes.iter().map(|node| (node.id, node.memory_bytes >> 10)).collect();
    assert_eq!(nodes, [(0, 100), (1, 200), (10, 300)]);
    assert_eq!(facts.numa_nodes[1].cpus, text("1,4"));
}

#[test]
fn interfaces_of_the_hardware_are_listed_with_their_cards() {
    let tree = Tree::new();
    let (ethernet, infiniband) = ("pci0000:3a/0000:3a:00.0/0000:3b:00.1", "pci0000:5d/0000:5d:00.0");
    tree.pci(ethernet, "0x020000", "0x8086", "0x1572", Some("i40e"));
    tree.pci(infiniband, "0x020700", "0x15b3", "0x101b", Some("mlx5_core"));
    tree.pci("pci0000:00/0000:00:03.0", "0x020000", "0x1af4", "0x1000", Some("virtio-pci"));
    let linked = [("type", "1"), ("address", "3c:fd:fe:00:00:01"), ("carrier", "1"), ("speed", "10000")];
    tree.interface(ethernet, "ens1f1", &linked);
    let gids = "00:00:10:29:fe:80:00:00:00:00:00:00:0c:42:a1:03:00:5f:2b:18";
    tree.interface(
        infiniband,
        "ib0",
        &[("type", "32"), ("address", gids), ("carrier", "0"), ("speed", "-1")],
    );
    let virtio = "pci0000:00/0000:00:03.0/virtio2";
    tree.link(&format!("sys/devices/{virtio}/driver"), "sys/bus/virtio/drivers/virtio_net");
    tree.interface(virtio, "eth0", &[("type", "1"), ("address", MAC), ("speed", "4294967295")]);
    tree.put("sys/class/net/lo/type", "772\n").put("sys/class/net/bonding_masters", "\n");
    let facts = tree.gather();
    let [ens1f1, eth0, ib0] = &facts.interfaces[..] else { panic!("{:?}", facts.interfaces) };
    assert_eq!((eth0.mac, eth0.link, eth0.speed_mbps), (MAC.parse().ok(), None, None));
    assert_eq!((&eth0.driver, &eth0.pci), (&text("virtio_net"), &text("0000:00:03.0")));
    assert_eq!(eth0.id, "1af4:1000".parse().ok());
    assert_eq!((ens1f1.link, ens1f1.speed_mbps, &ens1f1.address), (Some(true), Some(10_000), &None));
    assert_eq!((&ens1f1.pci, ens1f1.id), (&text("0000:3b:00.1"), "8086:1572".parse().ok()));
    assert_eq!((ib0.mac, &ib0.address, ib0.link), (None, &text(gids), Some(false)));
    assert!(summary(&facts).contains("3 network interfaces, 1 with a link"), "{}", summary(&facts));
}

#[test]
fn disks_are_told_by_how_they_are_attached() {
    let tree = Tree::new();
    let sas = "pci0000:17/0000:18:00.0/host0/port-0:0/end_device-0:0/target0:0:0/0:0:0:0";
    let sata = "pci0000:00/0000:00:17.0/ata3/host3/target3:0:0/3:0:0:0";
    let raid = "pci0000:17/0000:19:00.0/host1/target1:2:0/1:2:0:0";
    let usb = "pci0000:00/0000:00:14.0/usb1/1-5/1-5:1.0/host7/target7:0:0/7:0:0:0";
    for (place, kind, vendor, model) in [
        (sas, 0, "SEAGATE ", "ST4000NM0295"),
        (sata, 0, "ATA     ", "MZ7LH480HAHQ0D3 "),
        (raid, 0, "DELL    ", "PERC H740P Mini "),
        (usb, 0, "iDRAC   ", "LCDRIVE         "),
    ] {
        tree.put(&format!("sys/devices/{place}/type"), format!("{kind}\n"));
        tree.put(&format!("sys/devices/{place}/vendor"), format!("{vendor}\n"));
        tree.put(&format!("sys/devices/{place}/model"), format!("{model}\n"));
    }
    tree.put(&format!("sys/devices/{sas}/vpd_pg80"), b"\0\x80\0\x14ZC1ABCDE0000C8300000");
    tree.put(&format!("sys/devices/{sas}/wwid"), "naa.5000c500a1b2c3d4\n");
    tree.disk(sas, "sda", 7_814_037_168, &[("queue/rotational", "1"), ("removable", "0")]);
    tree.disk(sata, "sdb", 937_703_088, &[("queue/rotational", "0")]);
    tree.disk(raid, "sdc", 1, &[]);
    tree.disk(usb, "sdd", 0, &[]);
    tree.disk(usb, "sde", 1, &[("removable", "1")]);
    let tape = "pci0000:17/0000:18:00.0/host0/port-0:1/end_device-0:1/target0:0:1/0:0:1:0";
    tree.put(&format!("sys/devices/{tape}/type"), "13\n").disk(tape, "sdf", 1, &[]);
    let nvme = "pci0000:d7/0000:d8:00.0/nvme/nvme0";
    tree.put(&format!("sys/devices/{nvme}/model"), "INTEL SSDPE2KX010T8                     \n");
    tree.put(&format!("sys/devices/{nvme}/serial"), "BTLJ000000  \n");
    tree.disk(nvme, "nvme0n1", 2, &[("wwid", "eui.01000000010000005cd2e4"), ("queue/rotational", "0")]);
    tree.disk(nvme, "nvme0c0n1", 2, &[("hidden", "1")]);
    let virtio = "pci0000:00/0000:00:02.0/virtio1";
    tree.put(&format!("sys/devices/{virtio}/vendor"), "0x1af4\n");
    tree.disk(virtio, "vda", 4, &[("serial", "disk-7")]);
    tree.put("sys/block/loop0/size", "8\n").put("sys/block/dm-0/size", "8\n");

    let disks = tree.gather().disks;
    let found: Vec<_> = disks.iter().map(|disk| (disk.name.as_str(), disk.transport)).collect();
    let expected = [
        ("nvme0n1", Transport::Nvme),
        ("sda", Transport::Sas),
        ("sdb", Transport::Ata),
        ("sdc", Transport::Scsi),
        ("sdd", Transport::Usb),
        ("vda", Transport::Virtio),
    ];
    assert_eq!(found, expected);
    let [nvme, sas, sata, _, _, virtio] = &disks[..] else { panic!() };
    assert_eq!((sas.size_bytes, sas.rotational), (4_000_787_030_016, Some(true)));
    assert_eq!((&sas.vendor, &sas.serial), (&text("SEAGATE"), &text("ZC1ABCDE0000C8300000")));
    assert_eq!(sas.wwid, text("naa.5000c500a1b2c3d4"));
    assert_eq!((&sata.vendor, &sata.model, &sata.serial), (&None, &text("MZ7LH480HAHQ0D3"), &None));
    assert_eq!((&nvme.model, &nvme.serial), (&text("INTEL SSDPE2KX010T8"), &text("BTLJ000000")));
    assert_eq!(nvme.wwid, text("eui.01000000010000005cd2e4"));
    assert_eq!((&virtio.vendor, &virtio.serial, virtio.rotational), (&None, &text("disk-7"), None));
}

#[test]
fn of_pci_devices_those_that_a_machine_is_bought_for_are_listed() {
    let tree = Tree::new();
    for (address, class, device) in [
        ("0000:00:00.0", "0x060000", "0x2020"),
        ("0000:00:04.0", "0x088000", "0x2021"),
        ("0000:00:05.6", "0x110100", "0x2068"),
        ("0000:00:1f.4", "0x0c0500", "0xa1a3"),
        ("0000:3a:0a.0", "0x050000", "0x2040"),
        ("0000:3b:00.0", "0x030200", "0x20b5"),
        ("0000:5e:00.0", "0x050210", "0x0d93"),
        ("0000:5f:00.0", "damaged", "0x0001"),
    ] {
        tree.pci(&format!("pci0000:00/{address}"), class, "0x10de", device, None);
    }
    let gpu = "sys/devices/pci0000:00/0000:3b:00.0";
    tree.put(&format!("{gpu}/subsystem_vendor"), "0x10de\n")
        .put(&format!("{gpu}/subsystem_device"), "0x1533\n");
    tree.put(&format!("{gpu}/numa_node"), "1\n");
    let devices = tree.gather().pci_devices;
    let found: Vec<_> =
        devices.iter().map(|device| (device.address.as_str(), device.id.to_string())).collect();
    assert_eq!(found, [("0000:3b:00.0", "10de:20b5".into()), ("0000:5e:00.0", "10de:0d93".into())]);
    assert_eq!((devices[0].class.to_string().as_str(), devices[0].numa_node), ("0302", Some(1)));
    assert_eq!(devices[0].subsystem, "10de:1533".parse().ok());
    assert_eq!((devices[1].subsystem, devices[1].numa_node), (None, None));
}

#[test]
fn the_machine_that_runs_the_tests_is_described() {
    let mut facts = gather(Path::new("/sys"), Path::new("/proc"), MAC.parse().unwrap());
    facts.cut_to_limits();
    let threads = std::thread::available_parallelism().unwrap().get();
    assert!(facts.cpu.threads as usize >= threads, "{:?}", facts.cpu);
    assert!(facts.cpu.sockets >= 1 && facts.cpu.cores >= facts.cpu.sockets, "{:?}", facts.cpu);
    assert!(facts.memory_bytes > 0 && facts.kernel.is_some() && facts.architecture.is_some());
    let json = serde_json::to_vec(&facts).unwrap();
    assert_eq!(Facts::parse(&json).unwrap(), facts);
}
