//! `GET /ui`: the web page for admins. It is made of the files below `page/`, which are part of the program, and asks the routes
//! that everyone may ask; docs/page.md says what it shows.
//!
//! Scripts and styles are taken from here alone, and no text may become markup ([`POLICY`]): what the page shows was written by
//! strangers.

use std::sync::LazyLock;

use axum::Json;
use axum::extract::Path;
use axum::http::header::{
    ACCEPT, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, IF_NONE_MATCH, LOCATION,
    REFERRER_POLICY, VARY, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::file::lists;
use super::text;

/// Where the page is.
pub(super) const PATH: &str = "/ui";

/// Nothing from elsewhere, nothing inline, in no frame; and where the browser knows trusted types, no text is ever read as markup.
const POLICY: &str = "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; object-src 'none'; \
                      require-trusted-types-for 'script'; trusted-types 'none'";

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const JAVASCRIPT: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";

/// Name, type and contents of each file.
const FILES: [(&str, &str, &str); 12] = [
    ("", HTML, include_str!("page/index.html")),
    ("style.css", CSS, include_str!("page/style.css")),
    ("icon.svg", SVG, include_str!("page/icon.svg")),
    ("main.js", JAVASCRIPT, include_str!("page/main.js")),
    ("server.js", JAVASCRIPT, include_str!("page/server.js")),
    ("live.js", JAVASCRIPT, include_str!("page/live.js")),
    ("dom.js", JAVASCRIPT, include_str!("page/dom.js")),
    ("words.js", JAVASCRIPT, include_str!("page/words.js")),
    ("fleet.js", JAVASCRIPT, include_str!("page/fleet.js")),
    ("node.js", JAVASCRIPT, include_str!("page/node.js")),
    ("images.js", JAVASCRIPT, include_str!("page/images.js")),
    ("discovery.js", JAVASCRIPT, include_str!("page/discovery.js")),
];

/// The error codes of init, with what they mean, from the document for operators.
const OPERATIONS: &str = include_str!("../../../docs/operations.md");

/// A file of the page, ready to be sent.
struct PageFile {
    name: &'static str,
    kind: &'static str,
    contents: &'static str,
    etag: HeaderValue,
}

static PAGE: LazyLock<Vec<PageFile>> = LazyLock::new(|| {
    let files = FILES.into_iter().map(|(name, kind, contents)| {
        let digest = hex::encode(Sha256::digest(contents));
        let etag =
            HeaderValue::try_from(format!("\"{digest}\"")).expect("hexadecimal digits are a header value");
        PageFile { name, kind, contents, etag }
    });
    files.collect()
});

/// `GET /ui`: the page itself.
pub(super) async fn page(headers: HeaderMap) -> Response {
    send("", &headers)
}

/// `GET /ui/FILE`: what it is made of.
pub(super) async fn file(Path(name): Path<String>, headers: HeaderMap) -> Response {
    send(&name, &headers)
}

fn send(name: &str, headers: &HeaderMap) -> Response {
    let Some(file) = PAGE.iter().find(|file| file.name == name) else {
        return text(StatusCode::NOT_FOUND, "the page has no such file");
    };
    // A browser keeps what it has and asks each time if it is still so: a new release is there at once.
    let fixed = [
        (CONTENT_TYPE, file.kind),
        (CACHE_CONTROL, "no-cache"),
        (CONTENT_SECURITY_POLICY, POLICY),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (REFERRER_POLICY, "no-referrer"),
    ];
    let is_known = file.etag.to_str().is_ok_and(|etag| lists(headers, IF_NONE_MATCH, etag));
    let mut response = match is_known {
        true => (StatusCode::NOT_MODIFIED, fixed).into_response(),
        false => (fixed, file.contents).into_response(),
    };
    response.headers_mut().insert(ETAG, file.etag.clone());
    response
}

/// Whether the answer is for a person to look at. Clients of matchbox and iPXE accept anything or say nothing.
pub(super) fn is_browser(headers: &HeaderMap) -> bool {
    let mut accepted = headers.get_all(ACCEPT).into_iter().filter_map(|value| value.to_str().ok());
    accepted
        .any(|value| value.split(',').any(|kind| kind.split(';').next().map(str::trim) == Some("text/html")))
}

/// Sends a browser to the page.
pub(super) fn redirect() -> Response {
    (StatusCode::SEE_OTHER, [(LOCATION, PATH), (VARY, "Accept")]).into_response()
}

/// A code that init ends a boot with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct ErrorCode {
    code: String,
    meaning: String,
}

static CODES: LazyLock<Vec<ErrorCode>> = LazyLock::new(|| error_codes(OPERATIONS));

/// `GET /ui/codes`: what init's error codes mean.
pub(super) async fn codes() -> Response {
    Json(&*CODES).into_response()
}

/// The rows of the document's table: ``| [`E-FETCH`](#e-fetch) | something cannot be fetched | …``.
fn error_codes(document: &str) -> Vec<ErrorCode> {
    let rows = document.lines().filter_map(|line| line.strip_prefix("| [`E-"));
    let codes = rows.filter_map(|row| {
        let (code, rest) = row.split_once('`')?;
        let meaning = rest.split('|').nth(1)?.trim().replace('`', "");
        Some(ErrorCode { code: format!("E-{code}"), meaning })
    });
    codes.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_code_of_the_document_has_a_meaning() {
        let codes = error_codes(OPERATIONS);
        let sections = OPERATIONS.lines().filter(|line| line.starts_with("### E-")).count();
        assert!(sections > 20 && codes.len() == sections, "{codes:?}");
        let fetch = codes.iter().find(|code| code.code == "E-FETCH").unwrap();
        assert_eq!(fetch.meaning, "something cannot be fetched");
        assert!(codes.iter().all(|code| !code.meaning.is_empty()));
    }

    #[test]
    fn browsers_are_told_from_other_clients_by_what_they_accept() {
        for (accept, expected) in [
            ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", true),
            ("application/json, text/html;q=0.5", true),
            ("*/*", false),
            ("text/plain", false),
            ("", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT, HeaderValue::from_static(accept));
            assert_eq!(is_browser(&headers), expected, "{accept}");
        }
        assert!(!is_browser(&HeaderMap::new()));
    }

    #[test]
    fn the_page_has_nothing_inline_and_names_nothing_elsewhere() {
        for (name, _, contents) in FILES {
            for forbidden in
                ["style=\"", "<script>", "onclick=", "innerHTML", "outerHTML", "insertAdjacentHTML", "eval("]
            {
                assert!(!contents.contains(forbidden), "{name} has {forbidden}");
            }
            let urls = contents.replace("http://www.w3.org/2000/svg", "");
            assert!(!urls.contains("http://") && !urls.contains("https://"), "{name} names another server");
        }
    }
}
