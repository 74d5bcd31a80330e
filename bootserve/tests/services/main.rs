//! The daemon on loopback: HTTP and TFTP as clients see them, and restarts.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod compat;
mod configured;
mod console;
mod discovery;
mod event_stream;
mod http;
mod local_api;
mod nodes;
mod overlays;
mod page;
mod policies;
mod razor;
mod reload;
mod secrets;
mod status;
#[path = "../support/mod.rs"]
mod support;

use std::time::Duration;

use bootserve::http::recent::REPEAT;
use bootserve::tftp::wire::{ErrorCode, Packet};
use bootspec::manifest::BootMode;
use rustix::fs::{FlockOperation, flock};
use serde_json::{Value, json};
use support::process::ServerProcess;
use support::store::{ROOT_BYTES, ROOT_FILE};
use support::{CARRIED_MAC, COMPUTE, Daemon, FETCHED_MAC, IMAGE, MIRROR, MISFIT_MAC, NODE_MAC, SIGNATURE};

#[test]
fn a_node_gets_the_script_of_its_image() {
    let daemon = Daemon::start();
    let script = daemon.get(&format!("/ipxe?mac={NODE_MAC}")).text();
    let url = format!("{}/images/{IMAGE}/vmlinuz?boot=", daemon.url());
    assert!(script.starts_with("#!ipxe\n"), "{script}");
    for part in [
        format!("kernel {url}"),
        "initrd=initramfs.img quiet console=ttyS0 bootnode.node=node-000".to_owned(),
        format!("bootnode.report={}", daemon.url()),
    ] {
        assert!(script.contains(&part), "{part} in {script}");
    }
}

/// The script of a machine, with what changes from boot to boot and from run to run replaced.
fn golden_script(daemon: &Daemon, mac: &str) -> String {
    let script = daemon.get(&format!("/ipxe?mac={mac}")).text();
    let boot = script.split("?boot=").nth(1).unwrap()[..16].to_owned();
    script.replace(&daemon.url(), "http://SERVER").replace(&boot, "BOOT")
}

#[test]
fn the_mode_decides_what_a_node_loads_and_what_init_is_told() {
    let daemon = Daemon::start();
    let expected = |node: &str, mac: &str, image: &str, initramfs: &str, arguments: &str, pause: u8| {
        let hyphenated = mac.replace(':', "-");
        format!(
            "#!ipxe\n\
             echo bootnode: {node} boots {image}, boot BOOT, attempt 0\n\
             kernel http://SERVER/images/{image}/vmlinuz?boot=BOOT initrd={initramfs} quiet console=ttyS0 \
             {arguments} || goto retry\n\
             initrd --name {initramfs} http://SERVER/images/{image}/{initramfs}?boot=BOOT || goto retry\n\
             boot || goto retry\n\
             :retry\n\
             imgfree\n\
             isset ${{pause}} || set pause:int32 {pause}\n\
             echo bootnode: asking again in ${{pause}} seconds\n\
             sleep ${{pause}}\n\
             inc pause 2\n\
             chain --replace http://SERVER/ipxe?mac={hyphenated} || goto retry\n"
        )
    };
    let who = |node, mac| {
        format!("bootnode.node={node} bootnode.mac={mac} bootnode.boot=BOOT bootnode.report=http://SERVER")
    };
    let failsafe = format!("{} bootnode.min_rollback_index=3", who("node-000", NODE_MAC));
    assert_eq!(
        golden_script(&daemon, NODE_MAC),
        expected("node-000", NODE_MAC, IMAGE, "initramfs.img", &failsafe, 3)
    );
    let carried = format!("{} bootnode.min_rollback_index=3", who("node-001", CARRIED_MAC));
    assert_eq!(
        golden_script(&daemon, CARRIED_MAC),
        expected("node-001", CARRIED_MAC, COMPUTE, "initramfs.img", &carried, 4)
    );
    let fetched = format!(
        "bootnode.mode=fetched {} bootnode.image={COMPUTE} bootnode.source=http://SERVER/images/{COMPUTE},{MIRROR}/images/{COMPUTE} \
         bootnode.address=127.0.0.102/24 bootnode.gateway=127.0.0.254 bootnode.min_rollback_index=3",
        who("node-002", FETCHED_MAC)
    );
    assert_eq!(
        golden_script(&daemon, FETCHED_MAC),
        expected("node-002", FETCHED_MAC, COMPUTE, "initramfs-fetched.img", &fetched, 5)
    );
}

