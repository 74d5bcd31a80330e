//! `bootlab`: see the library for what it does.

use std::process::{self, ExitCode};

use anyhow::Context;
use bootlab::{cli, netns};
use bootspec::diagnosis::explain;
use clap::Parser;

/// What shells report for a program that SIGINT ended.
const INTERRUPTED: i32 = 130;

fn main() -> ExitCode {
    let arguments = cli::Cli::parse();
    let result = remove_lab_when_interrupted().and_then(|()| cli::run(arguments));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bootlab: {}", explain(&*error));
            ExitCode::FAILURE
        }
    }
}

fn remove_lab_when_interrupted() -> anyhow::Result<()> {
    let listen = ctrlc::set_handler(|| {
        if let Err(error) = netns::remove_own() {
            eprintln!("bootlab: {error}");
        }
        process::exit(INTERRUPTED);
    });
    listen.context("cannot listen for signals")
}
