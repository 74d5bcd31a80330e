//! Secrets of nodes, handed out once a boot over TLS: to whom, and who is refused.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Barrier;
use std::time::Duration;

use bootserve::events::BootEvent;
use bootspec::Sha256Digest;
use bootspec::credential::Credential;
use bootspec::event::{BootId, Phase};
use rcgen::{CertifiedKey, KeyPair, generate_simple_self_signed};
use serde_json::Value;
use sha2::{Digest, Sha256};
use socket2::{Domain, Socket, Type};
use tempfile::TempDir;
use tokio_rustls::rustls::StreamOwned;

use crate::http::{tls_client, write_certificate};
use crate::overlays::{text, unpacked};
use crate::support::{CARRIED_MAC, Daemon, FETCHED_MAC, read_newc};

/// node-002, which boots in fetched mode.
const NODE: &str = "127.0.0.102";
const OTHER: &str = "127.0.0.101";
const SECRET: &str = "munge of node-002\n";

/// A server whose node-001 and node-002 have secrets.
struct Site {
    daemon: Daemon,
    pair: CertifiedKey<KeyPair>,
    _keys: TempDir,
}

/// An answer to a request that was made from an address of its own.
#[derive(Debug, PartialEq, Eq)]
struct Answer {
    status: u16,
    head: String,
    body: Vec<u8>,
}

impl Site {
    fn start() -> Self {
        Self::start_with(|config| config)
    }

    fn start_with(change: impl Fn(String) -> String + Send + Sync + 'static) -> Self {
        let keys = tempfile::tempdir().unwrap();
        let pair = generate_simple_self_signed(["boot.cluster".to_owned()]).unwrap();
        let tls = write_certificate(keys.path(), &pair);
        let daemon = Daemon::start_with(move |config| {
            let config = config.replace("[nbp]", &format!("{tls}[nbp]"));
            let config = config.replace(
                "address = '127.0.0.101'\n",
                "address = '127.0.0.101'\nmode = 'fetched'\nsecrets = ['munge']\n",
            );
            change(config.replace(
                "address = '127.0.0.102'\n",
                "address = '127.0.0.102'\noverlays = ['base']\nsecrets = ['munge']\n",
            ))
        });
        let site = Self { daemon, pair, _keys: keys };
        site.write("base/etc/motd.j2", "{{ node.name }}\n");
        site.write("munge/etc/munge.key.j2", "munge of {{ node.name }}\n");
        site.write("munge/overlay.toml", "[files.'/etc/munge.key']\nmode = '0400'\nuid = 998\n");
        site
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.daemon.overlays().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// Where the script of a machine that begins to boot has it fetch its credential.
    fn begin(&self, mac: &str) -> String {
        self.daemon.begin_boot(mac);
        self.script(mac)
    }

    fn script(&self, mac: &str) -> String {
        let script = self.daemon.get(&format!("/ipxe?mac={mac}")).text();
        let line = script.lines().find(|line| line.starts_with("initrd --name credential.img "));
        let url = line.unwrap_or_else(|| panic!("no credential in {script}")).split(' ').nth(3).unwrap();
        assert!(script.contains(" initrd=initramfs-fetched.img initrd=credential.img "), "{script}");
        url.strip_prefix(&self.daemon.url()).unwrap().to_owned()
    }

    /// What the boot loader of a booting node gets.
    fn credential(&self, url: &str, from: &str) -> Credential {
        let (status, segment) = self.daemon.get_from(from, url);
        assert_eq!(status, 200, "{}", String::from_utf8_lossy(&segment));
        let members = read_newc(&segment);
        let names: Vec<_> = members.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["bootnode", "bootnode/credential"]);
        Credential::parse(&members[1].1).unwrap()
    }

    /// The credential of a node that has just begun to boot.
    fn new_credential(&self, mac: &str, from: &str) -> Credential {
        self.credential(&self.begin(mac), from)
    }

