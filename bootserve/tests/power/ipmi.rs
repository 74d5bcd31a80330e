//! By IPMI.

use super::bmc::Ipmi;
use super::{PASSWORD, Site};

fn site(bmc: &Ipmi) -> Site {
    let site = Site::new(&[]);
    // The simulator cannot tell its cipher suites.
    let node = format!(
        "bmc_address = '{}'\n[node.bmc]\nprotocol = 'ipmi'\nuser = 'admin'\npassword_file = '{}'\ncipher_suite = 3\n",
        bmc.address(),
        site.path("password")
    );
    site.write_nodes(&[node]);
    site
}

#[test]
fn nodes_are_switched_by_ipmitool() {
    let bmc = Ipmi::start();
    let site = site(&bmc);
    site.check(&["n0", "status"], 0, "n0: off\n");
    site.check(&["n0", "on", "--dry-run"], 0, "n0: is off, would be sent chassis power on\n");
    assert!(bmc.told().is_empty());
    site.check(&["n0", "on", "--wait"], 0, "n0: is on, was sent chassis power on\n");
    site.check(&["n0", "on"], 0, "n0: is on already\n");
    site.check(&["n0", "off"], 0, "n0: was on, sent chassis power off\n");
    site.check(&["n0", "cycle", "--wait"], 0, "n0: is on, was sent chassis power on\n");
    site.check(&["n0", "cycle"], 0, "n0: was on, sent chassis power cycle\n");
    // The simulator's cycle ends with the power cut.
    site.check(&["n0", "on", "--wait"], 0, "n0: is on, was sent chassis power on\n");
    site.check(&["n0", "off", "--soft", "--wait"], 0, "n0: is off, was sent chassis power soft\n");
    assert_eq!(bmc.told().last().unwrap(), "set shutdown 1");
}

#[test]
fn a_wrong_password_and_a_missing_ipmitool_are_told_with_the_remedy() {
    let bmc = Ipmi::start();
    let site = site(&bmc);
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_bootserve"));
    command.args(["power", "--config", &site.path("bootserve.toml"), "n0", "on"]).env("PATH", "/nosuch");
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.starts_with("n0: failed: cannot run ipmitool: No such file"), "{text}");
    site.write_password("wrong", 0o600);
    let failed = format!("n0: failed: ipmitool chassis power status at {} as admin failed: ", bmc.address());
    site.check_failure(&["n0", "on"], &[&failed, "Unable to establish", "hint: are bmc_address, bmc.user"]);
    assert!(bmc.told().is_empty());
    site.write_password(PASSWORD, 0o600);
    site.check(&["n0", "status"], 0, "n0: off\n");
}
