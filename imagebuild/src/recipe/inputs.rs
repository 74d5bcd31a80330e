//! The digest of what a recipe says and of every file it names: equal digests, equal recipes.

use std::fs::{self, File};
use std::path::PathBuf;

use bootspec::Sha256Digest;
use sha2::{Digest, Sha256};

use crate::digest::digest as digest_of;

use super::{Content, Dnf, ExistingRoot, Mmdebstrap, OciImage, PackageSource, Recipe, RecipeError, Source};

impl Recipe {
    /// Digest of the texts of the recipe and of those that it extends, of what was chosen, of its scripts and of the files it names, in the order in which it names them.
    /// What lies behind URLs and in package repositories is left out.
    pub fn input_digest(&self) -> Result<Sha256Digest, RecipeError> {
        let mut digest = Sha256::new();
        for text in &self.inputs {
            add(&mut digest, text.as_bytes());
        }
        for script in self.scripts.iter().chain(&self.checks) {
            add(&mut digest, script.text.as_bytes());
        }
        for path in self.named_files() {
            let read = File::open(&path).and_then(digest_of);
            let (_, content) = read.map_err(|source| RecipeError::Read { path, source })?;
            add(&mut digest, content.as_bytes());
        }
        Ok(Sha256Digest::new(digest.finalize().into()))
    }

    /// Fails if a file on this host that the recipe names is not there. A recipe can be shown without them.
    pub fn require_files(&self) -> Result<(), RecipeError> {
        for path in self.named_files() {
            match fs::metadata(&path) {
                Ok(metadata) if metadata.is_file() => {}
                Ok(_) => return Err(RecipeError::NotFile { path }),
                Err(source) => return Err(RecipeError::Read { path, source }),
            }
        }
        Ok(())
    }

    /// The files on this host that the recipe names, apart from scripts, which are part of the recipe once read.
    fn named_files(&self) -> Vec<PathBuf> {
        let copied = self.files.iter().filter_map(|file| match &file.content {
            Content::Copy { from, .. } => Some(from.clone()),
            Content::Text { .. } | Content::Symlink(_) => None,
        });
        copied.chain(self.source.named_files()).collect()
    }
}

impl Source {
    fn named_files(&self) -> Vec<PathBuf> {
        match self {
            Self::Mmdebstrap(debian) | Self::Busybox(PackageSource::Mmdebstrap(debian)) => debian.key_files(),
            Self::Dnf(dnf) | Self::Busybox(PackageSource::Dnf(dnf)) => dnf.key_files(),
            Self::Existing(existing) => existing.root.named_files(),
        }
    }
}

impl ExistingRoot {
    fn named_files(&self) -> Vec<PathBuf> {
        match self {
            Self::Tar(path) | Self::Oci(OciImage::Archive { path, .. }) => vec![path.clone()],
            // Names the digests of everything else in the layout.
            Self::Oci(OciImage::Layout { path, .. }) => vec![path.join("index.json")],
            Self::Directory(_) | Self::Image(_) | Self::Oci(OciImage::Registry { .. }) => vec![],
        }
    }
}

impl Mmdebstrap {
    fn key_files(&self) -> Vec<PathBuf> {
        self.keyrings.clone()
    }
}

impl Dnf {
    fn key_files(&self) -> Vec<PathBuf> {
        let keys = self.repositories.iter().flat_map(|repository| &repository.gpgkeys);
        keys.filter_map(|url| url.strip_prefix("file://")).map(PathBuf::from).collect()
    }
}

/// Adds `part` with its length, so that parts cannot run into each other.
fn add(digest: &mut Sha256, part: &[u8]) {
    digest.update((part.len() as u64).to_le_bytes());
    digest.update(part);
}
