use std::sync::Arc;

use super::*;
use crate::database::Database;
use crate::discovery::listing::{Explanation, Listing, Outlook};
use crate::discovery::store::{check_in, forget, machines, machines_with};
use crate::discovery::{Machine, port};
use crate::edits::Operation;
use crate::edits::store::{Bound, bind, change, history, read};
use bootspec::diagnosis::explain;
use serde_json::json;

const BIG: &str = "[[discovery.tag]]\nname = 'big'\nrule = 'cpu.cores >= 32'\n\
                   [[discovery.tag]]\nname = 'dell'\nrule = '\"Dell\" in system.manufacturer'\n";

fn parse(policies: &str) -> Result<Config, crate::config::ConfigError> {
    let text = include_str!("../../../bootserve.example.toml").replace("[network]", "[[network]]");
    let network = "[[network]]\nsubnet = '10.1.0.0/16'\n\n[boot]\n";
    let text = text.replace("[boot]\n", network);
    Config::parse(&format!("{text}\n{BIG}{policies}"))
}

/// A policy of four nodes.
fn policy(name: &str, more: &str) -> String {
    format!(
        "[[discovery.policy]]\nname = '{name}'\nnodes = '{name}-[1-4]'\naddress = '10.1.{}.[1-4]'\nimage = 'x'\n{more}\n",
        name.as_bytes()[0]
    )
}

fn mac(number: u32) -> MacAddr {
    let [a, b, c, d] = number.to_be_bytes();
    MacAddr::new([2, 0, a, b, c, d])
}

fn facts(number: u32, cores: u32, manufacturer: Option<&str>) -> Value {
    let mut facts = json!({"mac": mac(number).to_string(), "firmware": {"kind": "uefi"}});
    facts["cpu"] = json!({"sockets": 1, "cores": cores, "threads": cores});
    facts["system"] = manufacturer.map_or(json!({}), |name| json!({"manufacturer": name}));
    facts
}

fn candidate(config: &Config, number: u32, facts: &Value) -> Candidate {
    config.policies.examine(mac(number), None, facts)
}

/// What becomes of machines that come one after the other.
fn decided(config: &Config, machines: &[Value]) -> Vec<String> {
    let mut room = Room::of(config);
    let decisions = machines.iter().zip(1..).map(|(facts, number)| {
        let decision = room.decide(&candidate(config, number, facts));
        decision.choice.into_iter().for_each(|choice| room.take(choice));
        match decision.choice {
            Some(Choice { policy, place, is_proposal }) => {
                let name = &config.policies.policies[policy].places[place].name;
                format!("{}{name}", if is_proposal { "?" } else { "" })
            }
            None => decision.verdicts.iter().map(|(name, verdict)| format!("{name}: {verdict}\n")).collect(),
        }
    });
    decisions.collect()
}

#[test]
fn the_first_policy_that_fits_takes_the_machine() {
    let text = policy("off", "enabled = false")
        + &policy("dual", "tags = ['big', 'dell']\nmax_count = 1")
        + &policy("big", "tags = ['big']\napproval = true")
        + &policy("all", "");
    let config = parse(&text).unwrap();
    let dell = |cores| facts(1, cores, Some("Dell Inc."));
    let expected = ["dual-1", "?big-1", "all-1", "?big-2", "all-2"];
    assert_eq!(
        decided(&config, &[dell(40), dell(40), dell(2), facts(1, 40, None), facts(1, 2, None)]),
        expected
    );
    let decision = Room::of(&config).decide(&candidate(&config, 1, &facts(1, 40, Some("HP"))));
    let verdicts: Vec<_> = decision.verdicts.iter().map(|(_, verdict)| verdict.to_string()).collect();
    let expected = [
        "is not enabled",
        "the machine does not have the tag dell",
        "proposes big-1; bootserve machine approve takes it",
        "an earlier policy has it",
    ];
    assert_eq!(verdicts, expected);
}

