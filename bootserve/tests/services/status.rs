//! What is said of nodes whose boots do not go on: faults that are injected, each named by node and cause.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::process::{Output, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant, SystemTime};

use bootserve::dhcp::leases::Lease;
use bootserve::dhcp::store::write_leases;
use bootserve::events::BootEvent;
use bootserve::tftp::wire::{ErrorCode, Packet};
use bootspec::MacAddr;
use bootspec::event::{BootId, Phase};
use bootspec::manifest::BootMode;
use serde_json::{Value, json};
use socket2::{Domain, Socket, Type};
use sqlx::Connection;

use crate::support::store::publish;
use crate::support::{Daemon, wait_until};

/// A fault must be named within this.
const LIMIT: Duration = Duration::from_secs(5);
/// How long a line is waited for.
const PATIENCE: Duration = Duration::from_secs(20);

/// A node whose boot does not go on.
struct Fault {
    /// What is said to be wrong.
    cause: &'static str,
    /// How the node is said to do.
    state: &'static str,
    /// The image of the node.
    image: &'static str,
    /// What had happened before: the phases, and how many seconds ago.
    before: &'static [(Phase, i64)],
    inject: fn(&Daemon, &Machine),
}

/// A node of the table.
struct Machine {
    name: String,
    mac: MacAddr,
    address: String,
}

impl Machine {
    fn new(index: usize) -> Self {
        let mac = MacAddr::new([2, 0, 0, 0, 1, index as u8]);
        Self { name: format!("fault-{index:02}"), mac, address: format!("127.0.0.{}", 110 + index) }
    }

    fn boot(&self) -> BootId {
        let [.., last] = self.mac.octets();
        BootId::new(last.into())
    }

    fn fetch_script(&self, daemon: &Daemon) {
        assert_eq!(daemon.get(&format!("/ipxe?mac={}", self.mac)).status, 200);
    }

    fn get(&self, daemon: &Daemon, path: &str) -> u16 {
        daemon.get_from(&self.address, path).0
    }

    /// A connection from the node's own address.
    fn connect(&self, daemon: &Daemon) -> TcpStream {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::new(self.address.parse().unwrap(), 0).into()).unwrap();
        let server: SocketAddr = daemon.url().strip_prefix("http://").unwrap().parse().unwrap();
        socket.connect(&server.into()).unwrap();
        TcpStream::from(socket)
    }

    fn tftp(&self, daemon: &Daemon, file: &str) -> UdpSocket {
        let socket = UdpSocket::bind((self.address.as_str(), 0)).unwrap();
        socket.set_read_timeout(Some(LIMIT)).unwrap();
        daemon.send_read_request(&socket, file, "octet", &[]);
        socket
    }

    fn report(&self, daemon: &Daemon, phase: Phase, message: &str) {
        let event = json!({"phase": phase, "uptime_ms": 1, "message": message});
        let report = json!({"mac": self.mac, "image": "good/v1", "uptime_ms": 1, "events": [event]});
        assert_eq!(daemon.post("/v1/events", report.to_string().as_bytes()).status, 204);
    }

    /// What the database holds of the node when the server starts.
    fn history(&self, before: &[(Phase, i64)]) -> Vec<BootEvent> {
        let event = |(phase, seconds_ago): &(Phase, i64)| {
            let event = BootEvent::now(self.mac, *phase);
            BootEvent {
                time_unix_ms: event.time_unix_ms - seconds_ago * 1000,
                boot: (*phase >= Phase::Script).then(|| self.boot()),
                message: (*phase == Phase::Script).then(|| "fetched".to_owned()),
                ..event
            }
        };
        before.iter().map(event).collect()
    }
}

use Phase::{Dhcp, Init, Initramfs, Kernel, Nbp, Network, Script, SwitchRoot, Unpack};

