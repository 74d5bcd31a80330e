//! The stream of events as its readers see it: what comes, where it is resumed, and how it ends.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use bootserve::events::BootEvent;
use bootspec::event::Phase;
use serde_json::Value;
use socket2::{Domain, Socket, Type};

use crate::support::{CARRIED_MAC, Daemon, FETCHED_MAC, MISFIT_MAC, NODE_MAC, wait_until};

/// A stream that is open, read line by line.
struct EventStream(BufReader<TcpStream>);

impl EventStream {
    fn open(daemon: &Daemon, query: &str, headers: &str) -> Self {
        let mut stream = daemon.connect();
        write!(stream, "GET /v1/events{query} HTTP/1.1\r\n{headers}\r\n").unwrap();
        let mut stream = Self(BufReader::new(stream));
        let mut head = Vec::new();
        loop {
            match stream.line().as_str() {
                "" => break,
                line => head.push(line.to_owned()),
            }
        }
        assert_eq!(head[0], "HTTP/1.1 200 OK");
        for field in ["Content-Type: text/event-stream", "Connection: close"] {
            assert!(head.iter().any(|line| line == field), "{field} in {head:?}");
        }
        assert!(!head.iter().any(|line| line.starts_with("Content-Length")), "{head:?}");
        assert_eq!(stream.line(), "retry: 3000");
        stream
    }

    /// None at the end.
    fn read_line(&mut self) -> Option<String> {
        let mut line = String::new();
        let length = self.0.read_line(&mut line).unwrap_or(0);
        (length > 0).then(|| line.trim_end().to_owned())
    }

    fn line(&mut self) -> String {
        self.read_line().expect("the stream ended")
    }

    /// The next event, with its number.
    fn event(&mut self) -> (i64, Value) {
        let id = loop {
            if let Some(id) = self.line().strip_prefix("id: ") {
                break id.parse().unwrap();
            }
        };
        let data = self.line();
        let event: Value = serde_json::from_str(data.strip_prefix("data: ").unwrap()).unwrap();
        assert_eq!(event["id"], id);
        (id, event)
    }
}

fn fetch_script(daemon: &Daemon, mac: &str) {
    assert_eq!(daemon.get(&format!("/ipxe?mac={mac}")).status, 200);
}

#[test]
fn events_come_as_they_happen_and_a_stream_is_resumed_where_it_was() {
    let daemon = Daemon::start();
    let mut stream = EventStream::open(&daemon, "", "");
    fetch_script(&daemon, CARRIED_MAC);
    let (first, event) = stream.event();
    assert_eq!((&event["node"], &event["phase"]), (&"node-001".into(), &"script".into()));
    assert_eq!((&event["image"], &event["message"]), (&"compute/v1".into(), &"carried".into()));
    drop(stream);
    // While nobody listens.
    fetch_script(&daemon, MISFIT_MAC);
    fetch_script(&daemon, FETCHED_MAC);
    for (query, headers) in
        [(String::new(), format!("Last-Event-ID: {first}\r\n")), (format!("?after={first}"), String::new())]
    {
        let mut stream = EventStream::open(&daemon, &query, &headers);
        let found = [(); 2].map(|()| stream.event().1);
        let found =
            found.each_ref().map(|event| (event["node"].as_str().unwrap(), event["phase"].as_str().unwrap()));
        assert_eq!(found, [("node-003", "refused"), ("node-002", "script")]);
    }
}

#[test]
fn a_stream_of_one_node_has_its_events_alone() {
    let daemon = Daemon::start();
    let mut stream = EventStream::open(&daemon, "?node=node-002&after=0", "");
    for mac in [NODE_MAC, CARRIED_MAC, FETCHED_MAC] {
        fetch_script(&daemon, mac);
    }
    assert_eq!(stream.event().1["node"], "node-002");
    assert_eq!(daemon.get("/v1/events?node=nosuch").status, 404);
}

#[test]
fn there_are_only_so_many_streams() {
    let daemon = Daemon::start();
    let streams: Vec<_> = (0..16).map(|_| EventStream::open(&daemon, "", "")).collect();
    let refused = daemon.get("/v1/events");
    assert_eq!((refused.status, refused.text().contains("16 streams")), (503, true));
    drop(streams);
    assert!(wait_until(|| daemon.get("/metrics").text().contains("bootserve_event_streams 0\n")));
    EventStream::open(&daemon, "", "");
}

#[test]
fn shutdown_ends_streams_at_once() {
    let daemon = Daemon::start();
    let mut streams = [(); 3].map(|()| EventStream::open(&daemon, "", ""));
    let started = Instant::now();
    daemon.stop();
    let took = started.elapsed();
    assert!(took < Duration::from_secs(1), "{took:?}");
    for stream in &mut streams {
        while stream.read_line().is_some() {}
    }
}

#[test]
fn a_client_that_takes_nothing_is_dropped() {
    let daemon = Daemon::start();
    // More than the buffers of both sides hold.
    for mac in [NODE_MAC, CARRIED_MAC, FETCHED_MAC, MISFIT_MAC] {
        let event = |_| BootEvent {
            message: Some("x".repeat(1000)),
            ..BootEvent::now(mac.parse().unwrap(), Phase::Dhcp)
        };
        daemon.record((0..1000).map(event).collect());
    }
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let address: SocketAddr = daemon.url().strip_prefix("http://").unwrap().parse().unwrap();
    socket.connect(&address.into()).unwrap();
    let mut silent = TcpStream::from(socket);
    silent.write_all(b"GET /v1/events?after=0 HTTP/1.1\r\n\r\n").unwrap();
    let is_open =
        |count: u8| daemon.get("/metrics").text().contains(&format!("bootserve_event_streams {count}\n"));
    assert!(wait_until(|| is_open(1)));
    assert!(wait_until(|| is_open(0)), "it is still waited for");
    // Others are served meanwhile and afterwards, from the beginning if they want.
    EventStream::open(&daemon, "?after=0", "").event();
}
