//! Overlays that are made of templates, and texts for nodes, as nodes get them.

use std::fs;
use std::path::Path;
use std::process::Command;

use bootspec::event::{BootId, Phase};
use serde_json::Value;

use crate::support::{CARRIED_MAC, Daemon, FETCHED_MAC, SIGNATURE, read_newc};
use bootserve::events::BootEvent;

const NODE: &str = "127.0.0.101";

/// node-001 has the overlays base and slurm, node-002 has slurm.
fn daemon() -> Daemon {
    let daemon = Daemon::start_with(|config| {
        let config = config.replace(
            "address = '127.0.0.101'\n",
            "address = '127.0.0.101'\noverlays = ['base', 'slurm']\nmetadata = { rack = 7 }\n",
        );
        config.replace("address = '127.0.0.102'\n", "address = '127.0.0.102'\noverlays = ['slurm']\n")
    });
    write(&daemon, "base/etc/motd", "base\n");
    write(&daemon, "base/etc/hosts.j2", "{% for n in nodes %}\n{{ n.address }} {{ n.name }}\n{% endfor %}\n");
    write(&daemon, "slurm/etc/motd.j2", "{{ node.name }} in rack {{ metadata.rack | default(0) }}\n");
    write(&daemon, "slurm/overlay.toml", "[files.'/etc/motd']\nmode = '0600'\nuid = 9\n");
    daemon
}

fn write(daemon: &Daemon, path: &str, text: &str) {
    let path = daemon.overlays().join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

/// What GNU tar makes of a tar.
pub fn unpacked(tar: &[u8]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("t"), tar).unwrap();
    let status = Command::new("tar").args(["-xf", "t", "--no-same-owner"]).current_dir(dir.path()).status();
    assert!(status.unwrap().success());
    dir
}

pub fn text(dir: &Path, file: &str) -> String {
    fs::read_to_string(dir.join(file)).unwrap()
}

#[test]
fn a_node_is_sent_what_its_overlays_make_as_they_are_now() {
    let daemon = daemon();
    daemon.begin_boot(CARRIED_MAC);
    let get = |file: &str| daemon.get_from(NODE, &format!("/overlays/{file}"));
    let (status, tar) = get("node-001.tar");
    assert_eq!(status, 200);
    let dir = unpacked(&tar);
    assert_eq!(text(dir.path(), "etc/motd"), "node-001 in rack 7\n");
    let hosts = "127.0.0.100 node-000\n127.0.0.101 node-001\n127.0.0.102 node-002\n127.0.0.103 node-003\n";
    assert_eq!(text(dir.path(), "etc/hosts"), hosts);
    assert_eq!(get("node-001.tar"), (200, tar.clone()), "the same files are the same bytes");
    let members = read_newc(&get("node-001.img").1);
    assert!(members.last().unwrap().1 == tar);
    assert_eq!(get("node-001.tar.minisig").0, 404, "nobody has signed it");

    write(&daemon, "base/etc/hosts.j2", "{{ node.address }}\n");
    fs::remove_dir_all(daemon.overlays().join("slurm")).unwrap();
    fs::create_dir(daemon.overlays().join("slurm")).unwrap();
    let dir = unpacked(&get("node-001.tar").1);
    assert_eq!(
        (text(dir.path(), "etc/hosts").as_str(), text(dir.path(), "etc/motd").as_str()),
        ("127.0.0.101\n", "base\n")
    );
    assert_eq!(daemon.get_from("127.0.0.102", "/overlays/node-001.tar").0, 403);
}

#[test]
fn a_tar_of_the_node_is_laid_on_top_and_one_that_is_signed_is_sent_as_it_is() {
    let daemon = daemon();
    daemon.begin_boot(CARRIED_MAC);
    let top = tempfile::tempdir().unwrap();
    fs::create_dir(top.path().join("etc")).unwrap();
    fs::write(top.path().join("etc/motd"), "own\n").unwrap();
    let own = daemon.overlays().join("node-001.tar");
    let tar = Command::new("tar").arg("-cf").arg(&own).arg("-C").arg(top.path()).arg("etc").status();
    assert!(tar.unwrap().success());
    let get = |file: &str| daemon.get_from(NODE, &format!("/overlays/{file}"));
    let dir = unpacked(&get("node-001.tar").1);
    assert_eq!(text(dir.path(), "etc/motd"), "own\n");
    assert!(text(dir.path(), "etc/hosts").contains("node-003"));
    fs::write(daemon.overlays().join("node-001.tar.minisig"), SIGNATURE).unwrap();
    assert!(get("node-001.tar") == (200, fs::read(own).unwrap()));
    assert_eq!(get("node-001.tar.minisig"), (200, SIGNATURE.into()));
}