#[test]
fn a_missing_fact_costs_the_tag_and_nothing_else() {
    let config = parse(&(policy("dell", "tags = ['dell']") + &policy("all", ""))).unwrap();
    let facts = facts(1, 2, None);
    let candidate = candidate(&config, 1, &facts);
    let errors: Vec<_> = candidate.errors().map(|(tag, error)| (tag, error.clone())).collect();
    assert_eq!(errors, [("dell", RuleError::Missing("system.manufacturer".to_owned()))]);
    assert_eq!(decided(&config, &[facts]), ["all-1"]);
}

#[test]
fn names_are_given_in_order_and_those_of_others_are_left_out() {
    let text = policy("all", "")
        .replace("all-[1-4]", "all-1,node-001,all-[3-4]")
        .replace("10.1.97.[1-4]", "10.1.97.[1-3]");
    let text = text.replace("'10.1.97.[1-3]'", "['10.1.97.[1-3]', '192.168.0.100']");
    let config = parse(&text).unwrap();
    let machines: Vec<_> = (1..=3).map(|number| facts(number, 1, None)).collect();
    let left = "all: none of its names is free\n";
    assert_eq!(decided(&config, &machines), ["all-1", "all-3", left], "one name and one address are taken");
}

#[test]
fn the_port_says_which_node_a_machine_is() {
    let relay = policy("relay", "by = 'relay'\nports = ['sw1/Gi1/0/[1-2]', 'Gi2/0/[1-2]']");
    let lldp = policy("lldp", "by = 'lldp'\nports = 'leaf[1-2]/Ethernet[7-8]'");
    let config = parse(&(relay + &lldp)).unwrap();
    let at = |circuit: &str, remote: &str| {
        let mut facts = facts(1, 1, None);
        facts["port"] = json!({"circuit_id": circuit, "remote_id": remote});
        facts
    };
    let heard = |switch: &str, port: &str| {
        let mut facts = facts(1, 1, None);
        facts["lldp"] = json!({"system_name": switch, "port_id": port});
        facts
    };
    let machines = [
        at("Gi1/0/2", "sw1"),
        at("Gi2/0/1", "anything"),
        at("Gi1/0/1", "sw2"),
        heard("leaf2", "Ethernet7"),
        at("Gi1/0/2", "sw1"),
        heard("sw1", "Gi1/0/1"),
    ];
    let expected = [
        "relay-2",
        "relay-3",
        "relay: the machine's port sw2/Gi1/0/1 is none of its ports\nlldp: the machine's port is not known\n",
        "lldp-3",
        "relay: the node of the machine's port, relay-2, is there already, or its address is another's\n\
         lldp: the machine's port is not known\n",
        "relay: the machine's port is not known\nlldp: the machine's port sw1/Gi1/0/1 is none of its ports\n",
    ];
    assert_eq!(decided(&config, &machines), expected);
}

#[test]
fn what_cannot_be_used_is_refused_with_its_name() {
    let check = |text: &str, expected: &str| {
        let error = explain(&parse(text).unwrap_err()).to_string();
        assert!(error.contains(expected), "{expected}: {error}");
    };
    let with = |more: &str| policy("all", more);
    check("[[discovery.tag]]\nname = 'x'\nrule = 'cpu.cores >='\n", "[[discovery.tag]] x");
    check("[[discovery.tag]]\nname = 'x'\nrule = 'cpus.cores > 1'\n", "there is no fact `cpus`");
    check("[[discovery.tag]]\nname = 'big'\nrule = 'true'\n", "there is another one of this name");
    check("[[discovery.tag]]\nname = 'a b'\nrule = 'true'\n", "its name is \"a b\"");
    check(&(with("") + &with("")), "[[discovery.policy]] all");
    check(&with("tags = ['nosuch']"), "there is no [[discovery.tag]] \"nosuch\"");
    check(&with("profile = 'nosuch'"), "there is no [profile.nosuch]");
    check(&with("by = 'relay'"), "needs ports");
    check(&with("ports = 'a[1-4]'"), "ports need one of them");
    check(&with("by = 'relay'\nports = 'a[1-3]'"), "it has 4 nodes and 3 ports");
    check(&with("by = 'relay'\nports = ['a[1-3]', 'a1']"), "expected each once");
    check(&with("bmc = { user = 'x' }"), "bmc cannot be said here");
    check(&with("imagee = 'x'"), "unknown field `imagee`");
    check(&with("overlays = ['x']"), "it makes no node");
    check(&with("").replace("image = 'x'", ""), "has no image");
    check(&with("").replace("10.1.97.[1-4]", "10.9.97.[1-4]"), "is in none of the subnets");
    check(&with("").replace("10.1.97.[1-4]", "10.1.97.[1-5]"), "it has 4 nodes and 5 address");
    check(&with("").replace("'10.1.97.[1-4]'", "['10.1.97.[1-3]', '192.168.0.1']"), "server.address");
    check(&with("").replace("all-[1-4]", "all-[1-"), "nodes");
}

