//! The least that a TFTP server can do: one thread that knows one file, waits for an acknowledgement and sends the next block. Two
//! system calls a block, and nothing is checked, timed, counted or logged. A server that sleeps between packets is not faster.

use std::net::UdpSocket;

use anyhow::{Context, Result, ensure};
use bootlab::netns::SERVER_ADDRESS;
use rustix::time::{ClockId, clock_gettime};

const DATA: u8 = 3;
const ACK: [u8; 2] = [0, 4];
const OACK: &[u8] = b"\0\x06blksize\0";
const MAX_PACKET_BYTES: usize = 512;

/// A server of `file`, in the network namespace of this thread.
pub struct LeastServer<'a> {
    requests: UdpSocket,
    file: &'a [u8],
    blksize: usize,
}

impl<'a> LeastServer<'a> {
    pub fn bind(file: &'a [u8], blksize: usize) -> Result<Self> {
        Ok(Self { requests: UdpSocket::bind((SERVER_ADDRESS, 69))?, file, blksize })
    }

    /// Sends the file as often; tells how many seconds of processor time that took.
    pub fn serve(&self, loads: usize) -> Result<f64> {
        let before = thread_seconds();
        for _ in 0..loads {
            self.send_file()?;
        }
        Ok(thread_seconds() - before)
    }

    fn send_file(&self) -> Result<()> {
        let mut received = [0; MAX_PACKET_BYTES];
        let (_, client) = self.requests.recv_from(&mut received)?;
        let socket = UdpSocket::bind((SERVER_ADDRESS, 0))?;
        socket.connect(client)?;
        socket.send(&[OACK, self.blksize.to_string().as_bytes(), b"\0"].concat())?;
        socket.recv(&mut received)?;
        let mut packet = Vec::new();
        // The last block is shorter, if empty.
        let blocks =
            self.file.chunks(self.blksize).chain([&[][..]].into_iter().take(self.is_whole_blocks().into()));
        for (number, block) in (1_u64..).zip(blocks) {
            // Of more blocks the numbers begin again at 0.
            let number = number as u16;
            packet.clear();
            packet.extend_from_slice(&[0, DATA]);
            packet.extend_from_slice(&number.to_be_bytes());
            packet.extend_from_slice(block);
            socket.send(&packet)?;
            let length = socket.recv(&mut received)?;
            let acknowledged = received[..length].strip_prefix(&ACK).context("expected an ACK")?;
            ensure!(acknowledged == number.to_be_bytes(), "a packet was lost");
        }
        Ok(())
    }

    fn is_whole_blocks(&self) -> bool {
        self.file.len().is_multiple_of(self.blksize)
    }
}

fn thread_seconds() -> f64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}
