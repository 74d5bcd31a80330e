//! Ethernet addresses in every spelling that admins and firmware use.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A 48-bit Ethernet address. Printed in lower case with colons.
///
/// Parsed from `fc:ab:14:e8:66:01`, `fc-ab-14-e8-66-01` (iPXE's `hexhyp`), `fcab.14e8.6601` (Cisco) and
/// `fcab14e86601`, in any case.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MacAddr([u8; 6]);

/// The text is not an Ethernet address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a MAC address: expected six octets such as fc:ab:14:e8:66:01")]
pub struct ParseMacError(String);

impl MacAddr {
    /// An address from its six octets.
    pub const fn new(octets: [u8; 6]) -> Self {
        Self(octets)
    }

    /// The six octets.
    pub const fn octets(&self) -> [u8; 6] {
        self.0
    }

    /// The form that iPXE prints for `${netX/mac:hexhyp}` and that is safe in a file name: `fc-ab-14-e8-66-01`.
    pub fn hyphenated(&self) -> String {
        self.to_string().replace(':', "-")
    }
}

impl FromStr for MacAddr {
    type Err = ParseMacError;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let error = || ParseMacError(s.to_owned());
        let digits = match s.len() {
            17 => groups(s, &[':', '-'], 2),
            14 => groups(s, &['.'], 4),
            12 => Some(s.to_owned()),
            _ => None,
        };
        let mut octets = [0; 6];
        hex::decode_to_slice(digits.ok_or_else(error)?, &mut octets).map_err(|_| error())?;
        Ok(Self(octets))
    }
}

/// The digits of `s` if it is groups of `width` bytes joined by one and the same of the `separators`.
fn groups(s: &str, separators: &[char], width: usize) -> Option<String> {
    let separator = s.chars().find(|c| !c.is_ascii_hexdigit())?;
    let parts: Vec<&str> = s.split(separator).collect();
    (separators.contains(&separator) && parts.iter().all(|part| part.len() == width)).then(|| parts.concat())
}

impl TryFrom<String> for MacAddr {
    type Error = ParseMacError;

    fn try_from(s: String) -> Result<Self, Self::Error> {
        s.parse()
    }
}

impl From<MacAddr> for String {
    fn from(mac: MacAddr) -> Self {
        mac.to_string()
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NODE_000: MacAddr = MacAddr::new([0xfc, 0xab, 0x14, 0xe8, 0x66, 0x01]);

    #[test]
    fn every_spelling_gives_the_same_address() {
        for text in ["fc:ab:14:e8:66:01", "FC-AB-14-E8-66-01", "fcab.14e8.6601", "fcab14e86601"] {
            assert_eq!(text.parse(), Ok(NODE_000), "{text}");
        }
    }

    #[test]
    fn malformed_addresses_are_rejected() {
        for text in [
            "",
            "fc:ab:14:e8:66",
            "fc:ab:14:e8:66:0g",
            "fc:ab-14:e8:66:01",
            "fcab:14e8:6601",
            "+c:ab:14:e8:66:01",
        ] {
            assert!(text.parse::<MacAddr>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn display_round_trips(octets: [u8; 6]) {
            let mac = MacAddr::new(octets);
            prop_assert_eq!(mac.to_string().parse(), Ok(mac));
            prop_assert_eq!(mac.hyphenated().parse(), Ok(mac));
        }

        #[test]
        fn any_text_is_parsed_or_rejected_without_panic(text in "\\PC{0,20}") {
            let _ = text.parse::<MacAddr>();
        }
    }
}