/// The server's side first, then the node's.
const FAULTS: [Fault; 18] = [
    Fault {
        cause: "cannot boot: image missing has no current version",
        state: "stuck",
        image: "missing",
        before: &[],
        inject: |daemon, node| node.fetch_script(daemon),
    },
    Fault {
        cause: "good/v1 has no initramfs-fetched.img",
        state: "stuck",
        image: "good'\nmode = 'fetched",
        before: &[],
        inject: |daemon, node| node.fetch_script(daemon),
    },
    Fault {
        cause: "manifest",
        state: "stuck",
        image: "damaged",
        before: &[],
        inject: |daemon, node| {
            std::fs::write(daemon.store().join("damaged/v1/manifest.json"), "{").unwrap();
            node.fetch_script(daemon);
        },
    },
    Fault {
        cause: ".tar is not a regular file",
        state: "stuck",
        image: "carried",
        before: &[],
        inject: |daemon, node| {
            std::fs::create_dir(daemon.overlays().join(format!("{}.tar", node.name))).unwrap();
            node.fetch_script(daemon);
        },
    },
    Fault {
        cause: "cannot send vmlinuz",
        state: "stuck",
        image: "cut",
        before: &[],
        inject: |daemon, node| {
            node.fetch_script(daemon);
            std::fs::write(daemon.store().join("cut/v1/vmlinuz"), "ker").unwrap();
            assert_eq!(node.get(daemon, "/images/cut/v1/vmlinuz"), 500);
        },
    },
    Fault {
        cause: "TFTP request for \"pxelinux.0\" refused: there is no",
        state: "stuck",
        image: "good",
        before: &[],
        inject: |daemon, node| {
            node.tftp(daemon, "pxelinux.0").recv_from(&mut [0; 600]).unwrap();
        },
    },
    Fault {
        cause: "TFTP transfer of undionly.kpxe given up: the client ended the transfer with error 3: no memory",
        state: "stuck",
        image: "good",
        before: &[],
        inject: |daemon, node| {
            let socket = node.tftp(daemon, "undionly.kpxe");
            let (_, server) = socket.recv_from(&mut [0; 600]).unwrap();
            let error = Packet::Error { code: ErrorCode::Unknown(3), message: "no memory".to_owned() };
            socket.send_to(&error.encode(), server).unwrap();
        },
    },
    Fault {
        cause: "refused: the node is not booting",
        state: "stuck",
        image: "good",
        before: &[],
        inject: |daemon, node| {
            std::fs::write(daemon.overlays().join(format!("{}.tar", node.name)), "tar").unwrap();
            assert_eq!(node.get(daemon, &format!("/overlays/{}.tar", node.name)), 403);
        },
    },
    Fault {
        cause: "the download of initramfs.img broke off at",
        state: "stuck",
        image: "large",
        before: &[],
        inject: |daemon, node| {
            let mut stream = node.connect(daemon);
            node.fetch_script(daemon);
            write!(stream, "GET /images/large/v1/initramfs.img HTTP/1.1\r\n\r\n").unwrap();
            stream.read_exact(&mut [0; 100_000]).unwrap();
        },
    },
    Fault {
        cause: "waits for its turn to download, 0 before it",
        state: "booting",
        image: "large",
        before: &[],
        inject: |daemon, node| {
            node.fetch_script(daemon);
            let mut other = daemon.connect();
            // Until the one that broke off is noticed.
            let is_let_in = || {
                write!(other, "GET /images/large/v1/initramfs.img HTTP/1.1\r\n\r\n").unwrap();
                let mut status = [0; 12];
                other.read_exact(&mut status).unwrap();
                let is_let_in = &status == b"HTTP/1.1 200";
                if !is_let_in {
                    other = daemon.connect();
                }
                is_let_in
            };
            assert!(wait_until(is_let_in));
            assert_eq!(node.get(daemon, "/images/large/v1/initramfs.img"), 503);
            // It takes nothing until the test ends.
            std::mem::forget(other);
        },
    },
    Fault {
        cause: "firmware was given an address 40 s ago and has not loaded a boot program",
        state: "stuck",
        image: "good",
        before: &[(Dhcp, 40)],
        inject: |_, _| (),
    },
    Fault {
        cause: "firmware was given an address 5 times in 25 s",
        state: "stuck",
        image: "good",
        before: &[(Dhcp, 25), (Dhcp, 20), (Dhcp, 15), (Dhcp, 10), (Dhcp, 5)],
        inject: |_, _| (),
    },
    Fault {
        cause: "the script was not fetched",
        state: "stuck",
        image: "good",
        before: &[(Dhcp, 80), (Nbp, 70)],
        inject: |_, _| (),
    },
    Fault {
        cause: "has not asked for the kernel",
        state: "stuck",
        image: "good",
        before: &[(Dhcp, 80), (Script, 70)],
        inject: |_, _| (),
    },
    Fault {
        cause: "init has not reported since the initramfs was sent 4 min ago",
        state: "stuck",
        image: "good",
        before: &[(Script, 290), (Kernel, 280), (Initramfs, 270)],
        inject: |_, _| (),
    },
    Fault {
        cause: "no manifest of its root",
        state: "stuck",
        image: "good",
        before: &[(Script, 200), (Initramfs, 170), (Init, 120), (Network, 110)],
        inject: |_, _| (),
    },
    Fault {
        cause: "the system has not said that it is up",
        state: "stuck",
        image: "good",
        before: &[(Unpack, 500), (SwitchRoot, 400)],
        inject: |_, _| (),
    },
    Fault {
        cause: "the node says [E-VERIFY] chunk 3 of rootfs.tar.zst is damaged",
        state: "failed",
        image: "good",
        before: &[],
        inject: |daemon, node| {
            node.fetch_script(daemon);
            node.report(daemon, Phase::Failed, "[E-VERIFY] chunk 3 of rootfs.tar.zst is damaged");
        },
    },
];

