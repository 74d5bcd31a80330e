//! The API that shows and changes how nodes are configured.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use super::support::{Daemon, NODE_MAC};

const DOCUMENT: &str = include_str!("../../src/http/openapi.json");

/// A token of the running server.
fn token(daemon: &Daemon, name: &str, role: &str) -> String {
    daemon.run_command(&["token", "new", name, "--role", role]).trim().to_owned()
}

/// The status and the body of an answer.
fn ask(daemon: &Daemon, method: &str, path: &str, token: Option<&str>, body: &Value) -> (u16, String) {
    let authorization = token.map(|token| format!("Bearer {token}"));
    let headers: Vec<_> = authorization.iter().map(|value| ("Authorization", value.as_str())).collect();
    let response = match method {
        "POST" => daemon.post_with(path, &headers, body.to_string().as_bytes()),
        _ => daemon.request(method, path, &headers),
    };
    (response.status, response.text())
}

#[test]
fn a_change_is_in_force_when_it_is_answered() {
    let daemon = Daemon::start();
    let operator = token(&daemon, "ci", "operator");
    let script = || daemon.get(&format!("/ipxe?mac={NODE_MAC}")).text();
    assert!(script().contains("/images/failsafe/v1/"));
    let set = json!({"set": {"nodes": "node-000", "settings": {"image": "compute"}}});
    let post = |path: &str, body: &Value| {
        let (status, text) = ask(&daemon, "POST", path, Some(&operator), body);
        (status, serde_json::from_str::<Value>(&text).unwrap_or(Value::String(text)))
    };
    let (status, trial) = post("/v1/changes?dry_run=true", &set);
    assert_eq!(
        (status, &trial["revision"], &trial["changes"][0]["after"]),
        (200, &Value::Null, &json!("compute"))
    );
    assert!(script().contains("/images/failsafe/v1/"));
    let (status, changed) = post("/v1/changes", &set);
    assert_eq!((status, &changed["revision"], &changed["in_force"]), (201, &json!(1), &json!(true)));
    assert!(script().contains("/images/compute/v1/"));
    assert_eq!(post("/v1/changes", &set).0, 200, "nothing changes");
    assert_eq!(post("/v1/changes", &json!({"undo": {}})).0, 201);
    assert!(script().contains("/images/failsafe/v1/"));

    let (status, history) = ask(&daemon, "GET", "/v1/changes?limit=1", Some(&operator), &Value::Null);
    let history: Value = serde_json::from_str(&history).unwrap();
    assert_eq!(
        (status, &history[0]["author"], &history[0]["operation"]),
        (200, &json!("ci"), &json!("undo"))
    );
}

#[test]
fn each_request_needs_a_token_that_is_good_for_it() {
    let daemon = Daemon::start();
    let [viewer, operator] = ["viewer", "operator"].map(|role| token(&daemon, role, role));
    let set = json!({"set": {"nodes": "node-000", "settings": {"image": "compute"}}});
    let cases = [
        ("GET", "/v1/nodes/node-000", 401, 200, 200),
        ("GET", "/v1/inventory", 401, 200, 200),
        ("GET", "/v1/changes", 401, 200, 200),
        ("POST", "/v1/changes?dry_run=true", 401, 403, 200),
        ("GET", "/v1/nodes", 200, 200, 200),
        ("GET", "/v1/openapi.json", 200, 200, 200),
    ];
    for (method, path, nobody, by_viewer, by_operator) in cases {
        let status = |token| ask(&daemon, method, path, token, &set).0;
        let expected = [nobody, by_viewer, by_operator];
        let found = [status(None), status(Some(&viewer)), status(Some(&operator))];
        assert_eq!(found, expected, "{method} {path}");
        let unknown = if nobody == 401 { 401 } else { nobody };
        assert_eq!(status(Some("bootnode_0")), unknown, "{method} {path}");
    }
    let response = daemon.request("GET", "/v1/changes", &[]);
    assert_eq!(response.header("WWW-Authenticate"), Some("Bearer"));
}

