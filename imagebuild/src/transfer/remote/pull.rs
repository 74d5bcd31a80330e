//! A version comes from an object store. It is as hostile as a file from anywhere.

use std::io::Write;

use bootspec::store::{
    ArtifactName, MANIFEST, MANIFEST_SIGNATURE, MAX_MANIFEST_BYTES, MAX_SIGNATURE_BYTES, NameError,
};
use bootspec::{ImageName, ImageRef, ImageVersion};
use futures_util::StreamExt;
use object_store::ObjectStoreExt;

use super::{Remote, RemoteError, or_interrupted};
use crate::progress::Step;
use crate::store::Store;
use crate::transfer::TransferError;
use crate::transfer::incoming::{Arrival, Incoming, Receiving, Terms};

/// Which version: `NAME/VERSION`, or `NAME` for the newest.
#[derive(Clone, Debug)]
pub struct Wanted {
    name: ImageName,
    version: Option<ImageVersion>,
}

impl std::str::FromStr for Wanted {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let (name, version) = match text.split_once('/') {
            Some((name, version)) => (name, Some(version.parse()?)),
            None => (text, None),
        };
        Ok(Self { name: name.parse()?, version })
    }
}

impl std::fmt::Display for Wanted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.version {
            Some(version) => write!(f, "{}/{version}", self.name),
            None => write!(f, "{}", self.name),
        }
    }
}

/// Takes the version that is `wanted` from `remote` into the store.
pub fn pull(
    store: &Store,
    remote: &Remote,
    wanted: &Wanted,
    terms: Terms<'_>,
    step: &Step,
) -> Result<Arrival, TransferError> {
    remote.runtime.block_on(async {
        let image = remote.find(wanted).await?;
        let from = format!("{}/{image}", remote.url);
        let no_image = || RemoteError::NoImage { image: image.to_string(), url: remote.url.to_string() };
        let json = remote.document(&image, MANIFEST, MAX_MANIFEST_BYTES).await?.ok_or_else(no_image)?;
        let signature = remote.document(&image, MANIFEST_SIGNATURE, MAX_SIGNATURE_BYTES).await?;
        let incoming = Incoming::check(&from, json, signature, terms.keys)?;
        if incoming.manifest.image != image {
            let problem = format!("says that it is of {}", incoming.manifest.image);
            return Err(TransferError::Unusable { from, problem });
        }
        if let Some(there) = incoming.find(store)? {
            there.make_current(store, terms)?;
            return Ok(there);
        }
        let names: Vec<_> = incoming.manifest.artifacts.keys().cloned().collect();
        let mut receiving = incoming.receive(store, terms.dry_run)?;
        step.set_total(receiving.artifact_bytes());
        for name in names {
            step.message(name.as_str());
            remote.fetch(&image, &name, &mut receiving, &from, step).await?;
        }
        receiving.publish(store, terms.make_current)
    })
}

impl Remote {
    async fn find(&self, wanted: &Wanted) -> Result<ImageRef, RemoteError> {
        let Wanted { name, version } = wanted;
        if let Some(version) = version {
            return Ok(ImageRef { name: name.clone(), version: version.clone() });
        }
        let newest = self.versions().await?.into_iter().filter(|image| image.name == *name).max();
        newest.ok_or_else(|| RemoteError::NoImage { image: name.to_string(), url: self.url.to_string() })
    }

    /// A small file of a version, if it is there.
    pub(super) async fn document(
        &self,
        image: &ImageRef,
        name: &str,
        most_bytes: u64,
    ) -> Result<Option<Vec<u8>>, RemoteError> {
        let path = self.path(image, Some(name));
        let failed = |error| self.failed("fetch", path.as_ref(), &error);
        let found = match or_interrupted(self.objects.get(&path)).await? {
            Err(object_store::Error::NotFound { .. }) => return Ok(None),
            result => result.map_err(failed)?,
        };
        if found.meta.size > most_bytes {
            let reason = format!("it has {} bytes, more than {most_bytes}", found.meta.size);
            let (what, endpoint) = (path.to_string(), self.endpoint.clone());
            return Err(RemoteError::Failed { action: "use", what, endpoint, reason });
        }
        Ok(Some(or_interrupted(found.bytes()).await?.map_err(failed)?.into()))
    }

    /// Fetches an artifact, in one request of which little is in memory at a time. Ranges would do as well for Amazon, and not for
    /// rclone, which answers them with the status of a whole object.
    async fn fetch(
        &self,
        image: &ImageRef,
        name: &ArtifactName,
        receiving: &mut Receiving,
        from: &str,
        step: &Step,
    ) -> Result<(), TransferError> {
        let path = self.path(image, Some(name.as_str()));
        let failed = |error: object_store::Error| match error {
            object_store::Error::NotFound { .. } => {
                TransferError::Missing { from: from.to_owned(), name: name.to_string() }
            }
            error => self.failed("fetch", path.as_ref(), &error).into(),
        };
        let found = or_interrupted(self.objects.get(&path)).await?.map_err(failed)?;
        let mut out = receiving.artifact(name.as_str(), found.meta.size, |bytes| step.advance(bytes))?;
        let mut contents = found.into_stream();
        while let Some(bytes) = or_interrupted(contents.next()).await? {
            out.write_all(&bytes.map_err(failed)?).map_err(|source| TransferError::Copy {
                what: name.to_string(),
                from: from.to_owned(),
                to: "the store".to_owned(),
                source,
            })?;
        }
        receiving.arrived(name.as_str(), out)
    }
}
