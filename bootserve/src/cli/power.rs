//! `bootserve power`: nodes are switched on and off.

use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::Duration;

use bootserve::power::{Action, Order, Outcome, perform, select};
use clap::error::ErrorKind;
use clap::{Args, CommandFactory, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};

use super::block_on;
use crate::{Cli, ConfigFile, as_json, print, read_config};

pub const HELP: &str = "NODES are names, MAC addresses, or a set in ClusterShell's syntax: node-[000-099], @group, @* for all; , adds, ! takes \
                        away, & keeps what is in both, ^ what is in one alone.

Each node is asked first, and told what it takes: one that is on already is not switched on again. Exit status: 0 if all nodes did, 1 if \
some did not, 2 for wrong usage.";

#[derive(Args)]
pub struct PowerArgs {
    #[command(flatten)]
    config: ConfigFile,
    /// Which nodes
    #[arg(value_name = "NODES")]
    nodes: String,
    /// What they are to do
    #[arg(value_enum)]
    action: ActionArg,
    /// With off: ask the systems to shut down, instead of cutting the power
    #[arg(long)]
    soft: bool,
    /// Wait until the nodes are on or off, for 300 s if nothing else is said
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, require_equals = true, default_missing_value = "300")]
    wait: Option<u64>,
    /// Ask the BMCs and say what would be sent; nothing is switched
    #[arg(long)]
    dry_run: bool,
    /// How many nodes at a time
    #[arg(long, value_name = "NUMBER", default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=1024))]
    parallel: u16,
    /// Print the results as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ActionArg {
    /// Switch on
    On,
    /// Cut the power; with --soft, shut the system down
    Off,
    /// Cut the power and give it again, or reset; what is off is switched on
    Cycle,
    /// Say whether they are on
    Status,
}

impl PowerArgs {
    pub fn run(&self) -> anyhow::Result<ExitCode> {
        let order = self
            .order()
            .unwrap_or_else(|problem| Cli::command().error(ErrorKind::ArgumentConflict, problem).exit());
        let config = read_config(&self.config)?;
        let nodes = select(&config, &self.nodes)?;
        let bar = bar(nodes.len());
        let tell = |outcome: &Outcome| {
            bar.inc(1);
            if !self.json {
                // What cannot be printed is counted below; the other nodes are to be switched all the same.
                let _ = bar.suspend(|| print(&outcome.to_string()));
            }
        };
        let outcomes = block_on(perform(&config, &nodes, &order, tell))?;
        bar.finish_and_clear();
        if self.json {
            print(&as_json(&outcomes)?)?;
        }
        Ok(conclude(&outcomes))
    }

    fn order(&self) -> Result<Order, &'static str> {
        let action = match (self.action, self.soft) {
            (ActionArg::Off, true) => Action::Shutdown,
            (_, true) => return Err("--soft belongs to off"),
            (ActionArg::Status, _) if self.wait.is_some() => return Err("status waits for nothing"),
            (ActionArg::On, _) => Action::On,
            (ActionArg::Off, _) => Action::Off,
            (ActionArg::Cycle, _) => Action::Cycle,
            (ActionArg::Status, _) => Action::Status,
        };
        let wait = self.wait.map(Duration::from_secs);
        Ok(Order { action, wait, dry_run: self.dry_run, parallel: self.parallel.into() })
    }
}

/// How many nodes are done; on a terminal alone.
fn bar(nodes: usize) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{pos} of {len} nodes [{bar:30}] {elapsed}");
    ProgressBar::new(nodes as u64).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

/// Says how many nodes failed, and each hint once: a thousand nodes have the same.
fn conclude(outcomes: &[Outcome]) -> ExitCode {
    let failed = outcomes.iter().filter(|outcome| !outcome.ok).count();
    if failed == 0 {
        return ExitCode::SUCCESS;
    }
    eprintln!("bootserve: {failed} of {} nodes failed", outcomes.len());
    let mut told: Vec<&str> = Vec::new();
    for hint in outcomes.iter().flat_map(|outcome| &outcome.hints) {
        if !told.contains(&hint.as_str()) {
            eprintln!("hint: {hint}");
            told.push(hint);
        }
    }
    ExitCode::FAILURE
}