fn daemon_with_faulty_nodes() -> Daemon {
    let daemon = Daemon::start_with(|config| {
        let mut config = config.replace("[nbp]", "[http]\nmax_downloads = 1\n[nbp]");
        for (index, fault) in FAULTS.iter().enumerate() {
            let Machine { name, mac, address } = Machine::new(index);
            config += &format!(
                "[[node]]\nname = '{name}'\nmac = '{mac}'\naddress = '{address}'\nimage = '{}'\n",
                fault.image
            );
        }
        config
    });
    let large = vec![7; 32 << 20];
    for image in ["good", "damaged", "cut", "large", "carried"] {
        let initramfs = if image == "large" { &large[..] } else { b"initramfs" };
        let mode = if image == "carried" { BootMode::Carried } else { BootMode::Failsafe };
        let files: [(&str, &[u8]); 2] = [("vmlinuz", b"kernel"), ("initramfs.img", initramfs)];
        publish(&daemon.store(), &format!("{image}/v1"), mode, &files);
    }
    let history = FAULTS.iter().enumerate();
    daemon.record(history.flat_map(|(index, fault)| Machine::new(index).history(fault.before)).collect());
    daemon.restart()
}

#[test]
fn injected_faults_are_each_named_by_node_and_cause() {
    let daemon = daemon_with_faulty_nodes();
    for (index, fault) in FAULTS.iter().enumerate() {
        let node = Machine::new(index);
        (fault.inject)(&daemon, &node);
        let injected = Instant::now();
        let path = format!("/v1/status?node={}", node.name);
        let is_named = |status: &Value| {
            let found = &status["nodes"][0];
            found["what"].as_str().is_some_and(|what| what.contains(fault.cause))
                && found["state"] == fault.state
        };
        let status = daemon.wait_for(&path, is_named);
        assert!(injected.elapsed() < LIMIT, "{} took {:?}", fault.cause, injected.elapsed());
        assert_eq!(status["nodes"][0]["name"], node.name);
    }
    let all = daemon.json("/v1/status");
    let states: Vec<_> =
        all["nodes"].as_array().unwrap().iter().map(|node| node["state"].as_str().unwrap()).collect();
    let first_others = states.iter().position(|state| *state != "stuck").unwrap();
    assert_eq!(states[first_others], "failed", "those that are stuck come first: {states:?}");
    assert!(!states[first_others..].contains(&"stuck"), "{states:?}");
    assert_eq!(all["summary"]["failed"], 1);
    let metrics = daemon.get("/metrics").text();
    for line in
        ["bootserve_node_states{state=\"failed\"} 1\n", "bootserve_boots_total{result=\"failed\"} 1\n"]
    {
        assert!(metrics.contains(line), "{line} in {metrics}");
    }
}

