//! Nodes are changed by the command while the server runs.

use std::process::{Child, Stdio};
use std::thread;
use std::time::Duration;

use serde_json::Value;

use super::support::{CARRIED_MAC, Daemon, NODE_MAC, wait_until};

const NEW_MAC: &str = "02:00:00:00:00:99";

fn script_has(daemon: &Daemon, mac: &str, part: &str) -> bool {
    daemon.get(&format!("/ipxe?mac={mac}")).text().contains(part)
}

#[test]
fn what_is_changed_is_in_force_soon_and_after_a_restart() {
    let daemon = Daemon::start();
    assert!(script_has(&daemon, NODE_MAC, "/images/failsafe/v1/"));
    assert!(
        script_has(&daemon, NEW_MAC, "nothing to boot"),
        "{}",
        daemon.get(&format!("/ipxe?mac={NEW_MAC}")).text()
    );
    daemon.run_command(&["node", "set", "node-000", "image=compute"]);
    let address = "address=127.0.0.99";
    let mac = format!("mac={NEW_MAC}");
    daemon.run_command(&["node", "add", "new-1", address, &mac, "image=failsafe"]);
    let is_in_force = |daemon: &Daemon| {
        script_has(daemon, NODE_MAC, "/images/compute/v1/")
            && script_has(daemon, NEW_MAC, "bootnode.node=new-1")
    };
    assert!(wait_until(|| is_in_force(&daemon)));
    let daemon = daemon.restart();
    assert!(is_in_force(&daemon));
    daemon.run_command(&["node", "undo", "1"]);
    daemon.run_command(&["node", "rm", "new-1"]);
    assert!(wait_until(|| script_has(&daemon, NODE_MAC, "/images/failsafe/v1/")
        && script_has(&daemon, NEW_MAC, "nothing to boot")));
    assert!(script_has(&daemon, CARRIED_MAC, "/images/compute/v1/"), "it is as it was");
}

#[test]
fn what_is_set_for_one_boot_is_not_for_the_next() {
    let daemon = Daemon::start();
    daemon.run_command(&["node", "set", "--once", "node-000", "image=compute"]);
    assert!(wait_until(|| script_has(&daemon, NODE_MAC, "/images/compute/v1/")));
    assert!(wait_until(|| script_has(&daemon, NODE_MAC, "/images/failsafe/v1/")));
}

#[test]
fn a_node_is_sent_to_its_own_disk() {
    let daemon = Daemon::start();
    daemon.begin_boot(NODE_MAC);
    daemon.run_command(&["node", "set", "node-000", "local_disk=true"]);
    assert!(wait_until(|| script_has(&daemon, NODE_MAC, "sanboot --no-describe --drive 0x80 ||\nexit\n")));
    let status =
        daemon.wait_for("/v1/status?node=node-000", |status| status["nodes"][0]["state"] == "parked");
    assert_eq!(status["nodes"][0]["what"], "was sent to its own disk");
    assert_eq!(daemon.get(&format!("/v1/boot/{NODE_MAC}")).status, 404, "nothing for pixiecore's clients");
}

#[test]
fn a_writer_that_is_killed_has_changed_all_or_nothing_and_none_loses_what_another_wrote() {
    const WRITERS: u64 = 50;
    let daemon = Daemon::start();
    let start = |number: u64| {
        let one = format!("metadata.one{number}={number}");
        let other = format!("metadata.other{number}={number}");
        let args = ["node", "set", "node-[000-001]", &one, &other];
        daemon.command(&args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    };
    let mut writers: Vec<(u64, Child)> = (0..WRITERS).map(|number| (number, start(number))).collect();
    for (number, writer) in &mut writers {
        // Each third is killed, at some moment of its work.
        if *number % 3 == 0 {
            thread::sleep(Duration::from_millis(*number * 7 % 50));
            writer.kill().unwrap();
        }
    }
    let ended: Vec<(u64, bool)> =
        writers.into_iter().map(|(number, mut writer)| (number, writer.wait().unwrap().success())).collect();
    assert!(
        ended.iter().filter(|(_, success)| *success).count() >= 33,
        "those that were not killed: {ended:?}"
    );

    let listed = daemon.run_command(&["node", "list", "node-[000-001]", "--json"]);
    let listed: Value = serde_json::from_str(&listed).unwrap();
    let has = |index: usize, key: String| listed[index]["metadata"].get(key).is_some();
    for (number, success) in &ended {
        let parts =
            [0, 1].map(|index| [has(index, format!("one{number}")), has(index, format!("other{number}"))]);
        assert!(parts == [[true; 2]; 2] || parts == [[false; 2]; 2], "writer {number}: {parts:?}");
        assert!(parts[0][0] || !success, "writer {number} is lost");
    }
    let history = daemon.run_command(&["node", "history", "--json"]);
    let history: Vec<Value> = serde_json::from_str(&history).unwrap();
    let stored = (0..WRITERS).filter(|number| has(0, format!("one{number}"))).count();
    assert_eq!(history.len(), stored, "each change that is there is in the history");
}
