//! Moves queries and answers between sockets, the database and forwarders. What is known at once is answered at once; what has to
//! be asked for waits in a task of its own, so that it delays nothing else, not even on the same connection (RFC 7766 section 6.2.1.1).

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::io::AsyncWriteExt;
use tokio::net::tcp::OwnedWriteHalf;
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{Mutex, Semaphore};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, warn};

use super::answer::{Answer, Asked, LeaseQuestion, Outcome, Reply, Transport, answer};
use super::forward::{Forwarding, read_message_within, write_message};
use crate::config::{Config, Dns};
use crate::database::Database;
use crate::dhcp::store::current_lease;
use crate::live::Live;
use crate::metrics::Metrics;

/// A query has one question, and is shorter by far.
const MAX_QUERY_BYTES: usize = 4096;
/// Queries that wait for a forwarder, or for the database. More are answered with a failure at once.
const MAX_FORWARDED: usize = 512;
const MAX_LOOKUPS: usize = 512;
/// Connections; more wait to be accepted.
const MAX_CONNECTIONS: usize = 128;
/// Queries of one connection that wait; more are not read.
const MAX_PIPELINED: usize = 16;
/// How long a connection may be idle, or not take an answer (RFC 7766 section 6.2.3: seconds).
const IDLE_LIMIT: Duration = Duration::from_secs(5);

/// What answers queries.
#[derive(Debug)]
pub struct Server {
    live: Arc<Live>,
    database: Database,
    metrics: Arc<Metrics>,
    forwarding: Forwarding,
    forwarded: Semaphore,
    lookups: Semaphore,
}

/// A query that is not answered yet, and what it is answered by.
struct Later {
    config: Arc<Config>,
    dns: Arc<Dns>,
    transport: Transport,
    waits_for: WaitsFor,
}

enum WaitsFor {
    Lease(LeaseQuestion),
    /// The answer of a forwarder to this packet.
    Forwarder(Asked, Vec<u8>),
}

impl Server {
    /// It answers as `live` says, with the leases of `database`.
    pub fn new(live: Arc<Live>, database: Database, metrics: Arc<Metrics>) -> Self {
        Self {
            live,
            database,
            metrics,
            forwarding: Forwarding::default(),
            forwarded: Semaphore::new(MAX_FORWARDED),
            lookups: Semaphore::new(MAX_LOOKUPS),
        }
    }

    /// Serves on both sockets until `shutdown`.
    pub async fn run(self, udp: UdpSocket, tcp: TcpListener, shutdown: CancellationToken) -> io::Result<()> {
        let server = Arc::new(self);
        tokio::select! {
            () = shutdown.cancelled() => Ok(()),
            never = Arc::clone(&server).serve_datagrams(Arc::new(udp)) => match never {},
            never = server.serve_connections(tcp) => match never {},
        }
    }

    async fn serve_datagrams(self: Arc<Self>, socket: Arc<UdpSocket>) -> Infallible {
        let mut buffer = [0; MAX_QUERY_BYTES];
        loop {
            let (length, peer) = match socket.recv_from(&mut buffer).await {
                Ok(received) => received,
                Err(error) => {
                    warn!(%error, "cannot receive from the DNS socket");
                    continue;
                }
            };
            match self.answer(Transport::Udp, peer, &buffer[..length]) {
                Ok(Some(packet)) => send(&socket, peer, &packet).await,
                Ok(None) => {}
                Err(later) => {
                    let (server, socket) = (Arc::clone(&self), Arc::clone(&socket));
                    tokio::spawn(async move {
                        send(&socket, peer, &server.wait_for(*later).await).await;
                    });
                }
            }
        }
    }

