//! Tables of the firmware that the kernel hands on as they are: SMBIOS (DMTF DSP0134).

use bootspec::facts::{Bmc, MemoryModule, Text};

use super::dmi::is_meant;

/// DSP0134 section 7.18.
const MEMORY_DEVICE: u8 = 17;
/// Section 7.39.
const IPMI_DEVICE: u8 = 38;
const END_OF_TABLE: u8 = 127;

/// One structure: bytes at fixed places, and texts that those refer to by number.
struct Structure<'a> {
    bytes: &'a [u8],
    strings: &'a [u8],
}

impl<'a> Structure<'a> {
    fn kind(&self) -> u8 {
        self.bytes[0]
    }

    fn byte(&self, offset: usize) -> Option<u8> {
        self.bytes.get(offset).copied()
    }

    fn word(&self, offset: usize) -> Option<u16> {
        self.bytes.get(offset..)?.first_chunk().map(|bytes| u16::from_le_bytes(*bytes))
    }

    fn double_word(&self, offset: usize) -> Option<u32> {
        self.bytes.get(offset..)?.first_chunk().map(|bytes| u32::from_le_bytes(*bytes))
    }

    /// The text whose number is at `offset`. They are counted from one; zero stands for none.
    fn text(&self, offset: usize) -> Option<Text> {
        let index = usize::from(self.byte(offset)?).checked_sub(1)?;
        let string = self.strings.split(|byte| *byte == 0).nth(index)?;
        Text::clean(&String::from_utf8_lossy(string)).filter(|text| is_meant(text.as_str()))
    }

    /// Cuts the first structure off `table` (section 6.1.2). None at its end, or if it is damaged.
    fn take_from(table: &mut &'a [u8]) -> Option<Self> {
        let length = usize::from(*table.get(1)?);
        // Kind, length, and two bytes for a handle.
        let (bytes, rest) = table.split_at_checked(length).filter(|(bytes, _)| bytes.len() >= 4)?;
        let end = rest.windows(2).position(|pair| pair == [0, 0])?;
        *table = &rest[end + 2..];
        (bytes[0] != END_OF_TABLE).then_some(Self { bytes, strings: &rest[..end] })
    }
}

fn structures(mut table: &[u8], kind: u8) -> impl Iterator<Item = Structure<'_>> {
    let all = std::iter::from_fn(move || Structure::take_from(&mut table));
    all.filter(move |structure| structure.kind() == kind)
}

/// The memory modules that are installed.
pub fn memory_modules(table: &[u8]) -> Vec<MemoryModule> {
    structures(table, MEMORY_DEVICE).filter_map(|device| memory_module(&device)).collect()
}

fn memory_module(device: &Structure<'_>) -> Option<MemoryModule> {
    let size_bytes = match device.word(0x0c)? {
        // Nothing is installed, or nobody knows how much.
        0 | 0xffff => return None,
        // It does not fit into the word.
        0x7fff => u64::from(device.double_word(0x1c)? & 0x7fff_ffff) << 20,
        kib if kib & 0x8000 != 0 => u64::from(kib & 0x7fff) << 10,
        mib => u64::from(mib) << 20,
    };
    let speed = |offset| device.word(offset).filter(|speed| !matches!(speed, 0 | 0xffff)).map(u32::from);
    Some(MemoryModule {
        slot: device.text(0x10),
        size_bytes,
        // As it is configured, which tables of before 2010 do not say; else as it could be.
        speed_mts: speed(0x20).or_else(|| speed(0x15)),
        manufacturer: device.text(0x17),
        part_number: device.text(0x1a),
        serial: device.text(0x18),
    })
}

