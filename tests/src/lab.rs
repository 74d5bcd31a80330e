//! A lab: its network, its boot server, and the nodes that boot in it.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::str::FromStr;
use std::time::{Duration, Instant, SystemTime};

use bootspec::event::Phase;
use bootspec::store::NodeName;
use serde::Deserialize;
use serde::de::IntoDeserializer;
use serde::de::value::{Error as ValueError, StrDeserializer};

use crate::accel::Accel;
use crate::bootserve::{self, Bootserve};
use crate::console::{self, Console};
use crate::direct::DirectSpec;
use crate::firmware::{self, FirmwareFiles};
use crate::netns::{self, NetNs};
use crate::places::{self, RunDir};
use crate::qemu::{self, NodeSpec};
use crate::timeline::Timeline;
use crate::{api, deadline};

/// How often bootserve is asked for news of a node; its console tells at once.
const POLL: Duration = Duration::from_millis(300);
/// From init's report of a failure to its last line.
const FAILURE_LINES: Duration = Duration::from_secs(2);

/// A lab could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The network.
    #[error(transparent)]
    Network(#[from] netns::Error),
    /// Files and programs.
    #[error(transparent)]
    Places(#[from] places::Error),
    /// The boot server.
    #[error(transparent)]
    Bootserve(#[from] bootserve::Error),
    /// A node's firmware.
    #[error(transparent)]
    Firmware(#[from] firmware::Error),
    /// A node's machine.
    #[error("{node}: cannot run {program}, which logs to {}\nhint: run scripts/setup, which installs qemu", .log.display())]
    Machine {
        /// Which node.
        node: NodeName,
        /// qemu.
        program: &'static str,
        /// Its log.
        log: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// A node did not come as far as expected.
#[derive(Debug, thiserror::Error)]
#[error("{node}: {problem}; expected '{goal}', reached '{}'\n{tail}\nother logs: {}", phase_or_power_on(.reached), .logs.display())]
pub struct BootError {
    node: NodeName,
    goal: Goal,
    problem: Problem,
    reached: Option<Phase>,
    tail: console::Tail,
    logs: PathBuf,
}

#[derive(Debug, thiserror::Error)]
enum Problem {
    #[error("not there after {} s", .0.as_secs())]
    Late(Duration),
    #[error("the boot failed")]
    Failed,
    #[error("the machine went off")]
    Off,
    #[error("the shell does not answer")]
    ShellSilent,
}

fn phase_or_power_on(phase: &Option<Phase>) -> String {
    phase.as_ref().map_or_else(|| "power-on".to_owned(), Phase::to_string)
}

/// How far a node is expected to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Goal {
    /// The phase has begun.
    Phase(Phase),
    /// The failsafe shell on the console answers a command. That is recorded as [`Phase::Ready`].
    FailsafeShell,
    /// A machine in mode discover knows what it is made of and checks in. That is recorded as [`Phase::Ready`].
    Discovered,
}

impl FromStr for Goal {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        match s {
            "failsafe-shell" => return Ok(Self::FailsafeShell),
            "discovered" => return Ok(Self::Discovered),
            _ => {}
        }
        let name: StrDeserializer<'_, ValueError> = s.into_deserializer();
        let expected = |error| format!("{error}, or `failsafe-shell` or `discovered`");
        Phase::deserialize(name).map(Self::Phase).map_err(expected)
    }
}

impl std::fmt::Display for Goal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Phase(phase) => phase.fmt(f),
            Self::FailsafeShell => f.write_str("failsafe-shell"),
            Self::Discovered => f.write_str("discovered"),
        }
    }
}

/// A private network and what runs in it. Dropped, it ends all of that; its logs stay.
#[derive(Debug)]
pub struct Lab {
    // In this order they are dropped: the server before its network.
    server: Option<Bootserve>,
    netns: NetNs,
    dir: RunDir,
}

impl Lab {
    /// A network without a boot server. `name` names the directory of its logs.
    pub fn without_server(name: &str) -> Result<Self, SetupError> {
        netns::sweep()?;
        Ok(Self { server: None, netns: NetNs::create()?, dir: RunDir::create(name)? })
    }

    /// A network with a bootserve that serves `store` to `nodes`.
    pub fn start(name: &str, store: &Path, nodes: &[NodeSpec]) -> Result<Self, SetupError> {
        Self::start_in_mode(name, store, nodes, "authoritative")
    }

    /// The same with another `dhcp.mode`.
    pub fn start_in_mode(
        name: &str,
        store: &Path,
        nodes: &[NodeSpec],
        mode: &'static str,
    ) -> Result<Self, SetupError> {
        let mut lab = Self::without_server(name)?;
        let state = lab.dir.make_state_dir()?;
        lab.server = Some(Bootserve::start(&lab.netns, lab.dir.path(), store, &state, nodes, mode)?);
        Ok(lab)
    }

    /// The network.
    pub fn netns(&self) -> &NetNs {
        &self.netns
    }

    /// The directory of the logs.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The boot server. Panics in a lab without one.
    pub fn server(&self) -> &Bootserve {
        self.server.as_ref().expect("the lab was started with a server")
    }

    /// Powers a node on.
    pub fn boot(&self, spec: &NodeSpec) -> Result<Node, SetupError> {
        self.boot_in(&self.netns, spec)
    }

    /// Powers on a node whose network card is in another network of the lab.
    pub fn boot_in(&self, netns: &NetNs, spec: &NodeSpec) -> Result<Node, SetupError> {
        let firmware = FirmwareFiles::prepare(spec.firmware, &spec.name, self.dir())?;
        let tap = netns.add_tap()?;
        self.start_machine(netns, &spec.name, spec.arguments(Accel::detect(), &tap, &firmware))
    }