    async fn serve_connections(self: Arc<Self>, listener: TcpListener) -> Infallible {
        let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let mut connections = JoinSet::new();
        loop {
            let permit = Arc::clone(&room).acquire_owned().await.expect("nobody closes it");
            match listener.accept().await {
                Ok((stream, peer)) => {
                    let server = Arc::clone(&self);
                    connections.spawn(async move {
                        let _permit = permit;
                        server.serve_connection(stream, peer).await;
                    });
                }
                Err(error) => {
                    warn!(%error, "cannot accept a DNS connection");
                    // Without descriptors it fails again at once.
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
            while connections.try_join_next().is_some() {}
        }
    }

    /// Ends when the client does, sends nothing or takes nothing.
    async fn serve_connection(self: Arc<Self>, stream: TcpStream, peer: SocketAddr) {
        let (mut reader, writer) = stream.into_split();
        let writer = Arc::new(Mutex::new(writer));
        let mut waiting_queries = JoinSet::new();
        while let Some(query) = read_message_within(&mut reader, MAX_QUERY_BYTES, IDLE_LIMIT).await {
            match self.answer(Transport::Tcp, peer, &query) {
                Ok(Some(packet)) if write(&writer, &packet).await.is_ok() => {}
                Ok(_) => return,
                Err(later) => {
                    if waiting_queries.len() == MAX_PIPELINED {
                        waiting_queries.join_next().await;
                    }
                    let (server, writer) = (Arc::clone(&self), Arc::clone(&writer));
                    waiting_queries.spawn(async move {
                        // If it cannot be written, the reader ends as well.
                        let _ = write(&writer, &server.wait_for(*later).await).await;
                    });
                }
            }
        }
        // Who has said all may still wait for answers.
        while waiting_queries.join_next().await.is_some() {}
    }

    /// The answer to a query, if there is to be one; or what it waits for.
    fn answer(
        &self,
        transport: Transport,
        peer: SocketAddr,
        query: &[u8],
    ) -> Result<Option<Vec<u8>>, Box<Later>> {
        let config = Arc::clone(&self.live.now().config);
        let (Some(dns), SocketAddr::V4(peer)) = (config.dns.clone(), peer) else { return Ok(None) };
        let waits_for = match answer(&config, &dns, transport, *peer.ip(), query) {
            Answer::Reply(reply) => return Ok(Some(self.count(reply))),
            Answer::Nothing(outcome) => {
                self.metrics.dns_answered(outcome);
                return Ok(None);
            }
            Answer::Lease(question) => WaitsFor::Lease(question),
            Answer::Forward(asked) => WaitsFor::Forwarder(asked, query.to_vec()),
        };
        Err(Box::new(Later { config, dns, transport, waits_for }))
    }

    /// The answer to a query that waits.
    async fn wait_for(&self, later: Later) -> Vec<u8> {
        let Later { config, dns, transport, waits_for } = later;
        self.count(match waits_for {
            WaitsFor::Lease(question) => self.look_up(&config, &dns, question).await,
            WaitsFor::Forwarder(asked, query) => self.forward(&dns, transport, &asked, &query).await,
        })
    }

    async fn look_up(&self, config: &Config, dns: &Dns, question: LeaseQuestion) -> Reply {
        let Ok(_permit) = self.lookups.try_acquire() else { return question.failed() };
        let now = SystemTime::now();
        match current_lease(&self.database, question.lease, now).await {
            Ok(lease) => question.reply(config, &dns.zone, lease, now),
            Err(error) => {
                error!(error = &error as &dyn std::error::Error, "cannot look up a lease for a DNS query");
                question.failed()
            }
        }
    }

    async fn forward(&self, dns: &Dns, transport: Transport, asked: &Asked, query: &[u8]) -> Reply {
        let Ok(_permit) = self.forwarded.try_acquire() else { return asked.failed() };
        let answer = self.forwarding.ask(&dns.forwarders, transport, query).await;
        answer.map_or_else(|| asked.failed(), |packet| Reply { packet, outcome: Outcome::Forwarded })
    }

    fn count(&self, reply: Reply) -> Vec<u8> {
        self.metrics.dns_answered(reply.outcome);
        reply.packet
    }
}

async fn send(socket: &UdpSocket, peer: SocketAddr, packet: &[u8]) {
    if let Err(error) = socket.send_to(packet, peer).await {
        debug!(%peer, %error, "cannot send a DNS answer");
    }
}

/// Whole answers, one after the other. Who takes none is cut off.
async fn write(writer: &Mutex<OwnedWriteHalf>, packet: &[u8]) -> io::Result<()> {
    let mut writer = writer.lock().await;
    let written = timeout(IDLE_LIMIT, write_message(&mut *writer, packet)).await;
    match written.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
        Ok(()) => Ok(()),
        Err(error) => {
            // What is half written must not be gone on with.
            let _ = writer.shutdown().await;
            Err(error)
        }
    }
}
