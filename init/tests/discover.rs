//! Checks in with a server that answers by a script, and with one that is not there.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::thread;
use std::time::Duration;

use bootspec::MacAddr;
use bootspec::facts::{DISCOVER_PATH, Facts};
use init::discover::{End, Outcome, check_in, check_in_once, facts};
use init::http::{Timeouts, Url};

const TIMEOUTS: Timeouts = Timeouts { connect: Duration::from_secs(60), stall: Duration::from_secs(60) };

/// The facts of a machine without anything, which are told apart by their memory.
fn facts_with(memory_bytes: u64) -> Facts {
    let nowhere = Path::new("/nonexistent");
    Facts { memory_bytes, ..facts::gather(nowhere, nowhere, MacAddr::new([2, 0, 0, 0, 0, 1])) }
}

fn url_of(listener: &TcpListener) -> Url {
    format!("http://{}{DISCOVER_PATH}", listener.local_addr().unwrap()).parse().unwrap()
}

/// The first line and the body.
type PostRequest = (String, Vec<u8>);

/// A server that gives these answers, one a connection, and then the requests.
fn serve(answers: Vec<String>) -> (Url, thread::JoinHandle<Vec<PostRequest>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = url_of(&listener);
    let requests = move || {
        let answer = |answer: String| {
            let mut reader = BufReader::new(listener.accept().unwrap().0);
            let (mut head, mut length) = (Vec::new(), 0);
            while head.last().is_none_or(|line| line != "\r\n") {
                let mut line = String::new();
                reader.read_line(&mut line).unwrap();
                if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                    length = value.trim().parse().unwrap();
                }
                head.push(line);
            }
            let mut body = vec![0; length];
            reader.read_exact(&mut body).unwrap();
            reader.get_mut().write_all(answer.as_bytes()).unwrap();
            (head[0].trim_end().to_owned(), body)
        };
        answers.into_iter().map(answer).collect()
    };
    (url, thread::spawn(requests))
}

fn status(status: &str) -> String {
    format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n")
}

fn ok(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

/// Checks in with such a server until the end. Returns it, how long was waited after each other answer, and how much memory
/// each of the facts said.
fn run(answers: Vec<String>) -> (End, Vec<Duration>, Vec<u64>) {
    let (url, server) = serve(answers);
    let (mut gathered, mut pauses) = (0, Vec::new());
    let gather = || {
        gathered += 1;
        facts_with(gathered)
    };
    let end = check_in(&url, TIMEOUTS, gather, |pause| pauses.push(pause));
    let requests = server.join().unwrap();
    assert!(requests.iter().all(|(line, _)| line == "POST /v1/discover HTTP/1.1"), "{requests:?}");
    let memory = requests.iter().map(|(_, body)| Facts::parse(body).unwrap().memory_bytes).collect();
    (end, pauses, memory)
}

fn check_pauses(pauses: &[Duration], expected: &[(f64, f64)]) {
    let fits = pauses.iter().zip(expected).all(|(pause, (least, most))| {
        let pause = pause.as_secs_f64();
        *least - 0.001 <= pause && pause <= *most + 0.001
    });
    assert!(fits && pauses.len() == expected.len(), "{pauses:?}, expected {expected:?}");
}

#[test]
fn it_checks_in_with_fresh_facts_until_it_is_told_to_reboot() {
    let (end, pauses, memory) = run(vec![
        status("503 Busy\r\nRetry-After: 5"),
        status("500 Oops"),
        status("404 Not Found"),
        ok(r#"{"action":"wait","seconds":10}"#),
        ok(r#"{"action":"install","seconds":10}"#),
        ok(r#"{"action":"reboot"}"#),
    ]);
    assert_eq!(end, End::Reboot);
    check_pauses(&pauses, &[(5.5, 6.0), (1.0, 2.0), (30.0, 60.0), (9.0, 11.0), (54.0, 66.0)]);
    assert_eq!(memory, [1, 2, 3, 4, 5, 6]);
}

#[test]
fn answers_that_make_no_sense_are_no_end() {
    let (end, pauses, _) = run(vec![
        ok("reboot"),
        ok(&format!(r#"{{"action":"reboot","reason":"{}"}}"#, "x".repeat(5000))),
        "HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n{\"action\":".to_owned(),
        "SSH-2.0-OpenSSH_9.2\r\n".to_owned(),
        ok(r#"{"action":"wait","seconds":99999999}"#),
        ok(r#"{"action":"poweroff"}"#),
    ]);
    assert_eq!(end, End::PowerOff);
    check_pauses(&pauses, &[(0.5, 1.0), (1.0, 2.0), (2.0, 4.0), (4.0, 8.0), (3240.0, 3960.0)]);
}

#[test]
fn a_server_that_is_not_there_is_named() {
    let url = url_of(&TcpListener::bind("127.0.0.1:0").unwrap());
    let Outcome::Failed(reason, None) = check_in_once(&url, &facts_with(1), TIMEOUTS) else { panic!() };
    assert!(reason.starts_with("cannot connect to 127.0.0.1:"), "{reason}");
}
