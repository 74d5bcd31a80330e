//! The build, step by step: recipe -> root file system -> archive -> initramfs -> published image. And `repack`, which
//! begins in the middle.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fs::{self, File};
use std::io::{BufWriter, Read, Write};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use bootspec::manifest::{Artifact, BootMode, Build, FORMAT, Manifest, Root, RootArchive};
use bootspec::store::{ArtifactName, INITRAMFS, INITRAMFS_FETCHED, NameError, VMLINUZ, initramfs_of};
use bootspec::{ImageRef, ImageVersion, Sha256Digest};
use sha2::{Digest, Sha256};

use crate::archive::{PackError, PackOptions, pack};
use crate::file_error::{FileError, failed};
use crate::initramfs::{
    InitramfsError, MODULES_FETCHED, Programs, SegmentCompression, init_segment, modules_segment,
    write_root_segment,
};
use crate::kernel::KernelError;
use crate::modules::ModuleSet;
use crate::progress::{Progress, human};
use crate::recipe::{CompressionSpec, Recipe, RecipeError};
use crate::root::{RootError, build_root};
use crate::store::{Draft, Store, StoreError};

/// What to build, and with what.
pub struct Request<'a> {
    /// The recipe.
    pub recipe: &'a Recipe,
    /// How its root is packed: as the recipe says, or otherwise.
    pub compression: CompressionSpec,
    /// Where the image is published.
    pub store: &'a Store,
    /// Packages are kept here between builds.
    pub cache: &'a Path,
    /// What rides in the initramfs.
    pub programs: &'a Programs,
    /// Chunks compressed at once.
    pub jobs: NonZeroUsize,
    /// Name of the new version; by default its time.
    pub version: Option<ImageVersion>,
    /// Build nothing if the current version was built from the same inputs.
    pub if_changed: bool,
}

/// What came of a build.
#[derive(Debug)]
pub struct Outcome {
    /// The published version.
    pub image: ImageRef,
    /// It was there already and nothing has changed since.
    pub reused: bool,
}

