//! A busybox shell on every console, started again whenever it ends.

use std::collections::HashMap;
use std::convert::Infallible;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::process::{Child, Command};
use std::thread::sleep;
use std::time::{Duration, Instant};

use bootspec::initramfs::BUSYBOX;
use rustix::process::{Pid, WaitOptions, wait};

use crate::kmsg;

/// Lists the consoles that the kernel prints to, the preferred one last (kernel: Documentation/ABI/testing/sysfs-tty).
const ACTIVE_CONSOLES: &str = "/sys/class/tty/console/active";
/// A shell that ended sooner than this is started again only after a pause of the same length.
const SHORT_LIFE: Duration = Duration::from_secs(1);

/// No shell can run.
#[derive(Debug, thiserror::Error)]
pub enum FailsafeError {
    /// The initramfs was built without busybox.
    #[error("there is no /{BUSYBOX} in the initramfs")]
    NoBusybox,
    /// The list of consoles cannot be read.
    #[error("cannot read {ACTIVE_CONSOLES}")]
    Consoles(#[source] io::Error),
    /// There is nowhere to run a shell.
    #[error("no shell could be started on any of the consoles: {0}")]
    NoConsole(String),
}

/// Runs shells until the machine is rebooted. Returns only if none can be started.
pub fn run() -> Result<Infallible, FailsafeError> {
    if !fs::exists(format!("/{BUSYBOX}")).unwrap_or(false) {
        return Err(FailsafeError::NoBusybox);
    }
    install_applets();
    let active = fs::read_to_string(ACTIVE_CONSOLES).map_err(FailsafeError::Consoles)?;
    let mut shells = HashMap::new();
    for console in active.split_whitespace().map(terminal) {
        start(console, &mut shells);
    }
    if shells.is_empty() {
        return Err(FailsafeError::NoConsole(active));
    }
    loop {
        reap(&mut shells);
    }
}

struct Shell {
    console: String,
    started: Instant,
}

/// /dev/tty0 is whichever virtual terminal is in front; a shell needs one of its own.
fn terminal(console: &str) -> String {
    if console == "tty0" { "tty1".to_owned() } else { console.to_owned() }
}

/// busybox without its applets' names is of little use. It says itself what it could not link.
fn install_applets() {
    let _ = Command::new(format!("/{BUSYBOX}")).args(["--install", "-s", "/bin"]).status();
}

fn start(console: String, shells: &mut HashMap<Pid, Shell>) {
    match spawn(&console) {
        Ok(child) => {
            kmsg::info(&format!("failsafe: shell on {console}; `reboot -f` restarts the machine"));
            let pid = Pid::from_child(&child);
            shells.insert(pid, Shell { console, started: Instant::now() });
        }
        Err(error) => kmsg::warn(&format!("failsafe: no shell on {console}: {error}")),
    }
}

/// A login shell whose controlling terminal is `console`.
fn spawn(console: &str) -> io::Result<Child> {
    let terminal: File = OpenOptions::new().read(true).write(true).open(format!("/dev/{console}"))?;
    Command::new(format!("/{BUSYBOX}"))
        .args(["setsid", "-c", "sh", "-l"])
        .env_clear()
        .envs([("PATH", "/bin:/sbin"), ("HOME", "/"), ("TERM", "linux"), ("PS1", "bootnode failsafe# ")])
        .stdin(terminal.try_clone()?)
        .stdout(terminal.try_clone()?)
        .stderr(terminal)
        .spawn()
}

/// Waits for any child. All orphans of the machine are PID 1's children; only shells are started again.
fn reap(shells: &mut HashMap<Pid, Shell>) {
    let ended = match wait(WaitOptions::empty()) {
        Ok(Some((pid, _))) => shells.remove(&pid),
        // Nothing is left to wait for: every console is gone.
        Ok(None) | Err(_) => {
            sleep(SHORT_LIFE);
            None
        }
    };
    if let Some(shell) = ended {
        if shell.started.elapsed() < SHORT_LIFE {
            sleep(SHORT_LIFE);
        }
        start(shell.console, shells);
    }
}
