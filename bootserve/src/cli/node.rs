//! `bootserve node`: the nodes of the configuration and of its inventory.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;
use bootserve::inventory::export::Exported;
use bootserve::inventory::import::{Format, Import};
use bootserve::inventory::listing::{Explained, Listing};
use clap::{Subcommand, ValueEnum};

use super::PrintArgs;
use super::node_edit::EditCommand;
use crate::{as_json, print, read_config};

#[derive(Subcommand)]
pub enum NodeCommand {
    /// List nodes
    #[command(after_help = SETS)]
    List {
        #[command(flatten)]
        args: PrintArgs,
        /// Which of them [default: all]
        #[arg(value_name = "NODES")]
        nodes: Option<String>,
    },
    /// Show all settings of nodes, and where each of them comes from
    #[command(visible_alias = "show", after_help = SETS)]
    Explain {
        #[command(flatten)]
        args: PrintArgs,
        /// Which of them
        #[arg(value_name = "NODES")]
        nodes: String,
    },
    /// Write nodes as an inventory that has them as they are now, with what was set and added
    #[command(after_help = SETS)]
    Export {
        #[command(flatten)]
        args: PrintArgs,
        /// Which of them [default: all]
        #[arg(value_name = "NODES")]
        nodes: Option<String>,
    },
    #[command(flatten)]
    Edit(EditCommand),
    /// Write the nodes of another program's file as a part of an inventory; nothing is changed
    Import {
        /// Whose file it is
        #[arg(value_enum)]
        format: ImportFormat,
        /// The file
        file: PathBuf,
        /// With ethers: the file with the addresses
        #[arg(long, value_name = "FILE", default_value = "/etc/hosts")]
        hosts: PathBuf,
        /// Print the same as JSON
        #[arg(long)]
        json: bool,
    },
}

pub const SETS: &str = "NODES is a set in ClusterShell's syntax: node-[000-099], @group, @* for all; , adds, ! takes away, & keeps what is in \
                    both, ^ what is in one alone.";

/// Whose file is imported.
#[derive(Clone, Copy, ValueEnum)]
pub enum ImportFormat {
    /// host declarations of ISC dhcpd.conf
    Dhcpd,
    /// dhcp-host lines of dnsmasq
    Dnsmasq,
    /// /etc/ethers, with --hosts
    Ethers,
    /// nodes.conf of Warewulf 4
    Warewulf,
}

impl From<ImportFormat> for Format {
    fn from(format: ImportFormat) -> Self {
        match format {
            ImportFormat::Dhcpd => Self::Dhcpd,
            ImportFormat::Dnsmasq => Self::Dnsmasq,
            ImportFormat::Ethers => Self::Ethers,
            ImportFormat::Warewulf => Self::Warewulf,
        }
    }
}

impl NodeCommand {
    pub fn run(&self) -> anyhow::Result<()> {
        match self {
            Self::List { args, nodes } => {
                let listing = Listing::of(&read_config(&args.config)?, nodes.as_deref())?;
                args.print(&listing, || listing.to_string())
            }
            Self::Explain { args, nodes } => {
                let explained = Explained::of(&read_config(&args.config)?, nodes)?;
                args.print(&explained, || {
                    explained.iter().map(Explained::to_string).collect::<Vec<_>>().join("\n")
                })
            }
            Self::Export { args, nodes } => {
                let exported = Exported::of(&read_config(&args.config)?, nodes.as_deref())?;
                args.print(&exported, || exported.to_string())
            }
            Self::Edit(command) => command.run(),
            Self::Import { format, file, hosts, json } => {
                let read = |path: &Path| {
                    fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
                };
                let hosts = if matches!(format, ImportFormat::Ethers) { read(hosts)? } else { String::new() };
                let import = Import::read((*format).into(), &read(file)?, &hosts);
                let import = import.with_context(|| format!("cannot import {}", file.display()))?;
                if import.nodes.is_empty() {
                    eprintln!("bootserve: no node that can be taken over is in {}", file.display());
                }
                print(if *json { as_json(&import)? } else { import.to_string() }.trim_end())
            }
        }
    }
}
