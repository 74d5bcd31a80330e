//! The head of an HTTP/1 request (RFC 9112), as far as a server must understand it: what is asked for, how long its body is,
//! and whether the connection stays open.

use axum::http::header::{CONNECTION, CONTENT_LENGTH, EXPECT, TRANSFER_ENCODING};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode, Version};
use httparse::{EMPTY_HEADER, Status};

/// A longer head is refused. Firmware and iPXE send some hundred bytes.
pub const MAX_HEAD_BYTES: usize = 16 * 1024;
/// A longer body is refused: the largest that anybody sends is a boot report.
pub const MAX_BODY_BYTES: u64 = 1 << 20;
const MAX_HEADERS: usize = 64;

/// A request whose body is still to be read.
#[derive(Debug)]
pub struct Head {
    /// What is asked for.
    pub request: Request<()>,
    /// Length of the head.
    pub head_bytes: usize,
    /// Length of the body that follows it.
    pub body_bytes: u64,
    /// Whether the client may send another request afterwards.
    pub keep_alive: bool,
    /// Whether the client waits for `100 Continue` before it sends the body.
    pub expects_continue: bool,
}

/// A request cannot be answered but with an error, after which the connection is of no use.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeadError {
    /// It is not HTTP/1.
    #[error("this is no HTTP/1 request: {0}")]
    Malformed(&'static str),
    /// The head does not end.
    #[error("a request head has at most {MAX_HEAD_BYTES} bytes and {MAX_HEADERS} fields")]
    TooLong,
    /// The body is longer than any that we take.
    #[error("a request body has at most {MAX_BODY_BYTES} bytes, this one {0}")]
    Body(u64),
    /// The body has no length.
    #[error("a request body needs a Content-Length; transfer codings are not supported")]
    NoLength,
}

impl Head {
    /// Length of the whole request.
    pub fn all_bytes(&self) -> usize {
        // The body is no longer than MAX_BODY_BYTES.
        self.head_bytes + self.body_bytes as usize
    }
}

impl HeadError {
    /// What the client is told.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Malformed(_) => StatusCode::BAD_REQUEST,
            Self::TooLong => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::Body(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::NoLength => StatusCode::LENGTH_REQUIRED,
        }
    }
}

/// The head at the beginning of `bytes`; none, if its end has not come yet.
pub fn parse(bytes: &[u8]) -> Result<Option<Head>, HeadError> {
    let mut fields = [EMPTY_HEADER; MAX_HEADERS];
    let mut parsed = httparse::Request::new(&mut fields);
    let head_bytes = match parsed.parse(bytes) {
        Ok(Status::Complete(length)) if length <= MAX_HEAD_BYTES => length,
        Ok(Status::Partial) if bytes.len() < MAX_HEAD_BYTES => return Ok(None),
        Ok(_) | Err(httparse::Error::TooManyHeaders) => return Err(HeadError::TooLong),
        Err(httparse::Error::Version) => return Err(HeadError::Malformed("its version is another")),
        Err(_) => return Err(HeadError::Malformed("its syntax is another")),
    };
    let version = match parsed.version {
        Some(0) => Version::HTTP_10,
        _ => Version::HTTP_11,
    };
    let (method, target) = (parsed.method.unwrap_or_default(), parsed.path.unwrap_or_default());
    let mut request = Request::builder()
        .method(method)
        .uri(target)
        .version(version)
        .body(())
        .map_err(|_| HeadError::Malformed("its method or its target cannot be"))?;
    for field in parsed.headers {
        let name = HeaderName::from_bytes(field.name.as_bytes());
        let value = HeaderValue::from_bytes(field.value);
        let (Ok(name), Ok(value)) = (name, value) else {
            return Err(HeadError::Malformed("one of its fields cannot be"));
        };
        request.headers_mut().append(name, value);
    }
    let headers = request.headers();
    let (body_bytes, keep_alive) = (body_bytes(headers)?, keep_alive(version, headers));
    // RFC 9110 section 10.1.1: HTTP/1.0 knows no 100.
    let expects_continue = version == Version::HTTP_11 && headers.contains_key(EXPECT);
    Ok(Some(Head { request, head_bytes, body_bytes, keep_alive, expects_continue }))
}

/// RFC 9112 section 6.3. What could be read in two ways is refused: a proxy before us might read it in the other.
fn body_bytes(headers: &HeaderMap) -> Result<u64, HeadError> {
    if headers.contains_key(TRANSFER_ENCODING) {
        return Err(HeadError::NoLength);
    }
    let mut lengths = headers.get_all(CONTENT_LENGTH).into_iter();
    let Some(length) = lengths.next() else { return Ok(0) };
    let digits = length.as_bytes();
    let number = str::from_utf8(digits).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    match number.and_then(|text| text.parse().ok()) {
        Some(_) if lengths.any(|other| other.as_bytes() != digits) => {
            Err(HeadError::Malformed("it has two lengths"))
        }
        Some(length) if length > MAX_BODY_BYTES => Err(HeadError::Body(length)),
        Some(length) => Ok(length),
        None => Err(HeadError::Malformed("its Content-Length is no number")),
    }
}

