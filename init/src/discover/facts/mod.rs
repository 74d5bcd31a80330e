//! Finds out what the machine is made of, from /sys and /proc.
//!
//! [`gather`] looks at directories and at nothing else, and what it cannot find it leaves out.

mod dir;
mod disks;
mod dmi;
mod interfaces;
mod pci;
mod processors;
#[doc(hidden)]
pub mod smbios;

use std::path::Path;

use bootspec::MacAddr;
use bootspec::facts::{Facts, Text};

use dir::Dir;

/// What the directories `sys` and `proc` say about a machine that checks in by the interface with the address `mac`.
pub fn gather(sys: &Path, proc: &Path, mac: MacAddr) -> Facts {
    let (sys, proc) = (Dir::new(sys), Dir::new(proc));
    let id = sys.dir("class/dmi/id");
    // Only root may read it, which init is.
    let table = sys.bytes("firmware/dmi/tables/DMI").unwrap_or_default();
    let pci_devices = sys.dir("bus/pci/devices");
    Facts {
        mac,
        node: None,
        boot: None,
        uuid: dmi::uuid(&id),
        system: dmi::system(&id),
        board: dmi::board(&id),
        chassis: dmi::chassis(&id),
        firmware: dmi::firmware(&id, sys.has("firmware/efi")),
        architecture: Text::clean(std::env::consts::ARCH),
        kernel: proc.text("sys/kernel/osrelease"),
        cpu: processors::cpu(&proc, &sys.dir("devices/system/cpu")),
        memory_bytes: processors::memory_bytes(&proc),
        memory_modules: smbios::memory_modules(&table),
        numa_nodes: processors::numa_nodes(&sys.dir("devices/system/node")),
        interfaces: interfaces::list(&sys.dir("class/net"), &pci_devices),
        disks: disks::list(&sys.dir("block")),
        pci_devices: pci::list(&pci_devices),
        bmc: smbios::bmc(&table),
    }
}

/// Which machine it is, in a line: `Dell Inc. PowerEdge R640, serial 1ABCDE2, MAC fc:ab:14:e8:66:01, UUID …`.
pub fn identity(facts: &Facts) -> String {
    let product = [&facts.system.manufacturer, &facts.system.product];
    let product: Vec<_> = product.into_iter().flatten().map(Text::as_str).collect();
    let product = if product.is_empty() { "of an unknown make".to_owned() } else { product.join(" ") };
    let uuid = facts.uuid.map(|uuid| format!(", UUID {uuid}")).unwrap_or_default();
    format!("{product}, {}{uuid}", label(facts))
}

/// The shortest text by which somebody before the machine can find it in a list: `serial 1ABCDE2, MAC fc:ab:14:e8:66:01`.
pub fn label(facts: &Facts) -> String {
    let serial =
        facts.system.serial.as_ref().or(facts.chassis.serial.as_ref()).or(facts.board.serial.as_ref());
    let serial = serial.map_or("no serial number".to_owned(), |serial| format!("serial {serial}"));
    format!("{serial}, MAC {}", facts.mac)
}

/// What it has, in a line.
pub fn summary(facts: &Facts) -> String {
    let model = facts.cpu.model.as_ref().map_or("processors", Text::as_str);
    let linked = facts.interfaces.iter().filter(|interface| interface.link == Some(true)).count();
    let disks_bytes: u64 = facts.disks.iter().map(|disk| disk.size_bytes).fold(0, u64::saturating_add);
    format!(
        "{} x {model}, {} cores; {} MiB of memory; {} network interfaces, {linked} with a link; {} disks, {} GB; \
         {} PCI devices; {}",
        facts.cpu.sockets,
        facts.cpu.cores,
        facts.memory_bytes >> 20,
        facts.interfaces.len(),
        facts.disks.len(),
        disks_bytes / 1_000_000_000,
        facts.pci_devices.len(),
        if facts.bmc.is_some() { "a BMC" } else { "no BMC" },
    )
}

#[cfg(test)]
mod tests;
