//! Machines that nobody has described become nodes by policies.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use bootserve::config::Config;
use bootserve::edits::store::stored_edits;
use bootspec::manifest::BootMode;
use serde_json::{Value, json};

use super::support::process::ServerProcess;
use super::support::{Daemon, post_to, store, wait_until};

/// Of a machine with this number.
fn mac(number: usize) -> String {
    format!("02:00:00:00:{:02x}:{:02x}", number / 256, number % 256)
}

fn facts(number: usize, more: &Value) -> String {
    let mut facts = json!({
        "mac": mac(number),
        "system": {"product": "R640"},
        "firmware": {"kind": "uefi"},
        "cpu": {"sockets": 2, "cores": 40, "threads": 80},
    });
    facts.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    facts.to_string()
}

/// What a machine is told; none if there is nobody.
fn check_in(url: &str, number: usize) -> Option<String> {
    let response = post_to(url, "/v1/discover", facts(number, &json!({})).as_bytes())?;
    assert_eq!(response.status, 200, "{}", response.text());
    let answer: Value = serde_json::from_slice(&response.body).unwrap();
    Some(answer["action"].as_str().unwrap().to_owned())
}

/// Those of `machines` that are told to reboot when all check in at once; each checks in once.
fn check_in_together(url: &str, machines: &[usize]) -> Vec<usize> {
    thread::scope(|scope| {
        let ask = |number: usize| check_in(url, number).as_deref() == Some("reboot");
        let threads: Vec<_> =
            machines.iter().map(|number| (*number, scope.spawn(move || ask(*number)))).collect();
        let told = threads.into_iter().map(|(number, thread)| (number, thread.join().unwrap()));
        told.filter(|(_, reboots)| *reboots).map(|(number, _)| number).collect()
    })
}

/// Name and address of the node that each machine has become, by MAC address. Names and addresses are each machine's own.
fn identities(config: &Path) -> BTreeMap<String, (String, String)> {
    let config = Config::read(config).unwrap();
    let edits = tokio::runtime::Runtime::new().unwrap().block_on(stored_edits(&config.server.state)).unwrap();
    let text = |table: &toml::Table, key: &str| table[key].as_str().unwrap().to_owned();
    let nodes = edits.0.iter().map(|(name, edit)| {
        let table = &edit.table;
        (text(table, "mac"), (name.to_string(), text(table, "address")))
    });
    let all: Vec<_> = nodes.collect();
    for part in [0, 1, 2] {
        let parts = all.iter().map(|(mac, (name, address))| [mac, name, address][part]);
        assert_eq!(parts.collect::<BTreeSet<_>>().len(), all.len(), "one is there twice: {all:?}");
    }
    // It fits the files.
    config.with_edits(edits).unwrap();
    all.into_iter().collect()
}

const MACHINES: usize = 500;
/// Nodes that are there already.
const NODES: usize = 10_000;

#[test]
fn of_500_machines_in_one_second_each_becomes_a_node_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let inventory = dir.path().join("nodes.toml");
    let nodes = "[[nodes]]\nnames = 'old-[0-9999]'\naddresses = '10.2.[0-99].[1-100]'\n\
                 macs = '02:01:00:00:[00-63]:[01-64]'\nimage = 'compute'\n";
    std::fs::write(&inventory, nodes).unwrap();
    let daemon = Daemon::start_with(move |config| {
        let config = config
            .replace("[network]", "[[network]]")
            .replace("[network]]\n", "[network]]\nsubnet = '10.0.0.0/8'\n[[network]]\n");
        let config =
            config.replace("http_port", &format!("inventory = '{}'\nhttp_port", inventory.display()));
        format!(
            "{config}\n[[discovery.tag]]\nname = 'big'\nrule = 'cpu.cores >= 32'\n\
             [[discovery.policy]]\nname = 'hall'\ntags = ['big']\nnodes = 'hall-[000-599]'\n\
             address = '10.1.[0-5].[1-100]'\nimage = 'compute'\n"
        )
    });
    assert_eq!(Config::read(&daemon.config_file()).unwrap().nodes().len(), NODES + 4);
    let (url, began) = (daemon.url(), Instant::now());
    let mut waiting: Vec<_> = (0..MACHINES).collect();
    let mut rounds = 0;
    while !waiting.is_empty() {
        let done: BTreeSet<_> = check_in_together(&url, &waiting).into_iter().collect();
        waiting.retain(|number| !done.contains(number));
        rounds += 1;
        assert!(rounds < 20, "{} still wait", waiting.len());
    }
    println!(
        "{MACHINES} machines became nodes beside {NODES} others in {:?}, {rounds} rounds",
        began.elapsed()
    );
    let identities = identities(&daemon.config_file());
    assert_eq!(identities.len(), MACHINES);
    let expected: BTreeSet<_> = (0..MACHINES).map(|number| format!("hall-{number:03}")).collect();
    assert_eq!(identities.values().map(|(name, _)| name.clone()).collect::<BTreeSet<_>>(), expected);
    let history: Value = serde_json::from_str(&daemon.run_command(&["node", "history", "--json"])).unwrap();
    let history = history.as_array().unwrap();
    assert!(history.len() < MACHINES / 10, "they are bound together, not in {} changes", history.len());
    assert!(history.iter().all(|change| change["author"] == "policy hall"), "{history:?}");
}

