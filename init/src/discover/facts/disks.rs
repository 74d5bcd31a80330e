//! Disks (kernel: Documentation/ABI/stable/sysfs-block; devices of SCSI, ATA and NVMe have no such document).

use bootspec::facts::{Disk, Text, Transport};

use super::dir::Dir;

/// Kernel: Documentation/ABI/stable/sysfs-block counts in these whatever the disk does.
const SECTOR_BYTES: u64 = 512;
/// Kinds of SCSI devices that are disks, as INQUIRY gives them (SPC-4): direct access, optical memory, simplified direct
/// access, zoned.
const SCSI_DISKS: [u8; 4] = [0x00, 0x07, 0x0e, 0x14];
/// What the kernel has as the vendor of a disk that speaks ATA.
const ATA_VENDOR: &str = "ATA";

/// The disks that belong to a device, by name.
pub fn list(blocks: &Dir) -> Vec<Disk> {
    blocks.dirs().into_iter().filter(is_disk).filter_map(|dir| disk(&dir)).collect()
}

/// Loop devices, RAM disks, arrays and volumes belong to no device. One of the paths to an NVMe disk is hidden.
fn is_disk(dir: &Dir) -> bool {
    let is_set = |file| dir.number::<u8>(file) == Some(1);
    let scsi_kind: Option<u8> = dir.dir("device").number("type");
    dir.has("device")
        && !is_set("removable")
        && !is_set("hidden")
        && scsi_kind.is_none_or(|kind| SCSI_DISKS.contains(&kind))
}

fn disk(dir: &Dir) -> Option<Disk> {
    let device = dir.dir("device");
    // Others have a file of this name with a number in it.
    let vendor = device.has("type").then(|| device.text("vendor")).flatten();
    Some(Disk {
        name: Text::clean(dir.name())?,
        size_bytes: dir.number::<u64>("size")?.checked_mul(SECTOR_BYTES)?,
        vendor: vendor.filter(|vendor| vendor.as_str() != ATA_VENDOR),
        model: device.text("model"),
        serial: device.text("serial").or_else(|| dir.text("serial")).or_else(|| unit_serial(&device)),
        wwid: dir.text("wwid").or_else(|| device.text("wwid")),
        rotational: dir.dir("queue").number::<u8>("rotational").map(|rotational| rotational == 1),
        transport: transport(dir),
    })
}

/// The unit serial number of a SCSI device, page 0x80 of its vital product data (SPC-4 section 7.8.15).
fn unit_serial(device: &Dir) -> Option<Text> {
    let page = device.bytes("vpd_pg80")?;
    Text::clean(&String::from_utf8_lossy(page.get(4..)?))
}

/// By what the disk is attached to.
fn transport(dir: &Dir) -> Transport {
    let path = dir.real_path();
    let passes = |prefix: &str| {
        path.iter().any(|part| {
            part.strip_prefix(prefix).is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
        })
    };
    // What a disk is attached to may itself be attached to something, so the order counts.
    if dir.name().starts_with("nvme") {
        Transport::Nvme
    } else if passes("usb") {
        Transport::Usb
    } else if passes("mmc") {
        Transport::Mmc
    } else if passes("end_device-") {
        Transport::Sas
    } else if passes("ata") {
        Transport::Ata
    } else if passes("rport-") {
        Transport::FibreChannel
    } else if passes("session") {
        Transport::Iscsi
    } else if passes("host") {
        Transport::Scsi
    } else if passes("virtio") {
        Transport::Virtio
    } else {
        Transport::Other
    }
}
