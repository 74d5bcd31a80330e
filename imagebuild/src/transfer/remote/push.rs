//! A version goes to an object store: artifacts, then the signature, then the manifest, which makes it a version.

use std::collections::BTreeMap;
use std::io::{self, Read};

use bootspec::ImageRef;
use bootspec::store::{ArtifactName, MANIFEST, MANIFEST_SIGNATURE};
use bytes::Bytes;
use object_store::path::Path;
use object_store::{Attribute, Attributes, GetOptions, PutMultipartOptions, PutOptions, WriteMultipart};

use super::{PART_BYTES, REQUESTS, Remote, RemoteError, or_interrupted};
use crate::progress::Step;
use crate::store::Store;
use crate::transfer::TransferError;
use crate::transfer::outgoing::Outgoing;

/// The most that an object may be sent in.
const MAX_PARTS: u64 = 10_000;
/// The metadata of an object that says what its artifact's digest is.
const DIGEST: &str = "sha256";

/// What a push did, or would do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pushed {
    /// Artifacts that were sent, or would be.
    pub sent: Vec<ArtifactName>,
    /// Their bytes.
    pub sent_bytes: u64,
    /// Artifacts that were there already.
    pub there: Vec<ArtifactName>,
}

/// Sends `image` to `remote`, or with `dry_run` finds out what would be sent.
pub fn push(
    store: &Store,
    image: &ImageRef,
    remote: &Remote,
    dry_run: bool,
    step: &Step,
) -> Result<Pushed, TransferError> {
    let outgoing = Outgoing::open(store, image)?;
    let push = Push { outgoing: &outgoing, remote, step };
    remote.runtime.block_on(async {
        let there = push.look().await?;
        let plan = push.plan(&there).await?;
        if !dry_run {
            push.send(&plan, &there).await?;
        }
        Ok(plan)
    })
}

struct Push<'a> {
    outgoing: &'a Outgoing,
    remote: &'a Remote,
    step: &'a Step,
}

/// What is at the version's place already.
struct There {
    files: BTreeMap<String, u64>,
    has_manifest: bool,
}

