//! Accepts connections, and keeps room for those who ask for something.
//!
//! There are as many connections at once as [`Slots`] has. When they are used up, the one that has waited longest without a
//! complete request is closed for a new one: whoever opens connections and says nothing shuts out nobody.

use std::collections::HashMap;
use std::future::poll_fn;
use std::io;
use std::net::{SocketAddr, SocketAddrV4};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::thread;
use std::time::Duration;

use bytes::BytesMut;
use futures_util::future::join_all;
use futures_util::task::AtomicWaker;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime;
use tokio::sync::mpsc::{self, error::SendError};
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use super::connection::{Connection, Context, Download, Stream};

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
struct Assigned {
    peer: SocketAddrV4,
    slot: Slot,
    what: What,
}

enum What {
    /// It was just accepted.
    New { stream: std::net::TcpStream, tls: Option<TlsAcceptor> },
    /// The worker that was asked for this file has more to send than another.
    Download { stream: std::net::TcpStream, received: BytesMut, download: Download, sending: Sending },
}

impl Listener {
    /// Hands connections to the crew until `shutdown`.
    async fn run(self, slots: &Arc<Slots>, crew: &Crew, shutdown: &CancellationToken) {
        loop {
            let (stream, peer) = tokio::select! {
                accepted = self.accept() => accepted,
                () = shutdown.cancelled() => return,
            };
            let Some(slot) = slots.take() else {
                warn!(%peer, limit = slots.limit, "too many HTTP connections, one is refused");
                continue;
            };
            match stream.into_std() {
                Ok(stream) => {
                    let tls = self.tls.clone();
                    crew.take_in(Assigned { peer, slot, what: What::New { stream, tls } });
                }
                Err(error) => debug!(%peer, %error, "HTTP connection broke"),
            }
        }
    }

