//! Machines in discover mode, from their first word to their image.

use serde_json::{Value, json};

use super::support::{Daemon, NODE_MAC, wait_until};

const MAC: &str = "02:00:00:00:00:77";
const SERIAL: &str = "1ABCDE2";

fn facts(mac: &str) -> Value {
    json!({
        "mac": mac,
        "uuid": "4c4c4544-0041-4210-8043-b1c04f444532",
        "system": {"manufacturer": "Dell Inc.", "product": "PowerEdge R640", "serial": SERIAL},
        "firmware": {"kind": "uefi"},
        "cpu": {"sockets": 2, "cores": 40, "threads": 80},
        "memory_bytes": 201_168_896_000_u64,
    })
}

fn check_in(daemon: &Daemon, mac: &str) -> Value {
    let response = daemon.post("/v1/discover", facts(mac).to_string().as_bytes());
    assert_eq!(response.status, 200, "{}", response.text());
    serde_json::from_str(&response.text()).unwrap()
}

#[test]
fn a_machine_introduces_itself_is_approved_and_reboots_into_its_image() {
    let daemon = Daemon::start_with(|config| format!("{config}\n[discovery]\npoll_seconds = 7\n"));
    let wait = json!({"action": "wait", "seconds": 7});
    assert_eq!(check_in(&daemon, MAC), wait);
    assert_eq!(check_in(&daemon, MAC), wait);
    let list = daemon.run_command(&["machine", "list"]);
    assert!(
        list.starts_with(&format!(
            "{MAC}  waits  serial {SERIAL}  Dell Inc. PowerEdge R640  40 cores  187 GiB  "
        )),
        "{list}"
    );
    let listed: Value = serde_json::from_str(&daemon.run_command(&["machine", "list", "--json"])).unwrap();
    assert_eq!((&listed[0]["check_ins"], &listed[0]["node"]), (&json!(2), &Value::Null));
    let shown: Value = serde_json::from_str(&daemon.run_command(&["machine", "show", SERIAL])).unwrap();
    assert_eq!(shown["cpu"]["threads"], 80);

    daemon.run_command(&["machine", "approve", SERIAL, "new-1", "address=127.0.0.77", "image=compute"]);
    let reboot = json!({"action": "reboot"});
    assert!(wait_until(|| check_in(&daemon, MAC) == reboot));
    assert!(daemon.get(&format!("/ipxe?mac={MAC}")).text().contains("/images/compute/v1/"));
    assert_eq!(daemon.run_command(&["machine", "list"]), "no machine waits\n");
    assert!(daemon.run_command(&["machine", "list", "--all"]).contains("new-1"));
    daemon.run_command(&["machine", "forget", MAC]);
    assert_eq!(daemon.run_command(&["machine", "list", "--all"]), "no machine waits\n");
}

#[test]
fn a_node_reboots_unless_its_own_image_is_for_discovery_or_is_not_there() {
    let daemon = Daemon::start();
    assert_eq!(check_in(&daemon, NODE_MAC)["action"], "reboot");
    let daemon = Daemon::start_with(|config| config.replacen("image = 'failsafe'", "image = 'nosuch'", 1));
    assert_eq!(check_in(&daemon, NODE_MAC)["action"], "wait", "it would find nothing to boot");
    let in_discover_mode = "image = 'failsafe'\nmode = 'discover'";
    let daemon = Daemon::start_with(move |config| config.replacen("image = 'failsafe'", in_discover_mode, 1));
    assert_eq!(check_in(&daemon, NODE_MAC)["action"], "wait", "it would only come back");
}

#[test]
fn what_is_no_description_of_a_machine_is_refused() {
    let daemon = Daemon::start();
    for (body, status) in
        [(b"{}".to_vec(), 400), (b"no JSON".to_vec(), 400), (vec![b' '; (128 << 10) + 1], 413)]
    {
        assert_eq!(daemon.post("/v1/discover", &body).status, status);
    }
    assert_eq!(daemon.run_command(&["machine", "list"]), "no machine waits\n");
}
