//! Fetching from servers that misbehave.

use super::*;
use crate::code::Code;
use crate::failure::BootError;
use crate::image::{ImageError, fetch_manifest};
use crate::trust::Trust;
use bootspec::cmdline::BootParams;
use bootspec::manifest::FORMAT;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread::spawn;

use proptest::prelude::*;

const TIMEOUTS: Timeouts = Timeouts { connect: Duration::from_secs(5), stall: Duration::from_millis(100) };
const PATIENCE: Patience = Patience {
    first_pause: Duration::from_millis(1),
    max_pause: Duration::from_millis(4),
    give_up: Duration::from_millis(300),
};
const FILE: &str = "rootfs.tar.zst";

/// How a server answers one request.
#[derive(Clone, Debug)]
enum Answer {
    /// With what was asked for.
    Well,
    /// Cut after so many bytes of the body.
    Cut(usize),
    /// Silent after so many bytes of the body.
    Stall(usize),
    /// With this status.
    Status(&'static str),
    /// From the beginning, whatever was asked for.
    WithoutRange,
    /// With this byte of the file flipped.
    Flipped(usize),
}

/// A server of `file` that gives these answers in turn, then the last for ever. Knows what was asked of it.
struct Server {
    source: String,
    offsets: Arc<Mutex<Vec<usize>>>,
}

impl Server {
    fn start(file: &[u8], answers: Vec<Answer>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let source = format!("http://{}/images/c/1", listener.local_addr().unwrap());
        let offsets = Arc::new(Mutex::new(Vec::new()));
        let (file, asked) = (file.to_vec(), Arc::clone(&offsets));
        spawn(move || {
            for (index, stream) in listener.incoming().enumerate() {
                let answer = answers.get(index).or(answers.last()).unwrap().clone();
                let (file, asked) = (file.clone(), Arc::clone(&asked));
                spawn(move || serve(stream.unwrap(), &file, answer, &asked));
            }
        });
        Self { source, offsets }
    }

    fn offsets(&self) -> Vec<usize> {
        self.offsets.lock().unwrap().clone()
    }
}

/// A client that gives up in the middle is no failure of the server.
fn serve(mut stream: TcpStream, file: &[u8], answer: Answer, asked: &Mutex<Vec<usize>>) {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        if stream.read_exact(&mut byte).is_err() {
            return;
        }
        request.push(byte[0]);
    }
    let request = String::from_utf8(request).unwrap();
    let range = request.lines().find_map(|line| line.strip_prefix("Range: bytes=")?.strip_suffix('-'));
    let start: usize = range.map_or(0, |start| start.parse().unwrap());
    asked.lock().unwrap().push(start);
    let mut body = file.to_vec();
    let (start, sent, then_silent) = match answer {
        Answer::Status(status) => {
            let _ = write!(stream, "HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n");
            return;
        }
        Answer::WithoutRange => (0, file.len(), false),
        Answer::Cut(length) => (start, length, false),
        Answer::Stall(length) => (start, length, true),
        Answer::Flipped(at) => {
            body[at] ^= 1;
            (start, file.len(), false)
        }
        Answer::Well => (start, file.len(), false),
    };
    let length = file.len() - start;
    let head = match start {
        0 => "HTTP/1.1 200 OK\r\n".to_owned(),
        _ => format!(
            "HTTP/1.1 206 Partial\r\nContent-Range: bytes {start}-{}/{}\r\n",
            file.len() - 1,
            file.len()
        ),
    };
    let _ = write!(stream, "{head}Content-Length: {length}\r\n\r\n");
    let _ = stream.write_all(&body[start..][..sent.min(length)]);
    if then_silent {
        let _ = stream.read(&mut [0]);
    }
}

fn file(length: usize) -> Vec<u8> {
    (0..length).map(|index| (index * 7 + index / 251) as u8).collect()
}

fn pieces(file: &[u8], size: usize) -> Vec<Piece> {
    let piece = |(index, bytes): (usize, &[u8])| Piece {
        offset_bytes: (index * size) as u64,
        size_bytes: bytes.len() as u64,
        sha256: Sha256Digest::new(Sha256::digest(bytes).into()),
    };
    file.chunks(size).enumerate().map(piece).collect()
}

