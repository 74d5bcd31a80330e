//! One node as a qemu virtual machine: what it is made of, and the command line that makes it.
//!
//! Machines have a network card, a serial console and nothing else unless a test adds it: booting from the network is all
//! they can do.

use std::ffi::OsString;
use std::net::Ipv4Addr;
use std::path::Path;

use bootspec::mac::MacAddr;
use bootspec::store::NodeName;

use crate::accel::Accel;
use crate::firmware::{Firmware, FirmwareFiles};

/// The network card.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Nic {
    /// virtio-net.
    VirtioNet,
    /// Intel 82540EM. Debian's cloud kernel has no driver for it.
    E1000,
    /// Realtek 8139C+. Neither has it one for this.
    Rtl8139,
}

/// A machine, and what bootserve is told about it.
#[derive(Clone, Debug)]
pub struct NodeSpec {
    /// Names the node for bootserve, and its files.
    pub name: NodeName,
    /// The network card's address.
    pub mac: MacAddr,
    /// The address that bootserve reserves for it.
    pub address: Ipv4Addr,
    /// The image to boot, `NAME` or `NAME/VERSION`.
    pub image: String,
    /// Kernel arguments for this node alone.
    pub kernel_args: Vec<String>,
    /// Further keys of the node's table in bootserve's configuration: `on_failure = "halt"`.
    pub settings: toml::Table,
    /// Memory in MiB.
    pub memory_mib: u32,
    /// Number of processors.
    pub cpus: u8,
    /// What boots it.
    pub firmware: Firmware,
    /// Its network card.
    pub nic: Nic,
    /// Further arguments of qemu, for what else it has: disks.
    pub qemu_args: Vec<String>,
}

impl NodeSpec {
    /// Node `number` (0 to 99) of the classic network: node-000 has fc:ab:14:e8:66:01 and 192.168.0.100. It has
    /// 1 GiB of memory, one processor (more gain nothing under emulation), SeaBIOS and virtio-net.
    pub fn classic(number: u8, image: &str) -> Self {
        assert!(number < 100, "the classic network has room for 100 nodes");
        let name = format!("node-{number:03}").parse();
        Self {
            name: name.expect("letters, digits and a hyphen are a node name"),
            mac: MacAddr::new([0xfc, 0xab, 0x14, 0xe8, 0x66, number + 1]),
            address: Ipv4Addr::new(192, 168, 0, 100 + number),
            image: image.to_owned(),
            kernel_args: Vec::new(),
            settings: toml::Table::new(),
            memory_mib: 1024,
            cpus: 1,
            firmware: Firmware::Bios,
            nic: Nic::VirtioNet,
            qemu_args: Vec::new(),
        }
    }

    /// qemu's command line for this node, plugged into `tap`. Its serial console is qemu's standard input and output.
    /// A guest that reboots ends qemu.
    pub fn arguments(&self, accel: Accel, tap: &str, firmware: &FirmwareFiles) -> Vec<OsString> {
        let mut arguments =
            machine_arguments(&self.name, firmware.machine(), accel, self.cpus, self.memory_mib);
        let tap = format!("tap,id=net0,ifname={tap},script=no,downscript=no");
        for (option, value) in [("-boot", "n".to_owned()), ("-netdev", tap), ("-device", self.nic_device())] {
            arguments.extend([option.into(), value.into()]);
        }
        arguments.extend(firmware.arguments());
        arguments.extend(self.qemu_args.iter().map(OsString::from));
        arguments
    }

    fn nic_device(&self) -> String {
        let device = match self.nic {
            Nic::VirtioNet => "virtio-net-pci",
            Nic::E1000 => "e1000",
            Nic::Rtl8139 => "rtl8139",
        };
        // Without the card's ROM, OVMF uses its own PXE client in place of the ROM's iPXE. It has drivers for no other
        // card (OVMF 2022.11), so those keep their ROMs.
        let rom = match (self.firmware, self.nic) {
            (Firmware::Uefi, Nic::VirtioNet) => ",romfile=",
            (Firmware::Uefi, Nic::E1000 | Nic::Rtl8139) | (Firmware::Bios, _) => "",
        };
        format!("{device},netdev=net0,mac={}{rom}", self.mac)
    }
}

/// What every machine of the lab has: a serial console, which is qemu's standard input and output.
pub fn machine_arguments(
    name: &NodeName,
    machine: &str,
    accel: Accel,
    cpus: u8,
    memory_mib: u32,
) -> Vec<OsString> {
    let fixed = "-nodefaults -no-reboot -display none -monitor none -serial stdio";
    let chosen = [
        ("-name", name.to_string()),
        ("-machine", format!("{machine},accel={accel}")),
        ("-cpu", accel.cpu_model().to_owned()),
        ("-smp", cpus.to_string()),
        ("-m", format!("{memory_mib}M")),
    ];
    let mut arguments: Vec<OsString> = fixed.split(' ').map(OsString::from).collect();
    for (option, value) in chosen {
        arguments.extend([option.into(), value.into()]);
    }
    arguments
}

/// The qemu to run. EL has it under another name, outside PATH.
pub fn program() -> &'static str {
    const EL: &str = "/usr/libexec/qemu-kvm";
    if Path::new(EL).exists() { EL } else { "qemu-system-x86_64" }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(node: &NodeSpec, firmware: &FirmwareFiles, expected: &[&str], unexpected: &[&str]) {
        let arguments = node.arguments(Accel::Tcg, "tap7", firmware);
        let line = arguments.iter().map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ");
        for part in expected {
            assert!(line.contains(part), "no '{part}' in: {line}");
        }
        for part in unexpected {
            assert!(!line.contains(part), "'{part}' in: {line}");
        }
    }

    fn uefi() -> FirmwareFiles {
        FirmwareFiles::Uefi { code: "/code".into(), variables: "/variables".into() }
    }

    #[test]
    fn bios_node_boots_from_the_rom_of_its_card() {
        let firmware = FirmwareFiles::Bios { serial_port: "/port".into() };
        let expected = [
            "-machine pc,accel=tcg -cpu qemu64,+cx16",
            "-smp 1 -m 1024M",
            "-netdev tap,id=net0,ifname=tap7,",
            "-device virtio-net-pci,netdev=net0,mac=fc:ab:14:e8:66:01",
            "-fw_cfg name=etc/sercon-port,file=/port",
        ];
        check(&NodeSpec::classic(0, "failsafe"), &firmware, &expected, &["romfile", "pflash"]);
    }

    #[test]
    fn uefi_node_has_variables_of_its_own_and_no_rom() {
        let node = NodeSpec { firmware: Firmware::Uefi, ..NodeSpec::classic(1, "compute") };
        let expected = [
            "-machine q35,",
            "mac=fc:ab:14:e8:66:02,romfile= ",
            "readonly=on,file=/code -drive if=pflash,format=raw,file=/variables",
        ];
        check(&node, &uefi(), &expected, &["sercon"]);
    }

    #[test]
    fn uefi_node_with_an_e1000_keeps_the_rom() {
        let node = NodeSpec { firmware: Firmware::Uefi, nic: Nic::E1000, ..NodeSpec::classic(0, "failsafe") };
        check(&node, &uefi(), &["-device e1000,netdev=net0"], &["romfile"]);
    }
}
