//! What bootserve is told about the boot: init keeps the record, and sends it at each phase while it has the network up;
//! `bootnode-report` sends it from the booted system.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::sleep;
use std::time::Duration;

use bootspec::ImageRef;
use bootspec::cmdline::BootParams;
use bootspec::diagnosis::explain;
use bootspec::event::{EVENTS_PATH, Event, MAX_MESSAGE_BYTES, Phase, Report, ReportError};
use bootspec::initramfs::BOOT_REPORT;

use crate::clock::uptime_ms;
use crate::code::Code;
use crate::http::{self, HttpError, Request, Timeouts, Url};
use crate::jitter::{jitter, spread};
use crate::kmsg;
use crate::last_words;

/// The network may come up after the system, and the head node may be away: tries never end, and the pause between them
/// doubles up to [`MAX_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const MAX_PAUSE: Duration = Duration::from_secs(60);
const TIMEOUTS: Timeouts = Timeouts { connect: Duration::from_secs(10), stall: Duration::from_secs(10) };

/// While the node boots, bootserve is told what it can be told at once.
const BOOT_TIMEOUTS: Timeouts = Timeouts { connect: Duration::from_secs(2), stall: Duration::from_secs(2) };

/// The record of this boot, while init runs. There is one boot, and the failure policy can be reached from any of its steps.
static RECORD: Mutex<Option<Record>> = Mutex::new(None);

struct Record {
    report: Report,
    /// Where it can be sent to, as long as the network is up.
    url: Option<Url>,
}

/// Begins the record with init's own start. Without `bootnode.mac=`, or without knowing the image, nobody could tell whose
/// boot it is, and there is no record.
pub fn begin(image: Option<&ImageRef>, params: &BootParams) {
    let (Some(mac), Some(image)) = (params.mac, image) else { return };
    let report = Report {
        mac,
        node: params.node.clone(),
        boot: params.boot,
        image: image.clone(),
        uptime_ms: 0,
        events: Vec::new(),
    };
    *record() = Some(Record { report, url: None });
    note(Phase::Init, None);
}

/// Notes that `phase` begins now, and tells bootserve, if it can be told.
pub fn phase(phase: Phase) {
    note(phase, None);
    send(&[]);
}

/// From now on bootserve can be told.
pub fn network_is_up(params: &BootParams) {
    let Some(base) = &params.report else { return };
    match Url::below(base, EVENTS_PATH) {
        Ok(url) => record().iter_mut().for_each(|record| record.url = Some(url.clone())),
        Err(error) => kmsg::warn(&format!("cannot report to bootserve: {error}")),
    }
    send(&[]);
}

/// From now on bootserve cannot be told any more.
pub fn network_is_down() {
    record().iter_mut().for_each(|record| record.url = None);
}

/// Tells bootserve that the boot has failed, if it can be told. `words` are what the console is going to say of it.
pub fn failed(code: Code, reason: &str, words: &[String]) {
    note(Phase::Failed, Some(shortened(format!("[{code}] {reason}"))));
    send(words);
}

/// bootserve refuses longer messages.
fn shortened(mut message: String) -> String {
    let end = (0..=MAX_MESSAGE_BYTES).rev().find(|end| message.is_char_boundary(*end)).unwrap_or(0);
    message.truncate(end);
    message
}

/// Leaves the record in /run for the booted system. A boot does not fail for want of a record.
pub fn save() {
    let Some(Record { report, .. }) = &*record() else { return };
    if let Err(error) = write(&report_path(), report) {
        kmsg::warn(&format!("cannot write /{BOOT_REPORT}: {error}"));
    }
}

fn note(phase: Phase, message: Option<String>) {
    let event = Event { phase, uptime_ms: uptime_ms(), message, console: None };
    record().iter_mut().for_each(|record| record.report.events.push(event.clone()));
}

/// A boot does not fail because bootserve does not listen, and the report at the end has all events once more.
///
/// The newest event has what the console says so far, and `words`; only for this once, or it would be in every report that follows.
fn send(words: &[String]) {
    let mut record = record();
    let Some(Record { report, url: Some(url) }) = &mut *record else { return };
    let console = last_words::of_kernel(words);
    report.events.iter_mut().next_back().into_iter().for_each(|event| event.console = console.clone());
    let sent = post(url, report, BOOT_TIMEOUTS);
    report.events.iter_mut().for_each(|event| event.console = None);
    if let Err(error) = sent {
        kmsg::warn(&format!("cannot report to bootserve: {}", explain(&error)));
    }
}

/// A panic while the record was held leaves it as it was.
fn record() -> MutexGuard<'static, Option<Record>> {
    RECORD.lock().unwrap_or_else(PoisonError::into_inner)
}

fn report_path() -> PathBuf {
    Path::new("/").join(BOOT_REPORT)
}