#[test]
fn what_cannot_be_done_has_a_status_and_says_why() {
    let daemon = Daemon::start();
    let operator = token(&daemon, "ci", "operator");
    let set = |nodes: &str, settings: Value| json!({"set": {"nodes": nodes, "settings": settings}});
    let cases = [
        (set("node-777", json!({"image": "x"})), 404, "there is no node node-777"),
        (set("node-[0", json!({"image": "x"})), 400, "has a bracket without its counterpart"),
        (set("node-000", json!({"imagee": "x"})), 400, "unknown field `imagee`"),
        (set("node-000", json!({"image": null})), 400, "this is no change of nodes"),
        (set("node-000", json!({"mac": "fc:ab:14:e8:66:02"})), 409, "have the same mac"),
        (json!({"unset": {"nodes": "node-000"}}), 409, "nothing was set of node node-000"),
        (json!({"remove": {"nodes": "node-000"}}), 409, "cannot be removed here"),
        (json!({"undo": {"revision": 9}}), 404, "there is no change 9"),
        (json!({"set": {}, "undo": {}}), 400, "this is no change of nodes"),
        (json!([]), 400, "this is no change of nodes"),
    ];
    for (body, status, expected) in cases {
        let answer = ask(&daemon, "POST", "/v1/changes", Some(&operator), &body);
        assert!(answer.0 == status && answer.1.contains(expected), "{body}: {answer:?}");
    }
    for (path, status) in
        [("/v1/changes?limit=0", 400), ("/v1/changes?limit=x", 400), ("/v1/nodes/node-777", 404)]
    {
        assert_eq!(ask(&daemon, "GET", path, Some(&operator), &Value::Null).0, status, "{path}");
    }
}

#[test]
fn an_exported_inventory_has_what_was_added() {
    let daemon = Daemon::start();
    let operator = token(&daemon, "ci", "operator");
    let nodes = json!({"address": "127.0.0.[61-62]", "mac": "02:00:00:00:00:[61-62]", "image": "failsafe"});
    let add = json!({"add": {"names": "n[1-2]", "nodes": nodes}});
    assert_eq!(ask(&daemon, "POST", "/v1/changes", Some(&operator), &add).0, 201);
    let (status, text) = ask(&daemon, "GET", "/v1/inventory?nodes=n%5B1-2%5D", Some(&operator), &Value::Null);
    assert_eq!(status, 200, "{text}");
    assert!(text.starts_with("[[nodes]]\nnames = \"n[1-2]\"\n"), "{text}");
}

#[test]
fn what_is_answered_is_what_the_document_says() {
    let daemon = Daemon::start();
    let operator = token(&daemon, "schemathesis", "operator");
    let facts = json!({"mac": NODE_MAC, "firmware": {"kind": "uefi"}});
    assert_eq!(daemon.post("/v1/discover", facts.to_string().as_bytes()).status, 200);
    // target/debug/bootserve -> target/schemathesis, where scripts/setup installs it.
    let target = Path::new(env!("CARGO_BIN_EXE_bootserve")).ancestors().nth(2).unwrap();
    let program = target.join("schemathesis/bin/schemathesis");
    assert!(program.exists(), "{} is not there\nhint: scripts/setup", program.display());
    let dir = tempfile::tempdir().unwrap();
    let mut command = Command::new(program);
    command.arg("run").arg(format!("{}/v1/openapi.json", daemon.url())).current_dir(dir.path());
    command.args(["--header", &format!("Authorization: Bearer {operator}"), "--seed", "7", "--no-color"]);
    command.args(["--phases", "examples,coverage,fuzzing", "--max-examples", "25", "--warnings", "off"]);
    // Not every text is a set of nodes, or the name of a setting, which a JSON schema cannot say.
    command.args(["--exclude-checks", "positive_data_acceptance"]);
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(daemon.get("/healthz").status, 200);
}

#[test]
fn each_path_of_the_document_is_there() {
    let daemon = Daemon::start();
    let operator = token(&daemon, "ci", "operator");
    let document: Value = serde_json::from_str(DOCUMENT).unwrap();
    let facts = json!({"mac": NODE_MAC, "firmware": {"kind": "uefi"}});
    assert_eq!(daemon.post("/v1/discover", facts.to_string().as_bytes()).status, 200);
    let failed = json!({"phase": "failed", "uptime_ms": 1, "console": "last words"});
    let report = json!({"mac": NODE_MAC, "image": "failsafe/1", "uptime_ms": 1, "events": [failed]});
    assert_eq!(daemon.post("/v1/events", report.to_string().as_bytes()).status, 204);
    for (path, methods) in document["paths"].as_object().unwrap() {
        for method in methods.as_object().unwrap().keys() {
            let path = path.replace("{node}", "node-000").replace("{machine}", NODE_MAC);
            let (body, expected) = match method.as_str() {
                "post" if path.ends_with("/approve") => (json!({"node": "node-107"}), 409),
                "post" => (json!({"undo": {}}), 404),
                _ => (Value::Null, 200),
            };
            let (status, _) = ask(&daemon, &method.to_uppercase(), &path, Some(&operator), &body);
            assert_eq!(status, expected, "{method} {path}");
        }
    }
}