/// Fetches `file` in pieces of `size` bytes from `servers`.
fn fetch(servers: &[&Server], file: &[u8], size: usize) -> Result<Vec<u8>, FetchError> {
    let sources: Vec<_> = servers.iter().map(|server| server.source.as_str()).collect();
    let fetcher = Fetcher::with_patience(sources.join(",").parse().unwrap(), TIMEOUTS, PATIENCE);
    let mut all = Vec::new();
    for piece in fetcher.stream(FILE, file.len() as u64, pieces(file, size), 1) {
        piece?.read_to_end(&mut all).unwrap();
    }
    Ok(all)
}

#[test]
fn a_cut_download_goes_on_where_it_was_cut() {
    let file = file(1000);
    let server = Server::start(&file, vec![Answer::Cut(130), Answer::Cut(0), Answer::Cut(400), Answer::Well]);
    assert_eq!(fetch(&[&server], &file, 100).unwrap(), file);
    assert_eq!(server.offsets(), [0, 130, 130, 530]);
}

#[test]
fn a_stalled_server_is_left_for_the_next_mirror() {
    let file = file(1000);
    let stalled = Server::start(&file, vec![Answer::Stall(250)]);
    let well = Server::start(&file, vec![Answer::Well]);
    assert_eq!(fetch(&[&stalled, &well], &file, 100).unwrap(), file);
    assert_eq!((stalled.offsets(), well.offsets()), (vec![0], vec![250]));
}

#[test]
fn busy_servers_are_asked_again() {
    let file = file(10);
    let server =
        Server::start(&file, vec![Answer::Status("503 Busy"), Answer::Status("429 Slow"), Answer::Well]);
    assert_eq!(fetch(&[&server], &file, 100).unwrap(), file);
    assert_eq!(server.offsets().len(), 3);
}

#[test]
fn a_file_that_no_mirror_has_ends_the_download_at_once() {
    let file = file(10);
    let servers = [Answer::Status("404 Not Found"), Answer::Status("403 Forbidden")]
        .map(|answer| Server::start(&file, vec![answer]));
    let error = fetch(&[&servers[0], &servers[1]], &file, 100).unwrap_err().to_string();
    assert!(
        error.contains("no mirror has rootfs.tar.zst") && error.contains("404") && error.contains("403"),
        "{error}"
    );
    assert_eq!(servers.map(|server| server.offsets().len()), [1, 1]);
}

#[test]
fn a_mirror_with_another_file_of_that_name_is_left() {
    let file = file(1000);
    let other = Server::start(&file[..900], vec![Answer::Well]);
    let well = Server::start(&file, vec![Answer::Well]);
    assert_eq!(fetch(&[&other, &well], &file, 100).unwrap(), file);
    assert_eq!(other.offsets(), [0]);
}

#[test]
fn a_server_that_cannot_resume_is_not_begun_anew() {
    let file = file(1000);
    let server = Server::start(&file, vec![Answer::Cut(300), Answer::WithoutRange]);
    let error = fetch(&[&server], &file, 100).unwrap_err().to_string();
    assert!(error.contains("cannot resume at byte 300"), "{error}");
}

#[test]
fn a_damaged_piece_is_fetched_again_from_the_next_mirror() {
    let file = file(1000);
    let damaged = Server::start(&file, vec![Answer::Flipped(555)]);
    let well = Server::start(&file, vec![Answer::Well]);
    assert_eq!(fetch(&[&damaged, &well], &file, 100).unwrap(), file);
    assert_eq!(well.offsets(), [500]);
}

#[test]
fn a_piece_that_is_damaged_everywhere_is_named_and_never_handed_out() {
    let file = file(1000);
    let server = Server::start(&file, vec![Answer::Flipped(555)]);
    let fetcher = Fetcher::with_patience(server.source.parse().unwrap(), TIMEOUTS, PATIENCE);
    let results: Vec<_> = fetcher.stream(FILE, 1000, pieces(&file, 100), 1).into_iter().collect();
    assert_eq!(results.len(), 6);
    assert!(results[..5].iter().all(Result::is_ok));
    let Err(FetchError::Damaged { piece, .. }) = &results[5] else { panic!("{:?}", results[5]) };
    assert_eq!(piece.offset_bytes, 500);
}

#[test]
fn a_server_that_stays_away_is_given_up_after_the_patience() {
    let file = file(1000);
    let server = Server::start(&file, vec![Answer::Cut(130), Answer::Status("503 Busy")]);
    let error = fetch(&[&server], &file, 100).unwrap_err();
    let FetchError::GivenUp { position, last, .. } = error else { panic!("{error}") };
    assert_eq!(position, 130);
    assert!(last.contains("503"), "{last}");
}

