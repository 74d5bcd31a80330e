//! The configuration file: what bootserve serves, to whom, on which network.
//!
//! [`wire`] mirrors the TOML text; [`Config`] is what has passed every check that needs no I/O, so the rest of the
//! program never meets an address outside the subnet or two nodes with one MAC. Every key: `docs/bootserve.md`.

pub mod bmc;
mod discovery;
mod error;
mod forwarder;
mod identity;
mod network;
pub(crate) mod node;
mod quirk;
mod secrets;
mod settings;
pub(crate) mod text;
mod wire;

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use bootspec::cmdline::{BaseUrl, BootParams, KernelArg};
use bootspec::store::{NameError, NodeName, ParseImageRefError};
use bootspec::{ImageName, ImageRef, MacAddr};
use serde::{Deserialize, Serialize};

use crate::arch::Arch;
use crate::compat::Site;
use crate::discovery::policy::Policies;
use crate::dns::zone::Zone;
use crate::edits::Edits;
use crate::inventory::{Inventory, InventoryError};
use crate::overlay::OverlayName;

pub use bmc::Bmc;
pub use discovery::PolicyError;
pub use error::ConfigError;
pub use identity::{LearnedMacs, NodeKey, OptionBytes};
pub use network::{AddressRange, Network, Networks};
pub use quirk::{QuirkRule, Quirks};
pub use secrets::SecretsProblem;
pub use settings::{Change, Changes, Settings};

/// What we are called in the zone, unless the configuration says otherwise.
pub const DEFAULT_DNS_NAME: &str = "bootserve";
/// How long others may keep what we say of names, unless the configuration says otherwise.
pub const DEFAULT_TTL_SECONDS: u32 = 60;

/// A configuration that is consistent with itself.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where we listen and where our files are.
    pub server: Server,
    /// What we are to other DHCP servers.
    pub dhcp: DhcpMode,
    /// Whether addresses of the ranges are asked if someone has them before they are offered for the first time.
    pub ping_check: bool,
    /// What is done otherwise for some machines.
    pub quirks: Vec<QuirkRule>,
    /// The networks that we give addresses on.
    pub networks: Networks,
    /// Whether hosts of our own network that ask for IPv6 routers are told that there is none.
    pub router_advertisements: bool,
    /// How often machines in discover mode check in.
    pub discovery_poll: Duration,
    /// What is made of machines that nobody has described.
    pub policies: Arc<Policies>,
    /// How files are sent by TFTP.
    pub tftp: Tftp,
    /// Directories that are searched for network boot programs, in order.
    pub nbp_dirs: Vec<PathBuf>,
    /// How many machines may download at once; none for as many as come.
    pub max_downloads: Option<NonZeroU32>,
    /// How the kernel is to send what HTTP clients ask for (tcp(7), TCP_CONGESTION).
    pub congestion_control: Option<String>,
    /// How HTTP is spoken with TLS besides, if it is.
    pub tls: Option<Tls>,
    /// What we say of names, if anything.
    pub dns: Option<Arc<Dns>>,
    /// What every machine boots with.
    pub boot: Boot,
    /// The data directory of an older boot server, which says what machines without a `[[node]]` boot.
    pub compat: Option<Site>,
    /// Whether Razor's clients are answered.
    pub razor: bool,
    /// What DHCP has learned of nodes that are not known by their MAC address. A configuration that takes the place of this
    /// one goes on with it.
    pub learned: Arc<LearnedMacs>,
    /// Nodes that do not stand in this file, and groups.
    pub inventory: Arc<Inventory>,
    /// What is compared to another configuration is made of it when it is asked for, which is seldom.
    sources: Sources,
    nodes: Vec<Node>,
    by_name: HashMap<String, usize>,
    by_key: HashMap<NodeKey, usize>,
    by_address: HashMap<Ipv4Addr, usize>,
}

