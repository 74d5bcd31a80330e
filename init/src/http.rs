//! An HTTP/1.1 client for the boot network (RFC 9112): one request at a time, addresses instead of names. TLS is for the node's
//! secrets alone ([`send_private`]).
//!
//! The response head is parsed by httparse. What a boot server of ours or a common web server never sends to such requests,
//! chunked coding and interim responses, is refused. Every wait for the server is limited, and no answer is held in memory
//! beyond a bounded head: the caller reads the body.

use std::io::{self, BufRead, BufReader, Read, Take, Write};
use std::net::{SocketAddr, TcpStream};
use std::str::FromStr;
use std::time::Duration;

use bootspec::Sha256Digest;
use bootspec::cmdline::BaseUrl;
use bootspec::credential::{SIGNATURE_HEADER, SecretToken};
use zeroize::Zeroizing;

use crate::tls::{self, TlsError, TlsStream};

/// RFC 9112 leaves the limit to the recipient. Ours and nginx's heads have about 300 bytes.
const MAX_HEAD_BYTES: u64 = 16 * 1024;
const MAX_HEADERS: usize = 64;
const BUFFER_BYTES: usize = 64 * 1024;
const DEFAULT_PORT: u16 = 80;

/// How long to wait for a server.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// For a connection.
    pub connect: Duration,
    /// For the next bytes in either direction.
    pub stall: Duration,
}

/// The request got no usable answer.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// The URL is not one that can be asked without a resolver.
    #[error("{0} is not a URL of the form http://ADDRESS[:PORT]/PATH")]
    Url(String),
    /// The server cannot be reached.
    #[error("cannot connect to {address}")]
    Connect {
        /// The server.
        address: SocketAddr,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// TLS does not come about.
    #[error("cannot speak to {address} in private")]
    Tls {
        /// The server.
        address: SocketAddr,
        /// Why not.
        #[source]
        source: TlsError,
    },
    /// The connection broke, or nothing came for too long.
    #[error("cannot {action} {address}")]
    Io {
        /// What was attempted.
        action: &'static str,
        /// The server.
        address: SocketAddr,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The answer is not HTTP as we speak it.
    #[error("{address} answers with {problem}")]
    Answer {
        /// The server.
        address: SocketAddr,
        /// What is wrong.
        problem: &'static str,
    },
}

/// Where to ask for what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    address: SocketAddr,
    path: String,
}

impl Url {
    /// What is at `path`, which begins with a slash, on the server at `address`.
    pub fn at(address: SocketAddr, path: String) -> Self {
        Self { address, path }
    }

    /// The URL of `path`, which begins with a slash, below `base`.
    pub fn below(base: &BaseUrl, path: &str) -> Result<Self, HttpError> {
        format!("{base}{path}").parse()
    }
}

impl FromStr for Url {
    type Err = HttpError;

    fn from_str(text: &str) -> Result<Self, HttpError> {
        let parse = || {
            let rest = text.strip_prefix("http://")?;
            let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
            let address = host.parse().or_else(|_| format!("{host}:{DEFAULT_PORT}").parse()).ok()?;
            let plain = path.bytes().all(|byte| byte.is_ascii_graphic());
            plain.then(|| Self {
                address,
                path: if path.is_empty() { "/".to_owned() } else { path.to_owned() },
            })
        };
        parse().ok_or_else(|| HttpError::Url(text.to_owned()))
    }
}

impl std::fmt::Display for Url {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "http://{}{}", self.address, self.path)
    }
}

/// What is asked.
#[derive(Clone, Copy, Debug)]
pub enum Request<'a> {
    /// The whole file, or what of it begins at this offset.
    Get {
        /// Offset of the first byte wanted.
        from: u64,
    },
    /// What is given to the bearer of this alone.
    GetSecret(&'a SecretToken),
    /// To take a JSON document.
    Post(&'a [u8]),
}

/// A connection, with or without TLS.
#[derive(Debug)]
enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream>),
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.read(buffer),
            Self::Tls(stream) => stream.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.write(bytes),
            Self::Tls(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(stream) => stream.flush(),
            Self::Tls(stream) => stream.flush(),
        }
    }
}

