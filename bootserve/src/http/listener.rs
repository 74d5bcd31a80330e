//! Accepts connections, and keeps room for those who ask for something.
//!
//! There are as many connections at once as [`Slots`] has. When they are used up, the one that has waited longest without a
//! complete request is closed for a new one: whoever opens connections and says nothing shuts out nobody.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use futures_util::future::join_all;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use super::connection::{Connection, Context, Stream};

/// More connections than this take memory for nothing: iPXE and init have one each.
const MAX_CONNECTIONS: u64 = 16_384;
/// A connection has a socket, and a file that it sends.
const FILES_PER_CONNECTION: u64 = 2;
/// Left for everything else that the process opens.
const OTHER_FILES: u64 = 1024;
/// From the first byte of a TLS client to its last of the handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// When no file can be opened, a new attempt is of no use at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Where clients connect to.
pub(super) struct Listener {
    pub socket: TcpListener,
    /// Speaks TLS to them.
    pub tls: Option<TlsAcceptor>,
}

/// A connection on its way to the worker that serves it.
struct Accepted {
    stream: std::net::TcpStream,
    peer: SocketAddr,
    tls: Option<TlsAcceptor>,
    slot: Slot,
}

impl Listener {
    /// Hands connections to the workers in turn until `shutdown`.
    async fn run(self, slots: &Arc<Slots>, workers: &[Worker], shutdown: &CancellationToken) {
        for worker in workers.iter().cycle() {
            let (stream, peer) = tokio::select! {
                accepted = self.accept() => accepted,
                () = shutdown.cancelled() => return,
            };
            let Some(slot) = slots.take() else {
                warn!(%peer, limit = slots.limit, "too many HTTP connections, one is refused");
                continue;
            };
            match stream.into_std() {
                // A worker ends after us.
                Ok(stream) => {
                    drop(worker.accepted.send(Accepted { stream, peer, tls: self.tls.clone(), slot }))
                }
                Err(error) => debug!(%peer, %error, "HTTP connection broke"),
            }
        }
    }

