//! What a machine's firmware says it is: DHCP option 93, client system architecture (RFC 4578 section 2.1 and IANA's
//! registry "processor architecture types").

use std::fmt;

/// An architecture type of option 93.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Arch {
    /// 0: BIOS on x86.
    BiosX86,
    /// 6: UEFI on IA32.
    EfiIa32,
    /// 7 and 9: UEFI on x86-64. RFC 4578 and the registry name them the other way round; firmware sends either.
    EfiX86_64,
    /// 10: UEFI on 32-bit ARM.
    EfiArm32,
    /// 11: UEFI on 64-bit ARM.
    EfiArm64,
    /// 15: UEFI HTTP Boot on IA32.
    HttpIa32,
    /// 16: UEFI HTTP Boot on x86-64.
    HttpX86_64,
    /// 18: UEFI HTTP Boot on 32-bit ARM.
    HttpArm32,
    /// 19: UEFI HTTP Boot on 64-bit ARM.
    HttpArm64,
    /// Any other number; no network boot program is known for it.
    Unknown(u16),
}

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
}

impl Arch {
    /// What runs on it, if we know.
    pub fn platform(self) -> Option<Platform> {
        match self {
            Self::BiosX86 => Some(Platform::BiosX86),
            Self::EfiIa32 | Self::HttpIa32 => Some(Platform::EfiIa32),
            Self::EfiX86_64 | Self::HttpX86_64 => Some(Platform::EfiX86_64),
            Self::EfiArm32 | Self::HttpArm32 => Some(Platform::EfiArm32),
            Self::EfiArm64 | Self::HttpArm64 => Some(Platform::EfiArm64),
            Self::Unknown(_) => None,
        }
    }
}

impl From<u16> for Arch {
    fn from(code: u16) -> Self {
        match code {
            0 => Self::BiosX86,
            6 => Self::EfiIa32,
            7 | 9 => Self::EfiX86_64,
            10 => Self::EfiArm32,
            11 => Self::EfiArm64,
            15 => Self::HttpIa32,
            16 => Self::HttpX86_64,
            18 => Self::HttpArm32,
            19 => Self::HttpArm64,
            other => Self::Unknown(other),
        }
    }
}

impl fmt::Display for Arch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown(code) => write!(f, "unknown architecture {code}"),
            Self::HttpIa32 | Self::HttpX86_64 | Self::HttpArm32 | Self::HttpArm64 => {
                f.write_str("UEFI HTTP Boot")
            }
            Self::BiosX86 => f.write_str("BIOS x86"),
            Self::EfiIa32 => f.write_str("UEFI IA32"),
            Self::EfiX86_64 => f.write_str("UEFI x86-64"),
            Self::EfiArm32 => f.write_str("UEFI ARM32"),
            Self::EfiArm64 => f.write_str("UEFI ARM64"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_codes_of_x86_64_need_the_same_program() {
        assert_eq!(Arch::from(7).platform(), Some(Platform::EfiX86_64));
        assert_eq!(Arch::from(9).platform(), Some(Platform::EfiX86_64));
        assert_eq!(Arch::from(16).platform(), Some(Platform::EfiX86_64));
        assert_eq!(Arch::from(0).platform(), Some(Platform::BiosX86));
    }

    #[test]
    fn unknown_codes_keep_their_number() {
        assert_eq!(Arch::from(41), Arch::Unknown(41));
        assert_eq!(Arch::from(41).platform(), None);
        assert_eq!(Arch::from(41).to_string(), "unknown architecture 41");
    }
}
