//! `imagebuild shell`.

use std::ffi::OsString;
use std::num::NonZeroUsize;

use bootspec::ImageVersion;
use bootspec::manifest::Compression;
use clap::Args;
use serde_json::json;

use super::build::{CompressionArg, all_cores, print_outcome};
use super::images::print_difference;
use super::{CacheArgs, ProgramArgs, SigningArgs, StoreArgs, print};
use crate::build::{self, EditRequest, Edited};
use crate::diff::Difference;
use crate::progress::Progress;
use crate::store::Store;

#[derive(Args)]
pub struct ShellArgs {
    /// NAME for the current version, or NAME/VERSION
    image: String,
    /// Run this in place of a shell
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<OsString>,
    #[command(flatten)]
    store: StoreArgs,
    #[command(flatten)]
    programs: ProgramArgs,
    #[command(flatten)]
    signing: SigningArgs,
    #[command(flatten)]
    cache: CacheArgs,
    /// Name of the new version [default: its time]
    #[arg(long, value_name = "VERSION")]
    version: Option<ImageVersion>,
    /// Give it this machine's network and name servers
    #[arg(long)]
    network: bool,
    /// Chunks to compress at once [default: one per core]
    #[arg(long, value_name = "N")]
    jobs: Option<NonZeroUsize>,
    /// Compress the new root so [default: as the old one]
    #[arg(long, value_name = "FORMAT")]
    compression: Option<CompressionArg>,
    /// Compression level: xz 0 to 9, zstd 1 to 22 [default: as the old one]
    #[arg(long, value_name = "N")]
    level: Option<u32>,
    /// Times of files count as changes too
    #[arg(long)]
    times: bool,
    /// Say what was changed, and publish nothing
    #[arg(long)]
    dry_run: bool,
}

pub fn shell(args: &ShellArgs, progress: &Progress) -> anyhow::Result<()> {
    let store = Store::new(&args.store.store);
    let image = store.resolve(&args.image)?;
    let request = EditRequest {
        store: &store,
        cache: &args.cache.cache,
        image: &image,
        programs: &args.programs.find(&store.manifest(&image)?.architecture)?,
        signing: &args.signing.read()?,
        compression: args.compression.map(Compression::from),
        level: args.level,
        jobs: args.jobs.unwrap_or_else(all_cores),
        version: args.version.clone(),
        command: &args.command,
        network: args.network,
        with_times: args.times,
        dry_run: args.dry_run,
    };
    let Edited { files, packages, outcome } = build::edit(&request, progress)?;
    if let Some(outcome) = outcome {
        return print_outcome(&store, &outcome, args.store.json);
    }
    if args.store.json {
        let would = if files.is_empty() { "reuse" } else { "publish" };
        let result = json!({"would": would, "image": image, "packages": packages, "files": files});
        return print(&serde_json::to_string_pretty(&result)?);
    }
    print_difference(&Difference { manifest: Vec::new(), packages, files: Some(files) })
}
