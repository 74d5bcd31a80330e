//! `imagebuild recipe list`, `show` and `check`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::bail;
use bootspec::diagnosis::explain;
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::print;
use crate::recipe::{Entry, Origin, Recipe, Selection, shipped_names};

#[derive(Subcommand)]
pub enum RecipeCommand {
    /// List the shipped recipes
    List(ListArgs),
    /// Print what is in effect: each value, and the file and line that it is from
    Show(ShowArgs),
    /// Check recipes, with each of their variants, and the files that they name; nothing is downloaded
    Check(CheckArgs),
}

#[derive(Args)]
pub struct SelectionArgs {
    /// Build this variant of the recipe; more than one may be given
    #[arg(long = "variant", value_name = "NAME")]
    variants: Vec<String>,
    /// Give a variable of the recipe another value; more than one may be given
    #[arg(long = "set", value_name = "NAME=VALUE", value_parser = parse_variable)]
    variables: Vec<(String, String)>,
}

#[derive(Args)]
pub struct ListArgs {
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
pub struct ShowArgs {
    /// Path of a recipe, or the name of a shipped one
    recipe: String,
    #[command(flatten)]
    selection: SelectionArgs,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
pub struct CheckArgs {
    /// Paths of recipes, or names of shipped ones [default: all that are shipped]
    recipes: Vec<String>,
    #[command(flatten)]
    selection: SelectionArgs,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

impl SelectionArgs {
    pub fn read(&self) -> Selection {
        Selection {
            variants: self.variants.clone(),
            variables: self.variables.clone(),
            shipped_dirs: shipped_dirs(),
        }
    }
}

fn parse_variable(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("expected NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

/// Where recipes lie when installed (`share/bootnode/recipes`) and in the source tree (above `target/debug`).
fn shipped_dirs() -> Vec<PathBuf> {
    let program = std::env::current_exe().unwrap_or_default();
    let above = |levels| program.ancestors().nth(levels).unwrap_or(Path::new("/")).to_owned();
    vec![above(2).join("share/bootnode/recipes"), above(3).join("rootfs-recipes")]
}

pub fn run(command: &RecipeCommand) -> anyhow::Result<()> {
    match command {
        RecipeCommand::List(args) => list(args),
        RecipeCommand::Show(args) => show(args),
        RecipeCommand::Check(args) => check(args),
    }
}

fn read(recipe: &str, selection: &Selection) -> anyhow::Result<(PathBuf, Recipe, Vec<Entry>)> {
    let path = Recipe::find(recipe, &selection.shipped_dirs)?;
    let (recipe, entries) = Recipe::explain(&path, selection)?;
    Ok((path, recipe, entries))
}

fn read_with_files(recipe: &str, selection: &Selection) -> anyhow::Result<(PathBuf, Recipe, Vec<Entry>)> {
    let found = read(recipe, selection)?;
    found.1.require_files()?;
    Ok(found)
}

fn list(args: &ListArgs) -> anyhow::Result<()> {
    let selection = Selection { shipped_dirs: shipped_dirs(), ..Selection::default() };
    let mut recipes = Vec::new();
    for name in shipped_names(&selection.shipped_dirs) {
        let (path, recipe, _) = read(&name, &selection)?;
        recipes.push((name, path, recipe));
    }
    if args.json {
        let recipes: Vec<_> = recipes
            .iter()
            .map(|(name, path, recipe)| {
                let (description, variants) = (&recipe.description, &recipe.variants);
                json!({"name": name, "path": path, "description": description, "variants": variants})
            })
            .collect();
        return print(&serde_json::to_string_pretty(&recipes)?);
    }
    let width = recipes.iter().map(|(name, ..)| name.len()).max().unwrap_or(0);
    for (name, _, recipe) in &recipes {
        print(&format!("{name:width$}  {}", recipe.description))?;
    }
    Ok(())
}

fn show(args: &ShowArgs) -> anyhow::Result<()> {
    let (_, _, entries) = read(&args.recipe, &args.selection.read())?;
    if args.json {
        let entries: Vec<_> = entries.iter().map(entry_json).collect();
        return print(&serde_json::to_string_pretty(&entries)?);
    }
    let line = |entry: &Entry| format!("{} = {}", entry.key, one_line(&entry.value.to_string()));
    let width =
        entries.iter().map(|entry| line(entry).chars().count()).filter(|width| *width <= MAX_ALIGNED).max();
    for entry in &entries {
        print(&format!("{:width$}  # {}", line(entry), entry.place, width = width.unwrap_or(0)))?;
    }
    Ok(())
}

/// Longer lines push their place to the right.
const MAX_ALIGNED: usize = 70;
const MAX_SHOWN: usize = 100;

/// A long text is shown by its beginning.
fn one_line(value: &str) -> String {
    let line = value.trim_matches('\n').replace('\n', "\\n");
    match line.char_indices().nth(MAX_SHOWN) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

fn entry_json(entry: &Entry) -> Value {
    let (file, line) = match &entry.place.origin {
        Origin::File(path) => (json!(path), json!(entry.place.line)),
        Origin::CommandLine => (json!("--set"), Value::Null),
    };
    json!({"key": entry.key, "value": entry.value, "file": file, "line": line})
}

fn check(args: &CheckArgs) -> anyhow::Result<()> {
    let selection = args.selection.read();
    let recipes = match args.recipes.is_empty() {
        true => shipped_names(&selection.shipped_dirs).into_iter().collect(),
        false => args.recipes.clone(),
    };
    let mut checked = Vec::new();
    for name in recipes {
        let result = read_with_files(&name, &selection).map_err(|error| explain(&*error));
        let variants = match &result {
            Ok((_, recipe, _)) if selection.variants.is_empty() => recipe.variants.clone(),
            _ => BTreeSet::new(),
        };
        checked.push((name.clone(), result));
        for variant in variants {
            let selection = Selection { variants: vec![variant.clone()], ..selection.clone() };
            let result = read_with_files(&name, &selection).map_err(|error| explain(&*error));
            checked.push((format!("{name} --variant {variant}"), result));
        }
    }
    if args.json {
        let results: Vec<_> = checked
            .iter()
            .map(|(name, result)| match result {
                Ok((path, recipe, _)) => {
                    json!({"recipe": name, "path": path, "image": recipe.name, "error": null})
                }
                Err(error) => json!({"recipe": name, "path": null, "image": null, "error": error}),
            })
            .collect();
        print(&serde_json::to_string_pretty(&results)?)?;
    } else {
        for (name, result) in &checked {
            match result {
                Ok((_, recipe, _)) => print(&format!("{name}: right, makes the image {}", recipe.name))?,
                Err(error) => print(&format!("{name}: {error}"))?,
            }
        }
    }
    let wrong = checked.iter().filter(|(_, result)| result.is_err()).count();
    if wrong > 0 {
        bail!("{wrong} of {} cannot be built", checked.len());
    }
    Ok(())
}
