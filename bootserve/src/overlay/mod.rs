//! Files of single nodes, laid over the root of whatever image they boot.
//!
//! They are made of the overlays that a node is given, directories of files and templates ([`tree`], [`layers`], [`template`],
//! [`variables`], [`archive`]), with `OVERLAYS/NODE.tar` on top, if there is one; or they are that tar alone, if a signature
//! `NODE.tar.minisig` lies beside it. [`Overlays`] is all of this for one configuration. [`documents`] are texts that nodes ask for by
//! name, made in the same way.
//!
//! In carried mode the node is handed its files as one more [`segment`] of its initramfs, in fetched mode as they are. They may
//! hold what no other node and no user should see, so [`may_have`] says who gets them, and when. Nothing is cached: a file that the admin has
//! replaced counts from the next request on.

pub mod archive;
pub mod attributes;
pub mod documents;
pub mod layers;
pub mod listing;
mod name;
pub mod segment;
pub mod signer;
pub mod template;
pub mod tree;
pub mod variables;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read, Seek, Write};
use std::net::Ipv4Addr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use bootspec::MacAddr;
use bootspec::cmdline::BaseUrl;
use bootspec::initramfs::MAX_OVERLAY_BYTES;
use bootspec::store::{ArtifactName, MAX_SIGNATURE_BYTES, NodeName, SIGNATURE_SUFFIX};
use minijinja::value::Value;
use rustix::fs::{MemfdFlags, memfd_create};
use sha2::{Digest, Sha256};

use crate::config::{Config, Node};
use crate::database::DatabaseError;
use crate::dhcp::store::leased_address;
use crate::events::EventLog;

use documents::Document;
use layers::{Layers, Placed};
use listing::{Contents, FileRow, OwnTar};
use signer::SignerError;
use template::TemplateError;
use tree::{Kind, TreeError};
use variables::Cluster;

pub use name::{OverlayName, ParseOverlayNameError};

/// What the overlays of a node may have together, in bytes: each is in memory until it is sent.
pub const MAX_RENDERED_BYTES: u64 = 16 << 20;
/// How many files, directories and links they may have together.
pub const MAX_ENTRIES: usize = 10_000;

/// Where nodes find overlays on this server.
pub const HTTP_PREFIX: &str = "/overlays";
/// What the name of a tar has behind the name of its node.
pub const TAR_SUFFIX: &str = ".tar";
/// The same, of the segment.
pub const SEGMENT_SUFFIX: &str = ".img";

/// The overlay of one node, opened.
#[derive(Debug)]
pub struct Overlay {
    /// The tar, at its beginning.
    pub tar: File,
    /// Its length.
    pub tar_bytes: u64,
    /// Changes with the file.
    pub etag: String,
    /// Its signature, if there is one.
    pub signature: Option<Vec<u8>>,
}

/// What is made of overlays, in memory.
#[derive(Debug)]
pub struct Rendered {
    /// The tar.
    pub tar: Vec<u8>,
    /// Its signature, if there is a key.
    pub signature: Option<Vec<u8>>,
}

/// There is an overlay, and it cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OverlayError {
    /// A file cannot be read.
    #[error("cannot read {}\nhint: server.user must be able to read the overlays, and no one else needs to", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It is a directory or a device.
    #[error("{} is not a regular file", path.display())]
    NotAFile {
        /// What is there.
        path: PathBuf,
    },
    /// It cannot be made of the node's overlays.
    #[error(transparent)]
    Render(#[from] RenderError),
    /// What is made of the node's overlays cannot be signed.
    #[error("cannot sign the overlay of node {node}")]
    Sign {
        /// Whose.
        node: NodeName,
        /// Why.
        #[source]
        source: SignerError,
    },
    /// What is made of the node's overlays cannot be held until it is sent.
    #[error("cannot hold the overlay of node {node}")]
    Hold {
        /// Whose.
        node: NodeName,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It is too large.
    #[error(
        "{} has {found} bytes, at most {limit} are sent to a node\nhint: put what is alike on many nodes into an image",
        path.display()
    )]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its length.
        found: u64,
        /// What is allowed.
        limit: u64,
    },
}

