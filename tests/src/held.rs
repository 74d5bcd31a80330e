//! What a server holds: its threads and descriptors, to be compared before and after a load.

use std::fs;

use anyhow::{Context, Result};
use rustix::process::Pid;

use crate::netns::NetNs;

/// Threads by name, and what descriptors are of. The database is left out: it opens up to a few connections as it is used,
/// each with a thread, and keeps them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// `comm` of each thread.
    pub threads: Vec<String>,
    /// The link of each descriptor in /proc.
    pub files: Vec<String>,
}

impl Held {
    /// What the one program in `netns` holds.
    pub fn by(netns: &NetNs) -> Result<Self> {
        let pid =
            netns.pids()?.first().copied().map(Pid::as_raw_nonzero).context("the server does not run")?;
        let list = |what: &str| fs::read_dir(format!("/proc/{pid}/{what}"));
        // A thread or a descriptor that has gone since it was listed is none.
        let threads = list("task")?.flatten().flat_map(|task| fs::read_to_string(task.path().join("comm")));
        let files = list("fd")?.flatten().flat_map(|fd| fs::read_link(fd.path()));
        let is_of_database = |name: &String| name.starts_with("sqlx-") || name.contains("/state.sqlite");
        let files = files.map(|file| file.to_string_lossy().into_owned());
        Ok(Self {
            threads: threads.filter(|name| !is_of_database(name)).collect(),
            files: files.filter(|name| !is_of_database(name)).collect(),
        })
    }

    /// Whether this is no more than `before`.
    pub fn is_within(&self, before: &Self) -> bool {
        self.threads.len() <= before.threads.len() && self.files.len() <= before.files.len()
    }
}
