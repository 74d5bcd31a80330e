//! `imagebuild key` and `sign`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::json;

use super::print;
use crate::build::build_time;
use crate::signing::{self, Signer, ask_new_password, ask_password, sign_file};

#[derive(Subcommand)]
pub enum KeyCommand {
    /// Make a pair of keys: bootnode.key signs images, bootnode.pub goes into initramfs
    New(NewArgs),
}

#[derive(Args)]
pub struct NewArgs {
    /// Directory for bootnode.pub and bootnode.key
    #[arg(long, value_name = "DIR", default_value = ".")]
    out: PathBuf,
    /// Ask for a password, without which the secret key cannot be used
    #[arg(long)]
    password: bool,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
pub struct SignArgs {
    /// What to sign: FILE gets the signature FILE.minisig
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// The secret key
    #[arg(long, value_name = "FILE", env = "BOOTNODE_SIGN_KEY")]
    key: PathBuf,
}

pub fn new(args: &NewArgs) -> anyhow::Result<()> {
    // Nobody is asked for a password of keys that will not be made.
    signing::check_no_keys(&args.out)?;
    let password = args.password.then(ask_new_password).transpose()?;
    let made = signing::keygen(&args.out, password)?;
    if args.json {
        let result = json!({"id": made.id, "public": made.public, "secret": made.secret});
        return print(&serde_json::to_string_pretty(&result)?);
    }
    print(&format!("key {}", made.id))?;
    print(&format!("public  {}  for --trust", made.public.display()))?;
    print(&format!("secret  {}  for --sign-key; keep it off the boot server", made.secret.display()))
}

pub fn sign(args: &SignArgs) -> anyhow::Result<()> {
    let signer = Signer::read(&args.key, ask_password)?;
    let time_unix = build_time()?;
    for file in &args.files {
        print(&sign_file(file, &signer, time_unix)?.display().to_string())?;
    }
    Ok(())
}
