//! Recipes: what an image is made of, in the words of the person who asks for it.
//!
//! A recipe is a TOML file, described key by key in `docs/recipes.md`. [`Recipe::read`] gives a checked one: names fit
//! where they will be used, choices exclude each other, the files it names exist. Whether the packages exist is for
//! the package manager to say.

mod check;
mod compression;
mod inputs;
mod wire;

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use bootspec::cmdline::KernelArg;
use bootspec::manifest::{BootMode, FileSystemFormat};
use bootspec::store::ImageName;

use crate::modules::ModuleSpec;

pub use compression::{CompressionSpec, LevelError};

/// File name of a recipe inside its own directory.
pub const FILE_NAME: &str = "recipe.toml";

/// A checked recipe.
#[derive(Clone, Debug)]
pub struct Recipe {
    /// Name of the image.
    pub name: ImageName,
    /// One line for people.
    pub description: String,
    /// Where the packages come from.
    pub source: Source,
    /// Packages to install, besides those that the source installs anyway.
    pub packages: Vec<String>,
    /// Which kernel the image boots.
    pub kernel: KernelSpec,
    /// Arguments for the kernel command line, one parameter each.
    pub kernel_args: Vec<KernelArg>,
    /// Files and symbolic links to put into the root, in order.
    pub files: Vec<FileSpec>,
    /// Users to create or change, in order.
    pub users: Vec<UserSpec>,
    /// Units of the image's systemd to switch on and off.
    pub services: Services,
    /// Scripts to run inside the root, in order.
    pub scripts: Vec<ScriptSpec>,
    /// Packages whose scriptlets may fail without failing the build.
    pub allowed_scriptlet_failures: BTreeSet<String>,
    /// How the root is packed.
    pub compression: CompressionSpec,
    /// How the image boots.
    pub boot: BootSpec,
    /// Kernel modules that a node needs to fetch its root, or to find out what it is made of.
    pub modules: ModuleSpec,
    /// The SELinux policy that nodes load and by which the root is labelled: `targeted`.
    pub selinux_policy: Option<String>,
    /// The directory of the recipe file. Relative paths in the recipe start here.
    pub dir: PathBuf,
    /// The text of the recipe file.
    text: String,
}

/// Where a root file system comes from.
#[derive(Clone, Debug)]
pub enum Source {
    /// Debian and its relatives.
    Mmdebstrap(Mmdebstrap),
    /// Distributions made of RPM packages.
    Dnf(Dnf),
    /// No root at all: a kernel for the failsafe shell or for discovery. The source is where the kernel package comes from.
    Busybox(PackageSource),
}

/// A source of packages.
#[derive(Clone, Debug)]
pub enum PackageSource {
    /// See [`Source::Mmdebstrap`].
    Mmdebstrap(Mmdebstrap),
    /// See [`Source::Dnf`].
    Dnf(Dnf),
}

/// What mmdebstrap is to install from.
#[derive(Clone, Debug)]
pub struct Mmdebstrap {
    /// Release: `bookworm`.
    pub suite: String,
    /// Mirrors or sources.list lines; empty means mmdebstrap's own choice for the suite.
    pub mirrors: Vec<String>,
    /// Archive components; empty means `main`.
    pub components: Vec<String>,
    /// Keyrings that sign the archive, absolute; empty means apt's own.
    pub keyrings: Vec<PathBuf>,
    /// Which packages are installed unasked.
    pub variant: String,
}

/// What dnf is to install from.
#[derive(Clone, Debug)]
pub struct Dnf {
    /// Value of `$releasever`.
    pub releasever: String,
    /// The repositories; no other is used.
    pub repositories: Vec<Repository>,
    /// `platform:el8`, where modules matter.
    pub module_platform_id: Option<String>,
    /// Whether recommended packages are installed.
    pub weak_deps: bool,
    /// Packages never to install.
    pub excludes: Vec<String>,
}

