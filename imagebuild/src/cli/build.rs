//! `imagebuild build` and `repack`.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use anyhow::bail;
use bootspec::ImageRef;
use bootspec::manifest::{Compression, FileSystemFormat};
use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use super::recipe::SelectionArgs;
use super::{CacheArgs, ProgramArgs, SigningArgs, StoreArgs, print};
use crate::build::{self, Outcome, Plan, Request};
use crate::initramfs::Programs;
use crate::lock::{self, Lock, LockError, Locked};
use crate::progress::Progress;
use crate::recipe::{Proxy, Recipe, RootKind};
use crate::signing::Signing;
use crate::store::Store;

#[derive(Args)]
pub struct BuildArgs {
    /// Path of a recipe, or the name of a shipped one
    recipe: String,
    #[command(flatten)]
    selection: SelectionArgs,
    #[command(flatten)]
    store: StoreArgs,
    #[command(flatten)]
    programs: ProgramArgs,
    #[command(flatten)]
    signing: SigningArgs,
    #[command(flatten)]
    cache: CacheArgs,
    /// Fetch packages by this proxy, or by "none", whatever the recipe and the environment say
    #[arg(long, value_name = "URL")]
    proxy: Option<Proxy>,
    #[command(flatten)]
    lock: LockedArgs,
    /// Chunks to compress at once [default: one per core]
    #[arg(long, value_name = "N")]
    jobs: Option<NonZeroUsize>,
    /// Compress the root so, whatever the recipe says
    #[arg(long, value_name = "FORMAT")]
    compression: Option<CompressionArg>,
    /// Compression level: xz 0 to 9, zstd 1 to 22 [default: the recipe's, or xz 6, zstd 3]
    #[arg(long, value_name = "N")]
    level: Option<u32>,
    /// Do nothing if the current version was built from the same recipe, files, programs and keys
    #[arg(long)]
    if_changed: bool,
    /// Say what would be built of what, and build nothing
    #[arg(long)]
    dry_run: bool,
}

#[derive(Args)]
struct LockedArgs {
    /// Install the packages that the recipe's lock file pins, and no others
    #[arg(long)]
    locked: bool,
    /// The lock file [default: recipe.lock beside recipe.toml; of variants, recipe.VARIANT.lock]
    #[arg(long, value_name = "FILE", requires = "locked")]
    lock: Option<PathBuf>,
    /// Download nothing: all packages are in the cache. No program of the build has network
    #[arg(long, requires = "locked")]
    offline: bool,
    /// Install the packages anew, though an earlier build has left a root of them in the cache
    #[arg(long, requires = "locked")]
    no_cache: bool,
}

#[derive(Clone, Copy, ValueEnum)]
pub enum CompressionArg {
    Xz,
    Zstd,
}

#[derive(Args)]
pub struct RepackArgs {
    /// NAME for the current version, or NAME/VERSION
    image: String,
    #[command(flatten)]
    store: StoreArgs,
    #[command(flatten)]
    programs: ProgramArgs,
    #[command(flatten)]
    signing: SigningArgs,
    /// Say what would be made of what, and make nothing
    #[arg(long)]
    dry_run: bool,
}

pub fn build(args: &BuildArgs, progress: &Progress) -> anyhow::Result<()> {
    let selection = args.selection.read();
    let path = Recipe::find(&args.recipe, &selection.shipped_dirs)?;
    let mut recipe = Recipe::read(&path, &selection)?;
    if let Some(proxy) = &args.proxy {
        recipe.use_proxy(proxy.clone());
    }
    let always_lz4hc = recipe.boot.root == RootKind::FileSystem(FileSystemFormat::Erofs);
    if always_lz4hc && (args.compression.is_some() || args.level.is_some()) {
        bail!(
            "--compression and --level have no meaning for an EROFS root, which is always compressed with lz4hc"
        );
    }
    let lock = args.lock.read(&path, &selection.variants)?;
    let compression = recipe.compression.overridden(args.compression.map(Compression::from), args.level)?;
    let programs = args.programs.find(&recipe.machine())?;
    let signing = args.signing.read()?;
    let store = Store::new(&args.store.store);
    let request = Request {
        recipe: &recipe,
        locked: lock.as_ref().map(|lock| args.lock.apply(lock)),
        compression,
        store: &store,
        cache: &args.cache.cache,
        programs: &programs,
        signing: &signing,
        jobs: args.jobs.unwrap_or_else(all_cores),
        version: None,
        if_changed: args.if_changed,
    };
    if args.dry_run {
        let plan = describe_build(&path, &request, &build::plan(&request)?);
        return print_plan(&plan, args.store.json);
    }
    let outcome = build::build(&request, progress)?;
    print_outcome(&store, &outcome, args.store.json)
}

