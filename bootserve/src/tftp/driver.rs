//! The sockets of the TFTP server, and the thread that serves them.
//!
//! With windows of one block, which is what most firmware asks for, the time from an acknowledgement to the next block is
//! all that counts. So all transfers are driven by one thread that waits in epoll(7) and needs two or three more system calls for a
//! block. A runtime's task wakes up later and takes twice the processor time.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::epoll;
use rustix::io::Errno;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::files::{Denied, Files, Granted};
use super::table::{Full, Table, Tids};
use super::transfer::{Step, Transfer, TransferError};
use super::wire::{ErrorCode, Packet};
use crate::events::EventLog;
use crate::live::Live;
use crate::metrics::{Metrics, TftpEnd};

/// Each takes a socket of a process that has 1024 by default.
const MAX_TRANSFERS: usize = 512;
/// RFC 2347: a request has at most 512 bytes. What clients send during a transfer is shorter.
const MAX_PACKET_BYTES: usize = 512;
/// IPv4, UDP and TFTP headers.
const HEADER_BYTES: u16 = 20 + 8 + 4;
/// Packets of that many sockets are taken at a time.
const MAX_EVENTS: usize = 64;
/// Packets of one socket, before others have their turn.
const MAX_IN_A_ROW: usize = 64;
/// Transfers that have ended and are not in the database yet.
const MAX_UNNOTED: usize = 4096;

/// The TFTP server.
#[derive(Debug)]
pub struct Server {
    /// Which files there are.
    pub live: Arc<Live>,
    /// Told of each complete transfer.
    pub events: Arc<EventLog>,
    /// Told how each request ended.
    pub metrics: Arc<Metrics>,
    /// MTU of the interface: a DATA packet must not be fragmented, which many boot ROMs cannot put together.
    pub mtu_bytes: u16,
    /// Whether transfers go on from the port of requests, for the sake of firewalls, in place of a port of their own.
    pub single_port: bool,
}

impl Server {
    /// Answers requests on `socket` until `shutdown`, which ends transfers, too.
    pub async fn run(self, socket: UdpSocket, shutdown: CancellationToken) -> io::Result<()> {
        // The other end sees this one closed, whatever way this function ends.
        let (stop, stopped) = UnixStream::pair()?;
        let (outcomes, mut to_note) = mpsc::channel(MAX_UNNOTED);
        let driver = Driver {
            sockets: Sockets::open(socket, &stopped)?,
            files: Files::new(self.live),
            table: Table::new(MAX_TRANSFERS),
            max_blksize: self.mtu_bytes.saturating_sub(HEADER_BYTES),
            single_port: self.single_port,
            outcomes,
            metrics: self.metrics,
        };
        let serving = move || {
            let _open = stopped;
            driver.run()
        };
        let thread = thread::Builder::new().name("tftp".to_owned()).spawn(serving)?;
        let noting = async {
            while let Some((client, outcome)) = to_note.recv().await {
                match outcome {
                    Outcome::Sent(file) => self.events.note_nbp(client, file).await,
                    Outcome::Refused(reason) => self.events.refuse_at(client, None, &reason).await,
                }
            }
        };
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = noting => {}
        }
        drop(stop);
        let ended = tokio::task::spawn_blocking(|| thread.join()).await?;
        ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

/// What the thread holds.
struct Driver {
    sockets: Sockets,
    files: Files,
    table: Table<Link>,
    max_blksize: u16,
    single_port: bool,
    outcomes: mpsc::Sender<(Ipv4Addr, Outcome)>,
    metrics: Arc<Metrics>,
}

/// What became of a request, for the log of boots.
enum Outcome {
    /// This file was sent.
    Sent(&'static str),
    /// Nothing was, and why.
    Refused(String),
}

/// The way to a client.
enum Link {
    /// A socket that is connected to it.
    Own(UdpSocket),
    /// The socket of requests.
    Requests,
}

/// What epoll(7) tells of.
enum Ready {
    Requests,
    Timer,
    Stop,
    Transfer(Tids),
}

/// Which stand for no transfer, as no client has the address 0.0.0.0.
const REQUESTS: u64 = 0;
const TIMER: u64 = 1;
const STOP: u64 = 2;

impl From<u64> for Ready {
    fn from(data: u64) -> Self {
        match data {
            REQUESTS => Self::Requests,
            TIMER => Self::Timer,
            STOP => Self::Stop,
            tids => Self::Transfer(tids.into()),
        }
    }
}

impl Driver {
    fn run(mut self) -> io::Result<()> {
        let mut events = Vec::with_capacity(MAX_EVENTS);
        loop {
            self.sockets.wait(self.table.wake(), &mut events)?;
            let now = Instant::now();
            let is_alone = events.len() == 1;
            for event in events.drain(..) {
                match event.data.u64().into() {
                    Ready::Stop => return Ok(()),
                    // See below.
                    Ready::Timer => {}
                    Ready::Requests => self.receive_request(now),
                    Ready::Transfer(tids) => self.receive(now, tids, is_alone),
                }
            }
            for (tids, step) in self.table.time_out(now) {
                self.take(tids, step);
            }
        }
    }

