//! Files as responses: HEAD, Range, conditional requests, and a body that is read a piece at a time.

use std::io::{self, SeekFrom};

use axum::body::Body;
use axum::http::header::{
    ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, IF_NONE_MATCH, IF_RANGE, RANGE,
};
use axum::http::{HeaderMap, HeaderName, Method, StatusCode};
use axum::response::{AppendHeaders, IntoResponse, IntoResponseParts, Response};
use bytes::Bytes;
use futures_util::{Stream, TryStreamExt};
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio_util::io::ReaderStream;

use super::internal_error;
use super::range::{Selection, Span, select};

/// Large enough that reads cost little, small enough for hundreds of nodes at once.
const PIECE_BYTES: usize = 512 * 1024;

/// A file that is sent as it is.
pub(super) struct ServedFile {
    /// The file.
    pub file: File,
    /// Its length.
    pub size_bytes: u64,
    /// Its entity tag, in quotes: files with the same tag have the same bytes.
    pub etag: String,
}

impl ServedFile {
    /// Answers GET or HEAD. `when_sent` is called as the last piece is handed to the connection, and told whether that is
    /// the end of the file.
    pub async fn respond(
        self,
        method: &Method,
        headers: &HeaderMap,
        when_sent: impl FnOnce(bool) + Send + 'static,
    ) -> Response {
        let Self { file, size_bytes: size, etag } = self;
        if lists(headers, IF_NONE_MATCH, &etag) {
            return (StatusCode::NOT_MODIFIED, [(ETAG, etag)]).into_response();
        }
        let selection = match *method {
            // RFC 9110 section 14.2: Range means nothing on any other method.
            Method::GET => selection(headers, &etag, size),
            _ => Selection::Whole,
        };
        let (status, span) = match selection {
            Selection::Whole => (StatusCode::OK, Span { start: 0, length: size }),
            Selection::Part(span) => (StatusCode::PARTIAL_CONTENT, span),
            Selection::Unsatisfiable => {
                let range = [(CONTENT_RANGE, format!("bytes */{size}"))];
                return (StatusCode::RANGE_NOT_SATISFIABLE, range).into_response();
            }
        };
        let body = match *method {
            Method::HEAD => Ok(Body::empty()),
            _ => body_of(file, span, move || when_sent(span.start + span.length == size)).await,
        };
        match body {
            Ok(body) => (status, file_headers(status, span, size, etag), body).into_response(),
            Err(error) => internal_error(&error),
        }
    }
}

fn file_headers(status: StatusCode, span: Span, size: u64, etag: String) -> impl IntoResponseParts {
    let range = (status == StatusCode::PARTIAL_CONTENT)
        .then(|| [(CONTENT_RANGE, format!("bytes {}-{}/{size}", span.start, span.start + span.length - 1))]);
    let texts = [(CONTENT_LENGTH, span.length.to_string()), (ETAG, etag)];
    let constants = [(CONTENT_TYPE, "application/octet-stream"), (ACCEPT_RANGES, "bytes")];
    (AppendHeaders(texts), AppendHeaders(constants), range.map(AppendHeaders))
}

/// A Range counts only if the If-Range beside it names the file that we have (RFC 9110 section 13.1.5).
fn selection(headers: &HeaderMap, etag: &str, size: u64) -> Selection {
    let range = headers.get(RANGE).and_then(|value| value.to_str().ok());
    let is_current = headers.get(IF_RANGE).is_none_or(|value| value.as_bytes() == etag.as_bytes());
    range.filter(|_| is_current).map_or(Selection::Whole, |range| select(range, size))
}

/// Whether a header lists this ETag, or any (RFC 9110 section 13.1.2; `W/` compares alike there).
fn lists(headers: &HeaderMap, name: HeaderName, etag: &str) -> bool {
    let values = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    let mut tags = values.flat_map(|value| value.split(',')).map(str::trim);
    tags.any(|tag| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == etag)
}

/// A body of `span` of the file. `when_sent` is called as the last piece is handed to the connection.
async fn body_of(mut file: File, span: Span, when_sent: impl FnOnce() + Send + 'static) -> io::Result<Body> {
    file.seek(SeekFrom::Start(span.start)).await?;
    let mut remaining = span.length;
    let mut when_sent = Some(when_sent);
    let pieces = pieces(file, span.length).inspect_ok(move |piece| {
        remaining = remaining.saturating_sub(piece.len() as u64);
        if remaining == 0
            && let Some(when_sent) = when_sent.take()
        {
            when_sent();
        }
    });
    Ok(Body::from_stream(pieces))
}

/// The next `length` bytes of the file.
pub(super) fn pieces(mut file: File, length: u64) -> impl Stream<Item = io::Result<Bytes>> {
    file.set_max_buf_size(PIECE_BYTES);
    ReaderStream::with_capacity(file.take(length), PIECE_BYTES)
}
