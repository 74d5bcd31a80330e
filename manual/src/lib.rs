//! The commands `manual` and `completions` of a program: what package managers and `make install` put beside it, generated
//! from its command line.
#![forbid(unsafe_code)]

use std::fs;
use std::io;
use std::path::PathBuf;

use anyhow::Context;
use clap::{Args, CommandFactory};
use clap_complete::Shell;

/// Arguments of `manual`.
#[derive(Args, Clone, Debug)]
pub struct ManualArgs {
    /// Directory for the pages, which is made
    dir: PathBuf,
}

/// Arguments of `completions`.
#[derive(Args, Clone, Debug)]
pub struct CompletionsArgs {
    /// For which shell
    shell: Shell,
}

impl ManualArgs {
    /// Writes a page for the program and one for each of its commands.
    pub fn write<Cli: CommandFactory>(&self) -> anyhow::Result<()> {
        fs::create_dir_all(&self.dir).with_context(|| format!("cannot create {}", self.dir.display()))?;
        clap_mangen::generate_to(Cli::command(), &self.dir)
            .with_context(|| format!("cannot write manual pages into {}", self.dir.display()))
    }
}

impl CompletionsArgs {
    /// The script that completes arguments, without a newline at its end.
    pub fn script<Cli: CommandFactory>(&self) -> anyhow::Result<String> {
        let (mut command, mut script) = (Cli::command(), Vec::new());
        let program = command.get_name().to_owned();
        clap_complete::generate(self.shell, &mut command, program, &mut script);
        let script = String::from_utf8(script).map_err(io::Error::other).context("the script is no text")?;
        Ok(script.trim_end().to_owned())
    }
}
