//! `imagebuild rollback`, `rm` and `gc`.

use bootspec::ImageRef;
use clap::Args;
use serde_json::json;

use super::{StoreArgs, print};
use crate::progress::{Progress, human};
use crate::store::{Fate, Store};

#[derive(Args)]
pub struct RollbackArgs {
    /// NAME for the version before the current one, or NAME/VERSION for that one, which may be a newer one as well
    image: String,
    #[command(flatten)]
    store: StoreArgs,
    /// Say what would become current, and change nothing
    #[arg(long)]
    dry_run: bool,
}

#[derive(Args)]
pub struct RmArgs {
    /// The versions, each as NAME/VERSION
    #[arg(required = true)]
    images: Vec<ImageRef>,
    #[command(flatten)]
    store: StoreArgs,
    /// Say whether they would be removed, and remove nothing
    #[arg(long)]
    dry_run: bool,
}

#[derive(Args)]
pub struct GcArgs {
    /// The images to clean up [default: all]
    names: Vec<bootspec::ImageName>,
    /// How many of the newest versions of each image stay in any case
    #[arg(long, value_name = "N", default_value_t = 3)]
    keep: usize,
    #[command(flatten)]
    store: StoreArgs,
    /// Say what would become of each version, and remove nothing
    #[arg(long)]
    dry_run: bool,
}

pub fn rollback(args: &RollbackArgs, progress: &Progress) -> anyhow::Result<()> {
    let store = Store::new(&args.store.store);
    let image = match args.image.contains('/') {
        true => store.resolve(&args.image)?,
        false => store.before_current(&args.image.parse()?)?,
    };
    let before = store.current(&image.name)?;
    warn_of_rollback_index(&store, before.as_ref(), &image, progress)?;
    if !args.dry_run {
        store.make_current(&image)?;
    }
    if args.store.json {
        let result = json!({"image": image, "before": before, "changed": !args.dry_run && before.as_ref() != Some(&image)});
        return print(&serde_json::to_string_pretty(&result)?);
    }
    let would = if args.dry_run { "would be" } else { "is" };
    let before = before.map_or_else(|| "none".to_owned(), |before| before.to_string());
    print(&format!("{image} {would} current (before: {before})"))
}

/// Nodes may refuse what was published before the index was raised.
fn warn_of_rollback_index(
    store: &Store,
    before: Option<&ImageRef>,
    image: &ImageRef,
    progress: &Progress,
) -> anyhow::Result<()> {
    let Some(before) = before else { return Ok(()) };
    let index = |image| anyhow::Ok(store.manifest(image)?.rollback_index);
    let (now, then) = (index(before)?, index(image)?);
    if then < now {
        progress.step("rollback").note(&format!(
            "warning: {image} has rollback index {then}, and {before} has {now}: nodes that are told to refuse lower ones do not boot it"
        ));
    }
    Ok(())
}

pub fn rm(args: &RmArgs) -> anyhow::Result<()> {
    let store = Store::new(&args.store.store);
    let mut fates = Vec::new();
    for image in &args.images {
        let image = store.resolve(&image.to_string())?;
        let fate = store.remove(&image, args.dry_run)?;
        if !args.store.json {
            print(&describe(&image, fate, args.dry_run))?;
        }
        fates.push((image, fate));
    }
    print_json(&fates, args.store.json, args.dry_run)
}

pub fn gc(args: &GcArgs) -> anyhow::Result<()> {
    let store = Store::new(&args.store.store);
    let names = if args.names.is_empty() { store.names()? } else { args.names.clone() };
    let mut fates = Vec::new();
    for name in names {
        // An image that is not there is an error for those who name it.
        if !args.names.is_empty() {
            store.resolve(name.as_str())?;
        }
        let cleaned_up = store.clean_up(&name, args.keep, args.dry_run)?;
        for (image, fate) in cleaned_up.iter().filter(|_| !args.store.json) {
            print(&describe(image, *fate, args.dry_run))?;
        }
        fates.extend(cleaned_up);
    }
    print_json(&fates, args.store.json, args.dry_run)
}

fn describe(image: &ImageRef, fate: Fate, dry_run: bool) -> String {
    match fate {
        Fate::Current => format!("{image}  kept: current"),
        Fate::Recent => format!("{image}  kept: one of the newest"),
        Fate::InUse => format!("{image}  kept: in use"),
        Fate::Removed { freed_bytes } => {
            let removed = if dry_run { "would be removed" } else { "removed" };
            format!("{image}  {removed}: {}", human(freed_bytes))
        }
    }
}

fn print_json(fates: &[(ImageRef, Fate)], wanted: bool, dry_run: bool) -> anyhow::Result<()> {
    if !wanted {
        return Ok(());
    }
    let fate = |(image, fate): &(ImageRef, Fate)| {
        let (kept, freed_bytes) = match fate {
            Fate::Current => (Some("current"), None),
            Fate::Recent => (Some("recent"), None),
            Fate::InUse => (Some("in-use"), None),
            Fate::Removed { freed_bytes } => (None, Some(freed_bytes)),
        };
        json!({"image": image, "removed": kept.is_none() && !dry_run, "kept": kept, "freed_bytes": freed_bytes})
    };
    let fates: Vec<_> = fates.iter().map(fate).collect();
    print(&serde_json::to_string_pretty(&fates)?)
}
