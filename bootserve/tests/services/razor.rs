//! The routes of Razor's clients, with a site as Razor had it. `tests/data/README.md` says where the answers are from.

use std::fs;
use std::path::{Path, PathBuf};

use bootspec::manifest::BootMode;
use serde_json::{Value, json};

use super::support::{CARRIED_MAC, Daemon, NODE_MAC, store};

/// The machine of `facts.json`, by both of its cards.
const R630: &str = "net0=52-54-00-a1-9c-ae&net1=52-54-00-A1-9C-AF&net2=&serial=5QZK082&asset=&uuid=4c4c4544-0051-5a10-804b-b5c04f303832";
const R630_MAC: &str = "52:54:00:a1:9c:ae";
/// The address that the policy gives it.
const R630_ADDRESS: &str = "127.0.0.121";
const STRANGER: &str = "net0=02-00-00-00-00-09";
const JSON: [(&str, &str); 1] = [("Content-Type", "application/json; charset=utf-8")];

fn data(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/razor").join(file)
}

/// A daemon with `site.toml`, where machines that nobody has described boot the discovery image.
fn site() -> Daemon {
    let daemon = Daemon::start_with(|config| {
        let config = config.replace("[boot]\n", "[boot]\ndefault_image = 'discover'\n");
        format!("{config}{}", fs::read_to_string(data("site.toml")).unwrap())
    });
    let files: [(&str, &[u8]); 2] = [("vmlinuz", b"kernel"), ("initramfs.img", b"init and drivers")];
    store::publish(&daemon.store(), "discover/v1", BootMode::Discover, &files);
    fs::create_dir(daemon.overlays().join("templates")).unwrap();
    fs::write(daemon.overlays().join("templates/ks.cfg.j2"), "network --hostname={{ node.name }}\n").unwrap();
    daemon
}

fn check(daemon: &Daemon, path: &str, status: u16, parts: &[&str]) -> String {
    let answer = daemon.get(path);
    let text = answer.text();
    assert_eq!(answer.status, status, "{path}: {text}");
    parts.iter().for_each(|part| assert!(text.contains(part), "{path}: {part} in {text}"));
    text
}

fn id(daemon: &Daemon, query: &str) -> i64 {
    daemon.json(&format!("/svc/nodeid?{query}"))["id"].as_i64().unwrap()
}

fn facts() -> Value {
    serde_json::from_str(&fs::read_to_string(data("facts.json")).unwrap()).unwrap()
}

fn check_in(daemon: &Daemon, id: i64, facts: &Value) -> Value {
    let body = json!({"hw_id": {"mac": ["525400a19cae"]}, "facts": facts}).to_string();
    let answer = daemon.post_with(&format!("/svc/checkin/{id}"), &JSON, body.as_bytes());
    assert_eq!(answer.status, 200, "{}", answer.text());
    serde_json::from_slice(&answer.body).unwrap()
}

#[test]
fn the_script_that_ipxe_starts_with_is_answered_byte_for_byte() {
    let daemon = site();
    let script = check(&daemon, "/api/microkernel/bootstrap?nic_max=2&http_port=8150", 200, &[]);
    assert_eq!(script, fs::read_to_string(data("bootstrap.ipxe")).unwrap());
    let own = format!(":{}/svc/boot?net0=", daemon.url().rsplit(':').next().unwrap());
    check(&daemon, "/api/microkernel/bootstrap", 200, &["net3=${net3/mac:hexhyp}&serial", &own]);
    for port in ["0", "65536", "-1", "x", ""] {
        check(&daemon, &format!("/api/microkernel/bootstrap?http_port={port}"), 400, &["from 1 to 65535"]);
    }
    check(&daemon, "/api/microkernel/bootstrap?nic_max=1000000", 400, &["from 1 to 32"]);
}

