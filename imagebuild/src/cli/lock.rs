//! `imagebuild lock`.

use std::path::{Path, PathBuf};

use anyhow::bail;
use clap::Args;
use serde_json::json;

use super::recipe::SelectionArgs;
use super::{CacheArgs, print};
use crate::diff::Change;
use crate::lock::{self, Lock, Selection};
use crate::progress::Progress;
use crate::recipe::Recipe;

#[derive(Args)]
pub struct LockArgs {
    /// Path of a recipe, or the name of a shipped one
    recipe: String,
    #[command(flatten)]
    selection: SelectionArgs,
    #[command(flatten)]
    cache: CacheArgs,
    /// The lock file [default: recipe.lock beside recipe.toml; of variants, recipe.VARIANT.lock]
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Say what would change in the lock file, and leave it alone
    #[arg(long)]
    dry_run: bool,
    /// The same, and fail if the lock is not what the repositories would give now
    #[arg(long, conflicts_with = "dry_run")]
    check: bool,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

pub fn run(args: &LockArgs, progress: &Progress) -> anyhow::Result<()> {
    let selection = args.selection.read();
    let recipe_path = Recipe::find(&args.recipe, &selection.shipped_dirs)?;
    let recipe = Recipe::read(&recipe_path, &selection)?;
    recipe.require_files()?;
    let path = match &args.output {
        Some(path) => path.clone(),
        None => lock::default_path(&recipe_path, &selection.variants),
    };
    let old = match args.check {
        true => Some(Lock::open(&path)?),
        false => Lock::read(&path)?,
    };
    let new = lock::make(&recipe, &args.cache.cache, progress)?;
    let written = !args.check && !args.dry_run;
    if written {
        new.write(&path)?;
    }
    let empty = Lock { selection: Selection::default(), packages: Vec::new() };
    let differences = old.as_ref().map_or(Vec::new(), |old| new.selection.differences(&old.selection));
    let changes = old.as_ref().unwrap_or(&empty).changes(&new);
    print_result(args, &path, &new, &differences, &changes, written)?;
    let up_to_date = old.is_some() && differences.is_empty() && changes.is_empty();
    if args.check && !up_to_date {
        bail!(
            "{} is not what the repositories would give now\nhint: `imagebuild lock` makes it anew",
            path.display()
        );
    }
    Ok(())
}

fn print_result(
    args: &LockArgs,
    path: &Path,
    new: &Lock,
    differences: &[String],
    changes: &[Change],
    written: bool,
) -> anyhow::Result<()> {
    if args.json {
        let differences: Vec<_> = differences.iter().map(|line| line.trim()).collect();
        let result = json!({
            "lock": path,
            "packages": new.packages.len(),
            "selection": differences,
            "changes": changes,
            "written": written,
        });
        return print(&serde_json::to_string_pretty(&result)?);
    }
    differences.iter().try_for_each(|line| print(line.trim()))?;
    changes.iter().try_for_each(|change| print(&change.to_string()))?;
    let note = if written { "" } else { "  (not written)" };
    print(&format!("{}: {} packages{note}", path.display(), new.packages.len()))
}
