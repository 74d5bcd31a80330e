//! Files of single nodes, laid over the root of whatever image they boot: `OVERLAYS/NODE.tar`, and beside it
//! `NODE.tar.minisig`, its signature.
//!
//! In carried mode the node is handed them as one more [`segment`] of its initramfs, in fetched mode as they are. They may
//! hold what no other node and no user should see, so [`may_have`] says who gets them, and when. Nothing is cached: a file that the admin has
//! replaced counts from the next request on.

pub mod segment;

use std::fs::{self, File};
use std::io::{self, Read};
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use bootspec::cmdline::BaseUrl;
use bootspec::initramfs::MAX_OVERLAY_BYTES;
use bootspec::store::{MAX_SIGNATURE_BYTES, NodeName, SIGNATURE_SUFFIX};

use crate::config::{Config, Node};
use crate::database::DatabaseError;
use crate::dhcp::store::leased_address;
use crate::events::EventLog;

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

/// Whether who asks from `peer` gets the files of `node`: only the node itself, from its reserved or leased address, while it
/// boots.
pub async fn may_have(
    config: &Config,
    events: &EventLog,
    peer: IpAddr,
    node: &Node,
) -> Result<Result<(), Refusal>, DatabaseError> {
    let mac = config.mac_of(node);
    let leased = match mac {
        Some(mac) => leased_address(events.database(), mac, SystemTime::now()).await?,
        None => None,
    };
    let addresses = [Some(node.address), leased];
    Ok(match (peer.to_canonical(), mac) {
        (IpAddr::V4(peer), Some(mac)) if addresses.contains(&Some(peer)) => {
            match events.is_booting(mac).await? {
                true => Ok(()),
                false => Err(Refusal::NotBooting),
            }
        }
        (IpAddr::V4(peer), None) if peer == node.address => Err(Refusal::NotBooting),
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
    use std::net::Ipv4Addr;
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
        let may = async |peer: &str| may_have(config, &events, peer.parse().unwrap(), node).await.unwrap();
        assert_eq!(may("192.168.0.101").await, Err(Refusal::NotBooting));

        events.note(BootEvent::now(mac, Phase::Dhcp)).await;
        let lease = |mac, last, expires| Lease { mac, address: Ipv4Addr::new(192, 168, 0, last), expires };
        let later = SystemTime::now() + Duration::from_secs(3600);
        let mut connection = database.pool.acquire().await.unwrap();
        write_leases(&mut connection, [lease(mac, 201, later)]).await.unwrap();
        write_leases(&mut connection, [lease(other, 202, later)]).await.unwrap();
        for peer in ["192.168.0.101", "192.168.0.201", "::ffff:192.168.0.101"] {
            assert_eq!(may(peer).await, Ok(()), "{peer}");
        }
        for peer in ["192.168.0.100", "192.168.0.202", "192.168.0.1", "::1"] {
            assert_eq!(may(peer).await, Err(Refusal::Address), "{peer}");
        }
        write_leases(&mut connection, [lease(mac, 201, SystemTime::UNIX_EPOCH)]).await.unwrap();
        assert_eq!(may("192.168.0.201").await, Err(Refusal::Address));
    }
}
