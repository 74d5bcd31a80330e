//! `GET /v1/events`: boot events as they are stored, as Server-Sent Events (WHATWG HTML, section 9.2).
//!
//! A stream reads what it sends from the database, by the numbers of the events, and is only told when there is something new.
//! So one that is resumed with `Last-Event-ID` misses nothing, and one that is slow takes no memory. There are at most
//! [`MAX_STREAMS`], and a client that takes nothing for [`SLOW`] is dropped.

use std::fmt;
use std::net::SocketAddrV4;
use std::sync::Arc;
use std::time::Duration;
use std::{fmt::Write as _, io};

use axum::extract::{ConnectInfo, Query, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use bootspec::event::{BootId, Phase};
use bootspec::{ImageRef, MacAddr};
use bytes::{Bytes, BytesMut};
use serde::{Deserialize, Serialize};
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tracing::{debug, warn};

use super::api::no_such_node;
use super::connection::Stream;
use super::listener::Slot;
use super::{App, internal_error, text};
use crate::database::DatabaseError;
use crate::events::{BootEvent, Stored};

/// Each reads the database when there is something new; admins and their web pages are few.
pub const MAX_STREAMS: usize = 16;
/// A client that takes nothing for so long is dropped. It resumes where it was, if it comes back.
pub const SLOW: Duration = Duration::from_secs(10);
/// Proxies close what is silent for half a minute.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// What is stored within this is read together: a hall of nodes reports at once.
const GATHER: Duration = Duration::from_millis(100);
/// Events that are read at a time.
const BATCH: u32 = 200;
/// How long a client that lost its stream is to wait before it resumes it.
const GREETING: &str = "retry: 3000\n: boot events\n\n";

/// The streams that are open.
#[derive(Clone, Debug)]
pub struct EventStreams(Arc<Semaphore>);

impl Default for EventStreams {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(MAX_STREAMS)))
    }
}

impl EventStreams {
    /// How many there are.
    pub fn open(&self) -> usize {
        MAX_STREAMS - self.0.available_permits()
    }

    fn take(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.0).try_acquire_owned().ok()
    }
}

/// What a client wants to hear of.
#[derive(Debug, Deserialize)]
pub(super) struct EventsQuery {
    /// Name or MAC address; none for all.
    node: Option<String>,
    /// The number of the last event that the client has, for those who cannot send `Last-Event-ID`.
    after: Option<i64>,
}

/// An event as it is sent.
#[derive(Serialize)]
struct Sent<'a> {
    id: i64,
    node: Option<&'a str>,
    mac: MacAddr,
    time_unix_ms: i64,
    phase: Phase,
    boot: Option<BootId>,
    image: Option<&'a ImageRef>,
    message: Option<&'a str>,
}

/// `GET /v1/events`.
pub(super) async fn events(
    State(app): State<Arc<App>>,
    ConnectInfo(peer): ConnectInfo<SocketAddrV4>,
    Query(query): Query<EventsQuery>,
    headers: HeaderMap,
) -> Response {
    if let Some(node) = query.node.as_ref().filter(|node| app.served.config.machine_called(node).is_none()) {
        return no_such_node(node);
    }
    let Some(permit) = app.streams.take() else {
        return text(
            StatusCode::SERVICE_UNAVAILABLE,
            format!("there are {MAX_STREAMS} streams of events already"),
        );
    };
    let last = headers.get("last-event-id").and_then(|value| value.to_str().ok()?.trim().parse().ok());
    let after = match last.or(query.after) {
        Some(id) => id,
        None => match app.events.newest_id().await {
            Ok(id) => id,
            Err(error) => return internal_error(&error),
        },
    };
    let (sender, chunks) = mpsc::channel(1);
    let reader = Reader { app, node: query.node, after, sender, _permit: permit };
    tokio::spawn(reader.run());
    let head = [(CONTENT_TYPE, "text/event-stream"), (CACHE_CONTROL, "no-store")];
    let mut response = (head, ()).into_response();
    response.extensions_mut().insert(StreamBody { chunks: Arc::new(Mutex::new(chunks)), peer });
    response
}

