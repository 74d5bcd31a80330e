//! The boot, step by step.

use std::fs;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::OnceLock;
use std::time::Instant;

use bootspec::cmdline::BootParams;
use bootspec::diagnosis::explain;
use bootspec::event::Phase;
use bootspec::manifest::{BootMode, Manifest, Root, RootArchive, RootFileSystem};

use crate::failure::{self, BootError, BootResult};
use crate::fetch::Fetcher;
use crate::memory::{self, Addition, Memory, Supply};
use crate::modules::Modules;
use crate::network::{self, Network};
use crate::node_overlay::{self, NodeOverlay};
use crate::secrets::{self, CredentialFile, SecretsError};
use crate::switch_root::{check_init, switch_root};
use crate::sys::give_back_large_blocks;
use crate::trust::Trust;
use crate::unpack::{Carried, Fetched, unpack};
use crate::{discover, failsafe, image, kmsg, mounts, overlay_root, report, selinux};

const CMDLINE: &str = "/proc/cmdline";
/// The root of the initramfs.
const INITRAMFS: &str = "/";
/// Where the root file system is unpacked before it becomes `/`.
const NEW_ROOT: &str = "/sysroot";
/// Chunks fetched ahead of those that are being unpacked. The bound is on memory; two keep the connection busy.
const READ_AHEAD_CHUNKS: usize = 2;

static PARAMS: OnceLock<BootParams> = OnceLock::new();

/// Boots the machine. Every way out is an exec, a shell or the failure policy.
pub fn boot() -> ! {
    std::panic::set_hook(Box::new(|panic| failure::give_up_on_panic(&panic.to_string(), &params())));
    let Err(error) = run();
    failure::give_up(&error, &params())
}

/// The parameters, once they are read; what they are by default until then.
fn params() -> BootParams {
    PARAMS.get().cloned().unwrap_or_default()
}

fn run() -> BootResult {
    give_back_large_blocks();
    mounts::mount_early()?;
    kmsg::open();
    kmsg::info(concat!("init ", env!("CARGO_PKG_VERSION")));
    let params = read_params()?;
    let credential = secrets::take(Path::new(INITRAMFS))?;
    set_host_name(params);
    if params.mode == Some(BootMode::Failsafe) {
        // Before the manifest is looked at: a damaged image is a reason to ask for failsafe mode.
        return Ok(failsafe::run()?);
    }
    let trust = Trust::read(Path::new(INITRAMFS), params)?;
    let carried = image::read_manifest(Path::new(INITRAMFS), &trust)?;
    // An initramfs without an image is there to fetch one.
    let mode = params.mode.or(carried.as_ref().map(|manifest| manifest.mode)).unwrap_or(BootMode::Fetched);
    match mode {
        BootMode::Failsafe => Ok(failsafe::run()?),
        BootMode::Carried => {
            boot_carried(&carried.ok_or(BootError::NoImage(mode))?, credential.is_some(), params, &trust)
        }
        BootMode::Fetched => boot_fetched(credential, params, &trust),
        BootMode::Discover => discover::run(carried.as_ref(), params),
    }
}

/// Boots the image that rides in the initramfs. There is no network.
fn boot_carried(manifest: &Manifest, has_secrets: bool, params: &BootParams, trust: &Trust) -> BootResult {
    report::begin(Some(&manifest.image), params);
    kmsg::info(&format!("image {}, carried by the initramfs", manifest.image));
    if has_secrets {
        return Err(SecretsError::NoNetwork.into());
    }
    image::check_kernel(manifest)?;
    let mut modules = Modules::read(Path::new(INITRAMFS))?;
    let own_files: Vec<_> = node_overlay::take(Path::new(INITRAMFS), trust)?.into_iter().collect();
    make_root(manifest, Origin::Initramfs, &own_files, params, &mut modules)?;
    complete_root(own_files, params)?;
    report::phase(Phase::SwitchRoot);
    report::save();
    Ok(switch_root(Path::new(NEW_ROOT), params)?)
}

/// Fetches the image over the network, and boots it.
fn boot_fetched(credential: Option<CredentialFile>, params: &BootParams, trust: &Trust) -> BootResult {
    let sources = params.source.clone().ok_or(BootError::NoSource)?;
    report::begin(params.image.as_ref(), params);
    report::phase(Phase::Network);
    let mut modules = Modules::read(Path::new(INITRAMFS))?;
    let network = network::up(params, &mut modules)?;
    report::network_is_up(params);
    kmsg::info(&format!("fetching from {sources}"));
    let fetcher = Fetcher::new(sources, params.fetch_timeout);
    let manifest = image::fetch_manifest(&fetcher, trust)?;
    kmsg::info(&format!("image {}, fetched", manifest.image));
    image::check_kernel(&manifest)?;
    let node_overlay = node_overlay::fetch(params, trust)?;
    let secrets = secrets::fetch(credential, params, trust)?;
    let own_files: Vec<_> = node_overlay.into_iter().chain(secrets).collect();
    make_root(&manifest, Origin::Network(&fetcher), &own_files, params, &mut modules)?;
    complete_root(own_files, params)?;
    report::phase(Phase::SwitchRoot);
    report::save();
    leave_network(&network);
    Ok(switch_root(Path::new(NEW_ROOT), params)?)
}

