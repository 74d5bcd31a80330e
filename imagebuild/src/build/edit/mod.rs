//! A new version of an image whose root was changed by hand, in a shell or by a command, with the same kernel and kernel
//! modules.

mod changes;

use std::ffi::OsString;
use std::io::{self, IsTerminal};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};

use bootspec::manifest::{self, BootMode, Build, Compression, FileSystemFormat, Manifest, Root, RootOrigin};
use bootspec::store::VMLINUZ;
use bootspec::{ImageRef, ImageVersion, Sha256Digest};
use sha2::{Digest, Sha256};

use changes::Changes;

use super::origin::{build_time, host_name, inputs_digest, source_date, time_version, tool};
use super::pack::{self, Packing};
use super::repack::{check_repack, segment_compression, share};
use super::{BuildError, Outcome, packing, publish};
use crate::architecture::Architecture;
use crate::diff::{Change, TreeError};
use crate::file_system;
use crate::initramfs::{MICROCODE, MODULES, MODULES_FETCHED, Programs};
use crate::progress::Progress;
use crate::recipe::{CompressionSpec, LevelError, RootKind};
use crate::root::{RootError, warn_of_secrets};
use crate::sandbox::{Console, Sandbox, SandboxError, View};
use crate::signing::Signing;
use crate::source::{self, SourceError};
use crate::store::{Draft, Store, StoreError};
use crate::tool::{Tools, program};

/// What is to be edited, how, and what becomes of it.
pub struct EditRequest<'a> {
    /// Where the image is, and where the new version is published.
    pub store: &'a Store,
    /// The log of what ran is kept here.
    pub cache: &'a Path,
    /// The version to begin with.
    pub image: &'a ImageRef,
    /// What rides in the initramfs.
    pub programs: &'a Programs,
    /// Who signs the image, and what its initramfs trusts.
    pub signing: &'a Signing,
    /// How the new root is compressed, if otherwise than the old one.
    pub compression: Option<Compression>,
    /// The level, if it is another one.
    pub level: Option<u32>,
    /// Chunks compressed at once.
    pub jobs: NonZeroUsize,
    /// Name of the new version; by default its time.
    pub version: Option<ImageVersion>,
    /// The command; a shell, if there is none.
    pub command: &'a [OsString],
    /// It has the build host's network.
    pub network: bool,
    /// Times of files count as changes.
    pub with_times: bool,
    /// Publish nothing.
    pub dry_run: bool,
}

/// What came of it.
pub struct Edited {
    /// What was changed in the root.
    pub files: Vec<Change>,
    /// And which packages are others now.
    pub packages: Vec<Change>,
    /// The new version; the old one, if nothing was changed. None after a dry run.
    pub outcome: Option<Outcome>,
}

/// An image cannot be edited, or what was made of it not published.
#[derive(Debug, thiserror::Error)]
pub enum EditError {
    /// There is nothing to edit.
    #[error("{image} boots in mode {mode} and has no root to edit")]
    NoRoot {
        /// The image.
        image: ImageRef,
        /// Its mode.
        mode: BootMode,
    },
    /// An older imagebuild did not note how it compressed.
    #[error(
        "the manifest of {image} does not say how its root was compressed\nhint: say how the new one is to be: --compression"
    )]
    Packing {
        /// The image.
        image: ImageRef,
    },
    /// There is no such level.
    #[error(transparent)]
    Level(#[from] LevelError),
    /// EROFS has its own compression.
    #[error(
        "--compression and --level have no meaning for an EROFS root, which is always compressed with lz4hc"
    )]
    Erofs,
    /// The command failed.
    #[error("{program} ended with {status}: nothing was published")]
    Ended {
        /// Which.
        program: String,
        /// How.
        status: ExitStatus,
    },
    /// The user stopped imagebuild.
    #[error("interrupted: {program} was ended, and nothing was published")]
    Interrupted {
        /// What was running.
        program: String,
    },
    /// The initramfs would not fit the root.
    #[error(
        "{what} changed in the root, and the initramfs keeps what it has of that: nothing was published\n{}\nhint: make this change in the recipe, and build it",
        changes::shown(changes).join("\n")
    )]
    InInitramfs {
        /// What.
        what: &'static str,
        /// The changes.
        changes: Vec<Change>,
    },
    /// SELinux would keep programs from files.
    #[error(
        "the root is labelled for SELinux, and what was changed has no label: nothing was published\n{}\nhint: label it before the end of the edit, as by setfiles -F /etc/selinux/targeted/contexts/files/file_contexts /",
        paths.join("\n")
    )]
    Unlabelled {
        /// Which files, indented.
        paths: Vec<String>,
    },
    /// The root cannot be compared with what it was.
    #[error(transparent)]
    Tree(#[from] TreeError),
}

