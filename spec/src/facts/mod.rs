//! Discover mode: what a machine tells bootserve about its hardware, and what bootserve answers.
//!
//! A machine that boots in mode discover posts [`Facts`] as JSON to [`DISCOVER_PATH`] below the URL of `bootnode.report=`,
//! does as the [`CheckInAnswer`] says, and comes again until it is told to reboot or to switch itself off. The facts are
//! what the hardware and its firmware say: a field is absent where they say nothing. Unknown fields are passed over, so
//! that an image and a boot server of different releases understand each other. Field by field: `docs/discovery.md`.

mod answer;
mod neighbour;
mod pci;
mod text;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::event::BootId;
use crate::mac::MacAddr;
use crate::store::NodeName;

pub use answer::{AnswerError, CheckInAnswer, DEFAULT_WAIT, MAX_ANSWER_BYTES, MAX_WAIT, MIN_WAIT};
pub use neighbour::Neighbour;
pub use pci::{ParsePciError, PciClass, PciId};
pub use text::{MAX_TEXT_BYTES, ParseTextError, Text};

/// Path below the report URL to which a machine posts its [`Facts`] as JSON.
pub const DISCOVER_PATH: &str = "/v1/discover";
/// A longer body is refused unread. [`Facts::cut_to_limits`] keeps below it.
pub const MAX_FACTS_BYTES: usize = 1 << 20;
const MAX_NUMA_NODES: usize = 64;
const MAX_MEMORY_MODULES: usize = 128;
const MAX_INTERFACES: usize = 64;
const MAX_DISKS: usize = 256;
const MAX_PCI_DEVICES: usize = 256;

/// What a machine is made of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// Address of the interface that the machine checks in by: who is speaking.
    pub mac: MacAddr,
    /// The name that bootserve gave it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeName>,
    /// Which of its boots this is, if bootserve gave it an id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot: Option<BootId>,
    /// Identifies the machine (SMBIOS). DHCP option 97 and iPXE's `${uuid}` say the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uuid: Option<Uuid>,
    /// What the machine is sold as.
    #[serde(default)]
    pub system: Product,
    /// Its main board.
    #[serde(default)]
    pub board: Product,
    /// Its case, or the drawer that it is a part of.
    #[serde(default)]
    pub chassis: Product,
    /// BIOS or UEFI.
    pub firmware: Firmware,
    /// What the kernel calls the machine: `x86_64`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub architecture: Option<Text>,
    /// Release of the kernel that is running.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<Text>,
    /// The processors.
    #[serde(default)]
    pub cpu: Cpu,
    /// Memory that the kernel can use, in bytes: somewhat less than is installed.
    #[serde(default)]
    pub memory_bytes: u64,
    /// Memory modules that are installed, by their slots.
    #[serde(default)]
    pub memory_modules: Vec<MemoryModule>,
    /// The parts of the machine that have memory of their own.
    #[serde(default)]
    pub numa_nodes: Vec<NumaNode>,
    /// Network interfaces of the hardware, by name.
    #[serde(default)]
    pub interfaces: Vec<Interface>,
    /// Disks, by name. Neither partitions nor what software makes of disks, nor removable media.
    #[serde(default)]
    pub disks: Vec<Disk>,
    /// PCI devices, by address, but for bridges and what chip sets consist of.
    #[serde(default)]
    pub pci_devices: Vec<PciDevice>,
    /// The management controller, if the firmware names one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bmc: Option<Bmc>,
}

/// What a manufacturer says about one of its products.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Product {
    /// Who made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manufacturer: Option<Text>,
    /// What it is: `PowerEdge R640`. Of a chassis, the number of its kind in SMBIOS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub product: Option<Text>,
    /// Some manufacturers have the name of the product here, and its number above.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<Text>,
    /// Its serial number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<Text>,
    /// What the owner has written into it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asset_tag: Option<Text>,
}

/// The firmware that the machine booted by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Firmware {
    /// Which interface it gives to an operating system.
    pub kind: FirmwareKind,
    /// Who made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vendor: Option<Text>,
    /// Its version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<Text>,
    /// When it was made, as it says: `05/14/2024`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub date: Option<Text>,
}

/// Which interface the firmware gives to an operating system.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FirmwareKind {
    /// The PC's BIOS, or UEFI that plays one.
    Bios,
    /// UEFI.
    Uefi,
}

/// The processors, which are all alike.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cpu {
    /// What it calls itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<Text>,
    /// Number of packages.
    pub sockets: u32,
    /// Number of cores, in all packages together.
    pub cores: u32,
    /// What the kernel runs processes on: cores, times the threads of each.
    pub threads: u32,
}

/// A memory module.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryModule {
    /// Where it is, as it is printed on the board: `DIMM_A1`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slot: Option<Text>,
    /// Its size.
    pub size_bytes: u64,
    /// How fast it is run, in millions of transfers a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub speed_mts: Option<u32>,
    /// Who made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manufacturer: Option<Text>,
    /// What to order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub part_number: Option<Text>,
    /// Its serial number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<Text>,
}

