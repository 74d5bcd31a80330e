//! The firmware's table of what the machine consists of. It is cut off somewhere, as firmware with a wrong length does:
//! what comes before is read alike. What is read goes through JSON as facts do.
#![no_main]

use std::path::Path;
use std::sync::OnceLock;

use bootspec::MacAddr;
use bootspec::facts::Facts;
use init::discover::facts::{gather, smbios};
use libfuzzer_sys::fuzz_target;

/// A memory module takes a structure up to its size field, and two zeros.
const MIN_MODULE_BYTES: usize = 14 + 2;

fuzz_target!(|data: &[u8]| {
    let Some((cut, table)) = data.split_first_chunk() else { return };
    let cut = usize::from(u16::from_le_bytes(*cut)).min(table.len());
    let modules = smbios::memory_modules(table);
    assert!(modules.len() <= table.len() / MIN_MODULE_BYTES);
    assert!(modules.starts_with(&smbios::memory_modules(&table[..cut])));
    let bmc = smbios::bmc(table);
    if let Some(first) = smbios::bmc(&table[..cut]) {
        assert_eq!(bmc, Some(first));
    }

    let mut facts = Facts { memory_modules: modules, bmc, ..nothing().clone() };
    facts.cut_to_limits();
    let json = serde_json::to_vec(&facts).expect("facts are JSON");
    assert_eq!(Facts::parse(&json).expect("bootserve takes what init sends"), facts);
});

/// The facts of a machine without anything.
fn nothing() -> &'static Facts {
    static FACTS: OnceLock<Facts> = OnceLock::new();
    let nowhere = Path::new("/nonexistent");
    FACTS.get_or_init(|| gather(nowhere, nowhere, MacAddr::new([2; 6])))
}
