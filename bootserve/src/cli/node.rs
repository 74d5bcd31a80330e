//! `bootserve node`: the nodes of the configuration and of its inventory.

use bootserve::inventory::listing::{Explained, Listing};
use clap::{Args, Subcommand};

use crate::{ConfigFile, as_json, print, read_config};

#[derive(Subcommand)]
pub enum NodeCommand {
    /// List nodes
    #[command(after_help = SETS)]
    List {
        #[command(flatten)]
        args: NodeArgs,
        /// Which of them [default: all]
        #[arg(value_name = "NODES")]
        nodes: Option<String>,
    },
    /// Show all settings of nodes, and where each of them comes from
    #[command(visible_alias = "show", after_help = SETS)]
    Explain {
        #[command(flatten)]
        args: NodeArgs,
        /// Which of them
        #[arg(value_name = "NODES")]
        nodes: String,
    },
}

const SETS: &str = "NODES is a set in ClusterShell's syntax: node-[000-099], @group, @* for all; , adds, ! takes away, & keeps what is in \
                    both, ^ what is in one alone.";

#[derive(Args)]
pub struct NodeArgs {
    #[command(flatten)]
    config: ConfigFile,
    /// Print the same as JSON
    #[arg(long)]
    json: bool,
}

impl NodeCommand {
    pub fn run(&self) -> anyhow::Result<()> {
        match self {
            Self::List { args, nodes } => {
                let listing = Listing::of(&read_config(&args.config)?, nodes.as_deref())?;
                print(if args.json { as_json(&listing)? } else { listing.to_string() }.trim_end())
            }
            Self::Explain { args, nodes } => {
                let explained = Explained::of(&read_config(&args.config)?, nodes)?;
                let text = || explained.iter().map(Explained::to_string).collect::<Vec<_>>().join("\n");
                print(if args.json { as_json(&explained)? } else { text() }.trim_end())
            }
        }
    }
}