/// An RPM repository.
#[derive(Clone, Debug)]
pub struct Repository {
    /// Its id.
    pub name: String,
    /// Where it is.
    pub location: Location,
    /// URLs of the keys that sign it.
    pub gpgkeys: Vec<String>,
    /// Whether packages must be signed by one of the keys.
    pub gpgcheck: bool,
    /// Whether the repository's metadata must be.
    pub repo_gpgcheck: bool,
}

/// How an RPM repository is found.
#[derive(Clone, Debug)]
pub enum Location {
    /// At this URL.
    BaseUrl(String),
    /// At one of the mirrors in this metalink document.
    Metalink(String),
    /// At one of the mirrors in this list.
    MirrorList(String),
}

/// Which kernel the image boots.
#[derive(Clone, Debug, Default)]
pub struct KernelSpec {
    /// The package to install for it.
    pub package: Option<String>,
    /// Which release to boot, if the packages bring several.
    pub release: Option<String>,
}

/// A file or symbolic link to put into the root.
#[derive(Clone, Debug)]
pub struct FileSpec {
    /// Absolute path inside the root.
    pub path: PathBuf,
    /// What it is.
    pub content: Content,
    /// Owner: a user name of the image, or a number.
    pub owner: String,
    /// Group: a group name of the image, or a number.
    pub group: String,
}

/// What a [`FileSpec`] puts there.
#[derive(Clone, Debug)]
pub enum Content {
    /// A file with this text.
    Text {
        /// The text.
        text: String,
        /// Permission bits.
        mode: u32,
    },
    /// A copy of a file on the build host.
    Copy {
        /// Which file, absolute.
        from: PathBuf,
        /// Permission bits.
        mode: u32,
    },
    /// A symbolic link to this target.
    Symlink(String),
}

/// A user of the image. One that the packages created is changed, another is created.
#[derive(Clone, Debug)]
pub struct UserSpec {
    /// Login name.
    pub name: String,
    /// User number; the image's `useradd` chooses if there is none.
    pub uid: Option<u32>,
    /// Number of an existing primary group; a group of the user's own name if there is none.
    pub gid: Option<u32>,
    /// Supplementary groups.
    pub groups: Vec<String>,
    /// Home directory.
    pub home: Option<String>,
    /// Login shell.
    pub shell: Option<String>,
    /// Password as `crypt(5)` prints it.
    pub password_hash: Option<String>,
    /// Lines for `authorized_keys`.
    pub ssh_keys: Vec<String>,
}

/// Units to switch on and off.
#[derive(Clone, Debug, Default)]
pub struct Services {
    /// Started at boot.
    pub enable: Vec<String>,
    /// Not started at boot.
    pub disable: Vec<String>,
    /// Never started.
    pub mask: Vec<String>,
}

/// How an image boots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BootSpec {
    /// Where the root comes from, unless a node is told otherwise.
    pub mode: BootMode,
    /// What the root is on the node.
    pub root: RootKind,
    /// Counts up when older images must not boot any more.
    pub rollback_index: u64,
}

/// What a root is on the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RootKind {
    /// Files in a tmpfs, unpacked from an archive.
    Tmpfs,
    /// A file system that stays compressed in memory, under an overlay.
    FileSystem(FileSystemFormat),
}

/// A script to run inside the root.
#[derive(Clone, Debug)]
pub struct ScriptSpec {
    /// What to call it in messages.
    pub name: String,
    /// Its text; without a `#!` line, one for `/bin/sh -e`.
    pub text: String,
}

/// A recipe cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RecipeError {
    /// It, or a file that it names, cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It is not TOML, or a key is unknown, missing or of the wrong type.
    #[error("recipe {} is not valid", path.display())]
    Toml {
        /// Which recipe.
        path: PathBuf,
        /// What and where: line, column and the line itself.
        #[source]
        source: toml::de::Error,
    },
    /// A value cannot be right.
    #[error("recipe {}: {key}: {problem}", path.display())]
    Value {
        /// Which recipe.
        path: PathBuf,
        /// The key, in the way TOML writes it.
        key: String,
        /// What is wrong with it.
        problem: String,
    },
    /// No file and no shipped recipe has this name.
    #[error(
        "there is no recipe '{name}'\nhint: give the path of a recipe.toml or of its directory, or the name of a shipped recipe: {}",
        if shipped.is_empty() { "none was found".to_owned() } else { shipped.join(", ") }
    )]
    NotFound {
        /// What was asked for.
        name: String,
        /// The recipes that are there.
        shipped: Vec<String>,
    },
}