#[test]
fn an_unknown_machine_is_discovered_bound_installed_and_boots_its_disk() {
    let daemon = site();
    // As our own route answers, but for the number of the boot.
    let script = |path: &str| {
        let script = check(&daemon, path, 200, &["#!ipxe\n"]);
        let boot = script.split("?boot=").nth(1).unwrap()[..16].to_owned();
        script.replace(&boot, "BOOT")
    };
    let first = script(&format!("/svc/boot?{R630}"));
    assert!(first.contains("/images/discover/v1/vmlinuz"), "{first}");
    assert_eq!(first, script("/ipxe?mac=52-54-00-a1-9c-ae"));
    let number = id(&daemon, "net0=52-54-00-a1-9c-af");
    assert_eq!(number, id(&daemon, R630));
    assert_ne!(number, id(&daemon, STRANGER));

    check(&daemon, &format!("/svc/file/{number}/ks.cfg"), 409, &["no node yet"]);
    let mut few = facts();
    few["processorcount"] = "8".into();
    assert_eq!(check_in(&daemon, number, &few), json!({"action": "none"}));
    let shown = |args: &[&str]| -> Value { serde_json::from_str(&daemon.run_command(args)).unwrap() };
    let machines = shown(&["machine", "list", "--json"]);
    let row = &machines[0];
    assert_eq!((&row["mac"], &row["serial"]), (&json!(R630_MAC), &json!("5QZK082")), "{row}");
    assert_eq!((&row["product"], &row["tags"]), (&json!("Dell Inc. PowerEdge R630"), &json!(["rack7"])));
    // An error, and the machine goes on.
    let error = row["errors"][0].to_string();
    assert!(error.contains("asked-for") && error.contains("no fact"), "{error}");
    assert_eq!(shown(&["machine", "show", R630_MAC])["facter"], few, "as it was sent");

    assert_eq!(check_in(&daemon, number, &facts()), json!({"action": "reboot"}));
    let script = check(&daemon, &format!("/svc/boot?{R630}"), 200, &["/images/compute/v1/vmlinuz"]);
    assert!(script.contains("bootnode.node=compute-1 "), "{script}");
    // max_count is reached.
    let other = id(&daemon, "net0=52-54-00-a1-9c-b0");
    let mut facts = facts();
    facts["macaddress"] = "52:54:00:A1:9C:B0".into();
    assert_eq!(check_in(&daemon, other, &facts), json!({"action": "none"}));

    let file = format!("/svc/file/{number}/ks.cfg");
    check(&daemon, &file, 403, &[]);
    daemon.begin_boot(R630_MAC);
    assert_eq!(daemon.get_from(R630_ADDRESS, &file), (200, b"network --hostname=compute-1\n".into()));
    assert_eq!(daemon.get_from(R630_ADDRESS, &format!("/svc/file/{number}/nosuch")).0, 404);

    for path in ["log/ID?msg=it%20burns&severity=error", "stage-done/ID", "stage-done/ID?name=finished"] {
        let path = format!("/svc/{}", path.replace("ID", &number.to_string()));
        assert_eq!((daemon.get(&path).status, daemon.get(&path).body.len()), (204, 0), "{path}");
    }
    let events = daemon.json(&format!("/v1/nodes/{R630_MAC}/events")).to_string();
    assert!(events.contains("it burns"), "{events}");
    // A node boots its image, whatever is on its disk.
    check(&daemon, &format!("/svc/boot?{R630}"), 200, &["/images/compute/v1/vmlinuz"]);
    // One that is none boots its disk.
    check(&daemon, "/svc/boot?net0=52-54-00-a1-9c-b0", 200, &["/images/discover/"]);
    assert_eq!(daemon.get(&format!("/svc/stage-done/{other}?name=finished")).status, 204);
    check(&daemon, "/svc/boot?net0=52-54-00-a1-9c-b0", 200, &["boots from its disk", "sanboot"]);
    // Installed, it says; but it was never registered.
    let stranger = id(&daemon, STRANGER);
    assert_eq!(daemon.get(&format!("/svc/stage-done/{stranger}?name=finished")).status, 204);
    check(&daemon, &format!("/svc/boot?{STRANGER}"), 200, &["/images/discover/"]);

    let daemon = daemon.restart();
    assert_eq!((id(&daemon, R630), id(&daemon, STRANGER)), (number, stranger));
    check(&daemon, "/svc/boot?net0=52-54-00-a1-9c-b0", 200, &["boots from its disk"]);
}

