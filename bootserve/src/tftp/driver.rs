//! The sockets of the TFTP server: one for requests, and one of its own for each transfer (RFC 1350 section 4).

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use bytes::Bytes;
use tokio::net::UdpSocket;
use tokio::task::{Id, JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::transfer::{Step, Transfer, TransferError};
use super::wire::{ErrorCode, Packet, Request};
use crate::events::EventLog;
use crate::metrics::{Metrics, TftpEnd};
use crate::nbp::NbpSet;

/// A request beyond these is dropped; the client repeats it.
const MAX_TRANSFERS: usize = 512;
/// RFC 2347: a request has at most 512 bytes. What clients send during a transfer is shorter.
const MAX_PACKET_BYTES: usize = 512;
/// IPv4, UDP and TFTP headers.
const HEADER_BYTES: u16 = 20 + 8 + 4;

/// The TFTP server.
#[derive(Debug)]
pub struct Server {
    /// The files.
    pub nbps: Arc<NbpSet>,
    /// Told of each complete transfer.
    pub events: Arc<EventLog>,
    /// Told how each request ended.
    pub metrics: Arc<Metrics>,
    /// MTU of the interface: a DATA packet must not be fragmented, which many boot ROMs cannot put together.
    pub mtu_bytes: u16,
}

impl Server {
    /// Answers requests on `socket` until `shutdown`, which ends transfers, too.
    pub async fn run(self, socket: UdpSocket, shutdown: CancellationToken) {
        let mut active = Active::default();
        let mut buffer = [0; MAX_PACKET_BYTES];
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                Some(()) = active.remove_ended() => {}
                received = socket.recv_from(&mut buffer) => match received {
                    Ok((length, peer)) => self.accept(&socket, peer, &buffer[..length], &mut active).await,
                    Err(error) => warn!(%error, "cannot receive from the TFTP socket"),
                },
            }
        }
    }

    async fn accept(&self, socket: &UdpSocket, peer: SocketAddr, packet: &[u8], active: &mut Active) {
        if active.is_full() {
            warn!(%peer, limit = MAX_TRANSFERS, "too many TFTP transfers, request dropped");
            self.metrics.tftp_ended(TftpEnd::Dropped);
            return;
        }
        match self.open(packet) {
            Ok(file) => {
                active.supersede(peer);
                let client = Client { address: peer, superseded: Arc::default() };
                active.spawn(client.clone(), self.transfer(socket, client, file));
            }
            Err(refusal) => {
                self.metrics.tftp_ended(TftpEnd::Refused);
                refuse(socket, peer, refusal).await;
            }
        }
    }

    /// Reads a request and finds its file.
    fn open(&self, packet: &[u8]) -> Result<OpenFile, Packet> {
        let request = match Packet::parse(packet) {
            Ok(Packet::Read(request)) => request,
            Ok(Packet::Write(_)) => {
                return Err(error(ErrorCode::AccessViolation, "this server is read-only"));
            }
            Ok(_) => return Err(error(ErrorCode::IllegalOperation, "expected a read request")),
            Err(reason) => return Err(error(ErrorCode::IllegalOperation, &reason.to_string())),
        };
        if !request.mode.eq_ignore_ascii_case("octet") {
            return Err(error(ErrorCode::NotDefined, "only octet mode is supported"));
        }
        let found = self.nbps.find(request.filename.trim_start_matches('/'));
        let (name, data) = found.ok_or_else(|| {
            error(ErrorCode::FileNotFound, &format!("there is no {:?} here", request.filename))
        })?;
        Ok(OpenFile { name, data: data.clone(), request })
    }

    fn transfer(
        &self,
        socket: &UdpSocket,
        client: Client,
        file: OpenFile,
    ) -> impl Future<Output = ()> + 'static {
        let local = socket.local_addr().map(|address| address.ip());
        let (events, metrics) = (Arc::clone(&self.events), Arc::clone(&self.metrics));
        let max_blksize = self.mtu_bytes.saturating_sub(HEADER_BYTES);
        async move {
            let (name, peer) = (file.name, client.address);
            let end = match send_file(local, &client, file, max_blksize).await {
                Ok(()) => {
                    if let IpAddr::V4(peer) = peer.ip() {
                        events.note_nbp(peer, name).await;
                    }
                    TftpEnd::Sent
                }
                // OVMF asks for the size first and refuses the OACK once it knows it; then it begins again.
                Err(SendError::Transfer(TransferError::Aborted {
                    code: ErrorCode::OptionsRefused, ..
                })) => {
                    debug!(%peer, file = name, "TFTP size probe");
                    TftpEnd::Probe
                }
                Err(SendError::Superseded) => {
                    debug!(%peer, file = name, "TFTP transfer begun anew");
                    TftpEnd::Superseded
                }
                Err(error) => {
                    info!(%peer, file = name, %error, "TFTP transfer failed");
                    TftpEnd::Failed
                }
            };
            metrics.tftp_ended(end);
        }
    }
}