pub fn repack(args: &RepackArgs, progress: &Progress) -> anyhow::Result<()> {
    let store = Store::new(&args.store.store);
    let image = store.resolve(&args.image)?;
    let programs = args.programs.find(&store.manifest(&image)?.architecture)?;
    let signing = args.signing.read()?;
    if args.dry_run {
        build::check_repack(&store, &image, &programs, &signing)?;
        return print_plan(&describe_repack(&image, &programs, &signing), args.store.json);
    }
    let outcome = build::repack(&store, &image, &programs, &signing, progress)?;
    print_outcome(&store, &outcome, args.store.json)
}

impl LockedArgs {
    /// The lock of the recipe at `recipe`, if the build is to go by one.
    fn read(&self, recipe: &Path, variants: &[String]) -> Result<Option<Lock>, LockError> {
        let path = self.lock.clone().unwrap_or_else(|| lock::default_path(recipe, variants));
        self.locked.then(|| Lock::open(&path)).transpose()
    }

    fn apply<'a>(&self, lock: &'a Lock) -> Locked<'a> {
        Locked { lock, offline: self.offline, reuse_roots: !self.no_cache }
    }
}

pub fn print_outcome(store: &Store, outcome: &Outcome, as_json: bool) -> anyhow::Result<()> {
    let dir = store.dir(&outcome.image);
    if as_json {
        let result = json!({"image": outcome.image, "dir": dir, "reused": outcome.reused});
        return print(&serde_json::to_string_pretty(&result)?);
    }
    let note = if outcome.reused { "  (unchanged)" } else { "" };
    print(&format!("{}{note}", outcome.image))
}

/// What a build would do, key by key.
fn describe_build(path: &Path, request: &Request<'_>, plan: &Plan) -> Vec<(&'static str, Value)> {
    let recipe = request.recipe;
    let reused = plan.unchanged.as_ref().filter(|_| request.if_changed);
    let mut lines = vec![
        ("would", json!(if reused.is_some() { "reuse" } else { "build" })),
        ("image", json!(recipe.name)),
        ("recipe", json!(path)),
        ("lock", json!(request.locked.map(|locked| locked.lock.digest()))),
        ("inputs", json!(plan.inputs)),
        ("unchanged", json!(plan.unchanged)),
        ("mode", json!(recipe.mode())),
    ];
    if recipe.mode().has_root() {
        lines.push(("root", json!(describe_root(request))));
    }
    lines.extend(describe_contents(request.programs, request.signing));
    lines
}

fn describe_root(request: &Request<'_>) -> String {
    let compression = format!("{} level {}", request.compression.format, request.compression.level);
    match request.recipe.boot.root {
        RootKind::Tmpfs => format!("tmpfs, from an archive compressed with {compression}"),
        RootKind::FileSystem(FileSystemFormat::Squashfs) => format!("squashfs compressed with {compression}"),
        RootKind::FileSystem(FileSystemFormat::Erofs) => "erofs compressed with lz4hc".to_owned(),
    }
}

fn describe_repack(image: &ImageRef, programs: &Programs, signing: &Signing) -> Vec<(&'static str, Value)> {
    let mut lines = vec![("would", json!("repack")), ("image", json!(image))];
    lines.extend(describe_contents(programs, signing));
    lines
}

fn describe_contents(programs: &Programs, signing: &Signing) -> Vec<(&'static str, Value)> {
    vec![
        ("init", json!(programs.init)),
        ("busybox", json!(programs.busybox)),
        ("signed by", json!(signing.signer.as_ref().map(|signer| signer.id()))),
        ("trusts", json!(signing.trust.ids())),
        ("min rollback", json!(signing.trust.min_rollback_index)),
    ]
}

fn print_plan(plan: &[(&'static str, Value)], as_json: bool) -> anyhow::Result<()> {
    if as_json {
        let key = |name: &str| name.replace(' ', "_");
        let object: serde_json::Map<_, _> =
            plan.iter().map(|(name, value)| (key(name), value.clone())).collect();
        return print(&serde_json::to_string_pretty(&object)?);
    }
    for (name, value) in plan {
        let text = match value {
            Value::Null => "-".to_owned(),
            Value::Array(items) if items.is_empty() => "everything".to_owned(),
            Value::Array(items) => items
                .iter()
                .filter_map(Value::as_str)
                .map(|id| format!("key {id}"))
                .collect::<Vec<_>>()
                .join(", "),
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        print(&format!("{name:12}  {text}"))?;
    }
    Ok(())
}

pub fn all_cores() -> NonZeroUsize {
    std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN)
}

impl From<CompressionArg> for Compression {
    fn from(arg: CompressionArg) -> Self {
        match arg {
            CompressionArg::Xz => Self::Xz,
            CompressionArg::Zstd => Self::Zstd,
        }
    }
}
