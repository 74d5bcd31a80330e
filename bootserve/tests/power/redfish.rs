//! By Redfish, over TLS.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;

use super::bmc::Redfish;
use super::{PASSWORD, Site, stderr};

/// A node that is a machine of the emulator.
fn node(site: &Path, bmc: &Redfish, number: usize, trust: &str) -> String {
    let (password, id) = (site.join("password"), Redfish::id(number));
    format!(
        "bmc_address = '{}'\nbmc = {{ user = 'admin', password_file = '{}', system = '{id}', {trust} }}",
        bmc.address(),
        password.display()
    )
}

/// The emulator with machines in these states, which are the nodes.
fn site(states: &[&str]) -> (Redfish, Site) {
    let (bmc, site) = (Redfish::start(states), Site::new(&[]));
    trusting(&bmc, &site, states.len(), &format!("ca = '{}'", bmc.certificate().display()));
    (bmc, site)
}

fn trusting(bmc: &Redfish, site: &Site, nodes: usize, trust: &str) {
    let nodes: Vec<_> = (0..nodes).map(|number| node(site.dir.path(), bmc, number, trust)).collect();
    site.write_nodes(&nodes);
}

#[test]
fn nodes_are_switched_and_told_only_what_it_takes() {
    let (_bmc, site) = site(&["Off", "On"]);
    // One at a time, so that lines come in order.
    let check = |arguments: &[&str], expected: &str| {
        site.check(&[arguments, &["--parallel=1"]].concat(), 0, expected);
    };
    check(&["@*", "status"], "n0: off\nn1: on\n");
    check(&["@*", "on", "--dry-run"], "n0: is off, would be sent On\nn1: is on already\n");
    check(&["@*", "on"], "n0: was off, sent On\nn1: is on already\n");
    check(&["n[0-1]", "status"], "n0: on\nn1: on\n");
    check(&["n1!n0", "off", "--wait"], "n1: is off, was sent ForceOff\n");
    check(&["n1,n0,n1", "cycle", "--wait"], "n1: is on, was sent On\nn0: is on, was sent ForceRestart\n");
    check(&["02:00:00:00:00:00", "off", "--soft", "--wait=20"], "n0: is off, was sent GracefulShutdown\n");
    check(&["n0", "off"], "n0: is off already\n");
    let json = site.json(&["@*", "on", "--dry-run"]);
    let of = |index: usize, key: &str| json[index][key].clone();
    assert_eq!((of(0, "node"), of(0, "state"), of(0, "ok")), ("n0".into(), "off".into(), true.into()));
    assert_eq!((of(0, "done"), of(0, "sent")), ("would-send".into(), "On".into()));
    assert_eq!((of(1, "done"), of(1, "state")), ("nothing".into(), "on".into()));
}