/// Overlays and texts of a node cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum RenderError {
    /// An overlay cannot be read.
    #[error("cannot use the overlay {overlay} for node {node}")]
    Tree {
        /// Whose.
        node: NodeName,
        /// Which.
        overlay: OverlayName,
        /// Why.
        #[source]
        source: Box<TreeError>,
    },
    /// A template of an overlay cannot be rendered.
    #[error("cannot render {file} of the overlay {overlay} for node {node}")]
    Template {
        /// For whom.
        node: NodeName,
        /// Whose template.
        overlay: OverlayName,
        /// Which.
        file: String,
        /// Why.
        #[source]
        source: Box<TemplateError>,
    },
    /// They are larger than what is sent to a node.
    #[error(
        "the overlays of node {node} have more than {limit} bytes\nhint: put what is alike on many nodes into an image"
    )]
    TooLarge {
        /// Whose.
        node: NodeName,
        /// What is allowed.
        limit: u64,
    },
    /// A text cannot be read.
    #[error("cannot use a text for node {node}")]
    Document {
        /// For whom.
        node: NodeName,
        /// Why.
        #[source]
        source: Box<TreeError>,
    },
    /// A text cannot be rendered.
    #[error("cannot render {file} for node {node}")]
    DocumentTemplate {
        /// For whom.
        node: NodeName,
        /// Its template, below `server.overlays`.
        file: String,
        /// Why.
        #[source]
        source: Box<TemplateError>,
    },
}

impl RenderError {
    /// The node that it is about.
    pub fn node(&self) -> &NodeName {
        match self {
            Self::Tree { node, .. }
            | Self::Template { node, .. }
            | Self::TooLarge { node, .. }
            | Self::Document { node, .. }
            | Self::DocumentTemplate { node, .. } => node,
        }
    }
}

/// What is made of the overlays of one configuration.
#[derive(Debug)]
pub struct Overlays {
    config: Arc<Config>,
    /// Made when it is first needed.
    cluster: OnceLock<Cluster>,
}

impl Overlays {
    /// Those of `config`.
    pub fn new(config: Arc<Config>) -> Self {
        Self { config, cluster: OnceLock::new() }
    }

    /// Opens the overlay of `node`, if it has one: what is made of its overlays with its tar on top, or its tar.
    pub fn open(&self, node: &Node) -> Result<Option<Overlay>, OverlayError> {
        let Some(dir) = &self.config.server.overlays else { return Ok(None) };
        let own = open(dir, &node.name)?;
        // What was signed is sent as it was signed.
        let is_whole = own.as_ref().is_some_and(|own| own.signature.is_some());
        if node.overlays.is_empty() || is_whole {
            return Ok(own);
        }
        let tar = self.archive(dir, node, own)?;
        let signature = self.sign(node, &tar)?;
        let etag = format!("\"{}\"", hex::encode(Sha256::digest(&tar)));
        let file =
            in_memory(&tar).map_err(|source| OverlayError::Hold { node: node.name.clone(), source })?;
        Ok(Some(Overlay { tar: file, tar_bytes: tar.len() as u64, etag, signature }))
    }

    /// What is made of the node's secrets. It is never a part of what [`Overlays::open`] gives.
    pub fn secrets(&self, node: &Node) -> Result<Rendered, OverlayError> {
        let layers = self.rendered(node, &node.secrets)?;
        let tar = archive::write(&layers, None)
            .map_err(|source| OverlayError::Hold { node: node.name.clone(), source })?;
        let signature = self.sign(node, &tar)?;
        Ok(Rendered { tar, signature })
    }

    /// The signature of what is made for `node`, if there is a key.
    fn sign(&self, node: &Node, tar: &[u8]) -> Result<Option<Vec<u8>>, OverlayError> {
        let signature = self.config.server.overlay_key.as_ref().map(|key| signer::sign(key, &node.name, tar));
        signature.transpose().map_err(|source| OverlayError::Sign { node: node.name.clone(), source })
    }

    /// What is made of the node's overlays, and its own tar on top.
    fn archive(&self, dir: &Path, node: &Node, own: Option<Overlay>) -> Result<Vec<u8>, OverlayError> {
        let layers = self.rendered(node, &node.overlays)?;
        let on_top = own.map(|own| {
            let mut tar = Vec::new();
            let read = own.tar.take(MAX_OVERLAY_BYTES).read_to_end(&mut tar);
            read.map(|_| tar).map_err(|source| OverlayError::Read { path: tar_path(dir, &node.name), source })
        });
        let tar = archive::write(&layers, on_top.transpose()?.as_deref())
            .map_err(|source| OverlayError::Hold { node: node.name.clone(), source })?;
        match tar.len() as u64 {
            found if found > MAX_OVERLAY_BYTES => {
                let path = tar_path(dir, &node.name);
                Err(OverlayError::TooLarge { path, found, limit: MAX_OVERLAY_BYTES })
            }
            _ => Ok(tar),
        }
    }