#[test]
fn time_that_the_receiver_takes_is_not_counted_against_the_server() {
    let file = file(1000);
    // It cuts the connection while nobody reads from it.
    let server = Server::start(&file, vec![Answer::Cut(200), Answer::Well]);
    let fetcher = Fetcher::with_patience(server.source.parse().unwrap(), TIMEOUTS, PATIENCE);
    let pieces = fetcher.stream(FILE, 1000, pieces(&file, 100), 1);
    sleep(PATIENCE.give_up * 2);
    assert!(pieces.into_iter().all(|piece| piece.is_ok()));
    assert_eq!(server.offsets(), [0, 200]);
}

/// The manifest of an image without a root.
fn manifest(image: &str) -> Vec<u8> {
    let json = format!(
        r#"{{"format": {FORMAT}, "image": "{image}", "architecture": "x86_64", "kernel_release": "6.1", "mode": "failsafe",
            "kernel_args": [], "artifacts": {{}}, "build": {{"inputs": "{}", "tool": "", "host": "", "time_unix": 0}}}}"#,
        "0".repeat(64)
    );
    json.into_bytes()
}

/// The image whose manifest is fetched from these mirrors, for a node whose kernel command line has `params`.
fn fetch_image(servers: &[&Server], params: &str) -> Result<String, ImageError> {
    let trust = Trust::read(Path::new("/nonexistent"), &BootParams::parse(params).0).unwrap();
    let sources: Vec<_> = servers.iter().map(|server| server.source.as_str()).collect();
    let fetcher = Fetcher::with_patience(sources.join(",").parse().unwrap(), TIMEOUTS, PATIENCE);
    fetch_manifest(&fetcher, &trust).map(|manifest| manifest.image.to_string())
}

#[test]
fn a_mirror_whose_manifest_is_damaged_is_left_for_the_next() {
    let damaged = Server::start(b"{}", vec![Answer::Well]);
    let away = Server::start(b"", vec![Answer::Status("404 Not Found")]);
    let well = Server::start(&manifest("c/1"), vec![Answer::Well]);
    assert_eq!(fetch_image(&[&damaged, &away, &well], "").unwrap(), "c/1");
    let error = fetch_image(&[&away, &damaged], "").unwrap_err();
    assert!(matches!(error, ImageError::Manifest(_)), "{error}");
    let error = fetch_image(&[&away, &away], "").unwrap_err();
    assert!(matches!(error, ImageError::Fetch(FetchError::Refused { .. })), "{error}");
}

#[test]
fn a_mirror_that_has_another_image_than_is_asked_for_is_left_for_the_next() {
    let start = |image| Server::start(&manifest(image), vec![Answer::Well]);
    let (other_name, other_version, well) = (start("d/2"), start("c/1"), start("c/2"));
    let fetched = fetch_image(&[&other_name, &other_version, &well], "bootnode.image=c/2");
    assert_eq!(fetched.unwrap(), "c/2");
    let error = fetch_image(&[&other_name, &other_version], "bootnode.image=c/2").unwrap_err();
    let text = "found the image c/1, and the kernel command line asks for bootnode.image=c/2";
    assert_eq!(error.to_string(), text);
    assert_eq!(BootError::from(error).code(), Code::OtherImage);
    assert_eq!(fetch_image(&[&other_name], "").unwrap(), "d/2", "nothing is asked for");
}

#[test]
fn documents_are_limited() {
    let file = file(1000);
    let server = Server::start(&file, vec![Answer::Cut(500), Answer::Well]);
    let fetcher = Fetcher::with_patience(server.source.parse().unwrap(), TIMEOUTS, PATIENCE);
    assert_eq!(fetcher.document("manifest.json", 1000).unwrap(), file);
    let error = fetcher.document("manifest.json", 999).unwrap_err().to_string();
    assert!(error.contains("more than 999 bytes"), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, ..ProptestConfig::default() })]
    #[test]
    fn cuts_anywhere_lose_and_double_nothing(length in 1usize..3000, size in 1usize..700, cuts in proptest::collection::vec(0usize..900, 0..12)) {
        let file = file(length);
        let answers = cuts.into_iter().map(Answer::Cut).chain([Answer::Well]).collect();
        let server = Server::start(&file, answers);
        prop_assert_eq!(fetch(&[&server], &file, size).unwrap(), file);
    }
}
