//! From the initramfs into the unpacked root.
//!
//! pivot_root(2) does not work on the initramfs (before Linux 7.0), so its contents are deleted, the root is moved over
//! `/`, and chroot(2) follows (kernel: Documentation/filesystems/ramfs-rootfs-initramfs.rst).

use std::convert::Infallible;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use bootspec::cmdline::BootParams;
use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Mode, OFlags, ResolveFlags, fstat, openat, openat2, statat, statfs, unlinkat,
};
use rustix::io::Errno;
use rustix::mount::mount_move;
use rustix::process::{chdir, chroot};
use rustix::stdio::{dup2_stderr, dup2_stdin, dup2_stdout};

use crate::kmsg;
use crate::mounts::{self, MountError};

/// Magic numbers of the two file systems that an initramfs can be (linux/magic.h).
const RAMFS_MAGIC: i64 = 0x8584_58f6;
const TMPFS_MAGIC: i64 = 0x0102_1994;

const CONSOLE: &str = "/dev/console";
const ANY_EXECUTE: u32 = 0o111;

/// The root cannot be entered.
#[derive(Debug, thiserror::Error)]
pub enum SwitchRootError {
    /// There is nothing to execute.
    #[error("the root file system has no {path} to execute")]
    NoInit {
        /// What was looked for in the root.
        path: String,
        /// Why it is not there.
        #[source]
        source: io::Error,
    },
    /// Deleting the contents of `/` would not be deleting an initramfs.
    #[error("refusing to empty /: {0}")]
    NotInitramfs(&'static str),
    /// What init mounted cannot be moved below the root.
    #[error(transparent)]
    Move(MountError),
    /// A system call failed.
    #[error("cannot {action} {path}")]
    Io {
        /// What was attempted.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// Makes `root` the root of the file system tree and executes its init with the arguments that the kernel gave us.
pub fn switch_root(root: &Path, params: &BootParams) -> Result<Infallible, SwitchRootError> {
    let program = params.init_path();
    check_initramfs(root)?;
    mounts::move_early(root).map_err(SwitchRootError::Move)?;
    empty_initramfs(root)?;
    enter(root)?;
    reopen_console();
    kmsg::info(&format!("exec {program}"));
    let error = Command::new(program).args(std::env::args_os().skip(1)).exec();
    Err(failed("execute", Path::new(program))(error))
}

/// Checks that there is a `program` to execute in `root`.
///
/// Follows symbolic links as they will be followed once `root` is `/`: /sbin/init is usually an absolute one.
pub fn check_init(root: &Path, program: &str) -> Result<(), SwitchRootError> {
    let dir = open_directory(root)?;
    match openat2(&dir, program, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), ResolveFlags::IN_ROOT) {
        Ok(file) => {
            let stat = fstat(&file).map_err(|errno| failed("look at", Path::new(program))(errno.into()))?;
            let is_file = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
            if is_file && stat.st_mode & ANY_EXECUTE != 0 {
                return Ok(());
            }
            let source = io::Error::other("it is not an executable file");
            Err(SwitchRootError::NoInit { path: program.to_owned(), source })
        }
        // openat2 came with Linux 5.6. Without it, a missing init is found out by exec.
        Err(Errno::NOSYS) => Ok(()),
        Err(errno) => Err(SwitchRootError::NoInit { path: program.to_owned(), source: errno.into() }),
    }
}

fn check_initramfs(root: &Path) -> Result<(), SwitchRootError> {
    if std::process::id() != 1 {
        return Err(SwitchRootError::NotInitramfs("this process is not PID 1"));
    }
    let magic = statfs("/").map_err(|errno| failed("look at", Path::new("/"))(errno.into()))?.f_type;
    if magic != RAMFS_MAGIC && magic != TMPFS_MAGIC {
        return Err(SwitchRootError::NotInitramfs("it is neither a ramfs nor a tmpfs"));
    }
    if device(Path::new("/"))? == device(root)? {
        return Err(SwitchRootError::NotInitramfs("the new root lies on the same file system"));
    }
    Ok(())
}

fn device(path: &Path) -> Result<u64, SwitchRootError> {
    use std::os::unix::fs::MetadataExt;
    fs::metadata(path).map(|metadata| metadata.dev()).map_err(failed("look at", path))
}

/// Frees the memory of the initramfs. What lies on other file systems, the new root among it, is left alone.
fn empty_initramfs(root: &Path) -> Result<(), SwitchRootError> {
    let dir = open_directory(Path::new("/"))?;
    let own_device = device(Path::new("/"))?;
    empty(&dir, own_device).map_err(|errno| failed("empty the initramfs before entering", root)(errno.into()))
}

fn empty(dir: &OwnedFd, own_device: u64) -> Result<(), Errno> {
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        let stat = statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
        if stat.st_dev != own_device {
            continue;
        }
        if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
            unlinkat(dir, name, AtFlags::empty())?;
            continue;
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        empty(&openat(dir, name, flags, Mode::empty())?, own_device)?;
        match unlinkat(dir, name, AtFlags::REMOVEDIR) {
            // A mount point, or a directory that leads to one: its memory is a few hundred bytes.
            Ok(()) | Err(Errno::BUSY | Errno::NOTEMPTY) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

fn enter(root: &Path) -> Result<(), SwitchRootError> {
    let errno = |action| move |errno: Errno| failed(action, root)(errno.into());
    chdir(root).map_err(errno("enter"))?;
    mount_move(".", "/").map_err(errno("move to / the mount"))?;
    chroot(".").map_err(errno("change the root to"))?;
    chdir("/").map_err(errno("enter"))
}

/// The kernel gave us the console of the initramfs, which is deleted by now. systemd opens its own; others, a shell among
/// them, go on with what they get.
fn reopen_console() {
    let reopen = || {
        let console = openat(CWD, CONSOLE, OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty())?;
        dup2_stdin(&console)?;
        dup2_stdout(&console)?;
        dup2_stderr(&console)
    };
    if let Err(errno) = reopen() {
        kmsg::warn(&format!("cannot open {CONSOLE}: {errno}"));
    }
}

fn open_directory(path: &Path) -> Result<OwnedFd, SwitchRootError> {
    openat(CWD, path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|errno| failed("open", path)(errno.into()))
}

fn failed<'a>(action: &'static str, path: &'a Path) -> impl Fn(io::Error) -> SwitchRootError + 'a {
    move |source| SwitchRootError::Io { action, path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bootspec::diagnosis::explain;
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn absolute_links_to_init_are_followed_inside_the_root() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("usr/lib")).unwrap();
        fs::create_dir_all(root.path().join("sbin")).unwrap();
        let systemd = root.path().join("usr/lib/systemd-of-this-test");
        fs::write(&systemd, "").unwrap();
        symlink("/usr/lib/systemd-of-this-test", root.path().join("sbin/init")).unwrap();
        let error = explain(&check_init(root.path(), "/sbin/init").unwrap_err());
        assert!(error.contains("not an executable file"), "{error}");
        fs::set_permissions(&systemd, PermissionsExt::from_mode(0o755)).unwrap();
        check_init(root.path(), "/sbin/init").unwrap();
    }

    #[test]
    fn a_missing_init_is_named() {
        let root = tempfile::tempdir().unwrap();
        let error = check_init(root.path(), "/sbin/init").unwrap_err();
        assert!(error.to_string().contains("no /sbin/init"), "{error}");
    }

    #[test]
    fn nothing_is_emptied_outside_pid_1() {
        assert!(matches!(check_initramfs(Path::new("/tmp")), Err(SwitchRootError::NotInitramfs(_))));
    }

    #[test]
    fn emptying_removes_all_kinds_of_objects_and_follows_no_link() {
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("kept"), "").unwrap();
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("a/b")).unwrap();
        fs::write(dir.path().join("a/b/file"), "x").unwrap();
        symlink(outside.path(), dir.path().join("link")).unwrap();
        empty(&open_directory(dir.path()).unwrap(), device(dir.path()).unwrap()).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        assert!(outside.path().join("kept").exists());
    }

    #[test]
    fn other_file_systems_are_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("file"), "x").unwrap();
        let other_device = device(dir.path()).unwrap() + 1;
        empty(&open_directory(dir.path()).unwrap(), other_device).unwrap();
        assert!(dir.path().join("file").exists());
    }
}
