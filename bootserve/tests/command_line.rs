//! The program as users and scripts see it: exit status, messages, JSON.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/store.rs"]
mod store;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

use bootspec::manifest::BootMode;

fn bootserve(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_bootserve")).args(args).output().unwrap()
}

fn check_status(args: &[&str], status: i32, expected: &[&str]) {
    let output = bootserve(args);
    let text = String::from_utf8_lossy(&[output.stdout.as_slice(), &output.stderr].concat()).into_owned();
    assert_eq!(output.status.code(), Some(status), "{args:?}: {text}");
    for part in expected {
        assert!(text.contains(part), "{part:?} in {text}");
    }
}

/// A configuration on an interface that does not exist, with a store that is empty.
fn write_config(dir: &Path, extra: &str) -> String {
    let path = dir.join("bootserve.toml");
    let store = dir.display();
    let text = format!(
        "[server]\ninterface = 'nosuch0'\naddress = '192.168.0.1'\nstore = '{store}'\nstate = '{store}/state'\n\
         [network]\nsubnet = '192.168.0.0/24'\nrange = '192.168.0.200-192.168.0.250'\n{extra}"
    );
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn wrong_usage_is_status_2_and_a_missing_file_status_1() {
    check_status(&["serve", "--colour"], 2, &["Usage"]);
    check_status(&["serve", "--config", "/nosuch/file"], 1, &["/nosuch/file", "hint:"]);
    check_status(&["check", "--config", "/nosuch/file"], 1, &["error: cannot read", "cannot be used"]);
}

#[test]
fn a_missing_interface_is_reported_before_anything_is_written() {
    let dir = tempfile::tempdir().unwrap();
    check_status(&["serve", "--config", &write_config(dir.path(), "")], 1, &["nosuch0", "hint:"]);
    assert!(!dir.path().join("state").exists());
}

#[test]
fn a_broken_pipe_is_quiet() {
    let dir = tempfile::tempdir().unwrap();
    let config = write_config(dir.path(), "");
    for format in [&[][..], &["--json"]] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = Command::new(env!("CARGO_BIN_EXE_bootserve"));
        let output =
            command.args(["check", "--config", &config]).args(format).stdout(writer).output().unwrap();
        assert_eq!((output.status.code(), &output.stderr[..]), (Some(0), &b""[..]), "{format:?}");
    }
}

#[test]
fn an_unbuilt_image_is_a_warning_and_an_unknown_key_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let unbuilt = write_config(dir.path(), "[boot]\ndefault_image = 'compute'\n");
    check_status(
        &["check", "--config", &unbuilt],
        0,
        &["warning: there is no network interface nosuch0", "warning: image compute", "is valid"],
    );
    let json: serde_json::Value =
        serde_json::from_slice(&bootserve(&["check", "--json", "--config", &unbuilt]).stdout).unwrap();
    assert_eq!(json["ok"], true);
    let unknown = write_config(dir.path(), "colour = 'red'\n");
    check_status(&["check", "--config", &unknown], 1, &["error:", "line 9", "colour"]);
}

#[test]
fn diff_says_what_would_change_and_what_needs_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let old = write_config(dir.path(), "");
    let new = format!("{old}.new");
    let diff = |text: String| {
        std::fs::write(&new, text).unwrap();
        ["diff", "--config", &old, &new].map(str::to_owned)
    };
    let text = std::fs::read_to_string(&old).unwrap();
    let arguments = diff(text.clone());
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    check_status(&arguments, 0, &["nothing would change"]);
    let node =
        "[[node]]\nname = 'n1'\nmac = 'fc:ab:14:e8:66:01'\naddress = '192.168.0.9'\nimage = 'compute'\n";
    diff(text.replace("[network]", "http_port = 81\n[network]") + node);
    let expected = ["server http_port: 80 -> 81 (needs a restart)", "node n1 image: nothing -> \"compute\""];
    check_status(&arguments, 0, &expected);
    let json: serde_json::Value =
        serde_json::from_slice(&bootserve(&[&arguments[..], &["--json"]].concat()).stdout).unwrap();
    let port = json.as_array().unwrap().iter().find(|change| change["key"] == "http_port").unwrap();
    assert_eq!(
        (&port["before"], &port["after"], &port["needs_restart"]),
        (&80.into(), &81.into(), &true.into())
    );
    diff(text.replace("192.168.0.200", "192.168.9.200"));
    check_status(&arguments, 1, &[&new, "192.168.9.200"]);
}