    /// Its socket is one of IPv4, which is all that nodes are known by.
    async fn accept(&self) -> (TcpStream, SocketAddrV4) {
        loop {
            match self.socket.accept().await {
                Ok((stream, SocketAddr::V4(peer))) => return (stream, peer),
                Ok((_, SocketAddr::V6(peer))) => warn!(%peer, "an HTTP connection by IPv6 is refused"),
                Err(error) => {
                    warn!(%error, "cannot accept an HTTP connection");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

/// The threads that serve connections, as many as there are cores.
///
/// Short answers are given by one of them while it can: they take it some microseconds each, and shared among threads that the
/// kernel has to wake for each they take half as long again. TLS takes time, and is shared out. What is long moves to the thread
/// that sends least.
struct Crew {
    context: Context,
    workers: Vec<Worker>,
    /// Which of them is next to have a client with TLS.
    next: AtomicUsize,
}

/// One thread of the crew, with a runtime of its own. Among threads that share their tasks, a download would move from one to the next
/// each time that its client has room, and the threads would spend their time waking each other.
struct Worker {
    assigned: mpsc::UnboundedSender<Assigned>,
    /// How many files it is sending, or is to send.
    downloads: Arc<AtomicUsize>,
}

impl Crew {
    /// The crew, and what is assigned to each of its workers.
    fn new(context: Context, size: usize) -> (Arc<Self>, Vec<mpsc::UnboundedReceiver<Assigned>>) {
        let (workers, assigned) = (0..size)
            .map(|_| {
                let (assigned, taken) = mpsc::unbounded_channel();
                (Worker { assigned, downloads: Arc::default() }, taken)
            })
            .unzip();
        (Arc::new(Self { context, workers, next: AtomicUsize::new(0) }), assigned)
    }

    fn take_in(&self, assigned: Assigned) {
        let worker = match assigned.what {
            What::New { tls: Some(_), .. } => self.next.fetch_add(1, Ordering::Relaxed) % self.workers.len(),
            _ => 0,
        };
        // It ends after the listeners.
        let _ = self.workers[worker].assigned.send(assigned);
    }

    /// The worker that sends least; not the one that gives short answers, if it can be helped.
    fn least_busy(&self) -> usize {
        let busy = |(_, worker): &(usize, &Worker)| worker.downloads.load(Ordering::Relaxed);
        self.workers.iter().enumerate().rev().min_by_key(busy).map_or(0, |(worker, _)| worker)
    }

    /// Has a thread serve what is assigned to `worker`; the other end of what is returned is dropped when it ends. Nobody joins the
    /// thread: one that waits for a slow client must not hold up the end of the process.
    fn start(
        self: &Arc<Self>,
        worker: usize,
        taken: mpsc::UnboundedReceiver<Assigned>,
        closing: CancellationToken,
    ) -> io::Result<oneshot::Receiver<()>> {
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        let (end, ended) = oneshot::channel();
        let crew = Arc::clone(self);
        let work = move || {
            runtime.block_on(crew.work(worker, taken, closing));
            let _ = end.send(());
        };
        thread::Builder::new().name("http".to_owned()).spawn(work)?;
        Ok(ended)
    }

    /// Serves what is assigned until `closing`, and then until all connections have ended.
    async fn work(
        self: Arc<Self>,
        worker: usize,
        mut taken: mpsc::UnboundedReceiver<Assigned>,
        closing: CancellationToken,
    ) {
        let tasks = TaskTracker::new();
        let serve = |assigned| tasks.spawn(Arc::clone(&self).serve(worker, assigned));
        loop {
            tokio::select! {
                Some(assigned) = taken.recv() => drop(serve(assigned)),
                () = closing.cancelled() => break,
            }
        }
        // What other workers still want to assign comes back to them.
        taken.close();
        while let Some(assigned) = taken.recv().await {
            serve(assigned);
        }
        tasks.close();
        tasks.wait().await;
    }

    /// Serves a connection until it ends or has gone to another worker.
    async fn serve(self: Arc<Self>, worker: usize, mut assigned: Assigned) {
        while let Some((other, moved)) = self.serve_here(worker, assigned).await {
            match self.workers[other].assigned.send(moved) {
                Ok(()) => return,
                Err(SendError(back)) => assigned = back,
            }
        }
    }

    /// The worker that is to go on with the connection, unless it ended.
    async fn serve_here(&self, worker: usize, assigned: Assigned) -> Option<(usize, Assigned)> {
        let Assigned { peer, slot, what } = assigned;
        let broke = |error: &io::Error| debug!(%peer, %error, "HTTP connection broke");
        let (stream, received, mut download) = match what {
            What::New { stream, tls } => {
                let stream = open(stream, tls, peer, &slot).await.inspect_err(broke).ok()??;
                (stream, BytesMut::new(), None)
            }
            What::Download { stream, received, download, sending } => {
                let stream = TcpStream::from_std(stream).inspect_err(broke).ok()?;
                (Stream::Plain(stream), received, Some((download, sending)))
            }
        };
        let mut connection = Connection::new(stream, received, peer, &self.context, &slot);
        loop {
            if let Some((download, _sending)) = download
                && !connection.send(download).await
            {
                return None;
            }
            let next = connection.serve().await?;
            let sender = if connection.is_plain() { self.least_busy() } else { worker };
            let sending = Sending::begin(&self.workers[sender]);
            if sender != worker {
                let (stream, received) = connection.into_parts().inspect_err(broke).ok()?;
                let what = What::Download { stream, received, download: next, sending };
                return Some((sender, Assigned { peer, slot, what }));
            }
            download = Some((next, sending));
        }
    }
}

/// A file that a worker is sending. It counts from the moment that it is the worker's, or a hall that asks at once would all be given to one.
struct Sending(Arc<AtomicUsize>);

impl Sending {
    fn begin(worker: &Worker) -> Self {
        worker.downloads.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(&worker.downloads))
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A stream to speak HTTP on; none if TLS does not come about.
async fn open(
    stream: std::net::TcpStream,
    tls: Option<TlsAcceptor>,
    peer: SocketAddrV4,
    slot: &Slot,
) -> io::Result<Option<Stream>> {
    let stream = TcpStream::from_std(stream)?;
    // Answers are written at once and whole.
    stream.set_nodelay(true)?;
    let Some(acceptor) = tls else { return Ok(Some(Stream::Plain(stream))) };
    slot.wait();
    let accepted = tokio::select! {
        accepted = timeout(HANDSHAKE, acceptor.accept(stream)) => accepted,
        () = slot.evicted() => return Ok(None),
    };
    match accepted {
        Ok(Ok(stream)) => return Ok(Some(Stream::Tls(Box::new(stream)))),
        Ok(Err(error)) => debug!(%peer, %error, "TLS handshake failed"),
        Err(_) => debug!(%peer, "TLS handshake did not come to its end"),
    }
    Ok(None)
}

/// Room for connections.
#[derive(Debug)]
pub(super) struct Slots {
    limit: u64,
    next: AtomicU64,
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    connections: HashMap<u64, Arc<Wait>>,
    /// Those that had waited longest when it was last looked for them, the longest last: where the room is used up, it is used
    /// up for many in a row.
    longest: Vec<(u64, Arc<Wait>)>,
}

/// How many are looked for at a time.
const LONGEST: usize = 64;

/// How long a connection has waited, and the end of that. Each request goes through here, so it costs no lock.
#[derive(Debug, Default)]
struct Wait {
    /// The number of the wait for the request that has not come to its end: a lower one has waited longer. 0: none is awaited.
    since: AtomicU64,
    evicted: AtomicBool,
    waker: AtomicWaker,
}

/// Room for one connection.
#[derive(Debug)]
pub(super) struct Slot {
    slots: Arc<Slots>,
    number: u64,
    wait: Arc<Wait>,
}

impl Slots {
    /// As much room as the process may open files for.
    pub fn by_file_limit() -> Arc<Self> {
        let files = raise_file_limit();
        Self::new((files.saturating_sub(OTHER_FILES) / FILES_PER_CONNECTION).clamp(64, MAX_CONNECTIONS))
    }

    fn new(limit: u64) -> Arc<Self> {
        Arc::new(Self { limit, next: AtomicU64::new(1), open: Mutex::default() })
    }

    /// Room for one more connection, if need be in place of one that waits. None if all of them are being answered.
    fn take(self: &Arc<Self>) -> Option<Slot> {
        let (number, wait) = (self.next_number(), Arc::default());
        let mut open = self.open();
        // One that is evicted has gone before the next of its kind is needed; until then there is one more than the limit.
        if open.connections.len() as u64 >= self.limit && !open.evict_longest() {
            return None;
        }
        open.connections.insert(number, Arc::clone(&wait));
        Some(Slot { slots: Arc::clone(self), number, wait })
    }

    /// Has all connections end, when they have answered what they have been asked.
    fn close(&self) {
        self.open().connections.values().for_each(|wait| wait.evict());
    }

    fn next_number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Open {
    /// Whether there was one that waits.
    fn evict_longest(&mut self) -> bool {
        if self.evict_known() {
            return true;
        }
        let waiting = self.connections.values().map(|wait| (wait.since.load(Ordering::Relaxed), wait));
        let mut waiting: Vec<_> = waiting.filter(|(since, _)| *since > 0).collect();
        waiting.sort_unstable_by_key(|(since, _)| *since);
        let longest = waiting.into_iter().take(LONGEST).rev();
        self.longest = longest.map(|(since, wait)| (since, Arc::clone(wait))).collect();
        self.evict_known()
    }

    fn evict_known(&mut self) -> bool {
        while let Some((since, wait)) = self.longest.pop() {
            // Another number, or none: it has been answered since.
            if wait.since.compare_exchange(since, 0, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
                wait.evict();
                return true;
            }
        }
        false
    }
}

impl Wait {
    fn evict(&self) {
        self.evicted.store(true, Ordering::Release);
        self.waker.wake();
    }
}

impl Slot {
    /// From now on a request is awaited, and the slot may be needed for another connection.
    pub fn wait(&self) {
        self.wait.since.store(self.slots.next_number(), Ordering::Relaxed);
    }

    /// The request has come; until the next is awaited, the slot is ours.
    pub fn answer(&self) {
        self.wait.since.store(0, Ordering::Relaxed);
    }

    /// Whether the connection is to end.
    pub fn is_evicted(&self) -> bool {
        self.wait.evicted.load(Ordering::Acquire)
    }

    /// Ready when the connection is to end.
    pub async fn evicted(&self) {
        poll_fn(|context| {
            self.wait.waker.register(context.waker());
            if self.is_evicted() { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.slots.open().connections.remove(&self.number);
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
pub(super) async fn run(
    listeners: Vec<Listener>,
    slots: Arc<Slots>,
    context: Context,
    shutdown: CancellationToken,
) -> io::Result<()> {
    let (crew, assigned) = Crew::new(context, thread::available_parallelism()?.get());
    let closing = CancellationToken::new();
    let workers = (0..).zip(assigned).map(|(worker, taken)| crew.start(worker, taken, closing.clone()));
    let workers = workers.collect::<io::Result<Vec<_>>>()?;
    join_all(listeners.into_iter().map(|listener| listener.run(&slots, &crew, &shutdown))).await;
    slots.close();
    closing.cancel();
    for ended in workers {
        // An error says the same: the thread is not there any more.
        let _ = ended.await;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_connection_that_has_waited_longest_makes_room() {
        let slots = Slots::new(3);
        let [first, second, busy] = [(); 3].map(|()| slots.take().unwrap());
        let evicted = |slots: &[&Slot]| slots.iter().map(|slot| slot.is_evicted()).collect::<Vec<_>>();
        for slot in [&second, &first, &busy] {
            slot.wait();
        }
        busy.answer();
        // Its wait is a new one.
        second.wait();
        let third = slots.take().unwrap();
        assert_eq!(evicted(&[&first, &second, &busy, &third]), [true, false, false, false]);
        drop(first);
        let fourth = slots.take().unwrap();
        assert_eq!(evicted(&[&second, &busy, &third, &fourth]), [true, false, false, false]);
        drop(second);
        // None of the three waits.
        assert!(slots.take().is_none());
        drop(busy);
        let fifth = slots.take().unwrap();
        for slot in [&third, &fourth, &fifth] {
            slot.wait();
        }
        let sixth = slots.take().unwrap();
        drop(third);
        // It was found together with the third, and has been answered since.
        fourth.answer();
        let seventh = slots.take().unwrap();
        assert_eq!(evicted(&[&fourth, &fifth, &sixth, &seventh]), [false, true, false, false]);
        drop((fourth, fifth, sixth, seventh));
        assert!(slots.open().connections.is_empty());
    }

    #[test]
    fn downloads_that_begin_at_once_are_shared_out() {
        let context =
            Context { router: axum::Router::new(), recent: Arc::default(), metrics: Arc::default() };
        let (crew, _assigned) = Crew::new(context, 3);
        let begin = || {
            let worker = crew.least_busy();
            (worker, Sending::begin(&crew.workers[worker]))
        };
        let (workers, sending): (Vec<_>, Vec<_>) = [(); 6].map(|()| begin()).into_iter().unzip();
        // The first gives short answers as well.
        assert_eq!(workers, [2, 1, 0, 2, 1, 0]);
        let mut sending = sending.into_iter();
        drop(sending.nth(1));
        assert_eq!(crew.least_busy(), 2, "two have ended: one of the last worker and one of the second");
        drop(begin());
        assert_eq!([crew.least_busy(), crew.workers[0].downloads.load(Ordering::Relaxed)], [2, 2]);
    }

    #[tokio::test]
    async fn whoever_waits_is_woken_by_the_end_of_all() {
        let slots = Slots::new(3);
        let slot = slots.take().unwrap();
        let waiting = tokio::spawn(async move { slot.evicted().await });
        tokio::task::yield_now().await;
        slots.close();
        waiting.await.unwrap();
        assert!(slots.open().connections.is_empty());
    }
}