#[test]
fn a_machine_that_is_not_configured_is_named_by_its_address() {
    let daemon = Daemon::start();
    let stranger = "02:00:00:00:00:99";
    let mac = stranger.parse().unwrap();
    // The tables are there when it answers.
    assert_eq!(daemon.get("/healthz").status, 200);
    // As it is known by a lease alone, it has to have one.
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let database = format!("sqlite:{}", daemon.store().with_file_name("state/state.sqlite").display());
        let mut database = sqlx::SqliteConnection::connect(&database).await.unwrap();
        let expires = SystemTime::now() + Duration::from_secs(60);
        let lease = Lease { mac, address: [127, 0, 0, 200].into(), expires };
        write_leases(&mut database, [lease]).await.unwrap();
        database.close().await.unwrap();
    });
    daemon.get(&format!("/ipxe?mac={stranger}"));
    let status = daemon.json(&format!("/v1/status?node={stranger}"));
    let node = &status["nodes"][0];
    assert_eq!((&node["name"], &node["address"]), (&Value::Null, &"127.0.0.200".into()));
    assert_eq!(node["what"], "no image: it is not configured, and there is no boot.default_image");
    assert_eq!(daemon.get("/v1/status?node=nosuch").status, 404);
}

#[test]
fn what_is_refused_again_and_again_is_one_event() {
    let daemon = Daemon::start();
    for _ in 0..5 {
        daemon.get(&format!("/ipxe?mac={}", crate::support::MISFIT_MAC));
    }
    let events = daemon.json("/v1/nodes/node-003/events");
    assert_eq!(events.as_array().unwrap().len(), 1, "{events}");
    assert_eq!(events[0]["phase"], "refused");
    // That is no step of a boot.
    assert_eq!(daemon.json("/v1/nodes")[3]["phase"], Value::Null);
}

#[test]
fn a_download_is_followed() {
    let daemon = Daemon::start();
    let initramfs = vec![7; 32 << 20];
    publish(&daemon.store(), "large/v1", BootMode::Failsafe, &[("initramfs.img", &initramfs)]);
    let mut stream = daemon.connect();
    let script = daemon.get(&format!("/ipxe?mac={}", crate::support::NODE_MAC)).text();
    let boot = &script.split("?boot=").nth(1).unwrap()[..16];
    write!(stream, "GET /images/large/v1/initramfs.img?boot={boot} HTTP/1.1\r\n\r\n").unwrap();
    let sent = |status: &Value| status["nodes"][0]["download"]["sent_bytes"].as_u64().unwrap_or(0);
    let status = daemon.wait_for("/v1/status?node=node-000", |status| sent(status) > 0);
    let download = &status["nodes"][0]["download"];
    assert_eq!((&download["file"], &download["size_bytes"]), (&"initramfs.img".into(), &(32 << 20).into()));
    assert!(sent(&status) < 32 << 20 && download["percent"].as_u64().unwrap() < 100, "{status}");
    assert!(daemon.get("/metrics").text().contains("bootserve_downloads 1\n"));
    let mut rest = vec![0; 32 << 20];
    stream.read_exact(&mut rest).unwrap();
    daemon.wait_for("/v1/status?node=node-000", |status| status["nodes"][0]["phase"] == "initramfs");
    assert!(daemon.json("/v1/status?node=node-000")["nodes"][0]["download"].is_null());
}

