//! Boots from the data directories of CoreOS bootcfg, its successor matchbox, and by the API of pixiecore, so that a site moves
//! without rewriting its configs: `docs/migrating.md`.
//!
//! Here is what these directories say of a machine, as functions of their files and of the [`Labels`] that the machine sends.
//! Who boots from them at all is decided in [`crate::policy`]. All of that reads files and waits for the disk. [`razor`] has no
//! such directory: its machines are discovered first.

pub mod bootcfg;
pub mod data_dir;
pub mod labels;
pub mod matchbox;
pub mod pixiecore;
pub mod razor;

use std::fmt;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;

pub use data_dir::{DataDir, DataDirError};
pub use labels::{HardwareAddr, Labels};

/// A data directory, and whose it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Site {
    /// Of CoreOS bootcfg: `boot/`, `cloud/`, `images/`.
    Bootcfg(PathBuf),
    /// Of matchbox: `groups/`, `profiles/`, `ignition/`, `cloud/`, `generic/`, `assets/`.
    Matchbox(PathBuf),
}

/// What a data directory has for a machine to boot, in the forms that clients ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Which file or group says so: `bootcfg boot/default`, `matchbox group edge, profile worker`.
    pub rule: String,
    /// The kernel as the file names it: a path on this server, or a URL.
    pub kernel: String,
    /// The iPXE script.
    pub script: String,
    /// The JSON of pixiecore's API.
    pub json: String,
}

/// A file that says what a machine boots, or a template, cannot be used. To the machine that is as if there were none.
#[derive(Debug, thiserror::Error)]
pub enum CompatError {
    /// The directory cannot be read.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// Not the JSON that is expected there.
    #[error("cannot use {}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// A group names a profile that is not there.
    #[error("group {group} names the profile {profile:?}, and there is no profiles/{profile}.json")]
    NoProfile {
        /// The group.
        group: String,
        /// What it names.
        profile: String,
    },
    /// A template is wrong, or wants a variable that neither the group nor the request has.
    #[error("cannot render {}: {reason}", path.display())]
    Template {
        /// The file.
        path: PathBuf,
        /// Why, and where in it.
        reason: String,
    },
    /// What comes of an Ignition template is not JSON.
    #[error(
        "{} does not render to JSON\nhint: Container Linux Configs are not translated to Ignition here; do it beforehand, with butane",
        path.display()
    )]
    NotIgnition {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
}

impl Site {
    /// The data directory.
    pub fn path(&self) -> &Path {
        match self {
            Self::Bootcfg(path) | Self::Matchbox(path) => path,
        }
    }

    /// What the machine with these labels boots; none if the directory says nothing of it.
    pub fn boot(&self, labels: &Labels) -> Result<Option<Found>, CompatError> {
        match self {
            Self::Bootcfg(path) => bootcfg::boot(&DataDir::open(path)?, labels),
            Self::Matchbox(path) => matchbox::boot(&DataDir::open(path)?, labels),
        }
    }

    /// What is wrong with the files of the directory, each in a sentence.
    pub fn problems(&self) -> Result<Vec<String>, CompatError> {
        match self {
            Self::Bootcfg(path) => bootcfg::problems(&DataDir::open(path)?),
            Self::Matchbox(path) => matchbox::problems(&DataDir::open(path)?),
        }
    }

    /// The subdirectory of kernels and other files that are sent as they are.
    pub fn assets(&self) -> &'static str {
        match self {
            Self::Bootcfg(_) => "images",
            Self::Matchbox(_) => "assets",
        }
    }
}

impl fmt::Display for Site {
    /// As its key in the configuration.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bootcfg(_) => "bootcfg",
            Self::Matchbox(_) => "matchbox",
        })
    }
}

/// The JSON in the file `name`, if that is there.
fn read_json<T: DeserializeOwned>(dir: &DataDir, name: &Path) -> Result<Option<T>, CompatError> {
    let Some(bytes) = dir.read(name)? else { return Ok(None) };
    let parsed = serde_json::from_slice(&bytes);
    parsed.map(Some).map_err(|source| CompatError::Json { path: dir.path().join(name), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn site(kind: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(kind)
    }

    fn check_problems(site: &Site, expected: &[&str]) {
        let problems = site.problems().unwrap();
        assert_eq!(problems.len(), expected.len(), "{problems:#?}");
        for part in expected {
            assert!(problems.iter().any(|problem| problem.contains(part)), "{part} in {problems:#?}");
        }
    }

    #[test]
    fn what_no_machine_could_use_is_named_with_its_file() {
        check_problems(&Site::Bootcfg(site("bootcfg")), &["boot/mac/52:54:00:00:00:0b"]);
        let expected = [
            "groups/broken.json",
            "group rack names the profile \"nosuch\"",
            "profiles/worker.json names cloud/../profiles/worker.json, which is not there",
            "profiles/worker.json names generic/nosuch, which is not there",
            "ignition/worker.yaml renders to no JSON",
        ];
        check_problems(&Site::Matchbox(site("matchbox")), &expected);
    }

    #[test]
    fn files_that_no_request_finds_are_problems() {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in [
            ("boot/mac/52-54-00-A1-9C-AE", r#"{"kernel": "/k"}"#),
            ("boot/uuid/x", "{}"),
            ("cloud/mac/node1", ""),
            ("profiles/lonely.json", r#"{"id": "other", "ignition_id": "a.ign", "generic_id": "t"}"#),
            ("ignition/a.ign", "storage:"),
            ("generic/t", "{{.a"),
        ] {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        std::fs::create_dir(dir.path().join("boot/default")).unwrap();
        let expected = [
            "looked for as 52:54:00:a1:9c:ae",
            "boot/uuid/x names no kernel",
            "boot/default is no regular file",
            "cloud/mac/node1 is found by no machine: expected a MAC address",
        ];
        check_problems(&Site::Bootcfg(dir.path().to_owned()), &expected);
        let expected = ["no group names", "has the id \"other\"", "ignition/a.ign", "generic/t"];
        check_problems(&Site::Matchbox(dir.path().to_owned()), &expected);
        assert!(Site::Matchbox(dir.path().join("nosuch")).problems().is_err());
    }
}