    fn ask(&self, from: &str, node: &str, token: Option<&str>) -> Answer {
        ask(self.daemon.https().unwrap(), &self.pair, from, node, token)
    }

    fn ask_with(&self, from: &str, credential: &Credential) -> Answer {
        self.ask(from, "node-002", Some(credential.token.as_str()))
    }

    /// Sees that `request` is refused, and that an event of the node says to whom and why. What is refused within a moment after
    /// something else is told by the log alone, so it is asked again and again.
    fn check_refused(&self, node: &str, event: &str, request: impl Fn() -> u16) {
        let noted = crate::support::wait_until(|| {
            assert_eq!(request(), 401, "{event}");
            self.events(node).iter().any(|message| message == event)
        });
        assert!(noted, "no {event:?} in {:?}", self.events(node));
    }

    fn events(&self, node: &str) -> Vec<String> {
        let events = self.daemon.json(&format!("/v1/nodes/{node}/events"));
        let messages = events.as_array().unwrap().iter().filter_map(|event| event["message"].as_str());
        messages.map(str::to_owned).collect()
    }

    fn counted(&self, result: &str) -> u64 {
        let metrics = self.daemon.get("/metrics").text();
        let line = format!("bootserve_secrets_total{{result=\"{result}\"}} ");
        let line = metrics.lines().find_map(|found| found.strip_prefix(&line));
        line.unwrap_or_else(|| panic!("{result} is not counted: {metrics}")).parse().unwrap()
    }

    /// Changes the database of the server, which goes on.
    fn change_database(&self, sql: &'static str) {
        let state = self.daemon.config_file().with_file_name("state").join("state.sqlite");
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            let url = format!("sqlite://{}", state.display());
            let pool = sqlx::SqlitePool::connect(&url).await.unwrap();
            assert!(sqlx::query(sql).execute(&pool).await.unwrap().rows_affected() > 0, "{sql}");
            pool.close().await;
        });
    }

    fn restart(self) -> Self {
        Self { daemon: self.daemon.restart(), ..self }
    }
}

fn ask(
    server: SocketAddr,
    pair: &CertifiedKey<KeyPair>,
    from: &str,
    node: &str,
    token: Option<&str>,
) -> Answer {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::new(from.parse().unwrap(), 0).into()).unwrap();
    socket.connect(&server.into()).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut stream = StreamOwned::new(tls_client(pair.cert.der()), TcpStream::from(socket));
    let authorization = token.map(|token| format!("Authorization: Bearer {token}\r\n")).unwrap_or_default();
    write!(stream, "GET /v1/secrets/{node} HTTP/1.1\r\n{authorization}Connection: close\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let end = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n").unwrap() + 4;
    let head = String::from_utf8(answer[..end].to_vec()).unwrap();
    Answer { status: head[9..12].parse().unwrap(), body: answer[end..].to_vec(), head }
}

#[test]
fn a_node_is_handed_its_secrets_once_and_nobody_sees_them_elsewhere() {
    let site = Site::start();
    let credential = site.new_credential(FETCHED_MAC, NODE);
    assert_eq!(
        (credential.address.to_string().as_str(), credential.path.as_str()),
        ("127.0.0.1:443", "/v1/secrets/node-002")
    );
    assert_eq!(credential.certificate, Sha256Digest::new(Sha256::digest(site.pair.cert.der()).into()));
    let answer = site.ask_with(NODE, &credential);
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(answer.head.contains("\r\nCache-Control: no-store\r\n"), "{}", answer.head);
    let dir = unpacked(&answer.body);
    assert_eq!(text(dir.path(), "etc/munge.key"), SECRET);
    let listing = std::process::Command::new("tar")
        .args(["-tvf", "t", "--numeric-owner"])
        .current_dir(dir.path())
        .output();
    let listing = String::from_utf8(listing.unwrap().stdout).unwrap();
    assert!(listing.contains("-r-------- 998/0") && !listing.contains("motd"), "{listing}");
    assert_eq!(site.counted("handed-out"), 1);

    let (status, plain) = site.daemon.get_from(NODE, "/overlays/node-002.tar");
    let plain = unpacked(&plain);
    assert_eq!((status, text(plain.path(), "etc/motd").as_str()), (200, "node-002\n"));
    assert!(!plain.path().join("etc/munge.key").exists(), "what is secret is sent in the clear");
    let token = credential.token.as_str();
    let script = site.daemon.get(&format!("/ipxe?mac={FETCHED_MAC}")).text();
    assert!(!script.contains(token) && !site.events("node-002").iter().any(|event| event.contains(token)));
}