#[test]
fn an_overlay_is_loaded_by_ipxe_in_carried_mode_and_by_init_in_fetched_mode() {
    let daemon = Daemon::start();
    let of = |mac| golden_script(&daemon, mac);
    let without = [CARRIED_MAC, FETCHED_MAC, NODE_MAC].map(of);
    for node in ["node-000", "node-001", "node-002"] {
        std::fs::write(daemon.overlays().join(format!("{node}.tar")), "tar").unwrap();
    }
    std::thread::sleep(REPEAT);
    let with =
        [CARRIED_MAC, FETCHED_MAC, NODE_MAC].map(of).map(|script| script.replace("attempt 1", "attempt 0"));
    let carried = without[0]
        .replace("initrd=initramfs.img", "initrd=initramfs.img initrd=overlay.img")
        .replace("bootnode.min_rollback_index=3", "bootnode.min_rollback_index=3 bootnode.attempt=1")
        .replace(
            "\nboot ||",
            "\ninitrd --name overlay.img http://SERVER/overlays/node-001.img || goto retry\nboot ||",
        );
    let fetched = without[1].replace(
        "bootnode.min_rollback_index=3",
        "bootnode.overlay=http://SERVER/overlays/node-002.tar bootnode.min_rollback_index=3 bootnode.attempt=1",
    );
    let failsafe = without[2].clone();
    assert_eq!(with, [carried, fetched, failsafe]);
}

#[test]
fn an_overlay_that_cannot_be_sent_makes_the_node_wait_and_say_why() {
    let daemon = Daemon::start();
    std::fs::create_dir(daemon.overlays().join("node-001.tar")).unwrap();
    let script = daemon.get(&format!("/ipxe?mac={CARRIED_MAC}")).text();
    assert!(
        script.contains("node-001.tar is not a regular file") && script.contains("chain --replace"),
        "{script}"
    );
}

#[test]
fn an_overlay_is_given_to_its_node_alone() {
    let daemon = Daemon::start();
    let tar = vec![7; 1_000_001];
    std::fs::write(daemon.overlays().join("node-001.tar"), &tar).unwrap();
    std::fs::write(daemon.overlays().join("node-001.tar.minisig"), SIGNATURE).unwrap();
    let files =
        ["node-001.tar", "node-001.tar.minisig", "node-001.img"].map(|file| format!("/overlays/{file}"));
    // The server itself, another node, an address of the range.
    for source in ["127.0.0.1", "127.0.0.102", "127.0.0.200"] {
        for file in &files {
            assert_eq!(daemon.get_from(source, file).0, 403, "{file} from {source}");
        }
    }
    let own = |file: &str| daemon.get_from("127.0.0.101", file);
    assert_eq!(own(&files[0]).0, 403, "the node is not booting");
    daemon.begin_boot(CARRIED_MAC);
    assert_eq!(daemon.get_from("127.0.0.102", &files[0]).0, 403);
    assert_eq!(own(&files[0]), (200, tar.clone()));
    assert_eq!(own(&files[1]), (200, SIGNATURE.into()));
    let (status, segment) = own(&files[2]);
    assert_eq!(status, 200);
    let members = support::read_newc(&segment);
    let names: Vec<_> = members.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["bootnode", "bootnode/overlay.tar.minisig", "bootnode/overlay.tar"]);
    assert_eq!(members[1].1, SIGNATURE.as_bytes());
    assert!(members[2].1 == tar);
    for missing in
        ["node-001", "node-009.tar", "..%2foverlays%2fnode-001.tar", "node-001.tar.minisig.minisig"]
    {
        assert_eq!(own(&format!("/overlays/{missing}")).0, 404, "{missing}");
    }
    std::fs::remove_file(daemon.overlays().join("node-001.tar")).unwrap();
    for file in &files {
        assert_eq!(own(file).0, 404, "{file}");
    }
}

#[test]
fn a_command_line_that_the_kernel_would_cut_off_is_not_sent() {
    let daemon = Daemon::start_with(|config| {
        config
            .replace("kernel_args = ['console=ttyS0']", &format!("kernel_args = ['a={}']", "x".repeat(1800)))
    });
    let script = daemon.get(&format!("/ipxe?mac={FETCHED_MAC}")).text();
    assert!(script.contains("its kernel command line has 2") && script.contains("read 2047"), "{script}");
    let script = daemon.get(&format!("/ipxe?mac={NODE_MAC}")).text();
    assert!(script.contains("\nkernel "), "{script}");
}