#[test]
fn a_certificate_that_cannot_be_used_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let pem = dir.path().join("empty.pem");
    std::fs::write(&pem, "").unwrap();
    let path = pem.display();
    let config = write_config(dir.path(), &format!("[tls]\ncertificate = '{path}'\nkey = '{path}'\n"));
    check_status(&["check", "--config", &config], 1, &["error:", "empty.pem", "certificate"]);
}

#[test]
fn overlays_that_no_node_gets_or_everybody_reads_are_warned_of() {
    let dir = tempfile::tempdir().unwrap();
    let overlays = dir.path().join("overlays");
    std::fs::create_dir(&overlays).unwrap();
    let config = write_config(
        dir.path(),
        "[[node]]\nname = 'n1'\nmac = 'fc:ab:14:e8:66:01'\naddress = '192.168.0.9'\nimage = 'compute'\n",
    );
    let text = std::fs::read_to_string(&config).unwrap();
    let with_overlays = text.replace("[network]", &format!("overlays = '{}'\n[network]", overlays.display()));
    std::fs::write(&config, with_overlays).unwrap();
    let write = |name: &str, mode| {
        std::fs::write(overlays.join(name), "").unwrap();
        std::fs::set_permissions(overlays.join(name), std::fs::Permissions::from_mode(mode)).unwrap();
    };
    let check = || String::from_utf8(bootserve(&["check", "--config", &config]).stdout).unwrap();
    write("n1.tar", 0o640);
    write("n1.tar.minisig", 0o644);
    assert!(!check().contains("overlays"), "{}", check());
    write("n1.tar", 0o644);
    write("n2.tar", 0o600);
    write("n3.tar.minisig", 0o600);
    write("notes", 0o600);
    let found = check();
    for part in [
        "n1.tar can be read by every user",
        "n2.tar is of n2, and there is no such node",
        "n3.tar.minisig signs n3.tar, which is not there",
        "notes is no overlay",
        "is valid",
    ] {
        assert!(found.contains(part), "{part} in {found}");
    }
    std::fs::remove_dir_all(&overlays).unwrap();
    assert!(check().contains("warning: cannot read server.overlays"), "{}", check());
}

#[test]
fn an_image_that_a_machine_cannot_boot_in_its_mode_is_warned_of() {
    let dir = tempfile::tempdir().unwrap();
    store::publish(dir.path(), "shell/v1", BootMode::Failsafe, &[("vmlinuz", b""), ("initramfs.img", b"")]);
    let node = |name: &str, last: u8, mode: &str| {
        format!(
            "[[node]]\nname = '{name}'\nmac = 'fc:ab:14:e8:66:0{last}'\naddress = '192.168.0.{last}'\nimage = 'shell'\n{mode}"
        )
    };
    let check = |extra: &str| {
        let config = write_config(dir.path(), extra);
        String::from_utf8(bootserve(&["check", "--config", &config]).stdout).unwrap()
    };
    let found = check(&node("n2", 2, ""));
    assert!(!found.contains("shell"), "{found}");
    let found = check(&(node("n2", 2, "") + &node("n3", 3, "mode = 'fetched'\n")));
    let expected = "warning: image shell/v1 has no initramfs-fetched.img, which mode fetched boots\nhint: ";
    assert!(found.contains(expected) && found.contains("is valid"), "{found}");
    let found = check(&format!("[boot]\nmin_rollback_index = 1\n{}", node("n2", 2, "")));
    assert!(found.contains("shell/v1 has rollback index 0"), "{found}");
}

const NODE: &str =
    "[[node]]\nname = 'n7'\nmac = 'fc:ab:14:e8:66:02'\naddress = '192.168.0.7'\nimage = 'compute'\n";

