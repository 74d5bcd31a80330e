//! Facter's facts, which Razor's microkernel sends, as ours, and ours as those that rules of Razor look at.
//!
//! Facter 2 says everything as text: `{"macaddress_eth0": "52:54:…", "processorcount": "8", "memorysize": "7.80 GB"}`. Facter 3 says
//! some of it as numbers. What stands in structures alone is passed over.

use bootspec::MacAddr;
use bootspec::facts::{Cpu, Disk, Facts, Firmware, FirmwareKind, Interface, Product, Text, Transport};
use serde_json::{Map, Value};

/// Facter's facts, by name.
pub type Facter = Map<String, Value>;

/// Our facts of a machine that is known by `mac`.
pub fn ours(mac: MacAddr, facter: &Facter) -> Facts {
    let said = Said(facter);
    let product = |keys: [&str; 3]| {
        let [manufacturer, product, serial] = keys.map(|key| said.text(key));
        Product { manufacturer, product, serial, ..Product::default() }
    };
    let threads = said.number("processorcount").unwrap_or(0);
    let mut facts = Facts {
        mac,
        node: None,
        boot: None,
        uuid: said.string("uuid").and_then(|uuid| uuid.parse().ok()),
        system: product(["manufacturer", "productname", "serialnumber"]),
        board: product(["boardmanufacturer", "boardproductname", "boardserialnumber"]),
        chassis: Product::default(),
        firmware: Firmware {
            kind: match said.string("boot_type").as_deref() {
                Some("efi" | "uefi") => FirmwareKind::Uefi,
                _ => FirmwareKind::Bios,
            },
            vendor: said.text("bios_vendor"),
            version: said.text("bios_version"),
            date: said.text("bios_release_date"),
        },
        architecture: said.text("hardwaremodel").or_else(|| said.text("architecture")),
        kernel: said.text("kernelrelease"),
        // Facter does not tell cores from threads.
        cpu: Cpu {
            model: said.text("processor0"),
            sockets: said.number("physicalprocessorcount").unwrap_or(0),
            cores: threads,
            threads,
        },
        memory_bytes: said.memory_bytes().unwrap_or(0),
        memory_modules: Vec::new(),
        numa_nodes: Vec::new(),
        interfaces: said.interfaces(),
        disks: said.disks(),
        pci_devices: Vec::new(),
        bmc: None,
    };
    // A machine with more of them is listed with the first ones.
    facts.cut_to_limits();
    facts
}

/// What facter would say of a machine with these facts, as they stand in JSON; all of it as text.
pub fn facters(facts: &Value) -> Facter {
    let mut facter = Facter::new();
    let mut put = |name: &str, value: Option<String>| {
        value.into_iter().for_each(|value| drop(facter.insert(name.to_owned(), value.into())));
    };
    for (name, pointer) in [
        ("macaddress", "/mac"),
        ("manufacturer", "/system/manufacturer"),
        ("productname", "/system/product"),
        ("serialnumber", "/system/serial"),
        ("boardmanufacturer", "/board/manufacturer"),
        ("boardproductname", "/board/product"),
        ("boardserialnumber", "/board/serial"),
        ("bios_vendor", "/firmware/vendor"),
        ("bios_version", "/firmware/version"),
        ("bios_release_date", "/firmware/date"),
        ("architecture", "/architecture"),
        ("hardwaremodel", "/architecture"),
        ("kernelrelease", "/kernel"),
        ("processor0", "/cpu/model"),
        ("processorcount", "/cpu/threads"),
        ("physicalprocessorcount", "/cpu/sockets"),
    ] {
        put(name, facts.pointer(pointer).and_then(string));
    }
    put("uuid", facts.get("uuid").and_then(string).map(|uuid| uuid.to_uppercase()));
    let is_uefi = facts.pointer("/firmware/kind").and_then(Value::as_str) == Some("uefi");
    put("boot_type", Some(if is_uefi { "efi" } else { "bios" }.to_owned()));
    if let Some(bytes) = facts.get("memory_bytes").and_then(Value::as_u64).filter(|bytes| *bytes > 0) {
        put("memorysize", Some(memory_size(bytes)));
        put("memorysize_mb", Some(format!("{:.2}", bytes as f64 / f64::from(1 << 20))));
    }
    let list = |key: &str| facts.get(key).and_then(Value::as_array).into_iter().flatten();
    for interface in list("interfaces") {
        if let Some(name) = interface.get("name").and_then(Value::as_str) {
            put(&format!("macaddress_{}", plain(name)), interface.get("mac").and_then(string));
        }
    }
    for disk in list("disks") {
        if let Some(name) = disk.get("name").and_then(Value::as_str) {
            for (fact, key) in [("size", "size_bytes"), ("model", "model"), ("vendor", "vendor")] {
                put(&format!("blockdevice_{}_{fact}", plain(name)), disk.get(key).and_then(string));
            }
        }
    }
    facter
}

/// As facter names interfaces and disks in facts: `eth0.1` is `eth0_1`.
fn plain(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect()
}

/// `7.80 GB`, where a gigabyte has 2³⁰ bytes.
fn memory_size(bytes: u64) -> String {
    let (mut size, mut unit) = (bytes as f64, "bytes");
    for greater in ["KB", "MB", "GB", "TB"] {
        if size < 1024.0 {
            break;
        }
        (size, unit) = (size / 1024.0, greater);
    }
    format!("{size:.2} {unit}")
}