#[test]
fn a_replay_is_refused_and_said_while_the_node_boots_and_when_it_is_up() {
    let site = Site::start();
    let url = site.begin(FETCHED_MAC);
    let credential = site.credential(&url, NODE);
    let again =
        "secrets refused to 127.0.0.102 (credential): the credential of this boot was handed out before";
    site.check_refused("node-002", again, || site.daemon.get_from(NODE, &url).0);
    assert_eq!(site.ask_with(NODE, &credential).status, 200, "what was refused takes nothing away");
    let replay = "secrets refused to 127.0.0.102 (secrets): the token was used before";
    site.check_refused("node-002", replay, || site.ask_with(NODE, &credential).status);
    assert!(site.counted("replay") >= 1 && site.counted("issued-before") >= 1);
    let noted = || site.events("node-002").iter().filter(|event| *event == replay).count();
    let before = noted();
    site.ask_with(NODE, &credential);
    assert_eq!(noted(), before, "who asks again and again costs nothing");

    let boot = BootId::new(1);
    let report =
        |phase| BootEvent { boot: Some(boot), ..BootEvent::now(FETCHED_MAC.parse().unwrap(), phase) };
    site.daemon.record(vec![report(Phase::SwitchRoot), report(Phase::Ready)]);
    assert_eq!(site.ask_with(NODE, &credential).status, 401);
    let late = "secrets refused to 127.0.0.102 (credential): the node is not booting: its firmware has not asked for an address since its system was up";
    site.check_refused("node-002", late, || site.daemon.get_from(NODE, &url).0);
}

#[test]
fn another_node_another_address_and_no_or_no_known_token_are_refused() {
    let site = Site::start();
    let credential = site.new_credential(FETCHED_MAC, NODE);
    let others = site.new_credential(CARRIED_MAC, OTHER);
    let refused = |from: &str, why: &str, token: Option<&str>| {
        let event = format!("secrets refused to {from} (secrets): {why}");
        site.check_refused("node-002", &event, || site.ask(from, "node-002", token).status);
    };
    refused(NODE, "the token is that of node-001", Some(others.token.as_str()));
    refused(OTHER, "the token is that of node-001", Some(others.token.as_str()));
    refused(OTHER, "the token was given to 127.0.0.102", Some(credential.token.as_str()));
    refused("127.0.0.7", "the token was given to 127.0.0.102", Some(credential.token.as_str()));
    refused(NODE, "no token was shown", None);
    refused(NODE, "the token is not known", Some(&"0".repeat(64)));
    let refusal = site.ask(NODE, "node-002", None);
    assert!(refusal.head.contains("\r\nWww-Authenticate: Bearer\r\n"), "{}", refusal.head);
    assert_eq!(refusal.body, b"refused: the log of bootserve says why\n");
    for node in ["node-000", "node-009"] {
        assert_eq!(site.ask(NODE, node, Some(credential.token.as_str())).status, 401, "{node}");
    }
    let url = site.begin(FETCHED_MAC);
    let elsewhere = "secrets refused to 127.0.0.101 (credential): this is not the node's address";
    site.check_refused("node-002", elsewhere, || site.daemon.get_from(OTHER, &url).0);
    let status = site.daemon.json("/v1/status");
    let node = status["nodes"].as_array().unwrap().iter().find(|node| node["name"] == "node-002");
    assert_eq!(node.unwrap()["state"], "booting", "what others ask for stops no boot: {status}");
    assert_eq!(site.ask_with(NODE, &credential).status, 200);
}

