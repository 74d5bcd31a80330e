//! A cable that is long, or bad: UDP packets to a server and back that are delayed and lost.
//!
//! A program in place of the kernel's netem, which many kernels are built without.

use std::collections::VecDeque;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::unix::net::UnixStream;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// What happens to packets of either direction.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// How long each is on its way.
    pub delay: Duration,
    /// How many of a thousand are lost, the same ones in each run.
    pub lost_per_mille: u32,
}

/// The end of the cable that one client at a time sends to. Dropping it cuts the cable.
#[derive(Debug)]
pub struct UdpWire {
    address: SocketAddr,
    cut: Option<UnixStream>,
    thread: Option<JoinHandle<io::Result<()>>>,
}

impl UdpWire {
    /// Lays a cable to `server` in the network namespace of this thread. Its answers are taken from whatever port they come,
    /// and all but requests go to that port (RFC 1350).
    pub fn lay(server: SocketAddr, faults: Faults) -> io::Result<Self> {
        let near = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        let far = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        let (cut, is_cut) = UnixStream::pair()?;
        let address = near.local_addr()?;
        let cable = Cable {
            near,
            far,
            client: address,
            server,
            transfer: server,
            faults,
            random: 1,
            under_way: VecDeque::new(),
        };
        let thread = Some(thread::spawn(move || cable.run(&is_cut)));
        Ok(Self { address, cut: Some(cut), thread })
    }

    /// Where clients send to, in place of the server.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for UdpWire {
    fn drop(&mut self) {
        self.cut.take();
        if let Some(Ok(Err(error))) = self.thread.take().map(JoinHandle::join) {
            eprintln!("bootlab: the cable to {} failed: {error}", self.address);
        }
    }
}

struct Cable {
    near: UdpSocket,
    far: UdpSocket,
    /// The newest sender at the near end.
    client: SocketAddr,
    server: SocketAddr,
    /// The newest sender at the far end.
    transfer: SocketAddr,
    faults: Faults,
    random: u64,
    /// Packets in order of their arrival.
    under_way: VecDeque<Packet>,
}

struct Packet {
    due: Instant,
    to_client: bool,
    bytes: Vec<u8>,
}

impl Cable {
    fn run(mut self, is_cut: &UnixStream) -> io::Result<()> {
        loop {
            let left =
                self.under_way.front().map(|packet| packet.due.saturating_duration_since(Instant::now()));
            let left = left
                .map(|left| Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() });
            let mut ready = [
                PollFd::new(&self.near, PollFlags::IN),
                PollFd::new(&self.far, PollFlags::IN),
                PollFd::new(is_cut, PollFlags::IN),
            ];
            poll(&mut ready, left.as_ref())?;
            let [near, far, cut] = ready.map(|fd| !fd.revents().is_empty());
            if cut {
                return Ok(());
            }
            if near {
                self.take(false)?;
            }
            if far {
                self.take(true)?;
            }
            self.deliver();
        }
    }

    fn take(&mut self, to_client: bool) -> io::Result<()> {
        let mut buffer = [0; 65536];
        let (socket, sender) = match to_client {
            true => (&self.far, &mut self.transfer),
            false => (&self.near, &mut self.client),
        };
        // The kernel tells here that an earlier packet found nobody; that one is lost.
        let Ok((length, from)) = socket.recv_from(&mut buffer) else { return Ok(()) };
        *sender = from;
        if !self.is_lost() {
            let due = Instant::now() + self.faults.delay;
            self.under_way.push_back(Packet { due, to_client, bytes: buffer[..length].to_vec() });
        }
        Ok(())
    }

    fn deliver(&mut self) {
        let is_due = |packet: &Packet| packet.due <= Instant::now();
        while self.under_way.front().is_some_and(is_due)
            && let Some(packet) = self.under_way.pop_front()
        {
            let is_request = packet.bytes.starts_with(&[0, 1]);
            let (socket, to) = match packet.to_client {
                true => (&self.near, self.client),
                false if is_request => (&self.far, self.server),
                false => (&self.far, self.transfer),
            };
            // Lost, as it may be.
            let _ = socket.send_to(&packet.bytes, to);
        }
    }

    /// Xorshift (Marsaglia 2003).
    fn is_lost(&mut self) -> bool {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % 1000 < self.faults.lost_per_mille.into()
    }
}