    /// A packet to the port of requests. Where all transfers use it, most are none.
    fn receive_request(&mut self, now: Instant) {
        let mut buffer = [0; MAX_PACKET_BYTES];
        let (length, client) = match self.sockets.requests.recv_from(&mut buffer) {
            Ok((length, SocketAddr::V4(client))) => (length, client),
            Ok(_) => return,
            // Of an earlier answer to a client that is gone, if it is none of memory.
            Err(error) => return debug!(%error, "cannot receive from the TFTP socket"),
        };
        let packet = &buffer[..length];
        let tids = Tids { client, port: self.sockets.port };
        match self.files.find(packet) {
            Ok(granted) => self.begin(now, client, granted),
            Err(Denied::Ignore) => self.handle(now, tids, packet),
            Err(Denied::Refuse(refusal)) => {
                self.metrics.tftp_ended(TftpEnd::Refused);
                info!(peer = %client, ?refusal, "TFTP request refused");
                self.note(client, Outcome::Refused(refused(packet, &refusal)));
                self.sockets.send(tids, &Link::Requests, &refusal);
            }
        }
    }

    fn begin(&mut self, now: Instant, client: SocketAddrV4, granted: Granted) {
        match self.table.make_room(now) {
            Ok(None) => {}
            Ok(Some((Tids { client, .. }, silent))) => {
                debug!(peer = %client, file = silent.file, "TFTP transfer given up for another, as the client is silent");
                self.metrics.tftp_ended(TftpEnd::Dropped);
            }
            Err(Full) => {
                // The client asks again. A line for each would be what a flood is after; the metrics count them.
                debug!(peer = %client, limit = MAX_TRANSFERS, "too many TFTP transfers, request dropped");
                return self.metrics.tftp_ended(TftpEnd::Dropped);
            }
        }
        let opened = match self.single_port {
            true => Ok((Tids { client, port: self.sockets.port }, Link::Requests)),
            false => self.sockets.connect(client),
        };
        let (tids, link) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                warn!(peer = %client, %error, "cannot open a socket for a TFTP transfer, request dropped");
                return self.metrics.tftp_ended(TftpEnd::Dropped);
            }
        };
        let Granted { request, name, data } = granted;
        debug!(peer = %client, file = name, options = ?request.options, "TFTP transfer");
        self.table.supersede(client);
        let transfer = Transfer::start(now, &request, data, self.max_blksize);
        if let Some(replaced) = self.table.insert(now, tids, name, transfer, link) {
            self.note_end(tids, replaced.file, Err(TransferError::Superseded.into()));
        }
        self.take(tids, Step::Send);
    }

    /// Packets to the port of a transfer: the one that epoll(7) told of, and what the client answers at once. A client that shares a core
    /// with us has mostly answered while our packet left, or does when it is let run, which costs less than to sleep and be woken. With
    /// `is_alone`, no other client waits meanwhile.
    fn receive(&mut self, now: Instant, tids: Tids, is_alone: bool) {
        let mut buffer = [0; MAX_PACKET_BYTES];
        let mut may_yield = is_alone;
        for _ in 0..MAX_IN_A_ROW {
            let Some(Link::Own(socket)) = self.table.find(tids).map(|active| &active.link) else { return };
            match socket.recv(&mut buffer) {
                Ok(length) => {
                    self.handle(now, tids, &buffer[..length]);
                    may_yield = is_alone;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if !may_yield {
                        return;
                    }
                    thread::yield_now();
                    may_yield = false;
                }
                Err(error) => return self.end(tids, Err(error.into())),
            }
        }
    }

    fn handle(&mut self, now: Instant, tids: Tids, packet: &[u8]) {
        if let Ok(packet) = Packet::parse(packet) {
            let step = self.table.handle(now, tids, packet);
            self.take(tids, step);
        }
    }

    fn take(&mut self, tids: Tids, step: Step) {
        match step {
            Step::Wait => {}
            Step::Send => {
                if let Some(active) = self.table.find(tids) {
                    active
                        .transfer
                        .window()
                        .for_each(|packet| self.sockets.send(tids, &active.link, &packet));
                }
            }
            Step::Done => self.end(tids, Ok(())),
            Step::Failed(error, last) => {
                if let (Some(last), Some(active)) = (last, self.table.find(tids)) {
                    self.sockets.send(tids, &active.link, &last);
                }
                self.end(tids, Err(error.into()));
            }
        }
    }

    fn end(&mut self, tids: Tids, result: Result<(), SendError>) {
        if let Some(active) = self.table.remove(tids) {
            self.note_end(tids, active.file, result);
        }
    }

    fn note(&self, client: SocketAddrV4, outcome: Outcome) {
        if self.outcomes.try_send((*client.ip(), outcome)).is_err() {
            warn!(peer = %client, "cannot note a TFTP transfer: the database is behind");
        }
    }

