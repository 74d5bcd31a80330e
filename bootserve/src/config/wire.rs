//! The configuration as it stands in the TOML file. Single values are parsed here, so that a malformed one is
//! reported with its line and column; what they mean together is checked in the conversion to [`super::Config`].

use std::collections::HashMap;
use std::fmt::{self, Display};
use std::hash::Hash;
use std::marker::PhantomData;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::num::{NonZeroU16, NonZeroU32};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use bootspec::cmdline::{BaseUrl, KernelArg};
use bootspec::store::NodeName;
use ipnet::Ipv4Net;
use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use super::discovery::{Discovery, Surroundings};
use super::forwarder::Forwarder;
use crate::arch::Arch;
use crate::compat::Site;
use crate::dns::zone::Zone;
use crate::inventory::Inventory;
use crate::sockets::DNS_PORT;

use super::node::Node;
use super::{AddressRange, ConfigError, DhcpMode, ImageSelector, LearnedMacs, NodeKey, Sources, text};

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Config {
    server: Server,
    #[serde(default)]
    dhcp: Dhcp,
    #[serde(rename = "network", deserialize_with = "one_or_several")]
    networks: Vec<Network>,
    #[serde(default)]
    discovery: Discovery,
    #[serde(default)]
    tftp: Tftp,
    #[serde(default)]
    nbp: Nbp,
    #[serde(default)]
    http: Http,
    tls: Option<Tls>,
    dns: Option<Dns>,
    #[serde(default)]
    boot: Boot,
    #[serde(default)]
    compat: Compat,
    #[serde(default, rename = "node")]
    nodes: Vec<Node>,
    #[serde(default, rename = "quirk")]
    quirks: Vec<Quirk>,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Server {
    interface: String,
    address: Ipv4Addr,
    store: PathBuf,
    overlays: Option<PathBuf>,
    overlay_key: Option<PathBuf>,
    inventory: Option<PathBuf>,
    state: PathBuf,
    user: Option<String>,
    #[serde(default = "default_http_port")]
    http_port: NonZeroU16,
    api_socket: Option<PathBuf>,
    api_group: Option<String>,
    #[serde(default = "default_watch")]
    watch: bool,
}

fn default_watch() -> bool {
    true
}

fn default_http_port() -> NonZeroU16 {
    const { NonZeroU16::new(80).expect("80 is not zero") }
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
struct Dhcp {
    mode: DhcpMode,
    ping_check: bool,
}

impl Default for Dhcp {
    fn default() -> Self {
        Self { mode: DhcpMode::default(), ping_check: true }
    }
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Network {
    subnet: Ipv4Net,
    #[serde(default, with = "text::option")]
    range: Option<AddressRange>,
    router: Option<Ipv4Addr>,
    #[serde(default)]
    dns: Vec<Ipv4Addr>,
    domain: Option<String>,
    #[serde(default = "default_lease_seconds")]
    lease_seconds: u32,
    link: Option<String>,
    router_advertisements: Option<bool>,
}

fn default_lease_seconds() -> u32 {
    3600
}

#[derive(Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Tftp {
    #[serde(default)]
    single_port: bool,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Nbp {
    dirs: Vec<PathBuf>,
}

impl Default for Nbp {
    /// Where the distributions' iPXE packages put their files: Debian's, then Enterprise Linux'.
    fn default() -> Self {
        Self { dirs: vec!["/usr/lib/ipxe".into(), "/usr/share/ipxe".into()] }
    }
}

#[derive(Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Http {
    max_downloads: Option<NonZeroU32>,
    congestion_control: Option<String>,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Tls {
    certificate: PathBuf,
    key: PathBuf,
    #[serde(default = "default_tls_port")]
    port: NonZeroU16,
    name: Option<String>,
}

fn default_tls_port() -> NonZeroU16 {
    const { NonZeroU16::new(443).expect("443 is not zero") }
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Dns {
    zone: String,
    #[serde(default = "default_dns_name")]
    name: String,
    #[serde(default = "default_ttl_seconds")]
    ttl_seconds: u32,
    #[serde(default, with = "text::list")]
    forwarders: Vec<Forwarder>,
}

fn default_dns_name() -> String {
    super::DEFAULT_DNS_NAME.to_owned()
}

fn default_ttl_seconds() -> u32 {
    super::DEFAULT_TTL_SECONDS
}

#[derive(Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Boot {
    #[serde(default, with = "text::option")]
    default_image: Option<ImageSelector>,
    #[serde(default, with = "text::list")]
    kernel_args: Vec<KernelArg>,
    #[serde(default, with = "text::list")]
    mirrors: Vec<Mirror>,
    min_rollback_index: Option<u64>,
}

#[derive(Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Compat {
    bootcfg: Option<PathBuf>,
    matchbox: Option<PathBuf>,
    #[serde(default)]
    razor: bool,
}

/// Base URL of another boot server. It becomes a word of iPXE scripts and kernel command lines.
struct Mirror(BaseUrl);

impl Display for Mirror {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Mirror {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        let rest = s.strip_prefix("http://").unwrap_or_default();
        let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
        let is_address = host.parse::<Ipv4Addr>().is_ok() || host.parse::<SocketAddrV4>().is_ok();
        let is_plain = path.bytes().all(|b| b.is_ascii_alphanumeric() || b"/._~-".contains(&b));
        match s.parse() {
            Ok(url) if is_address && is_plain => Ok(Self(url)),
            _ => Err(format!(
                "'{s}' is not a mirror: expected http://ADDRESS[:PORT][/PATH] with an IPv4 address, as init has no \
                 resolver, and without a final slash"
            )),
        }
    }
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Quirk {
    node: Option<NodeName>,
    arch: Option<u16>,
    #[serde(default)]
    delay_ms: u16,
    #[serde(default)]
    discovery_control: bool,
    #[serde(default)]
    boot_file_option: bool,
}

/// `[network]`, or `[[network]]` several times. Not an untagged enum, whose errors have no line.
fn one_or_several<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Vec<T>, D::Error> {
    struct OneOrSeveral<T>(PhantomData<T>);

    impl<'de, T: Deserialize<'de>> Visitor<'de> for OneOrSeveral<T> {
        type Value = Vec<T>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a table, or an array of tables")
        }

        fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Vec<T>, A::Error> {
            T::deserialize(MapAccessDeserializer::new(map)).map(|one| vec![one])
        }

        fn visit_seq<A: SeqAccess<'de>>(self, tables: A) -> Result<Vec<T>, A::Error> {
            Vec::deserialize(SeqAccessDeserializer::new(tables))
        }
    }

    deserializer.deserialize_any(OneOrSeveral(PhantomData))
}

