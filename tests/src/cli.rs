//! The command line: arguments, and what each command prints.

use std::io::{self, Write};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use bootspec::manifest::BootMode;
use clap::{Args, Parser, Subcommand};

use crate::boot;
use crate::demo;
use crate::firmware::Firmware;
use crate::lab::Goal;
use crate::places;
use crate::qemu::{Nic, NodeSpec};
use crate::report;

/// Boots diskless nodes in qemu, in a network namespace of their own.
#[derive(Parser)]
#[command(version, max_term_width = 100)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Boot one node with an image of the store
    Boot(BootArgs),
    /// Build the failsafe image and a compute image, and boot a node with each
    Demo(OutputArgs),
}

#[derive(Args)]
struct OutputArgs {
    /// The image store [default: the lab's own, below target/lab]
    #[arg(long, value_name = "DIR", env = "BOOTNODE_STORE")]
    store: Option<PathBuf>,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct BootArgs {
    /// NAME for the current version, or NAME/VERSION
    image: String,
    /// What starts the network boot
    #[arg(long, value_enum, default_value = "bios")]
    firmware: Firmware,
    /// The network card
    #[arg(long, value_enum, default_value = "virtio-net")]
    nic: Nic,
    /// How init gets the root: carried, fetched, failsafe or discover [default: as the image says]
    #[arg(long)]
    mode: Option<BootMode>,
    /// The node's memory, in MiB or with M or G
    #[arg(long, value_name = "SIZE", default_value = "2G", value_parser = parse_memory)]
    memory: u32,
    /// How far it must come: a boot phase (dhcp, script, kernel, init, ready, ...), failsafe-shell or discovered
    /// [default: ready; failsafe-shell and discovered for images without a root]
    #[arg(long, value_name = "GOAL")]
    expect: Option<Goal>,
    /// Give up after so many seconds [default: what a boot into systemd takes on this machine at worst]
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<u64>,
    /// Let the node run on until Ctrl-C
    #[arg(long)]
    keep: bool,
    #[command(flatten)]
    output: OutputArgs,
}

/// Runs the command and prints its result.
pub fn run(cli: Cli) -> Result<()> {
    match cli.command {
        Command::Boot(args) => {
            let json = args.output.json;
            let report = boot::run(&args.into())?;
            print(&if json { serde_json::to_string_pretty(&report)? } else { report::table(&[report]) })
        }
        Command::Demo(args) => {
            let reports = demo::run(&args.store.unwrap_or_else(places::store_dir))?;
            print(&if args.json { serde_json::to_string_pretty(&reports)? } else { report::table(&reports) })
        }
    }
}

impl From<BootArgs> for boot::Request {
    fn from(args: BootArgs) -> Self {
        let BootArgs { image, firmware, nic, mode, memory, .. } = args;
        let settings = mode.map(|mode| ("mode".to_owned(), mode.to_string().into())).into_iter().collect();
        Self {
            node: NodeSpec { firmware, nic, settings, memory_mib: memory, ..NodeSpec::classic(0, &image) },
            store: args.output.store.unwrap_or_else(places::store_dir),
            mode,
            goal: args.expect,
            limit: args.timeout.map(Duration::from_secs),
            keep: args.keep,
        }
    }
}

fn print(text: &str) -> Result<()> {
    match writeln!(io::stdout(), "{text}") {
        // That nobody reads the result any more is no failure.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result.context("cannot write to standard output"),
    }
}

/// MiB from `512`, `512M` or `2G`.
fn parse_memory(text: &str) -> Result<u32, String> {
    let (digits, mib) = match text.strip_suffix('G') {
        Some(digits) => (digits, 1024),
        None => (text.strip_suffix('M').unwrap_or(text), 1),
    };
    let size: Option<u32> = digits.parse().ok().and_then(|number: u32| number.checked_mul(mib));
    size.filter(|&size| size > 0).ok_or_else(|| "expected a size such as 512M or 2G".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn arguments_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn memory_is_in_mib() {
        for (text, expected) in
            [("512", Some(512)), ("512M", Some(512)), ("2G", Some(2048)), ("0", None), ("5T", None)]
        {
            assert_eq!(parse_memory(text).ok(), expected, "{text}");
        }
    }
}