    /// What these overlays hold for `node`, its overlays or its secrets, with all templates rendered.
    pub fn rendered(&self, node: &Node, overlays: &[OverlayName]) -> Result<Layers, RenderError> {
        let mut layers = self.layers(node, overlays)?;
        if layers.values().any(|placed| matches!(placed.entry.kind, Kind::Template(_))) {
            layers::render_templates(&mut layers, node, &self.variables(node), None)?;
        }
        Ok(layers)
    }

    /// The file, directory or link at `path` of these overlays of `node`. Templates of other files are not looked into.
    pub fn rendered_file(
        &self,
        node: &Node,
        overlays: &[OverlayName],
        path: &str,
    ) -> Result<Option<Placed>, RenderError> {
        let mut layers = self.layers(node, overlays)?;
        layers::render_templates(&mut layers, node, &self.variables(node), Some(path))?;
        Ok(layers.remove(path))
    }

    /// What these overlays hold for `node`; of templates, the source.
    pub fn layers(&self, node: &Node, overlays: &[OverlayName]) -> Result<Layers, RenderError> {
        match &self.config.server.overlays {
            Some(dir) => layers::read(dir, node, overlays),
            None => Ok(Layers::new()),
        }
    }

    /// A text for `node`, if there is one.
    pub fn document(&self, node: &Node, document: &Document) -> Result<Option<Vec<u8>>, RenderError> {
        match &self.config.server.overlays {
            Some(dir) => document.render(dir, node, || self.variables(node)),
            None => Ok(None),
        }
    }

    /// What `node` gets, for people.
    pub fn contents(&self, node: &Node) -> Result<Contents, OverlayError> {
        let own = match &self.config.server.overlays {
            Some(dir) => open(dir, &node.name)?.map(|own| (tar_path(dir, &node.name), own)),
            None => None,
        };
        Ok(Contents {
            node: node.name.to_string(),
            overlays: node.overlays.iter().map(OverlayName::to_string).collect(),
            tar: own.map(|(path, own)| OwnTar { path, is_signed: own.signature.is_some() }),
            files: FileRow::of(&self.rendered(node, &node.overlays)?),
            secrets: node.secrets.iter().map(OverlayName::to_string).collect(),
            secret_files: FileRow::of(&self.rendered(node, &node.secrets)?),
        })
    }

    /// The names of all texts that are not cloud-init's.
    pub fn templates(&self) -> BTreeSet<ArtifactName> {
        self.config.server.overlays.as_deref().map(documents::templates).unwrap_or_default()
    }

    /// What templates can say of `node`.
    pub fn variables(&self, node: &Node) -> Value {
        self.cluster.get_or_init(|| Cluster::of(&self.config)).variables(&self.config, node)
    }

    /// The configuration that says which they are.
    pub fn config(&self) -> &Config {
        &self.config
    }
}

/// A file that is nowhere but in memory, at its beginning: the kernel sends it as it does any other.
fn in_memory(bytes: &[u8]) -> io::Result<File> {
    let mut file = File::from(memfd_create("overlay", MemfdFlags::CLOEXEC)?);
    file.write_all(bytes)?;
    file.rewind()?;
    Ok(file)
}

/// URL of the overlay of `node` on this server.
pub fn url(base_url: &str, node: &NodeName, suffix: &str) -> BaseUrl {
    let url = format!("{base_url}{HTTP_PREFIX}/{node}{suffix}");
    url.parse().expect("our base URL and names of nodes hold nothing that a URL may not hold")
}

/// The node's tar in `dir`.
pub fn tar_path(dir: &Path, node: &NodeName) -> PathBuf {
    dir.join(format!("{node}{TAR_SUFFIX}"))
}

/// The node whose tar or signature a file of this name is.
pub fn node_of(file_name: &str) -> Option<NodeName> {
    let tar = file_name.strip_suffix(SIGNATURE_SUFFIX).unwrap_or(file_name);
    tar.strip_suffix(TAR_SUFFIX)?.parse().ok()
}

