//! `overlay.toml` at the top of an overlay: owners and modes of its files, where they are others than those of the tree.
//!
//! ```toml
//! [files."/etc/munge/munge.key"]
//! mode = "0400"
//! uid = 998
//! gid = 998
//! ```

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer};

/// Its name.
pub const FILE_NAME: &str = "overlay.toml";
/// A larger one is none.
pub const MAX_BYTES: u64 = 1 << 20;

/// What is said of files, by their path below the root, without a slash at its beginning.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attributes(pub BTreeMap<String, Attribute>);

/// What is said of a file, a directory or a symbolic link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attribute {
    /// Permission bits.
    #[serde(default, deserialize_with = "octal")]
    pub mode: Option<u32>,
    /// Number of the user.
    pub uid: Option<u32>,
    /// Number of the group.
    pub gid: Option<u32>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    files: BTreeMap<String, Attribute>,
}

/// The text is no `overlay.toml`.
#[derive(Debug, thiserror::Error)]
pub enum AttributesError {
    /// Not TOML, an unknown key, or a malformed value; the message has line and column.
    #[error("{0}")]
    Toml(#[from] toml::de::Error),
    /// A path that leads out of the overlay or is written in a roundabout way.
    #[error(
        "files.\"{0}\" is no path of a file on the node: expected one as \"/etc/hosts\", without '.' and '..'"
    )]
    Path(String),
    /// Two entries are of one file.
    #[error("there are two entries of /{0}")]
    Twice(String),
}

impl Attributes {
    /// Reads the text of an `overlay.toml`.
    pub fn parse(text: &str) -> Result<Self, AttributesError> {
        let File { files } = toml::from_str(text)?;
        let mut attributes = BTreeMap::new();
        for (path, attribute) in files {
            let plain = plain_path(&path).ok_or_else(|| AttributesError::Path(path.clone()))?;
            if attributes.insert(plain.to_owned(), attribute).is_some() {
                return Err(AttributesError::Twice(plain.to_owned()));
            }
        }
        Ok(Self(attributes))
    }
}

/// A path on the node as paths of overlays are: `etc/hosts` for `/etc/hosts` and `etc/hosts`.
pub fn plain_path(path: &str) -> Option<&str> {
    let plain = path.strip_prefix('/').unwrap_or(path);
    let is_plain = |part: &str| !matches!(part, "" | "." | "..") && !part.contains('\0');
    plain.split('/').all(is_plain).then_some(plain)
}

/// A mode as chmod(1) takes it. Numbers of TOML are decimal, and 644 would be another mode.
fn octal<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
    let text = String::deserialize(deserializer)?;
    let is_octal = (3..=5).contains(&text.len()) && text.bytes().all(|byte| matches!(byte, b'0'..=b'7'));
    let mode = u32::from_str_radix(&text, 8).ok().filter(|mode| is_octal && *mode <= 0o7777);
    let error =
        || serde::de::Error::custom(format!("'{text}' is not a mode: expected octal digits as \"0644\""));
    mode.map(Some).ok_or_else(error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn entries_say_mode_and_owner_by_path() {
        let text = "[files.\"/etc/munge/munge.key\"]\nmode = \"0400\"\nuid = 998\ngid = 997\n[files.'etc']\ngid = 5\n";
        let Attributes(found) = Attributes::parse(text).unwrap();
        let key = Attribute { mode: Some(0o400), uid: Some(998), gid: Some(997) };
        assert_eq!(found["etc/munge/munge.key"], key);
        assert_eq!(found["etc"], Attribute { gid: Some(5), ..Attribute::default() });
        assert_eq!(Attributes::parse("").unwrap(), Attributes::default());
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line_or_path() {
        let check = |text: &str, expected: &[&str]| {
            let error = Attributes::parse(text).unwrap_err().to_string();
            expected.iter().for_each(|part| assert!(error.contains(part), "{part:?} in {error}"));
        };
        check("[files.'/a']\nmod = '0644'\n", &["line 2", "mod", "unknown field"]);
        check("[file.'/a']\n", &["line 1", "unknown field `file`"]);
        check("[files.'/a']\nmode = 644\n", &["line 2", "integer `644`", "string"]);
        check("[files.'/a']\nmode = '0888'\n", &["line 2", "'0888' is not a mode", "octal"]);
        check("[files.'/a']\nmode = '17777'\n", &["'17777' is not a mode"]);
        check("[files.'/a']\nuid = -1\n", &["line 2", "-1"]);
        check("[files.'/etc/../shadow']\n", &["\"/etc/../shadow\" is no path"]);
        check("[files.'//etc']\n", &["is no path"]);
        check("[files.'/']\n", &["is no path"]);
        check("[files.'/a']\n[files.'a']\n", &["two entries of /a"]);
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "\\PC{0,60}|(\\[files\\.'[a-z/.]{0,9}'\\]\n(mode|uid|gid) = ('[0-9]{0,6}'|-?[0-9]{1,12})\n){0,3}") {
            if let Ok(Attributes(found)) = Attributes::parse(&text) {
                for (path, attribute) in found {
                    prop_assert!(!path.starts_with('/') && !path.split('/').any(|part| matches!(part, "" | "." | "..")));
                    prop_assert!(attribute.mode.is_none_or(|mode| mode <= 0o7777));
                }
            }
        }
    }
}
