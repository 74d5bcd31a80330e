//! The packages of a published version as a software bill of materials, in the two formats that scanners read: CycloneDX and
//! SPDX. All of it is known from the manifest, but for the distribution, which the root itself names.

mod cyclonedx;
mod distribution;
mod spdx;

use bootspec::manifest::{Manifest, Package};
use bootspec::store::MANIFEST;
use bootspec::{ImageRef, Sha256Digest};
use packageurl::PackageUrl;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::file_error::failed;
use crate::source::PackageFormat;
use crate::store::{Store, StoreError};

pub use distribution::Distribution;

/// A format of the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// CycloneDX 1.6, JSON (ECMA-424, 1st edition).
    CycloneDx,
    /// SPDX 2.3, JSON (ISO/IEC 5962:2021 is 2.2.1).
    Spdx,
}

/// A bill of materials cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum SbomError {
    /// The version cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The time of the build is none.
    #[error(
        "the manifest of {image} says that it was built at {time_unix} seconds since 1970, which is no time"
    )]
    Time {
        /// The version.
        image: ImageRef,
        /// What the manifest says.
        time_unix: i64,
    },
}

/// What both formats are made of.
struct Sbom<'a> {
    manifest: &'a Manifest,
    /// Of the manifest, which it is the list for.
    digest: Sha256Digest,
    distribution: Option<Distribution>,
    /// When the image was built: `2026-11-26T21:06:38Z`.
    built: String,
}

/// The packages of `image` in `format`.
pub fn sbom(store: &Store, image: &ImageRef, format: Format) -> Result<Value, SbomError> {
    let _held = store.hold(image)?;
    let path = store.dir(image).join(MANIFEST);
    let json = std::fs::read(&path).map_err(failed("read", &path)).map_err(StoreError::from)?;
    let manifest = store.manifest(image)?;
    let time_unix = manifest.build.time_unix;
    let built = jiff::Timestamp::from_second(time_unix)
        .map_err(|_| SbomError::Time { image: image.clone(), time_unix })?;
    let sbom = Sbom {
        manifest: &manifest,
        digest: Sha256Digest::new(Sha256::digest(json).into()),
        distribution: distribution::of_root(&store.dir(image), &manifest).map_err(StoreError::from)?,
        built: built.to_string(),
    };
    Ok(match format {
        Format::CycloneDx => cyclonedx::document(&sbom),
        Format::Spdx => spdx::document(&sbom),
    })
}

impl Sbom<'_> {
    /// The package as a purl (<https://github.com/package-url/purl-spec>), by which scanners know it. Nothing if the
    /// distribution is not known.
    fn purl(&self, package: &Package) -> Option<String> {
        let Distribution { id, version, format } = self.distribution.as_ref()?;
        let mut version_of_package = package.version.as_str();
        let mut purl = PackageUrl::new(format.to_string(), &package.name).ok()?;
        purl.with_namespace(id).ok()?;
        // The type rpm has the epoch apart.
        if let (PackageFormat::Rpm, Some((epoch, rest))) = (format, version_of_package.split_once(':')) {
            version_of_package = rest;
            purl.add_qualifier("epoch", epoch.to_owned()).ok()?;
        }
        purl.with_version(version_of_package).ok()?;
        purl.add_qualifier("arch", package.architecture.clone()).ok()?;
        let distro = if version.is_empty() { id.clone() } else { format!("{id}-{version}") };
        purl.add_qualifier("distro", distro).ok()?;
        Some(purl.to_string())
    }
}

/// What tells a package from the others of the image.
fn key(package: &Package) -> String {
    format!("{}-{}.{}", package.name, package.version, package.architecture)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bootspec::manifest::{BootMode, Build, FORMAT, RootOrigin};
    use std::collections::BTreeMap;

    fn manifest(packages: &[(&str, &str, &str)]) -> Manifest {
        let package = |(name, version, architecture): &(&str, &str, &str)| Package {
            name: (*name).into(),
            version: (*version).into(),
            architecture: (*architecture).into(),
        };
        Manifest {
            format: FORMAT,
            image: ImageRef { name: "compute".parse().unwrap(), version: "1".parse().unwrap() },
            architecture: "x86_64".into(),
            kernel_release: "6.1".into(),
            mode: BootMode::Carried,
            kernel_args: vec![],
            artifacts: BTreeMap::new(),
            root: None,
            rollback_index: 0,
            packages: packages.iter().map(package).collect(),
            build: Build {
                inputs: Sha256Digest::new([0; 32]),
                tool: "imagebuild 1.2".into(),
                host: String::new(),
                time_unix: 0,
                root: RootOrigin::default(),
            },
        }
    }

    fn of(manifest: &Manifest, format: Option<PackageFormat>) -> Sbom<'_> {
        let distribution =
            format.map(|format| Distribution { id: "some".into(), version: "9.4".into(), format });
        let digest = Sha256Digest::new([7; 32]);
        Sbom { manifest, digest, distribution, built: "1970-01-01T00:00:00Z".into() }
    }

    #[test]
    fn packages_are_named_as_scanners_know_them() {
        let manifest = manifest(&[("libstdc++6", "1:2.0~b+c-1", "amd64")]);
        let purl = |format| of(&manifest, Some(format)).purl(&manifest.packages[0]).unwrap();
        assert_eq!(
            purl(PackageFormat::Deb),
            "pkg:deb/some/libstdc%2B%2B6@1:2.0~b%2Bc-1?arch=amd64&distro=some-9.4"
        );
        assert_eq!(
            purl(PackageFormat::Rpm),
            "pkg:rpm/some/libstdc%2B%2B6@2.0~b%2Bc-1?arch=amd64&distro=some-9.4&epoch=1"
        );
        assert_eq!(of(&manifest, None).purl(&manifest.packages[0]), None);
    }

    #[test]
    fn every_package_is_in_both_lists_once_and_under_its_own_id() {
        let manifest =
            manifest(&[("bash", "5.2", "amd64"), ("libc6", "2.36", "amd64"), ("libc6", "2.36", "i386")]);
        let sbom = of(&manifest, Some(PackageFormat::Deb));
        let ids = |list: &Value, key: &str| -> std::collections::BTreeSet<String> {
            list.as_array().unwrap().iter().map(|item| item[key].as_str().unwrap().to_owned()).collect()
        };
        let cyclonedx = cyclonedx::document(&sbom);
        assert_eq!(ids(&cyclonedx["components"], "bom-ref").len(), 3);
        assert_eq!(cyclonedx["components"][0]["name"], "bash");
        assert_eq!(cyclonedx["metadata"]["component"]["name"], "compute");
        let spdx = spdx::document(&sbom);
        // The image is a package as well.
        assert_eq!(ids(&spdx["packages"], "SPDXID").len(), 4);
        assert_eq!(spdx["relationships"].as_array().unwrap().len(), 4);
        assert_eq!(spdx["packages"][1]["versionInfo"], "5.2");
    }
}