#[test]
fn an_image_that_was_not_built_for_the_mode_makes_the_node_wait_and_say_why() {
    let daemon = Daemon::start();
    let script = daemon.get(&format!("/ipxe?mac={MISFIT_MAC}")).text();
    for part in
        ["failsafe/v1 has no initramfs-fetched.img, which mode fetched boots", "hint: ", "chain --replace"]
    {
        assert!(script.contains(part), "{part} in {script}");
    }
    assert!(!script.contains("kernel "), "{script}");
}

#[test]
fn what_init_fetches_is_served() {
    let daemon = Daemon::start();
    let get = |file: &str| daemon.get(&format!("/images/{COMPUTE}/{file}"));
    assert_eq!(get("initramfs-fetched.img").body, b"init and drivers");
    assert_eq!(get(ROOT_FILE).body, ROOT_BYTES);
    assert_eq!(
        get("manifest.json").body,
        std::fs::read(daemon.store().join(COMPUTE).join("manifest.json")).unwrap()
    );
    assert_eq!(get("manifest.json.minisig").text(), SIGNATURE);
    assert_eq!(daemon.get(&format!("/images/{IMAGE}/manifest.json.minisig")).status, 404);
}

#[test]
fn scripts_sent_are_counted_as_attempts_except_of_failsafe() {
    let daemon = Daemon::start();
    let fetch = |mac| daemon.get(&format!("/ipxe?mac={mac}")).text();
    let first = fetch(CARRIED_MAC);
    assert!(!first.contains("bootnode.attempt"), "{first}");
    let head = daemon.request("HEAD", &format!("/ipxe?mac={CARRIED_MAC}"), &[]);
    assert_eq!((head.status, head.body.len()), (200, 0));
    assert_eq!(daemon.json("/v1/nodes/node-001/events").as_array().unwrap().len(), 1);
    let repeated = fetch(CARRIED_MAC);
    assert_eq!(repeated, first, "nothing boots twice in a second");
    assert_eq!(daemon.json("/v1/nodes/node-001/events").as_array().unwrap().len(), 1);
    std::thread::sleep(REPEAT);
    let second = fetch(CARRIED_MAC);
    assert!(second.contains("bootnode.attempt=1 "), "{second}");
    for _ in 0..2 {
        let failsafe = fetch(NODE_MAC);
        assert!(!failsafe.contains("bootnode.attempt"), "{failsafe}");
    }
}

#[test]
fn a_stranger_in_discover_mode_asks_dhcp_and_a_node_is_told_its_own_address() {
    let daemon = Daemon::start_with(|config| {
        config.replace("[boot]", "[boot]\ndefault_image = 'discover'").replace("'fetched'", "'discover'")
    });
    let files: [(&str, &[u8]); 2] = [("vmlinuz", b"kernel"), ("initramfs.img", b"init and drivers")];
    support::store::publish(&daemon.store(), "discover/v1", BootMode::Discover, &files);
    for _ in 0..2 {
        let stranger = daemon.get("/ipxe?mac=02-00-00-00-00-01").text();
        assert!(stranger.contains("/images/discover/v1/initramfs.img"), "{stranger}");
        assert!(stranger.contains("bootnode.report=http://127.0.0.1"), "{stranger}");
        for absent in ["bootnode.address", "bootnode.gateway", "bootnode.attempt"] {
            assert!(!stranger.contains(absent), "{absent} in {stranger}");
        }
    }
    let node = daemon.get(&format!("/ipxe?mac={FETCHED_MAC}")).text();
    for part in [
        "/initramfs-fetched.img",
        "bootnode.mode=discover",
        "bootnode.address=127.0.0.102/24",
        "bootnode.gateway=127.0.0.254",
    ] {
        assert!(node.contains(part), "{part} in {node}");
    }
    let misfit = daemon.get(&format!("/ipxe?mac={MISFIT_MAC}")).text();
    assert!(misfit.contains("hint: it has no drivers for network cards"), "{misfit}");
}

#[test]
fn scripts_need_a_mac_and_strangers_go_on_to_their_next_device() {
    let daemon = Daemon::start();
    assert_eq!(daemon.get("/ipxe").status, 400);
    let bad = daemon.get("/ipxe?mac=xyz");
    assert_eq!(bad.status, 400);
    assert!(bad.text().contains("not a MAC address"));
    let stranger = daemon.get("/ipxe?mac=02-00-00-00-00-01").text();
    assert!(stranger.contains("nothing to boot") && stranger.ends_with("exit\n"), "{stranger}");
    for path in ["/boot.ipxe", "/boot.ipxe.0"] {
        assert!(daemon.get(path).text().contains("chain ipxe?mac=${netX/mac:hexhyp}"));
    }
}