    async fn accept(&self) -> (TcpStream, SocketAddr) {
        loop {
            match self.socket.accept().await {
                Ok(accepted) => return accepted,
                Err(error) => {
                    warn!(%error, "cannot accept an HTTP connection");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

/// A thread that serves connections, with a runtime of its own. Among threads that share their tasks, a download would move
/// from one to the next each time that its client has room, and the threads would spend their time waking each other.
struct Worker {
    accepted: mpsc::UnboundedSender<Accepted>,
    /// Nobody joins the thread: one that waits for a slow client must not hold up the end of the process.
    ended: oneshot::Receiver<()>,
}

impl Worker {
    fn start(context: Arc<Context>) -> io::Result<Self> {
        let (accepted, taken) = mpsc::unbounded_channel();
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        let (end, ended) = oneshot::channel();
        let work = move || {
            runtime.block_on(serve_all(taken, context));
            let _ = end.send(());
        };
        thread::Builder::new().name("http".to_owned()).spawn(work)?;
        Ok(Self { accepted, ended })
    }
}

/// Serves what is accepted until no more is, and then until all connections have ended.
async fn serve_all(mut taken: mpsc::UnboundedReceiver<Accepted>, context: Arc<Context>) {
    let tasks = TaskTracker::new();
    while let Some(accepted) = taken.recv().await {
        tasks.spawn(serve(accepted, Arc::clone(&context)));
    }
    tasks.close();
    tasks.wait().await;
}

async fn serve(accepted: Accepted, context: Arc<Context>) {
    let Accepted { stream, peer, tls, slot } = accepted;
    // Answers are written at once and whole.
    let stream = match TcpStream::from_std(stream).and_then(|it| it.set_nodelay(true).map(|()| it)) {
        Ok(stream) => stream,
        Err(error) => return debug!(%peer, %error, "HTTP connection broke"),
    };
    let stream = match tls {
        None => Stream::Plain(stream),
        Some(acceptor) => {
            let handshake = timeout(HANDSHAKE, acceptor.accept(stream));
            let accepted = tokio::select! {
                accepted = handshake => accepted,
                () = slot.wait() => return,
                () = context.shutdown.cancelled() => return,
            };
            match accepted {
                Ok(Ok(stream)) => Stream::Tls(Box::new(stream)),
                Ok(Err(error)) => return debug!(%peer, %error, "TLS handshake failed"),
                Err(_) => return debug!(%peer, "TLS handshake did not come to its end"),
            }
        }
    };
    Connection::new(stream, peer, &context).serve(|| slot.wait()).await;
}

/// Room for connections.
#[derive(Debug)]
pub(super) struct Slots {
    limit: u64,
    open: AtomicU64,
    next: AtomicU64,
    /// Connections without a complete request, those that have waited longest first.
    waiting: Mutex<BTreeMap<u64, Arc<Notify>>>,
}

/// Room for one connection.
#[derive(Debug)]
pub(super) struct Slot {
    slots: Arc<Slots>,
    evicted: Arc<Notify>,
}

impl Slots {
    /// As much room as the process may open files for.
    pub fn by_file_limit() -> Arc<Self> {
        let files = raise_file_limit();
        Self::new((files.saturating_sub(OTHER_FILES) / FILES_PER_CONNECTION).clamp(64, MAX_CONNECTIONS))
    }

    fn new(limit: u64) -> Arc<Self> {
        Arc::new(Self { limit, open: AtomicU64::new(0), next: AtomicU64::new(0), waiting: Mutex::default() })
    }

    /// How many connections there are.
    fn open(&self) -> u64 {
        self.open.load(Ordering::Relaxed)
    }

    /// Room for one more connection, if need be in place of one that waits. None if all of them are being answered.
    fn take(self: &Arc<Self>) -> Option<Slot> {
        if self.open() >= self.limit {
            let (_, longest) = self.waiting().pop_first()?;
            // It has gone before the next of its kind is needed; until then there is one more than the limit.
            longest.notify_one();
        }
        self.open.fetch_add(1, Ordering::Relaxed);
        Some(Slot { slots: Arc::clone(self), evicted: Arc::default() })
    }

    fn waiting(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<Notify>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Slot {
    /// Ready when the room is needed for another. Until then, and while it is awaited, it may be taken.
    async fn wait(&self) {
        let number = self.slots.next.fetch_add(1, Ordering::Relaxed);
        self.slots.waiting().insert(number, Arc::clone(&self.evicted));
        let _listed = Listed { slots: &self.slots, number };
        self.evicted.notified().await;
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.slots.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Takes a connection off the list when it does not wait any more.
struct Listed<'a> {
    slots: &'a Slots,
    number: u64,
}

impl Drop for Listed<'_> {
    fn drop(&mut self) {
        self.slots.waiting().remove(&self.number);
    }
}

/// Lets the process open as many files as it may; how many that is.
fn raise_file_limit() -> u64 {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let Some(maximum) = maximum else { return current.unwrap_or(u64::MAX) };
    match setrlimit(Resource::Nofile, Rlimit { current: Some(maximum), maximum: Some(maximum) }) {
        Ok(()) => maximum,
        Err(errno) => {
            warn!(%errno, "cannot raise the limit of open files");
            current.unwrap_or(maximum)
        }
    }
}

/// Has `listeners` serve until shutdown, when connections that are answering a request finish it.
pub(super) async fn run(listeners: Vec<Listener>, slots: Arc<Slots>, context: Context) -> io::Result<()> {
    let context = Arc::new(context);
    let cores = thread::available_parallelism()?.get();
    let workers: Vec<_> =
        (0..cores).map(|_| Worker::start(Arc::clone(&context))).collect::<io::Result<_>>()?;
    join_all(listeners.into_iter().map(|listener| listener.run(&slots, &workers, &context.shutdown))).await;
    for Worker { accepted, ended } in workers {
        drop(accepted);
        // An error says the same: the thread is not there any more.
        let _ = ended.await;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_connection_that_has_waited_longest_makes_room() {
        let slots = Slots::new(3);
        let [first, second, busy] = [(); 3].map(|()| slots.take().unwrap());
        let wait = |slot: Slot| async move {
            tokio::select! {
                () = slot.wait() => {}
                () = sleep(Duration::from_secs(3600)) => {}
            }
        };
        let first = tokio::spawn(wait(first));
        while slots.waiting().is_empty() {
            tokio::task::yield_now().await;
        }
        let second = tokio::spawn(wait(second));
        while slots.waiting().len() < 2 {
            tokio::task::yield_now().await;
        }
        let third = slots.take().unwrap();
        first.await.unwrap();
        assert_eq!((slots.open(), second.is_finished()), (3, false));
        let fourth = slots.take().unwrap();
        second.await.unwrap();
        // None of the three waits.
        assert!(slots.take().is_none());
        drop(busy);
        assert!(slots.take().is_some());
        drop((third, fourth));
        assert_eq!((slots.open(), slots.waiting().len()), (0, 0));
    }
}
