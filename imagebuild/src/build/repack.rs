//! A new version with the same root, kernel and kernel modules.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;

use bootspec::ImageRef;
use bootspec::manifest::{Artifact, Build, Manifest};
use bootspec::store::{ArtifactName, INITRAMFS, INITRAMFS_FETCHED, initramfs_of};

use super::origin::{build_time, host_name, inputs_digest, time_version, tool};
use super::{BuildError, Outcome, publish, require_shell};
use crate::file_error::failed;
use crate::initramfs::{MICROCODE, MODULES, MODULES_FETCHED, Programs, SegmentCompression};
use crate::progress::Progress;
use crate::signing::Signing;
use crate::store::{Draft, Store};

/// Publishes a new version of `image` with other programs in its initramfs. The root, the kernel and the kernel modules
/// are the same files, shared by hard links.
pub fn repack(
    store: &Store,
    image: &ImageRef,
    programs: &Programs,
    signing: &Signing,
    progress: &Progress,
) -> Result<Outcome, BuildError> {
    let _held = store.hold(image)?;
    let old = check_repack(store, image, programs, signing)?;
    let compression = segment_compression(store, image, &old)?;
    let time_unix = build_time()?;
    let draft = store.begin(&image.name, &time_version(time_unix)?)?;
    let artifacts =
        share(store, image, &old, &draft, |name| ![INITRAMFS, INITRAMFS_FETCHED].contains(&name))?;
    let step = progress.step(format!("repack {image}"));
    if store.signature(image)?.is_some() && signing.signer.is_none() {
        step.note("it is signed, and the new version is not: --sign-key signs it");
    }
    step.done(&format!("{} files are shared", artifacts.len()));
    let inputs = inputs_digest(&[Some(old.build.inputs)], None, programs, signing)?;
    let manifest = Manifest {
        image: draft.image.clone(),
        artifacts,
        build: Build { inputs, tool: tool(), host: host_name()?, time_unix, root: old.build.root },
        ..old
    };
    publish::finish(draft, manifest, compression, programs, signing, progress)
}

/// Fails if `image` cannot be repacked so. Returns its manifest.
pub fn check_repack(
    store: &Store,
    image: &ImageRef,
    programs: &Programs,
    signing: &Signing,
) -> Result<Manifest, BuildError> {
    let old = store.manifest(image)?;
    require_shell(old.mode, programs)?;
    signing.check(old.mode, old.rollback_index)?;
    Ok(old)
}

/// Links the artifacts of `image` that are `wanted` into the draft, and returns them.
pub fn share(
    store: &Store,
    image: &ImageRef,
    old: &Manifest,
    draft: &Draft,
    wanted: impl Fn(&str) -> bool,
) -> Result<BTreeMap<ArtifactName, Artifact>, BuildError> {
    let mut artifacts = old.artifacts.clone();
    artifacts.retain(|name, _| wanted(name.as_str()));
    for name in artifacts.keys() {
        let path = store.dir(image).join(name.as_str());
        fs::hard_link(&path, draft.dir().join(name.as_str())).map_err(failed("link", &path))?;
    }
    refuse_damaged_segments(store, image, &artifacts, draft)?;
    Ok(artifacts)
}

/// What the kernel of `image` can unpack, by what it was given before, behind the microcode: the kernel's configuration is
/// packed away.
pub fn segment_compression(
    store: &Store,
    image: &ImageRef,
    old: &Manifest,
) -> Result<SegmentCompression, BuildError> {
    let initramfs = store.dir(image).join(initramfs_of(old.mode));
    let microcode_bytes = old.artifacts.get(&MICROCODE.parse()?).map_or(0, |artifact| artifact.size_bytes);
    let mut head = [0; 4];
    File::open(&initramfs)
        .and_then(|file| file.read_exact_at(&mut head, microcode_bytes))
        .map_err(failed("read", &initramfs))?;
    SegmentCompression::of(&head).ok_or(BuildError::Compression { path: initramfs })
}

/// The segments become part of a new initramfs with a new digest, so damage to them would become the truth.
fn refuse_damaged_segments(
    store: &Store,
    image: &ImageRef,
    artifacts: &BTreeMap<ArtifactName, Artifact>,
    draft: &Draft,
) -> Result<(), BuildError> {
    for (name, expected) in artifacts {
        if [MICROCODE, MODULES, MODULES_FETCHED].contains(&name.as_str())
            && draft.describe(name)? != *expected
        {
            let path = store.dir(image).join(name.as_str());
            return Err(BuildError::Damaged { image: image.clone(), path });
        }
    }
    Ok(())
}
