//! What happens when a boot cannot go on: the reason and the remedy are printed last, so that they stand on the screen,
//! and then the machine reboots, opens a shell, or halts (`bootnode.on_failure=`).

use std::convert::Infallible;
use std::thread::sleep;

use bootspec::cmdline::{BootParams, OnFailure};
use bootspec::diagnosis::explain;
use rustix::system::{RebootCommand, reboot};

use crate::image::ImageError;
use crate::memory::TooLittle;
use crate::mounts::MountError;
use crate::switch_root::SwitchRootError;
use crate::unpack::{ChunkError, UnpackError};
use crate::{failsafe, kmsg};

/// A reason not to boot. The codes and remedies are documented in `docs/operations.md`.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// A file system that every Linux has could not be mounted.
    #[error(transparent)]
    Mount(#[from] MountError),
    /// The initramfs holds no usable image.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The image has no root to boot in this mode.
    #[error("the image {0} carries no root file system")]
    NoRoot(String),
    /// /proc/meminfo or /proc/cmdline could not be read.
    #[error("cannot read {0}")]
    Proc(&'static str, #[source] std::io::Error),
    /// The image does not fit into memory.
    #[error(transparent)]
    Memory(#[from] TooLittle),
    /// A chunk is damaged or cannot be unpacked.
    #[error(transparent)]
    Unpack(#[from] UnpackError),
    /// The unpacked root cannot be entered.
    #[error(transparent)]
    SwitchRoot(#[from] SwitchRootError),
    /// No shell could be started.
    #[error(transparent)]
    Failsafe(#[from] failsafe::FailsafeError),
}

impl BootError {
    /// A name for the kind of failure that stays the same from release to release.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Mount(_) => "E-MOUNT",
            Self::Image(_) | Self::NoRoot(_) => "E-IMAGE",
            Self::Proc(..) => "E-PROC",
            Self::Memory(_) => "E-MEMORY",
            Self::Unpack(UnpackError::Chunk(ChunkError::Damaged { .. })) => "E-VERIFY",
            Self::Unpack(_) => "E-UNPACK",
            Self::SwitchRoot(SwitchRootError::NoInit { .. }) => "E-NOINIT",
            Self::SwitchRoot(_) => "E-SWITCHROOT",
            Self::Failsafe(_) => "E-SHELL",
        }
    }

    fn remedy(&self) -> &'static str {
        match self {
            Self::Mount(_) | Self::Proc(..) => "boot a kernel with tmpfs, devtmpfs, proc and sysfs built in",
            Self::NoRoot(_) => "boot this image without bootnode.mode=carried, or another image",
            Self::Image(_) => {
                "the initramfs did not arrive whole (too little memory for it?) or was not made by imagebuild of this release; run `imagebuild verify` on the head node"
            }
            Self::Memory(_) => "give the node more memory, or build a smaller image",
            Self::Unpack(UnpackError::Chunk(ChunkError::Damaged { .. })) => {
                "the image was damaged on its way or by bad memory; run `imagebuild verify` on the head node, then test this node's memory"
            }
            Self::Unpack(_) => {
                "raise bootnode.root_size or bootnode.root_inodes if the root is full; else build the image again"
            }
            Self::SwitchRoot(SwitchRootError::NoInit { .. }) => {
                "install an init (systemd) in the image, or set init= to one that it has"
            }
            Self::SwitchRoot(_) => "build the image again, and check that its kernel supports this machine",
            Self::Failsafe(_) => "build the image on a machine with a static busybox",
        }
    }
}

/// Ends a boot that failed: says why, then does what `params` ask for. Never returns.
pub fn give_up(error: &BootError, params: &BootParams) -> ! {
    print(error.code(), &explain(error), error.remedy(), params);
    act(params)
}

/// The same for a defect of init itself.
pub fn give_up_on_panic(panic: &str, params: &BootParams) -> ! {
    let remedy = "report this with the lines above, and boot the version before";
    print("E-PANIC", &format!("init has a defect: {panic}"), remedy, params);
    act(params)
}

fn act(params: &BootParams) -> ! {
    match params.on_failure {
        OnFailure::Reboot => restart(params),
        OnFailure::Halt => request(RebootCommand::Halt),
        OnFailure::Shell => {
            let Err(error) = failsafe::run();
            kmsg::error(&format!("cannot open a shell: {}", explain(&error)));
            restart(params)
        }
    }
}

/// Waits as [`BootParams::retry_delay`] says, then reboots.
fn restart(params: &BootParams) -> ! {
    sleep(params.retry_delay());
    request(RebootCommand::Restart)
}

/// PID 1 must not return. The kernel refuses a reboot only to processes without the capability.
fn request(command: RebootCommand) -> ! {
    loop {
        if let Err(errno) = reboot(command) {
            kmsg::error(&format!("the kernel refuses to reboot: {errno}"));
        }
        sleep(std::time::Duration::from_secs(10));
    }
}

fn print(code: &str, reason: &str, remedy: &str, params: &BootParams) {
    let next = match params.on_failure {
        OnFailure::Reboot => format!("rebooting in {} s", params.retry_delay().as_secs()),
        OnFailure::Shell => "opening a shell".to_owned(),
        OnFailure::Halt => "halting".to_owned(),
    };
    kmsg::error(&format!("FAILED [{code}]: {reason}; {next}"));
    kmsg::error(&format!("remedy: {remedy}"));
}

/// A boot that succeeds never returns.
pub type BootResult = Result<Infallible, BootError>;
