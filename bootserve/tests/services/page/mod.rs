//! The web page, as a browser shows it and a person uses it.

mod browser;
mod relay;

use std::time::{Duration, Instant, SystemTime};

use bootserve::events::BootEvent;
use bootspec::event::Phase;
use bootspec::manifest::BootMode;
use serde_json::{Value, json};

use self::browser::{Browser, DOWN, ENTER, ESCAPE, LEFT, RIGHT, TAB, UP};
use self::relay::Relay;
use crate::policies::with_policies;
use crate::support::store::publish;
use crate::support::{CARRIED_MAC, COMPUTE, Daemon, FETCHED_MAC, MISFIT_MAC, NODE_MAC};

/// Text that runs where it is taken for markup.
const MARKUP: &str = "<img src=x onerror=window.ran=1>";
const STRANGER: &str = "02:00:00:00:00:77";

fn page(daemon: &Daemon) -> String {
    format!("{}/ui", daemon.url())
}

/// A browser that shows the fleet.
fn open(daemon: &Daemon) -> Browser {
    let browser = Browser::open(&page(daemon));
    browser.wait_for("document.querySelector('.cell')");
    browser
}

fn cell(name: &str) -> String {
    format!(".cell[data-label='{name}']")
}

fn report(daemon: &Daemon, mac: &str, phase: &str, message: Option<&str>) {
    let report = json!({"mac": mac, "image": COMPUTE, "uptime_ms": 1,
                        "events": [{"phase": phase, "uptime_ms": 1, "message": message}]});
    assert_eq!(daemon.post("/v1/events", report.to_string().as_bytes()).status, 204);
}

fn introduce(daemon: &Daemon, serial: &str) {
    let facts = json!({
        "mac": STRANGER,
        "system": {"manufacturer": "Dell Inc.", "product": "PowerEdge R640", "serial": serial},
        "firmware": {"kind": "uefi"},
        "cpu": {"sockets": 2, "cores": 40, "threads": 80},
        "memory_bytes": 201_168_896_000_u64,
    });
    assert_eq!(daemon.post("/v1/discover", facts.to_string().as_bytes()).status, 200);
}

/// Pastes a token of the server.
fn log_in(browser: &Browser, daemon: &Daemon, role: &str) {
    let token = daemon.run_command(&["token", "new", role, "--role", role]);
    browser.go(&format!("{}#discovery", page(daemon)));
    browser.wait_for("document.querySelector('#token')");
    browser.type_into("#token", token.trim());
    browser.press(&[ENTER]);
    browser.wait_for_text("#discovery", "A token is kept for this tab");
}

#[test]
fn the_page_comes_with_a_strict_policy_and_once() {
    let daemon = Daemon::start();
    let page = daemon.get("/ui");
    assert_eq!((page.status, page.header("content-type")), (200, Some("text/html; charset=utf-8")));
    let policy = page.header("content-security-policy").unwrap();
    assert!(policy.starts_with("default-src 'self';") && !policy.contains("unsafe"), "{policy}");
    for (name, value) in [
        ("x-content-type-options", "nosniff"),
        ("referrer-policy", "no-referrer"),
        ("cache-control", "no-cache"),
    ] {
        assert_eq!(page.header(name), Some(value));
    }
    let etag = page.header("etag").unwrap();
    let again = daemon.request("GET", "/ui", &[("if-none-match", etag)]);
    assert_eq!((again.status, again.body.len()), (304, 0));
    // All that the page names is there.
    for file in page.text().split('"').filter(|text| text.starts_with("/ui/")) {
        assert_eq!(daemon.get(file).status, 200, "{file}");
    }
    assert_eq!(daemon.get("/ui/nosuch.js").status, 404);
    let codes = daemon.json("/ui/codes");
    assert!(codes.as_array().unwrap().iter().any(|code| code["code"] == "E-VERIFY"), "{codes}");
}