/// Opens the overlay of `node`, if there is one in `dir`.
pub fn open(dir: &Path, node: &NodeName) -> Result<Option<Overlay>, OverlayError> {
    let path = tar_path(dir, node);
    let Some((tar, metadata)) = open_file(&path, MAX_OVERLAY_BYTES)? else { return Ok(None) };
    let (seconds, nanoseconds) = (metadata.mtime(), metadata.mtime_nsec());
    let etag = format!("\"{:x}-{:x}-{seconds:x}.{nanoseconds:x}\"", metadata.ino(), metadata.len());
    let signature = read_signature(&dir.join(format!("{node}{TAR_SUFFIX}{SIGNATURE_SUFFIX}")))?;
    Ok(Some(Overlay { tar, tar_bytes: metadata.len(), etag, signature }))
}

fn read_signature(path: &Path) -> Result<Option<Vec<u8>>, OverlayError> {
    let Some((file, _)) = open_file(path, MAX_SIGNATURE_BYTES)? else { return Ok(None) };
    let mut signature = Vec::new();
    let read = file.take(MAX_SIGNATURE_BYTES).read_to_end(&mut signature);
    read.map_err(|source| OverlayError::Read { path: path.to_owned(), source })?;
    Ok(Some(signature))
}

/// Opens a file of at most `limit` bytes, if it exists.
fn open_file(path: &Path, limit: u64) -> Result<Option<(File, fs::Metadata)>, OverlayError> {
    let unreadable = |source| OverlayError::Read { path: path.to_owned(), source };
    let found = match fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(unreadable(error)),
    };
    // Before it is opened: a FIFO would be waited for.
    if !found.is_file() {
        return Err(OverlayError::NotAFile { path: path.to_owned() });
    }
    let file = File::open(path).map_err(unreadable)?;
    let metadata = file.metadata().map_err(unreadable)?;
    match metadata.len() {
        found if found > limit => Err(OverlayError::TooLarge { path: path.to_owned(), found, limit }),
        _ => Ok(Some((file, metadata))),
    }
}

/// Why someone does not get an overlay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Someone else asks.
    #[error("this is not the node's address")]
    Address,
    /// The node asks, and its system is up. Every user of the node can ask then.
    #[error("the node is not booting: its firmware has not asked for an address since its system was up")]
    NotBooting,
}

/// What a node is given of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Given {
    /// Its overlay, while it boots.
    Files,
    /// Its texts, until its system has reported that it is ready, since it is the system that asks for them.
    Texts,
}

/// Whether who asks from `peer` gets what `node` is given: only the node itself, from its reserved or leased address, and while it
/// is its time.
pub async fn may_have(
    config: &Config,
    events: &EventLog,
    peer: Ipv4Addr,
    node: &Node,
    given: Given,
) -> Result<Result<(), Refusal>, DatabaseError> {
    let mac = match node_at(config, events, peer, node).await? {
        Ok(mac) => mac,
        Err(refusal) => return Ok(Err(refusal)),
    };
    let is_its_time = match given {
        Given::Files => events.is_booting(mac).await?,
        Given::Texts => events.is_coming_up(mac).await?,
    };
    Ok(if is_its_time { Ok(()) } else { Err(Refusal::NotBooting) })
}