#[test]
fn an_image_that_is_missing_makes_the_node_wait_and_say_why() {
    let daemon = Daemon::start();
    std::fs::remove_file(daemon.store().join("failsafe/current")).unwrap();
    let script = daemon.get(&format!("/ipxe?mac={NODE_MAC}")).text();
    assert!(script.contains("has no current version") && script.contains("chain --replace"), "{script}");
}

#[test]
fn artifacts_have_length_etag_and_ranges() {
    let daemon = Daemon::start();
    let path = format!("/images/{IMAGE}/initramfs.img");
    let whole = daemon.get(&path);
    assert_eq!((whole.status, whole.header("content-length")), (200, Some("100000")));
    assert_eq!(whole.body.len(), 100_000);
    let etag = whole.header("etag").unwrap().to_owned();

    let head = daemon.request("HEAD", &path, &[]);
    assert_eq!((head.status, head.header("content-length"), head.body.len()), (200, Some("100000"), 0));
    let head = daemon.request("HEAD", &path, &[("range", "bytes=0-9")]);
    assert_eq!((head.status, head.header("content-length")), (200, Some("100000")));
    let part = daemon.request("GET", &path, &[("range", "bytes=99990-")]);
    assert_eq!((part.status, part.header("content-range")), (206, Some("bytes 99990-99999/100000")));
    assert_eq!(part.body, whole.body[99_990..]);
    let resumed = daemon.request("GET", &path, &[("range", "bytes=5-9"), ("if-range", &etag)]);
    assert_eq!((resumed.status, &resumed.body[..]), (206, &whole.body[5..10]));
    let changed = daemon.request("GET", &path, &[("range", "bytes=5-9"), ("if-range", "\"other\"")]);
    assert_eq!((changed.status, changed.body.len()), (200, 100_000));
    let behind = daemon.request("GET", &path, &[("range", "bytes=100000-")]);
    assert_eq!((behind.status, behind.header("content-range")), (416, Some("bytes */100000")));
    let unchanged = daemon.request("GET", &path, &[("if-none-match", &etag)]);
    assert_eq!((unchanged.status, unchanged.body.len()), (304, 0));
}

#[test]
fn a_download_is_resumed_at_another_process_after_the_first_was_killed() {
    // More than what sockets buffer, so that the process dies in the middle.
    let root: Vec<u8> = (0..8_000_000_u32).flat_map(u32::to_le_bytes).collect();
    let dir = tempfile::tempdir().unwrap();
    support::store::publish(
        &dir.path().join("store"),
        "large/v1",
        BootMode::Failsafe,
        &[("vmlinuz", b"kernel"), (ROOT_FILE, &root)],
    );
    let path = format!("/images/large/v1/{ROOT_FILE}");
    let server = ServerProcess::start(dir.path());
    let (etag, begun) = server.download_until_killed(&path, 1_000_000);
    assert!(begun.len() >= 1_000_000 && begun.len() < root.len(), "{} bytes", begun.len());

    let server = ServerProcess::start(dir.path());
    let range = format!("bytes={}-", begun.len());
    let rest = support::request(&server.url, "GET", &path, &[("range", &range), ("if-range", &etag)]);
    assert_eq!(rest.status, 206);
    let content_range = format!("bytes {}-{}/{}", begun.len(), root.len() - 1, root.len());
    assert_eq!(rest.header("content-range"), Some(content_range.as_str()));
    assert!([begun, rest.body].concat() == root);
}

/// The process that the test above starts and kills.
#[test]
#[ignore = "part of another test"]
fn server_process() {
    support::process::serve_for_parent();
}

#[test]
fn a_version_that_says_to_be_another_is_not_booted_and_links_are_not_followed() {
    let daemon = Daemon::start();
    let dir = daemon.store().join(COMPUTE);
    std::fs::write(daemon.store().join("secret"), "kernel").unwrap();
    std::fs::remove_file(dir.join("vmlinuz")).unwrap();
    std::os::unix::fs::symlink("../../secret", dir.join("vmlinuz")).unwrap();
    assert_eq!(daemon.get(&format!("/images/{COMPUTE}/vmlinuz")).status, 500);
    std::fs::remove_file(dir.join("manifest.json.minisig")).unwrap();
    std::os::unix::fs::symlink("../../secret", dir.join("manifest.json.minisig")).unwrap();
    assert_eq!(daemon.get(&format!("/images/{COMPUTE}/manifest.json.minisig")).status, 500);

    std::fs::copy(daemon.store().join(IMAGE).join("manifest.json"), dir.join("manifest.json")).unwrap();
    let script = daemon.get(&format!("/ipxe?mac={CARRIED_MAC}")).text();
    assert!(script.contains("is of image failsafe/v1") && !script.contains("\nkernel "), "{script}");
}

