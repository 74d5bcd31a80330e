//! The system calls for a sandbox that no safe API offers: giving a thread or the process namespaces of its own, and
//! starting a process that dies with its parent or has a terminal of its own.
#![allow(unsafe_code, reason = "unshare(2) and work between fork(2) and execve(2) have no safe API")]

use std::ffi::CString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::mount::{MountFlags, mount};
use rustix::process::{
    PidfdFlags, Signal, getpid, ioctl_tiocsctty, pidfd_open, set_parent_process_death_signal, setsid,
};
use rustix::stdio::stdin;
use rustix::thread::{UnshareFlags, unshare_unsafe};

/// Gives the process, which has no other thread, a user namespace of its own. It has no id there until one is mapped.
pub fn unshare_user() -> io::Result<()> {
    unshare(UnshareFlags::NEWUSER)
}

/// Gives the calling thread namespaces of its own: mounts, host name and System V IPC; root and working directory as
/// well; and, unless it is `online`, a network without any interface that is up.
pub fn unshare_thread(online: bool) -> io::Result<()> {
    let mut flags = UnshareFlags::NEWNS | UnshareFlags::NEWUTS | UnshareFlags::NEWIPC;
    flags.set(UnshareFlags::NEWNET, !online);
    unshare(flags)
}

/// Gives the calling thread a network of its own without any interface that is up, and nothing else.
pub fn unshare_network() -> io::Result<()> {
    unshare(UnshareFlags::NEWNET)
}

/// Makes `command` start as the first process of a PID namespace: it sees its own namespace in each of `proc_dirs`,
/// and the kernel kills it, and with it the whole namespace, when the thread that starts it ends for any reason. The
/// calling thread can start this process alone, and no thread.
pub fn start_as_namespace_init(command: &mut Command, proc_dirs: Vec<CString>) -> io::Result<()> {
    unshare(UnshareFlags::NEWPID)?;
    let parent = pidfd_open(getpid(), PidfdFlags::empty())?;
    let prepare = move || {
        set_parent_process_death_signal(Some(Signal::KILL))?;
        refuse_if_ended(&parent)?;
        for dir in &proc_dirs {
            let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
            mount(c"proc", dir.as_c_str(), c"proc", flags, None)?;
        }
        Ok(())
    };
    // SAFETY: between fork and exec the closure makes system calls only, on values made before the fork. It neither
    // allocates nor takes a lock: the paths are C strings already, and an io::Error of an errno owns no memory.
    unsafe { command.pre_exec(prepare) };
    Ok(())
}

fn unshare(flags: UnshareFlags) -> io::Result<()> {
    assert!(!flags.contains(UnshareFlags::FILES));
    // SAFETY: UnshareFlags::FILES is not among the flags, so file descriptors stay shared with the other threads.
    Ok(unsafe { unshare_unsafe(flags) }?)
}

/// Makes `command` lead a session whose controlling terminal is its standard input.
pub fn lead_session(command: &mut Command) {
    let lead = || {
        setsid()?;
        Ok(ioctl_tiocsctty(stdin())?)
    };
    // SAFETY: between fork and exec the closure makes two system calls. It neither allocates nor takes a lock, and standard
    // input, by now the command's, is open.
    unsafe { command.pre_exec(lead) };
}

/// The parent may have ended before the death signal was set; then nobody would send it.
fn refuse_if_ended(parent: &OwnedFd) -> io::Result<()> {
    let mut ended = [PollFd::new(parent, PollFlags::IN)];
    match poll(&mut ended, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))? {
        0 => Ok(()),
        _ => Err(io::ErrorKind::BrokenPipe.into()),
    }
}
