//! What the firmware says about the machine (kernel: Documentation/ABI/testing/sysfs-class-dmi).

use bootspec::facts::{Firmware, FirmwareKind, Product, Text};
use uuid::{Uuid, uuid};

use super::dir::Dir;

/// What manufacturers leave in place of a text, in lower case.
const PLACEHOLDERS: [&str; 19] = [
    "asset tag",
    "base board serial number",
    "chassis serial number",
    "default",
    "default string",
    "empty",
    "invalid",
    "n/a",
    "no asset information",
    "no asset tag",
    "none",
    "not applicable",
    "not available",
    "not specified",
    "o.e.m.",
    "system manufacturer",
    "system product name",
    "system serial number",
    "unknown",
];
const PLACEHOLDER_BEGINNINGS: [&str; 2] = ["to be filled", "012345678"];
/// UUIDs that many boards have: those of AMI's and of Phoenix' templates.
const SHARED_UUIDS: [Uuid; 2] =
    [uuid!("03000200-0400-0500-0006-000700080009"), uuid!("12345678-1234-5678-90ab-cddeefaabbcc")];

/// The machine's UUID, unless it is one that identifies no machine.
pub fn uuid(id: &Dir) -> Option<Uuid> {
    let uuid: Uuid = id.number("product_uuid")?;
    (!uuid.is_nil() && !uuid.is_max() && !SHARED_UUIDS.contains(&uuid)).then_some(uuid)
}

/// The machine as it is sold.
pub fn system(id: &Dir) -> Product {
    Product {
        manufacturer: meant(id, "sys_vendor"),
        product: meant(id, "product_name"),
        version: meant(id, "product_version"),
        serial: meant(id, "product_serial"),
        asset_tag: None,
    }
}

/// Its main board.
pub fn board(id: &Dir) -> Product {
    part(id, "board", "name")
}

/// Its case.
pub fn chassis(id: &Dir) -> Product {
    part(id, "chassis", "type")
}

fn part(id: &Dir, part: &str, product: &str) -> Product {
    let file = |field| meant(id, &format!("{part}_{field}"));
    Product {
        manufacturer: file("vendor"),
        product: file(product),
        version: file("version"),
        serial: file("serial"),
        asset_tag: file("asset_tag"),
    }
}

/// The firmware itself.
pub fn firmware(id: &Dir, uefi: bool) -> Firmware {
    Firmware {
        kind: if uefi { FirmwareKind::Uefi } else { FirmwareKind::Bios },
        vendor: meant(id, "bios_vendor"),
        version: meant(id, "bios_version"),
        date: meant(id, "bios_date"),
    }
}

fn meant(id: &Dir, file: &str) -> Option<Text> {
    id.text(file).filter(|text| is_meant(text.as_str()))
}

/// Whether a text of the firmware says something.
pub fn is_meant(text: &str) -> bool {
    let text = text.to_ascii_lowercase();
    let mut signs = text.chars().filter(char::is_ascii_alphanumeric);
    let first = signs.next();
    // `0`, `........`, `XXXXXXXX`. Numbers of one digit are kinds of cases, and versions.
    let one_sign = signs.all(|sign| Some(sign) == first) && (text.len() > 1 || text == "0");
    first.is_some()
        && !one_sign
        && !PLACEHOLDERS.contains(&text.as_str())
        && !PLACEHOLDER_BEGINNINGS.iter().any(|beginning| text.starts_with(beginning))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders_say_nothing() {
        for text in [
            "To Be Filled By O.E.M.",
            "Default string",
            "0",
            "00000000",
            "XXXX",
            "...",
            "None",
            " ",
            "0123456789",
        ] {
            assert!(!is_meant(text), "{text}");
        }
        for text in ["1ABCDE2", "PowerEdge R640", "1", "23", "A", "S452392X0A01234"] {
            assert!(is_meant(text), "{text}");
        }
    }
}
