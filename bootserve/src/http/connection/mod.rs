//! One HTTP/1.1 connection: requests are read, given to the router, and answered one after the other.
//!
//! hyper would do for scripts and the API. It hands every byte of a body through the process, though, and images are sent at
//! three to nine times the cost of sendfile(2) that way; so the heads are read here, and files are sent by the kernel.

#[doc(hidden)]
pub mod head;
mod response;
mod stream;

use std::io;
use std::net::SocketAddrV4;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::http::{Method, Request, StatusCode};
use bytes::{Buf, Bytes, BytesMut};
use tokio::time::{Instant, Sleep, sleep, timeout};
use tower_service::Service;
use tracing::debug;

use super::body::FileBody;
use super::event_stream::StreamBody;
use super::listener::Slot;
use super::recent::RecentScripts;
use super::scripts::repeated;
use super::text;
use crate::metrics::Metrics;
use head::{Head, HeadError, parse};
use response::Answer;
pub(super) use stream::Stream;

/// How long a client may keep a connection without asking for anything. iPXE and UEFI close theirs when they are done.
const IDLE: Duration = Duration::from_secs(75);
/// From the first byte of a request to its last.
const REQUEST: Duration = Duration::from_secs(20);

/// A file of so many bytes may be sent by another thread than the one that was asked for it.
const LONG_BYTES: u64 = 1 << 20;

/// What a connection needs of the server.
pub(super) struct Context {
    /// Answers requests.
    pub router: Router,
    /// Scripts that are sent again without it.
    pub recent: Arc<RecentScripts>,
    /// Told the status of each answer.
    pub metrics: Arc<Metrics>,
}

/// A connection from `peer`.
pub(super) struct Connection<'a> {
    stream: Stream,
    peer: SocketAddrV4,
    /// What was received and is not used yet.
    received: BytesMut,
    context: &'a Context,
    slot: &'a Slot,
}

