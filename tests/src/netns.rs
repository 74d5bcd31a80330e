//! A network namespace with a bridge: the private network of one lab.
//!
//! The name tells the process that owns it, so that [`sweep`] can remove what a killed process left behind.
//! Configured with ip(8): the few calls do not justify a netlink library.

use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::{fs, io, panic, thread};

use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// The bridge's name inside the namespace.
pub const BRIDGE: &str = "br0";
/// The bridge's address, which is the boot server's.
pub const SERVER_ADDRESS: &str = "192.168.0.1";
/// The lab's network.
pub const SUBNET: &str = "192.168.0.0/24";

/// A starter ([`NetNs::command_by`]) that gives a program a /dev/shm of its own, for one that shares its names there with all
/// of its kind, or leaves files behind. What is mounted is the program's own: ip(8) gives each a table of mounts.
pub const WITH_OWN_SHM: [&str; 3] = ["sh", "-c", r#"mount -t tmpfs shm /dev/shm && exec "$0" "$@""#];

const PREFIX: &str = "bootlab-";
/// Where ip(8) keeps the handles of named namespaces.
const NETNS_DIR: &str = "/run/netns";

/// A namespace could not be made or entered.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// ip(8) could not be started.
    #[error("cannot run ip(8)\nhint: run scripts/setup, which installs iproute2")]
    Spawn(#[source] io::Error),
    /// ip(8) refused.
    #[error("ip {arguments}: {stderr}\nhint: network namespaces need root and the tun module")]
    Refused {
        /// What was asked of it.
        arguments: String,
        /// What it said.
        stderr: String,
    },
    /// A thread could not move into the namespace.
    #[error("cannot enter the network namespace {name}")]
    Enter {
        /// The namespace.
        name: String,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// A network namespace of its own, removed with everything in it when dropped.
#[derive(Debug)]
pub struct NetNs {
    name: String,
    taps: AtomicU32,
}

impl NetNs {
    /// Makes a namespace with a bridge that has [`SERVER_ADDRESS`].
    pub fn create() -> Result<Self, Error> {
        Self::with_bridge(SERVER_ADDRESS)
    }

    /// Makes a namespace with a bridge that has `address`, of a network of 24 bits. Frames pass from the first second on:
    /// the bridge has no forward delay, which would swallow a firmware's first DHCP packets.
    pub fn with_bridge(address: &str) -> Result<Self, Error> {
        let netns = Self::empty()?;
        netns.ip(["link", "add", BRIDGE, "type", "bridge", "forward_delay", "0"])?;
        netns.add_address(BRIDGE, address)?;
        netns.ip(["link", "set", BRIDGE, "up"])?;
        Ok(netns)
    }

    /// Makes a namespace that is connected to nothing.
    pub fn empty() -> Result<Self, Error> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("{PREFIX}{}-{count}", std::process::id());
        ip(["netns", "add", &name])?;
        let netns = Self { name, taps: AtomicU32::new(0) };
        netns.ip(["link", "set", "lo", "up"])?;
        Ok(netns)
    }

    /// The name by which `ip netns exec NAME` finds it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Plugs a cable into the bridge, the other end of which is the interface `name` of `other`.
    pub fn connect(&self, other: &Self, name: &str) -> Result<(), Error> {
        let end = format!("to-{name}");
        self.ip(["link", "add", &end, "type", "veth", "peer", "name", name, "netns", &other.name])?;
        self.ip(["link", "set", &end, "master", BRIDGE, "up"])?;
        other.ip(["link", "set", name, "up"])?;
        Ok(())
    }

    /// Gives `interface` an address of a network of 24 bits.
    pub fn add_address(&self, interface: &str, address: &str) -> Result<(), Error> {
        self.ip(["address", "add", &format!("{address}/24"), "dev", interface]).map(|_| ())
    }

    /// Sends what goes to `subnet` by way of `router`.
    pub fn route(&self, subnet: &str, router: &str) -> Result<(), Error> {
        self.ip(["route", "add", subnet, "via", router]).map(|_| ())
    }

    /// Adds a tap to the bridge and returns its name.
    pub fn add_tap(&self) -> Result<String, Error> {
        let tap = format!("tap{}", self.taps.fetch_add(1, Ordering::Relaxed));
        self.ip(["tuntap", "add", "dev", &tap, "mode", "tap"])?;
        self.ip(["link", "set", &tap, "master", BRIDGE, "up"])?;
        Ok(tap)
    }

    /// Takes all nodes off the bridge while `work` goes on: their packets are lost, and nobody answers in place of a server
    /// that is away.
    pub fn unplugged<T>(&self, work: impl FnOnce() -> T) -> Result<T, Error> {
        let taps = || (0..self.taps.load(Ordering::Relaxed)).map(|number| format!("tap{number}"));
        for tap in taps() {
            self.ip(["link", "set", &tap, "nomaster"])?;
        }
        let done = work();
        for tap in taps() {
            self.ip(["link", "set", &tap, "master", BRIDGE])?;
        }
        Ok(done)
    }

    /// A command that will run inside the namespace. The process started is `program` itself, not a wrapper.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        self.command_by(&[], program)
    }

    /// The same by way of `starter`: a program, with its arguments, that then becomes the one named behind them: env(1),
    /// prlimit(1), [`WITH_OWN_SHM`].
    pub fn command_by(&self, starter: &[&str], program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).args(starter).arg(program);
        command
    }

    /// Runs `work` on a thread inside the namespace: sockets it opens belong to the lab's network.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, Error> {
        let enter = || {
            let handle = File::open(PathBuf::from(NETNS_DIR).join(&self.name))?;
            move_into_link_name_space(handle.as_fd(), Some(LinkNameSpaceType::Network))?;
            Ok(work())
        };
        let result = thread::scope(|scope| scope.spawn(enter).join());
        result
            .unwrap_or_else(|payload| panic::resume_unwind(payload))
            .map_err(|source| Error::Enter { name: self.name.clone(), source })
    }

    /// Kills all that runs in it; whether there was anything.
    pub fn kill_all(&self) -> Result<bool, Error> {
        kill_all(&self.name)
    }

    /// The processes that run in it.
    pub fn pids(&self) -> Result<Vec<Pid>, Error> {
        pids(&self.name)
    }

    fn ip<const N: usize>(&self, arguments: [&str; N]) -> Result<String, Error> {
        ip(["-netns", self.name()].into_iter().chain(arguments))
    }
}

