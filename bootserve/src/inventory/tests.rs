use super::*;
use crate::config::Config;
use bootspec::diagnosis::explain;
use proptest::prelude::*;

/// Four hundred nodes.
const EXAMPLE: &str = include_str!("../../nodes.example.toml");

/// A node of the configuration's own file.
const NODE: &str = "[[node]]\nname = 'head'\nuuid = '00112233-4455-6677-8899-aabbccddeeff'\n\
                    address = '192.168.0.9'\nimage = 'failsafe'\n";

/// The example as the inventory of a configuration that has a node of its own.
pub(crate) fn example() -> Config {
    let dir = tempfile::tempdir().unwrap();
    let (text, _) = include_str!("../../bootserve.example.toml").split_once("[[node]]").unwrap();
    let text = text
        .replace("\n[network]\n", "inventory = 'nodes.toml'\n[[network]]\n")
        .replace("\n[boot]\n", "\n[[network]]\nsubnet = '10.1.0.0/16'\n[boot]\n");
    std::fs::write(dir.path().join("nodes.toml"), EXAMPLE).unwrap();
    std::fs::write(dir.path().join("bootserve.toml"), format!("{text}\n{NODE}")).unwrap();
    Config::read(&dir.path().join("bootserve.toml")).unwrap()
}

fn names(set: &NodeSet) -> Vec<&str> {
    set.0.iter().map(NodeName::as_str).collect()
}

fn node<'a>(nodes: &'a [serde_json::Value], name: &str) -> &'a serde_json::Value {
    nodes.iter().find(|node| node["name"] == name).unwrap()
}

fn wire(text: &str) -> Vec<serde_json::Value> {
    let nodes = Inventory::parse(text).unwrap().wire_nodes().unwrap();
    nodes.iter().map(|node| serde_json::to_value(node).unwrap()).collect()
}

#[test]
fn the_shipped_example_is_of_four_hundred_nodes() {
    let nodes = wire(EXAMPLE);
    assert_eq!(nodes.len(), 402);
    let last = node(&nodes, "node-399");
    assert_eq!((&last["address"], &last["mac"]), (&"10.1.4.99".into(), &"fc:ab:14:00:01:8f".into()));
    assert_eq!(last["image"], "rocky-9-compute");
    let gpu = node(&nodes, "node-010");
    assert_eq!(gpu["kernel_args"], serde_json::json!(["console=ttyS0,115200", "nouveau.modeset=0"]));
    assert_eq!(node(&nodes, "node-000")["image"], "rocky-9-compute/20261122T061457Z", "the canary");
}

#[test]
fn a_set_says_otherwise_than_the_profile_and_each_value_has_its_origin() {
    let inventory = Inventory::parse(EXAMPLE).unwrap();
    let layers = inventory.layers(&"node-000".parse().unwrap()).unwrap();
    let image = layers::explained(layers).into_iter().find(|setting| setting.key == "image").unwrap();
    let from: Vec<_> = image.from.iter().map(|said| said.origin.to_string()).collect();
    assert_eq!(from, ["[defaults]", "[profile.compute]", "[[set]] nodes = \"@canary\""]);
}

#[test]
fn a_bmc_has_an_address_of_its_nodes_own_and_inherits_how_it_is_spoken_to() {
    let text = "[defaults]\nimage = 'a'\nbmc = { user = 'admin', password_file = '/p' }\n\
                [[nodes]]\nnames = 'n[1-2]'\naddresses = '10.0.0.[1-2]'\nmacs = '02:00:00:00:00:[01-02]'\n\
                bmc_addresses = '10.9.0.[1-2]'\n[[set]]\nnodes = 'n2'\nbmc = { protocol = 'ipmi' }\n";
    let nodes = wire(text);
    assert_eq!((&nodes[1]["bmc_address"], &nodes[1]["bmc"]["user"]), (&"10.9.0.2".into(), &"admin".into()));
    assert_eq!((&nodes[0]["bmc"]["protocol"], &nodes[1]["bmc"]["protocol"]), (&().into(), &"ipmi".into()));
}