#[test]
fn machines_keep_their_identities_when_the_server_is_killed_while_it_gives_them() {
    const MACHINES: usize = 120;
    let dir = tempfile::tempdir().unwrap();
    store::publish(
        &dir.path().join("store"),
        "compute/v1",
        BootMode::Failsafe,
        &[("vmlinuz", b"kernel"), ("initramfs.img", b"i")],
    );
    store::publish(
        &dir.path().join("store"),
        "failsafe/v1",
        BootMode::Failsafe,
        &[("vmlinuz", b"kernel"), ("initramfs.img", b"i")],
    );
    let policy = "[[discovery.policy]]\nname = 'all'\nnodes = 'n[1-140]'\n\
                  address = ['127.0.0.[2-99]', '127.0.0.[110-151]']\nimage = 'compute'\n";
    std::fs::write(dir.path().join("more.toml"), policy).unwrap();
    let config = dir.path().join("bootserve.toml");
    let mut before = BTreeMap::new();
    let mut killed_between = 0;
    // The later the kill, the more of them are nodes.
    for delay_ms in [20, 70, 110, 150] {
        let server = ServerProcess::start(dir.path());
        let url = server.url.clone();
        let machines: Vec<_> = (0..MACHINES).collect();
        let asking = thread::spawn(move || {
            let one_by_one = |number: &usize| check_in(&url, *number).as_deref() == Some("reboot");
            machines.into_iter().filter(one_by_one).collect::<Vec<_>>()
        });
        sleep(Duration::from_millis(delay_ms));
        server.kill();
        let told = asking.join().unwrap();
        let now = identities(&config);
        for (mac, identity) in &before {
            assert_eq!(now.get(mac), Some(identity), "{mac} is another node than before");
        }
        assert!(told.iter().all(|number| now.contains_key(&mac(*number))), "who was told so is a node");
        killed_between += usize::from(now.len() > before.len() && now.len() < MACHINES);
        before = now;
    }
    assert!(killed_between > 0, "no kill has come while nodes were made");
    let server = ServerProcess::start(dir.path());
    let all: Vec<_> = (0..MACHINES).collect();
    let url = server.url.clone();
    assert!(wait_until(|| check_in_together(&url, &all).len() == MACHINES));
    let now = identities(&config);
    assert_eq!(now.len(), MACHINES);
    assert!(before.iter().all(|(mac, identity)| now.get(mac) == Some(identity)));
}

/// Two policies: one for machines of a serial number, one that proposes.
pub(super) fn with_policies(config: String) -> String {
    format!(
        "{config}\n[discovery]\npoll_seconds = 7\n\
         [[discovery.tag]]\nname = 'ours'\nrule = 'system.serial == \"S1\"'\n\
         [[discovery.tag]]\nname = 'big'\nrule = 'cpu.cores >= 32'\n\
         [[discovery.policy]]\nname = 'one'\ntags = ['ours']\nnodes = 'one'\naddress = '127.0.0.51'\nimage = 'compute'\n\
         [[discovery.policy]]\nname = 'rest'\ntags = ['big']\napproval = true\nnodes = 'rest-[1-9]'\naddress = '127.0.0.[61-69]'\nimage = 'compute'\n"
    )
}

fn action(daemon: &Daemon, number: usize, more: &Value) -> String {
    let response = daemon.post("/v1/discover", facts(number, more).as_bytes());
    let answer: Value = serde_json::from_slice(&response.body).unwrap();
    answer["action"].as_str().unwrap().to_owned()
}

fn parsed(daemon: &Daemon, args: &[&str]) -> Value {
    serde_json::from_str(&daemon.run_command(args)).unwrap()
}

#[test]
fn a_machine_is_bound_explained_taken_back_and_left_alone_until_it_is_forgotten() {
    let daemon = Daemon::start_with(with_policies);
    let ours = json!({"system": {"serial": "S1"}});
    assert_eq!(action(&daemon, 1, &ours), "reboot");
    assert!(daemon.get(&format!("/ipxe?mac={}", mac(1))).text().contains("/images/compute/v1/"));
    let events = daemon
        .wait_for("/v1/nodes/one/events", |events| events.as_array().is_some_and(|all| !all.is_empty()));
    assert_eq!(
        (&events[0]["phase"], &events[0]["message"]),
        (&json!("policy"), &json!("policy one has made it one"))
    );
    let listed = parsed(&daemon, &["machine", "list", "--all", "--json"]);
    assert_eq!((&listed[0]["node"], &listed[0]["policy"]), (&json!("one"), &json!("one")));
    let metrics = daemon.get("/metrics").text();
    assert!(metrics.contains("bootserve_policy_rulings_total{ruling=\"bound\"} 1"), "{metrics}");

    daemon.run_command(&["node", "undo"]);
    assert!(wait_until(|| action(&daemon, 1, &ours) == "wait"));
    assert_eq!(action(&daemon, 1, &ours), "wait", "nobody has forgotten it");
    let text = daemon.run_command(&["machine", "explain", "S1"]);
    assert!(text.contains("policy one: would make it one, but it was a node that was taken away"), "{text}");
    daemon.run_command(&["machine", "forget", "S1"]);
    assert_eq!(action(&daemon, 1, &ours), "reboot");
}

