//! Files of the image store: `GET /images/NAME/VERSION/ARTIFACT`, with HEAD, Range and conditional requests.
//!
//! Only the manifest, its signature and what the manifest lists are served; every part of the path has passed the parser of its type,
//! so no path can leave the version's directory.

use std::io;
use std::net::SocketAddrV4;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use axum::extract::{self, ConnectInfo, Query, State};
use axum::http::header::{CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use bootspec::ImageRef;
use bootspec::diagnosis::explain;
use bootspec::event::{BootId, Phase};
use bootspec::manifest::Artifact;
use bootspec::store::{ArtifactName, INITRAMFS, INITRAMFS_FETCHED, MANIFEST, MANIFEST_SIGNATURE, VMLINUZ};
use serde::Deserialize;
use tracing::{info, warn};

use super::admission::Busy;
use super::body::follow;
use super::file::{ServedFile, Wanted};
use super::transfers::{self, UnderWay};
use super::{App, compat, internal_error, on_disk, text};
use crate::events::{BootEvent, EventLog};
use crate::store::{StoreError, open_regular, read_manifest, read_manifest_json, read_signature};

#[derive(Deserialize)]
pub(super) struct BootQuery {
    boot: Option<String>,
}

/// `GET /images/NAME/VERSION/ARTIFACT`, and HEAD. What the store does not have may be an asset of bootcfg's.
pub(super) async fn artifact(
    State(app): State<Arc<App>>,
    extract::Path(path): extract::Path<String>,
    Query(query): Query<BootQuery>,
    ConnectInfo(peer): ConnectInfo<SocketAddrV4>,
    method: Method,
    headers: HeaderMap,
) -> Response {
    let ours = of_store(&app, &path, query, peer, &method, &headers).await;
    if ours.status() != StatusCode::NOT_FOUND {
        return ours;
    }
    compat::image_of_bootcfg(&app, peer, &method, &headers, path).await.unwrap_or(ours)
}

async fn of_store(
    app: &App,
    path: &str,
    query: BootQuery,
    peer: SocketAddrV4,
    method: &Method,
    headers: &HeaderMap,
) -> Response {
    let Some((image, artifact)) = path.rsplit_once('/') else { return not_found() };
    let (Ok(image), Ok(artifact)) = (image.parse::<ImageRef>(), artifact.parse::<ArtifactName>()) else {
        return not_found();
    };
    let store = app.served.config.server.store.clone();
    match artifact.as_str() {
        MANIFEST => {
            let json = on_disk(move || read_manifest_json(&store, &image)).await;
            return small_file("application/json", json);
        }
        MANIFEST_SIGNATURE => {
            let signature = on_disk(move || read_signature(&store, &image)).await;
            return small_file("text/plain; charset=utf-8", signature);
        }
        _ => {}
    }
    let boot = query.boot.and_then(|boot| boot.parse().ok());
    let (opened, image, artifact) =
        on_disk(move || (open_artifact(&store, &image, &artifact), image, artifact)).await;
    let file = match opened {
        Ok(file) => file,
        Err(OpenError::Store(error)) if error.is_not_found() => return not_found(),
        Err(OpenError::NotListed) => return not_found(),
        Err(error) => {
            let reason = format!("cannot send {artifact}: {}", explain(&error));
            app.events.refuse_at(*peer.ip(), boot, &reason).await;
            return internal_error(&error);
        }
    };
    let download = Download { boot, phase: phase_of(&artifact), image, events: Arc::clone(&app.events) };
    let wanted = file.wanted(method, headers);
    if let Wanted::Head(_) = wanted {
        return file.respond(wanted, |_| ());
    }
    let permit = match app.downloads.admit(*peer.ip(), Instant::now()) {
        Ok(permit) => permit,
        Err(busy) => {
            if busy.is_new {
                let reason = "download refused for now: [http] max_downloads machines download already";
                app.events.refuse_at(*peer.ip(), download.boot, reason).await;
            }
            return busy_response(&busy);
        }
    };
    let size_bytes = file.size_bytes;
    let under_way = Arc::new(OnceLock::<UnderWay>::new());
    let held = Arc::clone(&under_way);
    let mut response = file.respond(wanted, move |reaches_end| {
        // As long as the body is, the permit and what follows it are.
        let _ = (&permit, &held);
        download.sent(reaches_end);
    });
    follow(&mut response, |first, wanted_bytes| {
        let wanted = transfers::Wanted { file: artifact.to_string(), size_bytes, boot, first, wanted_bytes };
        under_way.get_or_init(|| app.transfers.begin(*peer.ip(), wanted, Instant::now())).transfer()
    });
    response
}

fn small_file(content_type: &'static str, contents: Result<Vec<u8>, StoreError>) -> Response {
    contents.map_or_else(store_error, |bytes| ([(CONTENT_TYPE, content_type)], bytes).into_response())
}

/// An artifact that cannot be sent.
#[derive(Debug, thiserror::Error)]
enum OpenError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the manifest lists no such artifact")]
    NotListed,
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
fn open_artifact(store: &Path, image: &ImageRef, artifact: &ArtifactName) -> Result<ServedFile, OpenError> {
    let manifest = read_manifest(store, image)?;
    let Artifact { size_bytes, sha256 } = manifest.artifacts.get(artifact).ok_or(OpenError::NotListed)?;
    let path = image.dir(store).join(artifact.as_str());
    let opened = open_regular(&path).and_then(|file| file.metadata().map(|metadata| (file, metadata.len())));
    match opened {
        Ok((file, found)) if found == *size_bytes => {
            Ok(ServedFile { file, size_bytes: found, etag: format!("\"{sha256}\"") })
        }
        Ok((_, found)) => Err(OpenError::Size { path, found, expected: *size_bytes }),
        Err(source) => Err(OpenError::Open { path, source }),
    }
}

/// iPXE and init wait as long as they are told and ask again (RFC 9110 section 10.2.3).
pub(super) fn busy_response(busy: &Busy) -> Response {
    let retry_after = [(RETRY_AFTER, busy.retry_after.as_secs().to_string())];
    (retry_after, text(StatusCode::SERVICE_UNAVAILABLE, busy.to_string())).into_response()
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
    fn sent(&self, reaches_end: bool) {
        let (image, events) = (self.image.clone(), Arc::clone(&self.events));
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