#[test]
fn only_what_the_manifest_names_is_served() {
    let daemon = Daemon::start();
    let dir = daemon.store().join(IMAGE);
    std::fs::write(dir.join("secret"), "secret").unwrap();
    assert_eq!(daemon.get(&format!("/images/{IMAGE}/manifest.json")).status, 200);
    for path in [
        format!("/images/{IMAGE}/secret"),
        format!("/images/{IMAGE}/..%2f..%2f..%2fetc%2fpasswd"),
        format!("/images/{IMAGE}/.%2fvmlinuz"),
        format!("/images/{IMAGE}/vmlinuz%00.minisig"),
        format!("/images/{IMAGE}/vmlinuz.minisig"),
        format!("/images/{IMAGE}/%2e%2e/{IMAGE}/vmlinuz"),
        "/images/failsafe%2fv1/../v1/vmlinuz".to_owned(),
        format!("/images/{IMAGE}/"),
        "/images/.%2ffailsafe/v1/vmlinuz".to_owned(),
        "/images//etc/passwd".to_owned(),
        "/images/failsafe/..%2f../secret".to_owned(),
        "/images/failsafe/current/vmlinuz".to_owned(),
        "/images/none/1/vmlinuz".to_owned(),
        "/nbp/..%2fipxe.efi".to_owned(),
    ] {
        assert_eq!(daemon.get(&path).status, 404, "{path}");
    }
}

#[test]
fn a_file_of_the_wrong_size_is_refused() {
    let daemon = Daemon::start();
    std::fs::write(daemon.store().join(IMAGE).join("vmlinuz"), "short").unwrap();
    assert_eq!(daemon.get(&format!("/images/{IMAGE}/vmlinuz")).status, 500);
}

/// Phases of node-000, once there are `count` of them.
fn phases(daemon: &Daemon, count: usize) -> Vec<String> {
    let events = daemon.wait_for("/v1/nodes/node-000/events", |events| {
        events.as_array().is_some_and(|events| events.len() >= count)
    });
    events.as_array().unwrap().iter().map(|event| event["phase"].as_str().unwrap().to_owned()).collect()
}

/// The ACK of a node that is known by its UUID makes its MAC address known to all that goes by it.
#[test]
fn a_node_that_is_known_by_its_uuid_gets_its_script_and_has_its_events_over_a_restart() {
    const MAC: &str = "02:00:00:00:00:09";
    let daemon = Daemon::start_with(|config| {
        let key = format!("mac = '{CARRIED_MAC}'");
        config.replace(&key, "uuid = '00112233-4455-6677-8899-aabbccddeeff'")
    });
    let node = |daemon: &Daemon| {
        let nodes = daemon.json("/v1/nodes");
        nodes.as_array().unwrap().iter().find(|node| node["name"] == "node-001").unwrap().clone()
    };
    assert_eq!(node(&daemon)["mac"], Value::Null);
    assert_eq!(daemon.json("/v1/nodes/node-001/events"), json!([]));
    assert!(!daemon.get(&format!("/ipxe?mac={MAC}")).text().contains("bootnode.node"));

    let mut request = vec![0; 240];
    request[..4].copy_from_slice(&[1, 1, 6, 0]);
    request[28..34].copy_from_slice(&[2, 0, 0, 0, 0, 9]);
    request[236..].copy_from_slice(&[99, 130, 83, 99]);
    request.extend(b"\x35\x01\x03\x32\x04\x7f\x00\x00\x65");
    request.extend(b"\x61\x11\x00\x00\x11\x22\x33\x44\x55\x66\x77\x88\x99\xaa\xbb\xcc\xdd\xee\xff\xff");
    daemon.send_dhcp(&request);
    let is_stored = || daemon.get("/metrics").text().contains("bootserve_leases 1\n");
    assert!(support::wait_until(is_stored), "no lease");
    let script = daemon.get(&format!("/ipxe?mac={MAC}")).text();
    assert!(script.contains("bootnode.node=node-001"), "{script}");

    let daemon = daemon.restart();
    assert_eq!(node(&daemon)["mac"], MAC);
    assert_eq!(daemon.json("/v1/nodes/node-001/events")[0]["phase"], "script");
    let script = daemon.get(&format!("/ipxe?mac={MAC}")).text();
    assert!(script.contains("bootnode.node=node-001"), "{script}");
}

