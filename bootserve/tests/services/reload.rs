//! The configuration changes while the server runs.

use std::fs;

use rcgen::{CertifiedKey, generate_simple_self_signed};

use super::http::{shows_certificate, write_certificate};
use super::support::{CARRIED_MAC, Daemon, FETCHED_MAC, NODE_MAC, wait_until};

/// How often the configuration was read again, with this end.
fn reloads(daemon: &Daemon, end: &str) -> u32 {
    let metrics = daemon.get("/metrics").text();
    let name = format!("bootserve_reloads_total{{end=\"{end}\"}} ");
    let line = metrics.lines().find_map(|line| line.strip_prefix(&name));
    line.unwrap_or_else(|| panic!("{name} in {metrics}")).parse().unwrap()
}

/// Changes the file and waits until it was read.
fn change(daemon: &Daemon, end: &str, change: impl Fn(String) -> String) {
    let path = daemon.config_file();
    let before = reloads(daemon, end);
    fs::write(&path, change(fs::read_to_string(&path).unwrap())).unwrap();
    assert!(wait_until(|| reloads(daemon, end) > before), "it is not read again, or is not {end}");
}

fn script(daemon: &Daemon, mac: &str) -> String {
    daemon.get(&format!("/ipxe?mac={mac}")).text()
}

#[test]
fn a_changed_file_is_in_force_without_a_restart() {
    let daemon = Daemon::start();
    assert!(script(&daemon, NODE_MAC).contains("/images/failsafe/v1/"));
    assert!(daemon.tftp("new.efi", "octet", &[]).is_err());
    fs::write(daemon.config_file().with_file_name("nbp").join("snponly.efi"), "another program").unwrap();
    change(&daemon, "done", |text| {
        text.replacen("image = 'failsafe'", "image = 'compute'", 1)
            .replace("kernel_args = ['console=ttyS0']", "kernel_args = ['console=tty9']")
            .replace("node-001", "node-777")
    });
    // At once, although the same machine asked within this second.
    let script = script(&daemon, NODE_MAC);
    assert!(script.contains("/images/compute/v1/") && script.contains("console=tty9"), "{script}");
    assert_eq!(daemon.tftp("snponly.efi", "octet", &[]).unwrap(), b"another program");
    assert_eq!(daemon.get("/v1/nodes/node-001/events").status, 404);
    assert_eq!(daemon.get("/v1/nodes/node-777/events").status, 200);
}

#[test]
fn a_file_that_is_wrong_or_asks_for_a_restart_changes_nothing() {
    let daemon = Daemon::start();
    let good = fs::read_to_string(daemon.config_file()).unwrap();
    for bad in [
        good.replace("image = 'compute'", "image = 'failsafe'") + "[nonsense]\n",
        good.replace("image = 'compute'", "image = 'failsafe'").replace(CARRIED_MAC, FETCHED_MAC),
        good.replace("image = 'compute'", "image = 'failsafe'")
            .replace("[nbp]", "[tftp]\nsingle_port = true\n[nbp]"),
    ] {
        change(&daemon, "refused", |_| bad.clone());
        assert!(script(&daemon, CARRIED_MAC).contains("/images/compute/v1/"), "{bad}");
    }
    change(&daemon, "done", |_| good.clone());
    assert_eq!(reloads(&daemon, "refused"), 3);
}

#[test]
fn a_changed_inventory_is_in_force_without_a_restart() {
    const NODES: &str = "[[nodes]]\nnames = 'n[1-2]'\naddresses = '127.0.0.[61-62]'\nmacs = '02:00:00:00:00:[61-62]'\n\
                         image = 'failsafe'\n";
    let inventory = tempfile::tempdir().unwrap();
    let path = inventory.path().join("nodes.toml");
    fs::write(&path, NODES).unwrap();
    let line = format!("[server]\ninventory = '{}'\n", path.display());
    let daemon = Daemon::start_with(move |config| config.replacen("[server]\n", &line, 1));
    assert!(script(&daemon, "02:00:00:00:00:62").contains("/images/failsafe/v1/"));
    for (set, end, image) in [
        ("nodes = 'n2'\nimage = 'compute'", "done", "compute"),
        ("nodes = 'n3'\nimage = 'failsafe'", "refused", "compute"),
        ("nodes = 'n1'\nimage = 'compute'", "done", "failsafe"),
    ] {
        let before = reloads(&daemon, end);
        fs::write(&path, format!("{NODES}[[set]]\n{set}\n")).unwrap();
        assert!(
            wait_until(|| reloads(&daemon, end) > before),
            "{set}: it is not read again, or is not {end}"
        );
        let script = script(&daemon, "02:00:00:00:00:62");
        assert!(script.contains(&format!("/images/{image}/v1/")), "{set}: {script}");
    }
}

#[test]
fn a_renewed_certificate_is_shown() {
    let keys = tempfile::tempdir().unwrap();
    let pair = || generate_simple_self_signed(["boot.cluster".to_owned()]).unwrap();
    let (first, second): (CertifiedKey<_>, CertifiedKey<_>) = (pair(), pair());
    let tls = write_certificate(keys.path(), &first);
    let daemon = Daemon::start_with(move |config| config.replace("[nbp]", &format!("{tls}[nbp]")));
    assert!(shows_certificate(&daemon, &first));
    write_certificate(keys.path(), &second);
    change(&daemon, "done", |text| text + "# renewed\n");
    assert!(shows_certificate(&daemon, &second) && !shows_certificate(&daemon, &first));
    // One that does not fit its key changes nothing.
    write_certificate(keys.path(), &first);
    fs::write(keys.path().join("key.pem"), second.signing_key.serialize_pem()).unwrap();
    change(&daemon, "done", |text| text + "# again\n");
    assert!(shows_certificate(&daemon, &second));
}