impl Push<'_> {
    /// Fails if another version of the same name is there.
    async fn look(&self) -> Result<There, TransferError> {
        let (remote, image) = (self.remote, &self.outgoing.image);
        let files = remote.files(image).await?;
        let has_manifest = files.contains_key(MANIFEST);
        if has_manifest && !self.is_the_same(MANIFEST, &self.outgoing.json, &files).await? {
            let url = remote.url.to_string();
            return Err(RemoteError::Exists { image: image.clone(), url }.into());
        }
        Ok(There { files, has_manifest })
    }

    /// Whether a document is there, with this text.
    async fn is_the_same(
        &self,
        name: &str,
        text: &str,
        files: &BTreeMap<String, u64>,
    ) -> Result<bool, RemoteError> {
        if files.get(name) != Some(&(text.len() as u64)) {
            return Ok(false);
        }
        let found = self.remote.document(&self.outgoing.image, name, text.len() as u64).await?;
        Ok(found.is_some_and(|found| found == text.as_bytes()))
    }

    async fn plan(&self, there: &There) -> Result<Pushed, TransferError> {
        let mut plan = Pushed::default();
        for (name, artifact) in &self.outgoing.manifest.artifacts {
            let same_size = there.files.get(name.as_str()) == Some(&artifact.size_bytes);
            if same_size && self.digest_there(name).await? == Some(artifact.sha256.to_string()) {
                plan.there.push(name.clone());
            } else {
                plan.sent.push(name.clone());
                plan.sent_bytes += artifact.size_bytes;
            }
        }
        Ok(plan)
    }

    /// What an object says of itself. Some object stores keep no metadata: then it is sent again.
    async fn digest_there(&self, name: &ArtifactName) -> Result<Option<String>, RemoteError> {
        let path = self.path(name.as_str());
        let head = self.remote.objects.get_opts(&path, GetOptions::new().with_head(true));
        let head = or_interrupted(head).await?;
        let head = head.map_err(|error| self.remote.failed("look at", path.as_ref(), &error))?;
        Ok(head.attributes.get(&Attribute::Metadata(DIGEST.into())).map(|digest| digest.to_string()))
    }

    async fn send(&self, plan: &Pushed, there: &There) -> Result<(), TransferError> {
        self.step.set_total(plan.sent_bytes);
        for name in &plan.sent {
            self.step.message(name.as_str());
            self.send_artifact(name).await?;
        }
        let Outgoing { json, signature, .. } = self.outgoing;
        if let Some(signature) = signature
            && !self.is_the_same(MANIFEST_SIGNATURE, signature, &there.files).await?
        {
            self.put(MANIFEST_SIGNATURE, signature.clone().into(), Attributes::new()).await?;
        }
        if !there.has_manifest {
            self.put(MANIFEST, json.clone().into(), Attributes::new()).await?;
        }
        Ok(())
    }

    async fn send_artifact(&self, name: &ArtifactName) -> Result<(), TransferError> {
        let artifact = &self.outgoing.manifest.artifacts[name];
        let attributes =
            Attributes::from_iter([(Attribute::Metadata(DIGEST.into()), artifact.sha256.to_string())]);
        if artifact.size_bytes > PART_BYTES {
            return self.send_in_parts(name, artifact.size_bytes, attributes).await;
        }
        let mut file = self.outgoing.artifact(name, |bytes| self.step.advance(bytes))?;
        let contents = read_part(&mut file, artifact.size_bytes).map_err(self.read_failed(name))?;
        self.outgoing.check(name, file)?;
        Ok(self.put(name.as_str(), contents, attributes).await?)
    }

    /// The object is there when all its parts are, and they are as the manifest says; else the parts are removed.
    async fn send_in_parts(
        &self,
        name: &ArtifactName,
        size_bytes: u64,
        attributes: Attributes,
    ) -> Result<(), TransferError> {
        let path = self.path(name.as_str());
        let failed = |error| self.remote.failed("send", path.as_ref(), &error);
        let options = PutMultipartOptions { attributes, ..PutMultipartOptions::default() };
        let upload = or_interrupted(self.remote.objects.put_multipart_opts(&path, options)).await?;
        let part_bytes = PART_BYTES.max(size_bytes.div_ceil(MAX_PARTS));
        let chunk = usize::try_from(part_bytes).expect("addresses have 64 bits");
        let mut parts = WriteMultipart::new_with_chunk_size(upload.map_err(failed)?, chunk);
        match self.send_parts(name, size_bytes, part_bytes, &mut parts).await {
            Ok(()) => Ok(parts.finish().await.map(drop).map_err(failed)?),
            Err(error) => {
                // What went wrong first is what is told. Parts that stay are the bucket's to remove, by a rule of its life cycle.
                let _ = parts.abort().await;
                Err(error)
            }
        }
    }

    async fn send_parts(
        &self,
        name: &ArtifactName,
        size_bytes: u64,
        part_bytes: u64,
        parts: &mut WriteMultipart,
    ) -> Result<(), TransferError> {
        let path = self.path(name.as_str());
        let failed = |error| self.remote.failed("send", path.as_ref(), &error);
        let mut file = self.outgoing.artifact(name, |bytes| self.step.advance(bytes))?;
        let mut left = size_bytes;
        while left > 0 {
            or_interrupted(parts.wait_for_capacity(REQUESTS)).await?.map_err(failed)?;
            let part = read_part(&mut file, left.min(part_bytes)).map_err(self.read_failed(name))?;
            left -= part.len() as u64;
            parts.put(part);
        }
        self.outgoing.check(name, file)?;
        Ok(or_interrupted(parts.wait_for_capacity(1)).await?.map_err(failed)?)
    }

    async fn put(&self, name: &str, contents: Bytes, attributes: Attributes) -> Result<(), RemoteError> {
        let path = self.path(name);
        let options = PutOptions { attributes, ..PutOptions::default() };
        let put = or_interrupted(self.remote.objects.put_opts(&path, contents.into(), options)).await?;
        put.map(drop).map_err(|error| self.remote.failed("send", path.as_ref(), &error))
    }

    fn path(&self, name: &str) -> Path {
        self.remote.path(&self.outgoing.image, Some(name))
    }

    fn read_failed(&self, name: &ArtifactName) -> impl FnOnce(io::Error) -> TransferError {
        let (what, from) = (name.to_string(), self.outgoing.image.to_string());
        let to = self.remote.url.to_string();
        move |source| TransferError::Copy { what, from, to, source }
    }
}

/// The next `size_bytes` of a file; fails if it ends before.
fn read_part(file: &mut impl Read, size_bytes: u64) -> io::Result<Bytes> {
    let mut part = vec![0; usize::try_from(size_bytes).expect("a part fits into memory")];
    file.read_exact(&mut part)?;
    Ok(part.into())
}
