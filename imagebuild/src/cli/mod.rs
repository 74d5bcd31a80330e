//! The command line: arguments, what each command prints, and how errors look.

mod build;
mod images;
mod keys;
mod lock;
mod recipe;
mod retention;
mod shell;
mod transfer;

use std::io::{self, Write};
use std::path::PathBuf;

use anyhow::Context;
use bootspec::diagnosis::explain;
use clap::{Args, Parser, Subcommand};
use manual::{CompletionsArgs, ManualArgs};

use crate::architecture::Architecture;
use crate::programs::{self, INIT_VARIABLE};
use crate::progress::Progress;
use crate::signing::{Signer, Signing, Trust, ask_password};
use crate::user_namespace;

/// What the system says when there is no more room, in English, as all programs of a build do.
const NO_SPACE: [&str; 2] = ["No space left on device", "Disk quota exceeded"];
const NO_SPACE_HINT: &str = "\nhint: make room where that file is. In the store, a build needs room for the unpacked root as well, until \
     it is published, and `imagebuild gc` removes old versions; what is in the cache may be removed";

/// Builds bootable images for diskless nodes from recipes.
#[derive(Parser)]
#[command(version, max_term_width = 100)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Build an image from a recipe and publish it as the current version
    Build(build::BuildArgs),
    /// Pin the packages of a recipe, for `build --locked`
    Lock(lock::LockArgs),
    /// List the published versions
    List(images::ListArgs),
    /// Describe an image
    Show(images::ImageArgs),
    /// Print the packages of an image as a software bill of materials
    Sbom(images::SbomArgs),
    /// What differs between two versions: packages, files, how they boot
    Diff(images::DiffArgs),
    /// Read every file of an image again and compare it with the manifest
    Verify(images::VerifyArgs),
    /// Make an older version of an image the current one again
    Rollback(retention::RollbackArgs),
    /// Remove versions of images
    Rm(retention::RmArgs),
    /// Remove the versions that are neither current nor in use nor among the newest
    Gc(retention::GcArgs),
    /// Write a version into one file
    Export(transfer::ExportArgs),
    /// Take a version out of such a file into the store
    Import(transfer::ImportArgs),
    /// Send a version to an object store that speaks S3
    Push(transfer::PushArgs),
    /// Take a version out of such an object store into the store
    Pull(transfer::PullArgs),
    /// Publish a new version with another init, busybox or keys and the same root, kernel and kernel modules
    Repack(build::RepackArgs),
    /// Change the root of an image by hand, and publish it as a new version
    Shell(shell::ShellArgs),
    /// Make keys
    #[command(subcommand)]
    Key(keys::KeyCommand),
    /// List, show and check recipes
    #[command(subcommand)]
    Recipe(recipe::RecipeCommand),
    /// Sign files that were made elsewhere, such as nodes' overlays
    Sign(keys::SignArgs),
    /// Write manual pages of all commands
    Manual(ManualArgs),
    /// Print a script by which a shell completes arguments
    Completions(CompletionsArgs),
}