impl Config {
    /// The file of the inventory.
    pub(super) fn inventory(&self) -> Option<&Path> {
        self.server.inventory.as_deref()
    }

    /// The names of its nodes.
    pub(super) fn names(&self) -> impl Iterator<Item = &NodeName> {
        self.nodes.iter().map(|node| &node.name)
    }

    /// With `changed` in place of its own nodes of these names, and `more` besides.
    pub(super) fn with_nodes(mut self, mut changed: HashMap<NodeName, Node>, more: Vec<Node>) -> Self {
        for node in &mut self.nodes {
            if let Some(changed) = changed.remove(&node.name) {
                *node = changed;
            }
        }
        self.nodes.extend(more);
        self
    }

    /// What it means, if it is consistent; `sources` are what it was read from, and `inventory` what has the nodes that are not in its
    /// own file.
    pub(super) fn check(self, inventory: Inventory, sources: Sources) -> Result<super::Config, ConfigError> {
        let wire = self;
        let server = super::Server::from(wire.server);
        let router_advertisements = router_advertisements(&wire.networks, server.address)?;
        let mut networks: Vec<super::Network> =
            wire.networks.into_iter().map(super::Network::try_from).collect::<Result<_, _>>()?;
        check_disjoint(&networks)?;
        check_host(&networks, "server.address", server.address)?;
        if let Some(dns) = &wire.dns {
            networks.iter_mut().for_each(|network| dns.hand_out(network, &server));
        }
        let networks =
            super::Networks::new(networks, server.address).expect("the server's address is in one of them");
        let nodes: Vec<super::Node> =
            wire.nodes.into_iter().map(super::Node::try_from).collect::<Result<_, _>>()?;
        let by_name = check_unique(&nodes, |_| "name", |node| node.name.to_string())?;
        let by_address = check_unique(&nodes, |_| "address", |node| node.address)?;
        let by_key = check_unique(&nodes, NodeKey::name, |node| node.key.clone())?;
        check_aliases(&nodes, &by_key)?;
        let tls = wire.tls.map(|tls| tls.check(&server)).transpose()?;
        for node in &nodes {
            check_node_address(node, &server, &networks)?;
            check_own_files(node, &server, tls.as_ref())?;
        }
        let quirks = wire.quirks.into_iter().map(|quirk| quirk.check(&by_name)).collect::<Result<_, _>>()?;
        let boot = super::Boot::try_from(wire.boot)?;
        let (compat, razor) = (wire.compat.site()?, wire.compat.razor);
        let dns = wire.dns.map(|dns| dns.check(&server, &nodes)).transpose()?.map(Arc::new);
        let around =
            Surroundings { inventory: &inventory, networks: &networks, server: &server, tls: tls.as_ref() };
        let policies = wire.discovery.policies(&around)?;
        Ok(super::Config {
            server,
            dhcp: wire.dhcp.mode,
            ping_check: wire.dhcp.ping_check,
            quirks,
            networks,
            router_advertisements,
            discovery_poll: wire.discovery.poll()?,
            policies: Arc::new(policies),
            tftp: super::Tftp { single_port: wire.tftp.single_port },
            nbp_dirs: wire.nbp.dirs,
            max_downloads: wire.http.max_downloads,
            congestion_control: wire.http.congestion_control,
            tls,
            dns,
            boot,
            compat,
            razor,
            learned: Arc::new(LearnedMacs::default()),
            nodes,
            by_name,
            by_key,
            by_address,
            inventory: Arc::new(inventory),
            sources,
        })
    }
}