/// Where the root comes from.
#[derive(Clone, Copy)]
enum Origin<'a> {
    /// The initramfs carries it.
    Initramfs,
    /// It is fetched.
    Network(&'a Fetcher),
}

impl Origin<'_> {
    fn supply(self) -> Supply {
        match self {
            Self::Initramfs => Supply::Carried,
            Self::Network(_) => Supply::Fetched,
        }
    }
}

/// Makes the root file system at [`NEW_ROOT`], with room for what is to be laid over it.
fn make_root(
    manifest: &Manifest,
    origin: Origin<'_>,
    own_files: &[NodeOverlay],
    params: &BootParams,
    modules: &mut Modules,
) -> Result<(), BootError> {
    selinux::load_policy(Path::new(INITRAMFS))?;
    let memory =
        memory::read(Path::new(INITRAMFS)).map_err(|error| BootError::Proc("/proc/meminfo", error))?;
    let addition = own_files.iter().map(NodeOverlay::addition).fold(Addition::default(), Addition::and);
    match &manifest.root {
        None => Err(BootError::NoRoot(manifest.image.clone())),
        Some(Root::Archive(root)) => unpack_root(root, origin, addition, params, memory),
        Some(Root::FileSystem(root)) => overlay_root(root, origin, addition, params, memory, modules),
    }
}

/// Unpacks the archive into a tmpfs.
fn unpack_root(
    root: &RootArchive,
    origin: Origin<'_>,
    addition: Addition,
    params: &BootParams,
    memory: Memory,
) -> Result<(), BootError> {
    let target = Path::new(NEW_ROOT);
    let budget = memory::plan(memory, root, origin.supply(), addition, params, cores())?;
    mounts::mount_tmpfs(target, &budget.tmpfs_options)?;
    report::phase(Phase::Unpack);
    let started = Instant::now();
    kmsg::info(&format!("unpacking {} chunks with {} threads", root.chunks.len(), budget.workers));
    mounts::with_large_folios(target, || unpack_from(origin, root, target, budget.workers))?;
    kmsg::info(&format!("unpacked {} inodes in {:.1} s", root.inodes, started.elapsed().as_secs_f64()));
    Ok(())
}

fn unpack_from(
    origin: Origin<'_>,
    root: &RootArchive,
    target: &Path,
    workers: NonZeroUsize,
) -> Result<(), BootError> {
    match origin {
        Origin::Initramfs => {
            let chunks = image::find_chunks(Path::new(INITRAMFS), root)?;
            Ok(unpack(&Carried::new(&chunks, root), root, target, workers)?)
        }
        Origin::Network(fetcher) => {
            let file = root.file.as_str();
            let pieces = root.pieces().collect();
            let stream = fetcher.stream(file, root.compressed_bytes(), pieces, READ_AHEAD_CHUNKS);
            Ok(unpack(&Fetched::new(stream), root, target, workers)?)
        }
    }
}

/// Mounts the file system image under a tmpfs.
fn overlay_root(
    root: &RootFileSystem,
    origin: Origin<'_>,
    addition: Addition,
    params: &BootParams,
    memory: Memory,
    modules: &mut Modules,
) -> Result<(), BootError> {
    let upper_options = memory::plan_overlay(memory, root, origin.supply(), addition, params)?;
    report::phase(Phase::Unpack);
    let image = match origin {
        Origin::Initramfs => overlay_root::open_carried(Path::new(INITRAMFS), root, cores())?,
        Origin::Network(fetcher) => overlay_root::fetch(fetcher, root)?,
    };
    overlay_root::mount(&image, root.format, &upper_options, Path::new(NEW_ROOT), modules)?;
    kmsg::info(&format!("mounted the {} image under a tmpfs", root.format));
    Ok(())
}

/// Lays the node's own files over the root, and sees that there is an init to hand over to.
fn complete_root(own_files: Vec<NodeOverlay>, params: &BootParams) -> Result<(), BootError> {
    let root = Path::new(NEW_ROOT);
    for files in own_files {
        files.apply(root)?;
    }
    Ok(check_init(root, params.init_path())?)
}

/// The image's own network configuration finds the interface as it would find it on any other machine.
fn leave_network(network: &Network) {
    report::network_is_down();
    if let Err(error) = network.down() {
        kmsg::warn(&explain(&error));
    }
}

fn read_params() -> Result<&'static BootParams, BootError> {
    let line = fs::read(CMDLINE).map_err(|error| BootError::Proc(CMDLINE, error))?;
    let (params, problems) = BootParams::parse(&String::from_utf8_lossy(&line));
    for problem in problems {
        kmsg::warn(&format!("kernel command line: {problem}; ignored"));
    }
    Ok(PARAMS.get_or_init(|| params))
}

/// The image's own init keeps this name unless the image has one of its own.
fn set_host_name(params: &BootParams) {
    let Some(node) = &params.node else { return };
    if let Err(errno) = rustix::system::sethostname(node.as_str().as_bytes()) {
        kmsg::warn(&format!("cannot set the host name to {node}: {errno}"));
    }
}

fn cores() -> NonZeroUsize {
    std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN)
}
