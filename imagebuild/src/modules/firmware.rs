//! The firmware that a module may load into its device.

use std::path::Path;

use bootspec::initramfs::FIRMWARE_DIR;
use object::{Object, ObjectSection};

use crate::tree::{Tree, TreeError, variants};

/// Names of the firmware files, relative to the kernel's firmware directory: MODULE_FIRMWARE in the driver's source, which
/// ends up in the section `.modinfo` as one of its `KEY=VALUE\0`. Names that would leave that directory are no names.
pub fn names(module: &[u8]) -> Result<Vec<String>, object::read::Error> {
    let file = object::File::parse(module)?;
    let Some(modinfo) = file.section_by_name(".modinfo") else { return Ok(Vec::new()) };
    let entries = modinfo.data()?.split(|&byte| byte == 0);
    let firmware = entries.filter_map(|entry| std::str::from_utf8(entry.strip_prefix(b"firmware=")?).ok());
    Ok(firmware.filter(|name| stays_below(name)).map(str::to_owned).collect())
}

fn stays_below(name: &str) -> bool {
    name.split('/').all(|part| !matches!(part, "" | "." | ".."))
}

/// Where the firmware lies in the initramfs.
pub fn member_path(name: &str) -> String {
    format!("{FIRMWARE_DIR}/{name}")
}

/// The file, unpacked, from the first of the directories in which the kernel looks (kernel:
/// Documentation/driver-api/firmware/fw_search_path).
pub fn find(tree: &Tree, release: &str, name: &str) -> Result<Option<Vec<u8>>, TreeError> {
    let dir = Path::new(FIRMWARE_DIR);
    let updates = dir.join("updates");
    for dir in [updates.join(release), updates, dir.join(release), dir.to_owned()] {
        for path in variants(&dir.join(name)) {
            if let Some(contents) = tree.read_unpacked_if_there(&path)? {
                return Ok(Some(contents));
            }
        }
    }
    Ok(None)
}