#[test]
fn what_a_bmc_refuses_is_told_with_the_remedy() {
    let (bmc, site) = site(&["Off", "Off"]);
    site.write_password("wrong", 0o600);
    let url = format!(
        "n0: failed: cannot GET https://{}/redfish/v1/Systems as admin: HTTP status 401",
        bmc.address()
    );
    site.check_failure(&["n0", "on"], &[&url, "hint: are bmc.user and"]);
    site.write_password(PASSWORD, 0o604);
    site.check_failure(&["n0", "on"], &["password has mode 0604", "hint: chmod 600"]);
    site.write_password(PASSWORD, 0o600);
    let other = node(site.dir.path(), &bmc, 7, "verify_tls = false");
    site.write_nodes(&[node(site.dir.path(), &bmc, 0, "verify_tls = false"), other]);
    let output = site.power(&["@*", "status"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("n0: off\n") && text.contains(&Redfish::id(1)), "{text}");
    assert!(stderr(&output).starts_with("bootserve: 1 of 2 nodes failed\nhint: bmc = { system = "));
    assert_eq!(output.status.code(), Some(1));
    let nameless = node(site.dir.path(), &bmc, 0, "verify_tls = false").replace("system", "#system");
    let nameless = nameless.split("system").next().unwrap().trim_end_matches([' ', ',', '#']).to_owned();
    site.write_nodes(&[nameless + ", verify_tls = false }"]);
    site.check_failure(&["n0", "off"], &[&Redfish::id(0), &Redfish::id(1), "expected one", "system = "]);
}

#[test]
fn a_bmc_that_is_not_trusted_or_not_there_is_told_apart() {
    let (bmc, site) = site(&["On"]);
    trusting(&bmc, &site, 1, "verify_tls = true");
    site.check_failure(&["n0", "off"], &["certificate", "hint: bmc = { ca = "]);
    trusting(&bmc, &site, 1, "verify_tls = false");
    site.check(&["n0", "status"], 0, "n0: on\n");
    drop(bmc);
    site.check_failure(&["n0", "off"], &["n0: failed: cannot GET", "hint: is bmc_address right"]);
}

/// A server on loopback that is no BMC: answers each request with what `answer` makes of its head, if anything. Ends with the test program.
fn serve(answer: impl Fn(&str) -> Option<Vec<u8>> + Send + 'static) -> String {
    use tokio_rustls::rustls::crypto::ring;
    use tokio_rustls::rustls::pki_types::{PrivateKeyDer, pem::PemObject};
    use tokio_rustls::rustls::{ServerConfig, ServerConnection, Stream};

    let rcgen::CertifiedKey { cert, signing_key } =
        rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let key = PrivateKeyDer::from_pem_slice(signing_key.serialize_pem().as_bytes()).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let config = config.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
    let config = Arc::new(config.with_single_cert(vec![cert.der().clone()], key).unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut connection = ServerConnection::new(Arc::clone(&config)).unwrap();
            let mut tcp = stream.unwrap();
            let mut tls = Stream::new(&mut connection, &mut tcp);
            let mut head = [0; 4096];
            let length = tls.read(&mut head).unwrap_or(0);
            let Some(body) = answer(&String::from_utf8_lossy(&head[..length])) else { continue };
            let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n";
            // Whoever has read enough closes the connection.
            let _ = tls.write_all(head.as_bytes()).and_then(|()| tls.write_all(&body));
            connection.send_close_notify();
            let _ = connection.write_tls(&mut tcp);
        }
    });
    address
}

#[test]
fn what_is_no_bmc_is_read_within_bounds_and_gets_no_password_elsewhere() {
    let site = Site::new(&[]);
    let check = |address: &str, expected: &[&str]| {
        let bmc = format!(
            "bmc_address = '{address}'\nbmc = {{ user = 'admin', password_file = '{}', verify_tls = false }}",
            site.path("password")
        );
        site.write_nodes(&[bmc]);
        site.check_failure(&["n0", "off"], expected);
    };
    check(
        &serve(|_| Some(b"<html>".to_vec())),
        &["the answer is no such resource", "hint: is that a BMC with Redfish?"],
    );
    check(&serve(|_| Some(vec![b' '; 4 << 20])), &["the answer is longer than 1048576 bytes"]);
    let elsewhere = br#"{"Systems": {"@odata.id": "//198.51.100.1/redfish/v1/Systems"}}"#;
    check(
        &serve(|_| Some(elsewhere.to_vec())),
        &["cannot use '//198.51.100.1/redfish/v1/Systems'", "on the same BMC"],
    );
    check(&serve(|_| Some(b"{}".to_vec())), &["cannot use ''"]);
}

#[test]
fn what_switches_is_sent_once_and_may_have_been_done_without_an_answer() {
    use std::sync::atomic::{AtomicUsize, Ordering};

    let site = Site::new(&[]);
    let posts = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&posts);
    // A BMC that says the same of everything, and closes the connection when it is told something.
    let resource =
        br##"{"Systems": {"@odata.id": "/s"}, "Members": [{"@odata.id": "/s/1"}], "PowerState": "On",
        "Actions": {"#ComputerSystem.Reset": {"target": "/s/1/reset"}}}"##;
    let address = serve(move |head| match head.starts_with("POST /s/1/reset ") {
        true => {
            counted.fetch_add(1, Ordering::SeqCst);
            None
        }
        false => Some(resource.to_vec()),
    });
    let bmc = format!(
        "bmc_address = '{address}'\nbmc = {{ user = 'admin', password_file = '{}', verify_tls = false }}",
        site.path("password")
    );
    site.write_nodes(&[bmc]);
    site.check_failure(
        &["n0", "cycle"],
        &["cannot POST https://", "hint: the BMC may have done it all the same"],
    );
    assert_eq!(posts.load(Ordering::SeqCst), 1);
}
