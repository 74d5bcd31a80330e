//! `bootserve overlay`: what nodes are given of their own.

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail};
use bootserve::config::{Config, Node};
use bootserve::overlay::Overlays;
use bootserve::overlay::archive;
use bootserve::overlay::attributes::plain_path;
use bootserve::overlay::listing::Listing;
use bootserve::overlay::tree::Kind;
use clap::Subcommand;

use super::PrintArgs;
use crate::{ConfigFile, read_config};

#[derive(Subcommand)]
pub enum OverlayCommand {
    /// List the overlays, and how many nodes have each
    List {
        #[command(flatten)]
        args: PrintArgs,
    },
    /// Show what the overlays of a node hold: owner, mode and size of each file, and which overlay it is of
    Show {
        #[command(flatten)]
        args: PrintArgs,
        /// Its name
        node: String,
    },
    /// Render the overlays of a node: one file to the standard output, or all into a tar
    Render {
        #[command(flatten)]
        config: ConfigFile,
        /// Its name
        node: String,
        /// The file on the node, as /etc/hosts
        #[arg(required_unless_present = "output", conflicts_with = "output")]
        file: Option<String>,
        /// Write the tar here; - is the standard output
        #[arg(long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
}

impl OverlayCommand {
    pub fn run(&self) -> anyhow::Result<()> {
        match self {
            Self::List { args } => {
                let listing = Listing::of(&read_config(&args.config)?)?;
                args.print(&listing, || listing.to_string())
            }
            Self::Show { args, node } => {
                let overlays = open(&args.config)?;
                let contents = overlays.contents(node_named(overlays.config(), node)?)?;
                args.print(&contents, || contents.to_string())
            }
            Self::Render { config, node, file, output } => {
                let overlays = open(config)?;
                let node = node_named(overlays.config(), node)?;
                match (file, output) {
                    (Some(file), _) => write_out(&rendered_file(&overlays, node, file)?),
                    (None, Some(output)) => {
                        write_tar(&archive::write(&overlays.rendered(node, &node.overlays)?, None)?, output)
                    }
                    (None, None) => bail!("neither a file nor --output is named"),
                }
            }
        }
    }
}

fn open(file: &ConfigFile) -> anyhow::Result<Overlays> {
    Ok(Overlays::new(Arc::new(read_config(file)?)))
}

fn node_named<'a>(config: &'a Config, name: &str) -> anyhow::Result<&'a Node> {
    config.node_named(name).with_context(|| format!("there is no node {name}\nhint: bootserve node list"))
}

fn rendered_file(overlays: &Overlays, node: &Node, file: &str) -> anyhow::Result<Vec<u8>> {
    let name = &node.name;
    let path = plain_path(file).with_context(|| format!("{file} is no path of a file on a node"))?;
    let placed = match overlays.rendered_file(node, &node.secrets, path)? {
        None => overlays.rendered_file(node, &node.overlays, path)?,
        // Secrets are laid on top.
        secret => secret,
    };
    let placed = placed.with_context(|| {
        format!("the overlays of node {name} have no /{path}\nhint: bootserve overlay show {name}")
    })?;
    match placed.entry.kind {
        Kind::File(contents) | Kind::Template(contents) => Ok(contents),
        Kind::Symlink(target) => bail!("/{path} is a symbolic link to {target}"),
        Kind::Directory => bail!("/{path} is a directory"),
    }
}

fn write_tar(tar: &[u8], output: &Path) -> anyhow::Result<()> {
    if output == Path::new("-") {
        return write_out(tar);
    }
    // It may hold secrets.
    let file = File::options().write(true).create(true).truncate(true).mode(0o600).open(output);
    let written = file.and_then(|mut file| file.write_all(tar));
    written.with_context(|| format!("cannot write {}", output.display()))
}

/// As [`crate::print`], to the byte.
fn write_out(bytes: &[u8]) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        written => written.context("cannot write to the standard output"),
    }
}
