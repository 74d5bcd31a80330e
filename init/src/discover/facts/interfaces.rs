//! Network interfaces of the hardware (kernel: Documentation/ABI/testing/sysfs-class-net).

use bootspec::facts::{Interface, Text};

use super::dir::Dir;
use super::pci;

/// ARPHRD_ETHER of the kernel's if_arp.h.
const ETHERNET: u32 = 1;

/// The interfaces that belong to a device, by name.
pub fn list(interfaces: &Dir, pci_devices: &Dir) -> Vec<Interface> {
    let all = interfaces.dirs().into_iter().filter(|dir| dir.has("device"));
    all.filter_map(|dir| interface(&dir, pci_devices)).collect()
}

fn interface(dir: &Dir, pci_devices: &Dir) -> Option<Interface> {
    let path = dir.real_path();
    let pci = pci::address_in(&path);
    let address = dir.text("address");
    let mac = match dir.number("type") {
        Some(ETHERNET) => address.as_ref().and_then(|address| address.as_str().parse().ok()),
        _ => None,
    };
    // The wire of an interface that is off cannot be read.
    let link = dir.number::<u8>("carrier").map(|carrier| carrier == 1);
    Some(Interface {
        name: Text::clean(dir.name())?,
        mac,
        address: address.filter(|_| mac.is_none()),
        driver: dir.dir("device").link("driver"),
        pci: pci.and_then(Text::clean),
        id: pci.and_then(|address| pci::id(&pci_devices.dir(address))),
        link,
        // Drivers say -1 or 4294967295 where there is no speed.
        speed_mbps: dir.number("speed").filter(|speed| link == Some(true) && ![0, u32::MAX].contains(speed)),
        lldp: None,
    })
}