impl Drop for NetNs {
    fn drop(&mut self) {
        // A namespace that cannot be removed now is found by the next process' sweep.
        if let Err(error) = remove(&self.name) {
            eprintln!("bootlab: {error}");
        }
    }
}

/// Removes the namespaces of processes that exist no more, with the programs that still run in them.
pub fn sweep() -> Result<(), Error> {
    remove_where(|owner| !PathBuf::from(format!("/proc/{owner}")).exists())
}

/// Removes the namespaces of this process, for a process that is told to end and cannot unwind.
pub fn remove_own() -> Result<(), Error> {
    remove_where(|owner| owner == std::process::id())
}

fn remove_where(condemned: impl Fn(u32) -> bool) -> Result<(), Error> {
    // The directory appears with the first namespace ever made.
    let Ok(entries) = fs::read_dir(NETNS_DIR) else { return Ok(()) };
    for name in entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()) {
        if !owner(&name).is_some_and(&condemned) {
            continue;
        }
        if let Err(error) = remove(&name) {
            // Another test may have removed it meanwhile.
            if PathBuf::from(NETNS_DIR).join(&name).exists() {
                return Err(error);
            }
        }
    }
    Ok(())
}

/// The process that made the namespace `name`, if it is one of ours.
fn owner(name: &str) -> Option<u32> {
    let (pid, _count) = name.strip_prefix(PREFIX)?.split_once('-')?;
    pid.parse().ok()
}

fn remove(name: &str) -> Result<(), Error> {
    kill_all(name)?;
    ip(["netns", "delete", name]).map(drop)
}

fn kill_all(name: &str) -> Result<bool, Error> {
    let pids = pids(name)?;
    for pid in &pids {
        // It may have ended by itself since it was listed.
        let _ = kill_process(*pid, Signal::KILL);
    }
    Ok(!pids.is_empty())
}

fn pids(name: &str) -> Result<Vec<Pid>, Error> {
    let listed = ip(["netns", "pids", name])?;
    Ok(listed.lines().filter_map(|line| line.trim().parse().ok()).filter_map(Pid::from_raw).collect())
}

fn ip<'a>(arguments: impl IntoIterator<Item = &'a str>) -> Result<String, Error> {
    let arguments: Vec<&str> = arguments.into_iter().collect();
    let output = Command::new("ip").args(&arguments).stdin(Stdio::null()).output().map_err(Error::Spawn)?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let stderr = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(Error::Refused { arguments: arguments.join(" "), stderr })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_namespaces_have_an_owner() {
        let names =
            [("bootlab-71-0", Some(71)), ("bootlab-71", None), ("bootlab-x-0", None), ("other-71-0", None)];
        for (name, expected) in names {
            assert_eq!(owner(name), expected, "{name}");
        }
    }
}
