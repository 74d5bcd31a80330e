//! Kernel modules for the initramfs: those that the recipe asks for, all that they need, and their firmware.
//!
//! The root has been indexed by depmod(8); here its indexes are read (modules.dep(5)), cut down to the chosen modules and
//! written for init, which has no modprobe. Modules and firmware lie there unpacked, because init's segment is compressed
//! as a whole. Left out: `install` and `blacklist` lines of modprobe.d(5), and what is to be loaded after a module.

mod firmware;
mod index;
mod nics;
mod storage;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use bootspec::initramfs::{MODULES_ALIAS, MODULES_DEP, MODULES_DIR};
use serde::Deserialize;

use crate::tree::{Tree, TreeError};
use index::Index;
pub use nics::COMMON_NICS;
pub use storage::COMMON_STORAGE;

/// The word that stands for [`COMMON_NICS`] among the names of modules.
pub const COMMON_NICS_WORD: &str = "common-nics";
/// The word that stands for [`COMMON_STORAGE`].
pub const COMMON_STORAGE_WORD: &str = "common-storage";
/// What each word stands for.
const LISTS: [(&str, &[&str]); 2] = [(COMMON_NICS_WORD, COMMON_NICS), (COMMON_STORAGE_WORD, COMMON_STORAGE)];

/// Which modules an initramfs is to have, beside those that they need.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Vec<String>")]
pub struct ModuleSpec {
    /// Words of [`LISTS`].
    lists: BTreeSet<&'static str>,
    /// As the kernel spells them, with underscores.
    names: BTreeSet<String>,
}

/// A word is not the name of a module.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not the name of a kernel module\nhint: write it as lsmod(8) does, such as e1000e, without directory and .ko; \
     {COMMON_NICS_WORD} stands for the drivers of common network cards, {COMMON_STORAGE_WORD} for those of disks"
)]
pub struct ParseModuleSpecError(String);

impl ModuleSpec {
    /// The modules of these names. `-` and `_` are the same in them; [`COMMON_NICS_WORD`] and [`COMMON_STORAGE_WORD`] stand for
    /// whole lists.
    pub fn new<T: AsRef<str>>(words: impl IntoIterator<Item = T>) -> Result<Self, ParseModuleSpecError> {
        let mut spec = Self::default();
        for word in words {
            let word = word.as_ref();
            let is_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
            if let Some((list, _)) = LISTS.iter().find(|(list, _)| *list == word) {
                spec.lists.insert(list);
            } else if !word.is_empty() && word.bytes().all(is_name) {
                spec.names.insert(kernel_name(word));
            } else {
                return Err(ParseModuleSpecError(word.to_owned()));
            }
        }
        Ok(spec)
    }

    /// These modules and those of `other`.
    pub fn and(mut self, other: Self) -> Self {
        self.lists.extend(other.lists);
        self.names.extend(other.names);
        self
    }

    /// Whether nothing is asked for.
    pub fn is_empty(&self) -> bool {
        self.lists.is_empty() && self.names.is_empty()
    }

    /// The modules of the lists, of which a kernel need not have all.
    fn common(&self) -> BTreeSet<&'static str> {
        let lists = LISTS.iter().filter(|(word, _)| self.lists.contains(word));
        lists.flat_map(|(_, modules)| *modules).copied().collect()
    }
}

impl TryFrom<Vec<String>> for ModuleSpec {
    type Error = ParseModuleSpecError;

    fn try_from(words: Vec<String>) -> Result<Self, Self::Error> {
        Self::new(words)
    }
}

/// What goes into the initramfs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ModuleSet {
    /// Modules, their two indexes and firmware, sorted by path. None at all if no module is needed.
    pub files: Vec<Member>,
    /// How many of the files are modules.
    pub modules: usize,
    /// Their size, unpacked.
    pub module_bytes: u64,
    /// How many of the files are firmware.
    pub firmware: usize,
    /// Their size, unpacked.
    pub firmware_bytes: u64,
    /// How many of the modules of lists were asked for and are neither modules of this kernel nor built in.
    pub lacking: usize,
}