/// A part of the machine with memory of its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NumaNode {
    /// Its number.
    pub id: u32,
    /// Its memory.
    pub memory_bytes: u64,
    /// Which of the [`Cpu::threads`] are its own, as the kernel lists them: `0-15,32-47`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpus: Option<Text>,
}

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interface {
    /// What the kernel calls it in discover mode. Another system may give it another name.
    pub name: Text,
    /// Its address, if it is an Ethernet interface.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<MacAddr>,
    /// Its address, if it is another one: 20 bytes with InfiniBand, of which the last eight are the port's GUID.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<Text>,
    /// The module that drives it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub driver: Option<Text>,
    /// Where its card is: an address of [`Facts::pci_devices`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pci: Option<Text>,
    /// What its card is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<PciId>,
    /// Whether the wire carries.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link: Option<bool>,
    /// In megabits a second, of a wire that carries.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub speed_mbps: Option<u32>,
    /// What it is plugged in at, if that has said so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lldp: Option<Neighbour>,
}

/// A disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    /// What the kernel calls it in this boot; the names of the next one may be others.
    pub name: Text,
    /// Its size.
    pub size_bytes: u64,
    /// Who made it, where that is told apart from the model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vendor: Option<Text>,
    /// What it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<Text>,
    /// Its serial number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<Text>,
    /// Its name among all disks of the world: `naa.5000c500a1b2c3d4`, `eui.0025388b91d0a1b2`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wwid: Option<Text>,
    /// Whether it turns.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotational: Option<bool>,
    /// How it is attached.
    pub transport: Transport,
}

/// How a disk is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Transport {
    /// NVM Express.
    Nvme,
    /// Serial ATA, and its parallel ancestor.
    Ata,
    /// Serial-attached SCSI.
    Sas,
    /// Fibre Channel.
    FibreChannel,
    /// SCSI over IP.
    Iscsi,
    /// SCSI of another kind: the logical disks of RAID controllers, and those of hypervisors.
    Scsi,
    /// virtio-blk.
    Virtio,
    /// USB.
    Usb,
    /// Cards and chips of that kind.
    Mmc,
    /// Something else.
    #[serde(other)]
    Other,
}

/// A PCI device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PciDevice {
    /// Where it is: `0000:3b:00.0`.
    pub address: Text,
    /// What kind of device it is.
    pub class: PciClass,
    /// Who made its chip, and which chip it is.
    pub id: PciId,
    /// Who made the card, and which card it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subsystem: Option<PciId>,
    /// The module that drives it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub driver: Option<Text>,
    /// Which of the [`Facts::numa_nodes`] it is attached to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub numa_node: Option<u32>,
}

/// A management controller.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bmc {
    /// How the machine talks to it: `KCS`.
    pub interface: Text,
    /// Which version of IPMI it speaks: `2.0`.
    pub ipmi: Text,
}

/// The facts are not acceptable.
#[derive(Debug, thiserror::Error)]
pub enum FactsError {
    /// Not JSON, or a field is missing or malformed.
    #[error("the facts are not valid")]
    Json(#[source] serde_json::Error),
    /// Larger than a machine has reason to send.
    #[error("the facts have {found} {what}, at most {limit} are allowed")]
    TooMuch {
        /// What there is too much of.
        what: &'static str,
        /// How much was found.
        found: usize,
        /// How much is allowed.
        limit: usize,
    },
}

impl Facts {
    /// Reads facts from the network; their size is bounded in every direction.
    pub fn parse(json: &[u8]) -> Result<Self, FactsError> {
        let too_much = |(what, found, limit)| FactsError::TooMuch { what, found, limit };
        if json.len() > MAX_FACTS_BYTES {
            return Err(too_much(("bytes", json.len(), MAX_FACTS_BYTES)));
        }
        let facts: Self = serde_json::from_slice(json).map_err(FactsError::Json)?;
        facts.first_excess().map_or(Ok(facts), |excess| Err(too_much(excess)))
    }

    /// Shortens lists that [`Facts::parse`] would refuse. Says of the first one what it is, how long it was and how long it
    /// may be.
    pub fn cut_to_limits(&mut self) -> Option<(&'static str, usize, usize)> {
        let excess = self.first_excess();
        self.memory_modules.truncate(MAX_MEMORY_MODULES);
        self.numa_nodes.truncate(MAX_NUMA_NODES);
        self.interfaces.truncate(MAX_INTERFACES);
        self.disks.truncate(MAX_DISKS);
        self.pci_devices.truncate(MAX_PCI_DEVICES);
        excess
    }

    fn first_excess(&self) -> Option<(&'static str, usize, usize)> {
        let lists = [
            ("memory modules", self.memory_modules.len(), MAX_MEMORY_MODULES),
            ("NUMA nodes", self.numa_nodes.len(), MAX_NUMA_NODES),
            ("interfaces", self.interfaces.len(), MAX_INTERFACES),
            ("disks", self.disks.len(), MAX_DISKS),
            ("PCI devices", self.pci_devices.len(), MAX_PCI_DEVICES),
        ];
        lists.into_iter().find(|(_, found, limit)| found > limit)
    }
}

#[cfg(test)]
mod tests;