#[test]
fn explain_names_the_key_that_a_node_is_known_by() {
    let dir = tempfile::tempdir().unwrap();
    let mut nodes = String::new();
    for (last, key) in
        ["client_id = 'rom'", "uuid = '00112233-4455-6677-8899-aabbccddeeff'", "circuit_id = '0x0001'"]
            .iter()
            .enumerate()
    {
        nodes +=
            &format!("[[node]]\nname = 'n{last}'\n{key}\naddress = '192.168.0.1{last}'\nimage = 'compute'\n");
    }
    let config = write_config(dir.path(), &nodes);
    for (key, expected) in [
        (
            ["--client-id", "0x726f6d"],
            ["(n0, known by client_id rom)", "192.168.0.10; reserved by [[node]] n0"],
        ),
        (
            ["--uuid", "00112233-4455-6677-8899-aabbccddeeff"],
            ["(n1, known by uuid 00112233-", "192.168.0.11; reserved by [[node]] n1"],
        ),
        (["--circuit-id", "0x0001"], ["(n2, known by circuit_id 0x0001)", "rule: [[node]] n2"]),
    ] {
        let question = ["explain", "--config", &config, "--mac", "02:00:00:00:00:01", "--ipxe"];
        check_status(&[&question[..], &key].concat(), 0, &expected);
    }
}

#[test]
fn explain_says_what_a_machine_is_told_and_why() {
    let dir = tempfile::tempdir().unwrap();
    let quirk = "[[quirk]]\nnode = 'n7'\ndelay_ms = 200\n";
    let nbps = format!("[nbp]\ndirs = ['{}']\n{NODE}{quirk}", dir.path().display());
    std::fs::write(dir.path().join("ipxe.efi"), "program").unwrap();
    let config = write_config(dir.path(), &nbps);
    let explain = |args: &[&str], expected: &[&str]| {
        check_status(&[&["explain", "--config", &config], args].concat(), 0, expected);
    };
    let node = ["--mac", "fc:ab:14:e8:66:02"];
    explain(
        &[&node[..], &["--arch", "7"]].concat(),
        &[
            "fc:ab:14:e8:66:02 (n7, known by mac fc:ab:14:e8:66:02) asks as firmware, UEFI x86-64, architecture 7, by PXE: DISCOVER",
            "quirks   delay of 200 ms",
            "192.168.0.7; reserved by [[node]] n7",
            "nbp ipxe.efi",
            "OFFER to 255.255.255.255:68",
            "54 ServerIdentifier",
        ],
    );
    // Without a stage: BIOS, for which nothing is installed here, UEFI, and iPXE, whose image is not there.
    explain(
        &node,
        &[
            "BIOS x86",
            "nothing: there is no network boot program",
            "asks as iPXE",
            "hint: imagebuild build compute",
        ],
    );
    explain(&[&node[..], &["--os"]].concat(), &["an operating system", "did not ask for anything to boot"]);
    explain(
        &[&node[..], &["--ipxe", "--relay", "10.9.0.1"]].concat(),
        &["ignored  no [[network]]", "10.9.0.1", "hint: add a [[network]]"],
    );
    explain(&["--mac", "02:00:00:00:00:01", "--os"], &["(no [[node]])", "192.168.0.200; of the range"]);
    check_status(&["explain", "--config", &config], 2, &["--mac"]);
    assert!(!dir.path().join("state").exists(), "explain has written something");
}

#[test]
fn explain_knows_proxies_and_servers_without_dhcp() {
    let dir = tempfile::tempdir().unwrap();
    for (mode, expected) in [
        ("proxy", &["a proxy has nothing for it: it did not ask for anything to boot"][..]),
        ("off", &["DHCP is off", "hint: the answer is another server's"]),
    ] {
        let config = write_config(dir.path(), &format!("[dhcp]\nmode = '{mode}'\n{NODE}"));
        check_status(&["explain", "--config", &config, "--mac", "fc:ab:14:e8:66:02", "--os"], 0, expected);
    }
}