#[derive(Args)]
struct StoreArgs {
    /// The image store
    #[arg(long, value_name = "DIR", env = "BOOTNODE_STORE", default_value = "/var/lib/bootnode/store")]
    store: PathBuf,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct CacheArgs {
    /// Where downloaded packages are kept between builds
    #[arg(long, value_name = "DIR", env = "BOOTNODE_CACHE", default_value = "/var/cache/bootnode")]
    cache: PathBuf,
}

#[derive(Args)]
struct ProgramArgs {
    /// The static init to put into the initramfs [default: the one installed with this program]
    #[arg(long, value_name = "FILE", env = INIT_VARIABLE)]
    init: Option<PathBuf>,
    /// The static busybox for the rescue shell [default: this machine's, if it is static]
    #[arg(long, value_name = "FILE", env = "BOOTNODE_BUSYBOX")]
    busybox: Option<PathBuf>,
}

#[derive(Args)]
struct SigningArgs {
    /// Sign the image with this secret key
    #[arg(long, value_name = "FILE", env = "BOOTNODE_SIGN_KEY")]
    sign_key: Option<PathBuf>,
    #[command(flatten)]
    trust: TrustArgs,
    /// Put into the initramfs that images below this rollback index do not boot
    #[arg(long, value_name = "N")]
    min_rollback_index: Option<u64>,
}

#[derive(Args)]
struct TrustArgs {
    /// Trust images signed with this public key, and no others; more than one may be given. In the environment they are
    /// separated by colons
    #[arg(long, value_name = "FILE.pub", env = "BOOTNODE_TRUST", value_delimiter = ':')]
    trust: Vec<PathBuf>,
}

/// Runs the command and prints its result.
pub fn run(cli: Cli) -> anyhow::Result<()> {
    if cli.command.makes_roots() {
        // Before the first thread is there.
        user_namespace::enter_unless_root()?;
    }
    let progress = Progress::on_stderr();
    match cli.command {
        Command::Build(args) => build::build(&args, &progress),
        Command::Lock(args) => lock::run(&args, &progress),
        Command::List(args) => images::list(&args),
        Command::Show(args) => images::show(&args),
        Command::Sbom(args) => images::sbom(&args),
        Command::Diff(args) => images::diff(&args, &progress),
        Command::Verify(args) => images::verify(&args, &progress),
        Command::Rollback(args) => retention::rollback(&args, &progress),
        Command::Rm(args) => retention::rm(&args),
        Command::Gc(args) => retention::gc(&args),
        Command::Export(args) => transfer::export(&args, &progress),
        Command::Import(args) => transfer::import(&args, &progress),
        Command::Push(args) => transfer::push(&args, &progress),
        Command::Pull(args) => transfer::pull(&args, &progress),
        Command::Repack(args) => build::repack(&args, &progress),
        Command::Shell(args) => shell::shell(&args, &progress),
        Command::Key(keys::KeyCommand::New(args)) => keys::new(&args),
        Command::Recipe(command) => recipe::run(&command),
        Command::Sign(args) => keys::sign(&args),
        Command::Manual(args) => args.write::<Cli>(),
        Command::Completions(args) => print(&args.script::<Cli>()?),
    }
}

impl Command {
    /// Whether it makes root file systems, which is root's to do.
    fn makes_roots(&self) -> bool {
        matches!(self, Self::Build(_) | Self::Lock(_) | Self::Shell(_))
    }
}

impl ProgramArgs {
    /// For an image for such machines, by the kernel's name.
    fn find(&self, machine: &str) -> Result<crate::initramfs::Programs, programs::ProgramError> {
        programs::find(self.init.as_deref(), self.busybox.as_deref(), Architecture::named(machine))
    }
}

impl SigningArgs {
    fn read(&self) -> anyhow::Result<Signing> {
        let read = |path: &PathBuf| Signer::read(path, ask_password);
        let signer = self.sign_key.as_ref().map(read).transpose()?;
        Ok(Signing { signer, trust: Trust::read(&self.trust.trust, self.min_rollback_index)? })
    }
}

/// The error as it is printed. A disk may be full in any step, and for programs as well as for us.
pub fn diagnosis(error: &dyn std::error::Error) -> String {
    let text = explain(error);
    match NO_SPACE.iter().any(|no_space| text.contains(no_space)) {
        true => text + NO_SPACE_HINT,
        false => text,
    }
}

/// A line on standard output. That nobody reads it any more is no failure.
fn print(text: &str) -> anyhow::Result<()> {
    match writeln!(io::stdout(), "{text}") {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result.context("cannot write to standard output"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn arguments_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_full_disk_is_told_with_a_way_out() {
        let error = |errno: rustix::io::Errno| diagnosis(&io::Error::from(errno));
        for errno in [rustix::io::Errno::NOSPC, rustix::io::Errno::DQUOT] {
            assert!(error(errno).contains("\nhint: make room"), "{}", error(errno));
        }
        assert!(!error(rustix::io::Errno::IO).contains("hint"));
    }
}
