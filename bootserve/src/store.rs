//! The image store as a boot server sees it: which version a name means, what is in it, and its files.
//!
//! Nothing is cached. A version never changes, but `current` does, and versions come and go while we run. All of this waits for
//! the disk: handlers call it by `http::on_disk`.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use bootspec::manifest::{Manifest, ManifestError};
use bootspec::store::{MANIFEST, MANIFEST_SIGNATURE, current_link};
use bootspec::{ImageName, ImageRef, ImageVersion};

use crate::config::ImageSelector;

/// The image cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// There is no such image, or no version of it is published.
    #[error("image {name} has no current version in {}\nhint: imagebuild build {name}", store.display())]
    NoCurrent {
        /// The image.
        name: ImageName,
        /// Where it was looked for.
        store: PathBuf,
        /// Why the link cannot be read.
        #[source]
        source: io::Error,
    },
    /// `current` does not point to a version beside it.
    #[error("{} points to {target:?}, expected the name of a version beside it", link.display())]
    OddCurrent {
        /// The link.
        link: PathBuf,
        /// Where it points to.
        target: PathBuf,
    },
    /// There is no such version.
    #[error("image {0} is not in the store")]
    NoVersion(ImageRef),
    /// The image is not signed.
    #[error("image {0} is not signed")]
    NoSignature(ImageRef),
    /// The manifest or its signature cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The manifest is of no use.
    #[error("cannot use {}", path.display())]
    Manifest {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: ManifestError,
    },
    /// The version is a copy of another.
    #[error("{} is of image {found}\nhint: versions are not copied or renamed; imagebuild makes new ones", path.display())]
    OtherImage {
        /// The file.
        path: PathBuf,
        /// The image that it describes.
        found: ImageRef,
    },
}

impl StoreError {
    /// Whether the image, the version or the signature does not exist, as opposed to being damaged.
    pub fn is_not_found(&self) -> bool {
        match self {
            Self::NoVersion(_) | Self::NoSignature(_) => true,
            Self::NoCurrent { source, .. } => source.kind() == io::ErrorKind::NotFound,
            _ => false,
        }
    }
}

/// The version that `selector` means now.
pub fn resolve(store: &Path, selector: &ImageSelector) -> Result<ImageRef, StoreError> {
    let name = match selector {
        ImageSelector::Version(image) => return Ok(image.clone()),
        ImageSelector::Current(name) => name,
    };
    let link = current_link(store, name);
    let target = fs::read_link(&link).map_err(|source| StoreError::NoCurrent {
        name: name.clone(),
        store: store.to_owned(),
        source,
    })?;
    let version = target.to_str().and_then(|text| text.parse::<ImageVersion>().ok());
    match version {
        Some(version) => Ok(ImageRef { name: name.clone(), version }),
        None => Err(StoreError::OddCurrent { link, target }),
    }
}

/// Reads the manifest of the version that `selector` means at this moment.
pub fn selected_manifest(store: &Path, selector: &ImageSelector) -> Result<Manifest, StoreError> {
    read_manifest(store, &resolve(store, selector)?)
}

/// What is in this version.
pub fn read_manifest(store: &Path, image: &ImageRef) -> Result<Manifest, StoreError> {
    let json = read_manifest_json(store, image)?;
    let path = || image.dir(store).join(MANIFEST);
    let manifest = Manifest::parse(&json).map_err(|source| StoreError::Manifest { path: path(), source })?;
    match manifest.image == *image {
        true => Ok(manifest),
        false => Err(StoreError::OtherImage { path: path(), found: manifest.image }),
    }
}

/// The manifest of this version as it was published, byte by byte: a signature may depend on them.
pub fn read_manifest_json(store: &Path, image: &ImageRef) -> Result<Vec<u8>, StoreError> {
    let path = image.dir(store).join(MANIFEST);
    read(&path).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => StoreError::NoVersion(image.clone()),
        _ => StoreError::Read { path, source },
    })
}

/// The signature of the manifest, in minisign's format.
pub fn read_signature(store: &Path, image: &ImageRef) -> Result<Vec<u8>, StoreError> {
    let path = image.dir(store).join(MANIFEST_SIGNATURE);
    read(&path).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => StoreError::NoSignature(image.clone()),
        _ => StoreError::Read { path, source },
    })
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut contents = Vec::new();
    open_regular(path)?.read_to_end(&mut contents)?;
    Ok(contents)
}

/// Opens a file of the store. Published versions hold regular files alone, and whatever else has come there leads out of the
/// store or blocks.
pub fn open_regular(path: &Path) -> io::Result<File> {
    if !fs::symlink_metadata(path)?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    File::open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn current_is_followed_and_checked() {
        let dir = tempfile::tempdir().unwrap();
        let store = dir.path();
        let selector: ImageSelector = "failsafe".parse().unwrap();
        let missing = resolve(store, &selector).unwrap_err();
        assert!(missing.is_not_found() && missing.to_string().contains("hint: imagebuild build failsafe"));

        std::fs::create_dir(store.join("failsafe")).unwrap();
        std::os::unix::fs::symlink("v1", store.join("failsafe/current")).unwrap();
        assert_eq!(resolve(store, &selector).unwrap().to_string(), "failsafe/v1");

        std::fs::remove_file(store.join("failsafe/current")).unwrap();
        std::os::unix::fs::symlink("../../etc", store.join("failsafe/current")).unwrap();
        let odd = resolve(store, &selector).unwrap_err();
        assert!(odd.to_string().contains("../../etc"), "{odd}");
    }

    #[test]
    fn a_missing_version_and_a_damaged_manifest_are_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let image: ImageRef = "failsafe/v1".parse().unwrap();
        assert!(read_manifest(dir.path(), &image).unwrap_err().is_not_found());
        std::fs::create_dir_all(image.dir(dir.path())).unwrap();
        std::fs::write(image.dir(dir.path()).join(MANIFEST), "{").unwrap();
        let error = read_manifest(dir.path(), &image).unwrap_err();
        assert!(!error.is_not_found() && error.to_string().contains("failsafe/v1/manifest.json"), "{error}");
    }
}