#[test]
fn a_boot_is_followed_from_script_to_ready_over_a_restart() {
    let daemon = Daemon::start();
    let script = daemon.get(&format!("/ipxe?mac={NODE_MAC}")).text();
    let boot = script.split("?boot=").nth(1).unwrap()[..16].to_owned();
    for (artifact, known_then) in [("vmlinuz", 2), ("initramfs.img", 3)] {
        daemon.get(&format!("/images/{IMAGE}/{artifact}?boot={boot}"));
        daemon.get(&format!("/images/{IMAGE}/{artifact}?boot=0123456789abcdef"));
        // A download is noted after its end, and two that end in the same millisecond in any order.
        phases(&daemon, known_then);
    }
    assert_eq!(phases(&daemon, 3), ["script", "kernel", "initramfs"]);

    let daemon = daemon.restart();
    let report = json!({
        "mac": NODE_MAC, "boot": boot, "image": IMAGE, "uptime_ms": 100,
        "events": [{"phase": "init", "uptime_ms": 100}, {"phase": "ready", "uptime_ms": 100, "message": "up"}],
    });
    for _ in 0..2 {
        assert_eq!(daemon.post("/v1/events", report.to_string().as_bytes()).status, 204);
    }
    assert_eq!(phases(&daemon, 5), ["script", "kernel", "initramfs", "init", "ready"]);
    let events = daemon.json(&format!("/v1/nodes/{NODE_MAC}/events"));
    assert_eq!((&events[4]["boot"], &events[4]["image"]), (&json!(boot), &json!(IMAGE)));
    let begins = events.as_array().unwrap().iter().map(|event| event["begins_boot"].as_bool());
    assert_eq!(begins.collect::<Vec<_>>(), [true, false, false, false, false].map(Some));
    assert_eq!(daemon.json("/v1/nodes")[0]["phase"], "ready");
    assert_eq!(daemon.get("/v1/nodes/nobody/events").status, 404);
}

/// Whether somebody who cleans up the store must leave the version alone.
fn is_held(daemon: &Daemon, image: &str) -> bool {
    let dir = std::fs::File::open(daemon.store().join(image)).unwrap();
    flock(&dir, FlockOperation::NonBlockingLockExclusive).is_err()
}

#[test]
fn a_version_is_held_while_a_node_boots_it_over_a_restart() {
    let daemon = Daemon::start();
    assert_eq!(daemon.request("HEAD", &format!("/ipxe?mac={NODE_MAC}"), &[]).status, 200);
    assert!(!is_held(&daemon, IMAGE));
    let script = daemon.get(&format!("/ipxe?mac={NODE_MAC}")).text();
    assert!(is_held(&daemon, IMAGE) && !is_held(&daemon, COMPUTE));
    let daemon = daemon.restart();
    // Answered when it serves.
    daemon.get("/healthz");
    assert!(is_held(&daemon, IMAGE), "a boot goes on while the server restarts");
    let boot = script.split("?boot=").nth(1).unwrap()[..16].to_owned();
    let report = json!({
        "mac": NODE_MAC, "boot": boot, "image": IMAGE, "uptime_ms": 100,
        "events": [{"phase": "ready", "uptime_ms": 100}],
    });
    assert_eq!(daemon.post("/v1/events", report.to_string().as_bytes()).status, 204);
    assert!(!is_held(&daemon, IMAGE));
}

#[test]
fn who_never_had_an_address_holds_nothing() {
    let daemon =
        Daemon::start_with(|config| config.replace("[boot]\n", "[boot]\ndefault_image = 'failsafe'\n"));
    let script = daemon.get("/ipxe?mac=02:00:00:00:00:77").text();
    assert!(script.contains("vmlinuz") && !is_held(&daemon, IMAGE), "{script}");
}

#[test]
fn a_version_that_is_being_removed_is_waited_for() {
    let daemon = Daemon::start();
    let dir = std::fs::File::open(daemon.store().join(IMAGE)).unwrap();
    flock(&dir, FlockOperation::LockExclusive).unwrap();
    let script = daemon.get(&format!("/ipxe?mac={NODE_MAC}")).text();
    assert!(script.contains("it is being removed") && !script.contains("vmlinuz"), "{script}");
}