/// What a configuration is read from.
#[derive(Clone, Debug, Default)]
struct Sources {
    /// The text of its file.
    config: String,
    /// The text of the file that `server.inventory` names.
    inventory: Option<String>,
    /// What `bootserve node` has changed.
    edits: Arc<Edits>,
}

/// Where we listen and where our files are.
#[derive(Clone, Debug)]
pub struct Server {
    /// Network interface; DHCP is heard on no other.
    pub interface: String,
    /// Our address on it.
    pub address: Ipv4Addr,
    /// The image store.
    pub store: PathBuf,
    /// Directory of the nodes' own files.
    pub overlays: Option<PathBuf>,
    /// File of the secret key that signs what is made of overlays.
    pub overlay_key: Option<PathBuf>,
    /// File of the nodes that do not stand in this one, below its directory unless it is an absolute path.
    pub inventory: Option<PathBuf>,
    /// Directory of the database.
    pub state: PathBuf,
    /// The user that we become after the ports are bound.
    pub user: Option<String>,
    /// TCP port of scripts, images and API.
    pub http_port: u16,
    /// A socket in the file system on which the API is answered without a token.
    pub api_socket: Option<PathBuf>,
    /// The group that may open it, besides `user`.
    pub api_group: Option<String>,
    /// Whether the configuration is read again when its file has changed.
    pub watch: bool,
}

/// With or without TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// Without.
    Http,
    /// With.
    Https,
}

/// HTTP with TLS.
#[derive(Clone, Debug)]
pub struct Tls {
    /// PEM file of the certificate and those that vouch for it.
    pub certificate: PathBuf,
    /// PEM file of its private key.
    pub key: PathBuf,
    /// TCP port.
    pub port: u16,
    /// What the certificate calls us.
    pub name: String,
}

/// What we say of names.
#[derive(Clone, Debug)]
pub struct Dns {
    /// Those of the nodes and our own.
    pub zone: Zone,
    /// Who is asked for all others, in order.
    pub forwarders: Vec<SocketAddr>,
}

/// What bootserve is to other DHCP servers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum DhcpMode {
    /// There is no other: it gives addresses, and says how to boot.
    #[default]
    Authoritative,
    /// Another gives addresses; it says how to boot.
    Proxy,
    /// Another does both.
    Off,
}

/// How files are sent by TFTP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tftp {
    /// Whether transfers go on from port 69, and not from a port of their own.
    pub single_port: bool,
}

/// What every machine boots with.
#[derive(Clone, Debug, Default)]
pub struct Boot {
    /// What machines without a `[[node]]` boot.
    pub default_image: Option<ImageSelector>,
    /// Kernel arguments of every machine.
    pub kernel_args: Vec<KernelArg>,
    /// Base URLs of other boot servers that hold the same image store.
    pub mirrors: Vec<BaseUrl>,
    /// No image with a lower rollback index boots.
    pub min_rollback_index: Option<u64>,
}

/// A machine that we know.
#[derive(Clone, Debug)]
pub struct Node {
    /// Its host name.
    pub name: NodeName,
    /// How we know it.
    pub key: NodeKey,
    /// Its reserved address.
    pub address: Ipv4Addr,
    /// What it boots.
    pub image: ImageSelector,
    /// Kernel arguments of its own.
    pub kernel_args: Vec<KernelArg>,
    /// Overlays that its own is made of; the later are laid over the earlier.
    pub overlays: Vec<OverlayName>,
    /// Overlays that it is handed once a boot, over TLS, and that are no part of the others.
    pub secrets: Vec<OverlayName>,
    /// What it tells init; bootserve adds node, MAC, boot id, report URL and attempt to each script.
    pub params: BootParams,
    /// Whether it boots from its own disk, and not that image.
    pub local_disk: bool,
    /// What switches its power.
    pub bmc: Option<Bmc>,
    /// What the site wants to know of it.
    pub metadata: BTreeMap<String, toml::Value>,
}

/// Which version of an image: `NAME` follows the store's `current` link, `NAME/VERSION` is fixed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ImageSelector {
    /// Whatever `current` points to when the script is rendered.
    Current(ImageName),
    /// This version.
    Version(ImageRef),
}