#[test]
fn a_browser_finds_the_page_and_matchbox_clients_find_what_they_did() {
    let daemon = Daemon::start_with(|config| {
        let (dir, _) = config.split_once("/store'").unwrap();
        let dir = dir.rsplit('\'').next().unwrap().to_owned();
        config + &format!("[compat]\nmatchbox = '{dir}/overlays'\n")
    });
    assert_eq!(daemon.get("/").text(), "matchbox\n");
    assert_eq!(daemon.request("GET", "/", &[("accept", "*/*")]).text(), "matchbox\n");
    let browser = Browser::open(&daemon.url());
    browser.wait_for_text("#headline", "of 4 nodes up");
    assert_eq!(browser.value("location.pathname"), "/ui");
}

#[test]
fn cells_follow_what_happens_without_a_reload_and_filters_show_some() {
    let daemon = Daemon::start();
    let browser = open(&daemon);
    assert_eq!(browser.value("document.querySelectorAll('.cell').length"), 4);
    browser.wait_for_text("#live", "live");
    browser.value("(window.marker = 1)");
    assert_eq!(browser.text(&cell("node-001")), "·");
    daemon.get(&format!("/ipxe?mac={CARRIED_MAC}"));
    browser.wait_for_text(&cell("node-001"), "3");
    assert_eq!(
        browser.value(&format!("document.querySelector(\"{}\").ariaLabel", cell("node-001"))),
        "node-001: booting, script"
    );
    report(&daemon, CARRIED_MAC, "ready", None);
    browser.wait_for_text(&cell("node-001"), "✓");
    report(&daemon, FETCHED_MAC, "failed", Some("[E-VERIFY] chunk 3 of rootfs.tar.zst is damaged"));
    browser.wait_for_text(&cell("node-002"), "✕");
    daemon.get(&format!("/ipxe?mac={MISFIT_MAC}"));
    browser.wait_for_text(&cell("node-003"), "!");
    assert_eq!(browser.text("#headline"), "2 of 4 nodes down");
    assert_eq!(browser.text("#subline"), "1 stuck, 1 failed, 1 ready");
    let causes = browser.text("#causes");
    for part in ["[E-VERIFY] chunk 3 of rootfs.tar.zst is damaged", "hint: ", "node-002", "node-003"] {
        assert!(causes.contains(part), "{part} in {causes}");
    }
    let listed = "[...document.querySelectorAll('#list tbody a')].map(link => link.textContent).join()";
    assert_eq!(browser.value(listed), "node-003,node-002", "those that are stuck come first");
    let shown = "[...document.querySelectorAll('.cell:not(.out)')].map(cell => cell.dataset.label).join()";
    browser.click(".chip:has([data-state='ready'])");
    assert_eq!(browser.value(shown), "node-001");
    browser.click(".chip:has([data-state='ready'])");
    for (query, expected) in [
        ("damaged", "node-002"),
        ("node-[000-001]", "node-000,node-001"),
        ("@*!node-000", "node-001,node-002,node-003"),
    ] {
        browser.type_into("#query", query);
        browser.wait_for(&format!("{shown} === '{expected}'"));
        browser.press(&[ESCAPE]);
        browser.wait_for("document.querySelectorAll('.cell:not(.out)').length === 4");
    }
    browser.type_into("#query", "node-[0");
    browser.wait_for_text("#matches", "has a bracket without its counterpart");
    assert_eq!(
        (browser.value("window.marker"), browser.complaints().len()),
        (json!(1), 1),
        "{:?}",
        browser.complaints()
    );
}

