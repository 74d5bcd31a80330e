//! `imagebuild manual` and `completions`: what package managers and `make install` put beside the program, generated from
//! the command line.

use std::fs;
use std::io;
use std::path::PathBuf;

use anyhow::Context;
use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::{Cli, print};

const PROGRAM: &str = "imagebuild";

#[derive(Args)]
pub struct ManualArgs {
    /// Directory for the pages, which is made
    dir: PathBuf,
}

#[derive(Args)]
pub struct CompletionsArgs {
    /// For which shell
    shell: Shell,
}

/// Writes a page for the program and one for each of its commands.
pub fn manual(args: &ManualArgs) -> anyhow::Result<()> {
    fs::create_dir_all(&args.dir).with_context(|| format!("cannot create {}", args.dir.display()))?;
    clap_mangen::generate_to(Cli::command(), &args.dir)
        .with_context(|| format!("cannot write manual pages into {}", args.dir.display()))
}

/// Prints the script that completes arguments.
pub fn completions(args: &CompletionsArgs) -> anyhow::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), PROGRAM, &mut script);
    let script = String::from_utf8(script).map_err(io::Error::other).context("the script is no text")?;
    print(script.trim_end())
}
