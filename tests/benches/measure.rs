//! What a run costs, how several runs become one figure, and how the figures of two sides are printed.

use std::fmt;
use std::num::{NonZeroUsize, ParseIntError};
use std::process::{Command, Stdio};
use std::str::FromStr;
use std::time::Instant;
use std::{fs, thread};

use anyhow::{Context, Result, ensure};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeVal;
use serde::{Serialize, Serializer};
use serde_json::{Value, json};

/// How often each side is measured.
#[derive(Clone, Copy)]
pub struct Rounds(pub NonZeroUsize);

impl FromStr for Rounds {
    type Err = ParseIntError;

    fn from_str(s: &str) -> Result<Self, ParseIntError> {
        s.parse().map(Self)
    }
}

impl Rounds {
    /// More and shorter ones.
    pub fn times(self, turns: NonZeroUsize) -> Self {
        Self(self.0.saturating_mul(turns))
    }

    /// Runs all sides in turn, so that what else the machine does falls on each.
    pub fn in_turn<T, const SIDES: usize>(
        self,
        name: &str,
        mut sides: [&mut dyn FnMut() -> Result<T>; SIDES],
    ) -> Result<[Vec<T>; SIDES]> {
        let mut runs = std::array::from_fn(|_| Vec::new());
        for round in 1..=self.0.get() {
            eprintln!("{name}: round {round} of {}", self.0);
            for (side, runs) in sides.iter_mut().zip(&mut runs) {
                runs.push(side()?);
            }
        }
        Ok(runs)
    }
}

/// What one run took.
#[derive(Clone, Copy, Serialize)]
pub struct Cost {
    pub wall_seconds: f64,
    pub cpu_seconds: f64,
}

impl Cost {
    /// What `work` takes of this process.
    pub fn of(work: impl FnOnce() -> Result<()>) -> Result<Self> {
        Self::measure(UsageWho::RUSAGE_SELF, work)
    }

    /// What `command` takes, with the processes that it starts and waits for.
    pub fn of_command(command: &mut Command) -> Result<Self> {
        Self::measure(UsageWho::RUSAGE_CHILDREN, || run(command))
    }

    fn measure(who: UsageWho, work: impl FnOnce() -> Result<()>) -> Result<Self> {
        let (cpu_before, started) = (cpu_seconds(who)?, Instant::now());
        work()?;
        Ok(Self {
            wall_seconds: started.elapsed().as_secs_f64(),
            cpu_seconds: cpu_seconds(who)? - cpu_before,
        })
    }
}

fn cpu_seconds(who: UsageWho) -> Result<f64> {
    let usage = getrusage(who)?;
    let seconds = |time: TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
    Ok(seconds(usage.user_time()) + seconds(usage.system_time()))
}

/// A field of /proc/PROCESS/status that is a size (proc_pid_status(5)).
pub fn status_bytes(process: &str, field: &str) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    let kib: u64 = line.and_then(|line| line.trim().strip_suffix(" kB")).context("no such field")?.parse()?;
    Ok(kib * 1024)
}

/// Runs a program to its end.
pub fn run(command: &mut Command) -> Result<()> {
    let status = command.status()?;
    ensure!(status.success(), "{command:?}: {status}");
    Ok(())
}

/// What a program that succeeds prints.
pub fn stdout_of(command: &mut Command) -> Result<String> {
    let output = command.stderr(Stdio::inherit()).output()?;
    ensure!(output.status.success(), "{command:?}: {}", output.status);
    Ok(String::from_utf8(output.stdout)?)
}

/// The least of all times, since other work on the machine only adds to them.
pub fn least(seconds: &[f64]) -> f64 {
    seconds.iter().copied().fold(f64::INFINITY, f64::min)
}

/// The least wall time.
pub fn least_wall(costs: &[Cost]) -> f64 {
    least(&costs.iter().map(|cost| cost.wall_seconds).collect::<Vec<_>>())
}

/// The least CPU seconds.
pub fn least_cpu(costs: &[Cost]) -> f64 {
    least(&costs.iter().map(|cost| cost.cpu_seconds).collect::<Vec<_>>())
}

/// The median of the CPU seconds.
pub fn median_cpu(costs: &[Cost]) -> f64 {
    let mut values: Vec<f64> = costs.iter().map(|cost| cost.cpu_seconds).collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// A line of the result.
#[derive(Serialize)]
pub struct Measurement {
    pub name: &'static str,
    pub ours: f64,
    pub peer: f64,
    /// Ours by the peer's, unless the bench says otherwise.
    pub ratio: f64,
    pub unit: &'static str,
    pub goal: Goal,
    /// What else there is to know.
    pub details: Value,
}

impl Measurement {
    pub fn new(name: &'static str, ours: f64, peer: f64, unit: &'static str, goal: Goal) -> Self {
        Self { name, ours, peer, ratio: ours / peer, unit, goal, details: Value::Null }
    }

    pub fn with_details(self, details: Value) -> Self {
        Self { details, ..self }
    }
}

impl fmt::Display for Measurement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, ours, peer, ratio, unit, goal, .. } = self;
        write!(f, "bench {name} ours={ours:.2} peer={peer:.2} ratio={ratio:.2} unit={unit} goal={goal}")
    }
}

/// What the ratio should be.
#[derive(Clone, Copy)]
pub enum Goal {
    AtMost(f64),
    Below(f64),
    AtLeast(f64),
}

impl fmt::Display for Goal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtMost(ratio) => write!(f, "<={ratio:.2}"),
            Self::Below(ratio) => write!(f, "<{ratio:.2}"),
            Self::AtLeast(ratio) => write!(f, ">={ratio:.2}"),
        }
    }
}

impl Serialize for Goal {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// What servers send by that set nothing (tcp(7)), in their network namespace.
pub const CONGESTION_CONTROL: &str = "/proc/sys/net/ipv4/tcp_congestion_control";

/// The machine that the figures are of.
pub fn machine() -> Value {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let congestion_control = fs::read_to_string(CONGESTION_CONTROL).unwrap_or_default();
    json!({
        "cores": thread::available_parallelism().map_or(0, NonZeroUsize::get),
        "processor": model.map(|(_, model)| model),
        "kernel": kernel.trim_end(),
        "congestion_control": congestion_control.trim_end(),
    })
}