/// Reads what one client is sent.
struct Reader {
    app: Arc<App>,
    node: Option<String>,
    after: i64,
    sender: mpsc::Sender<Bytes>,
    _permit: OwnedSemaphorePermit,
}

impl Reader {
    /// Until the client is gone.
    async fn run(mut self) {
        let mut news = self.app.events.news();
        let mut chunk = GREETING.to_owned();
        let mut heartbeat = Instant::now() + HEARTBEAT;
        loop {
            news.mark_unchanged();
            match self.read(&mut chunk).await {
                Ok(()) => {}
                Err(error) => {
                    return warn!(error = &error as &dyn std::error::Error, "a stream of events ended");
                }
            }
            if !chunk.is_empty() {
                if self.sender.send(std::mem::take(&mut chunk).into()).await.is_err() {
                    return;
                }
                heartbeat = Instant::now() + HEARTBEAT;
                continue;
            }
            tokio::select! {
                changed = news.changed() => match changed {
                    Ok(()) => sleep(GATHER).await,
                    Err(_) => return,
                },
                () = sleep_until(heartbeat) => chunk.push_str(":\n\n"),
                () = self.sender.closed() => return,
            }
        }
    }

    /// Appends what is new.
    async fn read(&mut self, chunk: &mut String) -> Result<(), DatabaseError> {
        // It may be another one than when the stream was opened.
        let config = Arc::clone(&self.app.events.served().config);
        let mac = match self.node.as_ref().map(|node| config.machine_called(node).flatten()) {
            // Nobody knows its MAC address yet, so there are no events of it.
            Some(None) => return Ok(()),
            mac => mac.flatten(),
        };
        for Stored { id, event } in self.app.events.events_after(self.after, mac, BATCH).await? {
            let BootEvent { mac, time_unix_ms, phase, boot, image, message, .. } = event;
            let (node, image, message) = (config.node_name(mac), image.as_ref(), message.as_deref());
            let sent = Sent { id, node, mac, time_unix_ms, phase, boot, image, message };
            // JSON has no line breaks outside of its strings, and escapes them inside.
            let json = serde_json::to_string(&sent).unwrap_or_default();
            // Writing to memory cannot fail.
            let _ = write!(chunk, "id: {id}\ndata: {json}\n\n");
            self.after = id;
        }
        Ok(())
    }
}

/// What a response carries in place of a body that has an end. It ends with the connection.
#[derive(Clone)]
pub(super) struct StreamBody {
    chunks: Arc<Mutex<mpsc::Receiver<Bytes>>>,
    peer: SocketAddrV4,
}

impl StreamBody {
    /// Whether the response carries one.
    pub fn is_of(response: &Response) -> bool {
        response.extensions().get::<Self>().is_some()
    }

    /// Sends what comes until the client goes away or is too slow, or until its `slot` is taken away. Always an error: the connection is of
    /// no use afterwards, and nobody waits for its end.
    pub async fn send(self, stream: &mut Stream, slot: &Slot) -> io::Result<()> {
        let mut chunks = self.chunks.lock().await;
        let mut ignored = BytesMut::new();
        loop {
            let chunk = tokio::select! {
                chunk = chunks.recv() => chunk.ok_or_else(|| io::Error::other("there are no more events"))?,
                read = stream.read(&mut ignored) => match read? {
                    0 => return Err(io::Error::other("the client has left its stream of events")),
                    _ => {
                        ignored.clear();
                        continue;
                    }
                },
                () = slot.evicted() => return Err(io::Error::other("the server stops")),
            };
            tokio::select! {
                written = timeout(SLOW, stream.write(&chunk, false)) => match written {
                    Ok(written) => written?,
                    Err(_) => {
                        let limit = SLOW.as_secs();
                        warn!(peer = %self.peer, limit_seconds = limit, "client of the stream of events dropped: it takes nothing");
                        return Err(io::ErrorKind::TimedOut.into());
                    }
                },
                () = slot.evicted() => {
                    debug!(peer = %self.peer, "a stream of events was cut off");
                    return Err(io::Error::other("the server stops"));
                }
            }
        }
    }
}

impl fmt::Debug for StreamBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamBody").field("peer", &self.peer).finish_non_exhaustive()
    }
}
