//! An answer as it is sent.

use std::fmt::Write as _;
use std::io;
use std::time::SystemTime;

use axum::body::to_bytes;
use axum::http::header::CONTENT_LENGTH;
use axum::http::{HeaderName, HeaderValue, StatusCode, Version};
use axum::response::Response;
use bytes::Bytes;

use crate::http::body::FileBody;
use crate::http::event_stream::StreamBody;

/// A response and what its form depends on.
pub struct Answer {
    pub response: Response,
    /// Only the head is sent.
    pub is_head: bool,
    /// The request's.
    pub version: Version,
    /// Whether another request may follow.
    pub keep_alive: bool,
}

/// What follows the head.
pub enum Body {
    Bytes(Bytes),
    File(FileBody),
    Stream(StreamBody),
}

impl Answer {
    /// The head, and the body.
    pub async fn into_parts(self) -> io::Result<(Vec<u8>, Body)> {
        let (mut parts, body) = self.response.into_parts();
        let file = parts.extensions.remove::<FileBody>().filter(|_| !self.is_head);
        let stream = parts.extensions.remove::<StreamBody>();
        // All other bodies are in memory already.
        let bytes = to_bytes(body, usize::MAX).await.map_err(io::Error::other)?;
        // RFC 9110 section 8.6: neither has a body, and 304 would tell the length of another.
        let has_length = !matches!(parts.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        if stream.is_some() {
            // It ends with the connection, and the length is that of the body which it is in place of.
            parts.headers.remove(CONTENT_LENGTH);
        } else if has_length && !parts.headers.contains_key(CONTENT_LENGTH) {
            parts.headers.insert(CONTENT_LENGTH, HeaderValue::from(bytes.len()));
        }
        let mut head = String::with_capacity(512);
        // The space behind the status is never left out: iPXE needs it.
        let (code, reason) = (parts.status.as_str(), parts.status.canonical_reason().unwrap_or_default());
        let date = httpdate::HttpDate::from(SystemTime::now());
        // Writing to memory cannot fail.
        let _ = write!(head, "HTTP/1.1 {code} {reason}\r\nDate: {date}\r\n");
        match (self.keep_alive, self.version) {
            (false, _) => head.push_str("Connection: close\r\n"),
            (true, Version::HTTP_10) => head.push_str("Connection: keep-alive\r\n"),
            (true, _) => {}
        }
        let mut head = head.into_bytes();
        for (name, value) in &parts.headers {
            push_name(&mut head, name);
            head.extend_from_slice(b": ");
            head.extend_from_slice(value.as_bytes());
            head.extend_from_slice(b"\r\n");
        }
        head.extend_from_slice(b"\r\n");
        let stream = stream.filter(|_| !self.is_head).map(Body::Stream);
        Ok((head, stream.or(file.map(Body::File)).unwrap_or(Body::Bytes(bytes))))
    }
}

/// As RFCs spell it: GRUB up to 2.06 knows `Content-Length` in no other case.
fn push_name(head: &mut Vec<u8>, name: &HeaderName) {
    let mut begins_word = true;
    for byte in name.as_str().bytes() {
        head.push(if begins_word { byte.to_ascii_uppercase() } else { byte });
        begins_word = byte == b'-';
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::body::Piece;
    use crate::http::range::Span;
    use axum::response::IntoResponse;
    use std::sync::Arc;

    /// Head, without its date, and body.
    async fn sent(response: Response, is_head: bool, version: Version, keep_alive: bool) -> (String, Body) {
        let (head, body) = Answer { response, is_head, version, keep_alive }.into_parts().await.unwrap();
        let head = String::from_utf8(head).unwrap();
        let (status, rest) = head.split_once("\r\nDate: ").unwrap();
        let (date, rest) = rest.split_once("\r\n").unwrap();
        httpdate::parse_http_date(date).unwrap();
        (format!("{status}\r\n{rest}"), body)
    }

    #[tokio::test]
    async fn a_head_is_spelled_as_old_boot_loaders_know_it() {
        let response = ([("x-a", "1"), ("content-type", "text/plain")], "body").into_response();
        let (head, body) = sent(response, false, Version::HTTP_11, true).await;
        let expected = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nX-A: 1\r\nContent-Length: 4\r\n\r\n";
        assert_eq!(head, expected);
        assert!(matches!(body, Body::Bytes(bytes) if bytes == "body"));
        let unknown = StatusCode::from_u16(599).unwrap().into_response();
        let (head, _) = sent(unknown, false, Version::HTTP_11, true).await;
        assert!(head.starts_with("HTTP/1.1 599 \r\n"), "{head}");
    }

    #[tokio::test]
    async fn a_head_says_whether_the_connection_stays_open() {
        for (version, keep_alive, expected) in [
            (Version::HTTP_11, true, ""),
            (Version::HTTP_11, false, "Connection: close\r\n"),
            (Version::HTTP_10, true, "Connection: keep-alive\r\n"),
            (Version::HTTP_10, false, "Connection: close\r\n"),
        ] {
            let (head, _) = sent(StatusCode::NO_CONTENT.into_response(), false, version, keep_alive).await;
            assert_eq!(head, format!("HTTP/1.1 204 No Content\r\n{expected}\r\n"));
        }
    }

    #[tokio::test]
    async fn a_file_has_its_length_and_is_not_sent_to_who_asks_for_the_head() {
        let file = Arc::new(tempfile::tempfile().unwrap());
        let pieces =
            vec![Piece::Bytes(Bytes::from("ab")), Piece::Span(Span { start: 0, length: 5_000_000_000 })];
        for is_head in [false, true] {
            let (file, pieces) = (Arc::clone(&file), pieces.clone());
            let body = FileBody { file, pieces, when_sent: Arc::new(|| ()), transfer: None };
            let response = body.respond([("x-a", "1")]);
            let (head, body) = sent(response, is_head, Version::HTTP_11, true).await;
            assert!(head.contains("\r\nContent-Length: 5000000002\r\n"), "{head}");
            assert_eq!(matches!(body, Body::File(_)), !is_head);
        }
    }
}
