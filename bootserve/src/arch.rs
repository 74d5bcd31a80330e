//! What a machine's firmware says it is: DHCP option 93, client system architecture (RFC 4578 section 2.1 and IANA's
//! registry "processor architecture types").

use std::fmt;

/// An architecture type of option 93, known or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Arch(u16);

/// What a network boot program must be built for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Platform {
    /// BIOS on x86.
    BiosX86,
    /// UEFI on IA32.
    EfiIa32,
    /// UEFI on x86-64.
    EfiX86_64,
    /// UEFI on 32-bit ARM.
    EfiArm32,
    /// UEFI on 64-bit ARM.
    EfiArm64,
    /// UEFI on 32-bit RISC-V.
    EfiRiscV32,
    /// UEFI on 64-bit RISC-V.
    EfiRiscV64,
    /// UEFI on 32-bit LoongArch.
    EfiLoongArch32,
    /// UEFI on 64-bit LoongArch.
    EfiLoongArch64,
}

impl Arch {
    /// BIOS on x86: what firmware of before option 93 is.
    pub const BIOS_X86: Self = Self(0);

    /// What runs on it, if we know.
    pub fn platform(self) -> Option<Platform> {
        match self.0 {
            0 => Some(Platform::BiosX86),
            6 | 15 => Some(Platform::EfiIa32),
            // RFC 4578 and the registry name 7 and 9 the other way round; firmware sends either.
            7 | 9 | 16 => Some(Platform::EfiX86_64),
            10 | 18 => Some(Platform::EfiArm32),
            11 | 19 => Some(Platform::EfiArm64),
            25 | 26 => Some(Platform::EfiRiscV32),
            27 | 28 => Some(Platform::EfiRiscV64),
            37 | 38 => Some(Platform::EfiLoongArch32),
            39 | 40 => Some(Platform::EfiLoongArch64),
            _ => None,
        }
    }

    /// Whether firmware says so that asks for UEFI HTTP Boot.
    pub fn is_http(self) -> bool {
        matches!(self.0, 15..=19 | 26 | 28 | 38 | 40)
    }
}

impl From<u16> for Arch {
    fn from(code: u16) -> Self {
        Self(code)
    }
}

impl fmt::Display for Arch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(platform) = self.platform() else { return write!(f, "unknown architecture {}", self.0) };
        let by_http = if self.is_http() { " (HTTP Boot)" } else { "" };
        write!(f, "{platform}{by_http}, architecture {}", self.0)
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::BiosX86 => "BIOS x86",
            Self::EfiIa32 => "UEFI IA32",
            Self::EfiX86_64 => "UEFI x86-64",
            Self::EfiArm32 => "UEFI ARM32",
            Self::EfiArm64 => "UEFI ARM64",
            Self::EfiRiscV32 => "UEFI RISC-V 32",
            Self::EfiRiscV64 => "UEFI RISC-V 64",
            Self::EfiLoongArch32 => "UEFI LoongArch 32",
            Self::EfiLoongArch64 => "UEFI LoongArch 64",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_codes_of_a_platform_need_the_same_program() {
        let check = |codes: &[u16], platform| {
            for code in codes {
                assert_eq!(Arch::from(*code).platform(), Some(platform), "{code}");
            }
        };
        check(&[0], Platform::BiosX86);
        check(&[7, 9, 16], Platform::EfiX86_64);
        check(&[11, 19], Platform::EfiArm64);
        check(&[27, 28], Platform::EfiRiscV64);
        check(&[39, 40], Platform::EfiLoongArch64);
    }

    #[test]
    fn codes_are_named_and_keep_their_number() {
        let check = |code: u16, expected| assert_eq!(Arch::from(code).to_string(), expected);
        check(9, "UEFI x86-64, architecture 9");
        check(16, "UEFI x86-64 (HTTP Boot), architecture 16");
        check(41, "unknown architecture 41");
        assert_eq!(Arch::from(41).platform(), None);
    }
}
