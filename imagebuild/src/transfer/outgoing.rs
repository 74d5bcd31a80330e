//! A version that leaves the store: held, and compared with its manifest while it is read.

use std::fs::{self, File};
use std::path::PathBuf;

use bootspec::ImageRef;
use bootspec::manifest::Manifest;
use bootspec::store::{ArtifactName, MANIFEST};

use super::TransferError;
use crate::contents::{Check, Checked};
use crate::file_error::failed;
use crate::store::{Store, StoreError};

/// A published version, kept from being removed.
pub struct Outgoing {
    /// Its name.
    pub image: ImageRef,
    /// What is in it.
    pub manifest: Manifest,
    /// The text of the manifest, as it was signed.
    pub json: String,
    /// The manifest's signature, if it has one.
    pub signature: Option<String>,
    dir: PathBuf,
    _held: File,
}

impl Outgoing {
    /// Holds `image` and reads its manifest.
    pub fn open(store: &Store, image: &ImageRef) -> Result<Self, TransferError> {
        let held = store.hold(image)?;
        let dir = store.dir(image);
        let path = dir.join(MANIFEST);
        let bytes = fs::read(&path).map_err(failed("read", &path))?;
        let manifest =
            Manifest::parse(&bytes).map_err(|source| StoreError::Manifest { path: path.clone(), source })?;
        let json = String::from_utf8(bytes).expect("JSON is UTF-8");
        let signature = store.signature(image)?;
        let outgoing = Self { image: image.clone(), manifest, json, signature, dir, _held: held };
        if outgoing.manifest.image != *image {
            let problem = format!("says that it is of {}", outgoing.manifest.image);
            return Err(outgoing.damaged(MANIFEST, problem));
        }
        Ok(outgoing)
    }

    /// Opens an artifact that the manifest lists, if it has the size that the manifest says.
    pub fn artifact<F: FnMut(u64)>(
        &self,
        name: &ArtifactName,
        done: F,
    ) -> Result<Checked<File, F>, TransferError> {
        let path = self.dir.join(name.as_str());
        let file = File::open(&path).map_err(failed("open", &path))?;
        let size_bytes = file.metadata().map_err(failed("look at", &path))?.len();
        let expected = self.manifest.artifacts[name].size_bytes;
        if size_bytes != expected {
            return Err(self.damaged(name.as_str(), format!("has {size_bytes} bytes, expected {expected}")));
        }
        let check = Check::new(&self.manifest, name).expect("the manifest lists it");
        Ok(Checked::new(file, check, done))
    }

    /// Fails if the artifact `name`, which has been read to its end, is damaged.
    pub fn check<T, F: FnMut(u64)>(
        &self,
        name: &ArtifactName,
        read: Checked<T, F>,
    ) -> Result<(), TransferError> {
        match read.problems() {
            problems if problems.is_empty() => Ok(()),
            problems => Err(self.damaged(name.as_str(), problems.join(", and "))),
        }
    }

    fn damaged(&self, what: &str, problem: String) -> TransferError {
        TransferError::Damaged { what: what.to_owned(), from: self.image.to_string(), problem, leaving: true }
    }
}