#[test]
fn groups_may_hold_groups() {
    let inventory = Inventory::parse("[groups]\na = 'n[1-4]'\nb = '@a!n2'\nc = '@d'\nd = 'n1,@c'\n").unwrap();
    assert_eq!(names(&inventory.set("@b,x").unwrap()), ["n1", "n3", "n4", "x"]);
    assert_eq!(inventory.set("@c"), Err(NodeSetError::Cycle("c".into())));
    assert!(inventory.set("@*").unwrap().0.is_empty());
}

#[test]
fn a_profile_takes_what_it_inherits_once_and_says_the_last_word() {
    let text = "[profile.base]\nimage = 'a'\nkernel_args = ['x']\n[profile.one]\ninherits = ['base']\nimage = 'b'\n\
                [profile.two]\ninherits = ['base', 'one']\nkernel_args = ['y']\n\
                [[nodes]]\nnames = 'n1'\naddresses = '10.0.0.1'\nmacs = '02:00:00:00:00:01'\nprofile = 'two'\n";
    let nodes = wire(text);
    assert_eq!((&nodes[0]["image"], &nodes[0]["kernel_args"]), (&"b".into(), &serde_json::json!(["x", "y"])));
}

#[test]
fn what_cannot_be_meant_is_refused_with_its_place() {
    let n = "addresses = '10.0.0.[1-2]'\nmacs = '02:00:00:00:00:[01-02]'\nimage = 'a'\n";
    for (text, expected) in [
        ("[defaults]\nimagee = 'a'".to_owned(), "line 2"),
        ("[defaults]\nmode = 'sideways'".to_owned(), "line 2"),
        ("[profile.a]\nkernel_args = ['a b']".to_owned(), "line 2"),
        (format!("[[nodes]]\nnames = 'n[1-3]'\n{n}"), "3 names and 2 addresses"),
        (format!("[[nodes]]\nnames = 'n[1-2'\n{n}"), "[[nodes]] names = \"n[1-2\""),
        (format!("[[nodes]]\nnames = 'n[1-2]'\nprofile = 'p'\n{n}"), "no [profile.p]"),
        (
            format!("[profile.p]\ninherits = ['p']\n[[nodes]]\nnames = 'n[1-2]'\nprofile = 'p'\n{n}"),
            "[profile.p] inherits from itself",
        ),
        (
            format!("[[nodes]]\nnames = 'n[1-2]'\n{n}[[nodes]]\nnames = 'n[2-3]'\n{n}"),
            "node n2 stands in [[nodes]] names = \"n[1-2]\" and in [[nodes]] names = \"n[2-3]\"",
        ),
        (format!("[[nodes]]\nnames = 'n[1-2]'\n{n}[[set]]\nnodes = 'm1'\nimage = 'b'\n"), "is of no node"),
        (format!("[[nodes]]\nnames = 'n[1-2]'\n{n}[[set]]\nnodes = '@x'\nimage = 'b'\n"), "no group 'x'"),
        (
            "[[nodes]]\nnames = 'n1'\naddresses = '10.0.0.x'\nmacs = '02:00:00:00:00:01'\nimage = 'a'\n"
                .to_owned(),
            "hint: bootserve node explain n1",
        ),
    ] {
        let error = Inventory::parse(&text).and_then(|inventory| inventory.wire_nodes()).err().expect(&text);
        let error = explain(&error);
        assert!(error.contains(expected), "{expected:?} in {error:?}");
    }
}

proptest! {
    #[test]
    fn any_text_is_read_or_refused(text: String, names in "\\PC{0,12}", addresses in "[0-9.\\[\\]-]{0,12}") {
        let nodes = format!("[[nodes]]\nnames = {names:?}\naddresses = {addresses:?}\n");
        for text in [text, nodes] {
            if let Ok(inventory) = Inventory::parse(&text) {
                let _ = inventory.wire_nodes();
            }
        }
    }
}
