//! Recipes: what an image is made of, in the words of the person who asks for it.
//!
//! A recipe is a TOML file, described key by key in `docs/recipes.md`, which may extend others. [`Recipe::read`] gives a
//! checked one: names fit where they will be used, choices exclude each other, the files it names exist. Whether the
//! packages exist is for the package manager to say.
//!
//! ```text
//! files  ->  layers, base first  ->  merged, with variants and variables  ->  wire::Recipe  ->  Recipe
//!            (layers)                (effective, merge, variables)            (wire)            (check)
//! ```

mod check;
mod compression;
mod effective;
mod inputs;
mod layers;
mod merge;
mod proxy;
mod source;
mod source_map;
mod variables;
mod wire;

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use bootspec::cmdline::KernelArg;
use bootspec::manifest::{BootMode, FileSystemFormat};
use bootspec::store::ImageName;
use globset::{Glob, GlobBuilder};
use serde::Deserialize;

use crate::architecture::Architecture;
use crate::modules::ModuleSpec;

use effective::Effective;
use layers::Layers;

pub use compression::{CompressionSpec, LevelError, default_chunk_bytes};
pub use effective::Entry;
pub use proxy::{ParseProxyError, Proxy};
pub use source::{
    Dnf, Existing, ExistingRoot, Location, Mmdebstrap, OciImage, PackageSource, Repository, Source,
};
pub use source_map::{Origin, Place};

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
    /// Groups to create, in order, before the users.
    pub groups: Vec<GroupSpec>,
    /// Users to create or change, in order.
    pub users: Vec<UserSpec>,
    /// Units of the image's systemd to switch on and off.
    pub services: Services,
    /// Scripts to run inside the root, in order.
    pub scripts: Vec<ScriptSpec>,
    /// What is left out of the root although packages or scripts bring it.
    pub exclude: ExcludeSpec,
    /// Scripts that must succeed in the finished root, which they cannot change.
    pub checks: Vec<ScriptSpec>,
    /// Which machines it is for, if not those of this one's kind.
    pub architecture: Option<Architecture>,
    /// Packages whose scriptlets may fail without failing the build.
    pub allowed_scriptlet_failures: BTreeSet<String>,
    /// How the root is packed.
    pub compression: CompressionSpec,
    /// How the image boots.
    pub boot: BootSpec,
    /// Kernel modules that a node needs to fetch its root, or to find out what it is made of.
    pub modules: ModuleSpec,
    /// Whether the initramfs begin with the root's microcode. Without a word, they do if it has any.
    pub microcode: Option<bool>,
    /// The SELinux policy that nodes load and by which the root is labelled: `targeted`.
    pub selinux_policy: Option<String>,
    /// The variants that may be chosen.
    pub variants: BTreeSet<String>,
    /// The texts of its files, and what was chosen.
    inputs: Vec<String>,
}

/// What is chosen of a recipe.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// Variants, applied in this order.
    pub variants: Vec<String>,
    /// Values of variables, in place of those that the recipe has.
    pub variables: Vec<(String, String)>,
    /// Where recipes are looked for by name.
    pub shipped_dirs: Vec<PathBuf>,
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

/// A group of the image. One that the packages created stays as it is.
#[derive(Clone, Debug)]
pub struct GroupSpec {
    /// Its name.
    pub name: String,
    /// Its number; the image's `groupadd` chooses if there is none.
    pub gid: Option<u32>,
    /// Whether the number is chosen from those for services.
    pub system: bool,
}

/// A user of the image. One that the packages created is changed, another is created.
#[derive(Clone, Debug)]
pub struct UserSpec {
    /// Login name.
    pub name: String,
    /// User number; the image's `useradd` chooses if there is none.
    pub uid: Option<u32>,
    /// Name or number of an existing primary group; a group of the user's own name if there is none.
    pub group: Option<String>,
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
    /// Whether systemd's presets decide first.
    pub presets: bool,
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
    /// Whether it has the build host's network.
    pub network: bool,
}

/// What is left out of a root.
#[derive(Clone, Debug, Default)]
pub struct ExcludeSpec {
    /// Kinds of files.
    pub sets: BTreeSet<ExcludeSet>,
    /// Paths inside the root, as patterns. A directory goes with all that is in it.
    pub paths: Vec<Glob>,
    /// What stays all the same, as patterns.
    pub keep: Vec<Glob>,
}

/// A pattern of paths: `*` and `?` stand for characters of one name, `**` for any number of directories, `[...]` and `{a,b}` as
/// in a shell.
pub fn path_glob(pattern: &str) -> Result<Glob, globset::Error> {
    GlobBuilder::new(pattern).literal_separator(true).empty_alternates(true).build()
}

impl ExcludeSpec {
    /// Whether nothing is left out.
    pub fn is_empty(&self) -> bool {
        self.sets.is_empty() && self.paths.is_empty()
    }
}