#[test]
fn a_boot_that_fails_is_followed_as_it_goes() {
    let daemon = Daemon::start();
    let script = daemon.get(&format!("/ipxe?mac={FETCHED_MAC}")).text();
    let boot = script.split("?boot=").nth(1).unwrap()[..16].to_owned();
    daemon.get(&format!("/images/{COMPUTE}/initramfs-fetched.img?boot={boot}"));
    daemon.get(&format!("/images/{COMPUTE}/{ROOT_FILE}?boot={boot}"));
    daemon.wait_for("/v1/nodes/node-002/events", |events| events[1]["phase"] == "initramfs");
    let message = "[E-VERIFY] block 0 of rootfs.squashfs is damaged";
    let event = |phase, message: Option<&str>| json!({"phase": phase, "uptime_ms": 100, "message": message});
    let events =
        [event("init", None), event("network", None), event("unpack", None), event("failed", Some(message))];
    // Reports overlap, one is posted twice, and one gets lost.
    for known in [&events[..1], &events[..1], &events[1..2], &events[..]] {
        let report =
            json!({"mac": FETCHED_MAC, "boot": boot, "image": COMPUTE, "uptime_ms": 100, "events": known});
        assert_eq!(daemon.post("/v1/events", report.to_string().as_bytes()).status, 204);
    }
    let stored = daemon.json("/v1/nodes/node-002/events");
    let phases: Vec<_> =
        stored.as_array().unwrap().iter().map(|event| event["phase"].as_str().unwrap()).collect();
    assert_eq!(phases, ["script", "initramfs", "init", "network", "unpack", "failed"]);
    let nodes = daemon.json("/v1/nodes");
    let node = nodes.as_array().unwrap().iter().find(|node| node["name"] == "node-002").unwrap();
    assert_eq!((&node["phase"], &node["message"]), (&json!("failed"), &json!(message)));
}

#[test]
fn reports_are_checked() {
    let daemon = Daemon::start();
    assert_eq!(daemon.post("/v1/events", b"{").status, 400);
    assert_eq!(daemon.post("/v1/events", &vec![b' '; 65 * 1024]).status, 413);
    let stranger = json!({"mac": "02:00:00:00:00:01", "image": IMAGE, "uptime_ms": 1, "events": []});
    assert_eq!(daemon.post("/v1/events", stranger.to_string().as_bytes()).status, 400);
    // Scripts count as attempts, and an address given begins a boot: what we see ourselves cannot be reported.
    let ours = json!({"mac": NODE_MAC, "image": IMAGE, "uptime_ms": 1, "events": [{"phase": "dhcp", "uptime_ms": 1}]});
    assert_eq!(daemon.post("/v1/events", ours.to_string().as_bytes()).status, 400);
    assert_eq!(daemon.json("/v1/nodes/node-000/events"), json!([]));
}

#[test]
fn tftp_sends_the_boot_program_with_the_options_of_ovmf() {
    let daemon = Daemon::start();
    let options = [("tsize", "0"), ("blksize", "1468"), ("windowsize", "4")];
    let file = daemon.tftp("undionly.kpxe", "octet", &options).unwrap();
    assert_eq!(file, support::nbp());
    assert_eq!(daemon.tftp("/undionly.kpxe", "OCTET", &[]).unwrap(), support::nbp());
    assert_eq!(daemon.get("/nbp/undionly.kpxe").body, support::nbp());
}

#[test]
fn tftp_refuses_what_it_does_not_have_or_do() {
    let daemon = Daemon::start();
    let check = |name, mode, expected| match daemon.tftp(name, mode, &[]) {
        Err(Packet::Error { code, .. }) => assert_eq!(code, expected, "{name} {mode}"),
        other => panic!("{other:?}"),
    };
    check("../../etc/passwd", "octet", ErrorCode::FileNotFound);
    check("undionly.kpxe", "mail", ErrorCode::NotDefined);
}

fn start_with_single_port() -> Daemon {
    Daemon::start_with(|config| format!("{config}[tftp]\nsingle_port = true\n"))
}

