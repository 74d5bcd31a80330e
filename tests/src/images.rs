//! Images for a lab, built by imagebuild. Unchanged ones are used again, so that all tests and the demo share them.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use bootspec::store::ImageRef;
use serde::Deserialize;

use crate::places;

/// An image could not be built.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A program or directory is missing.
    #[error(transparent)]
    Places(#[from] places::Error),
    /// imagebuild could not be started.
    #[error("cannot run {}", .program.display())]
    Run {
        /// Where it is.
        program: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// imagebuild failed.
    #[error("imagebuild could not build '{recipe}'\n{stderr}")]
    Build {
        /// Which recipe.
        recipe: String,
        /// What it said, if that was not shown already.
        stderr: String,
    },
    /// imagebuild's result is not understood.
    #[error("imagebuild built '{recipe}' and printed: {stdout}")]
    Result {
        /// Which recipe.
        recipe: String,
        /// What was printed.
        stdout: String,
        /// Why it is not understood.
        #[source]
        source: serde_json::Error,
    },
}

/// Builds the recipe (a path, or the name of a shipped one) into `store`, unless its current version is up to date.
/// Progress goes to `stderr`; piped, it becomes part of the error. Other labs that want to build wait for the end.
pub fn build(recipe: &str, store: &Path, stderr: Stdio) -> Result<ImageRef, Error> {
    build_with(recipe, store, &[], stderr)
}

/// The same with further options for `imagebuild build`.
pub fn build_with(recipe: &str, store: &Path, options: &[&OsStr], stderr: Stdio) -> Result<ImageRef, Error> {
    #[derive(Deserialize)]
    struct Built {
        image: ImageRef,
    }
    let program = places::program("imagebuild")?;
    places::make_dir(store)?;
    let _lock = places::lock(&store.with_extension("lock"))?;
    let build = Command::new(&program)
        .args(["build", recipe, "--if-changed", "--json"])
        .args(options)
        .arg("--store")
        .arg(store)
        .arg("--cache")
        .arg(places::cache_dir())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(stderr)
        .spawn();
    let run = |source| Error::Run { program: program.clone(), source };
    let output = build.and_then(|child| child.wait_with_output()).map_err(run)?;
    let recipe = recipe.to_owned();
    if !output.status.success() {
        return Err(Error::Build { recipe, stderr: String::from_utf8_lossy(&output.stderr).into_owned() });
    }
    let built: Built = serde_json::from_slice(&output.stdout).map_err(|source| {
        let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
        Error::Result { recipe, stdout, source }
    })?;
    Ok(built.image)
}

/// Builds an image of Debian's essential packages without an init, for nodes that are booted with `init=/bin/sh`, into
/// [`places::shell_store_dir`]. `root` is how it stands in memory: `tmpfs`, `squashfs` or `erofs`.
pub fn shell(name: &str, root: &str, options: &[&OsStr]) -> Result<ImageRef, Error> {
    let path = places::lab_dir().join("recipes").join(format!("{name}.toml"));
    places::make_dir(&places::lab_dir().join("recipes"))?;
    // EROFS has its own compression.
    let compression = if root == "erofs" { "" } else { "\n[compression]\nformat = \"zstd\"\nlevel = 1\n" };
    let text = format!(
        r#"
name = "{name}"

[source]
type = "mmdebstrap"
suite = "bookworm"
variant = "minbase"

[kernel]
package = "linux-image-cloud-amd64"
args = ["console=ttyS0,115200"]

# No microcode, but what the kernel takes for some until it looks closer.
[[file]]
path = "/usr/lib/firmware/intel-ucode/06-55-04"
content = "\u0001\u0000\u0000\u0000"

[boot]
root = "{root}"
{compression}"#
    );
    fs::write(&path, text).map_err(|source| places::Error::Make { path: path.clone(), source })?;
    build_with(&path.to_string_lossy(), &places::shell_store_dir(), options, Stdio::piped())
}

/// Builds a recipe into the store that all tests share.
pub fn shared(recipe: &str) -> Result<ImageRef, Error> {
    build(recipe, &places::store_dir(), Stdio::piped())
}
