//! Files of the image store: `GET /images/NAME/VERSION/ARTIFACT`, with HEAD, Range and conditional requests.
//!
//! Only the manifest, its signature and what the manifest lists are served; every part of the path has passed the parser of its type,
//! so no path can leave the version's directory.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::header::{
    ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, IF_NONE_MATCH, IF_RANGE, RANGE,
};
use axum::http::{HeaderMap, HeaderName, Method, StatusCode};
use axum::response::{AppendHeaders, IntoResponse, IntoResponseParts, Response};
use bootspec::ImageRef;
use bootspec::event::{BootId, Phase};
use bootspec::manifest::Artifact;
use bootspec::store::{ArtifactName, INITRAMFS, INITRAMFS_FETCHED, MANIFEST, MANIFEST_SIGNATURE, VMLINUZ};
use serde::Deserialize;
use tokio::fs::File;
use tracing::{info, warn};

use super::range::{Selection, Span, select};
use super::{App, body, internal_error, text};
use crate::events::{BootEvent, EventLog};
use crate::store::{StoreError, read_manifest, read_manifest_json, read_signature};

#[derive(Deserialize)]
pub(super) struct BootQuery {
    boot: Option<String>,
}

/// `GET /images/NAME/VERSION/ARTIFACT`, and HEAD.
pub(super) async fn artifact(
    State(app): State<Arc<App>>,
    Path((name, version, artifact)): Path<(String, String, String)>,
    Query(query): Query<BootQuery>,
    method: Method,
    headers: HeaderMap,
) -> Response {
    let image = format!("{name}/{version}").parse::<ImageRef>();
    let (Ok(image), Ok(artifact)) = (image, artifact.parse::<ArtifactName>()) else {
        return not_found();
    };
    let store = &app.config.server.store;
    match artifact.as_str() {
        MANIFEST => return small_file("application/json", read_manifest_json(store, &image).await),
        MANIFEST_SIGNATURE => {
            return small_file("text/plain; charset=utf-8", read_signature(store, &image).await);
        }
        _ => {}
    }
    let entry = match read_manifest(store, &image).await {
        Ok(manifest) => manifest.artifacts.get(&artifact).cloned(),
        Err(error) => return store_error(error),
    };
    let Some(entry) = entry else { return not_found() };
    let download = Download {
        boot: query.boot.and_then(|boot| boot.parse().ok()),
        phase: phase_of(&artifact),
        image,
        events: Arc::clone(&app.events),
    };
    let path = download.image.dir(store).join(artifact.as_str());
    match open_complete(&path, &entry).await {
        Ok(file) => send(file, &entry, &method, &headers, download).await,
        Err(error) => internal_error(&error),
    }
}

fn small_file(content_type: &'static str, contents: Result<Vec<u8>, StoreError>) -> Response {
    contents.map_or_else(store_error, |bytes| ([(CONTENT_TYPE, content_type)], bytes).into_response())
}

/// The artifact's file does not match the manifest.
#[derive(Debug, thiserror::Error)]
enum OpenError {
    #[error("cannot open {}", path.display())]
    Open {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{} has {found} bytes, its manifest says {expected}\nhint: imagebuild verify", path.display())]
    Size { path: PathBuf, found: u64, expected: u64 },
}

/// Opens a file of the size that its manifest says: a node must not begin a download that cannot be right.
async fn open_complete(path: &std::path::Path, entry: &Artifact) -> Result<File, OpenError> {
    let open_error = |source| OpenError::Open { path: path.to_owned(), source };
    let file = File::open(path).await.map_err(open_error)?;
    let found = file.metadata().await.map_err(open_error)?.len();
    if found != entry.size_bytes {
        return Err(OpenError::Size { path: path.to_owned(), found, expected: entry.size_bytes });
    }
    Ok(file)
}

async fn send(
    file: File,
    entry: &Artifact,
    method: &Method,
    headers: &HeaderMap,
    download: Download,
) -> Response {
    let etag = format!("\"{}\"", entry.sha256);
    let size = entry.size_bytes;
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
        _ => body::of_file(file, span, move || download.sent(span.start + span.length == size)).await,
    };
    match body {
        Ok(body) => (status, file_headers(status, span, size, etag), body).into_response(),
        Err(error) => internal_error(&error),
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

/// A download that may belong to a node's boot.
struct Download {
    boot: Option<BootId>,
    phase: Option<Phase>,
    image: ImageRef,
    events: Arc<EventLog>,
}

impl Download {
    /// Notes the phase that the end of the file completes. An id that no script was given is not recorded.
    fn sent(self, reaches_end: bool) {
        let Self { image, events, .. } = self;
        let (Some(id), Some(phase), true) = (self.boot, self.phase, reaches_end) else { return };
        tokio::spawn(async move {
            match events.boot(id).await {
                Ok(Some(boot)) => {
                    let event = BootEvent::now(boot.mac, phase);
                    events.note(BootEvent { boot: Some(id), image: Some(image), ..event }).await;
                }
                Ok(None) => info!(boot = %id, %phase, %image, "download for an unknown boot"),
                Err(error) => warn!(error = &error as &dyn std::error::Error, "boot event lost"),
            }
        });
    }
}

fn phase_of(artifact: &ArtifactName) -> Option<Phase> {
    match artifact.as_str() {
        VMLINUZ => Some(Phase::Kernel),
        INITRAMFS | INITRAMFS_FETCHED => Some(Phase::Initramfs),
        // What init fetches, init reports.
        _ => None,
    }
}

fn store_error(error: StoreError) -> Response {
    if error.is_not_found() { not_found() } else { internal_error(&error) }
}

fn not_found() -> Response {
    text(StatusCode::NOT_FOUND, "there is no such file in the image store")
}
