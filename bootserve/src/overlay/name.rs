//! Names of overlays.

use std::fmt;
use std::str::FromStr;

use super::documents::DIRECTORIES;

/// The name of an overlay, and of its directory in `server.overlays`: `slurm`. It is one component of a path, and is no name that
/// another thing has there.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OverlayName(String);

const MAX_NAME_BYTES: usize = 100;
/// What the names of whole overlays of nodes end with.
const SUFFIXES: [&str; 3] = [".tar", ".minisig", ".img"];

/// The text names no overlay.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "'{0}' is not the name of an overlay: expected 1 to {MAX_NAME_BYTES} letters, digits, '.', '_', '+' or '-', the first a letter or \
     digit, without .tar, .img or .minisig at the end; 'nocloud' and 'templates' are reserved"
)]
pub struct ParseOverlayNameError(String);

impl OverlayName {
    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for OverlayName {
    type Err = ParseOverlayNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let is_name = text.starts_with(|first: char| first.is_ascii_alphanumeric())
            && text.len() <= MAX_NAME_BYTES
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._+-".contains(&byte));
        let is_taken = DIRECTORIES.contains(&text) || SUFFIXES.iter().any(|suffix| text.ends_with(suffix));
        match is_name && !is_taken {
            true => Ok(Self(text.to_owned())),
            false => Err(ParseOverlayNameError(text.to_owned())),
        }
    }
}

impl fmt::Display for OverlayName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_name_is_one_component_of_a_path_and_nothing_else_that_lies_there() {
        for name in ["base", "slurm-24.05", "GPU_a100", "9"] {
            assert_eq!(name.parse::<OverlayName>().unwrap().to_string(), name);
        }
        let long = "x".repeat(101);
        for bad in [
            "",
            ".",
            "..",
            ".git",
            "a/b",
            "/a",
            "a b",
            "node.tar",
            "a.minisig",
            "a.img",
            "nocloud",
            "templates",
            &long,
        ] {
            assert!(bad.parse::<OverlayName>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_name_leads_elsewhere(text in "\\PC{0,8}|[a-z./]{0,8}") {
            if let Ok(name) = text.parse::<OverlayName>() {
                prop_assert_eq!(std::path::Path::new(name.as_str()).components().count(), 1);
                prop_assert!(!name.as_str().contains(['/', '\0']) && !name.as_str().starts_with('.'));
            }
        }
    }
}
