//! A version that comes from elsewhere: nothing of it is believed before it is checked, and it is published whole or not at
//! all.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Write};

use bootspec::ImageRef;
use bootspec::manifest::Manifest;
use bootspec::signature::{self, TrustedKey};
use bootspec::store::{ArtifactName, MANIFEST, MANIFEST_SIGNATURE, VMLINUZ, initramfs_of};

use super::TransferError;
use crate::contents::{Check, Checked};
use crate::file_error::failed;
use crate::store::{Draft, SCRATCH, Store, StoreError};

/// On which terms a version is taken into the store.
#[derive(Clone, Copy, Default)]
pub struct Terms<'a> {
    /// One of them must have signed it, if there are any.
    pub keys: &'a [TrustedKey],
    /// It becomes the version that nodes boot by default.
    pub make_current: bool,
    /// It is checked, and nothing is written.
    pub dry_run: bool,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// The version.
    pub image: ImageRef,
    /// It was in the store already, the same.
    pub reused: bool,
    /// It is in the store with another signature or without one, which stays so.
    pub other_signature: bool,
}

impl Arrival {
    /// A version that is there already becomes the current one, if the terms say so.
    pub fn make_current(&self, store: &Store, terms: Terms<'_>) -> Result<(), StoreError> {
        match terms.make_current && !terms.dry_run {
            true => store.make_current(&self.image),
            false => Ok(()),
        }
    }
}

/// The documents of a version, checked.
pub struct Incoming {
    from: String,
    /// What is to come.
    pub manifest: Manifest,
    json: String,
    signature: Option<String>,
}

/// A version whose artifacts are arriving.
pub struct Receiving {
    incoming: Incoming,
    /// None if nothing is to be written.
    draft: Option<Draft>,
    missing: BTreeSet<ArtifactName>,
}

/// Where an artifact's bytes go.
pub type Arriving<F> = Checked<Box<dyn Write>, F>;

impl Incoming {
    /// Checks a manifest and its signature, which come from `from`.
    pub fn check(
        from: &str,
        json: Vec<u8>,
        signature: Option<Vec<u8>>,
        keys: &[TrustedKey],
    ) -> Result<Self, TransferError> {
        let manifest = Manifest::parse(&json)
            .map_err(|source| TransferError::Manifest { from: from.to_owned(), source })?;
        let unusable = |problem: String| TransferError::Unusable { from: from.to_owned(), problem };
        if let Some(problem) = problem_of(&manifest) {
            return Err(unusable(problem));
        }
        let json = String::from_utf8(json).expect("JSON is UTF-8");
        let signature = signature.map(String::from_utf8).transpose();
        let signature = signature.map_err(|_| unusable("has a signature that is no text".to_owned()))?;
        signature::verify(json.as_bytes(), signature.as_deref(), keys).map_err(|source| {
            TransferError::Untrusted { image: manifest.image.clone(), from: from.to_owned(), source }
        })?;
        Ok(Self { from: from.to_owned(), manifest, json, signature })
    }

    /// What the store has of this version already: nothing, or the same. Another version of that name is an error.
    pub fn find(&self, store: &Store) -> Result<Option<Arrival>, TransferError> {
        let image = &self.manifest.image;
        let path = store.dir(image).join(MANIFEST);
        let found = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            result => result.map_err(failed("read", &path))?,
        };
        if found != self.json.as_bytes() {
            return Err(StoreError::Exists(image.clone(), store.root().to_owned()).into());
        }
        let other_signature = store.signature(image)? != self.signature;
        Ok(Some(Arrival { image: image.clone(), reused: true, other_signature }))
    }

    /// Begins to take it into the store, or with `dry_run` only to check it.
    pub fn receive(self, store: &Store, dry_run: bool) -> Result<Receiving, TransferError> {
        let draft = if dry_run { None } else { Some(store.begin_named(&self.manifest.image)?) };
        let missing = self.manifest.artifacts.keys().cloned().collect();
        Ok(Receiving { incoming: self, draft, missing })
    }
}

/// What keeps a version from being in a store or from booting, whatever its files hold.
fn problem_of(manifest: &Manifest) -> Option<String> {
    let listed = |name: &str| manifest.artifacts.keys().any(|artifact| artifact.as_str() == name);
    let reserved = [MANIFEST, MANIFEST_SIGNATURE, SCRATCH].into_iter().find(|name| listed(name));
    if let Some(name) = reserved {
        return Some(format!("lists {name}, which is no name for an artifact"));
    }
    let root = manifest.root.as_ref().map(|root| root.file().as_str());
    let needed = [Some(VMLINUZ), Some(initramfs_of(manifest.mode)), root].into_iter().flatten();
    let missing = needed.into_iter().find(|name| !listed(name))?;
    Some(format!("does not list {missing}, without which nodes do not boot"))
}

impl Receiving {
    /// Bytes of all artifacts.
    pub fn artifact_bytes(&self) -> u64 {
        let sizes = self.incoming.manifest.artifacts.values().map(|artifact| artifact.size_bytes);
        sizes.fold(0, u64::saturating_add)
    }

    /// Where the bytes of an artifact go that calls itself `name` and says that it has `size_bytes`; `done` is told how many
    /// have come.
    pub fn artifact<F: FnMut(u64)>(
        &mut self,
        name: &str,
        size_bytes: u64,
        done: F,
    ) -> Result<Arriving<F>, TransferError> {
        let unexpected = |problem: String| TransferError::Unexpected {
            from: self.incoming.from.clone(),
            member: format!("'{}'", name.escape_debug()),
            problem,
        };
        let found = name.parse::<ArtifactName>().ok();
        let listed = found.and_then(|name| self.incoming.manifest.artifacts.get_key_value(&name));
        let Some((name, artifact)) = listed else {
            return Err(unexpected("its manifest does not list".to_owned()));
        };
        if !self.missing.contains(name) {
            return Err(unexpected("comes twice".to_owned()));
        }
        if artifact.size_bytes != size_bytes {
            return Err(unexpected(format!("has {size_bytes} bytes, expected {}", artifact.size_bytes)));
        }
        let out: Box<dyn Write> = match &self.draft {
            Some(draft) => {
                let path = draft.dir().join(name.as_str());
                Box::new(File::create_new(&path).map_err(failed("create", &path))?)
            }
            None => Box::new(io::sink()),
        };
        let check = Check::new(&self.incoming.manifest, name).expect("the manifest lists it");
        self.missing.remove(&name.clone());
        Ok(Checked::new(out, check, done))
    }

    /// Fails if the artifact `name`, whose bytes are all there, is damaged.
    pub fn arrived<F: FnMut(u64)>(&self, name: &str, arrived: Arriving<F>) -> Result<(), TransferError> {
        match arrived.problems() {
            problems if problems.is_empty() => Ok(()),
            problems => Err(TransferError::Damaged {
                what: name.to_owned(),
                from: self.incoming.from.clone(),
                problem: problems.join(", and "),
                leaving: false,
            }),
        }
    }

    /// Publishes the version, if everything has come.
    pub fn publish(self, store: &Store, make_current: bool) -> Result<Arrival, TransferError> {
        let Self { incoming: Incoming { from, manifest, json, signature }, draft, missing } = self;
        if let Some(name) = missing.first() {
            return Err(TransferError::Missing { from, name: name.to_string() });
        }
        if let Some(draft) = draft {
            let image = draft.add(&json, signature.as_deref(), &manifest)?;
            if make_current {
                store.make_current(&image)?;
            }
        }
        Ok(Arrival { image: manifest.image, reused: false, other_signature: false })
    }
}