#[test]
fn everything_is_reached_with_the_keyboard() {
    let daemon = Daemon::start();
    let browser = open(&daemon);
    let focused = "(document.activeElement.dataset.label ?? document.activeElement.id)";
    browser.press(&["/"]);
    browser.wait_for(&format!("{focused} === 'query'"));
    browser.press(&["n", "o", "d", "e", "-", "0", "0", "1", ENTER]);
    browser.wait_for_text("#node-name", "node-001");
    browser.press(&[ESCAPE]);
    browser.wait_for(&format!("location.hash === '#fleet' && {focused} === 'node-001'"));
    browser.press(&[ESCAPE]);
    browser.wait_for("document.querySelectorAll('.cell:not(.out)').length === 4");
    for (key, expected) in [
        (RIGHT, "node-002"),
        (RIGHT, "node-003"),
        (RIGHT, "node-003"),
        (LEFT, "node-002"),
        (UP, "node-000"),
        (DOWN, "node-003"),
    ] {
        browser.press(&[key]);
        assert_eq!(browser.value(focused), expected);
    }
    let peeked = browser.text("#peek");
    assert!(
        peeked.starts_with("node-003") && peeked.contains("has not asked for an address yet"),
        "{peeked}"
    );
    assert_ne!(
        browser.value("getComputedStyle(document.activeElement).outlineStyle"),
        "none",
        "the focus is seen"
    );
    // The whole grid is one stop for Tab.
    browser.press(&[TAB]);
    assert_eq!(browser.value("document.activeElement.classList.contains('cell')"), false);
}

#[test]
fn a_node_is_shown_with_its_boots_its_error_and_its_settings_as_they_go() {
    let daemon = Daemon::start();
    let history =
        [(Phase::Dhcp, 90), (Phase::Nbp, 88), (Phase::Dhcp, 80), (Phase::Script, 78), (Phase::Kernel, 70)];
    daemon.record(events(FETCHED_MAC, &history));
    let daemon = daemon.restart();
    let browser = open(&daemon);
    log_in(&browser, &daemon, "viewer");
    browser.go(&format!("{}#node/node-002", page(&daemon)));
    browser.wait_for_text("#node", "has not asked for the initramfs");
    let phases =
        "[...document.querySelectorAll('.boot:first-of-type .phase')].map(phase => phase.textContent).join()";
    browser.wait_for(&format!("{phases} === 'dhcp,nbp,dhcp,script,kernel'"));
    browser.wait_for_text("#node .boot", "8.0 s");
    report(&daemon, FETCHED_MAC, "failed", Some("[E-VERIFY] chunk 3 is damaged\nhint: imagebuild verify"));
    browser.wait_for_text("#node", "failed after");
    browser.wait_for_text("#node .error", "E-VERIFY: a piece of the root is not what the manifest says");
    browser.wait_for_text("#node .hint", "hint: imagebuild verify");
    let last_words = json!({"mac": FETCHED_MAC, "image": COMPUTE, "uptime_ms": 2, "events": [
        {"phase": "failed", "uptime_ms": 2, "message": "again", "console": format!("nvme nvme0: I/O error\n{MARKUP}")}]});
    assert_eq!(daemon.post("/v1/events", last_words.to_string().as_bytes()).status, 204);
    browser.wait_for_text("#node-console pre", &format!("nvme nvme0: I/O error\n{MARKUP}"));
    daemon.get(&format!("/ipxe?mac={FETCHED_MAC}"));
    browser.wait_for("document.querySelectorAll('.boot').length === 2");
    browser.wait_for_text("#node .settings", "[[node]]");
    browser.wait_for_text("#node .settings", "127.0.0.102");
    assert_eq!(browser.complaints(), [""; 0]);
}