#[test]
fn a_machine_of_our_own_discovery_has_the_same_tags() {
    let daemon = site();
    let facts = json!({
        "mac": R630_MAC, "firmware": {"kind": "uefi"}, "system": {"product": "PowerEdge R630"},
        "cpu": {"sockets": 2, "cores": 16, "threads": 32},
    });
    let answer = daemon.post("/v1/discover", facts.to_string().as_bytes());
    assert!(answer.text().contains("reboot"), "{}", answer.text());
    check(&daemon, &format!("/svc/boot?{R630}"), 200, &["bootnode.node=compute-1 "]);
}

#[test]
fn who_could_be_several_is_refused_and_each_of_them_is_told() {
    let daemon = site();
    let hyphenated = [NODE_MAC, CARRIED_MAC].map(|mac| mac.replace(':', "-"));
    for mac in &hyphenated {
        let image = if mac.ends_with("01") { "failsafe/v1" } else { "compute/v1" };
        check(&daemon, &format!("/svc/boot?net0={mac}"), 200, &[image]);
    }
    let both = format!("/svc/boot?net0={}&net1={}", hyphenated[0], hyphenated[1]);
    check(&daemon, &both, 400, &["could be each of these", NODE_MAC, CARRIED_MAC]);
    for mac in [NODE_MAC, CARRIED_MAC] {
        let events = daemon.json(&format!("/v1/nodes/{mac}/events")).to_string();
        assert!(events.contains("could be each of these"), "{events}");
    }
}

#[test]
fn what_says_too_little_or_nonsense_is_refused() {
    let daemon = site();
    for query in ["", "net0=", "net0=nonsense&serial=", "mac=52-54-00-a1-9c-ae", "serial=unknown"] {
        check(&daemon, &format!("/svc/boot?{query}"), 400, &["expected net0="]);
        check(&daemon, &format!("/svc/nodeid?{query}"), 400, &[]);
    }
    let number = id(&daemon, STRANGER);
    let path = format!("/svc/checkin/{number}");
    let facts = br#"{"hw_id": "x", "facts": {"macaddress": "02:00:00:00:00:09"}}"#;
    assert_eq!(daemon.post_with(&path, &[("Content-Type", "text/plain")], facts).status, 400);
    assert_eq!(daemon.post(&path, facts).status, 400);
    for body in ["", "[", "{}", r#"{"facts": []}"#, r#"{"facts": null}"#] {
        assert_eq!(daemon.post_with(&path, &JSON, body.as_bytes()).status, 400, "{body}");
    }
    let big = json!({"facts": {"x": "y".repeat(128 << 10)}}).to_string();
    assert_eq!(daemon.post_with(&path, &JSON, big.as_bytes()).status, 413);
    for unknown in ["999", "0", "-1", "x", "99999999999999999999"] {
        assert_eq!(daemon.post_with(&format!("/svc/checkin/{unknown}"), &JSON, facts).status, 404);
        for route in ["stage-done", "log"] {
            check(&daemon, &format!("/svc/{route}/{unknown}"), 404, &[]);
        }
        check(&daemon, &format!("/svc/file/{unknown}/ks.cfg"), 404, &[]);
    }
}

#[test]
fn nobody_is_answered_where_razor_is_not_asked_for() {
    let daemon = Daemon::start();
    for path in ["/svc/boot?net0=02-00-00-00-00-09", "/svc/log/1", "/api/microkernel/bootstrap"] {
        check(&daemon, path, 404, &["compat"]);
    }
}