    /// Powers on a machine that has its kernel already.
    pub fn boot_directly(&self, spec: &DirectSpec) -> Result<Node, SetupError> {
        self.start_machine(&self.netns, &spec.name, spec.arguments(Accel::detect()))
    }

    fn start_machine(
        &self,
        netns: &NetNs,
        name: &NodeName,
        arguments: Vec<OsString>,
    ) -> Result<Node, SetupError> {
        let log = self.dir().join(format!("qemu-{name}.log"));
        let start = || {
            let power_on = SystemTime::now();
            let mut machine = netns
                .command(qemu::program())
                .args(arguments)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(File::create(&log)?)
                .spawn()?;
            let (output, keyboard) = machine.stdout.take().zip(machine.stdin.take()).expect("both are piped");
            let console = Console::start(output, keyboard, self.dir.console_log(name.as_str()))?;
            Ok(Node { name: name.clone(), machine, console, power_on })
        };
        start().map_err(|source| {
            let (node, program, log) = (name.clone(), qemu::program(), log.clone());
            SetupError::Machine { node, program, log, source }
        })
    }

    /// Waits until `node` has come as far as `goal`; `limit` is as [`deadline::within`] takes it.
    pub fn wait_for(&self, node: &Node, goal: Goal, limit: Duration) -> Result<Timeline, BootError> {
        self.follow(node, goal, deadline::within(limit), |_, _| {})
    }

    /// Waits until `node` has begun `phase`.
    pub fn wait_for_phase(&self, node: &Node, phase: Phase, limit: Duration) -> Result<Timeline, BootError> {
        self.wait_for(node, Goal::Phase(phase), limit)
    }

    /// Waits no longer than `limit` until `node` has come as far as `goal`, and tells of each phase on the way, with
    /// the time since power-on.
    pub fn follow(
        &self,
        node: &Node,
        goal: Goal,
        limit: Duration,
        mut on_phase: impl FnMut(Phase, Duration),
    ) -> Result<Timeline, BootError> {
        let deadline = Instant::now() + limit;
        let mut timeline = Timeline::new(node.power_on);
        let mut told = Vec::new();
        loop {
            let progress = self.progress(node, goal, deadline, &mut timeline);
            for (phase, at) in
                timeline.phases().filter(|(phase, _)| !told.contains(phase)).collect::<Vec<_>>()
            {
                on_phase(phase, at);
                told.push(phase);
            }
            let problem = match progress {
                Ok(true) => return Ok(timeline),
                Ok(false) if Instant::now() < deadline => continue,
                Ok(false) => Problem::Late(limit),
                Err(problem) => problem,
            };
            let (node, tail, logs) = (node.name.clone(), node.console.tail(), self.dir().to_owned());
            return Err(BootError { node, goal, problem, reached: timeline.last(), tail, logs });
        }
    }

    /// Collects what is new about a node and tells whether it has reached the goal, waiting a little if not.
    fn progress(
        &self,
        node: &Node,
        goal: Goal,
        deadline: Instant,
        timeline: &mut Timeline,
    ) -> Result<bool, Problem> {
        let off = node.console.ended();
        // A server that is down or does not know the node has nothing to tell; the console still does.
        timeline.record_events(&api::events(&self.netns, &node.name).unwrap_or_default());
        timeline.record_console(&node.console);
        match goal {
            Goal::Phase(phase) if timeline.reached(phase).is_some() => return Ok(true),
            Goal::FailsafeShell if node.console.time_of(FAILSAFE_SHELL).is_some() => {
                node.ask_failsafe_shell(deadline).map_err(|_| Problem::ShellSilent)?;
                timeline.record(Phase::Ready, SystemTime::now());
                return Ok(true);
            }
            Goal::Discovered if node.console.time_of(CHECKING_IN).is_some() => {
                timeline.record(Phase::Ready, SystemTime::now());
                return Ok(true);
            }
            _ if timeline.reached(Phase::Failed).is_some() => {
                // The remedy is init's last line. Without it the error just shows less.
                let _ = node.console.wait_for_line("bootnode: remedy", FAILURE_LINES);
                return Err(Problem::Failed);
            }
            _ if off => return Err(Problem::Off),
            _ => {}
        }
        node.console.wait_for_end(POLL);
        Ok(false)
    }
}

/// init's line before it starts the failsafe shell.
const FAILSAFE_SHELL: &str = "bootnode: failsafe: shell";
/// init's line before it checks in for the first time.
const CHECKING_IN: &str = "bootnode: discover: checking in with";

/// A machine that was powered on. Dropped, it is powered off.
pub struct Node {
    name: NodeName,
    machine: Child,
    console: Console,
    power_on: SystemTime,
}

impl Node {
    /// Its name.
    pub fn name(&self) -> &NodeName {
        &self.name
    }

    /// Its serial console.
    pub fn console(&self) -> &Console {
        &self.console
    }

    /// When it was powered on.
    pub fn power_on(&self) -> SystemTime {
        self.power_on
    }

    /// Has the failsafe shell compute something, as the echo of a command is no proof of a shell.
    fn ask_failsafe_shell(&self, deadline: Instant) -> Result<(), console::Error> {
        let left = deadline.saturating_duration_since(Instant::now());
        self.console.ask("echo answer-$((6*7))", "answer-42", left)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // Fails only if the machine is off already.
        let _ = self.machine.kill();
        let _ = self.machine.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn goals_are_the_phases_and_the_failsafe_shell() {
        for goal in ["dhcp", "script", "switch-root", "ready", "failed", "failsafe-shell", "discovered"] {
            assert_eq!(goal.parse::<Goal>().unwrap().to_string(), goal);
        }
        let error = "up".parse::<Goal>().unwrap_err();
        assert!(error.contains("`ready`") && error.contains("failsafe-shell"), "{error}");
    }
}