/// The MAC address of `node`, if it is what asks from `peer`.
async fn node_at(
    config: &Config,
    events: &EventLog,
    peer: Ipv4Addr,
    node: &Node,
) -> Result<Result<MacAddr, Refusal>, DatabaseError> {
    let mac = config.mac_of(node);
    let leased = match mac {
        Some(mac) => leased_address(events.database(), mac, SystemTime::now()).await?,
        None => None,
    };
    let addresses = [Some(node.address), leased];
    Ok(match mac {
        Some(mac) if addresses.contains(&Some(peer)) => Ok(mac),
        None if peer == node.address => Err(Refusal::NotBooting),
        _ => Err(Refusal::Address),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::database::Database;
    use crate::dhcp::leases::Lease;
    use crate::dhcp::store::write_leases;
    use crate::events::BootEvent;
    use crate::live::Live;
    use crate::nbp::NbpSet;
    use bootspec::event::Phase;
    use std::sync::Arc;
    use std::time::Duration;

    fn node_name() -> NodeName {
        "node-001".parse().unwrap()
    }

    #[test]
    fn an_overlay_is_found_with_its_signature_and_a_missing_one_is_no_error() {
        let dir = tempfile::tempdir().unwrap();
        assert!(open(dir.path(), &node_name()).unwrap().is_none());
        assert!(open(&dir.path().join("nosuch"), &node_name()).unwrap().is_none());
        std::fs::write(dir.path().join("node-001.tar"), "tar").unwrap();
        let unsigned = open(dir.path(), &node_name()).unwrap().unwrap();
        assert_eq!((unsigned.tar_bytes, unsigned.signature), (3, None));
        std::fs::write(dir.path().join("node-001.tar.minisig"), "signature").unwrap();
        let signed = open(dir.path(), &node_name()).unwrap().unwrap();
        assert_eq!(signed.signature.as_deref(), Some(&b"signature"[..]));
        assert_eq!(signed.etag, unsigned.etag);
        std::fs::write(dir.path().join("node-001.tar"), "another").unwrap();
        assert_ne!(open(dir.path(), &node_name()).unwrap().unwrap().etag, unsigned.etag);
    }

    #[test]
    fn what_cannot_be_sent_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("node-001.tar");
        std::fs::create_dir(&path).unwrap();
        let check = |expected: &str| {
            let error = open(dir.path(), &node_name()).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        };
        check("node-001.tar is not a regular file");
        std::fs::remove_dir(&path).unwrap();
        std::fs::File::create(&path).unwrap().set_len(MAX_OVERLAY_BYTES + 1).unwrap();
        check("has 67108865 bytes, at most 67108864");
        std::fs::File::create(&path).unwrap().set_len(MAX_OVERLAY_BYTES).unwrap();
        std::fs::write(dir.path().join("node-001.tar.minisig"), vec![b'x'; 20_000]).unwrap();
        check("node-001.tar.minisig has 20000 bytes");
        std::fs::remove_file(dir.path().join("node-001.tar.minisig")).unwrap();
        std::os::unix::fs::symlink("node-001.tar.minisig", dir.path().join("node-001.tar.minisig")).unwrap();
        check("cannot read");
    }

    #[test]
    fn file_names_tell_the_node() {
        for (name, node) in [
            ("node-001.tar", Some("node-001")),
            ("node-001.tar.minisig", Some("node-001")),
            ("a.tar.tar", Some("a.tar")),
            ("node-001.img", None),
            ("node-001.minisig", None),
            (".tar", None),
            ("../x.tar", None),
        ] {
            assert_eq!(node_of(name).as_ref().map(NodeName::as_str), node, "{name}");
        }
    }

    #[tokio::test]
    async fn only_the_node_itself_may_have_its_files_and_only_while_it_boots() {
        let dir = tempfile::tempdir().unwrap();
        let config = Config::parse(include_str!("../../bootserve.example.toml")).unwrap();
        let database = Database::open(dir.path()).await.unwrap();
        let live = Arc::new(Live::new(config, NbpSet::default()));
        let events = EventLog::new(database.clone(), Arc::clone(&live));
        let config = &live.now().config;
        let node = &config.nodes()[1];
        let [other, mac] = [0, 1].map(|index: usize| config.mac_of(&config.nodes()[index]).unwrap());
        let may = async |peer: &str| {
            may_have(config, &events, peer.parse().unwrap(), node, Given::Files).await.unwrap()
        };
        assert_eq!(may("192.168.0.101").await, Err(Refusal::NotBooting));

        events.note(BootEvent::now(mac, Phase::Dhcp)).await;
        let lease = |mac, last, expires| Lease { mac, address: Ipv4Addr::new(192, 168, 0, last), expires };
        let later = SystemTime::now() + Duration::from_secs(3600);
        let mut connection = database.pool.acquire().await.unwrap();
        write_leases(&mut connection, [lease(mac, 201, later)]).await.unwrap();
        write_leases(&mut connection, [lease(other, 202, later)]).await.unwrap();
        for peer in ["192.168.0.101", "192.168.0.201"] {
            assert_eq!(may(peer).await, Ok(()), "{peer}");
        }
        for peer in ["192.168.0.100", "192.168.0.202", "192.168.0.1"] {
            assert_eq!(may(peer).await, Err(Refusal::Address), "{peer}");
        }
        write_leases(&mut connection, [lease(mac, 201, SystemTime::UNIX_EPOCH)]).await.unwrap();
        assert_eq!(may("192.168.0.201").await, Err(Refusal::Address));
    }
}