/// An answer whose body is still to be read.
#[derive(Debug)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// What the server says of when to come again (only in seconds).
    pub retry_after: Option<Duration>,
    /// Offset of the body's first byte, and length of the whole file, of a partial answer.
    pub range: Option<Range>,
    /// Length of the body.
    pub length: u64,
    /// The signature of the body, as it stands in the head ([`SIGNATURE_HEADER`]).
    pub signature: Option<String>,
    address: SocketAddr,
    body: Take<BufReader<Stream>>,
}

/// What of a file is sent (RFC 9110 section 14.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// Offset of the first byte.
    pub start: u64,
    /// Length of the whole file.
    pub total: u64,
}

/// Sends `request` to `url` and reads the head of the answer.
pub fn send(url: &Url, request: Request<'_>, timeouts: Timeouts) -> Result<Response, HttpError> {
    let stream = connect(url.address, timeouts)?;
    exchange(Stream::Plain(stream), url, request)
}

/// The same with TLS, with the server that has this certificate. What is sent and answered is seen by nobody else.
pub fn send_private(
    url: &Url,
    certificate: Sha256Digest,
    request: Request<'_>,
    timeouts: Timeouts,
) -> Result<Response, HttpError> {
    let address = url.address;
    let stream = connect(address, timeouts)?;
    let stream =
        tls::connect(stream, address, certificate).map_err(|source| HttpError::Tls { address, source })?;
    exchange(Stream::Tls(Box::new(stream)), url, request)
}

fn connect(address: SocketAddr, timeouts: Timeouts) -> Result<TcpStream, HttpError> {
    let stream = TcpStream::connect_timeout(&address, timeouts.connect)
        .map_err(|source| HttpError::Connect { address, source })?;
    let failed = |source| HttpError::Io { action: "set a time-out for", address, source };
    stream.set_read_timeout(Some(timeouts.stall)).map_err(failed)?;
    stream.set_write_timeout(Some(timeouts.stall)).map_err(failed)?;
    Ok(stream)
}

fn exchange(mut stream: Stream, url: &Url, request: Request<'_>) -> Result<Response, HttpError> {
    let address = url.address;
    let failed = |action| move |source| HttpError::Io { action, address, source };
    let mut message = Zeroizing::new(head(url, request).into_bytes());
    if let Request::Post(body) = request {
        message.extend_from_slice(body);
    }
    stream.write_all(&message).and_then(|()| stream.flush()).map_err(failed("send the request to"))?;
    let mut reader = BufReader::with_capacity(BUFFER_BYTES, stream);
    let head = read_head(&mut reader).map_err(failed("read the answer of"))?;
    let head = parse_head(&head).map_err(|problem| HttpError::Answer { address, problem })?;
    let Head { status, retry_after, range, length, signature } = head;
    Ok(Response { status, retry_after, range, length, signature, address, body: reader.take(length) })
}

fn head(url: &Url, request: Request<'_>) -> String {
    let (method, fields) = match request {
        Request::Get { from: 0 } => ("GET", String::new()),
        Request::Get { from } => ("GET", format!("Range: bytes={from}-\r\n")),
        Request::GetSecret(token) => ("GET", format!("Authorization: Bearer {}\r\n", token.as_str())),
        Request::Post(body) => {
            ("POST", format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len()))
        }
    };
    format!(
        "{method} {} HTTP/1.1\r\nHost: {}\r\nUser-Agent: bootnode/{}\r\n{fields}Connection: close\r\n\r\n",
        url.path,
        url.address,
        env!("CARGO_PKG_VERSION")
    )
}

/// Reads up to and with the empty line.
#[doc(hidden)]
pub fn read_head(reader: &mut impl BufRead) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    let mut limited = reader.take(MAX_HEAD_BYTES);
    loop {
        let line = limited.read_until(b'\n', &mut head)?;
        if line == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it ends before or in its head"));
        }
        if head.ends_with(b"\r\n\r\n") || head.ends_with(b"\n\n") {
            return Ok(head);
        }
    }
}

