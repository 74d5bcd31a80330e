//! Overlays as they are shown: which there are, and what a node's hold.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::layers::Layers;
use super::tree::{self, Kind, Room, TreeError};
use super::{MAX_ENTRIES, MAX_RENDERED_BYTES, OverlayName};
use crate::config::Config;

/// All overlays, by name.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub struct Listing(pub Vec<Row>);

/// An overlay, as one line says it.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Row {
    /// Its name.
    pub name: String,
    /// Its files and links; no directories.
    pub files: usize,
    /// Those of them that are templates.
    pub templates: usize,
    /// The bytes of its files.
    pub bytes: u64,
    /// How many nodes have it.
    pub nodes: usize,
    /// Whether they have it as a secret, all or some of them.
    pub secret: bool,
}

/// Overlays cannot be listed.
#[derive(Debug, thiserror::Error)]
pub enum ListingError {
    /// There is no directory of them.
    #[error("there is no directory of overlays\nhint: server.overlays names it")]
    NoOverlays,
    /// Their directory cannot be read.
    #[error("cannot read the overlays in {}", path.display())]
    Read {
        /// The directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// One of them cannot be read.
    #[error("cannot use the overlay {overlay}")]
    Tree {
        /// Which.
        overlay: OverlayName,
        /// Why.
        #[source]
        source: Box<TreeError>,
    },
}

impl Listing {
    /// Those of a configuration.
    pub fn of(config: &Config) -> Result<Self, ListingError> {
        let dir = config.server.overlays.as_deref().ok_or(ListingError::NoOverlays)?;
        let rows = names(dir)
            .map_err(|source| ListingError::Read { path: dir.to_owned(), source })?
            .into_iter()
            .map(|name| Row::of(dir, name, config));
        rows.collect::<Result<_, _>>().map(Self)
    }
}

/// The names of the overlays in `dir`.
fn names(dir: &Path) -> io::Result<Vec<OverlayName>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name().to_str().and_then(|name| name.parse().ok());
        names.extend(name.filter(|_| entry.path().is_dir()));
    }
    names.sort();
    Ok(names)
}

impl Row {
    fn of(dir: &Path, name: OverlayName, config: &Config) -> Result<Self, ListingError> {
        let mut room = Room { bytes: MAX_RENDERED_BYTES, entries: MAX_ENTRIES };
        let tree = tree::read(&dir.join(name.as_str()), &mut room);
        let tree =
            tree.map_err(|source| ListingError::Tree { overlay: name.clone(), source: Box::new(source) })?;
        let count = |is: fn(&Kind) -> bool| tree.values().filter(|entry| is(&entry.kind)).count();
        Ok(Self {
            files: count(|kind| *kind != Kind::Directory),
            templates: count(|kind| matches!(kind, Kind::Template(_))),
            bytes: tree.values().map(|entry| size(&entry.kind)).sum(),
            nodes: config
                .nodes()
                .iter()
                .filter(|node| node.overlays.contains(&name) || node.secrets.contains(&name))
                .count(),
            secret: config.nodes().iter().any(|node| node.secrets.contains(&name)),
            name: name.to_string(),
        })
    }
}

fn size(kind: &Kind) -> u64 {
    match kind {
        Kind::File(contents) | Kind::Template(contents) => contents.len() as u64,
        Kind::Directory | Kind::Symlink(_) => 0,
    }
}

impl fmt::Display for Listing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("there is no overlay");
        }
        let width = self.0.iter().map(|row| row.name.len()).max().unwrap_or(0).max("NAME".len());
        writeln!(f, "{:width$}  {:>6}  {:>9}  {:>9}  {:>6}", "NAME", "FILES", "TEMPLATES", "BYTES", "NODES")?;
        for Row { name, files, templates, bytes, nodes, secret } in &self.0 {
            write!(f, "{name:width$}  {files:>6}  {templates:>9}  {bytes:>9}  {nodes:>6}")?;
            writeln!(f, "{}", if *secret { "  secret" } else { "" })?;
        }
        Ok(())
    }
}

/// What a node gets, file by file.
#[derive(Debug, Serialize)]
pub struct Contents {
    /// Whose.
    pub node: String,
    /// Its overlays, the lowest first.
    pub overlays: Vec<String>,
    /// The tar that is laid on top or, if it is signed, sent in place of all else.
    pub tar: Option<OwnTar>,
    /// What the overlays hold, by path.
    pub files: Vec<FileRow>,
    /// The overlays that it is given as secrets, the lowest first.
    pub secrets: Vec<String>,
    /// What those hold, by path.
    pub secret_files: Vec<FileRow>,
}

/// The node's own tar.
#[derive(Debug, Serialize)]
pub struct OwnTar {
    /// Where it is.
    pub path: PathBuf,
    /// Whether there is a signature, so that nothing else is sent.
    pub is_signed: bool,
}

/// A file, a directory or a link.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct FileRow {
    /// Where it is on the node.
    pub path: String,
    /// Which overlay it is of.
    pub overlay: String,
    /// `file`, `directory` or `symlink`.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// Its permission bits, as `0644`.
    pub mode: String,
    /// Number of its user.
    pub uid: u32,
    /// Number of its group.
    pub gid: u32,
    /// Its length, for a file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<usize>,
    /// What it points to, for a link.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
}

impl FileRow {
    /// A line for each entry.
    pub fn of(layers: &Layers) -> Vec<Self> {
        let rows = layers.iter().map(|(path, placed)| {
            let entry = &placed.entry;
            let (kind, bytes, target) = match &entry.kind {
                Kind::Directory => ("directory", None, None),
                Kind::Symlink(target) => ("symlink", None, Some(target.clone())),
                Kind::File(contents) | Kind::Template(contents) => ("file", Some(contents.len()), None),
            };
            Self {
                path: format!("/{path}"),
                overlay: placed.overlay.to_string(),
                kind,
                mode: format!("{:04o}", entry.mode),
                uid: entry.uid,
                gid: entry.gid,
                bytes,
                target,
            }
        });
        rows.collect()
    }
}

impl fmt::Display for Contents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let overlays =
            if self.overlays.is_empty() { "no overlays".to_owned() } else { self.overlays.join(", ") };
        writeln!(f, "node {}: {overlays}", self.node)?;
        match &self.tar {
            Some(OwnTar { path, is_signed: true }) => {
                writeln!(f, "{} is signed and sent in place of them", path.display())?;
            }
            Some(OwnTar { path, is_signed: false }) => writeln!(f, "{} is laid on top", path.display())?,
            None => {}
        }
        write_rows(f, &self.files)?;
        if !self.secrets.is_empty() {
            writeln!(f, "secrets, once a boot: {}", self.secrets.join(", "))?;
        }
        write_rows(f, &self.secret_files)
    }
}

fn write_rows(f: &mut fmt::Formatter<'_>, rows: &[FileRow]) -> fmt::Result {
    let width = rows.iter().map(|row| row.overlay.len()).max().unwrap_or(0);
    for FileRow { path, overlay, kind, mode, uid, gid, bytes, target } in rows {
        let size = bytes.map(|bytes| bytes.to_string()).unwrap_or_default();
        let owner = format!("{uid}:{gid}");
        write!(f, "{overlay:width$}  {mode}  {owner:>11}  {size:>9}  {path}")?;
        match (target, *kind) {
            (Some(target), _) => writeln!(f, " -> {target}")?,
            (None, "directory") => writeln!(f, "/")?,
            _ => writeln!(f)?,
        }
    }
    Ok(())
}