/// A file of the initramfs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Below the initramfs' root: `bootnode/modules/e1000e.ko`.
    pub path: String,
    /// What is in it.
    pub contents: Vec<u8>,
}

/// The modules cannot be collected.
#[derive(Debug, thiserror::Error)]
pub enum ModulesError {
    /// The recipe names modules that the kernel does not have.
    #[error(
        "kernel {release} has no module {}, neither as a file nor built in\nhint: look for the name in {}; some distributions \
         have a kernel package with more drivers (Debian: linux-image-amd64 instead of linux-image-cloud-amd64, \
         Enterprise Linux: kernel-modules-extra)",
        names.join(" and no module "), index.display()
    )]
    Missing {
        /// Which ones.
        names: Vec<String>,
        /// The kernel's release.
        release: String,
        /// Its modules.dep.
        index: PathBuf,
    },
    /// The root has no index of this kernel's modules.
    #[error("cannot read the index of the modules of kernel {release}\nhint: depmod(8) makes it")]
    Index {
        /// The kernel's release.
        release: String,
        /// Which file, and why not.
        #[source]
        source: TreeError,
    },
    /// A file of the root cannot be read or unpacked.
    #[error(transparent)]
    Read(#[from] TreeError),
    /// A module is no object file.
    #[error("{} is not a kernel module", path.display())]
    NotElf {
        /// Path in the root.
        path: PathBuf,
        /// Why not.
        #[source]
        source: object::read::Error,
    },
}

/// Collects the modules that `wanted` asks for from the root file system at `root`, whose kernel is `release`.
///
/// A module that the recipe names must be there or be built into the kernel; of a list what is there is taken.
/// Firmware that the root does not have is left out: most drivers name more than their devices need.
pub fn select(root: &Path, release: &str, wanted: &ModuleSpec) -> Result<ModuleSet, ModulesError> {
    if wanted.is_empty() {
        return Ok(ModuleSet::default());
    }
    let tree = Tree::open(root)?;
    let index = Index::read(&tree, release)?;
    let missing: Vec<String> = wanted.names.iter().filter(|name| !index.knows(name)).cloned().collect();
    if !missing.is_empty() {
        let index = index.path();
        return Err(ModulesError::Missing { names: missing, release: release.to_owned(), index });
    }
    let common = wanted.common();
    let lacking = common.iter().filter(|name| !index.knows(name)).count();
    let names = index.closure(wanted.names.iter().map(String::as_str).chain(common));
    let set = ModuleSet { lacking, ..collect(&tree, release, &index, &names)? };
    Ok(set)
}

fn collect(
    tree: &Tree,
    release: &str,
    index: &Index,
    names: &BTreeSet<&str>,
) -> Result<ModuleSet, ModulesError> {
    let mut set = ModuleSet::default();
    let mut files = BTreeMap::new();
    for name in names {
        let path = index.file(name);
        let contents = tree.read_unpacked(&path)?;
        for name in firmware::names(&contents).map_err(|source| ModulesError::NotElf { path, source })? {
            let path = firmware::member_path(&name);
            if files.contains_key(&path) {
                continue;
            }
            if let Some(contents) = firmware::find(tree, release, &name)? {
                set.firmware += 1;
                set.firmware_bytes += contents.len() as u64;
                files.insert(path, contents);
            }
        }
        set.modules += 1;
        set.module_bytes += contents.len() as u64;
        files.insert(format!("{MODULES_DIR}/{name}.ko"), contents);
    }
    if !files.is_empty() {
        files.insert(MODULES_DEP.to_owned(), index.modules_dep(names).into_bytes());
        files.insert(MODULES_ALIAS.to_owned(), index.modules_alias(names).into_bytes());
    }
    set.files = files.into_iter().map(|(path, contents)| Member { path, contents }).collect();
    Ok(set)
}

/// The spelling of the kernel: modules are often in files with hyphens and always have names with underscores.
fn kernel_name(name: &str) -> String {
    name.replace('-', "_")
}

#[cfg(test)]
mod tests;
