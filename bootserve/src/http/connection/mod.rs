//! One HTTP/1.1 connection: requests are read, given to the router, and answered one after the other.
//!
//! hyper would do for scripts and the API. It hands every byte of a body through the process, though, and images are sent at
//! three to nine times the cost of sendfile(2) that way; so the heads are read here, and files are sent by the kernel.

#[doc(hidden)]
pub mod head;
mod response;
mod stream;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::http::{Method, Request, StatusCode};
use bytes::{Bytes, BytesMut};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tower_service::Service;
use tracing::debug;

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

/// What a connection needs of the server.
pub(super) struct Context {
    /// Answers requests.
    pub router: Router,
    /// Scripts that are sent again without it.
    pub recent: Arc<RecentScripts>,
    /// Told the status of each answer.
    pub metrics: Arc<Metrics>,
    /// After this, requests are not taken any more.
    pub shutdown: CancellationToken,
}

/// A connection from `peer`.
pub(super) struct Connection<'a> {
    stream: Stream,
    peer: SocketAddr,
    /// What was received and is not used yet.
    received: BytesMut,
    context: &'a Context,
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

/// A request, and whether another may follow it.
struct Incoming {
    request: Request<Body>,
    keep_alive: bool,
}

impl<'a> Connection<'a> {
    pub fn new(stream: Stream, peer: SocketAddr, context: &'a Context) -> Self {
        Self { stream, peer, received: BytesMut::new(), context }
    }

    /// Answers until the client or an error ends it. While a request is awaited, `waiting` is what the connection waits for
    /// besides: when it is ready, the connection ends.
    pub async fn serve<W: Future<Output = ()>>(mut self, waiting: impl Fn() -> W) {
        let shutdown = &self.context.shutdown;
        loop {
            let incoming = tokio::select! {
                incoming = self.read() => incoming,
                () = waiting() => return,
                () = shutdown.cancelled() => return,
            };
            let sent = match incoming {
                Ok(Some(incoming)) => self.answer(incoming).await,
                Ok(None) => return,
                Err(error) => self.refuse(&error).await,
            };
            match sent {
                Ok(true) => {}
                Ok(false) => return self.stream.close().await,
                Err(error) => {
                    debug!(peer = %self.peer, %error, "HTTP connection broke");
                    return;
                }
            }
        }
    }

    /// The next request; none if the client is done.
    async fn read(&mut self) -> Result<Option<Incoming>, ReadError> {
        if self.received.is_empty() {
            let received = timeout(IDLE, self.stream.read(&mut self.received)).await;
            if !received.is_ok_and(|received| received.is_ok_and(|length| length > 0)) {
                return Ok(None);
            }
        }
        timeout(REQUEST, self.read_request()).await.map_err(|_| ReadError::Late)?.map(Some)
    }

    async fn read_request(&mut self) -> Result<Incoming, ReadError> {
        let head = loop {
            if let Some(head) = parse(&self.received)? {
                break head;
            }
            self.receive().await?;
        };
        let Head { request, head_bytes, body_bytes, keep_alive, expects_continue } = head;
        drop(self.received.split_to(head_bytes));
        // No longer than MAX_BODY_BYTES.
        let body_bytes = body_bytes as usize;
        if expects_continue && self.received.len() < body_bytes {
            self.stream.write(b"HTTP/1.1 100 Continue\r\n\r\n", false).await?;
        }
        while self.received.len() < body_bytes {
            self.receive().await?;
        }
        let body = self.received.split_to(body_bytes).freeze();
        let mut request = request.map(|()| Body::from(body));
        request.extensions_mut().insert(ConnectInfo(self.peer));
        request.extensions_mut().insert(self.stream.scheme());
        Ok(Incoming { request, keep_alive })
    }

    async fn receive(&mut self) -> io::Result<()> {
        match self.stream.read(&mut self.received).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }

    /// Whether the connection stays open.
    async fn answer(&mut self, incoming: Incoming) -> io::Result<bool> {
        let Incoming { request, keep_alive } = incoming;
        let (is_head, version) = (request.method() == Method::HEAD, request.version());
        let response = match repeated(&self.context.recent, &request) {
            Some(response) => response,
            None => {
                let Ok(response) = self.context.router.clone().call(request).await;
                response
            }
        };
        let keep_alive = keep_alive && !self.context.shutdown.is_cancelled();
        self.send(Answer { response, is_head, version, keep_alive }).await?;
        Ok(keep_alive)
    }

    /// Tells what is wrong, if there is still someone to tell.
    async fn refuse(&mut self, error: &ReadError) -> io::Result<bool> {
        let status = match error {
            ReadError::Head(error) => error.status(),
            ReadError::Late => StatusCode::REQUEST_TIMEOUT,
            ReadError::Connection(_) => return Ok(false),
        };
        debug!(peer = %self.peer, %error, "HTTP request refused");
        let response = text(status, error.to_string());
        self.send(Answer { response, is_head: false, version: Default::default(), keep_alive: false })
            .await?;
        Ok(false)
    }

    async fn send(&mut self, answer: Answer) -> io::Result<()> {
        self.context.metrics.http_responded(answer.response.status().as_u16());
        let (head, body) = answer.into_parts().await?;
        match body {
            response::Body::Bytes(body) => self.send_bytes(head, body).await,
            response::Body::File(body) => {
                self.stream.write(&head, true).await?;
                self.stream.write_file(&body).await?;
                (body.when_sent)();
                Ok(())
            }
        }
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
