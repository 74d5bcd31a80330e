//! The lock file: TOML, whose text depends on nothing but the lock, so that it can be kept beside the recipe under version
//! control.

use std::fs::{self, File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use bootspec::Sha256Digest;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{Lock, LockError, Pinned, Selection};
use crate::file_error::failed;

/// Version of the format.
const FORMAT: u32 = 1;
const EXTENSION: &str = "lock";
const HEAD: &str = "# The packages of an image, pinned. Made by `imagebuild lock`; `imagebuild build --locked` installs these alone.\n";
/// What curl and the hosts of packages have in common.
const SCHEMES: [&str; 4] = ["http://", "https://", "ftp://", "file:///"];

/// A text is no lock file.
#[derive(Debug, thiserror::Error)]
pub enum ParseLockError {
    /// It is no TOML, or has other keys.
    #[error("it is no lock file\nhint: `imagebuild lock` makes it anew, once this one is out of the way")]
    Toml(#[source] toml::de::Error),
    /// It is of another time.
    #[error("it has format {found}, and this imagebuild reads format {FORMAT}")]
    Format {
        /// The number in the file.
        found: u32,
    },
    /// A value cannot be right.
    #[error("the package '{name}': {problem}")]
    Package {
        /// Its name.
        name: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// A package is pinned twice, or packages are not in order.
    #[error("the package '{name}' is not in its place: packages are sorted and each is there once")]
    Order {
        /// Its name.
        name: String,
    },
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wire {
    format: u32,
    selection: Selection,
    #[serde(default, rename = "package")]
    packages: Vec<Pinned>,
}

impl Lock {
    /// The lock file at `path`, if there is one.
    pub fn read(path: &Path) -> Result<Option<Self>, LockError> {
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed("read", path)(error).into()),
        };
        let lock = Self::parse(&text);
        lock.map(Some).map_err(|source| LockError::Parse { path: path.to_owned(), source })
    }

    /// The lock that `text` is.
    pub fn parse(text: &str) -> Result<Self, ParseLockError> {
        #[derive(Deserialize)]
        struct Head {
            format: u32,
        }
        let head: Head = toml::from_str(text).map_err(ParseLockError::Toml)?;
        if head.format != FORMAT {
            return Err(ParseLockError::Format { found: head.format });
        }
        let Wire { selection, packages, .. } = toml::from_str(text).map_err(ParseLockError::Toml)?;
        for package in &packages {
            check(package)
                .map_err(|problem| ParseLockError::Package { name: package.name.clone(), problem })?;
        }
        match packages.windows(2).find(|pair| key(&pair[0]) >= key(&pair[1])) {
            Some(pair) => Err(ParseLockError::Order { name: pair[1].name.clone() }),
            None => Ok(Self { selection, packages }),
        }
    }

    /// The text of the lock file.
    pub fn to_toml(&self) -> String {
        let wire =
            Wire { format: FORMAT, selection: self.selection.clone(), packages: self.packages.clone() };
        format!("{HEAD}{}", toml::to_string(&wire).expect("texts, numbers and lists of them are TOML"))
    }

    /// Digest of all that it says.
    pub fn digest(&self) -> Sha256Digest {
        Sha256Digest::new(Sha256::digest(self.to_toml()).into())
    }

    /// Puts the lock file at `path`, all of it or nothing.
    pub fn write(&self, path: &Path) -> Result<(), LockError> {
        let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let write = || {
            let mut file = tempfile::Builder::new()
                .prefix(".lock-")
                .permissions(Permissions::from_mode(0o644))
                .tempfile_in(dir)?;
            file.write_all(self.to_toml().as_bytes())?;
            file.as_file().sync_all()?;
            file.persist(path)?;
            File::open(dir)?.sync_all()
        };
        Ok(write().map_err(failed("write", path))?)
    }
}

/// Where the lock of the recipe at `recipe` is: `recipe.lock` beside `recipe.toml`; of variants, `recipe.VARIANT.lock`.
pub fn default_path(recipe: &Path, variants: &[String]) -> PathBuf {
    let extension: Vec<_> = variants.iter().map(String::as_str).chain([EXTENSION]).collect();
    recipe.with_extension(extension.join("."))
}

/// What packages are sorted by, and what no two of them share.
pub fn key(package: &Pinned) -> (&str, &str, &str) {
    (&package.name, &package.version, &package.architecture)
}

/// Names, versions and architectures become names of files and words of package managers.
pub fn check(package: &Pinned) -> Result<(), &'static str> {
    let words = [&package.name, &package.version, &package.architecture];
    if !words.iter().all(|word| is_word(word)) {
        return Err(
            "expected name, version and architecture of letters, digits, '.', '_', '+', '-', '~', '^' and ':', that begin with a letter or digit",
        );
    }
    let url = &package.url;
    let plain = url.chars().all(|c| c.is_ascii_graphic());
    if !plain || !SCHEMES.iter().any(|scheme| url.starts_with(scheme)) {
        return Err("expected a URL of http, https, ftp or file");
    }
    match &package.priority {
        Some(priority) if !is_word(priority) => Err("expected a priority of letters"),
        _ => Ok(()),
    }
}

fn is_word(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "._+-~^:".contains(c))
}