/// A kind of files that nodes seldom need.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ExcludeSet {
    /// Manuals, info pages, and what packages put beside them.
    Docs,
    /// Translations of messages, and the sources of locales.
    Locales,
    /// What programs make again when they need it.
    Caches,
    /// Libraries to link programs with statically.
    StaticLibraries,
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
    /// It names something else than a file.
    #[error("the recipe names {} as a file, and it is not a regular file", path.display())]
    NotFile {
        /// What it names.
        path: PathBuf,
    },
    /// It is not TOML.
    #[error("recipe {} is not valid", path.display())]
    Toml {
        /// Which recipe.
        path: PathBuf,
        /// What and where: line, column and the line itself.
        #[source]
        source: toml::de::Error,
    },
    /// A key is unknown, missing or of the wrong type.
    #[error("recipe {place} is not valid: {problem} (line {}, column {}: {})", .place.line, .place.column, .line.trim())]
    Shape {
        /// Where.
        place: Place,
        /// The line.
        line: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A variant is chosen that there is not.
    #[error("recipe {} has no variant '{name}'\nhint: it has {}", path.display(), listed(.known))]
    NoVariant {
        /// Which recipe.
        path: PathBuf,
        /// What was asked for.
        name: String,
        /// The variants that there are.
        known: BTreeSet<String>,
    },
    /// A value cannot be right.
    #[error("recipe {place}: {key}: {problem}")]
    Value {
        /// Where it stands.
        place: Place,
        /// The key, in the way TOML writes it.
        key: String,
        /// What is wrong with it.
        problem: String,
    },
    /// No file and no shipped recipe has this name.
    #[error(
        "there is no recipe '{name}'\nhint: give the path of a recipe.toml or of its directory, or the name of a shipped recipe: {}",
        listed(.shipped)
    )]
    NotFound {
        /// What was asked for.
        name: String,
        /// The recipes that are there.
        shipped: BTreeSet<String>,
    },
}

