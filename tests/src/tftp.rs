//! A TFTP client that does no more than it must: for benches, and for tests that need many of them.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

const DATA: u16 = 3;
const ACK: u16 = 4;
const ERROR: u16 = 5;
const OACK: u16 = 6;

/// How often a packet is repeated.
const MAX_REPEATS: u32 = 20;

/// What a client asks for.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// RFC 2348.
    pub blksize: usize,
    /// RFC 7440; 1 is lockstep.
    pub windowsize: u16,
    /// How long an answer is waited for.
    pub timeout: Duration,
}

/// Fetches a file, in the network namespace of this thread. The server must accept the options as they are.
pub fn fetch(server: SocketAddr, file: &str, terms: Terms) -> Result<Vec<u8>> {
    let bind_address: SocketAddr =
        if server.ip().is_loopback() { ([127, 0, 0, 1], 0) } else { ([0; 4], 0) }.into();
    fetch_from(bind_address, server, file, terms)
}

/// The same from an address of one's own choice.
pub fn fetch_from(local: SocketAddr, server: SocketAddr, file: &str, terms: Terms) -> Result<Vec<u8>> {
    let mut request = format!("\0\x01{file}\0octet\0blksize\0{}\0", terms.blksize);
    if terms.windowsize > 1 {
        request += &format!("windowsize\0{}\0", terms.windowsize);
    }
    let socket = UdpSocket::bind(local)?;
    socket.set_read_timeout(Some(terms.timeout))?;
    let mut client = Client { socket, terms, buffer: vec![0; terms.blksize + 4], file: Vec::new(), block: 0 };
    client.ask(server, request.as_bytes())?;
    while client.receive_window()? {}
    Ok(client.file)
}

struct Client {
    socket: UdpSocket,
    terms: Terms,
    buffer: Vec<u8>,
    file: Vec<u8>,
    /// The newest block that has come.
    block: u16,
}

impl Client {
    fn ask(&mut self, server: SocketAddr, request: &[u8]) -> Result<()> {
        for _ in 0..MAX_REPEATS {
            self.socket.send_to(request, server)?;
            match self.socket.recv_from(&mut self.buffer) {
                Ok((length, from)) => {
                    self.socket.connect(from)?;
                    let (opcode, _) = self.head(length)?;
                    ensure!(opcode == OACK, "expected an OACK, found opcode {opcode}");
                    return self.acknowledge();
                }
                Err(error) if is_timeout(&error) => {}
                Err(error) => return Err(error.into()),
            }
        }
        bail!("{server} does not answer")
    }

    /// Receives blocks up to the next acknowledgement; tells whether more are to come.
    fn receive_window(&mut self) -> Result<bool> {
        let (mut expected, mut repeats) = (self.terms.windowsize, 0);
        loop {
            let length = match self.socket.recv(&mut self.buffer) {
                Ok(length) => length,
                Err(error) if is_timeout(&error) && repeats < MAX_REPEATS => {
                    repeats += 1;
                    self.acknowledge()?;
                    continue;
                }
                Err(error) => return Err(error).context("the server went away"),
            };
            match self.head(length)? {
                (DATA, block) if block == self.block.wrapping_add(1) => {
                    self.block = block;
                    self.file.extend_from_slice(&self.buffer[4..length]);
                    expected -= 1;
                    let is_last = length < self.terms.blksize + 4;
                    if is_last || expected == 0 {
                        self.acknowledge()?;
                        return Ok(!is_last);
                    }
                }
                // RFC 7440 section 4: what comes out of order begins a new window.
                (DATA, _) if expected < self.terms.windowsize => {
                    self.acknowledge()?;
                    expected = self.terms.windowsize;
                }
                (DATA | OACK, _) => {}
                (opcode, _) => bail!("unexpected opcode {opcode}"),
            }
        }
    }

    fn head(&self, length: usize) -> Result<(u16, u16)> {
        ensure!(length >= 4, "a packet of {length} bytes");
        let number = |at: usize| u16::from_be_bytes([self.buffer[at], self.buffer[at + 1]]);
        if number(0) == ERROR {
            bail!("error {}: {}", number(2), String::from_utf8_lossy(&self.buffer[4..length]));
        }
        Ok((number(0), number(2)))
    }

    fn acknowledge(&self) -> Result<()> {
        let mut packet = [0; 4];
        packet[..2].copy_from_slice(&ACK.to_be_bytes());
        packet[2..].copy_from_slice(&self.block.to_be_bytes());
        self.socket.send(&packet)?;
        Ok(())
    }
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}
