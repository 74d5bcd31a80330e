//! `imagebuild export`, `import`, `push` and `pull`: versions leave the store and come into it.

use std::fs::File;
use std::io::{self, BufReader, IsTerminal, Read};
use std::path::{Path, PathBuf};

use anyhow::bail;
use bootspec::ImageRef;
use clap::Args;
use serde_json::json;

use super::{StoreArgs, TrustArgs, print};
use crate::digest::READ_BYTES;
use crate::file_error::failed;
use crate::progress::{Progress, Step, human};
use crate::signing::Trust;
use crate::store::Store;
use crate::transfer::remote::{self, Pushed, Remote, RemoteUrl, Wanted};
use crate::transfer::{self, Arrival, Terms};

/// Standard input or output.
const DASH: &str = "-";

#[derive(Args)]
pub struct ExportArgs {
    /// NAME for the current version, or NAME/VERSION
    image: String,
    /// The file to write, or - for standard output. An older one is replaced
    file: PathBuf,
    #[command(flatten)]
    store: StoreArgs,
    /// Say what would be written, and write nothing
    #[arg(long)]
    dry_run: bool,
}

#[derive(Args)]
pub struct ImportArgs {
    /// A file of `imagebuild export`, or - for standard input
    file: PathBuf,
    #[command(flatten)]
    arrival: ArrivalArgs,
}

#[derive(Args)]
pub struct PushArgs {
    /// NAME for the current version, or NAME/VERSION
    image: String,
    /// Where it goes: s3://BUCKET or s3://BUCKET/PREFIX, with endpoint and credentials out of the AWS_* variables
    url: RemoteUrl,
    #[command(flatten)]
    store: StoreArgs,
    /// Say what would be sent, and send nothing
    #[arg(long)]
    dry_run: bool,
}

#[derive(Args)]
pub struct PullArgs {
    /// Where it is: s3://BUCKET or s3://BUCKET/PREFIX, with endpoint and credentials out of the AWS_* variables
    url: RemoteUrl,
    /// NAME for the newest version there, or NAME/VERSION
    image: Wanted,
    #[command(flatten)]
    arrival: ArrivalArgs,
}

/// What every command asks that takes a version into the store.
#[derive(Args)]
struct ArrivalArgs {
    #[command(flatten)]
    store: StoreArgs,
    #[command(flatten)]
    trust: TrustArgs,
    /// Make it the version that nodes boot by default
    #[arg(long)]
    current: bool,
    /// Check it as if it were taken into the store, and write nothing
    #[arg(long)]
    dry_run: bool,
}

pub fn export(args: &ExportArgs, progress: &Progress) -> anyhow::Result<()> {
    let store = Store::new(&args.store.store);
    let image = store.resolve(&args.image)?;
    let to_stdout = args.file == Path::new(DASH);
    let size_bytes = transfer::exported_bytes(&store, &image)?;
    if args.dry_run {
        let to = args.file.display();
        return print_copy(&args.store, &image, &args.file, size_bytes, &format!("{image} would be in {to}"));
    }
    if to_stdout && (args.store.json || io::stdout().is_terminal()) {
        bail!(
            "standard output is for the image\nhint: leave out --json, and redirect it: `imagebuild export {} - >FILE`",
            args.image
        );
    }
    let step = progress.step(format!("export {image}"));
    step.set_total(size_bytes);
    if to_stdout {
        transfer::export(&store, &image, io::stdout().lock(), "standard output", |bytes| {
            step.advance(bytes)
        })?;
        step.done(&human(size_bytes));
        return Ok(());
    }
    transfer::export_to_file(&store, &image, &args.file, |bytes| step.advance(bytes))?;
    step.done(&human(size_bytes));
    print_copy(&args.store, &image, &args.file, size_bytes, &format!("{image} is in {}", args.file.display()))
}

