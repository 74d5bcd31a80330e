//! Short texts of firmware and hardware.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The most that a [`Text`] holds.
pub const MAX_TEXT_BYTES: usize = 128;

/// What firmware or the kernel calls something: one line of at most [`MAX_TEXT_BYTES`], not empty, without control characters
/// and without more than one space at a time.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct Text(String);

/// It is not as [`Text::clean`] would have made it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "expected 1 to {MAX_TEXT_BYTES} bytes of text on one line, without control characters and superfluous space"
)]
pub struct ParseTextError;

impl Text {
    /// Makes the best of what hardware says. None if nothing is left.
    pub fn clean(raw: &str) -> Option<Self> {
        let mut text = String::new();
        let mut space = false;
        for sign in raw.chars() {
            if sign.is_whitespace() || sign.is_control() {
                space = !text.is_empty();
                continue;
            }
            if text.len() + usize::from(space) + sign.len_utf8() > MAX_TEXT_BYTES {
                break;
            }
            if std::mem::take(&mut space) {
                text.push(' ');
            }
            text.push(sign);
        }
        (!text.is_empty()).then_some(Self(text))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Text {
    type Err = ParseTextError;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        Self::clean(s).filter(|text| text.0 == s).ok_or(ParseTextError)
    }
}

impl TryFrom<String> for Text {
    type Error = ParseTextError;

    fn try_from(s: String) -> Result<Self, Self::Error> {
        s.parse()
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(raw: &str, expected: Option<&str>) {
        assert_eq!(Text::clean(raw).as_ref().map(Text::as_str), expected, "{raw:?}");
    }

    #[test]
    fn what_firmware_pads_is_trimmed() {
        check("  Intel(R) Xeon(R) CPU           E5-2670\0\0\n", Some("Intel(R) Xeon(R) CPU E5-2670"));
        check("a\x1b[31mb", Some("a [31mb"));
        check(" \n\0", None);
        check("", None);
    }

    #[test]
    fn long_texts_are_cut_between_characters_and_refused_from_others() {
        check(&"ä".repeat(100), Some(&"ä".repeat(64)));
        check(&format!("{} x", "a".repeat(127)), Some(&"a".repeat(127)));
        for bad in ["", " a", "a  b", "a\nb", "\u{7f}", &"a".repeat(129)] {
            assert_eq!(bad.parse::<Text>(), Err(ParseTextError), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn what_was_cleaned_is_accepted(raw: String) {
            if let Some(text) = Text::clean(&raw) {
                prop_assert!(text.as_str().len() <= MAX_TEXT_BYTES);
                prop_assert_eq!(text.as_str().parse(), Ok(text.clone()));
            }
        }
    }
}
