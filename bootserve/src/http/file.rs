//! Files as responses: HEAD, ranges, conditional requests.

use std::fs::File;
use std::sync::Arc;

use axum::http::header::{
    ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, IF_NONE_MATCH, IF_RANGE, RANGE,
};
use axum::http::{HeaderMap, HeaderName, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;

use super::body::{FileBody, Piece};
use super::range::{Selection, Span, select};

/// Of all files that are sent by ranges: kernels, archives, tars.
pub(super) const OCTET_STREAM: &str = "application/octet-stream";

/// A file that is sent as it is.
#[derive(Debug)]
pub(super) struct ServedFile {
    /// The file.
    pub file: File,
    /// Its length.
    pub size_bytes: u64,
    /// Its entity tag, in quotes: files with the same tag have the same bytes.
    pub etag: String,
}

/// What a request wants of a file.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// Only to know about it, or nothing at all. This is the answer's status.
    Head(StatusCode),
    /// These bytes.
    Bytes(Selection),
}

impl ServedFile {
    /// What GET or HEAD with these headers wants.
    pub fn wanted(&self, method: &Method, headers: &HeaderMap) -> Wanted {
        if lists(headers, IF_NONE_MATCH, &self.etag) {
            return Wanted::Head(StatusCode::NOT_MODIFIED);
        }
        // RFC 9110 section 14.2: Range means nothing on any other method.
        if method != Method::GET {
            return Wanted::Head(StatusCode::OK);
        }
        // A Range counts only if the If-Range beside it names the file that we have (RFC 9110 section 13.1.5).
        let is_current = headers.get(IF_RANGE).is_none_or(|value| value.as_bytes() == self.etag.as_bytes());
        let range = headers.get(RANGE).filter(|_| is_current).and_then(|value| value.to_str().ok());
        match range.map_or(Selection::Whole, |range| select(range, self.size_bytes)) {
            Selection::Unsatisfiable => Wanted::Head(StatusCode::RANGE_NOT_SATISFIABLE),
            selection => Wanted::Bytes(selection),
        }
    }

    /// The answer. `when_sent` is called as the last byte is handed to the connection, and told whether that is the end of
    /// the file.
    pub fn respond(self, wanted: Wanted, when_sent: impl Fn(bool) + Send + Sync + 'static) -> Response {
        let Self { file, size_bytes: size, etag } = self;
        let about = [(ETAG, etag), (ACCEPT_RANGES, "bytes".to_owned())];
        let body = |pieces, reaches_end| FileBody {
            file: Arc::new(file),
            pieces,
            when_sent: Arc::new(move || when_sent(reaches_end)),
            transfer: None,
        };
        match wanted {
            Wanted::Head(StatusCode::RANGE_NOT_SATISFIABLE) => {
                (StatusCode::RANGE_NOT_SATISFIABLE, [(CONTENT_RANGE, format!("bytes */{size}"))])
                    .into_response()
            }
            Wanted::Head(StatusCode::NOT_MODIFIED) => (StatusCode::NOT_MODIFIED, about).into_response(),
            Wanted::Head(status) => {
                let length = [(CONTENT_LENGTH, size.to_string()), (CONTENT_TYPE, OCTET_STREAM.to_owned())];
                (status, about, length).into_response()
            }
            Wanted::Bytes(Selection::Part(span)) => {
                let range =
                    [(CONTENT_RANGE, content_range(span, size)), (CONTENT_TYPE, OCTET_STREAM.to_owned())];
                let reaches_end = span.end() == size;
                let part = body(vec![Piece::Span(span)], reaches_end).respond((about, range));
                (StatusCode::PARTIAL_CONTENT, part).into_response()
            }
            Wanted::Bytes(Selection::Parts(spans)) => {
                let reaches_end = spans.iter().any(|span| span.end() == size);
                // It must not occur in the file.
                let boundary = format!("{:032x}", rand::random::<u128>());
                let content_type = [(CONTENT_TYPE, format!("multipart/byteranges; boundary={boundary}"))];
                let parts = multipart(&spans, size, &boundary);
                let parts = body(parts, reaches_end).respond((about, content_type));
                (StatusCode::PARTIAL_CONTENT, parts).into_response()
            }
            Wanted::Bytes(Selection::Whole | Selection::Unsatisfiable) => {
                let whole = vec![Piece::Span(Span { start: 0, length: size })];
                body(whole, true).respond((about, [(CONTENT_TYPE, OCTET_STREAM)]))
            }
        }
    }
}

fn content_range(span: Span, size: u64) -> String {
    format!("bytes {}-{}/{size}", span.start, span.end() - 1)
}

/// Several ranges in one body (RFC 9110 section 14.6).
fn multipart(spans: &[Span], size: u64, boundary: &str) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let mut line_end = "";
    for span in spans {
        let head = format!(
            "{line_end}--{boundary}\r\nContent-Type: {OCTET_STREAM}\r\nContent-Range: {}\r\n\r\n",
            content_range(*span, size)
        );
        pieces.extend([Piece::Bytes(Bytes::from(head)), Piece::Span(*span)]);
        line_end = "\r\n";
    }
    pieces.push(Piece::Bytes(Bytes::from(format!("{line_end}--{boundary}--\r\n"))));
    pieces
}

/// Whether a header lists this ETag, or any (RFC 9110 section 13.1.2; `W/` compares alike there).
pub(super) fn lists(headers: &HeaderMap, name: HeaderName, etag: &str) -> bool {
    let values = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    let mut tags = values.flat_map(|value| value.split(',')).map(str::trim);
    tags.any(|tag| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == etag)
}
