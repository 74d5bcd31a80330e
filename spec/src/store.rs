//! Names and paths inside the image store, the directory that imagebuild publishes to and bootserve serves from.
//!
//! ```text
//! STORE/<image>/<version>/manifest.json, manifest.json.minisig, vmlinuz, initramfs*.img, rootfs.*    immutable once published
//! STORE/<image>/current -> <version>                                              replaced by one rename
//! ```
//! Who needs a version for a while holds a shared lock (flock(2)) on its directory, which needs no right to write. Who
//! removes one takes an exclusive lock first, without waiting.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::manifest::BootMode;

/// File name of an image's description.
pub const MANIFEST: &str = "manifest.json";
/// What the name of a file's signature (in minisign's format) has behind the name of the file.
pub const SIGNATURE_SUFFIX: &str = ".minisig";
/// A larger file is no manifest: package lists make them long, and a thousand packages are about 100 KB.
pub const MAX_MANIFEST_BYTES: u64 = 16 << 20;
/// A larger file is no signature: those of minisign have some 300 bytes.
pub const MAX_SIGNATURE_BYTES: u64 = 4096;
/// File name of the signature of [`MANIFEST`], if the image is signed.
pub const MANIFEST_SIGNATURE: &str = "manifest.json.minisig";
/// File name of the kernel.
pub const VMLINUZ: &str = "vmlinuz";
/// File name of the initramfs that is all a machine needs: init's segment followed by the root's segment.
pub const INITRAMFS: &str = "initramfs.img";
/// File name of the initramfs of init and drivers, which fetches the rest.
pub const INITRAMFS_FETCHED: &str = "initramfs-fetched.img";
/// Name of the symbolic link to the version that nodes boot by default.
pub const CURRENT: &str = "current";
/// Where nodes find images on a boot server, below its base URL.
pub const HTTP_PREFIX: &str = "/images";

/// File name of the initramfs for a mode.
pub const fn initramfs_of(mode: BootMode) -> &'static str {
    match mode {
        BootMode::Carried | BootMode::Failsafe | BootMode::Discover => INITRAMFS,
        BootMode::Fetched => INITRAMFS_FETCHED,
    }
}

/// The name is not fit for a path component.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "'{text}' is not {what}: expected 1 to {MAX_NAME_BYTES} letters, digits, '.', '_', '+' or '-', the first a letter or digit{}",
    if text == CURRENT { " (and 'current' is reserved)" } else { "" }
)]
pub struct NameError {
    what: &'static str,
    text: String,
}

const MAX_NAME_BYTES: usize = 100;

/// Names become path components and URL segments, so they are limited to characters that need no escaping in
/// either, and can never be `.`, `..`, hidden or an option.
fn check_name(what: &'static str, text: &str) -> Result<String, NameError> {
    let starts_well = text.starts_with(|c: char| c.is_ascii_alphanumeric());
    let ok = starts_well
        && text.len() <= MAX_NAME_BYTES
        && text != CURRENT
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._+-".contains(&b));
    ok.then(|| text.to_owned()).ok_or_else(|| NameError { what, text: text.to_owned() })
}

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The name as text, safe as a path component and in a URL.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = NameError;

            fn from_str(s: &str) -> Result<Self, NameError> {
                check_name($what, s).map(Self)
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;

            fn try_from(s: String) -> Result<Self, NameError> {
                s.parse()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name_type! {
    /// The name of an image: `debian-12-compute`.
    ImageName, "an image name"
}
name_type! {
    /// A version of an image, by default its build time: `20261122T061457Z`. Versions sort by time as text.
    ImageVersion, "an image version"
}
name_type! {
    /// The name of a file among an image's artifacts: `vmlinuz`.
    ArtifactName, "an artifact name"
}
name_type! {
    /// The name of a node: `node-001`.
    NodeName, "a node name"
}

/// One version of one image, written `debian-12-compute/20261122T061457Z`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ImageRef {
    /// Which image.
    pub name: ImageName,
    /// Which version of it.
    pub version: ImageVersion,
}

/// The text is not `NAME/VERSION`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseImageRefError {
    /// There is no slash.
    #[error("'{0}' is not an image reference: expected NAME/VERSION")]
    Form(String),
    /// One of the two names is not usable.
    #[error(transparent)]
    Name(#[from] NameError),
}

impl FromStr for ImageRef {
    type Err = ParseImageRefError;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let (name, version) = s.split_once('/').ok_or_else(|| ParseImageRefError::Form(s.to_owned()))?;
        Ok(Self { name: name.parse()?, version: version.parse()? })
    }
}

impl TryFrom<String> for ImageRef {
    type Error = ParseImageRefError;

    fn try_from(s: String) -> Result<Self, Self::Error> {
        s.parse()
    }
}

impl From<ImageRef> for String {
    fn from(image: ImageRef) -> Self {
        image.to_string()
    }
}

impl fmt::Display for ImageRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.name, self.version)
    }
}

impl fmt::Debug for ImageRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl ImageRef {
    /// The directory of this version below `store`.
    pub fn dir(&self, store: &Path) -> PathBuf {
        image_dir(store, &self.name).join(self.version.as_str())
    }

    /// The path of `artifact` on a boot server: `/images/NAME/VERSION/vmlinuz`.
    pub fn url_path(&self, artifact: &str) -> String {
        format!("{HTTP_PREFIX}/{self}/{artifact}")
    }
}

/// The directory that holds all versions of an image.
pub fn image_dir(store: &Path, name: &ImageName) -> PathBuf {
    store.join(name.as_str())
}

/// The link that names the version nodes boot by default. Its target is the bare version name.
pub fn current_link(store: &Path, name: &ImageName) -> PathBuf {
    image_dir(store, name).join(CURRENT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_that_could_leave_the_store_are_rejected() {
        for text in ["", ".", "..", "a/b", "../etc", ".hidden", "-rf", "a b", "a\0b", "current", "ä"] {
            assert!(text.parse::<ImageName>().is_err(), "{text:?}");
        }
        assert!("x".repeat(101).parse::<ImageName>().is_err());
    }

    #[test]
    fn image_reference_round_trips_and_gives_paths() {
        let image: ImageRef = "debian-12-compute/20261122T061457Z".parse().unwrap();
        assert_eq!(image.to_string().parse(), Ok(image.clone()));
        assert_eq!(
            image.dir(Path::new("/srv/store")),
            Path::new("/srv/store/debian-12-compute/20261122T061457Z")
        );
        assert_eq!(image.url_path(VMLINUZ), "/images/debian-12-compute/20261122T061457Z/vmlinuz");
    }

    #[test]
    fn reference_without_version_says_what_was_expected() {
        let error = "debian-12-compute".parse::<ImageRef>().unwrap_err();
        assert!(error.to_string().contains("NAME/VERSION"), "{error}");
    }

    proptest! {
        #[test]
        fn accepted_names_are_single_normal_path_components(text in "\\PC{0,12}") {
            if let Ok(name) = text.parse::<ImageName>() {
                let components: Vec<_> = Path::new(name.as_str()).components().collect();
                prop_assert_eq!(components.len(), 1);
                prop_assert!(matches!(components[0], std::path::Component::Normal(_)));
            }
        }
    }
}