#[test]
fn what_is_made_of_overlays_is_signed_if_there_is_a_key() {
    let keys = tempfile::tempdir().unwrap();
    let key = keys.path().join("key");
    let pair = minisign::KeyPair::generate_unencrypted_keypair().unwrap();
    fs::write(&key, pair.sk.to_box(None).unwrap().into_string()).unwrap();
    let daemon = Daemon::start_with(move |config| {
        let config = config.replace("http_port", &format!("overlay_key = '{}'\nhttp_port", key.display()));
        config.replace("address = '127.0.0.101'\n", "address = '127.0.0.101'\noverlays = ['base']\n")
    });
    write(&daemon, "base/etc/motd.j2", "{{ node.name }}\n");
    daemon.begin_boot(CARRIED_MAC);
    let get = |file: &str| daemon.get_from(NODE, &format!("/overlays/{file}")).1;
    let check = |tar: Vec<u8>, signature: Vec<u8>| {
        let signature = minisign::SignatureBox::from_string(&String::from_utf8(signature).unwrap()).unwrap();
        minisign::verify(&pair.pk, &signature, std::io::Cursor::new(tar), true, false, false).unwrap();
    };
    check(get("node-001.tar"), get("node-001.tar.minisig"));
    let members = read_newc(&get("node-001.img"));
    check(members[2].1.clone(), members[1].1.clone());
    fs::remove_file(keys.path().join("key")).unwrap();
    assert_eq!(daemon.get_from(NODE, "/overlays/node-001.tar").0, 500);
}

#[test]
fn a_template_that_cannot_be_rendered_makes_the_node_wait_and_say_why() {
    let daemon = daemon();
    write(&daemon, "base/etc/x.j2", "a\n{{ metadata.serial }}\n");
    daemon.begin_boot(CARRIED_MAC);
    let script = daemon.get(&format!("/ipxe?mac={CARRIED_MAC}")).text();
    for part in
        ["etc/x.j2 of the overlay base for node node-001", "line 2", "metadata.serial", "chain --replace"]
    {
        assert!(script.contains(part), "{part} in {script}");
    }
    assert_eq!(daemon.get_from(NODE, "/overlays/node-001.img").0, 500);
    let is_refused = |events: &Value| {
        events.as_array().unwrap().iter().any(|event| {
            event["phase"] == "refused" && event["message"].as_str().unwrap().contains("etc/x.j2")
        })
    };
    daemon.wait_for("/v1/nodes/node-001/events", is_refused);
    let fetched = daemon.get(&format!("/ipxe?mac={FETCHED_MAC}")).text();
    assert!(fetched.contains("bootnode.overlay=") && fetched.contains("/overlays/node-002.tar"), "{fetched}");
}

#[test]
fn texts_are_given_to_the_node_until_it_is_ready() {
    let daemon = daemon();
    write(&daemon, "nocloud/user-data.j2", "#cloud-config\nhostname: {{ node.name }}\n");
    write(&daemon, "templates/worker.ign.j2", "{\"rack\": {{ metadata.rack }}}\n");
    let urls = [
        ("/nocloud/node-001/meta-data", "instance-id: node-001\nlocal-hostname: node-001\n"),
        ("/nocloud/self/user-data", "#cloud-config\nhostname: node-001\n"),
        ("/templates/node-001/worker.ign", "{\"rack\": 7}\n"),
        ("/templates/self/worker.ign", "{\"rack\": 7}\n"),
    ];
    let own = |path: &str| daemon.get_from(NODE, path);
    assert_eq!(own(urls[0].0).0, 403, "it is not booting");
    daemon.begin_boot(CARRIED_MAC);
    let report = |phase| {
        let event = BootEvent::now(CARRIED_MAC.parse().unwrap(), phase);
        daemon.record(vec![BootEvent { boot: Some(BootId::new(1)), ..event }]);
    };
    report(Phase::SwitchRoot);
    assert_eq!(own("/overlays/node-001.tar").0, 403, "users may be on it");
    for (url, expected) in urls {
        let (status, body) = own(url);
        assert_eq!((status, String::from_utf8(body).unwrap().as_str()), (200, expected), "{url}");
    }
    for missing in [
        "/nocloud/self/vendor-data",
        "/nocloud/self/x",
        "/nocloud/node-009/meta-data",
        "/templates/self/x",
        "/templates/self/..%2fbase",
    ] {
        assert_eq!(own(missing).0, 404, "{missing}");
    }
    assert_eq!(daemon.get_from("127.0.0.102", urls[0].0).0, 403);
    assert_eq!(own("/templates/node-002/worker.ign").0, 403, "of another node");
    assert_eq!(daemon.get_from("127.0.0.200", "/nocloud/self/meta-data").0, 404, "of no node");
    report(Phase::Ready);
    assert_eq!(own(urls[0].0).0, 403, "it is up");
}