fn print_copy(
    args: &StoreArgs,
    image: &ImageRef,
    file: &Path,
    size_bytes: u64,
    text: &str,
) -> anyhow::Result<()> {
    if args.json {
        let result = json!({"image": image, "file": file, "size_bytes": size_bytes});
        return print(&serde_json::to_string_pretty(&result)?);
    }
    print(&format!("{text}: {}", human(size_bytes)))
}

pub fn import(args: &ImportArgs, progress: &Progress) -> anyhow::Result<()> {
    let (from, file): (_, Box<dyn Read>) = if args.file == Path::new(DASH) {
        ("standard input".to_owned(), Box::new(io::stdin().lock()))
    } else {
        let file = File::open(&args.file).map_err(failed("open", &args.file))?;
        (args.file.display().to_string(), Box::new(file))
    };
    let file = BufReader::with_capacity(READ_BYTES, file);
    args.arrival.take(&format!("import {from}"), progress, |store, terms, step| {
        Ok(transfer::import(store, file, &from, terms, step)?)
    })
}

pub fn push(args: &PushArgs, progress: &Progress) -> anyhow::Result<()> {
    let store = Store::new(&args.store.store);
    let image = store.resolve(&args.image)?;
    let remote = Remote::open(args.url.clone())?;
    let step = progress.step(format!("push {image} to {}", args.url));
    let Pushed { sent, sent_bytes, there } = remote::push(&store, &image, &remote, args.dry_run, &step)?;
    let sending = if args.dry_run { "to be sent" } else { "sent" };
    step.done(&format!(
        "{} files {sending} ({}), {} there already",
        sent.len(),
        human(sent_bytes),
        there.len()
    ));
    if args.store.json {
        let url = format!("{}/{image}", args.url);
        let result =
            json!({"image": image, "url": url, "sent": sent, "sent_bytes": sent_bytes, "there": there});
        return print(&serde_json::to_string_pretty(&result)?);
    }
    let is = if args.dry_run { "would be" } else { "is" };
    print(&format!("{image} {is} at {}", args.url))
}

pub fn pull(args: &PullArgs, progress: &Progress) -> anyhow::Result<()> {
    let remote = Remote::open(args.url.clone())?;
    args.arrival.take(&format!("pull {} from {}", args.image, args.url), progress, |store, terms, step| {
        Ok(remote::pull(store, &remote, &args.image, terms, step)?)
    })
}

impl ArrivalArgs {
    /// Takes a version into the store by `take`, and says what came of it.
    fn take(
        &self,
        action: &str,
        progress: &Progress,
        take: impl FnOnce(&Store, Terms<'_>, &Step) -> anyhow::Result<Arrival>,
    ) -> anyhow::Result<()> {
        let store = Store::new(&self.store.store);
        let keys = Trust::read(&self.trust.trust, None)?.trusted_keys();
        let terms = Terms { keys: &keys, make_current: self.current, dry_run: self.dry_run };
        let step = progress.step(action);
        let arrival = take(&store, terms, &step)?;
        if arrival.other_signature {
            step.note("the store has it with another signature or without one, and keeps that");
        }
        step.done(match (arrival.reused, self.dry_run) {
            (true, _) => "the store has the same already",
            (false, true) => "every file is as the manifest says",
            (false, false) => "every file is as the manifest says: published",
        });
        self.print(&store, &arrival)
    }

    fn print(&self, store: &Store, arrival: &Arrival) -> anyhow::Result<()> {
        let image = &arrival.image;
        if self.store.json {
            let (dir, reused) = (store.dir(image), arrival.reused);
            let current = store.current(&image.name)?.as_ref() == Some(image);
            let published = !reused && !self.dry_run;
            let result = json!({"image": image, "dir": dir, "published": published, "reused": reused, "current": current});
            return print(&serde_json::to_string_pretty(&result)?);
        }
        let note = match (arrival.reused, self.dry_run) {
            (true, _) => "  (unchanged)",
            (false, true) => "  (would be published)",
            (false, false) => "",
        };
        print(&format!("{image}{note}"))
    }
}