/// The client of one transfer.
///
/// A client that asks again from the same port was reset, or the first answer was lost, or the network doubled its
/// request. Only in the last case does it go on with the older transfer, so that one keeps silent and ends at its next
/// time-out, unless it hears of the client again.
#[derive(Clone)]
struct Client {
    address: SocketAddr,
    superseded: Arc<AtomicBool>,
}

impl Client {
    fn supersede(&self) {
        self.superseded.store(true, Ordering::Relaxed);
    }

    fn is_superseded(&self) -> bool {
        self.superseded.load(Ordering::Relaxed)
    }

    /// The client goes on with this transfer.
    fn heard(&self) {
        self.superseded.store(false, Ordering::Relaxed);
    }
}

/// Transfers under way, and to whom.
#[derive(Default)]
struct Active {
    tasks: JoinSet<()>,
    clients: HashMap<Id, Client>,
}

impl Active {
    /// Tells the transfers to `peer` that it began again.
    fn supersede(&self, peer: SocketAddr) {
        self.clients.values().filter(|client| client.address == peer).for_each(Client::supersede);
    }

    fn is_full(&self) -> bool {
        self.clients.len() >= MAX_TRANSFERS
    }

    fn spawn(&mut self, client: Client, transfer: impl Future<Output = ()> + Send + 'static) {
        self.clients.insert(self.tasks.spawn(transfer).id(), client);
    }

    /// Waits for a transfer to end. `None`: there is none.
    async fn remove_ended(&mut self) -> Option<()> {
        let ended = self.tasks.join_next_with_id().await?;
        self.clients.remove(&ended.map_or_else(|error| error.id(), |(id, ())| id));
        Some(())
    }
}

struct OpenFile {
    name: &'static str,
    data: Bytes,
    request: Request,
}

#[derive(Debug, thiserror::Error)]
enum SendError {
    #[error(transparent)]
    Transfer(TransferError),
    #[error("the client began again")]
    Superseded,
    #[error("the socket failed: {0}")]
    Socket(#[from] io::Error),
}

async fn send_file(
    local: io::Result<IpAddr>,
    client: &Client,
    file: OpenFile,
    max_blksize: u16,
) -> Result<(), SendError> {
    let socket = UdpSocket::bind((local?, 0)).await?;
    socket.connect(client.address).await?;
    debug!(peer = %client.address, file = file.name, options = ?file.request.options, "TFTP transfer");
    let (mut transfer, first) = Transfer::start(Instant::now(), &file.request, file.data, max_blksize);
    socket.send(&first.encode()).await?;
    let mut buffer = [0; MAX_PACKET_BYTES];
    loop {
        let received = tokio::time::timeout_at(transfer.deadline().into(), socket.recv(&mut buffer)).await;
        let step = match received {
            Err(_) if client.is_superseded() => return Err(SendError::Superseded),
            Err(_) => transfer.time_out(Instant::now()),
            Ok(length) => {
                client.heard();
                match Packet::parse(&buffer[..length?]) {
                    Ok(packet) => transfer.handle(Instant::now(), packet),
                    Err(_) => Step::Wait,
                }
            }
        };
        match step {
            Step::Send(packet) => {
                socket.send(&packet.encode()).await?;
            }
            Step::Wait => {}
            Step::Done => return Ok(()),
            Step::Failed(error, last) => {
                if let Some(last) = last {
                    socket.send(&last.encode()).await?;
                }
                return Err(SendError::Transfer(error));
            }
        }
    }
}

fn error(code: ErrorCode, message: &str) -> Packet {
    Packet::Error { code, message: message.to_owned() }
}

async fn refuse(socket: &UdpSocket, peer: SocketAddr, refusal: Packet) {
    info!(%peer, ?refusal, "TFTP request refused");
    if let Err(error) = socket.send_to(&refusal.encode(), peer).await {
        warn!(%peer, %error, "cannot send a TFTP error");
    }
}