/// Unpacks a root, lets the user change it, and publishes what is left of it as the current version. Nothing is published
/// if the command fails or changes nothing.
pub fn edit(request: &EditRequest<'_>, progress: &Progress) -> Result<Edited, BuildError> {
    let EditRequest { store, image, .. } = *request;
    let _held = store.hold(image)?;
    let old = check_repack(store, image, request.programs, request.signing)?;
    if let Some(architecture) = Architecture::named(&old.architecture) {
        architecture.require_runnable().map_err(SourceError::from)?;
    }
    let packing = new_packing(request, &old, build_time()?)?;
    let current = store.current(&image.name)?;
    let draft = begin(request, packing.time_unix)?;
    let tools = tools(request, &draft)?;

    let step = progress.step(format!("unpack {image}"));
    source::unpack_image(store, image, &tools, &step).map_err(RootError::from)?;
    tools.sandbox().make_mount_points().map_err(RootError::from)?;
    let before = changes::read_tree(&tools, &step)?;
    step.done(&format!("{} files", before.len()));

    let_edit(request, &tools, progress)?;
    let found = changes::find(request, &tools, &old, &before, progress)?;
    if !found.files.is_empty() {
        warn_of_secrets(&tools, &image.name, progress).map_err(RootError::from)?;
    }
    let outcome = match (request.dry_run, found.files.is_empty()) {
        (true, _) => None,
        (false, true) => Some(Outcome { image: image.clone(), reused: true }),
        (false, false) => {
            let root = pack::root(&tools, &old.kernel_release, draft.dir(), packing, progress)?;
            note_others(store, image, current.as_ref(), request.signing, progress)?;
            Some(publish_root(request, draft, old, root, packing, &found, progress)?)
        }
    };
    Ok(Edited { files: found.files, packages: found.package_changes, outcome })
}

/// Publishes `root`, which lies in the draft, with the kernel and the kernel modules of the old version.
fn publish_root(
    request: &EditRequest<'_>,
    draft: Draft,
    old: Manifest,
    root: Root,
    packing: Packing,
    found: &Changes,
    progress: &Progress,
) -> Result<Outcome, BuildError> {
    let EditRequest { store, image, programs, signing, .. } = *request;
    let names = [VMLINUZ, MICROCODE, MODULES, MODULES_FETCHED];
    let segments = segment_compression(store, image, &old)?;
    let manifest = Manifest {
        image: draft.image.clone(),
        artifacts: share(store, image, &old, &draft, |name| names.contains(&name))?,
        root: Some(root),
        packages: found.packages.clone(),
        build: origin(request, &old, packing, &found.files)?,
        ..old
    };
    publish::finish(draft, manifest, segments, programs, signing, progress)
}

/// How the new root is packed: as the old one was, unless the user wants it otherwise.
fn new_packing(request: &EditRequest<'_>, old: &Manifest, time_unix: i64) -> Result<Packing, BuildError> {
    let kind = root_kind(old, request.image)?;
    if let RootKind::FileSystem(format) = kind {
        file_system::require_program(format)?;
    }
    let compression = match kind {
        RootKind::FileSystem(FileSystemFormat::Erofs) => {
            if request.compression.is_some() || request.level.is_some() {
                return Err(EditError::Erofs.into());
            }
            CompressionSpec::new(Compression::Zstd, None, None)
        }
        _ => old_compression(request, old)?.overridden(request.compression, request.level),
    };
    let compression = compression.map_err(EditError::from)?;
    Ok(Packing { kind, compression, jobs: request.jobs, time_unix, source_date: source_date()? })
}

/// How the root of `old` was compressed. What it does not say is as a recipe that says nothing has it.
fn old_compression(request: &EditRequest<'_>, old: &Manifest) -> Result<CompressionSpec, EditError> {
    let format = match (old.build.root.packing, &old.root, request.compression) {
        (Some(packing), ..) => {
            let manifest::Packing { compression, level, x86_filter, chunk_bytes } = packing;
            let spec = CompressionSpec::new(compression, Some(level), Some(chunk_bytes))?;
            return Ok(CompressionSpec { x86_filter, ..spec });
        }
        (None, Some(Root::Archive(archive)), _) => archive.compression,
        (None, _, Some(wanted)) => wanted,
        (None, ..) => return Err(EditError::Packing { image: request.image.clone() }),
    };
    Ok(CompressionSpec::new(format, None, None)?)
}

