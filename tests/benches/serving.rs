//! Where servers are measured: one machine for the server, one for its clients, and a cable between them. Ours and its
//! peers run there in turn, each alone.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bootlab::daemon::Daemon;
use bootlab::deadline::wait_until;
use bootlab::netns::{BRIDGE, NetNs, SERVER_ADDRESS};
use bootlab::places::{BIN_DIR_VARIABLE, RunDir, program};
use nix::errno::Errno;
use nix::time::{ClockId, clock_getcpuclockid};
use rustix::process::Pid;

use crate::measure::status_bytes;

/// The clients' interface and address.
pub const CLIENT_INTERFACE: &str = "eth0";
pub const CLIENT_ADDRESS: &str = "192.168.0.2";
/// A server opens its sockets within this.
const START: Duration = Duration::from_secs(5);

/// The two machines.
pub struct Wire {
    // In this order they are dropped; the end of the server's takes the cable with it.
    pub client: NetNs,
    pub server: NetNs,
    dir: RunDir,
}

impl Wire {
    /// A new cable; `name` names the directory of the files.
    pub fn connect(name: &str) -> Result<Self> {
        bootlab::netns::sweep()?;
        let (server, client) = (NetNs::create()?, NetNs::empty()?);
        server.connect(&client, CLIENT_INTERFACE)?;
        client.add_address(CLIENT_INTERFACE, CLIENT_ADDRESS)?;
        Ok(Self { client, server, dir: RunDir::create(name)? })
    }

    /// The directory of the files, empty at first.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Starts a server's program, and waits until `is_up`, which is asked again and again.
    pub fn start(&self, command: Command, is_up: impl FnMut() -> bool) -> Result<Running<'_>> {
        let program = format!("{command:?}");
        let log = self.dir().join("server.log");
        let daemon = Daemon::start(command, &log)?;
        ensure!(wait_until(START, is_up), "{program} does not serve; log: {}", log.display());
        Ok(Running { server: &self.server, _daemon: daemon })
    }

    /// Starts bootserve as it is installed, with a new state; `more` are further sections of its configuration.
    pub fn start_bootserve(&self, store: &Path, more: &str) -> Result<Running<'_>> {
        let state = self.dir().join("state");
        if state.exists() {
            fs::remove_dir_all(&state)?;
        }
        let config = self.dir().join("bootserve.toml");
        let (store, state) = (store.display(), state.display());
        fs::write(
            &config,
            format!(
                "[server]\ninterface = '{BRIDGE}'\naddress = '{SERVER_ADDRESS}'\nstore = '{store}'\n\
                 state = '{state}'\nhttp_port = 80\n{more}"
            ),
        )?;
        let mut command = self.server.command(release_bootserve()?);
        command.args(["serve", "--config"]).arg(&config);
        self.start(command, || bootlab::api::healthy(&self.server).unwrap_or(false))
    }
}

/// What `make bench` builds beside the programs of the inner loop.
fn release_bootserve() -> Result<PathBuf> {
    let debug = program("bootserve")?;
    let target = debug.parent().and_then(Path::parent).context("bootserve is not in a target directory")?;
    let path = target.join("release/bootserve");
    ensure!(path.is_file(), "there is no {}\nhint: make bench builds it; {BIN_DIR_VARIABLE}", path.display());
    Ok(path)
}

/// A server that runs, until this is dropped.
pub struct Running<'a> {
    _daemon: Daemon,
    server: &'a NetNs,
}

impl Drop for Running<'_> {
    /// Killed alone, a server leaves its workers behind, and they the port.
    fn drop(&mut self) {
        if !wait_until(START, || !self.server.kill_all().unwrap_or(false)) {
            eprintln!("bench: a server does not end");
        }
    }
}

impl Running<'_> {
    /// Its processes.
    pub fn pids(&self) -> Result<Vec<Pid>> {
        Ok(self.server.pids()?)
    }

    /// CPU seconds that all of its processes have taken until now.
    pub fn cpu_seconds(&self) -> Result<f64> {
        self.server.pids()?.into_iter().map(cpu_seconds).sum()
    }

    /// The most memory that its one process has held at a time (proc_pid_status(5)).
    pub fn peak_memory_bytes(&self) -> Result<u64> {
        let pid = self.server.pids()?.first().map(|pid| pid.as_raw_nonzero()).context("it does not run")?;
        status_bytes(&pid.to_string(), "VmHWM")
    }
}

/// User and system time of all threads of a process, those that have ended too (clock_getcpuclockid(3)); /proc has it in steps of 10 ms. None of
/// a process that is gone.
fn cpu_seconds(pid: Pid) -> Result<f64> {
    let clock = clock_getcpuclockid(nix::unistd::Pid::from_raw(pid.as_raw_pid()));
    match clock.and_then(ClockId::now) {
        Ok(time) => Ok(Duration::from(time).as_secs_f64()),
        Err(Errno::ESRCH | Errno::EINVAL) => Ok(0.0),
        Err(error) => Err(error.into()),
    }
}
