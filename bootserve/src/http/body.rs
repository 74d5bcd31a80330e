//! Bodies that are files. The connection has the kernel send them, so that no byte of them passes through our memory.

use std::fmt;
use std::fs::File;
use std::sync::Arc;

use axum::http::HeaderValue;
use axum::http::header::CONTENT_LENGTH;
use axum::response::{IntoResponse, IntoResponseParts, Response};
use bytes::Bytes;

use super::range::Span;
use super::transfers::Transfer;

/// What a response carries in place of a body; see [`FileBody::respond`].
#[derive(Clone)]
pub(super) struct FileBody {
    /// Where the spans are.
    pub file: Arc<File>,
    /// What is sent, in this order.
    pub pieces: Vec<Piece>,
    /// Called once all of it is handed to the connection; dropped with the body in any case.
    pub when_sent: Arc<dyn Fn() + Send + Sync>,
    /// Told of what is sent.
    pub transfer: Option<Arc<Transfer>>,
}

/// Has the body that `response` carries, if it does, tell `begin`'s transfer how far it is. What `begin` is given are the first
/// byte of the file that is sent, and how many are.
pub(super) fn follow(response: &mut Response, begin: impl FnOnce(u64, u64) -> Arc<Transfer>) {
    if let Some(body) = response.extensions_mut().get_mut::<FileBody>() {
        body.transfer = Some(begin(body.first(), body.length()));
    }
}

/// Part of a body.
#[derive(Clone, Debug)]
pub(super) enum Piece {
    /// These bytes.
    Bytes(Bytes),
    /// Those of the file.
    Span(Span),
}

impl FileBody {
    /// A response with this body, and its length. Only [`super::connection`] can send it.
    pub fn respond(self, head: impl IntoResponseParts) -> Response {
        let mut response = (head, ()).into_response();
        response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(self.length()));
        response.extensions_mut().insert(self);
        response
    }

    /// Of several ranges, none is the first.
    fn first(&self) -> u64 {
        match self.pieces[..] {
            [Piece::Span(span)] => span.start,
            _ => 0,
        }
    }

    /// Its length in bytes.
    pub fn length(&self) -> u64 {
        let lengths = self.pieces.iter().map(|piece| match piece {
            Piece::Bytes(bytes) => bytes.len() as u64,
            Piece::Span(span) => span.length,
        });
        lengths.sum()
    }
}

impl fmt::Debug for FileBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileBody").field("pieces", &self.pieces).finish_non_exhaustive()
    }
}
