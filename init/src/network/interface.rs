//! The network interfaces of the machine, as sysfs shows them (kernel: Documentation/ABI/testing/sysfs-class-net).

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use bootspec::mac::MacAddr;

const INTERFACES: &str = "/sys/class/net";
const PCI_DEVICES: &str = "/sys/bus/pci/devices";
/// ARPHRD_ETHER of the kernel's if_arp.h.
const ETHERNET: &str = "1";
/// ARPHRD_LOOPBACK.
const LOOPBACK: &str = "772";
/// The PCI class of network controllers.
const NETWORK_CONTROLLER: &str = "0x02";

/// A network interface, at the moment of looking.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// What the kernel calls it.
    pub name: String,
    /// Its hardware address as the kernel prints it: six bytes with Ethernet, twenty with InfiniBand.
    pub address: String,
    /// Whether it is switched on and the wire carries.
    pub has_link: bool,
    /// What kind of hardware it is, as a number of the kernel's if_arp.h.
    kind: String,
    /// Whether it is a part of another interface, such as the virtual function below a virtual machine's interface.
    is_part: bool,
}

impl Interface {
    /// Its hardware address if it is an Ethernet interface of its own.
    pub fn ethernet(&self) -> Option<MacAddr> {
        if self.kind != ETHERNET || self.is_part { None } else { self.address.parse().ok() }
    }

    fn read(path: &Path) -> Option<Self> {
        let read = |name| fs::read_to_string(path.join(name)).map(|text| text.trim_end().to_owned());
        // The carrier of an interface that is switched off cannot be read. `operstate` follows it only within a second.
        let has_link = read("carrier").is_ok_and(|carrier| carrier == "1");
        Some(Self {
            name: path.file_name()?.to_str()?.to_owned(),
            address: read("address").ok()?,
            has_link,
            kind: read("type").ok()?,
            is_part: path.join("master").exists(),
        })
    }
}

impl fmt::Display for Interface {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let link = if self.has_link { "link" } else { "no link" };
        write!(f, "{} {} ({link})", self.name, self.address)
    }
}

/// All interfaces but loopback, in the order of their names.
pub fn list() -> Vec<Interface> {
    list_in(Path::new(INTERFACES))
}

fn list_in(dir: &Path) -> Vec<Interface> {
    let interfaces = entries(dir).into_iter().filter_map(|path| Interface::read(&path));
    interfaces.filter(|interface| interface.kind != LOOPBACK).collect()
}

/// Network cards on the PCI bus that no driver has taken: `8086:10d3 at 0000:00:03.0`.
pub fn driverless() -> Vec<String> {
    driverless_in(Path::new(PCI_DEVICES))
}

fn driverless_in(dir: &Path) -> Vec<String> {
    let describe = |path: PathBuf| {
        let read = |name| fs::read_to_string(path.join(name)).ok();
        let id = |name| Some(read(name)?.trim_end().trim_start_matches("0x").to_owned());
        let idle = read("class")?.starts_with(NETWORK_CONTROLLER) && !path.join("driver").exists();
        idle.then_some(format!("{}:{} at {}", id("vendor")?, id("device")?, path.file_name()?.to_str()?))
    };
    entries(dir).into_iter().filter_map(describe).collect()
}

/// What is in a directory, sorted; nothing if it cannot be read.
fn entries(dir: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<_> =
        fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    paths.sort();
    paths
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory of sysfs with these files.
    fn sysfs(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        dir
    }

    fn interface(name: &str, kind: &str, address: &str, carrier: &str) -> Interface {
        let path = |file: &str| format!("{name}/{file}");
        let dir = sysfs(&[(&path("type"), kind), (&path("address"), address), (&path("carrier"), carrier)]);
        Interface::read(&dir.path().join(name)).unwrap()
    }

    const MAC: &str = "fc:ab:14:e8:66:01\n";

    #[test]
    fn an_ethernet_interface_is_known_by_its_kind_and_address() {
        let eth0 = interface("eth0", "1\n", MAC, "1\n");
        assert_eq!(eth0.ethernet(), Some("fc:ab:14:e8:66:01".parse().unwrap()));
        assert_eq!(eth0.to_string(), "eth0 fc:ab:14:e8:66:01 (link)");
        let infiniband = format!("80:00:02:08:{}", "00:".repeat(15) + "01\n");
        assert_eq!(interface("ib0", "32\n", &infiniband, "1\n").ethernet(), None);
        assert_eq!(interface("ib0", "1\n", &infiniband, "1\n").ethernet(), None);
    }

    #[test]
    fn a_link_is_there_when_the_wire_carries() {
        let has_link = |carrier| interface("eth0", "1\n", MAC, carrier).has_link;
        assert!(has_link("1\n"));
        assert!(!has_link("0\n"));
        assert!(!has_link(""));
    }

    #[test]
    fn loopback_is_left_out_and_parts_of_interfaces_are_no_interfaces_of_their_own() {
        let dir = sysfs(&[
            ("lo/type", "772\n"),
            ("lo/address", "00:00:00:00:00:00\n"),
            ("eth1/type", "1\n"),
            ("eth1/address", MAC),
            ("eth1/master/type", "1\n"),
            ("eth0/type", "1\n"),
            ("eth0/address", MAC),
            ("bonding_masters", "bond0\n"),
        ]);
        let found = list_in(dir.path());
        assert_eq!(found.iter().map(|found| found.name.as_str()).collect::<Vec<_>>(), ["eth0", "eth1"]);
        assert!(found[0].ethernet().is_some() && found[1].ethernet().is_none());
        assert_eq!(list_in(Path::new("/nonexistent")), []);
    }

    #[test]
    fn network_cards_without_a_driver_are_named() {
        let dir = sysfs(&[
            ("0000:00:02.0/class", "0x030000\n"),
            ("0000:00:02.0/vendor", "0x1234\n"),
            ("0000:00:02.0/device", "0x1111\n"),
            ("0000:00:03.0/class", "0x020000\n"),
            ("0000:00:03.0/vendor", "0x8086\n"),
            ("0000:00:03.0/device", "0x10d3\n"),
            ("0000:00:04.0/class", "0x020000\n"),
            ("0000:00:04.0/vendor", "0x8086\n"),
            ("0000:00:04.0/device", "0x100e\n"),
            ("0000:00:04.0/driver/module/x", ""),
        ]);
        assert_eq!(driverless_in(dir.path()), ["8086:10d3 at 0000:00:03.0"]);
    }
}