/// Whether a node can be given its overlays and its secrets.
pub(super) fn check_own_files(
    node: &super::Node,
    server: &super::Server,
    tls: Option<&super::Tls>,
) -> Result<(), ConfigError> {
    match node.overlays.is_empty() || server.overlays.is_some() {
        true => super::secrets::check(node, server, tls),
        false => Err(ConfigError::NoOverlays { node: node.name.clone() }),
    }
}

impl From<Server> for super::Server {
    fn from(wire: Server) -> Self {
        Self {
            interface: wire.interface,
            address: wire.address,
            store: wire.store,
            overlays: wire.overlays,
            overlay_key: wire.overlay_key,
            inventory: wire.inventory,
            state: wire.state,
            user: wire.user,
            http_port: wire.http_port.get(),
            api_socket: wire.api_socket,
            api_group: wire.api_group,
            watch: wire.watch,
        }
    }
}

impl Tls {
    fn check(self, server: &super::Server) -> Result<super::Tls, ConfigError> {
        let Self { certificate, key, port, name } = self;
        if port.get() == server.http_port {
            let (found, expected) = (port.to_string(), "another port than server.http_port");
            return Err(ConfigError::Value { key: "tls.port", found, expected });
        }
        let name = name.unwrap_or_else(|| server.address.to_string());
        if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-".contains(&byte))
        {
            let expected = "a host name, or an IPv4 address";
            return Err(ConfigError::Value { key: "tls.name", found: format!("{name:?}"), expected });
        }
        Ok(super::Tls { certificate, key, port: port.get(), name })
    }
}

/// RFC 2181 section 8.
const MAX_TTL_SECONDS: u32 = i32::MAX as u32;
const MAX_FORWARDERS: usize = 8;

impl Dns {
    /// Machines of a network that has no name servers of its own are told to ask us, and where their names are.
    fn hand_out(&self, network: &mut super::Network, server: &super::Server) {
        if network.dns.is_empty() {
            network.dns = vec![server.address];
            network.domain.get_or_insert_with(|| self.zone.trim_end_matches('.').to_owned());
        }
    }

    fn check(self, server: &super::Server, nodes: &[super::Node]) -> Result<super::Dns, ConfigError> {
        let value = |key, found: String, expected| Err(ConfigError::Value { key, found, expected });
        if self.ttl_seconds > MAX_TTL_SECONDS {
            return value("dns.ttl_seconds", self.ttl_seconds.to_string(), "at most 2147483647");
        }
        if self.forwarders.len() > MAX_FORWARDERS {
            return value("dns.forwarders", format!("{} servers", self.forwarders.len()), "at most 8");
        }
        let forwarders: Vec<_> = self.forwarders.into_iter().map(|forwarder| forwarder.0).collect();
        if forwarders.contains(&(server.address, DNS_PORT).into()) {
            return value("dns.forwarders", server.address.to_string(), "others than server.address");
        }
        let hosts = nodes.iter().map(|node| (&node.name, node.address));
        let zone = Zone::new(&self.zone, (&self.name, server.address), self.ttl_seconds, hosts)?;
        Ok(super::Dns { zone, forwarders })
    }
}

