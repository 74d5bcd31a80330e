//! Secrets of single nodes: `GET /credentials/NODE.img?boot=ID` for the boot loader, which is given what init shows to be given them
//! ([`crate::secrets`]), and `GET /v1/secrets/NODE` for init.
//!
//! Each is answered once a boot. All else is refused in the same words, and the log, the node's events and the metrics say why.

use std::net::{SocketAddr, SocketAddrV4};
use std::sync::Arc;
use std::time::SystemTime;

use axum::Extension;
use axum::body::Body;
use axum::extract::{ConnectInfo, Path, Query, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use bootspec::credential::{Credential, SIGNATURE_HEADER};
use bootspec::diagnosis::explain;
use bootspec::event::BootId;
use bytes::Bytes;
use serde::Deserialize;
use tracing::{info, warn};

use super::access::bearer;
use super::file::OCTET_STREAM;
use super::{App, internal_error, on_disk, text};
use crate::config::{Node, Scheme};
use crate::database::DatabaseError;
use crate::events::SECRETS_REFUSED;
use crate::http::tls::Certificate;
use crate::overlay::{self, Given, OverlayError, Rendered, segment};
use crate::secrets::{self, Bearer, Refusal, SECRETS_PREFIX};

/// What the metrics call an answer that is none of the refusals.
pub(crate) const HANDED_OUT: &str = "handed-out";

/// What ends a request before its answer.
enum Denied {
    Refused(Refusal),
    Database(DatabaseError),
    Overlay(OverlayError),
    Io(std::io::Error),
}

impl From<Refusal> for Denied {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<DatabaseError> for Denied {
    fn from(error: DatabaseError) -> Self {
        Self::Database(error)
    }
}

/// What the URL of a credential says of the boot.
#[derive(Deserialize)]
pub(super) struct BootQuery {
    boot: Option<BootId>,
}

/// `GET /credentials/NODE.img?boot=ID`.
pub(super) async fn credential(
    State(app): State<Arc<App>>,
    ConnectInfo(peer): ConnectInfo<SocketAddrV4>,
    Path(file): Path<String>,
    Query(BootQuery { boot }): Query<BootQuery>,
    method: Method,
) -> Response {
    // Of what is given once, nobody is told the length first.
    if method != Method::GET {
        return StatusCode::METHOD_NOT_ALLOWED.into_response();
    }
    let Some(name) = file.strip_suffix(overlay::SEGMENT_SUFFIX) else {
        return text(StatusCode::NOT_FOUND, "there is no such credential");
    };
    match make_credential(&app, peer, name, boot).await {
        Ok(segment) => {
            info!(%peer, node = name, "credential handed out");
            private(OCTET_STREAM, segment).into_response()
        }
        Err(denied) => deny(&app, peer, name, "credential", denied).await,
    }
}

/// The segment with a token that is new.
async fn make_credential(
    app: &App,
    peer: SocketAddrV4,
    name: &str,
    boot: Option<BootId>,
) -> Result<Vec<u8>, Denied> {
    let (node, certificate) = node_with_secrets(app, name)?;
    check_peer(app, peer, node).await?;
    let config = &app.served.config;
    let mac = config.mac_of(node).ok_or(Refusal::UnknownBoot)?;
    let port = config.tls.as_ref().map(|tls| tls.port).ok_or(Refusal::NoTls)?;
    let bearer = Bearer { node: &node.name, mac, address: *peer.ip() };
    let boot = boot.ok_or(Refusal::UnknownBoot)?;
    let token = secrets::issue(app.events.database(), bearer, boot, SystemTime::now()).await??;
    let credential = Credential {
        address: SocketAddr::from((config.server.address, port)),
        path: format!("{SECRETS_PREFIX}/{name}"),
        token,
        certificate: certificate.digest(),
    };
    segment::credential(&credential.to_bytes()).map_err(Denied::Io)
}

/// `GET /v1/secrets/NODE`.
pub(super) async fn secrets(
    State(app): State<Arc<App>>,
    ConnectInfo(peer): ConnectInfo<SocketAddrV4>,
    Extension(scheme): Extension<Scheme>,
    Path(name): Path<String>,
    method: Method,
    headers: HeaderMap,
) -> Response {
    if method != Method::GET {
        return StatusCode::METHOD_NOT_ALLOWED.into_response();
    }
    match take_secrets(&app, peer, scheme, &name, &headers).await {
        Ok(Rendered { tar, signature }) => {
            info!(%peer, node = name, bytes = tar.len(), "secrets handed out");
            app.metrics.secrets_asked(HANDED_OUT);
            let mut response = private("application/x-tar", tar);
            if let Some(signature) = signature {
                let value = hex::encode(signature).parse().expect("digits may stand in a header");
                response.headers_mut().insert(SIGNATURE_HEADER, value);
            }
            response
        }
        Err(denied) => deny(&app, peer, &name, "secrets", denied).await,
    }
}

/// The secrets of the node, whose token is used up by then.
async fn take_secrets(
    app: &App,
    peer: SocketAddrV4,
    scheme: Scheme,
    name: &str,
    headers: &HeaderMap,
) -> Result<Rendered, Denied> {
    // What everyone on the way has seen is not looked at.
    if scheme != Scheme::Https {
        return Err(Refusal::NoTls.into());
    }
    let (node, _) = node_with_secrets(app, name)?;
    let token = bearer(headers).ok_or(Refusal::NoToken)?;
    let database = app.events.database();
    let valid = secrets::check(database, &node.name, *peer.ip(), token, SystemTime::now()).await??;
    check_peer(app, peer, node).await?;
    // First: a template that cannot be rendered costs no token.
    let rendered = {
        let (overlays, node) = (Arc::clone(&app.served.overlays), node.clone());
        on_disk(move || overlays.secrets(&node)).await.map_err(Denied::Overlay)?
    };
    secrets::redeem(database, valid, SystemTime::now()).await??;
    Ok(rendered)
}

fn node_with_secrets<'a>(app: &'a App, name: &str) -> Result<(&'a Node, &'a Certificate), Refusal> {
    let node = app.served.config.node_named(name).ok_or(Refusal::UnknownNode)?;
    if node.secrets.is_empty() {
        return Err(Refusal::NoSecrets);
    }
    let certificate = app.certificate.as_deref().ok_or(Refusal::NoTls)?;
    Ok((node, certificate))
}

/// Whether it is the node that asks, and it boots.
async fn check_peer(app: &App, peer: SocketAddrV4, node: &Node) -> Result<(), Denied> {
    let may = overlay::may_have(&app.served.config, &app.events, *peer.ip(), node, Given::Files).await?;
    Ok(may.map_err(Refusal::from)?)
}

fn private(content_type: &'static str, body: Vec<u8>) -> Response {
    let headers = [(CONTENT_TYPE, content_type), (CACHE_CONTROL, "no-store")];
    (headers, Body::from(Bytes::from(body))).into_response()
}

/// Says to us why, and to whoever asked that it is refused.
async fn deny(app: &App, peer: SocketAddrV4, name: &str, what: &str, denied: Denied) -> Response {
    let refusal = match denied {
        Denied::Refused(refusal) => refusal,
        Denied::Database(error) => return internal_error(&error),
        Denied::Io(error) => return internal_error(&error),
        Denied::Overlay(error) => {
            app.events.refuse_at(*peer.ip(), None, &explain(&error).to_string()).await;
            return internal_error(&error);
        }
    };
    warn!(%peer, node = name, what, reason = %refusal, "secrets refused");
    app.metrics.secrets_asked(refusal.word());
    let config = &app.served.config;
    if let Some(mac) = config.node_named(name).and_then(|node| config.mac_of(node)) {
        app.events.refuse(mac, &format!("{SECRETS_REFUSED}{} ({what}): {refusal}", peer.ip())).await;
    }
    let mut response = text(StatusCode::UNAUTHORIZED, "refused: the log of bootserve says why");
    response.headers_mut().insert(WWW_AUTHENTICATE, "Bearer".parse().expect("it is a header value"));
    response
}