impl Config {
    /// Reads and checks the file at `path`, and the inventory that it names.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let config = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        let wire: wire::Config = toml::from_str(&config)?;
        let inventory = match wire.inventory() {
            Some(file) => {
                let path = inventory_path(path, file);
                let text = std::fs::read_to_string(&path);
                Some(text.map_err(|source| ConfigError::ReadInventory { path, source })?)
            }
            None => None,
        };
        Self::of(wire, Sources { config, inventory, edits: Arc::default() })
    }

    /// The same files with these changes of nodes laid over them, and no others.
    pub fn with_edits(&self, edits: Edits) -> Result<Self, ConfigError> {
        let sources = Sources { edits: Arc::new(edits), ..self.sources.clone() };
        let config = Self::of(toml::from_str(&sources.config)?, sources)?;
        Ok(Self { learned: Arc::clone(&self.learned), ..config })
    }

    /// The same, where they may be what this has already.
    pub fn edited(self, edits: Edits) -> Result<Self, ConfigError> {
        if edits == *self.edits() { Ok(self) } else { self.with_edits(edits) }
    }

    /// What `bootserve node` has changed.
    pub fn edits(&self) -> &Edits {
        &self.sources.edits
    }

    /// Checks the text of a configuration file. The inventory that it may name is not read.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        Self::of(toml::from_str(text)?, Sources { config: text.to_owned(), ..Sources::default() })
    }

    fn of(wire: wire::Config, sources: Sources) -> Result<Self, ConfigError> {
        let (wire, inventory) = sources.complete(wire)?;
        wire.check(inventory, sources)
    }

    /// All of this as it stands in the files.
    pub fn settings(&self) -> Settings {
        const WAS_READ: &str = "it was read from this";
        let file = toml::from_str(&self.sources.config).expect(WAS_READ);
        let (file, _) = self.sources.complete(file).expect(WAS_READ);
        Settings::of(&file)
    }

    /// The versions that nodes are told to boot by name, whatever is current.
    pub fn pinned_images(&self) -> impl Iterator<Item = &ImageRef> {
        let selectors = self.nodes.iter().map(|node| &node.image).chain(&self.boot.default_image);
        selectors.filter_map(|selector| match selector {
            ImageSelector::Version(image) => Some(image),
            ImageSelector::Current(_) => None,
        })
    }

    /// All nodes in the order of the file.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The node with this MAC address: the one that is known by it, or that DHCP has seen with it.
    pub fn node(&self, mac: MacAddr) -> Option<&Node> {
        self.node_known_by(&NodeKey::Mac(mac)).or_else(|| self.node_learned(mac))
    }

    /// The node that is known by `key`.
    pub fn node_known_by(&self, key: &NodeKey) -> Option<&Node> {
        let alias = || key.alias().and_then(|alias| self.by_key.get(&alias));
        self.by_key.get(key).or_else(alias).map(|index| &self.nodes[*index])
    }

    /// The node that is known by something else and that DHCP has seen with this MAC address.
    pub fn node_learned(&self, mac: MacAddr) -> Option<&Node> {
        let node = self.node_named(self.learned.node(mac)?.as_str())?;
        Some(node).filter(|node| !matches!(node.key, NodeKey::Mac(_)))
    }

    /// What the firmware for `arch` of `node` needs; none of either is a stranger, and iPXE.
    pub fn quirks(&self, node: Option<&Node>, arch: Option<Arch>) -> Quirks {
        QuirkRule::quirks_of(&self.quirks, node.map(|node| &node.name), arch)
    }

    /// The MAC address of `node`, if that is known yet.
    pub fn mac_of(&self, node: &Node) -> Option<MacAddr> {
        match node.key {
            NodeKey::Mac(mac) => Some(mac),
            _ => self.learned.mac(&node.name),
        }
    }

    /// The name of the node with this MAC address, for logs.
    pub fn node_name(&self, mac: MacAddr) -> Option<&str> {
        self.node(mac).map(|node| node.name.as_str())
    }

    /// The node with this reserved address.
    pub fn node_at(&self, address: Ipv4Addr) -> Option<&Node> {
        self.by_address.get(&address).map(|index| &self.nodes[*index])
    }

    /// The node with this name.
    pub fn node_named(&self, name: &str) -> Option<&Node> {
        self.by_name.get(name).map(|index| &self.nodes[*index])
    }

    /// The MAC address of the node with this name, if it is known yet; or what is written here, if that is a MAC address.
    pub fn machine_called(&self, name: &str) -> Option<Option<MacAddr>> {
        let by_name = self.node_named(name).map(|node| self.mac_of(node));
        by_name.or_else(|| name.parse().ok().map(Some))
    }

    /// Our base URL: `http://192.168.0.1`, with the port unless it is 80.
    pub fn base_url(&self) -> String {
        url("http", self.server.address, self.server.http_port, 80)
    }

    /// Our base URL for a client that came by `scheme`: with TLS `https://192.168.0.1`, with the port unless it is 443.
    pub fn url_by(&self, scheme: Scheme) -> String {
        match (&self.tls, scheme) {
            (Some(Tls { name, port, .. }), Scheme::Https) => url("https", name, *port, 443),
            (None, _) | (_, Scheme::Http) => self.base_url(),
        }
    }
}