impl Compat {
    /// Both have a route `/ipxe`, and a machine that neither knows is the default machine of both.
    fn site(&self) -> Result<Option<Site>, ConfigError> {
        match (&self.bootcfg, &self.matchbox) {
            (None, None) => Ok(None),
            (Some(dir), None) => Ok(Some(Site::Bootcfg(dir.clone()))),
            (None, Some(dir)) => Ok(Some(Site::Matchbox(dir.clone()))),
            (Some(bootcfg), Some(matchbox)) => Err(ConfigError::Value {
                key: "compat",
                found: format!("both bootcfg {} and matchbox {}", bootcfg.display(), matchbox.display()),
                expected: "one of them, as both say what `/ipxe` answers",
            }),
        }
    }
}

/// The kernel command line ends at 2048 bytes.
const MAX_MIRRORS: usize = 8;

impl TryFrom<Boot> for super::Boot {
    type Error = ConfigError;

    fn try_from(wire: Boot) -> Result<Self, ConfigError> {
        if wire.mirrors.len() > MAX_MIRRORS {
            let found = format!("{} URLs", wire.mirrors.len());
            return Err(ConfigError::Value { key: "boot.mirrors", found, expected: "at most 8" });
        }
        Ok(Self {
            default_image: wire.default_image,
            kernel_args: wire.kernel_args,
            mirrors: wire.mirrors.into_iter().map(|mirror| mirror.0).collect(),
            min_rollback_index: wire.min_rollback_index,
        })
    }
}

const MIN_LEASE_SECONDS: u32 = 60;
const MAX_PREFIX_LEN: u8 = 30;
const MAX_DNS_SERVERS: usize = 8;
/// RFC 1035 section 2.3.4.
const MAX_DOMAIN_BYTES: usize = 253;

impl TryFrom<Network> for super::Network {
    type Error = ConfigError;

    fn try_from(wire: Network) -> Result<Self, ConfigError> {
        let subnet = wire.subnet.trunc();
        let value = |key, found: String, expected| Err(ConfigError::Value { key, found, expected });
        if subnet.prefix_len() > MAX_PREFIX_LEN {
            return value("network.subnet", subnet.to_string(), "a prefix of at most 30 bits");
        }
        if wire.lease_seconds < MIN_LEASE_SECONDS {
            return value("network.lease_seconds", wire.lease_seconds.to_string(), "at least 60");
        }
        if wire.dns.len() > MAX_DNS_SERVERS {
            return value("network.dns", format!("{} servers", wire.dns.len()), "at most 8");
        }
        if let Some(domain) = &wire.domain
            && !is_domain(domain)
        {
            return value("network.domain", format!("{domain:?}"), "a domain name such as cluster.example");
        }
        if let Some(range) = wire.range {
            check_host_of(&subnet, "the first address of network.range,", range.first)?;
            check_host_of(&subnet, "the last address of network.range,", range.last)?;
        }
        if let Some(router) = wire.router {
            check_host_of(&subnet, "network.router", router)?;
        }
        Ok(Self {
            subnet,
            range: wire.range,
            router: wire.router,
            dns: wire.dns,
            domain: wire.domain,
            lease: Duration::from_secs(wire.lease_seconds.into()),
            link: wire.link,
        })
    }
}

fn is_domain(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'.';
    !text.is_empty() && text.len() <= MAX_DOMAIN_BYTES && text.bytes().all(plain)
}

/// Firmware gives up after a few seconds.
const MAX_DELAY_MS: u16 = 3000;

impl Quirk {
    fn check(self, nodes: &HashMap<String, usize>) -> Result<super::QuirkRule, ConfigError> {
        let value = |key, found, expected| Err(ConfigError::Value { key, found, expected });
        if let Some(node) = self.node.as_ref().filter(|node| !nodes.contains_key(node.as_str())) {
            return value("quirk.node", format!("{:?}", node.as_str()), "the name of a [[node]]");
        }
        if self.delay_ms > MAX_DELAY_MS {
            return value("quirk.delay_ms", self.delay_ms.to_string(), "at most 3000");
        }
        let quirks = super::Quirks {
            delay: Duration::from_millis(self.delay_ms.into()),
            discovery_control: self.discovery_control,
            boot_file_option: self.boot_file_option,
        };
        if quirks == super::Quirks::default() {
            let expected = "delay_ms, discovery_control or boot_file_option";
            return value("[[quirk]]", "without effect".to_owned(), expected);
        }
        Ok(super::QuirkRule { node: self.node, arch: self.arch.map(Arch::from), quirks })
    }
}