#[test]
fn with_a_single_port_all_answers_come_from_it() {
    let daemon = start_with_single_port();
    for _ in 0..2 {
        let socket = support::tftp_socket();
        // To a connected socket, packets from another port do not come.
        socket.connect(daemon.tftp_address()).unwrap();
        let options = [("blksize", "1468"), ("windowsize", "4")];
        daemon.send_read_request(&socket, "undionly.kpxe", "octet", &options);
        assert_eq!(support::receive_file(&socket).unwrap(), support::nbp());
    }
}

#[test]
fn with_a_single_port_a_machine_that_was_reset_begins_anew() {
    let daemon = start_with_single_port();
    let socket = support::tftp_socket();
    for _ in 0..2 {
        daemon.send_read_request(&socket, "undionly.kpxe", "octet", &[]);
        let (_, server) = socket.recv_from(&mut [0; 1024]).unwrap();
        socket.send_to(&Packet::Ack(1).encode(), server).unwrap();
        // Block 2.
        socket.recv_from(&mut [0; 1024]).unwrap();
    }
    daemon.send_read_request(&socket, "undionly.kpxe", "octet", &[]);
    assert_eq!(support::receive_file(&socket).unwrap(), support::nbp());
}

/// Two servers that answered each other's errors would never end.
#[test]
fn tftp_says_nothing_to_what_is_no_request() {
    for daemon in [Daemon::start(), start_with_single_port()] {
        let socket = support::tftp_socket();
        let error = Packet::Error { code: ErrorCode::IllegalOperation, message: "what?".to_owned() };
        for stray in [error, Packet::Ack(1), Packet::OptionAck(vec![])] {
            socket.send_to(&stray.encode(), daemon.tftp_address()).unwrap();
        }
        // What comes first is the answer to this.
        daemon.send_read_request(&socket, "undionly.kpxe", "octet", &[]);
        assert_eq!(support::receive_file(&socket).unwrap(), support::nbp());
    }
}

#[test]
fn a_machine_that_was_reset_gets_a_new_transfer_at_its_old_port() {
    let daemon = Daemon::start();
    let socket = support::tftp_socket();
    daemon.send_read_request(&socket, "undionly.kpxe", "octet", &[]);
    let (_, abandoned) = socket.recv_from(&mut [0; 1024]).unwrap();
    daemon.send_read_request(&socket, "undionly.kpxe", "octet", &[]);
    let (_, server) = socket.peek_from(&mut [0; 1024]).unwrap();
    assert_ne!(server, abandoned);
    assert_eq!(support::receive_file(&socket).unwrap(), support::nbp());
}

#[test]
fn a_request_that_the_network_doubled_is_served_from_either_port() {
    let daemon = Daemon::start();
    let socket = support::tftp_socket();
    for _ in 0..2 {
        daemon.send_read_request(&socket, "undionly.kpxe", "octet", &[]);
    }
    assert_eq!(support::receive_file(&socket).unwrap(), support::nbp());
}

#[test]
fn the_server_stops_when_it_is_told_to() {
    let daemon = Daemon::start();
    let started = std::time::Instant::now();
    let _: Value = daemon.json("/v1/nodes");
    daemon.stop();
    assert!(started.elapsed() < Duration::from_secs(5));
}

#[test]
fn what_happens_is_counted() {
    let daemon = Daemon::start();
    assert_eq!(daemon.get("/images/nosuch/1/vmlinuz").status, 404);
    daemon.send_dhcp(b"no DHCP");
    let mut metrics = String::new();
    support::wait_until(|| {
        metrics = daemon.get("/metrics").text();
        metrics.contains("bootserve_dhcp_ignored_total{reason=\"malformed\"} 1")
    });
    for part in [
        "bootserve_dhcp_ignored_total{reason=\"malformed\"} 1\n",
        "bootserve_dhcp_ignored_total{reason=\"no-address\"} 0\n",
        "bootserve_http_responses_total{status=\"404\"} 1\n",
        "bootserve_nodes{phase=\"none\"}",
        "bootserve_leases 0\n",
        "# EOF\n",
    ] {
        assert!(metrics.contains(part), "{part} in {metrics}");
    }
}

#[test]
fn a_server_that_cannot_boot_anyone_is_not_ready() {
    let daemon = Daemon::start();
    assert_eq!(daemon.get("/readyz").status, 200);
    std::fs::rename(daemon.store(), daemon.store().with_extension("away")).unwrap();
    let answer = daemon.get("/readyz");
    assert_eq!(answer.status, 503);
    assert!(answer.text().contains("cannot read the store"), "{}", answer.text());
    assert_eq!(daemon.get("/healthz").status, 200);
}