#[test]
fn a_machine_is_proposed_with_what_is_missing_and_approved_with_a_word() {
    let daemon = Daemon::start_with(with_policies);
    let nothing = json!({});
    assert_eq!(action(&daemon, 1, &nothing), "wait");
    assert_eq!(action(&daemon, 2, &nothing), "wait");
    let list = daemon.run_command(&["machine", "list"]);
    assert!(list.contains("waits (rest proposes rest-1)") && list.contains("  tags big,ours?  "), "{list}");
    let explained = parsed(&daemon, &["machine", "explain", &mac(2), "--json"]);
    let error = explained["tags"][0]["value"]["error"].as_str().unwrap();
    assert!(error.contains("the machine has not said `system.serial`"), "{explained}");
    assert_eq!(explained["policies"][0]["verdict"], "untagged");
    assert_eq!(
        (&explained["policies"][1]["verdict"], &explained["policies"][1]["node"]),
        (&json!("proposes"), &json!("rest-2"))
    );
    let metrics = daemon.get("/metrics").text();
    assert!(metrics.contains("bootserve_policy_rulings_total{ruling=\"rule_error\"} 2"), "{metrics}");

    let trial = daemon.run_command(&["machine", "approve", &mac(2), "--dry-run"]);
    assert!(trial.contains("node rest-2 address: nothing -> \"127.0.0.62\""), "{trial}");
    assert_eq!(action(&daemon, 2, &nothing), "wait");
    daemon.run_command(&["machine", "approve", &mac(2)]);
    assert!(wait_until(|| action(&daemon, 2, &nothing) == "reboot"));
    assert_eq!(action(&daemon, 1, &nothing), "wait");
    let history = daemon.run_command(&["node", "history"]);
    assert!(history.contains("bind rest-2 policy=rest"), "{history}");
    let refused = daemon.command(&["machine", "approve", &mac(2)]).output().unwrap();
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("is rest-2 already"));
}

#[test]
fn a_proposal_is_approved_by_the_api_as_it_was_seen() {
    let daemon = Daemon::start_with(with_policies);
    let nothing = json!({});
    for number in [1, 2] {
        assert_eq!(action(&daemon, number, &nothing), "wait");
    }
    let token = daemon.run_command(&["token", "new", "ci", "--role", "operator"]);
    let authorization = format!("Bearer {}", token.trim());
    let approve = |number: usize, query: &str, node: &str| {
        let path = format!("/v1/machines/{}/approve{query}", mac(number));
        let body = json!({"node": node}).to_string();
        let response = daemon.post_with(&path, &[("Authorization", &authorization)], body.as_bytes());
        (response.status, response.text())
    };
    let (status, said) = approve(2, "", "rest-1");
    assert_eq!(status, 409, "{said}");
    assert!(said.contains("policy rest proposes rest-2 for 02:00:00:00:00:02, not rest-1"), "{said}");
    let (status, trial) = approve(2, "?dry_run=true", "rest-2");
    assert!(status == 200 && trial.contains("127.0.0.62"), "{status} {trial}");
    assert_eq!(action(&daemon, 2, &nothing), "wait", "it was a trial");
    let (status, made) = approve(2, "", "rest-2");
    assert!(status == 201 && made.contains("\"in_force\":true"), "{status} {made}");
    assert_eq!(action(&daemon, 2, &nothing), "reboot");
    let (status, said) = approve(2, "", "rest-2");
    assert!(status == 409 && said.contains("is rest-2 already"), "{status} {said}");
    assert_eq!(approve(3, "", "rest-3").0, 404);
    assert!(daemon.run_command(&["node", "history"]).contains("ci"), "it says who approved");
}

#[test]
fn check_refuses_a_rule_that_cannot_be_read() {
    let daemon = Daemon::start();
    let config = std::fs::read_to_string(daemon.config_file()).unwrap();
    let broken = "\n[[discovery.tag]]\nname = 'big'\nrule = 'cpu.cores >='\n";
    std::fs::write(daemon.config_file(), config + broken).unwrap();
    let output = daemon.command(&["check"]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{text}");
    for part in ["[[discovery.tag]] big", "syntax error", "hint: docs/discovery.md#policies"] {
        assert!(text.contains(part), "{part}: {text}");
    }
}