    fn note_end(&self, Tids { client, .. }: Tids, file: &'static str, result: Result<(), SendError>) {
        let peer = client;
        let end = match result {
            Ok(()) => {
                self.note(client, Outcome::Sent(file));
                TftpEnd::Sent
            }
            // OVMF asks for the size first and refuses the OACK once it knows it; then it begins again.
            Err(SendError::Transfer(TransferError::Aborted { code: ErrorCode::OptionsRefused, .. })) => {
                debug!(%peer, file, "TFTP size probe");
                TftpEnd::Probe
            }
            Err(SendError::Transfer(TransferError::Superseded)) => {
                debug!(%peer, file, "TFTP transfer begun anew");
                TftpEnd::Superseded
            }
            Err(error) => {
                info!(%peer, file, %error, "TFTP transfer failed");
                self.note(client, Outcome::Refused(format!("TFTP transfer of {file} given up: {error}")));
                TftpEnd::Failed
            }
        };
        self.metrics.tftp_ended(end);
    }
}

/// What was asked for, as far as it can be read, and what the client was told.
fn refused(request: &[u8], answer: &Packet) -> String {
    let file = match Packet::parse(request) {
        Ok(Packet::Read(request) | Packet::Write(request)) => format!("{:?}", request.filename),
        _ => "a file".to_owned(),
    };
    match answer {
        Packet::Error { message, .. } => format!("TFTP request for {file} refused: {message}"),
        _ => format!("TFTP request for {file} refused"),
    }
}

#[derive(Debug, thiserror::Error)]
enum SendError {
    #[error(transparent)]
    Transfer(#[from] TransferError),
    #[error("the client cannot be reached: {0}")]
    Socket(#[from] io::Error),
}

/// The socket of requests, and what waits for it and for those of the transfers.
struct Sockets {
    requests: UdpSocket,
    local: Ipv4Addr,
    port: u16,
    epoll: OwnedFd,
    timer: OwnedFd,
    /// When the timer goes off.
    wake: Option<Instant>,
    /// The packet that is being sent.
    outgoing: Vec<u8>,
}

impl Sockets {
    fn open(requests: UdpSocket, stopped: &UnixStream) -> io::Result<Self> {
        requests.set_nonblocking(true)?;
        let SocketAddr::V4(local) = requests.local_addr()? else {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "the TFTP socket has no IPv4 address"));
        };
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC)?;
        let (local, port) = (*local.ip(), local.port());
        let sockets = Self { requests, local, port, epoll, timer, wake: None, outgoing: Vec::new() };
        sockets.watch(&sockets.requests, REQUESTS)?;
        sockets.watch(&sockets.timer, TIMER)?;
        sockets.watch(stopped, STOP)?;
        Ok(sockets)
    }

    /// Opens a socket for a transfer, on a port of its own. It hears its client alone.
    fn connect(&self, client: SocketAddrV4) -> io::Result<(Tids, Link)> {
        let socket = UdpSocket::bind((self.local, 0))?;
        socket.connect(client)?;
        socket.set_nonblocking(true)?;
        let tids = Tids { client, port: socket.local_addr()?.port() };
        self.watch(&socket, tids.into())?;
        Ok((tids, Link::Own(socket)))
    }

    /// It is watched until it is closed.
    fn watch(&self, source: impl AsFd, data: u64) -> io::Result<()> {
        epoll::add(&self.epoll, source, epoll::EventData::new_u64(data), epoll::EventFlags::IN)?;
        Ok(())
    }

    /// Waits for packets until `wake`. The timer is set once a second or so; a time-out of epoll_wait(2) would set one for each
    /// packet.
    fn wait(&mut self, wake: Option<Instant>, events: &mut Vec<epoll::Event>) -> io::Result<()> {
        if self.wake != wake {
            timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &expiration(wake))?;
            self.wake = wake;
        }
        match epoll::wait(&self.epoll, spare_capacity(events), None) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// A packet that cannot be sent is lost, as it may be on the wire: the transfer repeats it, or is given up.
    fn send(&mut self, Tids { client, .. }: Tids, link: &Link, packet: &Packet) {
        self.outgoing.clear();
        packet.encode_into(&mut self.outgoing);
        let sent = match link {
            Link::Own(socket) => socket.send(&self.outgoing),
            Link::Requests => self.requests.send_to(&self.outgoing, client),
        };
        if let Err(error) = sent {
            debug!(peer = %client, %error, "cannot send a TFTP packet");
        }
    }
}

/// What a timer is set to; `None`: it does not go off. A timer that has gone off is ready until it is set again.
fn expiration(wake: Option<Instant>) -> Itimerspec {
    // Zero would be never.
    let soon = Duration::from_nanos(1);
    let left = wake.map(|wake| wake.saturating_duration_since(Instant::now()).max(soon)).unwrap_or_default();
    let it_value = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
    Itimerspec { it_interval: Timespec::default(), it_value }
}
