//! `bootserve power` against BMCs that are emulated: by sushy-tools, which speaks Redfish over TLS, and by OpenIPMI's ipmi_sim, to which
//! the real ipmitool speaks.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod bmc;
mod ipmi;
mod redfish;

use std::fmt::Write;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

const USER: &str = "admin";
const PASSWORD: &str = "secret-of-test";

/// A configuration of nodes with BMCs, and the password beside it.
struct Site {
    dir: tempfile::TempDir,
}

impl Site {
    /// Nodes `n0`, `n1`, …, each with this much more in its table.
    fn new(nodes: &[String]) -> Self {
        let site = Self { dir: tempfile::tempdir().unwrap() };
        site.write_password(PASSWORD, 0o600);
        site.write_nodes(nodes);
        site
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    fn write_password(&self, password: &str, mode: u32) {
        fs::write(self.path("password"), format!("{password}\n")).unwrap();
        fs::set_permissions(self.path("password"), fs::Permissions::from_mode(mode)).unwrap();
    }

    fn write_nodes(&self, nodes: &[String]) {
        let dir = self.dir.path().display();
        let mut text = format!(
            "[server]\ninterface = 'nosuch0'\naddress = '192.168.0.1'\nstore = '{dir}'\nstate = '{dir}/state'\n\
             [network]\nsubnet = '192.168.0.0/24'\nrange = '192.168.0.200-192.168.0.250'\n"
        );
        for (number, node) in nodes.iter().enumerate() {
            let key = format!("mac = '02:00:00:00:00:0{number}'\naddress = '192.168.0.1{number}'");
            write!(text, "[[node]]\nname = 'n{number}'\n{key}\nimage = 'compute'\n{node}\n").unwrap();
        }
        fs::write(self.path("bootserve.toml"), text).unwrap();
    }

    /// `bootserve power` with these arguments.
    fn power(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bootserve"));
        command.args(["power", "--config", &self.path("bootserve.toml")]).args(arguments);
        // A password of somebody's shell must not be taken.
        command.env("IPMITOOL_PASSWORD", "another").env("IPMI_PASSWORD", "another");
        command.output().unwrap()
    }

    /// The same, with what is expected of it: its exit status, and all that it writes to stdout.
    fn check(&self, arguments: &[&str], status: i32, expected: &str) {
        let output = self.power(arguments);
        assert_eq!(String::from_utf8_lossy(&output.stdout), expected, "{arguments:?}: {}", stderr(&output));
        assert_eq!(output.status.code(), Some(status), "{arguments:?}");
    }

    fn json(&self, arguments: &[&str]) -> Value {
        serde_json::from_slice(&self.power(&[arguments, &["--json"]].concat()).stdout).unwrap()
    }

    /// A failure, by parts of what is written; the password is in none.
    fn check_failure(&self, arguments: &[&str], expected: &[&str]) {
        let output = self.power(arguments);
        let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), stderr(&output));
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {text}");
        for part in expected {
            assert!(text.contains(part), "{part:?} in {text}");
        }
        assert!(!text.contains(PASSWORD), "{text}");
    }
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A program that scripts/setup installs.
fn installed(path: &Path) -> &Path {
    assert!(path.exists(), "there is no {}\nhint: run scripts/setup", path.display());
    path
}

#[test]
fn wrong_usage_is_status_2() {
    let site = Site::new(&[String::new()]);
    for arguments in [
        &["n0"][..],
        &["n0", "explode"],
        &["n0", "on", "--soft"],
        &["n0", "status", "--wait"],
        &["n0", "on", "--parallel=0"],
    ] {
        assert_eq!(site.power(arguments).status.code(), Some(2), "{arguments:?}");
    }
}

#[test]
fn nodes_that_cannot_be_switched_are_told_with_the_remedy() {
    let site = Site::new(&[String::new()]);
    site.check_failure(
        &["n0", "on"],
        &["n0: failed: has no BMC", "hint: bmc_address = ", "1 of 1 nodes failed"],
    );
    site.check_failure(&["n[0-1]", "on"], &["there is no node n1", "hint: bootserve node list"]);
    site.check_failure(&["02:00:00:00:00:09", "on"], &["there is no node 02:00:00:00:00:09"]);
    let bmc = "bmc_address = '127.0.0.1:1'\nbmc = { user = 'a', password_file = '/nosuch/password' }";
    site.write_nodes(&[bmc.to_owned()]);
    site.check_failure(
        &["02:00:00:00:00:00", "on"],
        &["n0: failed: cannot read the password in /nosuch/password"],
    );
    site.write_nodes(&[bmc.to_owned(), bmc.to_owned()]);
    let expected = ["n0: failed: the BMC at 127.0.0.1:1 is that of n1, too", "hint: bmc = { system = "];
    site.check_failure(&["n0", "off"], &expected);
}

#[test]
fn check_warns_of_a_password_that_everybody_may_read() {
    let site = Site::new(&[]);
    let password = site.path("password");
    let bmc = format!("bmc_address = 'b'\nbmc = {{ user = 'a', password_file = '{password}' }}");
    site.write_nodes(&[bmc]);
    let check = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bootserve"));
        command.args(["check", "--config", &site.path("bootserve.toml")]);
        String::from_utf8(command.output().unwrap().stdout).unwrap()
    };
    assert!(!check().contains("password"), "{}", check());
    site.write_password(PASSWORD, 0o644);
    let warning = format!(
        "warning: {password} has mode 0644: expected a file that is closed to others\nhint: chmod 600"
    );
    assert!(check().contains(&warning) && !check().contains(PASSWORD), "{}", check());
}
