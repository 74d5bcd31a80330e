//! Response bodies read from files, a piece at a time.

use std::io::{self, SeekFrom};

use axum::body::Body;
use futures_util::TryStreamExt;
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio_util::io::ReaderStream;

use super::range::Span;

/// Large enough that reads cost little, small enough for hundreds of nodes at once.
const PIECE_BYTES: usize = 512 * 1024;

/// A body of `span` of the file. `when_sent` is called as the last piece is handed to the connection.
pub async fn of_file(
    mut file: File,
    span: Span,
    when_sent: impl FnOnce() + Send + 'static,
) -> io::Result<Body> {
    file.seek(SeekFrom::Start(span.start)).await?;
    file.set_max_buf_size(PIECE_BYTES);
    let mut remaining = span.length;
    let mut when_sent = Some(when_sent);
    let pieces = ReaderStream::with_capacity(file.take(span.length), PIECE_BYTES);
    let pieces = pieces.inspect_ok(move |piece| {
        remaining = remaining.saturating_sub(piece.len() as u64);
        if remaining == 0
            && let Some(when_sent) = when_sent.take()
        {
            when_sent();
        }
    });
    Ok(Body::from_stream(pieces))
}