fn string(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(value) => Some(value.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

struct Said<'a>(&'a Facter);

impl Said<'_> {
    fn string(&self, name: &str) -> Option<String> {
        self.0.get(name).and_then(string)
    }

    fn text(&self, name: &str) -> Option<Text> {
        Text::clean(&self.string(name)?)
    }

    fn number(&self, name: &str) -> Option<u32> {
        self.string(name)?.trim().parse().ok()
    }

    fn memory_bytes(&self) -> Option<u64> {
        let in_mb = self.string("memorysize_mb").map(|size| format!("{size} MB"));
        let size = in_mb.or_else(|| self.string("memorysize")).or_else(|| self.string("memorytotal"))?;
        let (number, unit) = size.trim().split_once(' ')?;
        let factor = match unit.trim() {
            "KB" | "KiB" => 10,
            "MB" | "MiB" => 20,
            "GB" | "GiB" => 30,
            "TB" | "TiB" => 40,
            _ => 0,
        };
        let number: f64 = number.parse().ok().filter(|number: &f64| *number >= 0.0)?;
        // Too much of it is all that there can be.
        Some((number * (1_u64 << factor) as f64) as u64)
    }

    fn interfaces(&self) -> Vec<Interface> {
        let macs = self.0.iter().filter_map(|(fact, value)| {
            let name = Text::clean(fact.strip_prefix("macaddress_")?)?;
            Some((name, value.as_str()?.parse().ok()?))
        });
        let interface = |(name, mac)| Interface {
            name,
            mac: Some(mac),
            address: None,
            driver: None,
            pci: None,
            id: None,
            link: None,
            speed_mbps: None,
            lldp: None,
        };
        macs.map(interface).collect()
    }

    fn disks(&self) -> Vec<Disk> {
        let sizes = self.0.iter().filter_map(|(fact, value)| {
            let name = fact.strip_prefix("blockdevice_")?.strip_suffix("_size")?;
            Some((name, string(value)?.parse().ok()?))
        });
        let disk = |(name, size_bytes): (&str, u64)| {
            let text = |key| self.text(&format!("blockdevice_{name}_{key}"));
            Some(Disk {
                name: Text::clean(name)?,
                size_bytes,
                vendor: text("vendor"),
                model: text("model"),
                serial: None,
                wwid: None,
                rotational: None,
                transport: Transport::Other,
            })
        };
        sizes.filter_map(disk).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn mac() -> MacAddr {
        MacAddr::new([0x52, 0x54, 0, 0xa1, 0x9c, 0xae])
    }

    fn facter() -> Facter {
        let facts = json!({
            "macaddress": "52:54:00:A1:9C:AE", "macaddress_eth0": "52:54:00:A1:9C:AE", "serialnumber": " S1 ",
            "manufacturer": "Dell Inc.", "productname": "R640", "processorcount": "8", "physicalprocessorcount": 2,
            "processor0": "Xeon", "memorysize": "7.80 GB", "uuid": "4C4C4544-0051-5A10-8052-B4C04F4A4332",
            "architecture": "amd64", "hardwaremodel": "x86_64", "boot_type": "efi",
            "blockdevice_sda_size": "1000", "blockdevice_sda_model": "Disk", "os": {"family": "RedHat"},
        });
        facts.as_object().unwrap().clone()
    }

    #[test]
    fn facters_facts_become_ours_and_ours_facters() {
        let facts = ours(mac(), &facter());
        let text = |text: &Option<Text>| text.as_ref().unwrap().to_string();
        assert_eq!(text(&facts.system.serial), "S1");
        assert_eq!((facts.cpu.threads, facts.cpu.sockets), (8, 2));
        assert_eq!(facts.memory_bytes, 8_375_186_227);
        assert_eq!((text(&facts.architecture).as_str(), facts.firmware.kind), ("x86_64", FirmwareKind::Uefi));
        assert_eq!((facts.interfaces[0].mac, facts.disks[0].size_bytes), (Some(mac()), 1000));
        let back = facters(&serde_json::to_value(&facts).unwrap());
        for (name, expected) in [
            ("macaddress", "52:54:00:a1:9c:ae"),
            ("macaddress_eth0", "52:54:00:a1:9c:ae"),
            ("processorcount", "8"),
            ("memorysize", "7.80 GB"),
            ("uuid", "4C4C4544-0051-5A10-8052-B4C04F4A4332"),
            ("productname", "R640"),
            ("blockdevice_sda_size", "1000"),
            ("boot_type", "efi"),
        ] {
            assert_eq!(back[name], expected, "{name}");
        }
    }

    proptest! {
        #[test]
        fn whatever_facter_says_is_stored_and_read_again(
            name in "macaddress_\\PC{0,6}|blockdevice_\\PC{0,4}_size|memorysize|uuid|processorcount|serialnumber",
            text in "\\PC{0,200}|[0-9.e+-]{1,9} [KMGT]B",
            number: f64,
        ) {
            for value in [json!(text), json!(number), json!([text])] {
                let facter: Facter = [(name.clone(), value)].into_iter().collect();
                let facts = ours(mac(), &facter);
                let json = serde_json::to_string(&facts).unwrap();
                prop_assert_eq!(Facts::parse(json.as_bytes()).unwrap(), facts.clone());
                facters(&serde_json::to_value(&facts).unwrap());
            }
            facters(&json!({"mac": number, "interfaces": text, "disks": [{"name": text}, number]}));
        }
    }
}
