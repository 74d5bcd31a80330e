use super::*;
use proptest::prelude::*;

fn text(text: &str) -> Text {
    text.parse().unwrap()
}

/// Nothing but what must be there.
fn bare() -> Facts {
    Facts::parse(br#"{"mac": "fc:ab:14:e8:66:01", "firmware": {"kind": "bios"}}"#).unwrap()
}

/// A machine with so many of everything, in which every text is `filler`.
fn full(count: usize, filler: &Text) -> Facts {
    let some = || Some(filler.clone());
    let id = Some(PciId { vendor: 0x8086, device: 0x10d3 });
    let product =
        Product { manufacturer: some(), product: some(), version: some(), serial: some(), asset_tag: some() };
    let module = MemoryModule {
        slot: some(),
        size_bytes: u64::MAX,
        speed_mts: Some(u32::MAX),
        manufacturer: some(),
        part_number: some(),
        serial: some(),
    };
    let interface = Interface {
        name: filler.clone(),
        mac: Some(bare().mac),
        address: some(),
        driver: some(),
        pci: some(),
        id,
        link: Some(false),
        speed_mbps: Some(u32::MAX),
        lldp: Some(Neighbour {
            chassis_id: some(),
            port_id: some(),
            system_name: some(),
            port_description: some(),
        }),
    };
    let disk = Disk {
        name: filler.clone(),
        size_bytes: u64::MAX,
        vendor: some(),
        model: some(),
        serial: some(),
        wwid: some(),
        rotational: Some(false),
        transport: Transport::FibreChannel,
    };
    let pci_device = PciDevice {
        address: filler.clone(),
        class: PciClass::new(0x0302),
        id: PciId { vendor: 0x10de, device: 0x20b5 },
        subsystem: id,
        driver: some(),
        numa_node: Some(u32::MAX),
    };
    Facts {
        node: Some("node-001".parse().unwrap()),
        boot: Some(BootId::new(u64::MAX)),
        uuid: Some(Uuid::from_u128(u128::MAX)),
        system: product.clone(),
        board: product.clone(),
        chassis: product,
        firmware: Firmware { kind: FirmwareKind::Uefi, vendor: some(), version: some(), date: some() },
        architecture: some(),
        kernel: some(),
        cpu: Cpu { model: some(), sockets: u32::MAX, cores: u32::MAX, threads: u32::MAX },
        memory_bytes: u64::MAX,
        memory_modules: vec![module; count],
        numa_nodes: vec![NumaNode { id: u32::MAX, memory_bytes: u64::MAX, cpus: some() }; count],
        interfaces: vec![interface; count],
        disks: vec![disk; count],
        pci_devices: vec![pci_device; count],
        bmc: Some(Bmc { interface: filler.clone(), ipmi: filler.clone() }),
        ..bare()
    }
}

fn json(facts: &Facts) -> String {
    serde_json::to_string(facts).unwrap()
}

#[test]
fn facts_round_trip_and_read_well() {
    for facts in [bare(), full(1, &text("x")), full(3, &text("ä \"b\" \\"))] {
        assert_eq!(Facts::parse(json(&facts).as_bytes()).unwrap(), facts);
    }
    let json = json(&full(1, &text("x")));
    for part in [
        r#""uuid":"ffffffff-ffff-ffff-ffff-ffffffffffff""#,
        r#""firmware":{"kind":"uefi""#,
        r#""class":"0302","id":"10de:20b5","subsystem":"8086:10d3""#,
        r#""transport":"fibre-channel""#,
    ] {
        assert!(json.contains(part), "no {part} in {json}");
    }
}

#[test]
fn what_later_releases_say_is_passed_over() {
    let json = r#"{"mac": "fc:ab:14:e8:66:01", "firmware": {"kind": "uefi", "secure_boot": true}, "rack": {"u": 7},
        "disks": [{"name": "sda", "size_bytes": 1, "transport": "dna"}]}"#;
    let facts = Facts::parse(json.as_bytes()).unwrap();
    assert_eq!(facts.firmware.kind, FirmwareKind::Uefi);
    assert_eq!(facts.disks[0].transport, Transport::Other);
}

#[test]
fn malformed_facts_are_refused_with_the_place() {
    for (json, expected) in [
        (r#"{"firmware": {"kind": "bios"}}"#, "missing field `mac`"),
        (r#"{"mac": "fc:ab:14:e8:66:01", "firmware": {"kind": "bios", "vendor": "a\nb"}}"#, "on one line"),
        (r#"{"mac": "fc:ab:14:e8:66:01", "firmware": {"kind": "bios"}, "uuid": "x"}"#, "line 1 column 70"),
    ] {
        let error = Facts::parse(json.as_bytes()).unwrap_err();
        let source = std::error::Error::source(&error).unwrap().to_string();
        assert!(source.contains(expected), "{source}");
    }
}

#[test]
fn oversized_facts_are_refused() {
    for (count, expected) in [(65, "65 NUMA nodes, at most 64"), (129, "129 memory modules, at most 128")] {
        let error = Facts::parse(json(&full(count, &text("x"))).as_bytes()).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
    }
    let error = Facts::parse(&vec![b' '; MAX_FACTS_BYTES + 1]).unwrap_err();
    assert!(error.to_string().contains("1048577 bytes"), "{error}");
}

#[test]
fn whatever_a_machine_has_is_accepted_once_it_is_cut_to_the_limits() {
    // Each quote takes two bytes of JSON.
    let mut facts = full(1000, &text(&"\"".repeat(MAX_TEXT_BYTES)));
    assert_eq!(facts.cut_to_limits(), Some(("memory modules", 1000, 128)));
    assert_eq!(facts.cut_to_limits(), None);
    assert_eq!((facts.disks.len(), facts.interfaces.len()), (256, 64));
    assert_eq!(Facts::parse(json(&facts).as_bytes()).unwrap(), facts);
}

proptest! {
    #[test]
    fn any_bytes_are_parsed_or_refused_without_panic(
        bytes: Vec<u8>,
        value in r#"(\{\}|\[\]|\[[0-9]\]|"[ -~]{0,9}"|-?[0-9]{1,20}|null|true)"#,
        key in "(mac|uuid|node|boot|system|firmware|cpu|memory_bytes|numa_nodes|interfaces|disks|pci_devices|bmc)",
    ) {
        let _ = Facts::parse(&bytes);
        let valid = json(&full(1, &text("x")));
        let mut object: serde_json::Value = serde_json::from_str(&valid).unwrap();
        object[key] = serde_json::from_str(&value).unwrap_or_default();
        if let Ok(facts) = Facts::parse(object.to_string().as_bytes()) {
            prop_assert_eq!(Facts::parse(json(&facts).as_bytes()).unwrap(), facts);
        }
    }
}