impl Recipe {
    /// Reads and checks a recipe file.
    pub fn read(path: &Path) -> Result<Self, RecipeError> {
        let read_error = |source| RecipeError::Read { path: path.to_owned(), source };
        let text = std::fs::read_to_string(path).map_err(read_error)?;
        let path = std::path::absolute(path).map_err(read_error)?;
        Self::parse(&path, text)
    }

    /// The path of the recipe called `name_or_path`: a file, a directory with a `recipe.toml`, or the name of a
    /// directory in one of `shipped_dirs`.
    pub fn find(name_or_path: &str, shipped_dirs: &[PathBuf]) -> Result<PathBuf, RecipeError> {
        let given = Path::new(name_or_path);
        if given.is_file() {
            return Ok(given.to_owned());
        }
        let is_name = name_or_path.parse::<ImageName>().is_ok();
        let shipped = shipped_dirs.iter().filter(|_| is_name).map(|dir| dir.join(given).join(FILE_NAME));
        std::iter::once(given.join(FILE_NAME)).chain(shipped).find(|path| path.is_file()).ok_or_else(|| {
            RecipeError::NotFound { name: name_or_path.to_owned(), shipped: shipped_names(shipped_dirs) }
        })
    }

    /// How init boots the image.
    pub fn mode(&self) -> BootMode {
        self.boot.mode
    }
}

/// The names of the recipes in `dirs`, sorted. A directory that cannot be read has none.
fn shipped_names(dirs: &[PathBuf]) -> Vec<String> {
    let entries = dirs.iter().filter_map(|dir| dir.read_dir().ok()).flatten().flatten();
    let recipes = entries.filter(|entry| entry.path().join(FILE_NAME).is_file());
    let names: BTreeSet<_> = recipes.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shipped_dir() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../rootfs-recipes")
    }

    #[test]
    fn every_shipped_recipe_is_valid_and_named_like_its_directory() {
        let names = shipped_names(&[shipped_dir()]);
        assert_eq!(
            names,
            ["debian-12-compute", "discover", "failsafe", "rocky-8-compute", "rocky-9-compute"]
        );
        for name in names {
            let recipe = Recipe::read(&Recipe::find(&name, &[shipped_dir()]).unwrap()).unwrap();
            assert_eq!(recipe.name.as_str(), name);
            recipe.input_digest().unwrap();
        }
    }

    #[test]
    fn an_unknown_recipe_is_refused_with_the_names_there_are() {
        let error = Recipe::find("compute", &[shipped_dir()]).unwrap_err();
        assert!(error.to_string().contains("debian-12-compute, discover, failsafe"), "{error}");
    }

    #[test]
    fn the_digest_changes_with_the_recipe_and_with_the_files_it_names() {
        let dir = tempfile::tempdir().unwrap();
        let recipe = dir.path().join(FILE_NAME);
        let digest = || Recipe::read(&recipe).unwrap().input_digest().unwrap();
        let text = "name = 'x'\n[source]\ntype = 'mmdebstrap'\nsuite = 'bookworm'\n\
                    [[file]]\npath = '/etc/motd'\nfrom = 'motd'\n\
                    [[script]]\nname = 'tune'\npath = 'tune.sh'\n";
        let mut seen = BTreeSet::new();
        for (motd, script, comment) in [("a", "a", ""), ("b", "a", ""), ("a", "b", ""), ("a", "a", "# b")] {
            std::fs::write(dir.path().join("motd"), motd).unwrap();
            std::fs::write(dir.path().join("tune.sh"), script).unwrap();
            std::fs::write(&recipe, format!("{text}{comment}")).unwrap();
            assert_eq!(digest(), digest());
            seen.insert(digest());
        }
        assert_eq!(seen.len(), 4);
    }
}
