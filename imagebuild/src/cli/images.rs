//! `imagebuild list`, `show`, `sbom`, `diff` and `verify`: what is in the store.

use std::path::PathBuf;

use anyhow::bail;
use bootspec::cmdline::KernelArg;
use bootspec::manifest::{Manifest, Root};
use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use super::{StoreArgs, TrustArgs, print};
use crate::diff::{self, Difference};
use crate::progress::{Progress, human};
use crate::sbom::{self, Format};
use crate::signing::{Trust, key_id_of};
use crate::store::{Published, Store};
use crate::transfer::remote::{Remote, RemoteUrl};
use crate::verify::{self, Damage};

#[derive(Args)]
pub struct ListArgs {
    /// List what is there instead of in the store: s3://BUCKET or s3://BUCKET/PREFIX
    url: Option<RemoteUrl>,
    #[command(flatten)]
    store: StoreArgs,
}

#[derive(Args)]
pub struct ImageArgs {
    /// NAME for the current version, or NAME/VERSION
    image: String,
    #[command(flatten)]
    store: StoreArgs,
}

#[derive(Args)]
pub struct SbomArgs {
    /// NAME for the current version, or NAME/VERSION
    image: String,
    /// The format
    #[arg(long, default_value = "cyclonedx")]
    format: SbomFormat,
    /// The image store
    #[arg(long, value_name = "DIR", env = "BOOTNODE_STORE", default_value = "/var/lib/bootnode/store")]
    store: PathBuf,
}

#[derive(Clone, Copy, ValueEnum)]
enum SbomFormat {
    /// CycloneDX 1.6, JSON
    Cyclonedx,
    /// SPDX 2.3, JSON
    Spdx,
}

#[derive(Args)]
pub struct DiffArgs {
    /// The first version: NAME for the current version, or NAME/VERSION
    before: String,
    /// The second version
    after: String,
    #[command(flatten)]
    store: StoreArgs,
    /// Compare the times of files as well, which differ between any two builds
    #[arg(long)]
    times: bool,
}

#[derive(Args)]
pub struct VerifyArgs {
    #[command(flatten)]
    image: ImageArgs,
    #[command(flatten)]
    trust: TrustArgs,
}

pub fn list(args: &ListArgs) -> anyhow::Result<()> {
    if let Some(url) = &args.url {
        return list_remote(url, args.store.json);
    }
    let store = Store::new(&args.store.store);
    let list = store.list()?;
    if args.store.json {
        let list: Vec<_> = list.iter().map(|published| summary(&store, published)).collect();
        return print(&serde_json::to_string_pretty(&list)?);
    }
    for published in list {
        let kind = match store.manifest(&published.image) {
            Ok(manifest) => match &manifest.root {
                Some(root) => format!("{}, {}", manifest.mode, root_kind(root)),
                None => manifest.mode.to_string(),
            },
            Err(_) => "unreadable manifest".to_owned(),
        };
        let mark = if published.current { "  (current)" } else { "" };
        print(&format!("{}  {kind}{mark}", published.image))?;
    }
    Ok(())
}

fn list_remote(url: &RemoteUrl, as_json: bool) -> anyhow::Result<()> {
    let list = Remote::open(url.clone())?.list()?;
    if as_json {
        let list: Vec<_> = list.iter().map(|image| json!({"image": image})).collect();
        return print(&serde_json::to_string_pretty(&list)?);
    }
    list.iter().try_for_each(|image| print(&image.to_string()))
}

pub fn sbom(args: &SbomArgs) -> anyhow::Result<()> {
    let store = Store::new(&args.store);
    let format = match args.format {
        SbomFormat::Cyclonedx => Format::CycloneDx,
        SbomFormat::Spdx => Format::Spdx,
    };
    print(&serde_json::to_string_pretty(&sbom::sbom(&store, &store.resolve(&args.image)?, format)?)?)
}

/// A version in the list. Mode and root are null if its manifest cannot be read.
fn summary(store: &Store, published: &Published) -> Value {
    let manifest = store.manifest(&published.image).ok();
    json!({
        "image": published.image,
        "current": published.current,
        "mode": manifest.as_ref().map(|manifest| manifest.mode),
        "root": manifest.as_ref().and_then(|manifest| manifest.root.as_ref()).map(root_kind),
        "signed": store.signature(&published.image).is_ok_and(|signature| signature.is_some()),
    })
}