fn root_kind(old: &Manifest, image: &ImageRef) -> Result<RootKind, EditError> {
    match &old.root {
        Some(Root::Archive(_)) => Ok(RootKind::Tmpfs),
        Some(Root::FileSystem(root)) => Ok(RootKind::FileSystem(root.format)),
        None => Err(EditError::NoRoot { image: image.clone(), mode: old.mode }),
    }
}

fn begin(request: &EditRequest<'_>, time_unix: i64) -> Result<Draft, BuildError> {
    let name = &request.image.name;
    Ok(match &request.version {
        Some(version) => {
            request.store.begin_named(&ImageRef { name: name.clone(), version: version.clone() })?
        }
        None => request.store.begin(name, &time_version(time_unix)?)?,
    })
}

fn tools(request: &EditRequest<'_>, draft: &Draft) -> Result<Tools, BuildError> {
    let absolute = |path: PathBuf| {
        std::path::absolute(&path).map_err(|source| RootError::Path { path: path.clone(), source })
    };
    let log = absolute(request.cache.join("logs"))?.join(format!("{}-shell.log", request.image.name));
    let sandbox = Sandbox::new(&absolute(draft.scratch()?.join("root"))?);
    Ok(Tools::new(sandbox, &log).map_err(RootError::from)?)
}

/// Runs the command in the root. Services that packages bring are not started.
fn let_edit(request: &EditRequest<'_>, tools: &Tools, progress: &Progress) -> Result<(), BuildError> {
    source::forbid_services(tools).map_err(RootError::from)?;
    let step = progress.step(format!("edit {}", request.image));
    let at_terminal = request.command.is_empty() && io::stdin().is_terminal() && io::stderr().is_terminal();
    if at_terminal {
        step.note("exit publishes what you have changed, exit 1 throws it away");
    }
    step.hand_over();
    let command = command(request, tools)?;
    let name = command.get_program().to_string_lossy().into_owned();
    let view = if request.network { View::RootOnline } else { View::Root };
    let console = if at_terminal { Console::Terminal } else { Console::Inherited };
    let status = tools.sandbox().run_attached(view, command, console).map_err(|error| match error {
        SandboxError::Interrupted { program } => EditError::Interrupted { program }.into(),
        error => BuildError::from(RootError::from(error)),
    })?;
    source::allow_services(tools).map_err(RootError::from)?;
    if status.success() { Ok(()) } else { Err(EditError::Ended { program: name, status }.into()) }
}

/// What runs in the root: with a prompt that says where one is, where the prompt shows a Debian chroot, and leaving no history.
fn command(request: &EditRequest<'_>, tools: &Tools) -> Result<Command, BuildError> {
    let mut command = match request.command {
        [name, arguments @ ..] => {
            let mut command = program(&name.to_string_lossy());
            command.args(arguments);
            command
        }
        [] if tools.root_has("bash").map_err(RootError::from)? => program("bash"),
        [] => program("sh"),
    };
    command.envs(std::env::var_os("TERM").map(|term| ("TERM", term)));
    command.env("debian_chroot", request.image.to_string());
    command.env("HISTFILE", "/dev/null").env("LESSHISTFILE", "-");
    Ok(command)
}

fn origin(
    request: &EditRequest<'_>,
    old: &Manifest,
    packed: Packing,
    files: &[Change],
) -> Result<Build, BuildError> {
    let edit = Sha256Digest::new(Sha256::digest(format!("edited {files:?}")).into());
    let bases = [Some(old.build.inputs), Some(edit)];
    Ok(Build {
        inputs: inputs_digest(&bases, Some(packed.compression), request.programs, request.signing)?,
        tool: tool(),
        host: host_name()?,
        time_unix: packed.time_unix,
        root: RootOrigin {
            edited_from: Some(request.image.clone()),
            packing: packing(packed.kind, packed.compression),
            selinux_policy: old.build.root.selinux_policy.clone(),
        },
    })
}

/// What the new version does not have that others have.
fn note_others(
    store: &Store,
    image: &ImageRef,
    current: Option<&ImageRef>,
    signing: &Signing,
    progress: &Progress,
) -> Result<(), StoreError> {
    let step = progress.step(format!("replace {image}"));
    if let Some(other) = store.current(&image.name)?.filter(|other| Some(other) != current) {
        step.note(&format!("warning: {other} has become current meanwhile, and is not in the new version"));
    }
    if store.signature(image)?.is_some() && signing.signer.is_none() {
        step.note("it is signed, and the new version is not: --sign-key signs it");
    }
    step.hand_over();
    Ok(())
}
