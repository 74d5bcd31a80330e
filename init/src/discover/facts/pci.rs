//! PCI devices (kernel: Documentation/ABI/testing/sysfs-bus-pci).

use bootspec::facts::{PciClass, PciDevice, PciId, Text};

use super::dir::Dir;

/// CXL memory, the one kind of memory controller that is more than a part of the chip set.
const CXL_MEMORY: PciClass = PciClass::new(0x0502);
/// SMBus controllers.
const SMBUS: PciClass = PciClass::new(0x0c05);

/// The devices that a machine is bought for.
pub fn list(devices: &Dir) -> Vec<PciDevice> {
    let all = devices.dirs().into_iter().filter_map(|dir| device(&dir));
    all.filter(|device| !is_chip_set(device.class)).collect()
}

/// Memory controllers, bridges, timers and the like, and performance counters, which are a hundred and more in a server.
fn is_chip_set(class: PciClass) -> bool {
    matches!(class.base(), 0x05 | 0x06 | 0x08 | 0x11) && class != CXL_MEMORY || class == SMBUS
}

fn device(dir: &Dir) -> Option<PciDevice> {
    // Class, subclass, programming interface.
    let class = u16::try_from(dir.hex("class")? >> 8).ok()?;
    Some(PciDevice {
        address: Text::clean(dir.name())?,
        class: PciClass::new(class),
        id: id(dir)?,
        subsystem: numbers(dir, "subsystem_vendor", "subsystem_device"),
        driver: dir.link("driver"),
        numa_node: dir.number("numa_node"),
    })
}

/// What the device is.
pub fn id(dir: &Dir) -> Option<PciId> {
    numbers(dir, "vendor", "device")
}

/// Zeros stand for none.
fn numbers(dir: &Dir, vendor: &str, device: &str) -> Option<PciId> {
    let number = |file| u16::try_from(dir.hex(file)?).ok();
    let id = PciId { vendor: number(vendor)?, device: number(device)? };
    (id.vendor != 0).then_some(id)
}

/// The address of the PCI device that is nearest to the end of a path of devices: `0000:3b:00.0`.
pub fn address_in(path: &[String]) -> Option<&str> {
    path.iter().rev().map(String::as_str).find(|part| is_address(part))
}

/// Domain, bus, device and function. Domains that the kernel makes up have more than four digits.
fn is_address(text: &str) -> bool {
    let is_hex = |text: &str, least| text.len() >= least && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let parts: Vec<_> = text.split([':', '.']).collect();
    match parts[..] {
        [domain, bus, device, function] => {
            is_hex(domain, 4)
                && is_hex(bus, 2)
                && is_hex(device, 2)
                && is_hex(function, 1)
                && text.ends_with(&format!(":{device}.{function}"))
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_device_of_a_path_is_found() {
        let nearest = |path: &str| {
            let path: Vec<_> = path.split('/').map(str::to_owned).collect();
            address_in(&path).map(str::to_owned)
        };
        let path = "/sys/devices/pci0000:3a/0000:3a:00.0/0000:3b:00.1/net/ens1f1";
        assert_eq!(nearest(path).as_deref(), Some("0000:3b:00.1"));
        let behind_vmd =
            "/sys/devices/pci0000:5d/0000:5d:05.5/pci10000:00/10000:00:02.0/10000:01:00.0/nvme/nvme0";
        assert_eq!(nearest(behind_vmd).as_deref(), Some("10000:01:00.0"));
        assert_eq!(nearest("/sys/devices/platform/host0/target0:0:0/0:0:0:0/block/sda"), None);
    }
}