/// What a root is on the node, as recipes say it.
fn root_kind(root: &Root) -> String {
    match root {
        Root::Archive(_) => "tmpfs".to_owned(),
        Root::FileSystem(image) => image.format.to_string(),
    }
}

pub fn show(args: &ImageArgs) -> anyhow::Result<()> {
    let store = Store::new(&args.store.store);
    let image = store.resolve(&args.image)?;
    let manifest = store.manifest(&image)?;
    if args.store.json {
        return print(manifest.to_json().trim_end());
    }
    print(&describe(&manifest, store.signature(&image)?.as_deref()))
}

fn describe(manifest: &Manifest, signature: Option<&str>) -> String {
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
    lines.push(format!("rollback      index {}", manifest.rollback_index));
    let signature = match signature {
        Some(text) => match key_id_of(text) {
            Some(id) => format!("by key {id}, not checked here"),
            None => "malformed".to_owned(),
        },
        None => "none".to_owned(),
    };
    lines.push(format!("signature     {signature}"));
    for (name, artifact) in &manifest.artifacts {
        lines.push(format!(
            "artifact      {name}  {}  sha256:{}",
            human(artifact.size_bytes),
            artifact.sha256
        ));
    }
    let on_host = match manifest.build.host.as_str() {
        "" => String::new(),
        host => format!(" on {host}"),
    };
    if let Some(origin) = &manifest.build.root.edited_from {
        lines.push(format!("edited        by hand, from {origin}"));
    }
    lines.push(format!("built         by {}{on_host}", manifest.build.tool));
    lines.join("\n")
}

pub fn diff(args: &DiffArgs, progress: &Progress) -> anyhow::Result<()> {
    let store = Store::new(&args.store.store);
    let (before, after) = (store.resolve(&args.before)?, store.resolve(&args.after)?);
    let step = progress.step(format!("compare {before} with {after}"));
    let difference = diff::compare(&store, &before, &after, args.times, |bytes| step.advance(bytes))?;
    if args.store.json {
        return print(&serde_json::to_string_pretty(&difference)?);
    }
    print_difference(&difference)
}

/// What differs, part by part.
pub fn print_difference(difference: &Difference) -> anyhow::Result<()> {
    let parts = [
        ("manifest", Some(&difference.manifest)),
        ("packages", Some(&difference.packages)),
        ("files", difference.files.as_ref()),
    ];
    for (name, changes) in parts {
        match changes {
            Some(changes) if changes.is_empty() => {}
            Some(changes) => {
                print(&format!("{name}:"))?;
                changes.iter().try_for_each(|change| print(&format!("  {change}")))?;
            }
            None => print("files: not compared, since a root is a file system image")?,
        }
    }
    if difference.is_empty() {
        print("nothing differs")?;
    }
    Ok(())
}

pub fn verify(args: &VerifyArgs, progress: &Progress) -> anyhow::Result<()> {
    let StoreArgs { store, json } = &args.image.store;
    let store = Store::new(store);
    let image = store.resolve(&args.image.image)?;
    let trust = Trust::read(&args.trust.trust, None)?;
    let step = progress.step(format!("verify {image}"));
    let manifest = store.manifest(&image)?;
    step.set_total(manifest.artifacts.values().map(|artifact| artifact.size_bytes).sum());
    let damage = verify::verify(&store, &image, &trust.trusted_keys(), |bytes| step.advance(bytes))?;
    if *json {
        let damage: Vec<_> = damage.iter().map(|d| json!({"what": d.what, "problem": d.problem})).collect();
        print(&serde_json::to_string_pretty(&json!({"image": image, "damage": damage}))?)?;
    }
    if damage.is_empty() {
        let ids = trust.ids();
        step.done(&match ids.is_empty() {
            true => "every file is as the manifest says".to_owned(),
            false => format!(
                "every file is as the manifest says, which a trusted key has signed: {}",
                ids.join(", ")
            ),
        });
        return Ok(());
    }
    let lines: Vec<_> = damage.iter().map(|Damage { what, problem }| format!("{what} {problem}")).collect();
    bail!("{image} is damaged: {}\nhint: nodes must not boot it; build it again", lines.join("; "))
}