#[test]
fn without_tls_nothing_is_given_and_the_token_stays_good() {
    let site = Site::start();
    let credential = site.new_credential(FETCHED_MAC, NODE);
    let authorization = format!("Bearer {}", credential.token.as_str());
    let plain =
        || site.daemon.request("GET", "/v1/secrets/node-002", &[("Authorization", &authorization)]).status;
    site.check_refused(
        "node-002",
        "secrets refused to 127.0.0.1 (secrets): it was asked for without TLS",
        plain,
    );
    for path in ["/v1/secrets/node-002", "/credentials/node-002.img"] {
        assert_eq!(site.daemon.request("HEAD", path, &[]).status, 405, "{path}");
    }
    assert_eq!(site.ask_with(NODE, &credential).status, 200);
}

#[test]
fn an_older_boot_and_one_that_was_begun_long_ago_get_nothing() {
    let site = Site::start();
    let old_url = site.begin(FETCHED_MAC);
    let old = site.credential(&old_url, NODE);
    // A machine that asks again at once gets the same script.
    std::thread::sleep(bootserve::http::recent::REPEAT);
    let new_url = site.begin(FETCHED_MAC);
    assert_ne!(old_url, new_url);
    let new = site.credential(&new_url, NODE);
    let older = "secrets refused to 127.0.0.102 (secrets): it is of an older boot";
    site.check_refused("node-002", older, || site.ask_with(NODE, &old).status);
    site.change_database("UPDATE secret_tokens SET issued_unix_ms = issued_unix_ms - 601000");
    let late = "secrets refused to 127.0.0.102 (secrets): it comes more than 600 s after what it follows";
    site.check_refused("node-002", late, || site.ask_with(NODE, &new).status);

    std::thread::sleep(bootserve::http::recent::REPEAT);
    let url = site.begin(FETCHED_MAC);
    site.change_database("UPDATE events SET time_unix_ms = time_unix_ms - 601000 WHERE phase = 'script'");
    let late = "secrets refused to 127.0.0.102 (credential): it comes more than 600 s after what it follows";
    site.check_refused("node-002", late, || site.daemon.get_from(NODE, &url).0);
    let made_up = "/credentials/node-002.img?boot=0000000000000007";
    let unknown = "secrets refused to 127.0.0.102 (credential): the boot is not one of this node's";
    site.check_refused("node-002", unknown, || site.daemon.get_from(NODE, made_up).0);
}

#[test]
fn a_restart_between_loses_nothing_and_gives_nothing_twice() {
    let site = Site::start();
    let url = site.begin(FETCHED_MAC);
    let site = site.restart();
    let credential = site.credential(&url, NODE);
    let site = site.restart();
    assert_eq!(site.daemon.get_from(NODE, &url).0, 401);
    assert_eq!(site.ask_with(NODE, &credential).status, 200);
    let site = site.restart();
    assert_eq!(site.ask_with(NODE, &credential).status, 401);
}

