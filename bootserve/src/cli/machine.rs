//! `bootserve machine`: machines that have introduced themselves in discover mode, and nodes that are made of them.

use anyhow::{Context, bail};
use bootserve::config::Config;
use bootserve::discovery::listing::Listing;
use bootserve::discovery::{Machine, store};
use bootserve::edits::{KEYS, Operation};
use clap::Subcommand;
use serde_json::json;

use super::node_edit::EditArgs;
use super::state::with_database;
use super::{PrintArgs, block_on};
use crate::{ConfigFile, as_json, print, read_config};

#[derive(Subcommand)]
pub enum MachineCommand {
    /// List machines that wait to become nodes, those first that were heard of last
    List {
        #[command(flatten)]
        args: PrintArgs,
        /// Those that are nodes as well
        #[arg(long)]
        all: bool,
    },
    /// Print all that a machine has said about itself, as JSON
    Show {
        #[command(flatten)]
        config: ConfigFile,
        /// Its MAC address, serial number or UUID
        machine: String,
    },
    /// Make a node of a machine; when it checks in next, it reboots into the node's image
    Approve {
        #[command(flatten)]
        args: EditArgs,
        /// Its MAC address, serial number or UUID
        machine: String,
        /// The name of the node
        #[arg(value_name = "NODE")]
        name: String,
        /// As of node add: address=10.1.5.1 profile=compute image=rocky-9; the node is known by the machine's MAC unless uuid=… is said
        #[arg(value_name = "KEY=VALUE", required = true)]
        assignments: Vec<String>,
    },
    /// Forget a machine, until it checks in again
    Forget {
        #[command(flatten)]
        args: PrintArgs,
        /// Its MAC address, serial number or UUID
        machine: String,
    },
}

impl MachineCommand {
    pub fn run(&self) -> anyhow::Result<()> {
        match self {
            Self::List { args, all } => {
                let config = read_config(&args.config)?;
                let listing = Listing::of(&stored(&config)?, &config, *all);
                let nothing = || "no machine waits".to_owned();
                args.print(&listing, || if listing.0.is_empty() { nothing() } else { listing.to_string() })
            }
            Self::Show { config, machine } => print(&as_json(&find(&read_config(config)?, machine)?.facts)?),
            Self::Approve { args, machine, name, assignments } => {
                let machine = find(&read_config(&args.print.config)?, machine)?;
                let is_key =
                    |assignment: &String| KEYS.iter().any(|key| assignment.starts_with(&format!("{key}=")));
                let mut assignments = assignments.clone();
                if !assignments.iter().any(is_key) {
                    assignments.push(format!("mac={}", machine.mac()));
                }
                args.run(&Operation::add(name, &assignments)?)
            }
            Self::Forget { args, machine } => {
                let config = read_config(&args.config)?;
                let mac = find(&config, machine)?.mac();
                with_database(&config, async |database| store::forget(database, mac).await)?;
                args.print(&json!({"forgotten": mac}), || format!("{mac} is forgotten"))
            }
        }
    }
}

fn stored(config: &Config) -> anyhow::Result<Vec<Machine>> {
    Ok(block_on(store::stored_machines(&config.server.state))??)
}

/// The one machine that is called so.
fn find(config: &Config, name: &str) -> anyhow::Result<Machine> {
    let mut found = stored(config)?.into_iter().filter(|machine| machine.is_called(name));
    let first = found
        .next()
        .with_context(|| format!("no machine {name:?} has checked in\nhint: bootserve machine list --all"))?;
    if let Some(other) = found.next() {
        bail!("{name:?} is {} and {}\nhint: name one by its MAC address", first.mac(), other.mac());
    }
    Ok(first)
}
