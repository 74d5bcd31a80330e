//! The file systems that init and everything after it need.

use std::ffi::CStr;
use std::fs;
use std::io;
use std::path::Path;

use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags, mount, mount_move, mount_remount, unmount};

use crate::kmsg;

/// A mount could not be made.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {target}")]
pub struct MountError {
    /// What was attempted.
    pub action: &'static str,
    /// Where.
    pub target: String,
    /// Why not.
    #[source]
    pub source: io::Error,
}

struct EarlyMount {
    target: &'static str,
    file_system: &'static str,
    flags: MountFlags,
    options: &'static CStr,
}

const SAFE: MountFlags = MountFlags::NOSUID.union(MountFlags::NODEV).union(MountFlags::NOEXEC);

/// In this order: the log needs /dev and /proc. The options are those that systemd would choose.
const EARLY: [EarlyMount; 4] = [
    EarlyMount { target: "/proc", file_system: "proc", flags: SAFE, options: c"" },
    EarlyMount { target: "/sys", file_system: "sysfs", flags: SAFE, options: c"" },
    EarlyMount { target: "/dev", file_system: "devtmpfs", flags: MountFlags::NOSUID, options: c"mode=755" },
    EarlyMount {
        target: "/run",
        file_system: "tmpfs",
        flags: MountFlags::NOSUID.union(MountFlags::NODEV),
        options: c"mode=755",
    },
];

/// Mounts /proc, /sys, /dev and /run.
pub fn mount_early() -> Result<(), MountError> {
    for EarlyMount { target, file_system, flags, options } in EARLY {
        let failed = |source| MountError { action: "mount", target: target.to_owned(), source };
        fs::create_dir_all(target).map_err(failed)?;
        mount(file_system, target, file_system, flags, options).map_err(|errno| failed(errno.into()))?;
    }
    Ok(())
}

/// Moves what [`mount_early`] mounted below `root`.
pub fn move_early(root: &Path) -> Result<(), MountError> {
    for EarlyMount { target, .. } in EARLY {
        let moved = root.join(target.trim_start_matches('/'));
        let failed = |source| MountError { action: "move", target: target.to_owned(), source };
        fs::create_dir_all(&moved).map_err(failed)?;
        mount_move(target, &moved).map_err(|errno| failed(errno.into()))?;
    }
    Ok(())
}

/// Mounts a tmpfs with `options`.
pub fn mount_tmpfs(target: &Path, options: &str) -> Result<(), MountError> {
    mount_at(Path::new("rootfs"), target, "tmpfs", MountFlags::empty(), options)
}

/// Lets the tmpfs at `target` take memory in folios larger than a page while `work` writes to it, which halves what the
/// kernel takes to write a file (tmpfs(5), `huge=`, of any size since Linux 6.14). No folio is larger than its file.
/// Afterwards it takes pages again: in a file with holes that somebody else writes, folios would fill the holes with memory.
pub fn with_large_folios<T>(target: &Path, work: impl FnOnce() -> T) -> T {
    // Kernels may be built without them.
    let large = set_huge(target, c"huge=within_size");
    let done = work();
    if large.is_ok()
        && let Err(errno) = set_huge(target, c"huge=never")
    {
        kmsg::warn(&format!("cannot make {} take pages again: {errno}", target.display()));
    }
    done
}

fn set_huge(target: &Path, option: &CStr) -> Result<(), Errno> {
    mount_remount(target, MountFlags::empty(), option)
}

/// Mounts the `file_system` on `device`, which is never written to.
pub fn mount_read_only(device: &Path, target: &Path, file_system: &str) -> Result<(), MountError> {
    mount_at(device, target, file_system, MountFlags::RDONLY, "")
}

/// Mounts SELinux's own file system.
pub fn mount_selinuxfs(target: &Path) -> Result<(), MountError> {
    mount_at(Path::new("selinuxfs"), target, "selinuxfs", MountFlags::NOSUID | MountFlags::NOEXEC, "")
}

/// Mounts an overlay of the two layers; `work` lies on the file system of `upper`.
pub fn mount_overlay(lower: &Path, upper: &Path, work: &Path, target: &Path) -> Result<(), MountError> {
    let (lower, upper, work) = (lower.display(), upper.display(), work.display());
    let options = format!("lowerdir={lower},upperdir={upper},workdir={work}");
    mount_at(Path::new("rootfs"), target, "overlay", MountFlags::empty(), &options)
}

/// Takes the mount at `target` out of the tree. It ends when nobody uses it any more.
pub fn detach(target: &Path) -> Result<(), MountError> {
    unmount(target, UnmountFlags::DETACH).map_err(|errno| MountError {
        action: "detach",
        target: target.display().to_string(),
        source: errno.into(),
    })
}

fn mount_at(
    source: &Path,
    target: &Path,
    file_system: &str,
    flags: MountFlags,
    options: &str,
) -> Result<(), MountError> {
    let failed = |source| MountError {
        action: "mount",
        target: format!("{} as {file_system} with options '{options}'", target.display()),
        source,
    };
    fs::create_dir_all(target).map_err(failed)?;
    mount(source, target, file_system, flags, options_c(options).as_c_str())
        .map_err(|errno| failed(errno.into()))
}

/// Options are made of numbers, of names of ours, and of a policy whose characters are checked, so they hold no NUL.
fn options_c(options: &str) -> std::ffi::CString {
    std::ffi::CString::new(options).expect("mount options hold no NUL")
}
