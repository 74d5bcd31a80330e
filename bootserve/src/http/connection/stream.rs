//! The bytes of a connection, with or without TLS. A client that takes nothing for a while is given up.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use rustix::fs::sendfile;
use rustix::io::{ReadWriteFlags, preadv2};
use rustix::net::sockopt::set_tcp_cork;
use rustix::net::{SendFlags, send};
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::TcpStream;
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use tokio_rustls::server::TlsStream;

use crate::config::Scheme;
use crate::http::body::{FileBody, Piece};
use crate::http::range::Span;

/// A client that takes no byte for so long is gone, or does us harm. UEFI gives up by itself after 120 seconds.
const STALL: Duration = Duration::from_secs(120);
/// So much of a file is known to be in memory before the kernel is asked to send it.
const CHUNK_BYTES: u64 = 8 << 20;
/// What is read into our own memory: for TLS, and from a disk to have it in the kernel's.
const PIECE_BYTES: u64 = 256 * 1024;
/// What a client still sends is read for so long, or it would not see our last words (RFC 9112 section 9.6).
const LINGER: Duration = Duration::from_secs(2);

/// A connection to a client.
#[derive(Debug)]
pub enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Stream {
    /// How our URLs begin for this client.
    pub fn scheme(&self) -> Scheme {
        match self {
            Self::Plain(_) => Scheme::Http,
            Self::Tls(_) => Scheme::Https,
        }
    }

    /// Waits for bytes and appends them to `buffer`; 0 at the end.
    pub async fn read(&mut self, buffer: &mut BytesMut) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.read_buf(buffer).await,
            Self::Tls(stream) => stream.read_buf(buffer).await,
        }
    }

    /// Sends all bytes. With `more`, the last of them may wait for what follows to fill a packet.
    pub async fn write(&mut self, mut bytes: &[u8], more: bool) -> io::Result<()> {
        let flags = if more { SendFlags::MORE } else { SendFlags::empty() } | SendFlags::NOSIGNAL;
        match self {
            Self::Plain(stream) => {
                while !bytes.is_empty() {
                    let sent = when_writable(stream, || Ok(send(stream.as_fd(), bytes, flags)?)).await?;
                    bytes = &bytes[sent..];
                }
            }
            Self::Tls(stream) => {
                for piece in bytes.chunks(PIECE_BYTES as usize) {
                    in_time(stream.write_all(piece)).await?;
                }
                if !more {
                    in_time(stream.flush()).await?;
                }
            }
        }
        Ok(())
    }

    /// Sends a body.
    pub async fn write_file(&mut self, body: &FileBody) -> io::Result<()> {
        // One client gets a third more of packets that are full (tcp(7), TCP_CORK).
        if let Self::Plain(stream) = self {
            set_tcp_cork(&*stream, true)?;
        }
        for piece in &body.pieces {
            match piece {
                Piece::Bytes(bytes) => {
                    self.write(bytes, true).await?;
                    body.transfer.iter().for_each(|transfer| transfer.sent(bytes.len() as u64));
                }
                Piece::Span(span) => {
                    let sent = |bytes| body.transfer.iter().for_each(|transfer| transfer.sent(bytes));
                    self.write_span(&body.file, *span, sent).await?;
                }
            }
        }
        match self {
            // The last one leaves now, and not 200 ms later.
            Self::Plain(stream) => Ok(set_tcp_cork(&*stream, false)?),
            Self::Tls(stream) => in_time(stream.flush()).await,
        }
    }

    /// Sends a part of a file; `sent` is told of each piece of it that has left.
    async fn write_span(&mut self, file: &Arc<File>, span: Span, sent: impl Fn(u64)) -> io::Result<()> {
        match self {
            Self::Plain(stream) => send_span(stream, file, span, sent).await,
            Self::Tls(stream) => {
                for piece in span.pieces(PIECE_BYTES) {
                    let piece = read_piece(Arc::clone(file), piece).await?;
                    in_time(stream.write_all(&piece)).await?;
                    sent(piece.len() as u64);
                }
                Ok(())
            }
        }
    }

    /// Ends the connection so that the client sees all that was sent.
    pub async fn close(&mut self) {
        let linger = async {
            match self {
                Self::Plain(stream) => stream.shutdown().await?,
                Self::Tls(stream) => stream.shutdown().await?,
            }
            let mut rest = BytesMut::with_capacity(4096);
            while self.read(&mut rest).await? > 0 {
                rest.clear();
            }
            io::Result::Ok(())
        };
        // There is nobody to tell what goes wrong now.
        let _ = timeout(LINGER, linger).await;
    }
}

/// Has the kernel send a part of a file.
async fn send_span(stream: &TcpStream, file: &Arc<File>, span: Span, sent: impl Fn(u64)) -> io::Result<()> {
    for chunk in span.pieces(CHUNK_BYTES) {
        read_ahead(file, chunk).await?;
        // The kernel moves it on.
        let mut offset = chunk.start;
        while offset < chunk.end() {
            let length = (chunk.end() - offset) as usize;
            let send = || Ok(sendfile(stream.as_fd(), file.as_fd(), Some(&mut offset), length)?);
            match when_writable(stream, send).await? {
                0 => return Err(became_shorter()),
                bytes => sent(bytes as u64),
            }
        }
    }
    Ok(())
}

/// Reads a part of a file into the kernel's memory, unless it is there. Sending it would wait for the disk otherwise, and with
/// it all that this thread serves.
async fn read_ahead(file: &Arc<File>, span: Span) -> io::Result<()> {
    if is_in_memory(file, span.start) && is_in_memory(file, span.end() - 1) {
        return Ok(());
    }
    for piece in span.pieces(PIECE_BYTES) {
        read_piece(Arc::clone(file), piece).await?;
    }
    Ok(())
}

/// Not every file system can tell; then it is taken to be.
fn is_in_memory(file: &File, offset: u64) -> bool {
    let mut byte = [0];
    let read = preadv2(file, &mut [io::IoSliceMut::new(&mut byte)], offset, ReadWriteFlags::NOWAIT);
    read != Err(rustix::io::Errno::AGAIN)
}

async fn read_piece(file: Arc<File>, span: Span) -> io::Result<Vec<u8>> {
    let read = move || {
        // No longer than PIECE_BYTES.
        let mut piece = vec![0; span.length as usize];
        file.read_exact_at(&mut piece, span.start).map_err(|error| match error.kind() {
            ErrorKind::UnexpectedEof => became_shorter(),
            _ => error,
        })?;
        Ok(piece)
    };
    spawn_blocking(read).await?
}

/// Versions of images do not change. Whoever changes one all the same has a client that sees a connection break.
fn became_shorter() -> io::Error {
    io::Error::new(ErrorKind::UnexpectedEof, "the file became shorter while it was sent")
}

async fn when_writable<T>(stream: &TcpStream, work: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    in_time(stream.async_io(Interest::WRITABLE, work)).await
}

async fn in_time<T>(work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    let stalled = || io::Error::new(ErrorKind::TimedOut, "the client takes nothing");
    timeout(STALL, work).await.map_err(|_| stalled())?
}
