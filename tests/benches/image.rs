//! Images that benches boot: the compute image, with a first program that tells on the console that the boot has come to
//! the image's own init.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use bootlab::images;
use bootlab::places::{lab_dir, make_dir, store_dir};
use bootspec::ImageRef;
use bootspec::manifest::{Compression, Manifest};
use bootspec::store::{MANIFEST, image_dir};
use toml::{Table, Value, toml};

/// What the first program prints, through the kernel's log.
pub const EXEC: &str = "bench: exec of init, MemTotal ";
/// Makes it the first program.
pub const EXEC_ARG: &str = "init=/sbin/bench-exec";

const COMPUTE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../rootfs-recipes/debian-12-compute/recipe.toml");

/// A published image.
pub struct Image {
    pub image: ImageRef,
    pub dir: PathBuf,
    pub manifest: Manifest,
}

/// How an image differs from the compute image.
pub struct Variant {
    name: &'static str,
    compression: Compression,
    level: i64,
    /// What the root is on the node: `tmpfs` or `squashfs`.
    root: &'static str,
    packages: &'static [&'static str],
}

/// Unpacked from xz, at a level that is quick to make: it hardly changes the work of a decoder.
pub const XZ: Variant =
    Variant { name: "bench-xz", compression: Compression::Xz, level: 1, root: "tmpfs", packages: &[] };
/// Unpacked from zstd, as the compute image is. It has dracut, so that it is the same root as that of [`SQUASHFS`].
pub const ARCHIVE: Variant = Variant {
    name: "bench-zstd",
    compression: Compression::Zstd,
    level: 9,
    root: "tmpfs",
    packages: &["dracut", "dracut-network", "dracut-live", "zstd"],
};
/// Stays compressed under an overlay.
pub const SQUASHFS: Variant = Variant { name: "bench-squashfs", root: "squashfs", ..ARCHIVE };

impl Variant {
    /// Builds the image unless it is there.
    pub fn build(&self) -> Result<Image> {
        let dir = lab_dir().join("recipes");
        make_dir(&dir)?;
        let recipe = dir.join(format!("{}.toml", self.name));
        fs::write(&recipe, self.recipe()?)?;
        let image = images::shared(&recipe.display().to_string())?;
        remove_older(&image)?;
        let dir = image.dir(&store_dir());
        let manifest = Manifest::parse(&fs::read(dir.join(MANIFEST))?)?;
        Ok(Image { image, dir, manifest })
    }

    fn recipe(&self) -> Result<String> {
        let mut recipe: Table = fs::read_to_string(COMPUTE)?.parse()?;
        recipe.insert("name".to_owned(), self.name.into());
        let packages = recipe.get_mut("packages").and_then(Value::as_array_mut).context("it has packages")?;
        packages.extend(self.packages.iter().map(|&package| package.into()));
        let files = recipe.get_mut("file").and_then(Value::as_array_mut).context("it has files")?;
        files.push(Value::Table(first_program()));
        let (format, level) = (self.compression.to_string(), self.level);
        let mut compression = toml! { format = format level = level };
        if self.compression == Compression::Xz {
            // The peer is busybox, which does not have it.
            compression.insert("x86_filter".to_owned(), false.into());
        }
        recipe.insert("compression".to_owned(), compression.into());
        let root = self.root;
        recipe.insert("boot".to_owned(), toml! { root = root }.into());
        Ok(toml::to_string(&recipe)?)
    }
}

/// Each change of a program makes a new version, and nothing else boots the older ones.
fn remove_older(image: &ImageRef) -> Result<()> {
    for entry in fs::read_dir(image_dir(&store_dir(), &image.name))? {
        let entry = entry?;
        if entry.file_type()?.is_dir() && entry.file_name() != image.version.as_str() {
            fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

fn first_program() -> Table {
    let content = format!(
        "#!/bin/sh\nread -r name total unit </proc/meminfo\necho \"{EXEC}$total $unit\" >/dev/kmsg\nexec /sbin/init \"$@\"\n"
    );
    let path = EXEC_ARG.trim_start_matches("init=");
    [("path", path), ("mode", "0755"), ("content", &content)]
        .map(|(key, value)| (key.to_owned(), value.into()))
        .into_iter()
        .collect()
}
