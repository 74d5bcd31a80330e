//! The command line: arguments, what each command prints, and how errors look.

use std::io::{self, Write};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use bootspec::cmdline::KernelArg;
use bootspec::manifest::{Compression, Manifest, Root};
use clap::{Args, Parser, Subcommand, ValueEnum};
use serde_json::json;

use crate::build::{Outcome, Request, build, repack};
use crate::programs::{self, INIT_VARIABLE};
use crate::progress::{Progress, human};
use crate::recipe::Recipe;
use crate::store::{Store, verify};

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
    Build(BuildArgs),
    /// List the published versions
    List(ListArgs),
    /// Describe an image
    Show(ImageArgs),
    /// Read every file of an image again and compare it with the manifest
    Verify(ImageArgs),
    /// Publish a new version with other programs in the initramfs and the same root archive
    Repack(RepackArgs),
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
struct ProgramArgs {
    /// The static init to put into the initramfs [default: the one installed with this program]
    #[arg(long, value_name = "FILE", env = INIT_VARIABLE)]
    init: Option<PathBuf>,
    /// The static busybox for the rescue shell [default: this machine's, if it is static]
    #[arg(long, value_name = "FILE", env = "BOOTNODE_BUSYBOX")]
    busybox: Option<PathBuf>,
}

#[derive(Args)]
struct BuildArgs {
    /// Path of a recipe, or the name of a shipped one
    recipe: String,
    #[command(flatten)]
    store: StoreArgs,
    #[command(flatten)]
    programs: ProgramArgs,
    /// Where downloaded packages are kept between builds
    #[arg(long, value_name = "DIR", env = "BOOTNODE_CACHE", default_value = "/var/cache/bootnode")]
    cache: PathBuf,
    /// Chunks to compress at once [default: one per core]
    #[arg(long, value_name = "N")]
    jobs: Option<NonZeroUsize>,
    /// Compress the root archive so, whatever the recipe says
    #[arg(long, value_name = "FORMAT")]
    compression: Option<CompressionArg>,
    /// Compression level: xz 0 to 9, zstd 1 to 22 [default: the recipe's, or xz 6, zstd 3]
    #[arg(long, value_name = "N")]
    level: Option<u32>,
    /// Do nothing if the current version was built from the same recipe, files and programs
    #[arg(long)]
    if_changed: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum CompressionArg {
    Xz,
    Zstd,
}

#[derive(Args)]
struct ListArgs {
    #[command(flatten)]
    store: StoreArgs,
}

#[derive(Args)]
struct ImageArgs {
    /// NAME for the current version, or NAME/VERSION
    image: String,
    #[command(flatten)]
    store: StoreArgs,
}

#[derive(Args)]
struct RepackArgs {
    /// NAME for the current version, or NAME/VERSION
    image: String,
    #[command(flatten)]
    store: StoreArgs,
    #[command(flatten)]
    programs: ProgramArgs,
}

/// Runs the command and prints its result.
pub fn run(cli: Cli) -> anyhow::Result<()> {
    let progress = Progress::on_stderr();
    match cli.command {
        Command::Build(args) => run_build(&args, &progress),
        Command::List(args) => run_list(&args),
        Command::Show(args) => run_show(&args),
        Command::Verify(args) => run_verify(&args, &progress),
        Command::Repack(args) => run_repack(&args, &progress),
    }
}

fn run_build(args: &BuildArgs, progress: &Progress) -> anyhow::Result<()> {
    let path = Recipe::find(&args.recipe, &shipped_recipes())?;
    let recipe = Recipe::read(&path)?;
    let compression = recipe.compression.overridden(args.compression.map(Compression::from), args.level)?;
    let programs = programs::find(args.programs.init.as_deref(), args.programs.busybox.as_deref())?;
    let store = Store::new(&args.store.store);
    let request = Request {
        recipe: &recipe,
        compression,
        store: &store,
        cache: &args.cache,
        programs: &programs,
        jobs: args.jobs.unwrap_or_else(all_cores),
        version: None,
        if_changed: args.if_changed,
    };
    let outcome = build(&request, progress)?;
    print_outcome(&store, &outcome, args.store.json)
}

fn run_repack(args: &RepackArgs, progress: &Progress) -> anyhow::Result<()> {
    let store = Store::new(&args.store.store);
    let image = store.resolve(&args.image)?;
    let programs = programs::find(args.programs.init.as_deref(), args.programs.busybox.as_deref())?;
    let outcome = repack(&store, &image, &programs, progress)?;
    print_outcome(&store, &outcome, args.store.json)
}

fn run_list(args: &ListArgs) -> anyhow::Result<()> {
    let store = Store::new(&args.store.store);
    let list = store.list()?;
    if args.store.json {
        let list: Vec<_> = list.iter().map(|p| json!({"image": p.image, "current": p.current})).collect();
        return print(&serde_json::to_string_pretty(&list)?);
    }
    for published in list {
        let mark = if published.current { "  (current)" } else { "" };
        print(&format!("{}{mark}", published.image))?;
    }
    Ok(())
}

fn run_show(args: &ImageArgs) -> anyhow::Result<()> {
    let store = Store::new(&args.store.store);
    let manifest = store.manifest(&store.resolve(&args.image)?)?;
    print(if args.store.json { manifest.to_json() } else { describe(&manifest) }.trim_end())
}

fn run_verify(args: &ImageArgs, progress: &Progress) -> anyhow::Result<()> {
    let store = Store::new(&args.store.store);
    let image = store.resolve(&args.image)?;
    let step = progress.step(format!("verify {image}"));
    step.set_total(store.manifest(&image)?.artifacts.values().map(|artifact| artifact.size_bytes).sum());
    let damage = verify(&store, &image, |bytes| step.advance(bytes))?;
    if args.store.json {
        let damage: Vec<_> = damage.iter().map(|d| json!({"what": d.what, "problem": d.problem})).collect();
        print(&serde_json::to_string_pretty(&json!({"image": image, "damage": damage}))?)?;
    }
    if damage.is_empty() {
        step.done("every file is as the manifest says");
        return Ok(());
    }
    let lines: Vec<_> = damage.iter().map(|d| format!("{} {}", d.what, d.problem)).collect();
    bail!("{image} is damaged: {}\nhint: nodes must not boot it; build it again", lines.join("; "))
}

fn print_outcome(store: &Store, outcome: &Outcome, as_json: bool) -> anyhow::Result<()> {
    let dir = store.dir(&outcome.image);
    if as_json {
        let result = json!({"image": outcome.image, "dir": dir, "reused": outcome.reused});
        return print(&serde_json::to_string_pretty(&result)?);
    }
    let note = if outcome.reused { "  (unchanged)" } else { "" };
    print(&format!("{}{note}", outcome.image))
}

fn describe(manifest: &Manifest) -> String {
    let kernel_args: Vec<_> = manifest.kernel_args.iter().map(KernelArg::as_str).collect();
    let kernel_args = kernel_args.join(" ");
    let mut lines = vec![
        format!("image         {}", manifest.image),
        format!("architecture  {}", manifest.architecture),
        format!("kernel        {}", manifest.kernel_release),
        format!("kernel args   {kernel_args}"),
        format!("boot mode     {}", manifest.mode),
    ];
    match &manifest.root {
        Some(Root::Archive(root)) => {
            let (packed, chunks) = (human(root.compressed_bytes()), root.chunks.len());
            lines.push(format!("root          {packed} of {} in {chunks} chunks", root.compression));
            let (unpacked, inodes) = (human(root.page_rounded_bytes), root.inodes);
            lines.push(format!("unpacked      {unpacked} in a tmpfs, {inodes} inodes"));
        }
        Some(Root::FileSystem(root)) => {
            let (size, blocks) = (human(root.size_bytes), root.blocks.len());
            lines.push(format!(
                "root          {size} of {} in {blocks} blocks, under an overlay",
                root.format
            ));
        }
        None => {}
    }
    if manifest.root.is_some() {
        lines.push(format!("packages      {}", manifest.packages.len()));
    }
    if manifest.rollback_index > 0 {
        lines.push(format!("rollback      index {}", manifest.rollback_index));
    }
    for (name, artifact) in &manifest.artifacts {
        lines.push(format!(
            "artifact      {name}  {}  sha256:{}",
            human(artifact.size_bytes),
            artifact.sha256
        ));
    }
    lines.push(format!("built         by {} on {}", manifest.build.tool, manifest.build.host));
    lines.join("\n")
}

/// Where recipes lie when installed (`share/bootnode/recipes`) and in the source tree (above `target/debug`).
fn shipped_recipes() -> Vec<PathBuf> {
    let program = std::env::current_exe().unwrap_or_default();
    let above = |levels| program.ancestors().nth(levels).unwrap_or(Path::new("/")).to_owned();
    vec![above(2).join("share/bootnode/recipes"), above(3).join("rootfs-recipes")]
}

fn all_cores() -> NonZeroUsize {
    std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN)
}

/// A line on standard output. That nobody reads it any more is no failure.
fn print(text: &str) -> anyhow::Result<()> {
    match writeln!(io::stdout(), "{text}") {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result.context("cannot write to standard output"),
    }
}

impl From<CompressionArg> for Compression {
    fn from(arg: CompressionArg) -> Self {
        match arg {
            CompressionArg::Xz => Self::Xz,
            CompressionArg::Zstd => Self::Zstd,
        }
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
}
