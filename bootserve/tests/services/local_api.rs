//! The API on a socket in the file system: who may open it needs no token.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use bootserve::api_socket::{ApiSocketError, bind};
use bootserve::config::Config;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{Daemon, NODE_MAC};

/// A server whose API is on a socket, in a directory that all may enter; `more` are further settings of it.
fn start(more: &'static str) -> (Daemon, PathBuf, TempDir) {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let path = dir.path().join("api.sock");
    let setting = format!("api_socket = '{}'\n{more}http_port", path.display());
    let daemon = Daemon::start_with(move |config| config.replace("http_port", &setting));
    (daemon, path, dir)
}

/// Status and body of what curl is answered, as the user with this number; 0 if it may not connect.
fn ask(socket: &Path, uid: u32, path: &str, body: Option<&Value>) -> (u16, String) {
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--max-time", "20", "--write-out", "\n%{http_code}", "--unix-socket"]).arg(socket);
    curl.args(body.iter().flat_map(|body| ["--data".to_owned(), body.to_string()]));
    // It is in the group of the same number, and in no other.
    let output =
        curl.arg(format!("http://bootserve{path}")).uid(uid).gid(uid).current_dir("/").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let (body, status) = text.rsplit_once('\n').unwrap();
    (status.parse().unwrap(), body.to_owned())
}

fn set_image() -> Value {
    json!({"set": {"nodes": "node-000", "settings": {"image": "compute"}}})
}

#[test]
fn who_may_open_the_socket_changes_nodes_under_his_own_name() {
    let (daemon, socket, _dir) = start("api_group = 'nogroup'\n");
    let metadata = fs::metadata(&socket).unwrap();
    assert_eq!((metadata.mode() & 0o777, metadata.gid()), (0o660, 65534));
    let (status, changed) = ask(&socket, 65534, "/v1/changes", Some(&set_image()));
    assert_eq!(status, 201, "{changed}");
    assert!(daemon.get(&format!("/ipxe?mac={NODE_MAC}")).text().contains("/images/compute/v1/"));
    assert_eq!(ask(&socket, 0, "/v1/changes", Some(&json!({"undo": {}}))).0, 201);
    let (status, history) = ask(&socket, 0, "/v1/changes", None);
    let history: Value = serde_json::from_str(&history).unwrap();
    let authors: Vec<_> =
        history.as_array().unwrap().iter().map(|change| change["author"].as_str().unwrap()).collect();
    assert_eq!((status, authors), (200, vec!["root", "nobody"]));
    for path in
        ["/v1/nodes/node-000", "/v1/inventory", "/v1/machines", "/v1/status", "/v1/openapi.json", "/healthz"]
    {
        assert_eq!(ask(&socket, 65534, path, None).0, 200, "{path}");
    }
    for path in ["/ipxe", "/images/failsafe/v1/vmlinuz", "/overlays/node-001.tar", "/v1/secrets/node-001"] {
        assert_eq!(ask(&socket, 0, path, None).0, 404, "it is the nodes': {path}");
    }
    assert_eq!(daemon.get("/v1/changes").status, 401, "over TCP a token is needed");
}

#[test]
fn who_may_not_open_the_socket_gets_no_answer() {
    let (daemon, socket, _dir) = start("");
    assert_eq!(ask(&socket, 0, "/healthz", None).0, 200);
    assert_eq!(ask(&socket, 65534, "/healthz", None).0, 0);
    assert_eq!(ask(&socket, 65534, "/v1/changes", Some(&set_image())).0, 0);
    assert_eq!(daemon.json("/v1/status")["nodes"].as_array().unwrap().len(), 4);
}

#[test]
fn a_socket_that_was_left_is_replaced_and_one_that_is_answered_is_not() {
    let (mut daemon, socket, _dir) = start("");
    assert_eq!(ask(&socket, 0, "/healthz", None).0, 200);
    let config = Config::read(&daemon.config_file()).unwrap();
    assert!(matches!(bind(&config.server), Err(ApiSocketError::InUse { .. })));
    assert_eq!(ask(&socket, 0, "/healthz", None).0, 200, "it is served as before");
    daemon.halt();
    assert!(
        fs::metadata(&socket).unwrap().file_type().is_socket(),
        "as a bootserve that was killed leaves it"
    );
    let daemon = daemon.restart();
    assert_eq!(ask(&socket, 0, "/healthz", None).0, 200);
    drop(daemon);
    let other = socket.with_file_name("file");
    fs::write(&other, "mine").unwrap();
    let mut server = config.server;
    server.api_socket = Some(other.clone());
    assert!(matches!(bind(&server), Err(ApiSocketError::NoSocket { .. })));
    assert_eq!(fs::read(&other).unwrap(), b"mine");
    server.api_socket = Some(socket.with_file_name("new"));
    server.api_group = Some("no-such-group".to_owned());
    assert!(matches!(bind(&server), Err(ApiSocketError::NoGroup(_))));
}