#[test]
fn of_twenty_who_ask_at_once_one_is_given_each_thing() {
    let site = Site::start();
    let url = site.begin(FETCHED_MAC);
    let at_once = |request: &(dyn Fn() -> u16 + Sync)| {
        let barrier = Barrier::new(20);
        let mut statuses: Vec<u16> = std::thread::scope(|scope| {
            let asking = || {
                barrier.wait();
                request()
            };
            let threads: Vec<_> = (0..20).map(|_| scope.spawn(asking)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        statuses.sort_unstable();
        statuses
    };
    let one_of_twenty = [[200].as_slice(), &[401; 19]].concat();
    let segment = std::sync::Mutex::new(Vec::new());
    let statuses = at_once(&|| {
        let (status, body) = site.daemon.get_from(NODE, &url);
        if status == 200 {
            *segment.lock().unwrap() = body;
        }
        status
    });
    assert_eq!(statuses, one_of_twenty);
    let credential = Credential::parse(&read_newc(&segment.into_inner().unwrap())[1].1).unwrap();
    let (server, token) = (site.daemon.https().unwrap(), credential.token.as_str());
    assert_eq!(at_once(&|| ask(server, &site.pair, NODE, "node-002", Some(token)).status), one_of_twenty);
}

#[test]
fn secrets_that_cannot_be_made_or_fetched_make_the_node_wait_and_cost_no_token() {
    let site = Site::start_with(|config| config.replace("127.0.0.101'\nmode = 'fetched'", "127.0.0.101'"));
    site.daemon.begin_boot(CARRIED_MAC);
    let script = site.daemon.get(&format!("/ipxe?mac={CARRIED_MAC}")).text();
    for part in ["cannot boot: the node has secrets", "no network in mode carried", "chain --replace"] {
        assert!(script.contains(part), "{part} in {script}");
    }
    let check = site.daemon.command(&["check"]).output().unwrap();
    let check = String::from_utf8(check.stdout).unwrap();
    assert!(check.contains("node node-001 has secrets: init has no network in mode carried"), "{check}");
    let credential = site.new_credential(FETCHED_MAC, NODE);
    site.write("munge/etc/munge.key.j2", "{{ metadata.nosuch }}\n");
    assert_eq!(site.ask_with(NODE, &credential).status, 500);
    site.write("munge/etc/munge.key.j2", "munge of {{ node.name }}\n");
    assert_eq!(site.ask_with(NODE, &credential).status, 200);
}

#[test]
fn secrets_are_signed_if_there_is_a_key() {
    let keys = tempfile::tempdir().unwrap();
    let key = keys.path().join("key");
    let pair = minisign::KeyPair::generate_unencrypted_keypair().unwrap();
    fs::write(&key, pair.sk.to_box(None).unwrap().into_string()).unwrap();
    let site = Site::start_with(move |config| {
        config.replace("http_port", &format!("overlay_key = '{}'\nhttp_port", key.display()))
    });
    let answer = site.ask_with(NODE, &site.new_credential(FETCHED_MAC, NODE));
    let field = answer.head.lines().find_map(|line| line.strip_prefix("Bootnode-Signature: ")).unwrap();
    let signature = String::from_utf8(hex::decode(field).unwrap()).unwrap();
    let signature = minisign::SignatureBox::from_string(&signature).unwrap();
    let tar = std::io::Cursor::new(answer.body);
    minisign::verify(&pair.pk, &signature, tar, true, false, false).unwrap();
}

#[test]
fn commands_say_that_a_node_has_secrets_and_only_render_tells_them() {
    let site = Site::start();
    let shown = site.daemon.run_command(&["overlay", "show", "node-002"]);
    assert!(shown.contains("secrets, once a boot: munge") && shown.contains("/etc/munge.key"), "{shown}");
    let listed = site.daemon.run_command(&["overlay", "list", "--json"]);
    let listed: Value = serde_json::from_str(&listed).unwrap();
    let rows: Vec<_> =
        listed.as_array().unwrap().iter().map(|row| (&row["name"], &row["secret"], &row["nodes"])).collect();
    assert_eq!(serde_json::json!(rows), serde_json::json!([["base", false, 1], ["munge", true, 2]]));
    let explained = site.daemon.run_command(&["explain", "--mac", FETCHED_MAC, "--ipxe"]);
    assert!(explained.contains("secrets  munge, once a boot over TLS"), "{explained}");
    assert!(!(shown + &explained).contains("munge of"));
    assert_eq!(site.daemon.run_command(&["overlay", "render", "node-002", "/etc/munge.key"]), SECRET);
    let tar = site.daemon.config_file().with_file_name("t.tar");
    site.daemon.run_command(&["overlay", "render", "node-002", "--output", tar.to_str().unwrap()]);
    assert!(!unpacked(&fs::read(tar).unwrap()).path().join("etc/munge.key").exists());
}
