//! The boot, step by step.

use std::fs;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::OnceLock;
use std::time::Instant;

use bootspec::cmdline::BootParams;
use bootspec::event::Phase;
use bootspec::manifest::{BootMode, Manifest, Root};

use crate::failure::{self, BootError, BootResult};
use crate::report::BootRecord;
use crate::switch_root::switch_root;
use crate::unpack::{Carried, unpack};
use crate::{failsafe, image, kmsg, memory, mounts};

const CMDLINE: &str = "/proc/cmdline";
/// The root of the initramfs.
const INITRAMFS: &str = "/";
/// Where the root file system is unpacked before it becomes `/`.
const NEW_ROOT: &str = "/sysroot";

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
    mounts::mount_early()?;
    kmsg::open();
    kmsg::info(concat!("init ", env!("CARGO_PKG_VERSION")));
    let params = read_params()?;
    set_host_name(params);
    if params.mode == Some(BootMode::Failsafe) {
        // Before the manifest is looked at: a damaged image is a reason to ask for failsafe mode.
        return Ok(failsafe::run()?);
    }
    let manifest = image::read_manifest(Path::new(INITRAMFS))?;
    let mode = params.mode.unwrap_or(manifest.mode);
    kmsg::info(&format!("image {}, mode {mode}", manifest.image));
    match mode {
        BootMode::Failsafe => Ok(failsafe::run()?),
        BootMode::Carried | BootMode::Fetched => boot_carried(&manifest, params),
    }
}

fn boot_carried(manifest: &Manifest, params: &BootParams) -> BootResult {
    let mut record = BootRecord::new(manifest, params);
    let Some(Root::Archive(root)) = &manifest.root else {
        return Err(BootError::NoRoot(manifest.image.to_string()));
    };
    let chunks = image::find_chunks(Path::new(INITRAMFS), root)?;
    let memory = memory::read().map_err(|error| BootError::Proc("/proc/meminfo", error))?;
    let budget = memory::plan(memory, root, params, cores())?;

    mounts::mount_root(Path::new(NEW_ROOT), &budget.tmpfs_options)?;
    record.begin(Phase::Unpack);
    let started = Instant::now();
    kmsg::info(&format!("unpacking {} chunks with {} threads", root.chunks.len(), budget.workers));
    unpack(&Carried::new(&chunks, root), root, Path::new(NEW_ROOT), budget.workers)?;
    kmsg::info(&format!("unpacked {} inodes in {:.1} s", root.inodes, started.elapsed().as_secs_f64()));

    record.begin(Phase::SwitchRoot);
    record.save();
    switch_root(Path::new(NEW_ROOT), params)
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