/// Names as a message shows them.
fn listed<'a>(names: impl IntoIterator<Item = &'a String>) -> String {
    let names: Vec<_> = names.into_iter().map(String::as_str).collect();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

impl Recipe {
    /// Reads and checks a recipe file, what it extends, and what is chosen of it.
    pub fn read(path: &Path, selection: &Selection) -> Result<Self, RecipeError> {
        let layers = Layers::read(path, &selection.shipped_dirs)?;
        Self::check(&Effective::of(&layers, selection)?)
    }

    /// Reads and checks a recipe as [`Recipe::read`] does, and tells every value of it with its place.
    pub fn explain(path: &Path, selection: &Selection) -> Result<(Self, Vec<Entry>), RecipeError> {
        let layers = Layers::read(path, &selection.shipped_dirs)?;
        let effective = Effective::of(&layers, selection)?;
        Ok((Self::check(&effective)?, effective.entries()))
    }

    /// The path of the recipe called `name_or_path`: a file, a directory with a `recipe.toml`, or the name of a
    /// directory in one of `shipped_dirs`.
    pub fn find(name_or_path: &str, shipped_dirs: &[PathBuf]) -> Result<PathBuf, RecipeError> {
        Self::find_from(Path::new(""), name_or_path, shipped_dirs)
    }

    /// The same with relative paths that start at `dir`.
    fn find_from(dir: &Path, name_or_path: &str, shipped_dirs: &[PathBuf]) -> Result<PathBuf, RecipeError> {
        let given = dir.join(name_or_path);
        if given.is_file() {
            return Ok(given);
        }
        let is_name = name_or_path.parse::<ImageName>().is_ok();
        let shipped =
            shipped_dirs.iter().filter(|_| is_name).map(|dir| dir.join(name_or_path).join(FILE_NAME));
        std::iter::once(given.join(FILE_NAME)).chain(shipped).find(|path| path.is_file()).ok_or_else(|| {
            RecipeError::NotFound { name: name_or_path.to_owned(), shipped: shipped_names(shipped_dirs) }
        })
    }

    /// What the kernel calls the machines that the image is for.
    pub fn machine(&self) -> String {
        match self.architecture {
            Some(architecture) => architecture.to_string(),
            None => rustix::system::uname().machine().to_string_lossy().into_owned(),
        }
    }

    /// How init boots the image.
    pub fn mode(&self) -> BootMode {
        self.boot.mode
    }
}

/// The names of the recipes in `dirs`. A directory that cannot be read has none.
pub fn shipped_names(dirs: &[PathBuf]) -> BTreeSet<String> {
    let entries = dirs.iter().filter_map(|dir| dir.read_dir().ok()).flatten().flatten();
    let recipes = entries.filter(|entry| entry.path().join(FILE_NAME).is_file());
    recipes.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shipped_dir() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../rootfs-recipes")
    }

    #[test]
    fn every_shipped_recipe_is_valid_named_like_its_directory_and_in_the_readme() {
        let names = shipped_names(&[shipped_dir()]);
        let expected = [
            "alma-9-compute",
            "debian-12-compute",
            "debian-12-hpc",
            "debian-13-compute",
            "debian-13-hpc",
            "discover",
            "failsafe",
            "fedora-compute",
            "rocky-10-compute",
            "rocky-8-compute",
            "rocky-9-compute",
            "rocky-9-hpc",
            "ubuntu-24.04-compute",
            "ubuntu-24.04-hpc",
        ];
        assert_eq!(names, expected.map(str::to_owned).into());
        let readme = include_str!("../../../README.md");
        for name in names {
            assert!(readme.contains(&format!("\n| `{name}` |")), "README.md has no line for {name}");
            let selection = Selection { shipped_dirs: vec![shipped_dir()], ..Selection::default() };
            let recipe = Recipe::read(&Recipe::find(&name, &[shipped_dir()]).unwrap(), &selection).unwrap();
            assert_eq!(recipe.name.as_str(), name);
            // Ubuntu's keyring is a package of its own, which this machine need not have.
            if !name.starts_with("ubuntu-") {
                recipe.input_digest().unwrap();
            }
        }
    }

    #[test]
    fn an_unknown_recipe_is_refused_with_the_names_there_are() {
        let error = Recipe::find("compute", &[shipped_dir()]).unwrap_err();
        assert!(
            error.to_string().contains("debian-12-hpc, debian-13-compute, debian-13-hpc, discover, failsafe"),
            "{error}"
        );
    }

    #[test]
    fn the_digest_changes_with_the_recipe_and_with_the_files_it_names() {
        let dir = tempfile::tempdir().unwrap();
        let recipe = dir.path().join(FILE_NAME);
        let digest = || Recipe::read(&recipe, &Selection::default()).unwrap().input_digest().unwrap();
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

    /// Writes the recipes `files` (directory, text) and reads the last of them.
    fn read_layers(
        files: &[(&str, &str)],
        selection: &Selection,
    ) -> (tempfile::TempDir, Result<(Recipe, Vec<Entry>), RecipeError>) {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::create_dir_all(dir.path().join(name)).unwrap();
            std::fs::write(dir.path().join(name).join(FILE_NAME), text).unwrap();
        }
        let (last, _) = files.last().unwrap();
        let selection = Selection { shipped_dirs: vec![dir.path().to_owned()], ..selection.clone() };
        let explained = Recipe::explain(&dir.path().join(last).join(FILE_NAME), &selection);
        (dir, explained)
    }

    fn check_layers_refused(files: &[(&str, &str)], selection: &Selection, expected: &str) {
        let (_dir, read) = read_layers(files, selection);
        let checked = read.and_then(|(recipe, _)| recipe.require_files());
        let error = bootspec::diagnosis::explain(&checked.unwrap_err());
        assert!(error.contains(expected), "{error}");
    }

    const BASE: (&str, &str) = (
        "base",
        "name = 'base'\npackages = ['vim', 'ssh']\n[source]\ntype = 'mmdebstrap'\nsuite = '@{suite}'\n\
         [variables]\nsuite = 'bookworm'\n[[file]]\npath = '/etc/motd'\nfrom = 'motd'\n\
         [variant.gpu]\npackages = { add = ['nvidia'] }\n",
    );

    #[test]
    fn a_recipe_extends_others_and_each_value_knows_its_place() {
        let slurm = ("slurm", "packages = { add = ['slurmd'] }");
        let site = (
            "site",
            "name = 'site'\nextends = ['../base', 'slurm', 'base']\npackages = { remove = ['vim'] }\n\
             [kernel]\nargs = ['quiet']\n",
        );
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("motd"), "").unwrap();
        let base = ("base", BASE.1.replace("'motd'", &format!("'{}/motd'", dir.path().display())));
        let files = [(base.0, &*base.1), slurm, site];
        let (recipes, read) = read_layers(&files, &Selection::default());
        let (recipe, entries) = read.unwrap();
        assert_eq!(
            (recipe.name.as_str(), &recipe.packages[..]),
            ("site", &["ssh".to_owned(), "slurmd".to_owned()][..])
        );
        let Source::Mmdebstrap(source) = &recipe.source else { panic!("{:?}", recipe.source) };
        assert_eq!(source.suite, "bookworm");
        let place = |key: &str| {
            let entry = entries.iter().find(|entry| entry.key == key).unwrap();
            entry.place.to_string().replace(&format!("{}/", recipes.path().display()), "")
        };
        assert_eq!(place("name"), "site/recipe.toml:1");
        assert_eq!(place("packages[0]"), "site/../base/recipe.toml:2");
        assert_eq!(place("packages[1]"), "slurm/recipe.toml:1");
        assert_eq!(place("kernel.args[0]"), "site/recipe.toml:5");
        assert_eq!(place("variables.suite"), "site/../base/recipe.toml:7");
    }

    #[test]
    fn relative_paths_start_at_the_file_that_they_stand_in() {
        let site = ("site", "name = 'site'\nextends = 'base'\n[[script]]\nname = 'tune'\npath = 'tune.sh'");
        check_layers_refused(&[BASE, site], &Selection::default(), "site/tune.sh");
        let site = ("site", "name = 'site'\nextends = 'base'");
        check_layers_refused(&[BASE, site], &Selection::default(), "base/motd");
    }

    #[test]
    fn variants_change_the_recipe_and_the_name_of_its_image() {
        let no_file = "[[file]]\npath = '/etc/motd'\nremove = true\n";
        let site = format!(
            "name = 'site'\nextends = 'base'\n{no_file}[variant.gpu]\nkernel.args = ['iommu=pt']\n[variant.own]\nname = 'other'"
        );
        let files = [BASE, ("site", &*site)];
        let read = |variants: &[&str]| {
            let variants = variants.iter().map(|variant| (*variant).to_owned()).collect();
            read_layers(&files, &Selection { variants, ..Selection::default() }).1.map(|(recipe, _)| recipe)
        };
        assert_eq!(read(&[]).unwrap().name.as_str(), "site");
        let gpu = read(&["gpu"]).unwrap();
        assert_eq!((gpu.name.as_str(), gpu.packages.len(), gpu.kernel_args.len()), ("site-gpu", 3, 1));
        assert_eq!(read(&["gpu", "own"]).unwrap().name.as_str(), "other");
        assert_eq!(gpu.variants, ["gpu", "own"].map(str::to_owned).into());
        let child = [BASE, ("site", &*site), ("child", "name = 'child'\nextends = 'site'")];
        let variants = vec!["own".to_owned()];
        let (_dir, read_child) = read_layers(&child, &Selection { variants, ..Selection::default() });
        assert_eq!(read_child.unwrap().0.name.as_str(), "child-own");
        let error = read(&["cpu"]).unwrap_err().to_string();
        assert!(error.contains("no variant 'cpu'\nhint: it has gpu, own"), "{error}");
        let digests =
            [&[][..], &["gpu"], &["own"]].map(|variants| read(variants).unwrap().input_digest().unwrap());
        assert_eq!(BTreeSet::from(digests).len(), 3);
    }

    #[test]
    fn variables_are_set_from_outside_if_they_are_there() {
        let site =
            ("site", "name = 'site'\nextends = 'base'\n[[file]]\npath = '/etc/motd'\ncontent = '@{suite}'");
        let set = |name: &str| {
            let variables = vec![(name.to_owned(), "trixie".to_owned())];
            Selection { variables, ..Selection::default() }
        };
        let (recipe, entries) = read_layers(&[BASE, site], &set("suite")).1.unwrap();
        let Content::Text { text, .. } = &recipe.files[0].content else { panic!("{:?}", recipe.files) };
        assert_eq!(text, "trixie");
        assert_eq!(entries[0].place.to_string(), "--set");
        check_layers_refused(
            &[BASE, site],
            &set("siute"),
            "recipe --set: siute: there is no such variable; [variables] has suite",
        );
    }

    #[test]
    fn what_is_wrong_in_a_layer_is_named_with_its_file_and_line() {
        let refused = |base: &str, site: &str, expected: &str| {
            let site = format!("name = 'site'\nextends = 'base'\n{site}");
            check_layers_refused(&[("base", base), ("site", &site)], &Selection::default(), expected);
        };
        let source = "[source]\ntype = 'mmdebstrap'\nsuite = 'bookworm'\n";
        refused(
            &format!("colour = 'red'\n{source}"),
            "",
            "base/recipe.toml:1 is not valid: unknown field `colour`",
        );
        refused(&format!("{source}[kernel]\nargs = ['ok', 'a b']"), "", "base/recipe.toml:5: kernel.args[1]");
        refused(
            source,
            "packages = { remove = ['vim'] }",
            "site/recipe.toml:3: packages.remove: 'vim' is not in",
        );
        refused("x = ", "", "base/recipe.toml is not valid: TOML parse error");
        refused("", "", "site/recipe.toml:1 is not valid: missing field `source`");
        refused(source, "[variant]\ngpu = 1", "site/recipe.toml:4: variant.gpu: expected a table");
        refused(source, "[variables]\nx = 1", "site/recipe.toml:4: variables.x: expected a text");
        refused("extends = 'site'", "", "base/recipe.toml:1: extends:");
        refused("extends = ['nosuch']", "", "there is no recipe 'nosuch'");
        refused("name = 'base'", "name = 'x'", "duplicate key");
    }
}
