//! The kind of machine that an image is for. Programs in its root run while it is built, so that of another kind needs an
//! emulator, which the kernel starts by itself (kernel: Documentation/admin-guide/binfmt-misc.rst).

use std::fmt;
use std::fs;
use std::path::Path;

use object::LittleEndian;
use object::elf::{EM_AARCH64, EM_PPC64, EM_RISCV, EM_X86_64, FileHeader64, Machine};
use object::read::elf::FileHeader;
use serde::Deserialize;

/// As the kernel calls it (`uname -m`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Architecture {
    /// 64-bit x86.
    #[serde(rename = "x86_64")]
    X86_64,
    /// 64-bit ARM.
    Aarch64,
    /// 64-bit POWER, little-endian.
    Ppc64le,
    /// 64-bit RISC-V.
    Riscv64,
}

const ALL: [Architecture; 4] =
    [Architecture::X86_64, Architecture::Aarch64, Architecture::Ppc64le, Architecture::Riscv64];
/// Where the kernel lists emulators, a file for each.
const BINFMT_MISC: &str = "/proc/sys/fs/binfmt_misc";

/// `e_machine` of a program, 64-bit and little-endian as those of all these machines are (elf(5)).
pub fn machine_of(program: &[u8]) -> Option<Machine> {
    let header = FileHeader64::<LittleEndian>::parse(program).ok()?;
    Some(header.e_machine(header.endian().ok()?))
}

/// Programs of the image cannot run here.
#[derive(Debug, thiserror::Error)]
#[error(
    "this machine runs no programs for {wanted}, and those of the image's packages run while it is built: {problem}\nhint: install an emulator that is loaded when it is registered (Debian: qemu-user-static and binfmt-support; Fedora, EPEL: qemu-user-static), or build on a machine of that kind"
)]
pub struct NoEmulator {
    wanted: Architecture,
    problem: String,
}

impl Architecture {
    /// That of this machine, if it is one of these.
    pub fn of_host() -> Option<Self> {
        Self::named(&rustix::system::uname().machine().to_string_lossy())
    }

    /// The one that the kernel calls so.
    pub fn named(name: &str) -> Option<Self> {
        ALL.into_iter().find(|architecture| architecture.name() == name)
    }

    /// As the kernel calls it, and rpm.
    pub fn name(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64",
            Self::Aarch64 => "aarch64",
            Self::Ppc64le => "ppc64le",
            Self::Riscv64 => "riscv64",
        }
    }

    /// As Debian calls it.
    pub fn debian_name(self) -> &'static str {
        match self {
            Self::X86_64 => "amd64",
            Self::Aarch64 => "arm64",
            Self::Ppc64le => "ppc64el",
            Self::Riscv64 => "riscv64",
        }
    }

    /// As container images call it (OCI image specification: the values of Go's GOARCH).
    pub fn oci_name(self) -> &'static str {
        match self {
            Self::X86_64 => "amd64",
            Self::Aarch64 => "arm64",
            Self::Ppc64le => "ppc64le",
            Self::Riscv64 => "riscv64",
        }
    }

    /// The one that has programs of this kind.
    pub fn with_programs(machine: Machine) -> Option<Self> {
        ALL.into_iter().find(|architecture| architecture.elf_machine() == machine)
    }

    /// `e_machine` of its programs.
    pub fn elf_machine(self) -> Machine {
        match self {
            Self::X86_64 => EM_X86_64,
            Self::Aarch64 => EM_AARCH64,
            Self::Ppc64le => EM_PPC64,
            Self::Riscv64 => EM_RISCV,
        }
    }

    /// Fails unless this machine runs its programs, by itself or with an emulator that roots need not hold.
    pub fn require_runnable(self) -> Result<(), NoEmulator> {
        if Self::of_host() == Some(self) {
            return Ok(());
        }
        let path = Path::new(BINFMT_MISC).join(format!("qemu-{self}"));
        let no_emulator = |problem| NoEmulator { wanted: self, problem };
        let entry = fs::read_to_string(&path)
            .map_err(|error| no_emulator(format!("cannot read {}: {error}", path.display())))?;
        unusable(&entry).map_or(Ok(()), |problem| Err(no_emulator(format!("{} {problem}", path.display()))))
    }
}

impl fmt::Display for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What keeps the kernel from starting the emulator of such an entry in a root that does not hold it.
fn unusable(entry: &str) -> Option<&'static str> {
    let has_flag = |line: &str| line.strip_prefix("flags:").is_some_and(|flags| flags.contains('F'));
    if entry.lines().next() != Some("enabled") {
        Some("is disabled")
    } else if !entry.lines().any(has_flag) {
        Some("lacks the flag F: the emulator would have to lie in the root")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_kernel_and_lead_back() {
        for architecture in ALL {
            assert_eq!(Architecture::named(&architecture.to_string()), Some(architecture));
            let read: Architecture = toml::Value::from(architecture.name()).try_into().unwrap();
            assert_eq!(read, architecture);
        }
        assert_eq!(Architecture::named("i686"), None);
    }

    #[test]
    fn programs_say_what_they_are_for() {
        let this_test = fs::read(std::env::current_exe().unwrap()).unwrap();
        let machine = machine_of(&this_test).unwrap();
        assert_eq!(Architecture::with_programs(machine), Architecture::of_host());
        assert_eq!(machine_of(b"#!/bin/sh\n"), None);
        assert_eq!(machine_of(&this_test[..20]), None);
    }

    #[test]
    fn an_emulator_must_be_enabled_and_loaded() {
        let entry = |first: &str, flags: &str| {
            format!(
                "{first}\ninterpreter /usr/bin/qemu-aarch64-static\nflags: {flags}\noffset 0\nmagic 7f454c46\n"
            )
        };
        assert_eq!(unusable(&entry("enabled", "POCF")), None);
        assert_eq!(unusable(&entry("disabled", "POCF")), Some("is disabled"));
        assert!(unusable(&entry("enabled", "OC")).unwrap().starts_with("lacks the flag F"));
        assert_eq!(unusable(""), Some("is disabled"));
    }
}
