//! bootserve in a network, and a client's machine that is connected to it: for tests that need no node.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, ensure};
use tempfile::TempDir;

use crate::api;
use crate::daemon::Daemon;
use crate::deadline::wait_until;
use crate::held::Held;
use crate::netns::{BRIDGE, NetNs, SERVER_ADDRESS, SUBNET};
use crate::places::program;

/// The client's interface and address.
pub const CLIENT_INTERFACE: &str = "eth0";
/// See [`CLIENT_INTERFACE`].
pub const CLIENT_ADDRESS: &str = "192.168.0.2";
/// bootserve opens its sockets, closes what it does not need any more, or repeats a packet for the last time within this.
const LIMIT: Duration = Duration::from_secs(5);

/// The two, which end when this is dropped.
#[derive(Debug)]
pub struct Served {
    // In this order they are dropped.
    bootserve: Daemon,
    client: NetNs,
    server: NetNs,
    dir: TempDir,
}

impl Served {
    /// Serves what is in `dir`: images in `store`, files of single nodes in `overlays` if it is there, boot programs beside
    /// them. `network` are further keys of that table, `more` further sections of the configuration; of `starter` see
    /// [`NetNs::command_by`].
    pub fn start(dir: TempDir, network: &str, more: &str, starter: &[&str]) -> Result<Self> {
        crate::netns::sweep()?;
        let (server, client) = (NetNs::create()?, NetNs::empty()?);
        server.connect(&client, CLIENT_INTERFACE)?;
        client.add_address(CLIENT_INTERFACE, CLIENT_ADDRESS)?;
        fs::create_dir_all(dir.path().join("store"))?;
        let root = dir.path().display();
        let overlays = match dir.path().join("overlays").is_dir() {
            true => format!("overlays = '{root}/overlays'\n"),
            false => String::new(),
        };
        fs::write(
            dir.path().join("bootserve.toml"),
            format!(
                "[server]\ninterface = '{BRIDGE}'\naddress = '{SERVER_ADDRESS}'\nstore = '{root}/store'\n\
                 state = '{root}/state'\n{overlays}[network]\nsubnet = '{SUBNET}'\n{network}\n[nbp]\ndirs = ['{root}']\n{more}"
            ),
        )?;
        let bootserve = spawn(&server, dir.path(), starter)?;
        Ok(Self { bootserve, client, server, dir })
    }

    /// Kills it, and starts it again on its state.
    pub fn restart(&mut self, starter: &[&str]) -> Result<()> {
        self.server.kill_all()?;
        self.bootserve = spawn(&self.server, self.dir.path(), starter)?;
        Ok(())
    }

    /// The client's machine.
    pub fn client(&self) -> &NetNs {
        &self.client
    }

    /// The server's machine.
    pub fn server(&self) -> &NetNs {
        &self.server
    }

    /// A file of `dir`.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// What bootserve has logged since it was started last.
    pub fn says(&self) -> String {
        fs::read_to_string(log(self.dir.path())).unwrap_or_default()
    }

    /// What bootserve holds.
    pub fn held(&self) -> Result<Held> {
        Held::by(&self.server)
    }

    /// What it holds once that does not change any more.
    pub fn held_at_rest(&self) -> Result<Held> {
        let rests = || self.held().is_ok_and(|first| self.held().is_ok_and(|second| first == second));
        ensure!(wait_until(LIMIT, rests), "it changes: {:?}", self.held()?);
        self.held()
    }

    /// Fails if bootserve does not give up what it did not hold `before`.
    pub fn check_nothing_is_left(&self, before: &Held) -> Result<()> {
        let is_clean = wait_until(LIMIT, || self.held().is_ok_and(|now| now.is_within(before)));
        ensure!(is_clean, "before: {before:?}, now: {:?}", self.held()?);
        Ok(())
    }
}

fn log(dir: &Path) -> PathBuf {
    dir.join("bootserve.log")
}

/// Starts bootserve on the machine `server`, and waits until it serves. Its configuration is `bootserve.toml` in `dir`, its log
/// will be `bootserve.log` there; of `starter` see [`NetNs::command_by`].
pub fn spawn(server: &NetNs, dir: &Path, starter: &[&str]) -> Result<Daemon> {
    let mut command = server.command_by(starter, program("bootserve")?);
    command.args(["serve", "--config"]).arg(dir.join("bootserve.toml"));
    let daemon = Daemon::start(command, &log(dir))?;
    let serves = wait_until(LIMIT, || api::healthy(server).unwrap_or(false));
    ensure!(serves, "bootserve does not serve: {}", fs::read_to_string(log(dir))?);
    Ok(daemon)
}