fn check_node_address(
    node: &super::Node,
    server: &super::Server,
    networks: &super::Networks,
) -> Result<(), ConfigError> {
    let what = format!("the address of node {},", node.name);
    check_host(networks.iter(), &what, node.address)?;
    if node.address == server.address {
        return Err(ConfigError::Address {
            what,
            address: node.address,
            problem: "is the server's own".to_owned(),
        });
    }
    Ok(())
}

/// An address that a host of one of `networks` can have.
pub(super) fn check_host<'a>(
    networks: impl IntoIterator<Item = &'a super::Network>,
    what: &str,
    address: Ipv4Addr,
) -> Result<(), ConfigError> {
    let all: Vec<_> = networks.into_iter().map(|network| network.subnet).collect();
    match all.iter().find(|subnet| subnet.contains(&address)) {
        Some(subnet) => check_host_of(subnet, what, address),
        None => {
            let problem = match &all[..] {
                [only] => format!("is not in the subnet {only}"),
                _ => format!("is in none of the subnets {}", joined(&all)),
            };
            Err(ConfigError::Address { what: what.to_owned(), address, problem })
        }
    }
}

fn joined(subnets: &[Ipv4Net]) -> String {
    subnets.iter().map(Ipv4Net::to_string).collect::<Vec<_>>().join(", ")
}

/// No address is of two networks.
fn check_disjoint(networks: &[super::Network]) -> Result<(), ConfigError> {
    let mut subnets: Vec<_> = networks.iter().map(|network| network.subnet).collect();
    subnets.sort();
    let overlap = subnets.windows(2).find(|pair| pair[0].contains(&pair[1]));
    overlap.map_or(Ok(()), |pair| Err(ConfigError::Overlap { first: pair[0], second: pair[1] }))
}

/// Only hosts of the server's own network can be told anything; by default they are.
fn router_advertisements(networks: &[Network], server: Ipv4Addr) -> Result<bool, ConfigError> {
    let (own, others): (Vec<_>, Vec<_>) =
        networks.iter().partition(|network| network.subnet.contains(&server));
    match others.iter().find_map(|network| network.router_advertisements) {
        Some(found) => Err(ConfigError::Value {
            key: "network.router_advertisements",
            found: found.to_string(),
            expected: "only in the network of server.address",
        }),
        None => Ok(own.iter().find_map(|network| network.router_advertisements).unwrap_or(true)),
    }
}

/// An address that a host of `subnet` can have.
fn check_host_of(subnet: &Ipv4Net, what: &str, address: Ipv4Addr) -> Result<(), ConfigError> {
    let problem = if !subnet.contains(&address) {
        format!("is not in the subnet {subnet}")
    } else if address == subnet.network() || address == subnet.broadcast() {
        format!("is the network or broadcast address of {subnet}")
    } else {
        return Ok(());
    };
    Err(ConfigError::Address { what: what.to_owned(), address, problem })
}

/// No node is known by another key of the machine that is a second node.
fn check_aliases(nodes: &[super::Node], by_key: &HashMap<NodeKey, usize>) -> Result<(), ConfigError> {
    for (index, node) in nodes.iter().enumerate() {
        let Some(alias) = node.key.alias() else { continue };
        if let Some(other) = by_key.get(&alias).filter(|other| **other != index) {
            let (first, second) = (index.min(*other), index.max(*other));
            return Err(duplicate(nodes, first, second, alias.name(), &alias));
        }
    }
    Ok(())
}

fn duplicate(
    nodes: &[super::Node],
    first: usize,
    second: usize,
    what: &'static str,
    value: &impl Display,
) -> ConfigError {
    let [first, second] = [first, second].map(|index| nodes[index].name.clone());
    ConfigError::Duplicate { first, second, what, value: value.to_string() }
}

/// Indexes the nodes by a key that no two may share.
fn check_unique<K: Display + Eq + Hash + Clone>(
    nodes: &[super::Node],
    what: impl Fn(&K) -> &'static str,
    key: impl Fn(&super::Node) -> K,
) -> Result<HashMap<K, usize>, ConfigError> {
    let mut seen = HashMap::new();
    for (index, node) in nodes.iter().enumerate() {
        let value = key(node);
        if let Some(first) = seen.insert(value.clone(), index) {
            return Err(duplicate(nodes, first, index, what(&value), &value));
        }
    }
    Ok(seen)
}
