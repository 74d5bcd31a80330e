//! The end of every build: the initramfs are composed, the artifacts described, the version published.

use std::collections::btree_map::Entry;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;

use bootspec::manifest::{BootMode, Manifest};
use bootspec::store::{ArtifactName, INITRAMFS, INITRAMFS_FETCHED, VMLINUZ};

use super::{BuildError, Outcome};
use crate::file_error::failed;
use crate::initramfs::{
    MODULES, MODULES_FETCHED, Programs, SegmentCompression, init_segment, write_root_segment,
};
use crate::progress::{Progress, human};
use crate::store::Draft;

/// Composes the initramfs of `draft`, which has everything else, describes its artifacts and publishes it.
pub fn finish(
    draft: Draft,
    mut manifest: Manifest,
    programs: &Programs,
    compression: SegmentCompression,
    progress: &Progress,
) -> Result<Outcome, BuildError> {
    let step = progress.step("make the initramfs");
    if programs.busybox.is_none() {
        step.note("without a static busybox, the image has no rescue shell");
    }
    let init = init_segment(programs, compression).map_err(BuildError::Initramfs)?;
    let names = write_initramfs(draft.dir(), &manifest, &init)?;
    for name in artifact_names(draft.dir(), &manifest)? {
        // What another version has already described keeps its digest: damage since then must not become the truth.
        if let Entry::Vacant(unknown) = manifest.artifacts.entry(name) {
            let artifact = draft.describe(unknown.key())?;
            unknown.insert(artifact);
        }
    }
    let size = |name: &ArtifactName| format!("{name} {}", human(manifest.artifacts[name].size_bytes));
    step.done(&names.iter().map(size).collect::<Vec<_>>().join(", "));

    let step = progress.step(format!("publish {}", draft.image));
    let image = draft.publish(&manifest)?;
    step.done("published");
    Ok(Outcome { image, reused: false })
}

/// Writes the initramfs that carries the root, if the image's mode asks for it, and the one that fetches it, if there is
/// a root to fetch. Returns their names.
fn write_initramfs(dir: &Path, manifest: &Manifest, init: &[u8]) -> Result<Vec<ArtifactName>, BuildError> {
    let mut names = Vec::new();
    if manifest.mode != BootMode::Fetched {
        let path = dir.join(INITRAMFS);
        let mut out = BufWriter::new(File::create_new(&path).map_err(failed("create", &path))?);
        let modules = read_if_there(&dir.join(MODULES))?;
        out.write_all(init).and_then(|()| out.write_all(&modules)).map_err(failed("write", &path))?;
        let root = manifest.root.as_ref().map(|root| dir.join(root.file().as_str()));
        write_root_segment(manifest, root.as_deref(), &mut out).map_err(BuildError::Initramfs)?;
        out.flush().map_err(failed("write", &path))?;
        names.push(INITRAMFS.parse()?);
    }
    if manifest.root.is_some() {
        let path = dir.join(INITRAMFS_FETCHED);
        let modules = read_if_there(&dir.join(MODULES_FETCHED))?;
        fs::write(&path, [init, &modules].concat()).map_err(failed("write", &path))?;
        names.push(INITRAMFS_FETCHED.parse()?);
    }
    Ok(names)
}

/// The files of a version that nodes or `repack` need.
fn artifact_names(dir: &Path, manifest: &Manifest) -> Result<Vec<ArtifactName>, BuildError> {
    let mut names: Vec<ArtifactName> = vec![VMLINUZ.parse()?];
    names.extend(manifest.root.as_ref().map(|root| root.file().clone()));
    for name in [MODULES, MODULES_FETCHED, INITRAMFS, INITRAMFS_FETCHED] {
        if dir.join(name).exists() {
            names.push(name.parse()?);
        }
    }
    Ok(names)
}

/// A segment that not every image has.
fn read_if_there(path: &Path) -> Result<Vec<u8>, BuildError> {
    match fs::read(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        result => Ok(result.map_err(failed("read", path))?),
    }
}
