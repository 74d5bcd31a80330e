//! What a node's console said last, as nodes report it and admins ask for it.

use serde_json::{Value, json};

use crate::support::{COMPUTE, Daemon, FETCHED_MAC};

const STRANGER: &str = "02:00:00:00:00:01";

/// The status of the answer, and what it says.
fn report(daemon: &Daemon, mac: &str, events: &[(&str, Option<&str>)]) -> (u16, String) {
    let events = events.iter().zip(1..).map(|((phase, console), uptime_ms)| match console {
        Some(console) => json!({"phase": phase, "uptime_ms": uptime_ms, "console": console}),
        None => json!({"phase": phase, "uptime_ms": uptime_ms}),
    });
    let events: Vec<Value> = events.collect();
    let report = json!({"mac": mac, "image": COMPUTE, "uptime_ms": 9, "events": events});
    let answer = daemon.post("/v1/events", report.to_string().as_bytes());
    (answer.status, answer.text())
}

#[test]
fn the_newest_tail_of_a_node_is_kept_until_bootserve_ends() {
    let daemon = Daemon::start();
    let none = daemon.get("/v1/nodes/node-002/console");
    assert_eq!(none.status, 404);
    assert!(none.text().contains("no console of node-002 has come since"), "{}", none.text());
    assert_eq!(daemon.json("/ui/console/node-002"), Value::Null);
    assert!(daemon.get("/v1/nodes/nobody/console").text().contains("there is no node"));
    for (events, expected) in [
        (&[("init", Some("first"))][..], "first"),
        (
            &[("init", Some("older")), ("failed", Some("[    9.1] bootnode: FAILED\nremedy"))],
            "[    9.1] bootnode: FAILED\nremedy",
        ),
        // A report without one says nothing of it.
        (&[("ready", None)], "[    9.1] bootnode: FAILED\nremedy"),
    ] {
        assert_eq!(report(&daemon, FETCHED_MAC, events).0, 204);
        for path in ["/v1/nodes/node-002/console".to_owned(), format!("/v1/nodes/{FETCHED_MAC}/console")] {
            let found = daemon.get(&path);
            assert_eq!((found.status, found.text()), (200, format!("{expected}\n")));
            assert_eq!(found.header("content-type"), Some("text/plain; charset=utf-8"));
        }
        assert_eq!(daemon.json("/ui/console/node-002"), expected);
    }
    assert!(daemon.run_command(&["log", "node-002", "--console"]).ends_with("bootnode: FAILED\nremedy\n"));
    let refused = daemon.command(&["log", "node-000", "--console"]).output().unwrap();
    let stderr = String::from_utf8(refused.stderr).unwrap();
    assert!(refused.status.code() == Some(1) && stderr.contains("no console of node-000"), "{stderr}");
    assert_eq!(daemon.restart().get("/v1/nodes/node-002/console").status, 404);
}

#[test]
fn what_is_too_long_or_a_strangers_is_not_kept() {
    let daemon = Daemon::start();
    assert_eq!(report(&daemon, STRANGER, &[("failed", Some("x"))]).0, 400);
    assert_eq!(daemon.get(&format!("/v1/nodes/{STRANGER}/console")).status, 404);
    for (console, expected) in [
        ("x".repeat(4097), "the console has 4097 bytes, at most 4096 are allowed"),
        ("x\n".repeat(101), "the console has 101 lines, at most 100 are allowed"),
        ("\u{1b}[2J".to_owned(), "control character"),
    ] {
        let (status, text) = report(&daemon, FETCHED_MAC, &[("failed", Some(&console))]);
        assert!(status == 400 && text.contains(expected), "{status} {text}");
    }
    assert_eq!(daemon.get("/v1/nodes/node-002/console").status, 404);
    assert_eq!(daemon.json("/v1/nodes/node-002/events"), json!([]));
}