#[test]
fn status_and_log_ask_the_running_server_and_else_read_its_database() {
    let mut daemon = Daemon::start();
    daemon.get(&format!("/ipxe?mac={}", crate::support::MISFIT_MAC));
    daemon.get(&format!("/ipxe?mac={}", crate::support::CARRIED_MAC));
    let text = |output: &Output| String::from_utf8(output.stdout.clone()).unwrap();
    let errors = |output: &Output| String::from_utf8(output.stderr.clone()).unwrap();
    for is_running in [true, false] {
        let status = daemon.command(&["status"]).output().unwrap();
        assert_eq!(status.status.code(), Some(0), "{}", errors(&status));
        let lines: Vec<_> = text(&status).lines().map(str::to_owned).collect();
        assert!(lines[1].starts_with("node-003  stuck    -"), "{lines:?}");
        assert!(lines[2].starts_with("node-001  booting  script"), "{lines:?}");
        assert_eq!(lines.last().unwrap(), "1 booting, 1 stuck, 2 unseen");
        assert!(!text(&status).contains('\x1b'), "colours are for terminals");
        let json = daemon.command(&["status", "node-001", "--json"]).output().unwrap();
        let json: Value = serde_json::from_slice(&json.stdout).unwrap();
        assert_eq!((&json["nodes"][0]["name"], &json["nodes"][1]), (&"node-001".into(), &Value::Null));
        let log = daemon.command(&["log", "node-001"]).output().unwrap();
        assert!(
            text(&log).trim_end().ends_with("+0.000 s  script       compute/v1  carried"),
            "{}",
            text(&log)
        );
        let unknown = daemon.command(&["status", "nosuch"]).output().unwrap();
        assert_eq!(unknown.status.code(), Some(1));
        assert!(errors(&unknown).contains("nosuch"), "{}", errors(&unknown));
        assert_eq!(errors(&status).contains("does not answer"), !is_running, "{}", errors(&status));
        if is_running {
            daemon.halt();
        }
    }
    let watched = daemon.command(&["status", "a,b"]).output().unwrap();
    assert_eq!(watched.status.code(), Some(1));
    let state = daemon.store().with_file_name("state");
    std::fs::remove_dir_all(state).unwrap();
    for args in [&["status"][..], &["log", "node-001"]] {
        let output = daemon.command(args).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        assert!(errors(&output).contains("there is no database"), "{}", errors(&output));
    }
}

/// The first lines of a command that goes on until it is killed.
fn first_lines(daemon: &Daemon, args: &[&str], count: usize, after_first: impl FnOnce()) -> Vec<String> {
    let mut child = daemon.command(args).stdout(Stdio::piped()).spawn().unwrap();
    let (sender, lines) = mpsc::channel();
    let output = BufReader::new(child.stdout.take().unwrap());
    let reader = std::thread::spawn(move || output.lines().try_for_each(|line| sender.send(line.unwrap())));
    let mut found: Vec<_> = lines.recv_timeout(PATIENCE).into_iter().collect();
    after_first();
    found.extend((1..count).filter_map(|_| lines.recv_timeout(PATIENCE).ok()));
    child.kill().unwrap();
    child.wait().unwrap();
    drop(lines);
    let _ = reader.join().unwrap();
    assert_eq!(found.len(), count, "{found:?}");
    found
}

#[test]
fn watch_prints_what_changes_and_follow_what_happens() {
    let daemon = Daemon::start();
    let fetch = |mac: &str| drop(daemon.get(&format!("/ipxe?mac={mac}")));
    let carried = crate::support::CARRIED_MAC;
    let lines = first_lines(&daemon, &["status", "node-001", "--watch"], 4, || fetch(carried));
    assert!(lines[0].contains(" node-001 unseen - "), "{lines:?}");
    assert_eq!(lines[1], "1 unseen");
    assert!(
        lines[2].contains(" node-001 booting script attempts=1 compute/v1: has had its script"),
        "{lines:?}"
    );
    assert_eq!(lines[3], "1 booting");
    let lines = first_lines(&daemon, &["log", "node-001", "--follow"], 2, || {
        let report = json!({"mac": carried, "image": "compute/v1", "uptime_ms": 1,
                            "events": [{"phase": "ready", "uptime_ms": 1}]});
        assert_eq!(daemon.post("/v1/events", report.to_string().as_bytes()).status, 204);
    });
    assert!(lines[0].contains("script") && lines[1].contains("ready"), "{lines:?}");
}
