//! `bootserve node set`, `unset`, `add`, `rm`, `undo` and `history`: changes of nodes that stand in no file.

use std::collections::HashSet;
use std::sync::Arc;

use anyhow::{Context, bail};
use bootserve::config::{Config, ImageSelector};
use bootserve::edits::Operation;
use bootserve::edits::store::{self, Outcome, Revision};
use bootserve::inventory::listing::nodes_of;
use bootserve::timestamp::utc;
use clap::{Args, Subcommand};
use nix::unistd::{Uid, User};

use super::node::SETS;
use super::state::with_database;
use super::{PrintArgs, block_on, lines};
use crate::{ConfigFile, read_config, read_files};

#[derive(Subcommand)]
pub enum EditCommand {
    /// Set something of nodes, over what the files say; a running bootserve takes it up within a second or two
    #[command(after_help = SETS)]
    Set {
        #[command(flatten)]
        args: EditArgs,
        /// Which of them
        nodes: String,
        /// For the next boot alone; it counts from when the node is given its script
        #[arg(long)]
        once: bool,
        /// Keys of a [[node]], and their values: image=rocky-9, kernel_args=["a", "b"], metadata.rack=1, mac=fc:ab:14:00:00:01
        #[arg(value_name = "KEY=VALUE", required = true)]
        assignments: Vec<String>,
    },
    /// Take back what was set of nodes, so that the files say it again
    #[command(after_help = SETS)]
    Unset {
        #[command(flatten)]
        args: EditArgs,
        /// Which of them
        nodes: String,
        /// What: image, metadata.rack
        #[arg(value_name = "KEY", required_unless_present = "all")]
        keys: Vec<String>,
        /// All that was set
        #[arg(long, conflicts_with = "keys")]
        all: bool,
    },
    /// Give nodes the image of others, on which it has been tried
    #[command(after_help = SETS)]
    Promote {
        #[command(flatten)]
        args: EditArgs,
        /// Those that have it; all of them must boot the same
        from: String,
        /// Those that are to have it
        nodes: String,
    },
    /// Add nodes that stand in no file
    #[command(after_help = SETS)]
    Add {
        #[command(flatten)]
        args: EditArgs,
        /// Their names
        #[arg(value_name = "NAMES")]
        names: String,
        /// Keys of a [[node]] or [[nodes]]: address=10.1.5.1 mac=fc:ab:14:00:02:01, or patterns with one for each: address=10.1.5.[1-9]
        #[arg(value_name = "KEY=VALUE", required = true)]
        assignments: Vec<String>,
    },
    /// Remove nodes that were added
    #[command(after_help = SETS)]
    Rm {
        #[command(flatten)]
        args: EditArgs,
        /// Which of them
        nodes: String,
    },
    /// Take back a change; that is a change as well, and can be taken back
    #[command(visible_alias = "rollback")]
    Undo {
        #[command(flatten)]
        args: EditArgs,
        /// Its number, as history has it [default: the newest]
        #[arg(value_name = "CHANGE")]
        revision: Option<i64>,
    },
    /// List the changes that were made, the newest first
    #[command(after_help = SETS)]
    History {
        #[command(flatten)]
        args: PrintArgs,
        /// Those of these nodes [default: all]
        nodes: Option<String>,
        /// At most so many are looked at
        #[arg(long, value_name = "NUMBER", default_value_t = 100)]
        limit: u32,
    },
}

#[derive(Args)]
pub struct EditArgs {
    #[command(flatten)]
    pub(super) print: PrintArgs,
    /// Say what would change, and change nothing
    #[arg(long)]
    dry_run: bool,
}

impl EditCommand {
    pub fn run(&self) -> anyhow::Result<()> {
        match self {
            Self::Set { args, nodes, assignments, once } => {
                args.run(&Operation::set(nodes, assignments, *once)?)
            }
            Self::Promote { args, from, nodes } => {
                let image = common_image(&read_config(&args.print.config)?, from)?;
                args.run(&Operation::set(nodes, &[format!("image={image}")], false)?)
            }
            Self::Unset { args, nodes, keys, .. } => {
                args.run(&Operation::Unset { nodes: nodes.clone(), keys: keys.clone() })
            }
            Self::Add { args, names, assignments } => args.run(&Operation::add(names, assignments)?),
            Self::Rm { args, nodes } => args.run(&Operation::Remove { nodes: nodes.clone() }),
            Self::Undo { args, revision } => args.run(&Operation::Undo { revision: *revision }),
            Self::History { args, nodes, limit } => {
                let history = history(&args.config, nodes.as_deref(), *limit)?;
                args.print(&history, || lines(&history, line, "nothing was changed"))
            }
        }
    }
}

impl EditArgs {
    pub(super) fn run(&self, operation: &Operation) -> anyhow::Result<()> {
        let config = Arc::new(read_files(&self.print.config)?);
        let outcome = match self.dry_run {
            true => block_on(store::stored_trial(&config, operation))??,
            false => with_database(&config, async |database| {
                store::change(database, &config, &author(), operation).await
            })?,
        };
        self.print.print(&outcome, || text(&outcome, operation, self.dry_run))
    }
}

/// What all of these nodes boot.
fn common_image(config: &Config, nodes: &str) -> anyhow::Result<ImageSelector> {
    let nodes = nodes_of(config, nodes)?;
    let first = nodes.first().context("there is no node whose image could be promoted")?;
    if let Some(other) = nodes.iter().find(|node| node.image != first.image) {
        bail!(
            "cannot promote an image: {} boots {}, and {} boots {}\nhint: name nodes that boot the same",
            first.name,
            first.image,
            other.name,
            other.image
        );
    }
    Ok(first.image.clone())
}

/// Who asks for a change: whoever became root, or whom we run as.
fn author() -> String {
    let name = std::env::var("SUDO_USER").ok().filter(|name| !name.is_empty());
    let user = || User::from_uid(Uid::current()).ok().flatten().map(|user| user.name);
    name.or_else(user).unwrap_or_else(|| Uid::current().to_string())
}

fn text(outcome: &Outcome, operation: &Operation, dry_run: bool) -> String {
    let head = match outcome.revision {
        Some(revision) => format!("change {revision}: {operation}"),
        None if dry_run && !outcome.changes.is_empty() => format!("would change by {operation}:"),
        None => return "nothing changes".to_owned(),
    };
    format!("{head}\n{}", outcome.changes).trim_end().to_owned()
}

fn history(file: &ConfigFile, nodes: Option<&str>, limit: u32) -> anyhow::Result<Vec<Revision>> {
    let config = read_files(file)?;
    let all = block_on(store::stored_history(&config.server.state, limit))??;
    let Some(nodes) = nodes else { return Ok(all) };
    // They need not be there any more.
    let nodes: HashSet<_> = config.inventory.set(nodes)?.0.into_iter().collect();
    Ok(all.into_iter().filter(|change| change.nodes.iter().any(|node| nodes.contains(node))).collect())
}

/// As `12  2026-11-27T21:04:05Z  root  set node-[000-003] image="rocky-9"`.
fn line(change: &Revision) -> String {
    let Revision { revision, author, operation, time_unix_ms, .. } = change;
    format!("{revision:>5}  {}  {author}  {operation}", utc(*time_unix_ms))
}
