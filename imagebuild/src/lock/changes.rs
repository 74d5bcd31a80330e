//! What differs between the packages of two locks.

use std::collections::{BTreeMap, BTreeSet};

use super::{Lock, Pinned};
use crate::diff::{Change, changes};

/// How many digits of a digest tell two files of one version apart for people.
const DIGITS: usize = 12;

impl Lock {
    /// What `newer` pins otherwise than this lock. Where the files lie counts for nothing.
    pub fn changes(&self, newer: &Self) -> Vec<Change> {
        let differing = |before: &Versions, after: &Versions| {
            if before == after {
                return None;
            }
            let (mut old, mut new) = (before.to_string(), after.to_string());
            if old == new {
                (old, new) = (before.with_digests(), after.with_digests());
            }
            Some((old, new))
        };
        changes(&versions(&self.packages), &versions(&newer.packages), differing)
    }
}

/// The versions of a package, with the digests of their files. There may be several, of kernels for instance.
#[derive(Default, PartialEq, Eq)]
struct Versions(BTreeSet<(String, String)>);

fn versions(packages: &[Pinned]) -> BTreeMap<String, Versions> {
    let mut versions = BTreeMap::<String, Versions>::new();
    for package in packages {
        let name = format!("{}.{}", package.name, package.architecture);
        let version = (package.version.clone(), package.sha256.to_string());
        versions.entry(name).or_default().0.insert(version);
    }
    versions
}

impl Versions {
    fn with_digests(&self) -> String {
        let text =
            |(version, digest): &(String, String)| format!("{version} (SHA-256 {}…)", &digest[..DIGITS]);
        self.0.iter().map(text).collect::<Vec<_>>().join(", ")
    }
}

impl std::fmt::Display for Versions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0.iter().map(|(version, _)| version.as_str()).collect::<Vec<_>>().join(", "))
    }
}
