//! The build, step by step: recipe -> root file system -> packed root -> initramfs -> published image. And `repack` and
//! `edit`, which begin in the middle.

mod edit;
mod origin;
mod pack;
mod publish;
mod repack;

use std::collections::BTreeMap;
use std::fs;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use bootspec::manifest::{self, BootMode, Build, FORMAT, FileSystemFormat, Manifest, RootOrigin};
use bootspec::store::{NameError, VMLINUZ};
use bootspec::{ImageRef, ImageVersion, Sha256Digest};

use crate::archive::PackError;
use crate::file_error::{FileError, failed};
use crate::file_system::{self, FileSystemError};
use crate::initramfs::{InitramfsError, Programs, SegmentCompression};
use crate::kernel::KernelError;
use crate::lock::{LockError, Locked};
use crate::microcode::MicrocodeError;
use crate::modules::ModulesError;
use crate::progress::Progress;
use crate::recipe::{CompressionSpec, Recipe, RecipeError, RootKind};
use crate::root::{RootError, build_root};
use crate::selinux::SelinuxError;
use crate::signing::{Signing, SigningError};
use crate::source::{self, SourceError};
use crate::store::{Store, StoreError};

pub use edit::{EditError, EditRequest, Edited, edit};
pub use origin::{build_time, tool};
use origin::{host_name, inputs_digest, source_date, time_version};
use pack::Packing;
pub use repack::{check_repack, repack};