impl Sources {
    /// The configuration that its file holds, with the nodes of the inventory and what was changed of any of them.
    fn complete(&self, wire: wire::Config) -> Result<(wire::Config, Inventory), ConfigError> {
        let error = |source: InventoryError| {
            let source = Box::new(source);
            let path = wire.inventory().unwrap_or(Path::new("")).to_owned();
            ConfigError::Inventory { path, source }
        };
        let mut inventory = match &self.inventory {
            Some(text) => Inventory::parse(text).map_err(error)?,
            None => Inventory::default(),
        };
        let edits = |source| ConfigError::Edits(Box::new(source));
        inventory.edit(&self.edits, self.changed_tables(&wire)?).map_err(edits)?;
        let nodes = inventory.wire_nodes().map_err(|source| match self.edits.0.is_empty() {
            true => error(source),
            false => edits(source),
        })?;
        let changed = inventory.configured().map_err(edits)?;
        Ok((wire.with_nodes(changed, nodes), inventory))
    }

    /// The `[[node]]` tables of the configuration itself that were changed.
    fn changed_tables(&self, wire: &wire::Config) -> Result<HashMap<NodeName, toml::Table>, ConfigError> {
        if !wire.names().any(|name| self.edits.0.contains_key(name)) {
            return Ok(HashMap::new());
        }
        let config: toml::Table = self.config.parse()?;
        let tables = config.get("node").and_then(toml::Value::as_array).into_iter().flatten();
        let tables = tables.filter_map(toml::Value::as_table).cloned();
        let named = wire.names().cloned().zip(tables);
        Ok(named.filter(|(name, _)| self.edits.0.contains_key(name)).collect())
    }
}

/// Where the inventory is that the configuration at `config` names.
pub fn inventory_path(config: &Path, inventory: &Path) -> PathBuf {
    config.parent().unwrap_or(Path::new("")).join(inventory)
}

/// A base URL, without the port that its scheme has by itself.
fn url(scheme: &str, host: impl fmt::Display, port: u16, default_port: u16) -> String {
    match port == default_port {
        true => format!("{scheme}://{host}"),
        false => format!("{scheme}://{host}:{port}"),
    }
}

impl FromStr for ImageSelector {
    type Err = ParseImageRefError;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        match s.contains('/') {
            true => s.parse().map(Self::Version),
            false => s.parse().map(Self::Current).map_err(|error: NameError| error.into()),
        }
    }
}

impl fmt::Display for ImageSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Current(name) => name.fmt(f),
            Self::Version(image) => image.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests;