/// The management controller that speaks IPMI.
pub fn bmc(table: &[u8]) -> Option<Bmc> {
    structures(table, IPMI_DEVICE).find_map(|device| {
        let interface = match device.byte(4)? {
            1 => "KCS",
            2 => "SMIC",
            3 => "BT",
            4 => "SSIF",
            _ => "unknown",
        };
        let version = device.byte(5)?;
        Some(Bmc {
            interface: Text::clean(interface)?,
            ipmi: Text::clean(&format!("{}.{}", version >> 4, version & 0xf))?,
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A structure with these `fields` behind kind, length and handle.
    fn structure(kind: u8, fields: &[u8], strings: &[&str]) -> Vec<u8> {
        let mut bytes = vec![kind, u8::try_from(4 + fields.len()).unwrap(), 1, 0];
        bytes.extend(fields);
        strings.iter().for_each(|string| bytes.extend(string.bytes().chain([0])));
        bytes.extend(if strings.is_empty() { &[0, 0][..] } else { &[0] });
        bytes
    }

    fn module(size: u16, extended: u32) -> Vec<u8> {
        let mut fields = [0; 0x22 - 4];
        let mut put =
            |offset: usize, bytes: &[u8]| fields[offset - 4..][..bytes.len()].copy_from_slice(bytes);
        put(0x0c, &size.to_le_bytes());
        put(0x1c, &extended.to_le_bytes());
        put(0x10, &[1]);
        put(0x15, &3200_u16.to_le_bytes());
        put(0x17, &[2, 3]);
        put(0x1a, &[4]);
        put(0x20, &2933_u16.to_le_bytes());
        structure(MEMORY_DEVICE, &fields, &["DIMM_A1", "Samsung", "40021E5B", "M393A4K40DB3-CWE    "])
    }

    #[test]
    fn installed_modules_are_listed_with_their_slots() {
        let end = structure(END_OF_TABLE, &[], &[]);
        let table = [
            structure(0, &[1, 2], &["vendor", "version"]),
            module(0x7fff, 32 << 10),
            module(0, 0),
            module(0x8000 | 512, 0),
            end,
            module(1024, 0),
        ];
        let modules = memory_modules(&table.concat());
        assert_eq!(modules.iter().map(|module| module.size_bytes).collect::<Vec<_>>(), [32 << 30, 512 << 10]);
        let text = |text: &str| text.parse().ok();
        assert_eq!((modules[0].slot.clone(), modules[0].serial.clone()), (text("DIMM_A1"), text("40021E5B")));
        assert_eq!(modules[0].part_number, text("M393A4K40DB3-CWE"));
        assert_eq!((modules[0].manufacturer.clone(), modules[0].speed_mts), (text("Samsung"), Some(2933)));
    }

    #[test]
    fn short_structures_of_old_tables_say_what_they_have() {
        let table = structure(MEMORY_DEVICE, &[0, 0, 0, 0, 0, 0, 0, 0, 0, 4], &[]);
        let modules = memory_modules(&table);
        assert_eq!((modules.len(), modules[0].size_bytes), (1, 1 << 30));
        assert_eq!((&modules[0].slot, modules[0].speed_mts), (&None, None));
    }

    #[test]
    fn a_management_controller_is_found() {
        let bmc = bmc(&structure(IPMI_DEVICE, &[1, 0x20, 0x20, 0xff], &[])).unwrap();
        assert_eq!((bmc.interface.as_str(), bmc.ipmi.as_str()), ("KCS", "2.0"));
        assert_eq!(super::bmc(&module(1, 0)), None);
    }

    proptest! {
        #[test]
        fn any_table_is_read_without_panic(bytes: Vec<u8>, kinds in proptest::collection::vec(any::<(bool, Vec<u8>)>(), 0..9)) {
            memory_modules(&bytes);
            let table = kinds.iter().map(|(memory, fields)| {
                let kind = if *memory { MEMORY_DEVICE } else { IPMI_DEVICE };
                structure(kind, &fields[..fields.len().min(60)], &["a"])
            });
            let table = table.collect::<Vec<_>>().concat();
            memory_modules(&table);
            bmc(&table);
        }
    }
}
