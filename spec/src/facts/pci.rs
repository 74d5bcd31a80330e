//! Numbers of PCI devices, in the spelling of lspci(8).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Vendor and device: `8086:10d3`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PciId {
    /// Who made it, by the number that the PCI-SIG gave them.
    pub vendor: u16,
    /// Which of their devices it is.
    pub device: u16,
}

/// Class and subclass of a device: `0300` is a VGA controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PciClass(u16);

/// The text is not a number of that kind.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{text}' is not {expected}")]
pub struct ParsePciError {
    text: String,
    expected: &'static str,
}

impl PciClass {
    /// From the class register without its programming interface: base class and subclass.
    pub const fn new(class: u16) -> Self {
        Self(class)
    }

    /// What devices of this kind have in common: 3 for displays, 2 for networks.
    pub const fn base(self) -> u8 {
        self.0.to_be_bytes()[0]
    }
}

fn four_digits(text: &str) -> Option<u16> {
    let mut bytes = [0; 2];
    hex::decode_to_slice(text, &mut bytes).ok()?;
    Some(u16::from_be_bytes(bytes))
}

impl FromStr for PciId {
    type Err = ParsePciError;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let parse = || {
            let (vendor, device) = s.split_once(':')?;
            Some(Self { vendor: four_digits(vendor)?, device: four_digits(device)? })
        };
        let expected = "a PCI id such as 8086:10d3";
        parse().ok_or_else(|| ParsePciError { text: s.to_owned(), expected })
    }
}

impl FromStr for PciClass {
    type Err = ParsePciError;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let expected = "a PCI class such as 0300";
        four_digits(s).map(Self).ok_or_else(|| ParsePciError { text: s.to_owned(), expected })
    }
}

impl fmt::Display for PciId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04x}:{:04x}", self.vendor, self.device)
    }
}

impl fmt::Display for PciClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04x}", self.0)
    }
}

macro_rules! as_text {
    ($name:ident) => {
        impl TryFrom<String> for $name {
            type Error = ParsePciError;

            fn try_from(s: String) -> Result<Self, Self::Error> {
                s.parse()
            }
        }

        impl From<$name> for String {
            fn from(number: $name) -> Self {
                number.to_string()
            }
        }
    };
}

as_text!(PciId);
as_text!(PciClass);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn numbers_are_four_digits() {
        assert_eq!("8086:10D3".parse(), Ok(PciId { vendor: 0x8086, device: 0x10d3 }));
        assert_eq!("0302".parse::<PciClass>().map(PciClass::base), Ok(3));
        for bad in ["", "8086", "8086:", "8086:10d", "8086:10d3:", "+086:10d3", "0x8086:0x10d3"] {
            assert!(bad.parse::<PciId>().is_err(), "{bad}");
            assert!(bad.is_empty() || bad.len() == 4 || bad.parse::<PciClass>().is_err(), "{bad}");
        }
        let error = "3".parse::<PciClass>().unwrap_err();
        assert_eq!(error.to_string(), "'3' is not a PCI class such as 0300");
    }

    proptest! {
        #[test]
        fn display_round_trips(vendor: u16, device: u16) {
            let id = PciId { vendor, device };
            prop_assert_eq!(id.to_string().parse(), Ok(id));
            let class = PciClass::new(device);
            prop_assert_eq!(class.to_string().parse(), Ok(class));
        }
    }
}