#[test]
fn explain_reads_captures_of_real_firmware() {
    let dir = tempfile::tempdir().unwrap();
    let config = write_config(dir.path(), "");
    let capture = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/ovmf-http.pcap");
    let output = bootserve(&["explain", "--config", &config, "--pcap", capture, "--json"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let explanations: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let first = &explanations[0];
    assert_eq!(first["stage"], "firmware, UEFI x86-64 (HTTP Boot), architecture 16, by HTTP Boot");
    assert_eq!(first["reply"]["kind"], "OFFER");
    let kinds: Vec<_> = explanations.as_array().unwrap().iter().map(|e| e["request"].as_str()).collect();
    assert!(kinds.contains(&Some("REQUEST")), "{kinds:?}");
    let other = ["explain", "--config", &config, "--pcap", capture, "--mac", "02:00:00:00:00:01"];
    check_status(&other, 0, &["no packet to port 67 or 4011 is there"]);
    let text = dir.path().join("text");
    std::fs::write(&text, "this is a text and no capture of anything").unwrap();
    let text = text.to_str().unwrap();
    check_status(&["explain", "--config", &config, "--pcap", text], 1, &["no capture", "hint: tcpdump"]);
}

#[test]
fn a_data_directory_of_an_older_server_is_checked_and_explained() {
    let dir = tempfile::tempdir().unwrap();
    let site = |kind: &str| Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(kind);
    let config = |kind: &str, path: &Path| {
        write_config(dir.path(), &format!("[compat]\n{kind} = '{}'\n", path.display()))
    };
    let matchbox = config("matchbox", &site("matchbox"));
    let expected =
        ["warning: cannot use", "groups/broken.json", "warning: group rack names the profile \"nosuch\""];
    check_status(&["check", "--config", &matchbox], 0, &expected);
    let explain = |config: &str, mac: &str, expected: &[&str]| {
        check_status(&["explain", "--config", config, "--mac", mac, "--ipxe"], 0, expected);
    };
    let expected = [
        "its script, http://192.168.0.1/boot.ipxe",
        "script   /assets/coreos/1967.3.0/coreos_production_pxe.vmlinuz; rule: matchbox group node1, profile controller",
    ];
    explain(&matchbox, "52:54:00:a1:9c:ae", &expected);
    let bootcfg = config("bootcfg", &site("bootcfg"));
    explain(&bootcfg, "02:00:00:00:00:09", &["script   /images/default/vmlinuz; rule: bootcfg boot/default"]);
    explain(&bootcfg, "52:54:00:00:00:0b", &["rule: bootcfg", "problem  cannot use", "52:54:00:00:00:0b"]);
    let missing = config("bootcfg", &dir.path().join("gone"));
    check_status(&["check", "--config", &missing], 0, &["warning: cannot read", "gone"]);
    let nothing = dir.path().join("nothing");
    std::fs::create_dir(&nothing).unwrap();
    let nothing = config("bootcfg", &nothing);
    explain(&nothing, "02:00:00:00:00:09", &["rule: none", "the data directory says nothing of it"]);
}

#[test]
fn nodes_are_changed_shown_and_changed_back() {
    let dir = tempfile::tempdir().unwrap();
    let node = "[[node]]\nname = 'n1'\nmac = '02:00:00:00:00:01'\naddress = '192.168.0.11'\nimage = 'a'\n";
    let config = write_config(dir.path(), node);
    let run = |args: &[&str], expected: &[&str]| {
        check_status(&[&["node"], args, &["--config", &config]].concat(), 0, expected);
    };
    let change = "node n1 image: \"a\" -> \"b\"";
    run(&["set", "n1", "image=b", "--dry-run"], &["would change by set n1 image=\"b\":\n", change]);
    run(&["history"], &["nothing was changed"]);
    assert!(!dir.path().join("state").exists(), "a trial writes nothing");
    run(&["set", "n1", "image=b"], &["change 1: set n1 image=\"b\"\n", change]);
    run(&["set", "n1", "image=b"], &["nothing changes"]);
    run(&["list"], &["n1", "  b"]);
    run(
        &["explain", "n1"],
        &["bootserve node, change 1: \"b\"", "[[node]] of the configuration: \"a\", overruled"],
    );
    run(
        &["add", "n[2-3]", "address=192.168.0.[12-13]", "mac=02:00:00:00:00:[02-03]", "image=c"],
        &["change 2"],
    );
    run(
        &["export"],
        &["[[nodes]]\nnames = \"n[2-3]\"\n", "addresses = [\"192.168.0.12\", \"192.168.0.13\"]"],
    );
    run(&["rm", "n3"], &["change 3", "node n3 address: \"192.168.0.13\" -> nothing"]);
    run(&["undo"], &["change 4", "node n3 address: nothing -> \"192.168.0.13\""]);
    run(&["history", "n3"], &["  add n[2-3] ", "  rm n3", "  undo"]);
    run(&["unset", "n1", "image", "--json"], &["\"revision\": 5", "\"after\": \"a\""]);

    run(&["set", "n1", "image=new/v2"], &["change 6"]);
    run(
        &["promote", "n1", "n[2-3]", "--dry-run"],
        &["node n2 image: \"c\" -> \"new/v2\"", "node n3 image: "],
    );

    let refused = |args: &[&str], status, expected: &[&str]| {
        check_status(&[&["node"], args, &["--config", &config]].concat(), status, expected);
    };
    refused(&["set", "n1", "imagee=b"], 1, &["cannot use \"imagee=b\": unknown field `imagee`"]);
    refused(&["set", "n1", "image"], 1, &["\"image\" is no assignment", "hint: KEY=VALUE"]);
    refused(
        &["set", "n1", "address=192.168.0.12"],
        1,
        &["nodes n1 and n2 have the same address 192.168.0.12"],
    );
    refused(&["set", "n9", "image=b"], 1, &["there is no node n9", "hint: bootserve node list"]);
    refused(&["rm", "n1"], 1, &["node n1 cannot be removed here: it stands in [[node]]", "hint:"]);
    refused(&["unset", "n1"], 2, &["Usage"]);
    refused(
        &["promote", "n[1-2]", "n3"],
        1,
        &["cannot promote an image: n1 boots new/v2, and n2 boots c", "hint:"],
    );
    refused(&["set", "--once", "n1", "mac=02:00:00:00:00:09"], 1, &["unknown field `mac`"]);
}

#[test]
fn a_changed_node_that_no_file_has_any_more_is_warned_of() {
    let dir = tempfile::tempdir().unwrap();
    let node = "[[node]]\nname = 'n1'\nmac = '02:00:00:00:00:01'\naddress = '192.168.0.11'\nimage = 'a'\n";
    let config = write_config(dir.path(), node);
    check_status(&["node", "set", "n1", "image=b", "--config", &config], 0, &[]);
    let config = write_config(dir.path(), "");
    check_status(&["check", "--config", &config], 0, &["warning: node n1 was changed by bootserve node"]);
    let clash = "[[node]]\nname = 'n2'\nmac = '02:00:00:00:00:02'\naddress = '192.168.0.12'\nimage = 'a'\n";
    let config = write_config(dir.path(), clash);
    check_status(
        &[
            "node",
            "add",
            "n3",
            "address=192.168.0.13",
            "mac=02:00:00:00:00:03",
            "image=a",
            "--config",
            &config,
        ],
        0,
        &[],
    );
    let config = write_config(dir.path(), &clash.replace("0.12", "0.13"));
    let expected = ["error: nodes n2 and n3 have the same address 192.168.0.13"];
    check_status(&["check", "--config", &config], 1, &expected);
}

/// A configuration with node-1 that has the overlays base and slurm, and n2 that has base.
fn write_overlays(dir: &std::path::Path) -> String {
    let overlays = dir.join("overlays");
    for place in ["base/etc", "slurm/etc"] {
        std::fs::create_dir_all(overlays.join(place)).unwrap();
    }
    std::fs::write(overlays.join("base/etc/hosts.j2"), "{{ node.address }} {{ node.name }}\n").unwrap();
    std::fs::write(overlays.join("base/etc/motd"), "base\n").unwrap();
    std::fs::write(overlays.join("slurm/etc/motd"), "slurm\n").unwrap();
    std::os::unix::fs::symlink("motd", overlays.join("slurm/etc/issue")).unwrap();
    std::fs::write(overlays.join("slurm/overlay.toml"), "[files.'/etc/motd']\nmode = '0600'\nuid = 9\n")
        .unwrap();
    let node = |name: &str, last: u8, overlays: &str| {
        format!(
            "[[node]]\nname = '{name}'\nmac = 'fc:ab:14:e8:66:0{last}'\naddress = '192.168.0.{last}'\nimage = 'compute'\n\
             overlays = {overlays}\n"
        )
    };
    let config = write_config(dir, "");
    let text = std::fs::read_to_string(&config).unwrap();
    let text = text.replace("[network]", &format!("overlays = '{}'\n[network]", overlays.display()));
    let nodes = node("n1", 8, "['base', 'slurm']") + &node("n2", 9, "['base']");
    std::fs::write(&config, text + &nodes).unwrap();
    config
}

#[test]
fn overlays_are_listed_shown_and_rendered_without_a_daemon() {
    let dir = tempfile::tempdir().unwrap();
    let config = write_overlays(dir.path());
    let run = |arguments: &[&str]| {
        let output = bootserve(&[&["overlay"], arguments, &["--config", &config]].concat());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    };
    let text = |arguments: &[&str]| String::from_utf8(run(arguments)).unwrap();
    let json = |arguments: &[&str]| -> serde_json::Value {
        serde_json::from_slice(&run(&[arguments, &["--json"]].concat())).unwrap()
    };
    let listed = text(&["list"]);
    assert!(listed.starts_with("NAME ") && listed.lines().count() == 3, "{listed}");
    let base = serde_json::json!({"name": "base", "files": 2, "templates": 1, "bytes": 40, "nodes": 2, "secret": false});
    assert_eq!(json(&["list"])[0], base);
    let shown = text(&["show", "n1"]);
    for part in
        ["node n1: base, slurm\n", "slurm  0600          9:0          6  /etc/motd\n", "/etc/issue -> motd\n"]
    {
        assert!(shown.contains(part), "{part} in {shown}");
    }
    let files = json(&["show", "n1"])["files"].clone();
    let files = files.as_array().unwrap();
    let hosts = files.iter().find(|file| file["path"] == "/etc/hosts").unwrap();
    assert_eq!(
        (&hosts["overlay"], &hosts["bytes"], &hosts["type"]),
        (&"base".into(), &15.into(), &"file".into())
    );
    assert_eq!(text(&["render", "n2", "/etc/hosts"]), "192.168.0.9 n2\n");
    assert_eq!(text(&["render", "n1", "etc/motd"]), "slurm\n");
    let tar = dir.path().join("n1.tar");
    assert_eq!(text(&["render", "n1", "--output", tar.to_str().unwrap()]), "");
    assert_eq!(run(&["render", "n1", "--output", "-"]), std::fs::read(&tar).unwrap());
    assert_eq!(std::fs::metadata(&tar).unwrap().permissions().mode() & 0o777, 0o600);

    let refused = |arguments: &[&str], status, expected: &str| {
        check_status(&[&["overlay"], arguments, &["--config", &config]].concat(), status, &[expected]);
    };
    refused(&["show", "n9"], 1, "there is no node n9");
    refused(&["render", "n2", "/etc/nosuch"], 1, "the overlays of node n2 have no /etc/nosuch");
    refused(&["render", "n2", "/etc/../etc/motd"], 1, "no path of a file");
    refused(&["render", "n1", "/etc/issue"], 1, "symbolic link to motd");
    refused(&["render", "n1"], 2, "required");
}

#[test]
fn check_renders_the_overlays_of_all_nodes() {
    let dir = tempfile::tempdir().unwrap();
    let config = write_overlays(dir.path());
    let check = || String::from_utf8(bootserve(&["check", "--config", &config]).stdout).unwrap();
    assert!(!check().contains("overlay"), "{}", check());
    std::fs::write(dir.path().join("overlays/base/etc/x.j2"), "\n{{ metadata.rack }}\n").unwrap();
    std::fs::create_dir(dir.path().join("overlays/slurm/root")).unwrap();
    std::fs::set_permissions(dir.path().join("overlays/slurm/root"), std::fs::Permissions::from_mode(0o755))
        .unwrap();
    std::fs::create_dir(dir.path().join("overlays/templates")).unwrap();
    std::fs::write(dir.path().join("overlays/templates/a.ign.j2"), "{{ nosuch }}").unwrap();
    let found = check();
    for part in [
        "cannot render etc/x.j2 of the overlay base for node n1: line 2: ",
        "metadata.rack",
        "the same for 1 more nodes",
        "cannot render templates/a.ign.j2 for node n1",
        "the overlay slurm gives /root of node n1 the mode 0755",
    ] {
        assert!(found.contains(part), "{part} in {found}");
    }
    std::fs::remove_dir_all(dir.path().join("overlays/slurm")).unwrap();
    assert!(
        check().contains("cannot use the overlay slurm for node n1: there is no directory"),
        "{}",
        check()
    );
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, text.replace("overlays = '", "#")).unwrap();
    check_status(
        &["check", "--config", &config],
        1,
        &["node n1 has overlays, and there is no directory of them"],
    );
}