/// The build failed. Nothing was published.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The recipe is not usable.
    #[error(transparent)]
    Recipe(#[from] RecipeError),
    /// The root file system could not be made.
    #[error(transparent)]
    Root(#[from] RootError),
    /// The root file system could not be packed.
    #[error("cannot pack the root file system")]
    Pack(#[source] PackError),
    /// The initramfs could not be composed.
    #[error("cannot make the initramfs")]
    Initramfs(#[source] InitramfsError),
    /// What the kernel can do is not known.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// A version from which another is to be made has no initramfs that begins as it should.
    #[error("{} begins neither as gzip nor as zstd: it is damaged\nhint: build the image again", path.display())]
    Compression {
        /// The initramfs.
        path: PathBuf,
    },
    /// What a version shares with the one before it has changed since that was made.
    #[error("{} is not as the manifest of {image} says: it is damaged\nhint: build the image again", path.display())]
    Damaged {
        /// The version that it belongs to.
        image: ImageRef,
        /// The file.
        path: PathBuf,
    },
    /// The store refused.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A file could not be put into the image.
    #[error(transparent)]
    File(#[from] FileError),
    /// A failsafe image is its shell.
    #[error(
        "a failsafe image needs a static busybox, and this machine has none\nhint: install one (Debian: busybox-static; EL: busybox from EPEL), or name one with --busybox"
    )]
    NoBusybox,
    /// SOURCE_DATE_EPOCH is set to something else than a time.
    #[error("SOURCE_DATE_EPOCH is '{0}': expected seconds since 1970")]
    SourceDateEpoch(String),
    /// The file name of an artifact is not usable.
    #[error(transparent)]
    Name(#[from] NameError),
}

/// Builds an image and publishes it as the current version.
pub fn build(request: &Request<'_>, progress: &Progress) -> Result<Outcome, BuildError> {
    let recipe = request.recipe;
    require_shell(recipe.mode(), request.programs)?;
    let inputs = inputs_digest(&recipe.input_digest()?, Some(request.compression), request.programs)?;
    if request.if_changed
        && let Some(image) = unchanged(request.store, recipe, inputs)?
    {
        return Ok(Outcome { image, reused: true });
    }
    let time_unix = build_time()?;
    let version = match &request.version {
        Some(version) => version.clone(),
        None => time_version(time_unix)?,
    };
    let draft = request.store.begin(&recipe.name, &version)?;
    let root = draft.scratch()?.join("root");
    let built = build_root(recipe, &root, request.cache, &request.programs.init, progress)?;
    copy(&built.kernel.vmlinuz, &draft.dir().join(VMLINUZ))?;
    let compression = match built.kernel.is_built_with(&root, "CONFIG_RD_ZSTD")? {
        true => SegmentCompression::Zstd,
        false => SegmentCompression::Gzip,
    };
    if recipe.mode() != BootMode::Failsafe {
        let modules = modules_segment(&ModuleSet::default(), compression).map_err(BuildError::Initramfs)?;
        let path = draft.dir().join(MODULES_FETCHED);
        fs::write(&path, modules).map_err(failed("write", &path))?;
    }
    let archive = match recipe.mode() {
        BootMode::Carried | BootMode::Fetched => {
            Some(Root::Archive(pack_root(&root, &draft, request, progress)?))
        }
        BootMode::Failsafe => None,
    };
    let manifest = Manifest {
        format: FORMAT,
        image: draft.image.clone(),
        architecture: built.architecture.clone(),
        kernel_release: built.kernel.release.clone(),
        mode: recipe.mode(),
        kernel_args: recipe.kernel_args.clone(),
        artifacts: BTreeMap::new(),
        root: archive,
        rollback_index: 0,
        packages: built.packages.clone(),
        build: Build { inputs, tool: tool(), host: host_name(), time_unix },
    };
    finish(draft, manifest, request.programs, compression, progress)
}

/// Publishes a new version of `image` with other programs in its initramfs. The root, the kernel and the kernel modules
/// are the same files, shared by hard links.
pub fn repack(
    store: &Store,
    image: &ImageRef,
    programs: &Programs,
    progress: &Progress,
) -> Result<Outcome, BuildError> {
    let old = store.manifest(image)?;
    require_shell(old.mode, programs)?;
    let compression = segment_compression(&store.dir(image).join(initramfs_of(old.mode)))?;
    let time_unix = build_time()?;
    let draft = store.begin(&image.name, &time_version(time_unix)?)?;
    let mut artifacts = old.artifacts.clone();
    artifacts.retain(|name, _| ![INITRAMFS, INITRAMFS_FETCHED].contains(&name.as_str()));
    for name in artifacts.keys() {
        let path = store.dir(image).join(name.as_str());
        fs::hard_link(&path, draft.dir().join(name.as_str())).map_err(failed("link", &path))?;
    }
    refuse_damaged_modules(store, image, &artifacts, &draft)?;
    let inputs = inputs_digest(&old.build.inputs, None, programs)?;
    let manifest = Manifest {
        image: draft.image.clone(),
        artifacts,
        build: Build { inputs, tool: tool(), host: host_name(), time_unix },
        ..old
    };
    finish(draft, manifest, programs, compression, progress)
}

fn require_shell(mode: BootMode, programs: &Programs) -> Result<(), BuildError> {
    match (mode, &programs.busybox) {
        (BootMode::Failsafe, None) => Err(BuildError::NoBusybox),
        _ => Ok(()),
    }
}

/// What the kernel of an image can unpack, by what it was given before: the kernel's configuration is packed away.
fn segment_compression(initramfs: &Path) -> Result<SegmentCompression, BuildError> {
    let mut head = [0; 4];
    File::open(initramfs)
        .and_then(|mut file| file.read_exact(&mut head))
        .map_err(failed("read", initramfs))?;
    SegmentCompression::of(&head).ok_or_else(|| BuildError::Compression { path: initramfs.to_owned() })
}

/// The modules become part of a new initramfs with a new digest, so damage to them would become the truth.
fn refuse_damaged_modules(
    store: &Store,
    image: &ImageRef,
    artifacts: &BTreeMap<ArtifactName, Artifact>,
    draft: &Draft,
) -> Result<(), BuildError> {
    let name: ArtifactName = MODULES_FETCHED.parse()?;
    match artifacts.get(&name) {
        Some(expected) if draft.describe(&name)? != *expected => {
            Err(BuildError::Damaged { image: image.clone(), path: store.dir(image).join(name.as_str()) })
        }
        _ => Ok(()),
    }
}

/// Writes the initramfs, describes the artifacts and publishes.
fn finish(
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
    let names = write_initramfs(&draft, &manifest, programs, compression)?;
    let kept = [VMLINUZ.parse()?].into_iter().chain(manifest.root.as_ref().map(|root| root.file().clone()));
    let modules = draft.dir().join(MODULES_FETCHED).exists().then(|| MODULES_FETCHED.parse()).transpose()?;
    for name in kept.chain(modules).chain(names.iter().cloned()) {
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

/// Writes the one that carries the root, if the image's mode asks for that, and the one that fetches it, if there is a
/// root to fetch. Returns their names.
fn write_initramfs(
    draft: &Draft,
    manifest: &Manifest,
    programs: &Programs,
    compression: SegmentCompression,
) -> Result<Vec<ArtifactName>, BuildError> {
    let init = init_segment(programs, compression).map_err(BuildError::Initramfs)?;
    let mut names = Vec::new();
    if manifest.mode != BootMode::Fetched {
        let root = manifest.root.as_ref().map(|root| draft.dir().join(root.file().as_str()));
        let path = draft.dir().join(INITRAMFS);
        let mut out = BufWriter::new(File::create_new(&path).map_err(failed("create", &path))?);
        out.write_all(&init).map_err(failed("write", &path))?;
        write_root_segment(manifest, root.as_deref(), &mut out).map_err(BuildError::Initramfs)?;
        out.flush().map_err(failed("write", &path))?;
        names.push(INITRAMFS.parse()?);
    }
    if manifest.root.is_some() {
        let modules = draft.dir().join(MODULES_FETCHED);
        let modules = fs::read(&modules).map_err(failed("read", &modules))?;
        let path = draft.dir().join(INITRAMFS_FETCHED);
        fs::write(&path, [init, modules].concat()).map_err(failed("write", &path))?;
        names.push(INITRAMFS_FETCHED.parse()?);
    }
    Ok(names)
}

fn pack_root(
    root: &Path,
    draft: &Draft,
    request: &Request<'_>,
    progress: &Progress,
) -> Result<RootArchive, BuildError> {
    let spec = request.compression;
    let step = progress.step(format!("pack the root file system with {} level {}", spec.format, spec.level));
    let options = PackOptions {
        compression: spec.format,
        level: spec.level,
        chunk_bytes: spec.chunk_bytes,
        jobs: request.jobs,
    };
    let archive = pack(root, draft.dir(), options, &step).map_err(BuildError::Pack)?;
    let (unpacked, packed) = (human(archive.unpacked_bytes), human(archive.compressed_bytes()));
    step.done(&format!("{unpacked} -> {packed} in {} chunks", archive.chunks.len()));
    Ok(archive)
}

/// The current version, if it was built from the same inputs.
fn unchanged(store: &Store, recipe: &Recipe, inputs: Sha256Digest) -> Result<Option<ImageRef>, BuildError> {
    let Some(image) = store.current(&recipe.name)? else { return Ok(None) };
    // A current version that cannot be read is a reason to build, not to fail.
    let same = store.manifest(&image).is_ok_and(|manifest| manifest.build.inputs == inputs);
    Ok(same.then_some(image))
}

fn inputs_digest(
    base: &Sha256Digest,
    compression: Option<CompressionSpec>,
    programs: &Programs,
) -> Result<Sha256Digest, BuildError> {
    let mut digest = Sha256::new();
    digest.update(tool());
    digest.update(base.as_bytes());
    if let Some(CompressionSpec { format, level, chunk_bytes }) = compression {
        digest.update(format!("{format} {level} {chunk_bytes}"));
    }
    for path in [Some(&programs.init), programs.busybox.as_ref()].into_iter().flatten() {
        let contents = fs::read(path).map_err(failed("read", path))?;
        digest.update(Sha256::digest(contents));
    }
    Ok(Sha256Digest::new(digest.finalize().into()))
}

/// Now, or what SOURCE_DATE_EPOCH says (<https://reproducible-builds.org/specs/source-date-epoch/>).
fn build_time() -> Result<i64, BuildError> {
    match std::env::var("SOURCE_DATE_EPOCH") {
        Ok(text) => text.parse().map_err(|_| BuildError::SourceDateEpoch(text)),
        Err(_) => Ok(jiff::Timestamp::now().as_second()),
    }
}

/// A version named after its time in UTC: `20261122T061457Z`.
fn time_version(time_unix: i64) -> Result<ImageVersion, BuildError> {
    let time = jiff::Timestamp::from_second(time_unix)
        .map_err(|_| BuildError::SourceDateEpoch(time_unix.to_string()))?;
    Ok(time.strftime("%Y%m%dT%H%M%SZ").to_string().parse()?)
}

fn tool() -> String {
    format!("imagebuild {}", env!("CARGO_PKG_VERSION"))
}

fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

fn copy(from: &Path, to: &Path) -> Result<(), FileError> {
    let contents = fs::read(from).map_err(failed("read", from))?;
    fs::write(to, contents).map_err(failed("write", to))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_times_that_sort_as_text() {
        assert_eq!(time_version(1_795_328_097).unwrap().as_str(), "20261122T061457Z");
        assert!(time_version(0).unwrap() < time_version(1).unwrap());
        assert!(time_version(i64::MAX).is_err());
    }
}
