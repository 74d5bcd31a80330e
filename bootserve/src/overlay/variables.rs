//! What templates can say: the variables of one node. docs/overlays.md has each of them, which a test sees to.

use std::collections::HashMap;
use std::net::Ipv4Addr;

use bootspec::store::NodeName;
use minijinja::value::{Serde, Value};
use serde::Serialize;

use crate::config::{Config, ImageSelector, Node, NodeKey};
use crate::inventory::node_set::NodeSet;
use crate::store::resolve;

/// What is alike for all nodes. It is made once for a configuration, so that what a node is sent costs no more where there are many.
#[derive(Debug)]
pub struct Cluster {
    nodes: Value,
    groups: HashMap<NodeName, Vec<String>>,
}

#[derive(Serialize)]
struct Variables<'a> {
    node: Own<'a>,
    network: Network<'a>,
    image: Image<'a>,
    server: Server,
    groups: &'a [String],
    metadata: Value,
    nodes: Value,
}

#[derive(Serialize)]
struct Own<'a> {
    name: &'a str,
    address: Ipv4Addr,
    mac: Option<String>,
    uuid: Option<String>,
    client_id: Option<String>,
    circuit_id: Option<String>,
    overlays: Vec<&'a str>,
}

#[derive(Serialize)]
struct Network<'a> {
    subnet: String,
    prefix: u8,
    netmask: Ipv4Addr,
    broadcast: Ipv4Addr,
    gateway: Option<Ipv4Addr>,
    dns: &'a [Ipv4Addr],
    domain: Option<&'a str>,
}

#[derive(Serialize)]
struct Image<'a> {
    name: &'a str,
    version: Option<String>,
}

#[derive(Serialize)]
struct Server {
    address: Ipv4Addr,
    url: String,
}

/// One of `nodes`.
#[derive(Serialize)]
struct Other<'a> {
    name: &'a str,
    address: Ipv4Addr,
    mac: Option<String>,
    groups: &'a [String],
    metadata: Value,
}

impl Cluster {
    /// That of a configuration.
    pub fn of(config: &Config) -> Self {
        let groups = groups(config);
        let nodes = config.nodes().iter().map(|node| {
            Value::from(Serde(Other {
                name: node.name.as_str(),
                address: node.address,
                mac: match node.key {
                    NodeKey::Mac(mac) => Some(mac.to_string()),
                    _ => None,
                },
                groups: groups.get(&node.name).map_or(&[], Vec::as_slice),
                metadata: metadata(node),
            }))
        });
        Self { nodes: nodes.collect(), groups }
    }

    /// The variables of `node`. The image's version is the one that it would boot now.
    pub fn variables(&self, config: &Config, node: &Node) -> Value {
        let network = config.networks.of(node.address).expect("each node's address is of a network");
        let mac = config.mac_of(node).map(|mac| mac.to_string());
        let known_by = |name| (node.key.name() == name).then(|| node.key.to_string());
        let name = match &node.image {
            ImageSelector::Current(name) => name.as_str(),
            ImageSelector::Version(image) => image.name.as_str(),
        };
        let version = resolve(&config.server.store, &node.image).ok().map(|image| image.version.to_string());
        Value::from(Serde(Variables {
            node: Own {
                name: node.name.as_str(),
                address: node.address,
                mac,
                uuid: known_by("uuid"),
                client_id: known_by("client_id"),
                circuit_id: known_by("circuit_id"),
                overlays: node.overlays.iter().map(|name| name.as_str()).collect(),
            },
            network: Network {
                subnet: network.subnet.to_string(),
                prefix: network.subnet.prefix_len(),
                netmask: network.subnet.netmask(),
                broadcast: network.subnet.broadcast(),
                gateway: network.router,
                dns: &network.dns,
                domain: network.domain.as_deref(),
            },
            image: Image { name, version },
            server: Server { address: config.server.address, url: config.base_url() },
            groups: self.groups.get(&node.name).map_or(&[], Vec::as_slice),
            metadata: metadata(node),
            nodes: self.nodes.clone(),
        }))
    }
}

/// The groups of each node, by name. A group that cannot be read has none.
fn groups(config: &Config) -> HashMap<NodeName, Vec<String>> {
    let all = || NodeSet(config.nodes().iter().map(|node| node.name.clone()).collect());
    let mut groups: HashMap<_, Vec<String>> = HashMap::new();
    for name in config.inventory.groups().keys() {
        let set = config.inventory.set_among(&format!("@{name}"), &all);
        for node in set.into_iter().flat_map(|set| set.0) {
            groups.entry(node).or_default().push(name.clone());
        }
    }
    groups
}