fn write(path: &Path, report: &Report) -> io::Result<()> {
    if let Some(dir) = path.parent() {
        DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(&serde_json::to_vec(report)?)
}

/// The report cannot be sent.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// A file cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The URL of bootserve has no address.
    #[error("cannot report to bootserve: {0}")]
    Url(#[from] HttpError),
    /// Init's record is damaged.
    #[error("/{BOOT_REPORT} is not usable: {0}")]
    Record(ReportError),
    /// bootserve will never take it.
    #[error("{url} refuses the report with HTTP status {status}: is this machine known there?")]
    Refused {
        /// Where it was sent.
        url: String,
        /// 4xx.
        status: u16,
    },
}

/// Tells the bootserve of `bootnode.report=` that the system is up, and how it got there. Without that parameter, or
/// without a record, there is nothing to tell and nobody to tell it to, which is no failure.
pub fn send_ready() -> Result<(), SendError> {
    let line = read(Path::new("/proc/cmdline"))?;
    let (params, _) = BootParams::parse(&String::from_utf8_lossy(&line));
    let Some(base) = params.report else {
        println!("bootnode-report: no bootnode.report= on the kernel command line, nothing to do");
        return Ok(());
    };
    if !report_path().exists() {
        println!(
            "bootnode-report: init left no record (the kernel command line lacks bootnode.mac=, or bootnode.image= in fetched mode), nothing to do"
        );
        return Ok(());
    }
    let mut report = Report::parse(&read(&report_path())?).map_err(SendError::Record)?;
    report.events.push(Event { phase: Phase::Ready, uptime_ms: uptime_ms(), message: None, console: None });
    post_until_taken(&Url::below(&base, EVENTS_PATH)?, &mut report)
}

fn post_until_taken(url: &Url, report: &mut Report) -> Result<(), SendError> {
    let mut longer = FIRST_PAUSE;
    loop {
        let pause = spread(longer, jitter());
        match post(url, report, TIMEOUTS) {
            Ok(status @ 400..500) => return Err(SendError::Refused { url: url.to_string(), status }),
            Ok(200..300) => return Ok(()),
            Ok(status) => println!("bootnode-report: {url}: HTTP status {status}; next try in {pause:.1?}"),
            Err(error) => println!("bootnode-report: {url}: {}; next try in {pause:.1?}", explain(&error)),
        }
        sleep(pause);
        longer = (longer * 2).min(MAX_PAUSE);
    }
}

/// Sends the report and returns the status of the answer.
fn post(url: &Url, report: &mut Report, timeouts: Timeouts) -> Result<u16, HttpError> {
    report.uptime_ms = uptime_ms();
    let body = serde_json::to_vec(report).expect("a report has only string keys");
    http::send(url, Request::Post(&body), timeouts).map(|response| response.status)
}

fn read(path: &Path) -> Result<Vec<u8>, SendError> {
    fs::read(path).map_err(|source| SendError::Read { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader, Read};
    use std::net::TcpListener;
    use std::os::unix::fs::PermissionsExt;

    fn report() -> Report {
        Report {
            mac: "fc:ab:14:e8:66:02".parse().unwrap(),
            node: None,
            boot: None,
            image: "compute/1".parse().unwrap(),
            uptime_ms: 0,
            events: vec![],
        }
    }

    #[test]
    fn the_record_is_private_and_reads_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bootnode/report.json");
        write(&path, &report()).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(Report::parse(&fs::read(&path).unwrap()).unwrap(), report());
    }

    #[test]
    fn long_messages_are_cut_between_characters() {
        assert_eq!(shortened("short".into()), "short");
        let cut = shortened("ä".repeat(MAX_MESSAGE_BYTES));
        assert_eq!(cut.len(), MAX_MESSAGE_BYTES);
        assert_eq!(shortened(format!("x{cut}")).len(), MAX_MESSAGE_BYTES - 1);
    }

    #[test]
    fn a_refused_report_is_sent_again_until_it_is_taken() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}{EVENTS_PATH}", listener.local_addr().unwrap()).parse().unwrap();
        let server = std::thread::spawn(move || {
            ["503 Busy", "204 No Content"].map(|status| answer(&listener, status))
        });
        post_until_taken(&url, &mut report()).unwrap();
        let [first, second] = server.join().unwrap();
        assert_eq!(Report::parse(&first).unwrap().mac, report().mac);
        assert_eq!(Report::parse(&second).unwrap().mac, report().mac);
    }

    #[test]
    fn a_report_that_will_never_be_taken_is_given_up() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}{EVENTS_PATH}", listener.local_addr().unwrap()).parse().unwrap();
        let server = std::thread::spawn(move || answer(&listener, "400 Bad Request"));
        let error = post_until_taken(&url, &mut report()).unwrap_err();
        assert!(error.to_string().contains("HTTP status 400"), "{error}");
        server.join().unwrap();
    }

    /// Takes one request, answers it with `status`, returns its body.
    fn answer(listener: &TcpListener, status: &str) -> Vec<u8> {
        let (stream, _) = listener.accept().unwrap();
        let mut reader = BufReader::new(stream);
        let mut length = 0;
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).unwrap();
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
            if line == "\r\n" {
                break;
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).unwrap();
        write!(reader.get_mut(), "HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            .unwrap();
        body
    }
}