/// Why a request cannot be read.
#[derive(Debug, thiserror::Error)]
enum ReadError {
    #[error(transparent)]
    Head(#[from] HeadError),
    #[error("the request did not come to its end within {} s", REQUEST.as_secs())]
    Late,
    #[error("the connection broke")]
    Connection(#[from] io::Error),
}

/// A file that is to be sent as the answer to a request.
pub(super) struct Download {
    head: Vec<u8>,
    body: FileBody,
    keep_alive: bool,
}

/// What became of a request.
enum Answered {
    /// The next may come.
    Open,
    /// It was the last.
    Last,
    /// The answer is still to be sent.
    Download(Download),
}

/// A request, and whether another may follow it.
struct Incoming {
    request: Request<Body>,
    keep_alive: bool,
}

impl<'a> Connection<'a> {
    /// `received` is what has come already, to the thread that had it before.
    pub fn new(
        stream: Stream,
        received: BytesMut,
        peer: SocketAddrV4,
        context: &'a Context,
        slot: &'a Slot,
    ) -> Self {
        Self { stream, peer, received, context, slot }
    }

    /// Whether it can go to another thread.
    pub fn is_plain(&self) -> bool {
        matches!(self.stream, Stream::Plain(_))
    }

    /// What goes to another thread.
    pub fn into_parts(self) -> io::Result<(std::net::TcpStream, BytesMut)> {
        match self.stream {
            Stream::Plain(stream) => Ok((stream.into_std()?, self.received)),
            Stream::Tls(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// Answers until the client or an error ends it, its slot is needed for another while it waits for a request, or a long file
    /// is to be sent.
    pub async fn serve(&mut self) -> Option<Download> {
        let slot = self.slot;
        // Set up once for all requests: that would cost more than many an answer.
        let mut idle = pin!(sleep(IDLE));
        loop {
            slot.wait();
            let incoming = tokio::select! {
                biased;
                incoming = self.read(idle.as_mut()) => incoming,
                () = slot.evicted() => return None,
            };
            slot.answer();
            let answered = match incoming {
                Ok(Some(incoming)) => self.answer(incoming).await,
                Ok(None) => return None,
                Err(error) => self.refuse(&error).await.map(|()| Answered::Last),
            };
            match answered {
                Ok(Answered::Open) => {}
                Ok(Answered::Download(download)) => return Some(download),
                Ok(Answered::Last) => {
                    self.stream.close().await;
                    return None;
                }
                Err(error) => {
                    self.broke(&error);
                    return None;
                }
            }
        }
    }

    /// Sends a file; whether the connection goes on.
    pub async fn send(&mut self, download: Download) -> bool {
        let Download { head, body, keep_alive } = download;
        match self.send_file(head, body).await {
            Ok(()) if keep_alive => true,
            Ok(()) => {
                self.stream.close().await;
                false
            }
            Err(error) => {
                self.broke(&error);
                false
            }
        }
    }

    fn broke(&self, error: &io::Error) {
        debug!(peer = %self.peer, %error, "HTTP connection broke");
    }

    /// The next request; none if the client is done.
    async fn read(&mut self, idle: Pin<&mut Sleep>) -> Result<Option<Incoming>, ReadError> {
        if self.received.is_empty() && !self.read_first(idle).await {
            return Ok(None);
        }
        match parse(&self.received)? {
            // As nearly all do, it came in one piece.
            Some(head) if head.body_bytes == 0 => Ok(Some(self.take(head))),
            _ => timeout(REQUEST, self.read_request()).await.map_err(|_| ReadError::Late)?.map(Some),
        }
    }

    /// Whether something came in time.
    async fn read_first(&mut self, mut idle: Pin<&mut Sleep>) -> bool {
        let end = Instant::now() + IDLE;
        loop {
            tokio::select! {
                biased;
                received = self.stream.read(&mut self.received) => return received.is_ok_and(|length| length > 0),
                // It was set for an earlier request, if not for this.
                () = idle.as_mut() => match Instant::now() < end {
                    true => idle.as_mut().reset(end),
                    false => return false,
                },
            }
        }
    }

    async fn read_request(&mut self) -> Result<Incoming, ReadError> {
        let head = loop {
            if let Some(head) = parse(&self.received)? {
                break head;
            }
            self.receive().await?;
        };
        let all_bytes = head.all_bytes();
        if head.expects_continue && self.received.len() < all_bytes {
            self.stream.write(b"HTTP/1.1 100 Continue\r\n\r\n", false).await?;
        }
        while self.received.len() < all_bytes {
            self.receive().await?;
        }
        Ok(self.take(head))
    }

    /// The request with this head, all of which has come.
    fn take(&mut self, head: Head) -> Incoming {
        let mut body = self.received.split_to(head.all_bytes());
        body.advance(head.head_bytes);
        let mut request = head.request.map(|()| Body::from(body.freeze()));
        request.extensions_mut().insert(ConnectInfo(self.peer));
        request.extensions_mut().insert(self.stream.scheme());
        Incoming { request, keep_alive: head.keep_alive }
    }

    async fn receive(&mut self) -> io::Result<()> {
        match self.stream.read(&mut self.received).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }

    async fn answer(&mut self, incoming: Incoming) -> io::Result<Answered> {
        let Incoming { request, keep_alive } = incoming;
        let (is_head, version) = (request.method() == Method::HEAD, request.version());
        let response = match repeated(&self.context.recent, &request) {
            Some(response) => response,
            None => {
                let Ok(response) = self.context.router.clone().call(request).await;
                response
            }
        };
        let keep_alive = keep_alive && !self.slot.is_evicted() && !StreamBody::is_of(&response);
        match self.parts_of(Answer { response, is_head, version, keep_alive }).await? {
            (head, response::Body::File(body)) if body.length() >= LONG_BYTES => {
                return Ok(Answered::Download(Download { head, body, keep_alive }));
            }
            (head, body) => self.send_parts(head, body).await?,
        }
        Ok(if keep_alive { Answered::Open } else { Answered::Last })
    }

    /// Tells what is wrong, if there is still someone to tell.
    async fn refuse(&mut self, error: &ReadError) -> io::Result<()> {
        let status = match error {
            ReadError::Head(error) => error.status(),
            ReadError::Late => StatusCode::REQUEST_TIMEOUT,
            ReadError::Connection(_) => return Err(io::ErrorKind::ConnectionAborted.into()),
        };
        debug!(peer = %self.peer, %error, "HTTP request refused");
        let response = text(status, error.to_string());
        let answer = Answer { response, is_head: false, version: Default::default(), keep_alive: false };
        let (head, body) = self.parts_of(answer).await?;
        self.send_parts(head, body).await
    }

    async fn parts_of(&self, answer: Answer) -> io::Result<(Vec<u8>, response::Body)> {
        self.context.metrics.http_responded(answer.response.status().as_u16());
        answer.into_parts().await
    }

    async fn send_parts(&mut self, head: Vec<u8>, body: response::Body) -> io::Result<()> {
        match body {
            response::Body::Bytes(body) => self.send_bytes(head, body).await,
            response::Body::File(body) => self.send_file(head, body).await,
            response::Body::Stream(body) => {
                self.stream.write(&head, false).await?;
                body.send(&mut self.stream, self.slot).await
            }
        }
    }

    /// The body is dropped when it is sent, and with it what lets its machine download.
    async fn send_file(&mut self, head: Vec<u8>, body: FileBody) -> io::Result<()> {
        self.stream.write(&head, true).await?;
        self.stream.write_file(&body).await?;
        (body.when_sent)();
        Ok(())
    }

    /// What is short goes into one packet, and needs one call.
    async fn send_bytes(&mut self, mut head: Vec<u8>, body: Bytes) -> io::Result<()> {
        const SHORT: usize = 64 * 1024;
        if body.len() <= SHORT {
            head.extend_from_slice(&body);
            return self.stream.write(&head, false).await;
        }
        self.stream.write(&head, true).await?;
        self.stream.write(&body, false).await
    }
}
