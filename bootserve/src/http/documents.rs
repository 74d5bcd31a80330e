//! Texts for single nodes: `GET /nocloud/NODE/FILE` for cloud-init, `GET /templates/NODE/NAME` for whatever else asks.
//!
//! They may hold what other nodes should not see, so only the node's own address is answered, and only until its system has
//! reported that it is ready. A kernel command line is often the same for many nodes: for NODE `self`, who asks is told by its address.

use std::net::SocketAddrV4;
use std::sync::Arc;

use axum::extract::{ConnectInfo, Path, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse, Response};
use bootspec::diagnosis::explain;
use tracing::{info, warn};

use super::overlays::note_refusal;
use super::{App, internal_error, on_disk, text};
use crate::config::{Config, Node};
use crate::overlay::documents::{Document, NoCloudFile};
use crate::overlay::{Given, may_have};

/// Who asks, whoever that is.
const SELF: &str = "self";

/// `GET /nocloud/NODE/FILE`, and HEAD.
pub(super) async fn nocloud(
    State(app): State<Arc<App>>,
    ConnectInfo(peer): ConnectInfo<SocketAddrV4>,
    Path((node, file)): Path<(String, String)>,
    method: Method,
) -> Response {
    match NoCloudFile::named(&file) {
        Some(file) => document(&app, peer, &node, Document::NoCloud(file), &method).await,
        None => not_found(),
    }
}

/// `GET /templates/NODE/NAME`, and HEAD.
pub(super) async fn template(
    State(app): State<Arc<App>>,
    ConnectInfo(peer): ConnectInfo<SocketAddrV4>,
    Path((node, name)): Path<(String, String)>,
    method: Method,
) -> Response {
    match name.parse() {
        Ok(name) => document(&app, peer, &node, Document::Template(name), &method).await,
        Err(_) => not_found(),
    }
}

/// A text for `node`, if it is the one who asks.
pub(super) async fn document(
    app: &App,
    peer: SocketAddrV4,
    node: &str,
    document: Document,
    method: &Method,
) -> Response {
    let config = &app.served.config;
    let Some(node) = node_called(config, node, peer).filter(|_| config.server.overlays.is_some()) else {
        return not_found();
    };
    let (name, what) = (node.name.as_str(), document.to_string());
    match may_have(config, &app.events, *peer.ip(), node, Given::Texts).await {
        Ok(Ok(())) => {}
        Ok(Err(refusal)) => {
            warn!(%peer, node = name, file = what, reason = %refusal, "text refused");
            note_refusal(app, peer, &format!("{what} of {name}"), &refusal).await;
            return text(StatusCode::FORBIDDEN, refusal.to_string());
        }
        Err(error) => return internal_error(&error),
    }
    let rendered = {
        let (overlays, node) = (Arc::clone(&app.served.overlays), node.clone());
        on_disk(move || overlays.document(&node, &document)).await
    };
    match rendered {
        Ok(Some(document)) => {
            if method == Method::GET {
                info!(%peer, node = name, file = what, "text handed out");
            }
            ([(CONTENT_TYPE, "text/plain; charset=utf-8")], document).into_response()
        }
        Ok(None) => not_found(),
        Err(error) => {
            app.events.refuse_at(*peer.ip(), None, &explain(&error).to_string()).await;
            internal_error(&error)
        }
    }
}

fn node_called<'a>(config: &'a Config, name: &str, peer: SocketAddrV4) -> Option<&'a Node> {
    let at_peer = || config.node_at(*peer.ip()).filter(|_| name == SELF);
    config.node_named(name).or_else(at_peer)
}

fn not_found() -> Response {
    text(StatusCode::NOT_FOUND, "there is no such text")
}