#[test]
fn images_have_their_versions_and_who_boots_and_runs_them() {
    let daemon = Daemon::start();
    publish(&daemon.store(), "spare/v2", BootMode::Discover, &[("vmlinuz", &[7; 3 << 20])]);
    daemon.get(&format!("/ipxe?mac={CARRIED_MAC}"));
    report(&daemon, CARRIED_MAC, "ready", None);
    let images = daemon.json("/v1/images");
    let names: Vec<_> =
        images.as_array().unwrap().iter().map(|image| image["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["compute", "failsafe", "spare"]);
    let compute = &images[0]["versions"][0];
    assert_eq!(
        (&compute["assigned"], &compute["running"]),
        (&json!(["node-001", "node-002"]), &json!(["node-001"]))
    );
    assert_eq!(
        (&compute["contents"]["is_signed"], &images[2]["versions"][0]["contents"]["size_bytes"]),
        (&json!(true), &json!(3 << 20))
    );
    let browser = Browser::open(&format!("{}#images", page(&daemon)));
    browser.wait_for_text("[data-version='compute/v1']", "2 nodes");
    browser.wait_for_text("[data-version='spare/v2']", "3.0 MiB");
    browser.click("[data-version='compute/v1'] summary");
    browser.wait_for_text("[data-version='compute/v1'] details", "node-[001-002]");
}

#[test]
fn a_machine_is_approved_and_what_strangers_write_stays_text() {
    let daemon = Daemon::start();
    introduce(&daemon, MARKUP);
    report(&daemon, CARRIED_MAC, "failed", Some(MARKUP));
    let browser = open(&daemon);
    browser.wait_for_text("#causes", MARKUP);
    browser.wait_for_text("#list", MARKUP);
    browser.go(&format!("{}#node/node-001", page(&daemon)));
    browser.wait_for_text("#node .boot", MARKUP);
    log_in(&browser, &daemon, "operator");
    browser.wait_for_text(".machine h3", MARKUP);
    assert_eq!(browser.text("#waiting"), "1");
    browser.click(".machine > button");
    browser.wait_for_text(".machine pre", MARKUP);
    for (field, text) in [("names", MARKUP), ("address", "127.0.0.77"), ("image", "compute")] {
        browser.type_into(&format!(".machine [name='{field}']"), text);
    }
    browser.press(&[ENTER]);
    browser.wait_for_text(".machine .problem", "is not a node name");
    assert_eq!(
        browser.value("document.querySelector('img') ?? window.ran ?? null"),
        Value::Null,
        "nothing ran"
    );
    let refused =
        "(() => { try { document.body.innerHTML = '<p>x</p>'; } catch (error) { return error.name; } })()";
    assert_eq!(browser.value(refused), "TypeError", "no text becomes markup, whoever wants it");

    browser.value("document.querySelector('.machine form').reset()");
    for (field, text) in [("names", "new-1"), ("address", "127.0.0.77"), ("image", "compute")] {
        browser.type_into(&format!(".machine [name='{field}']"), text);
    }
    browser.press(&[ENTER]);
    browser.wait_for_text(".machine .primary", "Approve as new-1");
    assert!(browser.text(".machine").contains("\"127.0.0.77\""), "{}", browser.text(".machine"));
    assert!(!daemon.get("/v1/status").text().contains("new-1"), "nothing is changed before it is confirmed");
    browser.press(&[ENTER]);
    browser.wait_for_text("#discovery", "change 1: new-1 is 02:00:00:00:00:77");
    browser.wait_for_text("#discovery", "No machine waits.");
    assert!(daemon.get(&format!("/ipxe?mac={STRANGER}")).text().contains("/images/compute/v1/"));
    browser.go(&page(&daemon));
    browser.wait_for(&format!("document.querySelector(\"{}\")", cell("new-1")));
    let kept = "[localStorage.length, document.cookie, Object.keys(sessionStorage).join()].join('|')";
    assert_eq!(browser.value(kept), "0||bootnode.token");
}

#[test]
fn what_a_policy_proposes_is_approved_with_two_clicks() {
    let daemon = Daemon::start_with(with_policies);
    introduce(&daemon, "1ABCDE2");
    let browser = open(&daemon);
    log_in(&browser, &daemon, "operator");
    browser.wait_for_text(".machine", "Policy rest proposes rest-1.");
    browser.wait_for_text(".machine", "tag big");
    browser.click(".machine .offer button");
    browser.wait_for_text(".machine .primary", "Approve as rest-1");
    assert!(browser.text(".machine").contains("\"127.0.0.61\""), "{}", browser.text(".machine"));
    assert!(!daemon.get("/v1/status").text().contains("rest-1"), "nothing is changed before it is confirmed");
    browser.press(&[ENTER]);
    browser.wait_for_text("#discovery", "change 1: rest-1 is 02:00:00:00:00:77");
    assert!(daemon.get(&format!("/ipxe?mac={STRANGER}")).text().contains("/images/compute/v1/"));
}

#[test]
fn a_token_that_is_not_good_enough_is_refused_in_the_servers_words() {
    let daemon = Daemon::start();
    introduce(&daemon, "1ABCDE2");
    let browser = open(&daemon);
    browser.go(&format!("{}#discovery", page(&daemon)));
    browser.wait_for("document.querySelector('#token')");
    browser.type_into("#token", "bootnode_0");
    browser.press(&[ENTER]);
    browser.wait_for_text("#discovery", "this token is not known");
    assert_eq!(browser.value("sessionStorage.length"), 0);
    log_in(&browser, &daemon, "viewer");
    browser.wait_for_text(".machine h3", "serial 1ABCDE2");
    for (field, text) in [("names", "new-1"), ("address", "127.0.0.77"), ("image", "compute")] {
        browser.type_into(&format!(".machine [name='{field}']"), text);
    }
    browser.press(&[ENTER]);
    browser.wait_for_text(".machine .problem", "the token viewer has the role viewer, expected operator");
}

#[test]
fn a_lost_connection_is_said_and_what_was_missed_is_made_up_for() {
    let daemon = Daemon::start();
    let relay = Relay::to(daemon.http_address());
    let browser = Browser::open(&format!("{}/ui", relay.url()));
    browser.wait_for_text("#live", "live");
    browser.wait_for("document.querySelector('#live').dataset.is === 'live'");
    browser.value("(window.marker = 1)");
    relay.cut();
    browser.wait_for_text("#banner:not([hidden])", "Not live since ");
    report(&daemon, CARRIED_MAC, "failed", Some("[E-VERIFY] chunk 3 is damaged"));
    let daemon = daemon.restart();
    assert_eq!(browser.text(&cell("node-001")), "·");
    relay.mend(daemon.http_address());
    browser.wait_for_text(&cell("node-001"), "✕");
    browser.wait_for(
        "document.querySelector('#live').dataset.is === 'live' && document.querySelector('#banner').hidden",
    );
    daemon.get(&format!("/ipxe?mac={NODE_MAC}"));
    browser.wait_for_text(&cell("node-000"), "3");
    assert_eq!(browser.value("window.marker"), 1);
}

#[test]
fn a_small_screen_is_wide_enough_for_every_view() {
    let daemon = Daemon::start_with(fleet_of(402));
    introduce(&daemon, "1ABCDE2-WITH-A-VERY-LONG-SERIAL-NUMBER-THAT-NOTHING-BREAKS-0123456789");
    daemon.record(disaster());
    let daemon = daemon.restart();
    let browser = open(&daemon);
    browser.resize(400, 700);
    log_in(&browser, &daemon, "operator");
    browser.wait_for("document.querySelector('.machine')");
    for view in ["#fleet", "#node/node-017", "#images", "#discovery"] {
        browser.go(&format!("{}{view}", page(&daemon)));
        browser.wait_for_text(&format!("{} h2", view.split('/').next().unwrap()), "");
        browser.wait_for("document.querySelector('.view:not([hidden])').innerText.length > 100");
        let width = browser.value("document.documentElement.scrollWidth").as_u64().unwrap();
        assert!(width <= 400, "{view} is {width} pixels wide");
    }
    browser.go(&page(&daemon));
    browser.wait_for_text("#headline", "392 of 402 nodes down");
    browser.screenshot("narrow");
}

#[test]
fn four_thousand_nodes_are_shown_and_followed() {
    let daemon = Daemon::start_with(fleet_of(4000));
    let began = Instant::now();
    let browser = Browser::open(&page(&daemon));
    browser.wait_for("document.querySelectorAll('.cell').length === 4000");
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
    browser.value(&format!("(document.querySelector(\"{}\").marker = 1)", cell("node-3999")));
    browser.wait_for("document.querySelector('#live').dataset.is === 'live'");
    report(&daemon, &mac(3999), "failed", Some("[E-FETCH] no server"));
    browser.wait_for_text(&cell("node-3999"), "✕");
    let marker = browser.value(&format!("document.querySelector(\"{}\").marker", cell("node-3999")));
    assert_eq!(marker, 1, "cells are changed, not made anew");
    browser.wait_for_text("#headline", "1 of 4,000 nodes down");
    browser.type_into("#query", "node-[0000-0099,3900-3999]");
    browser.wait_for_text("#matches", "200 nodes found");
}

#[test]
fn four_hundred_nodes_that_are_down_are_seen_at_once() {
    let daemon = Daemon::start_with(fleet_of(402));
    daemon.record(disaster());
    let daemon = daemon.restart();
    let browser = open(&daemon);
    browser.wait_for_text("#headline", "392 of 402 nodes down");
    let causes = browser.text("#causes");
    let expected = ["370", "node-[010-379]", "22", "[E-VERIFY]", "node-[380-401]"];
    assert!(expected.iter().all(|part| causes.contains(part)), "{causes}");
    browser.resize(1120, 640);
    browser.screenshot("fleet");
    browser.go(&format!("{}#node/node-385", page(&daemon)));
    browser.wait_for_text("#node .boot", "failed");
    browser.darken();
    browser.screenshot("node");
}

fn mac(number: usize) -> String {
    format!("fc:ab:14:01:{:02x}:{:02x}", number / 256, number % 256)
}

/// As many nodes, named with as many digits as the last one has, in place of those that are there.
fn fleet_of(count: usize) -> impl Fn(String) -> String {
    move |config| {
        let (config, _) = config.split_once("[[node]]").unwrap();
        let config = config.replace("127.0.0.0/24", "127.0.0.0/16");
        let digits = (count - 1).to_string().len();
        let nodes = (0..count).map(|number| {
            let (name, address) = (
                format!("node-{number:0digits$}"),
                format!("127.0.{}.{}", 100 + number / 250, 1 + number % 250),
            );
            format!(
                "[[node]]\nname = '{name}'\nmac = '{}'\naddress = '{address}'\nimage = 'compute'\n",
                mac(number)
            )
        });
        config + &nodes.collect::<String>()
    }
}

/// Events of a machine so many seconds ago.
fn events(mac: &str, history: &[(Phase, u64)]) -> Vec<BootEvent> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis() as i64;
    let event = |(phase, ago): &(Phase, u64)| BootEvent {
        time_unix_ms: now - 1000 * *ago as i64,
        image: (*phase == Phase::Script).then(|| COMPUTE.parse().unwrap()),
        message: match phase {
            Phase::Script => Some("fetched".to_owned()),
            Phase::Failed => Some(
                "[E-VERIFY] chunk 3 of rootfs.tar.zst is damaged: SHA-256 is not what the manifest says"
                    .to_owned(),
            ),
            _ => None,
        },
        ..BootEvent::now(mac.parse().unwrap(), *phase)
    };
    history.iter().map(event).collect()
}

/// A night on which hardly a node comes up.
fn disaster() -> Vec<BootEvent> {
    use Phase::{Dhcp, Failed, Init, Initramfs, Kernel, Nbp, Network, Ready, Script, SwitchRoot, Unpack};
    let loaded = [(Dhcp, 260), (Nbp, 258), (Dhcp, 246), (Script, 245), (Kernel, 240), (Initramfs, 231)];
    let failed = [&loaded[..], &[(Init, 228), (Network, 227), (Unpack, 220), (Failed, 204)]].concat();
    let up = [&loaded[..], &[(Init, 228), (Network, 227), (Unpack, 220), (SwitchRoot, 190), (Ready, 170)]]
        .concat();
    let course = |number: usize| match number {
        0..4 => up.clone(),
        4..7 => vec![(Dhcp, 9), (Nbp, 8), (Script, 4)],
        7..10 => vec![(Dhcp, 12), (Nbp, 11), (Script, 9), (Kernel, 5)],
        10..380 => vec![(Dhcp, 300 + number as u64 / 10), (Nbp, 299)],
        380..402 => failed.clone(),
        _ => Vec::new(),
    };
    (0..402).flat_map(|number| events(&mac(number), &course(number))).collect()
}
