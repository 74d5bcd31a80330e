//! `bootserve machine`: machines that have introduced themselves in discover mode, and nodes that are made of them.

use bootserve::config::Config;
use bootserve::discovery::approval::{approval, find};
use bootserve::discovery::listing::{Explanation, Listing};
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
        /// The name of the node [default: all that a policy proposes]
        #[arg(value_name = "NODE", requires = "assignments")]
        name: Option<String>,
        /// As of node add: address=10.1.5.1 profile=compute image=rocky-9; the node is known by the machine's MAC unless uuid=… is said
        #[arg(value_name = "KEY=VALUE")]
        assignments: Vec<String>,
    },
    /// Say what tags a machine has and what each policy makes of it, and why; nothing is changed
    Explain {
        #[command(flatten)]
        args: PrintArgs,
        /// Its MAC address, serial number or UUID
        machine: String,
    },
    /// Forget a machine, until it checks in again; policies may make a node of it then, though it was one that was taken away
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
            Self::Show { config, machine } => {
                print(&as_json(&find(&stored(&read_config(config)?)?, machine)?.json())?)
            }
            Self::Approve { args, machine, name, assignments } => {
                let config = read_config(&args.print.config)?;
                let machines = stored(&config)?;
                let machine = find(&machines, machine)?;
                let Some(name) = name else { return args.run(&approval(machine, &machines, &config, None)?) };
                let is_key =
                    |assignment: &String| KEYS.iter().any(|key| assignment.starts_with(&format!("{key}=")));
                let mut assignments = assignments.clone();
                if !assignments.iter().any(is_key) {
                    assignments.push(format!("mac={}", machine.mac()));
                }
                args.run(&Operation::add(name, &assignments)?)
            }
            Self::Explain { args, machine } => {
                let config = read_config(&args.config)?;
                let machines = stored(&config)?;
                let explanation = Explanation::of(find(&machines, machine)?, &machines, &config);
                args.print(&explanation, || explanation.to_string())
            }
            Self::Forget { args, machine } => {
                let config = read_config(&args.config)?;
                let mac = find(&stored(&config)?, machine)?.mac();
                with_database(&config, async |database| store::forget(database, mac).await)?;
                args.print(&json!({"forgotten": mac}), || format!("{mac} is forgotten"))
            }
        }
    }
}

fn stored(config: &Config) -> anyhow::Result<Vec<Machine>> {
    Ok(block_on(store::stored_machines(&config.server.state))??)
}
