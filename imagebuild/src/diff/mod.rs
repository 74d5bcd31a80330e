//! What differs between two versions: packages, the files of the root, and the rest of the manifest.

mod listing;
mod tree;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Display};
use std::path::PathBuf;

use bootspec::ImageRef;
use bootspec::cmdline::KernelArg;
use bootspec::manifest::{Manifest, Package, Root};
use serde::Serialize;

use crate::file_error::{FileError, failed};
use crate::store::{Store, StoreError};

pub use listing::Object;
use listing::{differing_fields, read_listing};
pub use tree::{TreeError, read_tree};

/// All differences.
#[derive(Debug, Serialize)]
pub struct Difference {
    /// Keys of the manifest whose values differ, but for those that differ between any two builds.
    pub manifest: Vec<Change>,
    /// Packages.
    pub packages: Vec<Change>,
    /// Files of the root, by their paths. None if they were not compared: one of the roots is no archive.
    pub files: Option<Vec<Change>>,
}

/// One thing that differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Change {
    /// The key, the package or the path.
    pub what: String,
    /// How it is in the first version; none if it is not there.
    pub before: Option<String>,
    /// How it is in the second version.
    pub after: Option<String>,
}

impl Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = &self.what;
        match (&self.before, &self.after) {
            (Some(before), Some(after)) => write!(f, "~ {what}  {before} -> {after}"),
            (Some(before), None) => write!(f, "- {what}  {before}"),
            (None, Some(after)) => write!(f, "+ {what}  {after}"),
            (None, None) => f.write_str(what),
        }
    }
}

impl Difference {
    /// Whether nothing differs that was compared.
    pub fn is_empty(&self) -> bool {
        self.manifest.is_empty() && self.packages.is_empty() && self.files.as_ref().is_none_or(Vec::is_empty)
    }
}

/// Compares two published versions; of files also the times if `with_times`: they differ between any two builds. `done` is told how many bytes of the roots' files have been read.
pub fn compare(
    store: &Store,
    before: &ImageRef,
    after: &ImageRef,
    with_times: bool,
    mut done: impl FnMut(u64),
) -> Result<Difference, StoreError> {
    let _held = (store.hold(before)?, store.hold(after)?);
    let (old, new) = (store.manifest(before)?, store.manifest(after)?);
    let mut read = |image, manifest: &Manifest| read_files(store, image, manifest, &mut done);
    let files = match (is_archive(&old), is_archive(&new)) {
        (true, true) => Some(file_changes(&read(before, &old)?, &read(after, &new)?, with_times)),
        _ => None,
    };
    Ok(Difference {
        manifest: changes(&described(&old), &described(&new), same),
        packages: package_changes(&old.packages, &new.packages),
        files,
    })
}

/// Which packages were added and removed, and which have another version.
pub fn package_changes(before: &[Package], after: &[Package]) -> Vec<Change> {
    changes(&versions(before), &versions(after), same)
}

/// What differs between two roots; in the times as well if `with_times`.
pub fn file_changes(
    before: &BTreeMap<String, Object>,
    after: &BTreeMap<String, Object>,
    with_times: bool,
) -> Vec<Change> {
    changes(before, after, |one, other| differing_fields(one, other, with_times))
}

fn same(before: &String, after: &String) -> Option<(String, String)> {
    (before != after).then(|| (before.clone(), after.clone()))
}

/// An image without a root has no files, which can be compared with those of any other.
fn is_archive(manifest: &Manifest) -> bool {
    !matches!(manifest.root, Some(Root::FileSystem(_)))
}

fn read_files(
    store: &Store,
    image: &ImageRef,
    manifest: &Manifest,
    done: &mut impl FnMut(u64),
) -> Result<BTreeMap<String, Object>, FileError> {
    let Some(Root::Archive(archive)) = &manifest.root else { return Ok(BTreeMap::new()) };
    let path: PathBuf = store.dir(image).join(archive.file.as_str());
    read_listing(&path, archive.compression, done).map_err(failed("read", &path))
}

/// What of a manifest is compared: what decides how the image boots, and not when and where it was built.
fn described(manifest: &Manifest) -> BTreeMap<String, String> {
    let args: Vec<_> = manifest.kernel_args.iter().map(KernelArg::as_str).collect();
    let mut keys = vec![
        ("architecture", manifest.architecture.clone()),
        ("kernel_release", manifest.kernel_release.clone()),
        ("kernel_args", args.join(" ")),
        ("mode", manifest.mode.to_string()),
        ("rollback_index", manifest.rollback_index.to_string()),
    ];
    match &manifest.root {
        Some(Root::Archive(root)) => keys.push(("root", format!("{} archive", root.compression))),
        Some(Root::FileSystem(root)) => keys.push(("root", root.format.to_string())),
        None => {}
    }
    let digests = manifest
        .artifacts
        .iter()
        .map(|(name, artifact)| (format!("artifact {name}"), artifact.sha256.to_string()));
    keys.into_iter().map(|(key, value)| (key.to_owned(), value)).chain(digests).collect()
}

/// The versions of each package. There may be several, of kernels for instance.
fn versions(packages: &[Package]) -> BTreeMap<String, String> {
    let mut versions = BTreeMap::<String, BTreeSet<&str>>::new();
    for package in packages {
        let name = format!("{}.{}", package.name, package.architecture);
        versions.entry(name).or_default().insert(&package.version);
    }
    let joined = |versions: BTreeSet<&str>| versions.into_iter().collect::<Vec<_>>().join(", ");
    versions.into_iter().map(|(name, versions)| (name, joined(versions))).collect()
}

/// What is only in one of them, and what `differing` finds to differ.
pub(crate) fn changes<T: Display>(
    before: &BTreeMap<String, T>,
    after: &BTreeMap<String, T>,
    differing: impl Fn(&T, &T) -> Option<(String, String)>,
) -> Vec<Change> {
    let names: BTreeSet<_> = before.keys().chain(after.keys()).collect();
    let change = |name: &String| {
        let (before, after) = match (before.get(name), after.get(name)) {
            (Some(before), Some(after)) => {
                differing(before, after).map(|(before, after)| (Some(before), Some(after)))?
            }
            (before, after) => (before.map(ToString::to_string), after.map(ToString::to_string)),
        };
        Some(Change { what: name.clone(), before, after })
    };
    names.into_iter().filter_map(change).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(name: &str, version: &str) -> Package {
        Package { name: name.to_owned(), version: version.to_owned(), architecture: "amd64".to_owned() }
    }

    #[test]
    fn packages_are_added_removed_and_changed() {
        let before =
            [package("bash", "5.1"), package("vim", "9"), package("linux", "6.1"), package("linux", "6.2")];
        let after =
            [package("bash", "5.2"), package("nano", "7"), package("linux", "6.2"), package("linux", "6.1")];
        let change = |what: &str, before: Option<&str>, after: Option<&str>| Change {
            what: format!("{what}.amd64"),
            before: before.map(str::to_owned),
            after: after.map(str::to_owned),
        };
        let expected = [
            change("bash", Some("5.1"), Some("5.2")),
            change("nano", None, Some("7")),
            change("vim", Some("9"), None),
        ];
        assert_eq!(package_changes(&before, &after), expected);
    }
}