#[doc(hidden)]
#[derive(Debug, PartialEq, Eq)]
pub struct Head {
    pub status: u16,
    pub retry_after: Option<Duration>,
    pub range: Option<Range>,
    pub length: u64,
    pub signature: Option<String>,
}

#[doc(hidden)]
pub fn parse_head(bytes: &[u8]) -> Result<Head, &'static str> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut response = httparse::Response::new(&mut headers);
    match response.parse(bytes) {
        Ok(httparse::Status::Complete(_)) => {}
        Ok(httparse::Status::Partial) | Err(_) => return Err("something that is not HTTP"),
    }
    let status = response.code.ok_or("no status")?;
    if status < 200 {
        return Err("an interim response");
    }
    let field = |name: &str| {
        let header = response.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name))?;
        std::str::from_utf8(header.value).ok().map(str::trim)
    };
    if field("transfer-encoding").is_some() {
        return Err("a transfer coding, which was not asked for");
    }
    let length = match (status, field("content-length")) {
        (204 | 304, _) => 0,
        (_, Some(length)) => length.parse().map_err(|_| "a malformed Content-Length")?,
        (_, None) => return Err("no Content-Length"),
    };
    let range = match (status, field("content-range")) {
        (206, Some(range)) => Some(parse_range(range).ok_or("a malformed Content-Range")?),
        (206, None) => return Err("a part of the file without Content-Range"),
        _ => None,
    };
    let retry_after = field("retry-after").and_then(|seconds| seconds.parse().ok()).map(Duration::from_secs);
    let signature = field(SIGNATURE_HEADER).map(str::to_owned);
    Ok(Head { status, retry_after, range, length, signature })
}

/// `bytes START-END/TOTAL`
fn parse_range(text: &str) -> Option<Range> {
    let (span, total) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (start, end) = span.split_once('-')?;
    let (start, end, total) = (start.parse().ok()?, end.parse::<u64>().ok()?, total.parse().ok()?);
    (start <= end && end < total).then_some(Range { start, total })
}

impl Response {
    /// Whether the status says success.
    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// Reads the next bytes of the body. 0 at its end; an end before [`Response::length`] is an error.
    pub fn read(&mut self, buffer: &mut [u8]) -> Result<usize, HttpError> {
        let failed = |source| HttpError::Io { action: "go on reading from", address: self.address, source };
        let length = self.body.read(buffer).map_err(failed)?;
        if length == 0 && self.body.limit() > 0 && !buffer.is_empty() {
            let missing = format!("{} of {} bytes are missing", self.body.limit(), self.length);
            return Err(failed(io::Error::new(io::ErrorKind::UnexpectedEof, missing)));
        }
        Ok(length)
    }

