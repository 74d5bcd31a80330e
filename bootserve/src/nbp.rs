//! Network boot programs: iPXE's binaries as the distributions package them, read into memory at start.
//!
//! They are at most a few megabytes. Clients name one by a key of this map, so no path is ever made from what a
//! client sends.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use crate::arch::Platform;

/// The file names under which iPXE is packaged, the first of a platform preferred. Debian: `undionly.kpxe`,
/// `ipxe.efi`, `snponly.efi`; Enterprise Linux: `ipxe-x86_64.efi`, `ipxe-snponly-x86_64.efi`.
const CANDIDATES: &[(Platform, &str)] = &[
    (Platform::BiosX86, "undionly.kpxe"),
    (Platform::EfiX86_64, "ipxe.efi"),
    (Platform::EfiX86_64, "ipxe-x86_64.efi"),
    (Platform::EfiX86_64, "snponly.efi"),
    (Platform::EfiX86_64, "ipxe-snponly-x86_64.efi"),
    (Platform::EfiIa32, "ipxe-i386.efi"),
    (Platform::EfiArm32, "ipxe-arm32.efi"),
    (Platform::EfiArm64, "ipxe-arm64.efi"),
    (Platform::EfiArm64, "snponly-arm64.efi"),
    (Platform::EfiRiscV32, "ipxe-riscv32.efi"),
    (Platform::EfiRiscV64, "ipxe-riscv64.efi"),
    (Platform::EfiLoongArch64, "ipxe-loong64.efi"),
];

/// A larger file is no network boot program; firmware would refuse it, too.
const MAX_NBP_BYTES: u64 = 16 << 20;

/// What helps where there is none.
pub const INSTALL_HINT: &str = "install the ipxe package or set nbp.dirs";

/// The programs that were found.
#[derive(Clone, Debug, Default)]
pub struct NbpSet {
    by_name: BTreeMap<&'static str, Bytes>,
}

/// A program cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum NbpError {
    /// It is there but cannot be read.
    #[error("cannot read the network boot program {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It is too large to be one.
    #[error("{} has {size_bytes} bytes, a network boot program at most {MAX_NBP_BYTES}", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its length.
        size_bytes: u64,
    },
}

impl NbpSet {
    /// Reads every known program from the first of `dirs` that has it.
    pub fn read(dirs: &[PathBuf]) -> Result<Self, NbpError> {
        let mut by_name = BTreeMap::new();
        for (_, name) in CANDIDATES {
            if let Some(path) = dirs.iter().map(|dir| dir.join(name)).find(|path| path.exists()) {
                by_name.insert(*name, read_program(&path)?);
            }
        }
        Ok(Self { by_name })
    }

    /// The name and the bytes of the program that a client asks for.
    pub fn find(&self, name: &str) -> Option<(&'static str, &Bytes)> {
        self.by_name.get_key_value(name).map(|(name, bytes)| (*name, bytes))
    }

    /// The name of the program for `platform`.
    pub fn for_platform(&self, platform: Platform) -> Option<&'static str> {
        let mut names = CANDIDATES.iter().filter(|(of, _)| *of == platform).map(|(_, name)| *name);
        names.find(|name| self.by_name.contains_key(name))
    }

    /// The names of all programs.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        self.by_name.keys().copied()
    }
}

fn read_program(path: &Path) -> Result<Bytes, NbpError> {
    let read_error = |source| NbpError::Read { path: path.to_owned(), source };
    let size_bytes = path.metadata().map_err(read_error)?.len();
    if size_bytes > MAX_NBP_BYTES {
        return Err(NbpError::TooLarge { path: path.to_owned(), size_bytes });
    }
    Ok(std::fs::read(path).map_err(read_error)?.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_directory_wins_and_the_first_name_of_a_platform_is_preferred() {
        let debian = tempfile::tempdir().unwrap();
        let el = tempfile::tempdir().unwrap();
        std::fs::write(debian.path().join("snponly.efi"), "debian snp").unwrap();
        std::fs::write(el.path().join("snponly.efi"), "el snp").unwrap();
        std::fs::write(el.path().join("ipxe-x86_64.efi"), "el ipxe").unwrap();
        let nbps = NbpSet::read(&[debian.path().into(), el.path().into()]).unwrap();
        assert_eq!(nbps.names().collect::<Vec<_>>(), ["ipxe-x86_64.efi", "snponly.efi"]);
        assert_eq!(nbps.find("snponly.efi").unwrap().1, "debian snp");
        assert_eq!(nbps.for_platform(Platform::EfiX86_64), Some("ipxe-x86_64.efi"));
        assert_eq!(nbps.for_platform(Platform::BiosX86), None);
        assert!(nbps.find("../snponly.efi").is_none());
    }

    #[test]
    fn an_oversized_file_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::File::create(dir.path().join("undionly.kpxe")).unwrap().set_len(MAX_NBP_BYTES + 1).unwrap();
        let error = NbpSet::read(&[dir.path().into()]).unwrap_err().to_string();
        assert!(error.contains("undionly.kpxe") && error.contains("16777217"), "{error}");
    }
}
