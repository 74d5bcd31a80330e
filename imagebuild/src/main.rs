//! `imagebuild`: see the library for what it does.

use std::process::ExitCode;

use bootspec::diagnosis::explain;
use clap::Parser;
use imagebuild::{cli, interrupt};

fn main() -> ExitCode {
    let arguments = cli::Cli::parse();
    let result = interrupt::listen().map_err(anyhow::Error::from).and_then(|()| cli::run(arguments));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("imagebuild: {}", explain(&*error));
            ExitCode::FAILURE
        }
    }
}
