//! Package files: how they are called, and where those that were installed came from.

use std::fmt;
use std::path::{Path, PathBuf};

use bootspec::Sha256Digest;
use bootspec::manifest::Package;

use super::SourceError;
use crate::lock::Pinned;
use crate::recipe::{PackageSource, Source};

/// A kind of package. Printed, it is the ending of a package's file, and the type of its purl.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PackageFormat {
    /// Debian's.
    Deb,
    /// RPM.
    Rpm,
}

impl fmt::Display for PackageFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Deb => "deb",
            Self::Rpm => "rpm",
        })
    }
}

impl PackageFormat {
    /// What the package manager calls the file of `package`: apt by this name finds it downloaded.
    pub fn file_name(self, package: &Pinned) -> String {
        let Pinned { name, version, architecture, .. } = package;
        match self {
            Self::Deb => {
                let quoted = version.replace('_', "%5f").replace(':', "%3a");
                format!("{name}_{quoted}_{architecture}.deb")
            }
            Self::Rpm => {
                let version = version.split_once(':').map_or(&**version, |(_epoch, rest)| rest);
                format!("{name}-{version}.{architecture}.rpm")
            }
        }
    }
}

impl Source {
    /// The kind of its packages, if they are from repositories.
    pub fn package_format(&self) -> Result<PackageFormat, SourceError> {
        Ok(match self {
            Self::Mmdebstrap(_) | Self::Busybox(PackageSource::Mmdebstrap(_)) => PackageFormat::Deb,
            Self::Dnf(_) | Self::Busybox(PackageSource::Dnf(_)) => PackageFormat::Rpm,
            Self::Existing(_) => return Err(SourceError::NotFromRepositories),
        })
    }
}

/// Package files to install from: exactly these.
#[derive(Clone, Copy, Debug)]
pub struct PackageFiles<'a> {
    /// Where they lie, under the names of [`PackageFormat::file_name`].
    pub dir: &'a Path,
    /// Which.
    pub packages: &'a [Pinned],
}

/// An installed package, and where it came from.
#[derive(Clone, Debug)]
pub struct Traced {
    /// The package.
    pub package: Package,
    /// Where its file is.
    pub url: String,
    /// A copy of the file on this machine.
    pub file: PathBuf,
    /// The digest that the repository's index gives, if it was said.
    pub sha256: Option<Sha256Digest>,
    /// What the repository's index says of its priority.
    pub priority: Option<String>,
}
