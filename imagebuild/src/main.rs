//! `imagebuild`: see the library for what it does.

use std::process::ExitCode;

use clap::Parser;
use imagebuild::{cli, interrupt};
use rustix::fs::Mode;
use rustix::process::umask;

fn main() -> ExitCode {
    let arguments = cli::Cli::parse();
    // What is in an image does not depend on the caller's, and bootserve reads the store as another user.
    umask(Mode::WGRP | Mode::WOTH);
    let result = interrupt::listen().map_err(anyhow::Error::from).and_then(|()| cli::run(arguments));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("imagebuild: {}", cli::diagnosis(&*error));
            ExitCode::FAILURE
        }
    }
}