fn metadata(node: &Node) -> Value {
    Value::from_pairs(node.metadata.iter().map(|(key, value)| (key.as_str(), value_of(value))))
}

/// As templates have it. A time is the text of it.
fn value_of(value: &toml::Value) -> Value {
    match value {
        toml::Value::Datetime(time) => time.to_string().into(),
        toml::Value::Array(values) => values.iter().map(value_of).collect(),
        toml::Value::Table(table) => {
            Value::from_pairs(table.iter().map(|(key, value)| (key.as_str(), value_of(value))))
        }
        plain => Value::from(Serde(plain)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::overlay::template::render;
    use std::collections::BTreeSet;

    const NODES: &str = "\n[[node]]\nname = 'n1'\nmac = 'fc:ab:14:00:00:01'\naddress = '192.168.0.121'\nimage = 'rocky/v7'\n\
                         overlays = ['base']\nmetadata = { rack = 3, bought = 2024-02-01, disks = ['a'], ib = { port = 1 } }\n\
                         [[node]]\nname = 'n2'\nuuid = '00112233-4455-6677-8899-aabbccddeeff'\naddress = '192.168.0.122'\nimage = 'x'\n";

    fn config() -> Config {
        let example = include_str!("../../bootserve.example.toml");
        Config::parse(&(example.replace("[server]\n", "[server]\noverlays = '/o'\n") + NODES)).unwrap()
    }

    fn rendered(node: &str, source: &str) -> String {
        let config = config();
        let variables = Cluster::of(&config).variables(&config, config.node_named(node).unwrap());
        render(source.as_bytes(), &variables).unwrap()
    }

    #[test]
    fn a_node_is_described_as_it_stands_in_the_configuration() {
        let source = "{{ node.name }} {{ node.address }}/{{ network.prefix }} {{ node.mac }} {{ network.netmask }} {{ image.name }} \
                      {{ image.version }} {{ server.url }} {{ node.overlays | join }}";
        let expected = "n1 192.168.0.121/24 fc:ab:14:00:00:01 255.255.255.0 rocky v7 http://192.168.0.1 base";
        assert_eq!(rendered("n1", source), expected);
        let source =
            "{{ metadata.rack + 1 }} {{ metadata.bought }} {{ metadata.disks[0] }} {{ metadata.ib.port }}";
        assert_eq!(rendered("n1", source), "4 2024-02-01 a 1");
        let source =
            "{{ node.uuid }} {{ node.mac is none }} {{ image.version is none }} {{ groups | length }}";
        assert_eq!(rendered("n2", source), "00112233-4455-6677-8899-aabbccddeeff True True 0");
    }

    #[test]
    fn all_nodes_are_known_to_each() {
        let source = "{% for n in nodes if n.name is startingwith(\"n\") and n.metadata.rack is defined %}{{ n.name }}={{ n.address }} {% endfor %}";
        assert_eq!(rendered("n2", source), "n1=192.168.0.121 ");
    }

    /// `node.name` and so on; lists and tables of the site are one.
    fn names(value: &Value, prefix: &str) -> BTreeSet<String> {
        let keys = value.try_iter().unwrap();
        let names = keys.flat_map(|key| {
            let (name, inner) = (format!("{prefix}{key}"), value.get_item(&key).unwrap());
            let is_table =
                inner.kind() == minijinja::value::ValueKind::Map && key.as_str() != Some("metadata");
            if is_table { names(&inner, &format!("{name}.")) } else { [name].into() }
        });
        names.collect()
    }

    #[test]
    fn the_documentation_has_every_variable_and_no_other() {
        let config = config();
        let cluster = Cluster::of(&config);
        let mut expected = names(&cluster.variables(&config, config.node_named("n1").unwrap()), "");
        expected.extend(names(&cluster.nodes.get_item_by_index(0).unwrap(), "nodes[]."));
        let page = include_str!("../../../docs/overlays.md");
        let table = page.split("## Variables\n").nth(1).unwrap().split("\n## ").next().unwrap();
        let rows = table.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` |"));
        let found: BTreeSet<_> = rows.map(|(name, _)| name.to_owned()).collect();
        assert_eq!(found, expected);
    }
}
