//! What happens when a boot cannot go on: the reason and the remedy are printed last, so that they stand on the screen,
//! and then the machine reboots, opens a shell, or halts (`bootnode.on_failure=`).

use std::convert::Infallible;
use std::fmt;
use std::thread::sleep;
use std::time::Duration;

use bootspec::ImageRef;
use bootspec::cmdline::{BootParams, OnFailure};
use bootspec::diagnosis::explain;
use bootspec::manifest::BootMode;
use rustix::system::{RebootCommand, reboot};

use crate::code::Code;
use crate::discover::DiscoverError;
use crate::fetch::FetchError;
use crate::image::ImageError;
use crate::jitter::{jitter, spread};
use crate::memory::TooLittle;
use crate::modules::ModulesError;
use crate::mounts::MountError;
use crate::network::NetworkError;
use crate::node_overlay::NodeOverlayError;
use crate::overlay_root::OverlayError;
use crate::secrets::SecretsError;
use crate::selinux::SelinuxError;
use crate::switch_root::SwitchRootError;
use crate::trust::TrustError;
use crate::unpack::{ChunkError, ExtractError, UnpackError};
use crate::{failsafe, kmsg, report};

/// A reason not to boot. `docs/operations.md` says more of each [`Code`] than the remedies here.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// A file system that every Linux has could not be mounted.
    #[error(transparent)]
    Mount(#[from] MountError),
    /// There is no usable image.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The keys of the initramfs cannot be read.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// The initramfs carries no image.
    #[error("the initramfs carries no image to boot in mode {0}")]
    NoImage(BootMode),
    /// The image has no root to boot in this mode.
    #[error("the image {0} has no root file system")]
    NoRoot(ImageRef),
    /// `bootnode.source=` is missing.
    #[error("mode fetched needs bootnode.source= on the kernel command line, to say where the image is")]
    NoSource,
    /// /proc/meminfo or /proc/cmdline could not be read.
    #[error("cannot read {0}")]
    Proc(&'static str, #[source] std::io::Error),
    /// The indexes of the kernel modules cannot be read.
    #[error(transparent)]
    Modules(#[from] ModulesError),
    /// The network does not come up.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// The image's SELinux policy cannot be loaded.
    #[error(transparent)]
    Selinux(#[from] SelinuxError),
    /// The image does not fit into memory.
    #[error(transparent)]
    Memory(#[from] TooLittle),
    /// A chunk is damaged or cannot be fetched or unpacked.
    #[error(transparent)]
    Unpack(#[from] UnpackError),
    /// The root's file system image is damaged or cannot be fetched or mounted.
    #[error(transparent)]
    Overlay(#[from] OverlayError),
    /// The node's own files cannot be laid over the root.
    #[error(transparent)]
    NodeOverlay(#[from] NodeOverlayError),
    /// The node's secrets cannot be had.
    #[error(transparent)]
    Secrets(#[from] SecretsError),
    /// The root cannot be entered.
    #[error(transparent)]
    SwitchRoot(#[from] SwitchRootError),
    /// No shell could be started.
    #[error(transparent)]
    Failsafe(#[from] failsafe::FailsafeError),
    /// The machine cannot be discovered.
    #[error(transparent)]
    Discover(#[from] DiscoverError),
}

/// The kind of a failure, and what to do about it.
type Kind = (Code, &'static str);

const IMAGE: Kind = (
    Code::Image,
    "run `imagebuild verify` on the head node; if that finds nothing, the initramfs did not arrive whole (too little memory for it?) or is of another release",
);
const KERNEL: Kind = (Code::Kernel, "boot the kernel of the image: vmlinuz and initramfs of one version");
const SIGNATURE: Kind = (
    Code::Signature,
    "sign the image (imagebuild build --sign-key) with a key that this initramfs trusts, or boot an image that is; if it was signed so, find out who has changed it",
);
const OTHER_IMAGE: Kind = (
    Code::OtherImage,
    "look at what lies below each URL of bootnode.source=: a mirror has another image there; copy it again. Or correct bootnode.image=",
);
const ROLLBACK: Kind = (
    Code::Rollback,
    "boot a newer version of the image, or lower the least rollback index if this one is meant",
);
const PROC: Kind = (Code::Proc, "boot a kernel with tmpfs, devtmpfs, proc and sysfs built in");
const MOUNT: Kind = (
    Code::Mount,
    "check bootnode.root_size= and bootnode.root_mpol= if it is /sysroot or /upper; else boot a kernel with tmpfs, devtmpfs, proc and sysfs built in",
);
const VERIFY: Kind = (
    Code::Verify,
    "the image was damaged on its way or by bad memory; run `imagebuild verify` on the head node, then test this node's memory",
);
const FETCH: Kind =
    (Code::Fetch, "check that bootserve runs, that it has this image version, and the network between");
const FULL: Kind = (
    Code::Full,
    "raise bootnode.root_size or bootnode.root_inodes, or leave them out; or give the node more memory",
);
const UNPACK: Kind = (Code::Unpack, "build the image again with imagebuild of this release");
const OVERLAY: Kind = (
    Code::Overlay,
    "build the image again: its kernel needs the modules loop, overlay and that of the root's file system",
);

impl BootError {
    /// A name for the kind of failure that stays the same from release to release.
    pub fn code(&self) -> Code {
        self.kind().0
    }

    fn remedy(&self) -> &'static str {
        self.kind().1
    }

    fn kind(&self) -> Kind {
        match self {
            Self::Mount(_) => MOUNT,
            Self::Proc(..) => PROC,
            Self::Image(error) => image_kind(error),
            Self::Trust(error) => trust_kind(error),
            Self::NoImage(_) => {
                (IMAGE.0, "boot this initramfs with bootnode.mode=fetched, or the image's initramfs.img")
            }
            Self::NoRoot(_) => (IMAGE.0, "boot this image in mode failsafe, or another image"),
            Self::NoSource => (IMAGE.0, "let bootserve write the command line, or add bootnode.source="),
            Self::Modules(_) => IMAGE,
            Self::Network(error) => (error.code(), error.remedy()),
            Self::Selinux(_) => (
                Code::Selinux,
                "build the image again: policy and kernel have to be of one distribution; or boot with selinux=0",
            ),
            Self::Memory(_) => (
                Code::Memory,
                "give the node more memory, or build a smaller image; or lower bootnode.reserve=",
            ),
            Self::Unpack(error) => unpack_kind(error),
            Self::Overlay(error) => overlay_kind(error),
            Self::NodeOverlay(error) => node_overlay_kind(error),
            Self::Secrets(error) => secrets_kind(error),
            Self::SwitchRoot(SwitchRootError::NoInit { .. }) => {
                (Code::NoInit, "install an init (systemd) in the image, or set init= to one that it has")
            }
            Self::SwitchRoot(_) => {
                (Code::SwitchRoot, "build the image again, and check that its kernel supports this machine")
            }
            Self::Failsafe(_) => (Code::Shell, "build the image on a machine with a static busybox"),
            Self::Discover(_) => (
                Code::Discover,
                "let bootserve write the command line, or add bootnode.report= with the address of a bootserve",
            ),
        }
    }
}

fn image_kind(error: &ImageError) -> Kind {
    match error {
        ImageError::Kernel { .. } => KERNEL,
        ImageError::Trust(error) => trust_kind(error),
        ImageError::Fetch(error) => fetch_kind(error),
        ImageError::Read(_) | ImageError::Manifest(_) | ImageError::NoChunk(_) => IMAGE,
    }
}

fn trust_kind(error: &TrustError) -> Kind {
    match error {
        TrustError::OtherImage { .. } => OTHER_IMAGE,
        TrustError::Rollback { .. } => ROLLBACK,
        TrustError::Read { .. } | TrustError::Key { .. } | TrustError::Index(_) => IMAGE,
        TrustError::Signature { .. } => SIGNATURE,
    }
}

fn fetch_kind(error: &FetchError) -> Kind {
    match error {
        FetchError::Damaged { .. } => VERIFY,
        FetchError::Url(_) | FetchError::Refused { .. } | FetchError::GivenUp { .. } | FetchError::Ended => {
            FETCH
        }
    }
}

fn unpack_kind(error: &UnpackError) -> Kind {
    match error {
        UnpackError::Chunk(ChunkError::Damaged { .. }) => VERIFY,
        UnpackError::Chunk(ChunkError::Fetch(error)) => fetch_kind(error),
        UnpackError::Extract { source: ExtractError::Io { source, .. }, .. } if is_full(source) => FULL,
        UnpackError::Chunk(ChunkError::Read { .. })
        | UnpackError::Extract { .. }
        | UnpackError::Target { .. } => UNPACK,
    }
}

fn overlay_kind(error: &OverlayError) -> Kind {
    match error {
        OverlayError::Damaged { .. } => VERIFY,
        OverlayError::Fetch(error) => fetch_kind(error),
        OverlayError::Io { source, .. } if is_full(source) => FULL,
        OverlayError::Io { source, .. } if source.kind() == std::io::ErrorKind::UnexpectedEof => IMAGE,
        OverlayError::Upper(_) => MOUNT,
        OverlayError::Io { .. } | OverlayError::Loop(..) | OverlayError::Mount(_) => OVERLAY,
    }
}

fn node_overlay_kind(error: &NodeOverlayError) -> Kind {
    match error {
        NodeOverlayError::Trust(TrustError::Signature { .. }) => (
            Code::Signature,
            "sign the node's overlay (imagebuild sign) with a key that this initramfs trusts; if it was signed so, find out who has changed it",
        ),
        NodeOverlayError::Trust(error) => trust_kind(error),
        NodeOverlayError::Fetch(FetchError::Refused { .. }) => {
            (Code::Fetch, "look in the log of bootserve for `overlay refused`, which says why")
        }
        NodeOverlayError::Fetch(error) => fetch_kind(error),
        NodeOverlayError::Extract { source, .. } => match unpack_kind(source) {
            UNPACK => (
                Code::NodeOverlay,
                "make the node's overlay again: a tar of plain files, directories and links with relative names",
            ),
            kind => kind,
        },
        NodeOverlayError::TooLarge { .. } => (
            Code::NodeOverlay,
            "put what is alike on many nodes into an image, and leave it out of the overlay",
        ),
        NodeOverlayError::Read { .. } | NodeOverlayError::Url(_) => {
            (Code::NodeOverlay, "check the node's overlay in the configuration of bootserve")
        }
    }
}

fn secrets_kind(error: &SecretsError) -> Kind {
    match error {
        SecretsError::Trust(TrustError::Signature { .. }) => (
            Code::Signature,
            "name a key that this initramfs trusts in server.overlay_key; if there is one, find out who has changed the secrets",
        ),
        SecretsError::Trust(error) => trust_kind(error),
        SecretsError::Refused { .. } => {
            (Code::Secrets, "look in the log of bootserve for `secrets refused`, which says why")
        }
        SecretsError::Certificate(_) => (
            Code::Secrets,
            "find out who answers in place of bootserve; if its certificate was renewed a moment ago, the next boot is in order",
        ),
        SecretsError::NoNetwork => (Code::Secrets, "boot the node in mode fetched, or give it no secrets"),
        SecretsError::Read { .. } | SecretsError::Credential(_) | SecretsError::Answer(_) => {
            (Code::Secrets, "boot again; if that does not help, init and bootserve are of different releases")
        }
        SecretsError::GivenUp { .. } => {
            (Code::Secrets, "check that bootserve runs, that it speaks TLS ([tls]), and the network between")
        }
    }
}

fn is_full(error: &std::io::Error) -> bool {
    error.kind() == std::io::ErrorKind::StorageFull
}

/// Ends a boot that failed: says why, then does what `params` ask for. Never returns.
pub fn give_up(error: &BootError, params: &BootParams) -> ! {
    let end = End::of(params, jitter());
    say(error.code(), &explain(error), error.remedy(), end);
    act(end)
}

/// The same for a defect of init itself.
pub fn give_up_on_panic(panic: &str, params: &BootParams) -> ! {
    let remedy = "report this with the lines above, and boot the version before";
    let end = End::of(params, jitter());
    say(Code::Panic, &format!("init has a defect: {panic}"), remedy, end);
    act(end)
}

/// What becomes of the machine.
#[derive(Clone, Copy, Debug)]
struct End {
    policy: OnFailure,
    /// Before a reboot.
    delay: Duration,
}

impl End {
    /// As `params` ask for. The delay is [`BootParams::retry_delay`], spread by `jitter`: nodes that failed together, because
    /// the boot server was away, are not to come back together.
    fn of(params: &BootParams, jitter: f64) -> Self {
        Self { policy: params.on_failure, delay: spread(params.retry_delay(), jitter) }
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.policy {
            OnFailure::Reboot => write!(f, "rebooting in {:.0} s", self.delay.as_secs_f64()),
            OnFailure::Shell => f.write_str("opening a shell"),
            OnFailure::Halt => f.write_str("halting"),
        }
    }
}

fn act(end: End) -> ! {
    match end.policy {
        OnFailure::Reboot => restart(end.delay),
        OnFailure::Halt => request(RebootCommand::Halt),
        OnFailure::Shell => {
            let Err(error) = failsafe::run();
            kmsg::error(&format!("cannot open a shell: {}", explain(&error)));
            restart(end.delay)
        }
    }
}

fn restart(delay: Duration) -> ! {
    sleep(delay);
    request(RebootCommand::Restart)
}

/// PID 1 must not return. The kernel refuses a reboot only to processes without the capability.
pub(crate) fn request(command: RebootCommand) -> ! {
    loop {
        if let Err(errno) = reboot(command) {
            kmsg::error(&format!("the kernel refuses to reboot: {errno}"));
        }
        sleep(Duration::from_secs(10));
    }
}

/// bootserve is told first, since what is said last stays on the screen.
fn say(code: Code, reason: &str, remedy: &str, end: End) {
    let words = [format!("FAILED [{code}]: {reason}; {end}"), format!("remedy: {remedy}")];
    report::failed(code, reason, &words);
    words.iter().for_each(|word| kmsg::error(word));
}

/// A boot that succeeds never returns.
pub type BootResult = Result<Infallible, BootError>;

#[cfg(test)]
mod tests {
    use super::*;
    use bootspec::signature::SignatureError;

    fn check(error: impl Into<BootError>, code: Code, remedy: &str) {
        let error = error.into();
        assert_eq!(error.code(), code, "{error}");
        assert!(error.remedy().contains(remedy), "{error}: {}", error.remedy());
    }

    fn refused() -> FetchError {
        FetchError::Refused { name: "node-001.tar".into(), answers: "HTTP status 403".into() }
    }

    fn unsigned() -> TrustError {
        TrustError::Signature { what: "it", source: SignatureError::Missing { keys: 1 } }
    }

    #[test]
    fn nodes_that_failed_together_reboot_at_different_times() {
        let end = |line: &str, jitter| End::of(&BootParams::parse(line).0, jitter).to_string();
        let reboots =
            [0.0, 0.5, 1.0].map(|jitter| end("bootnode.failure_delay=10 bootnode.attempt=2", jitter));
        assert_eq!(reboots, ["rebooting in 20 s", "rebooting in 40 s", "rebooting in 60 s"]);
        assert_eq!(end("bootnode.failure_delay=0", 1.0), "rebooting in 0 s");
        assert_eq!(end("bootnode.on_failure=halt", 1.0), "halting");
    }

    #[test]
    fn what_was_refused_or_is_not_signed_decides_what_is_to_be_done() {
        check(ImageError::Fetch(refused()), Code::Fetch, "has this image version");
        check(NodeOverlayError::Fetch(refused()), Code::Fetch, "`overlay refused`");
        check(ImageError::Trust(unsigned()), Code::Signature, "build --sign-key");
        check(NodeOverlayError::Trust(unsigned()), Code::Signature, "(imagebuild sign)");
    }

    #[test]
    fn the_layer_that_is_written_to_is_a_tmpfs_like_a_root_that_is_unpacked() {
        let failed = || MountError {
            action: "mount",
            target: "/upper as tmpfs".into(),
            source: std::io::Error::other("Invalid argument"),
        };
        check(failed(), Code::Mount, "bootnode.root_mpol=");
        check(OverlayError::Upper(failed()), Code::Mount, "bootnode.root_mpol=");
        check(OverlayError::Mount(failed()), Code::Overlay, "modules loop, overlay");
    }

    #[test]
    fn what_the_root_does_not_let_in_is_no_failure_to_mount() {
        let failed = |action| MountError {
            action,
            target: "/run".into(),
            source: std::io::Error::other("Not a directory"),
        };
        check(failed("mount"), Code::Mount, "devtmpfs, proc and sysfs built in");
        check(SwitchRootError::Move(failed("move")), Code::SwitchRoot, "build the image again");
    }

    #[test]
    fn a_full_root_is_told_from_an_archive_that_cannot_be_unpacked() {
        let unpack = |source| {
            let source = ExtractError::Io { action: "write", path: "usr".into(), source };
            UnpackError::Extract { chunk: "bootnode/chunks/00001.tar.xz".into(), source }
        };
        check(unpack(std::io::ErrorKind::StorageFull.into()), Code::Full, "bootnode.root_size");
        check(unpack(std::io::Error::other("x")), Code::Unpack, "build the image again");
        let source = Box::new(unpack(std::io::Error::other("x")));
        check(
            NodeOverlayError::Extract { what: "the node's overlay", source },
            Code::NodeOverlay,
            "make the node's overlay again",
        );
    }
}