/// RFC 9112 section 9.3.
fn keep_alive(version: Version, headers: &HeaderMap) -> bool {
    let values = headers.get_all(CONNECTION).into_iter().filter_map(|value| value.to_str().ok());
    let options: Vec<_> = values.flat_map(|value| value.split(',')).map(str::trim).collect();
    let has = |option: &str| options.iter().any(|found| found.eq_ignore_ascii_case(option));
    !has("close") && (version == Version::HTTP_11 || has("keep-alive"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn head(text: &str) -> Head {
        parse(text.as_bytes()).unwrap().unwrap()
    }

    #[test]
    fn a_request_of_ipxe_is_understood() {
        let text = "GET /ipxe?mac=fc-ab-14-e8-66-01 HTTP/1.1\r\nConnection: keep-alive\r\nUser-Agent: iPXE/1.21.1\r\n\
                    Host: 192.168.0.1\r\n\r\nGET /next";
        let found = head(text);
        assert_eq!(found.request.method(), "GET");
        assert_eq!(found.request.uri(), "/ipxe?mac=fc-ab-14-e8-66-01");
        assert_eq!(found.request.headers()["user-agent"], "iPXE/1.21.1");
        assert_eq!(&text[found.head_bytes..], "GET /next");
        assert_eq!((found.body_bytes, found.keep_alive, found.expects_continue), (0, true, false));
    }

    #[test]
    fn a_connection_stays_open_as_its_version_and_its_options_say() {
        for (version, options, expected) in [
            ("1.1", "", true),
            ("1.1", "Connection: close\r\n", false),
            ("1.1", "Connection: te, Close\r\n", false),
            ("1.0", "", false),
            ("1.0", "Connection: Keep-Alive\r\n", true),
            ("1.0", "Connection: keep-alive\r\nConnection: close\r\n", false),
        ] {
            let found = head(&format!("GET / HTTP/{version}\r\n{options}\r\n"));
            assert_eq!(found.keep_alive, expected, "{version} {options}");
        }
    }

    #[test]
    fn a_body_has_one_length() {
        let post = |fields: &str| parse(format!("POST / HTTP/1.1\r\n{fields}\r\n").as_bytes());
        let length = |fields: &str| post(fields).unwrap().unwrap().body_bytes;
        assert_eq!(length("Content-Length: 12\r\nExpect: 100-continue\r\n"), 12);
        assert_eq!(length("Content-Length: 12\r\nContent-Length: 12\r\n"), 12);
        let status = |fields: &str| post(fields).unwrap_err().status().as_u16();
        for fields in ["12\r\nContent-Length: 13", "x", "-1", "+1", "", "1, 1", "99999999999999999999"] {
            assert_eq!(status(&format!("Content-Length: {fields}\r\n")), 400, "{fields}");
        }
        assert_eq!(status("Content-Length: 1048577\r\n"), 413);
        assert_eq!(status("Transfer-Encoding: chunked\r\n"), 411);
        assert_eq!(status("Transfer-Encoding: chunked\r\nContent-Length: 1\r\n"), 411);
    }

    #[test]
    fn what_is_no_request_is_refused_and_what_is_not_complete_is_waited_for() {
        let status = |text: &str| parse(text.as_bytes()).unwrap_err().status().as_u16();
        for text in [
            "\u{16}\u{3}\u{1}",
            "GET / HTTP/2.0\r\n\r\n",
            "GET /\u{7f}\r\n\r\n",
            "GET / HTTP/1.1\r\nA B: c\r\n\r\n",
        ] {
            assert_eq!(status(text), 400, "{text:?}");
        }
        for text in ["", "G", "GET / HTTP/1.1\r\nHost: x\r\n"] {
            assert!(parse(text.as_bytes()).unwrap().is_none(), "{text:?}");
        }
        let long = format!("GET /{} HTTP/1.1\r\n", "x".repeat(MAX_HEAD_BYTES));
        assert_eq!((status(&long), status(&(long.clone() + "\r\n"))), (431, 431));
        assert_eq!(status(&format!("GET / HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(65))), 431);
    }

    proptest! {
        #[test]
        fn any_bytes_are_handled_without_panic(bytes: Vec<u8>, line in "[A-Z]{1,4} \\PC{0,20} HTTP/1.[01]\r\n(\\PC{0,9}: \\PC{0,9}\r\n){0,3}\r\n") {
            let _ = parse(&bytes);
            if let Ok(Some(head)) = parse(line.as_bytes()) {
                prop_assert!(head.head_bytes <= line.len() && head.body_bytes <= MAX_BODY_BYTES);
            }
        }

        #[test]
        fn a_head_that_comes_in_pieces_is_the_same(cut in 0usize..60) {
            let text = b"GET /a HTTP/1.1\r\nContent-Length: 7\r\nConnection: close\r\n\r\n";
            prop_assume!(cut < text.len());
            prop_assert!(parse(&text[..cut]).unwrap().is_none());
        }
    }
}