/// What to build, and with what.
pub struct Request<'a> {
    /// The recipe.
    pub recipe: &'a Recipe,
    /// Its packages are those of a lock.
    pub locked: Option<Locked<'a>>,
    /// How its root is packed: as the recipe says, or otherwise.
    pub compression: CompressionSpec,
    /// Where the image is published.
    pub store: &'a Store,
    /// Packages are kept here between builds.
    pub cache: &'a Path,
    /// What rides in the initramfs.
    pub programs: &'a Programs,
    /// Who signs the image, and what its initramfs trusts.
    pub signing: &'a Signing,
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
    /// What the recipe starts from is not there.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The lock does not fit the recipe.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The root file system could not be made.
    #[error(transparent)]
    Root(#[from] RootError),
    /// The root file system could not be packed.
    #[error("cannot pack the root file system")]
    Pack(#[source] PackError),
    /// The root could not be made into a file system image.
    #[error(transparent)]
    FileSystem(#[from] FileSystemError),
    /// The SELinux policy cannot be read.
    #[error(transparent)]
    Selinux(#[from] SelinuxError),
    /// The microcode for the initramfs could not be collected.
    #[error(transparent)]
    Microcode(#[from] MicrocodeError),
    /// The kernel modules for the initramfs could not be collected.
    #[error(transparent)]
    Modules(#[from] ModulesError),
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
    /// The image cannot be signed, or would not boot.
    #[error(transparent)]
    Signing(#[from] SigningError),
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
    /// A root cannot be edited.
    #[error(transparent)]
    Edit(#[from] EditError),
    /// The file name of an artifact is not usable.
    #[error(transparent)]
    Name(#[from] NameError),
}

/// What a build would do.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Digest of everything that decides the image and that is known before the build.
    pub inputs: Sha256Digest,
    /// The current version, if it was built from the same inputs.
    pub unchanged: Option<ImageRef>,
}

/// Checks all that can be checked before the build, and says whether it is needed.
pub fn plan(request: &Request<'_>) -> Result<Plan, BuildError> {
    let recipe = request.recipe;
    recipe.require_files()?;
    require_shell(recipe.mode(), request.programs)?;
    if let RootKind::FileSystem(format) = recipe.boot.root {
        file_system::require_program(format)?;
    }
    source::require_runnable(recipe)?;
    if let Some(locked) = request.locked {
        locked.lock.check(recipe)?;
    }
    request.signing.check(recipe.mode(), recipe.boot.rollback_index)?;
    let base = recipe.input_digest()?;
    let lock = request.locked.map(|locked| locked.lock.digest());
    let source = source::state(recipe, request.store)?;
    let inputs = inputs_digest(
        &[Some(base), lock, source],
        Some(request.compression),
        request.programs,
        request.signing,
    )?;
    Ok(Plan { inputs, unchanged: unchanged(request.store, recipe, inputs)? })
}

/// Builds an image and publishes it as the current version.
pub fn build(request: &Request<'_>, progress: &Progress) -> Result<Outcome, BuildError> {
    let recipe = request.recipe;
    let Plan { inputs, unchanged } = plan(request)?;
    if let (true, Some(image)) = (request.if_changed, unchanged) {
        return Ok(Outcome { image, reused: true });
    }
    let time_unix = build_time()?;
    let version = match &request.version {
        Some(version) => version.clone(),
        None => time_version(time_unix)?,
    };
    let draft = request.store.begin(&recipe.name, &version)?;
    let root = draft.scratch()?.join("root");
    let (built, tools) = build_root(
        recipe,
        request.locked,
        &root,
        request.cache,
        request.store,
        &request.programs.init,
        progress,
    )?;
    copy(&built.kernel.vmlinuz, &draft.dir().join(VMLINUZ))?;
    let config = built.kernel.config(&root)?;
    let segments = SegmentCompression::for_kernel(config.as_ref());
    pack::microcode(recipe, &tools, draft.dir(), progress)?;
    let packed = match recipe.mode() {
        BootMode::Failsafe => None,
        BootMode::Discover => {
            pack::modules(recipe, &tools, &built.kernel.release, segments, draft.dir(), progress)?;
            None
        }
        BootMode::Carried | BootMode::Fetched => {
            let release = &built.kernel.release;
            if let (RootKind::FileSystem(format), Some(config)) = (recipe.boot.root, &config) {
                file_system::require_kernel(release, config, format, request.compression.format)?;
            }
            pack::modules(recipe, &tools, release, segments, draft.dir(), progress)?;
            let packing = Packing {
                kind: recipe.boot.root,
                compression: request.compression,
                jobs: request.jobs,
                time_unix,
                source_date: source_date()?,
            };
            Some(pack::root(&tools, release, draft.dir(), packing, progress)?)
        }
    };
    let manifest = Manifest {
        format: FORMAT,
        image: draft.image.clone(),
        architecture: built.architecture,
        kernel_release: built.kernel.release,
        mode: recipe.mode(),
        kernel_args: recipe.kernel_args.clone(),
        artifacts: BTreeMap::new(),
        root: packed,
        rollback_index: recipe.boot.rollback_index,
        packages: built.packages,
        build: Build { inputs, tool: tool(), host: host_name()?, time_unix, root: origin_of_root(request) },
    };
    publish::finish(draft, manifest, segments, request.programs, request.signing, progress)
}

fn require_shell(mode: BootMode, programs: &Programs) -> Result<(), BuildError> {
    match (mode, &programs.busybox) {
        (BootMode::Failsafe, None) => Err(BuildError::NoBusybox),
        _ => Ok(()),
    }
}

fn origin_of_root(request: &Request<'_>) -> RootOrigin {
    let recipe = request.recipe;
    let packing = recipe.mode().has_root().then(|| packing(recipe.boot.root, request.compression));
    RootOrigin {
        edited_from: None,
        packing: packing.flatten(),
        selinux_policy: recipe.selinux_policy.clone(),
    }
}

/// What the manifest says of how a root was compressed.
fn packing(kind: RootKind, compression: CompressionSpec) -> Option<manifest::Packing> {
    let CompressionSpec { format, level, x86_filter, chunk_bytes } = compression;
    let chosen = kind != RootKind::FileSystem(FileSystemFormat::Erofs);
    chosen.then_some(manifest::Packing { compression: format, level, x86_filter, chunk_bytes })
}

/// The current version, if it was built from the same inputs.
fn unchanged(store: &Store, recipe: &Recipe, inputs: Sha256Digest) -> Result<Option<ImageRef>, BuildError> {
    let Some(image) = store.current(&recipe.name)? else { return Ok(None) };
    // A current version that cannot be read is a reason to build, not to fail.
    let same = store.manifest(&image).is_ok_and(|manifest| manifest.build.inputs == inputs);
    Ok(same.then_some(image))
}

fn copy(from: &Path, to: &Path) -> Result<(), FileError> {
    let contents = fs::read(from).map_err(failed("read", from))?;
    fs::write(to, contents).map_err(failed("write", to))
}