    /// Reads the whole body, of at most `max_bytes`.
    pub fn read_all(mut self, max_bytes: u64) -> Result<Vec<u8>, HttpError> {
        if self.length > max_bytes {
            return Err(HttpError::Answer {
                address: self.address,
                problem: "more than the answer may have",
            });
        }
        let mut bytes = vec![0; usize::try_from(self.length).expect("it is no more than a small limit")];
        let mut filled = 0;
        while filled < bytes.len() {
            filled += self.read(&mut bytes[filled..])?;
        }
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::TcpListener;

    const TIMEOUTS: Timeouts =
        Timeouts { connect: Duration::from_secs(5), stall: Duration::from_millis(200) };

    /// Answers one request with `answer`, keeps the connection open until the client is done, and returns the request.
    fn serve(answer: &'static str) -> (Url, std::thread::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url =
            format!("http://{}/images/c/1/rootfs.tar.zst", listener.local_addr().unwrap()).parse().unwrap();
        let server = std::thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            let mut reader = BufReader::new(stream);
            let mut request = read_head(&mut reader).unwrap();
            reader.get_mut().write_all(answer.as_bytes()).unwrap();
            // Until the client hangs up; what else it sent belongs to the request.
            reader.read_to_end(&mut request).unwrap();
            String::from_utf8(request).unwrap()
        });
        (url, server)
    }

    #[test]
    fn urls_have_an_address() {
        for (text, expected) in [
            ("http://192.168.0.1/x", Some("http://192.168.0.1:80/x")),
            ("http://10.0.0.1:8080", Some("http://10.0.0.1:8080/")),
            ("http://[fd00::1]/x", Some("http://[fd00::1]:80/x")),
            ("http://head/x", None),
            ("https://10.0.0.1/", None),
            ("http://10.0.0.1/a b", None),
        ] {
            let found = text.parse::<Url>().ok().map(|url| url.to_string());
            assert_eq!(found.as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn a_part_is_asked_for_by_its_offset_and_read_to_its_end() {
        let (url, server) =
            serve("HTTP/1.1 206 Partial\r\nContent-Range: bytes 7-9/10\r\ncontent-length: 3\r\n\r\nabcmore");
        let response = send(&url, Request::Get { from: 7 }, TIMEOUTS).unwrap();
        assert_eq!(response.range, Some(Range { start: 7, total: 10 }));
        assert_eq!(response.read_all(3).unwrap(), b"abc");
        let request = server.join().unwrap();
        assert!(request.starts_with("GET /images/c/1/rootfs.tar.zst HTTP/1.1\r\n"), "{request}");
        assert!(request.contains("\r\nRange: bytes=7-\r\n"), "{request}");
    }

    #[test]
    fn a_document_is_posted_whole() {
        let (url, server) = serve("HTTP/1.1 204 No Content\r\n\r\n");
        assert!(send(&url, Request::Post(b"{}"), TIMEOUTS).unwrap().is_success());
        assert!(server.join().unwrap().ends_with("Connection: close\r\n\r\n{}"));
    }

    #[test]
    fn a_server_that_stalls_is_given_up() {
        let (url, server) = serve("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc");
        let mut response = send(&url, Request::Get { from: 0 }, TIMEOUTS).unwrap();
        let mut buffer = [0; 10];
        assert_eq!(response.read(&mut buffer).unwrap(), 3);
        let HttpError::Io { source, .. } = response.read(&mut buffer).unwrap_err() else { panic!() };
        assert_eq!(source.kind(), io::ErrorKind::WouldBlock);
        drop(response);
        server.join().unwrap();
    }

    fn check_head(fields: &str, expected: Result<Head, &'static str>) {
        assert_eq!(parse_head(format!("HTTP/1.1 {fields}\r\n\r\n").as_bytes()), expected, "{fields:?}");
    }

    #[test]
    fn heads_say_how_much_comes_and_when_to_ask_again() {
        let retry_after = Some(Duration::from_secs(7));
        let busy = Head { status: 503, retry_after, range: None, length: 0, signature: None };
        check_head("503 Busy\r\nRetry-After: 7\r\nContent-Length: 0", Ok(busy));
        check_head("200 OK", Err("no Content-Length"));
        check_head("200 OK\r\nContent-Length: -1", Err("a malformed Content-Length"));
        check_head("200 OK\r\nTransfer-Encoding: chunked", Err("a transfer coding, which was not asked for"));
        check_head("100 Continue", Err("an interim response"));
        check_head("206 Partial\r\nContent-Length: 1", Err("a part of the file without Content-Range"));
        for range in ["bytes 1-0/3", "bytes 0-3/3", "bytes */3", "x", "bytes 0-1/*"] {
            let head = format!("206 Partial\r\nContent-Length: 1\r\nContent-Range: {range}");
            check_head(&head, Err("a malformed Content-Range"));
        }
    }

    #[test]
    fn an_endless_head_is_refused() {
        let endless = io::repeat(b'a').take(1 << 20);
        assert!(read_head(&mut BufReader::new(endless)).is_err());
    }

    proptest! {
        #[test]
        fn any_head_is_parsed_or_refused_without_panic(bytes: Vec<u8>, text in "HTTP/1.1 [0-9]{3} .{0,9}\r\n(.{0,20}: .{0,20}\r\n){0,4}\r\n") {
            let _ = parse_head(&bytes);
            let _ = parse_head(text.as_bytes());
        }
    }
}
