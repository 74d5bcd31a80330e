//! Updates of the processors' microcode, as the kernel looks for them before it does anything else: in an archive that is not
//! compressed and stands first in the initramfs, one file for each vendor (kernel: Documentation/arch/x86/microcode.rst).
//!
//! The files are taken from the root as the packages of the distributions bring them: Intel's `intel-ucode/FAMILY-MODEL-STEPPING`,
//! AMD's `amd-ucode/microcode_amd*.bin`. All of them come along, because an image is for nodes of any kind.

use std::path::Path;

use bootspec::initramfs::FIRMWARE_DIR;

use crate::tree::{Tree, TreeError};

/// Where the kernel looks for a vendor's updates, and where they come from.
#[derive(Debug)]
struct Vendor {
    /// In the root, below [`FIRMWARE_DIR`].
    dir: &'static str,
    /// In the initramfs.
    member: &'static str,
    /// What a file of updates begins with: Intel's header has version 1 (Intel SDM 3A, 11.11.1), AMD's container has this
    /// magic number (kernel: arch/x86/kernel/cpu/microcode/amd.c).
    magic: [u8; 4],
    /// Whether a file of this name holds updates.
    is_update: fn(&str) -> bool,
}

const VENDORS: [Vendor; 2] = [
    Vendor {
        dir: "amd-ucode",
        member: "kernel/x86/microcode/AuthenticAMD.bin",
        magic: *b"DMA\0",
        is_update: |name| name.starts_with("microcode_amd") && name.ends_with(".bin"),
    },
    Vendor {
        dir: "intel-ucode",
        member: "kernel/x86/microcode/GenuineIntel.bin",
        magic: [1, 0, 0, 0],
        is_update: is_processor_signature,
    },
];

/// What Debian's package adds to names of files that only the kernel's start may load, not a running system.
const EARLY_SUFFIX: &str = ".initramfs";

/// The updates of one vendor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Updates {
    /// Its path in the initramfs.
    pub member: &'static str,
    /// How many files of the root it is made of.
    pub files: usize,
    /// The files, end to end.
    pub contents: Vec<u8>,
}

/// The updates cannot be collected.
#[derive(Debug, thiserror::Error)]
pub enum MicrocodeError {
    /// A file or directory of the root.
    #[error(transparent)]
    Read(#[from] TreeError),
    /// The kernel stops at the first file that it does not know, and takes none of those behind it.
    #[error(
        "{path} in the root is no microcode: expected it to begin with {expected:02x?}\nhint: install the package of the microcode again, or set [initramfs] microcode = false"
    )]
    Foreign {
        /// Which file.
        path: String,
        /// Its first bytes, as they should be.
        expected: [u8; 4],
    },
    /// The recipe wants updates, and the root has none.
    #[error(
        "the root has no microcode, but the recipe sets initramfs.microcode = true\nhint: add its package: Debian: intel-microcode and amd64-microcode, of the component non-free-firmware; Enterprise Linux: microcode_ctl and linux-firmware"
    )]
    None,
}

/// Collects the updates that the root at `root` has, by vendor. `wanted` as in the recipe: without a word, whatever is there.
pub fn collect(root: &Path, wanted: Option<bool>) -> Result<Vec<Updates>, MicrocodeError> {
    if wanted == Some(false) {
        return Ok(Vec::new());
    }
    let tree = Tree::open(root)?;
    let updates = VENDORS.iter().map(|vendor| vendor.read(&tree)).collect::<Result<Vec<_>, _>>()?;
    let updates: Vec<Updates> = updates.into_iter().filter(|updates| updates.files > 0).collect();
    match (wanted, updates.is_empty()) {
        (Some(true), true) => Err(MicrocodeError::None),
        _ => Ok(updates),
    }
}

impl Vendor {
    fn read(&self, tree: &Tree) -> Result<Updates, MicrocodeError> {
        let mut updates = Updates { member: self.member, files: 0, contents: Vec::new() };
        let dir = Path::new(FIRMWARE_DIR).join(self.dir);
        for name in tree.names_if_there(&dir)? {
            if !(self.is_update)(without_compression(&name)) {
                continue;
            }
            let path = dir.join(&name);
            let contents = tree.read_unpacked(&path)?;
            if !contents.starts_with(&self.magic) {
                let path = path.display().to_string();
                return Err(MicrocodeError::Foreign { path, expected: self.magic });
            }
            updates.files += 1;
            updates.contents.extend(contents);
        }
        Ok(updates)
    }
}

fn without_compression(name: &str) -> &str {
    [".xz", ".zst"].iter().find_map(|suffix| name.strip_suffix(suffix)).unwrap_or(name)
}

/// `06-55-04`, in hexadecimal.
fn is_processor_signature(name: &str) -> bool {
    let name = name.strip_suffix(EARLY_SUFFIX).unwrap_or(name);
    let parts: Vec<&str> = name.split('-').collect();
    parts.len() == 3
        && parts.iter().all(|part| part.len() == 2 && part.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    const INTEL: &[u8] = b"\x01\0\0\0intel ";
    const AMD: &[u8] = b"DMA\0amd ";

    fn root(files: &[(&str, &[u8])]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, contents) in files {
            let path = root.path().join("lib/firmware").join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, contents).unwrap();
        }
        root
    }

    fn xz(contents: &[u8]) -> Vec<u8> {
        let mut packed = Vec::new();
        std::io::Read::read_to_end(&mut xz2::read::XzEncoder::new(contents, 6), &mut packed).unwrap();
        packed
    }

    #[test]
    fn updates_stand_end_to_end_by_vendor_in_the_order_of_their_names() {
        let second = [INTEL, b"second"].concat();
        let packed = xz(AMD);
        let root = root(&[
            ("intel-ucode/06-8f-08", &second),
            ("intel-ucode/06-4f-01.initramfs", INTEL),
            ("intel-ucode/list", b"no update"),
            ("amd-ucode/microcode_amd_fam19h.bin.xz", &packed),
            ("amd-ucode/microcode_amd_fam19h.bin.asc", b"a signature"),
            ("amd-ucode/README", b"no update"),
        ]);
        let updates = collect(root.path(), None).unwrap();
        let expected = [
            Updates { member: "kernel/x86/microcode/AuthenticAMD.bin", files: 1, contents: AMD.to_vec() },
            Updates {
                member: "kernel/x86/microcode/GenuineIntel.bin",
                files: 2,
                contents: [INTEL, &second].concat(),
            },
        ];
        assert_eq!(updates, expected);
        assert_eq!(collect(root.path(), Some(true)).unwrap(), updates);
        assert_eq!(collect(root.path(), Some(false)).unwrap(), []);
    }

    #[test]
    fn a_root_without_updates_fails_only_where_the_recipe_wants_them() {
        let root = root(&[("e100/d101m_ucode.bin", b"a network card's")]);
        assert_eq!(collect(root.path(), None).unwrap(), []);
        let error = collect(root.path(), Some(true)).unwrap_err().to_string();
        assert!(
            error.contains("the root has no microcode") && error.contains("\nhint: add its package"),
            "{error}"
        );
    }

    #[test]
    fn a_file_that_is_no_microcode_is_named() {
        let root = root(&[("intel-ucode/06-55-04", b"<html>")]);
        let error = collect(root.path(), None).unwrap_err().to_string();
        let expected = "lib/firmware/intel-ucode/06-55-04 in the root is no microcode: expected it to begin with [01, 00, 00, 00]";
        assert!(error.starts_with(expected), "{error}");
    }
}
