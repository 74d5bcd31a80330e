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