/// A database, and policies.
struct Site {
    _dir: tempfile::TempDir,
    database: Database,
    files: Arc<Config>,
}

impl Site {
    async fn new(policies: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let database = Database::open(dir.path()).await.unwrap();
        Self { _dir: dir, database, files: Arc::new(parse(policies).unwrap()) }
    }

    /// A machine of two cores checks in.
    async fn check_in(&self, number: u32) -> Machine {
        let facts = facts(number, 2, None).to_string();
        let facts = bootspec::facts::Facts::parse(facts.as_bytes()).unwrap();
        check_in(&self.database, &facts, number.into()).await.unwrap();
        machines_with(&self.database, &[mac(number)]).await.unwrap().remove(0)
    }

    async fn config(&self) -> Config {
        self.files.with_edits(read(&self.database).await.unwrap()).unwrap()
    }

    async fn bind(&self, numbers: impl IntoIterator<Item = u32>) -> Vec<String> {
        let mut candidates = Vec::new();
        for number in numbers {
            candidates.push(self.check_in(number).await.examined_by(&self.files.policies));
        }
        self.bind_candidates(candidates).await
    }

    async fn bind_candidates(&self, candidates: Vec<Candidate>) -> Vec<String> {
        let operation = Operation::Bind { policy: "all".to_owned(), candidates: candidates.into() };
        let bound = bind(&self.database, &self.files, "policy all", &operation).await.unwrap();
        bound.into_iter().map(|Bound { node, .. }| node.to_string()).collect()
    }

    async fn undo(&self) {
        let undo = Operation::Undo { revision: None };
        change(&self.database, &self.files, "admin", &undo).await.unwrap();
    }

    async fn remove(&self, node: &str) {
        let remove = Operation::Remove { nodes: node.to_owned() };
        change(&self.database, &self.files, "admin", &remove).await.unwrap();
    }
}

#[tokio::test]
async fn machines_become_nodes_in_one_change_that_is_taken_back_as_one() {
    let site = Site::new(&policy("all", "metadata = { by = 'policy' }\nmode = 'fetched'")).await;
    assert_eq!(site.bind(1..=3).await, ["all-1", "all-2", "all-3"]);
    let config = site.config().await;
    let node = config.node(mac(2)).unwrap();
    assert_eq!((node.name.as_str(), node.address), ("all-2", [10, 1, 97, 2].into()));
    assert_eq!((node.image.to_string().as_str(), &node.metadata["by"]), ("x", &"policy".into()));
    let [change] = &history(&site.database, 9).await.unwrap()[..] else { panic!("several changes") };
    assert_eq!(
        (change.author.as_str(), change.operation.as_str()),
        ("policy all", "bind all-[1-3] policy=all")
    );
    assert_eq!(site.bind(1..=3).await, [""; 0], "they are nodes already");
    site.undo().await;
    assert!(site.config().await.node(mac(2)).is_none());
}

#[tokio::test]
async fn what_was_taken_away_is_not_bound_again_until_it_is_forgotten() {
    let site = Site::new(&policy("all", "")).await;
    assert_eq!(site.bind([1, 2]).await, ["all-1", "all-2"]);
    site.undo().await;
    assert_eq!(site.bind([1, 2, 3]).await, ["all-1"], "that is the third");
    let listing = Listing::of(&machines(&site.database).await.unwrap(), &site.config().await, false);
    assert!(listing.0.iter().all(|row| row.released), "{listing}");
    let explanation = Explanation::of(
        &site.check_in(1).await,
        &machines(&site.database).await.unwrap(),
        &site.config().await,
    );
    assert!(explanation.to_string().contains("it was a node that was taken away"), "{explanation}");
    assert!(forget(&site.database, mac(2)).await.unwrap());
    assert_eq!(site.bind([1, 2]).await, ["all-2"]);
    site.remove("all-2").await;
    assert_eq!(site.bind([2]).await, [""; 0], "rm is like undo");
    site.undo().await;
    assert_eq!(site.config().await.node(mac(2)).unwrap().name.as_str(), "all-2");
}

#[tokio::test]
async fn a_node_counts_as_long_as_it_is_there() {
    let site = Site::new(&policy("all", "max_count = 2")).await;
    assert_eq!(site.bind(1..=3).await, ["all-1", "all-2"]);
    site.remove("all-1").await;
    assert_eq!(site.bind([4, 5]).await, ["all-1"], "the name is free again");
    let set = Operation::set("all-2", &["image=other"], false).unwrap();
    change(&site.database, &site.files, "admin", &set).await.unwrap();
    let unset = Operation::Unset { nodes: "all-2".to_owned(), keys: Vec::new() };
    let _ = change(&site.database, &site.files, "admin", &unset).await;
    assert_eq!(site.config().await.edits().policy_of(&"all-2".parse().unwrap()).as_deref(), Some("all"));
    assert_eq!(site.bind([3]).await, [""; 0]);
}

#[tokio::test]
async fn nobody_can_say_that_a_policy_has_added_a_node() {
    assert!(Operation::add("n1", &["address=10.1.0.1", "mac=02:00:00:00:00:01", "policy=all"]).is_err());
    assert!(Operation::set("n1", &["policy=all"], false).is_err());
    let json = json!({"bind": {"policy": "all", "candidates": []}});
    assert!(serde_json::from_value::<Operation>(json).is_err());
}

#[tokio::test]
async fn a_proposal_is_taken_by_an_approval() {
    let site = Site::new(&policy("all", "approval = true")).await;
    let [first, second] = [site.check_in(1).await, site.check_in(2).await];
    assert_eq!(site.bind([1, 2]).await, [""; 0]);
    let config = site.config().await;
    let outlook = Outlook::of(&[second, first], &config);
    let (candidate, offer) = outlook.offer(mac(2)).unwrap();
    assert_eq!((offer.policy.as_str(), offer.node.as_str(), offer.approval), ("all", "all-2", true));
    let candidate = Candidate { approved: Some(offer.node), ..candidate.clone() };
    assert_eq!(site.bind_candidates(vec![candidate]).await, ["all-2"]);
    let listing =
        Listing::of(&machines(&site.database).await.unwrap(), &site.config().await, true).to_string();
    assert!(listing.contains("waits (all proposes all-1)") && listing.contains("all-2 (all)"), "{listing}");
}

#[tokio::test]
async fn the_port_that_a_relay_has_named_is_a_fact() {
    let site = Site::new(&policy("all", "by = 'relay'\nports = 'sw1/p[1-4]'")).await;
    let at = |port: &str| port::RelayPort {
        circuit_id: Some(port.parse().unwrap()),
        remote_id: Some("sw1".parse().unwrap()),
    };
    let mut connection = site.database.pool.acquire().await.unwrap();
    port::write_ports(&mut connection, [(mac(1), at("p9")), (mac(2), at("p3")), (mac(1), at("p2"))])
        .await
        .unwrap();
    drop(connection);
    let facts = site.check_in(1).await.json();
    assert_eq!(facts["port"], json!({"circuit_id": "p2", "remote_id": "sw1"}));
    assert_eq!(site.bind([1, 2, 3]).await, ["all-2", "all-3"]);
    let listing =
        Listing::of(&machines(&site.database).await.unwrap(), &site.config().await, true).to_string();
    assert!(listing.contains("  port sw1/p2  "), "{listing}");
}
