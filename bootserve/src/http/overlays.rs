//! Overlays of single nodes: `GET /overlays/NODE.tar` with `NODE.tar.minisig` for init in fetched mode, `NODE.img` as a
//! segment of the initramfs for iPXE.
//!
//! They may hold host keys and the like, so only the node's own address is answered, and only while the node boots. An
//! address proves little: a machine on the same wire can take it while the node is off.

use std::io;
use std::net::SocketAddrV4;
use std::sync::Arc;

use axum::extract::{ConnectInfo, Path, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use bootspec::diagnosis::explain;
use bootspec::store::NodeName;
use tracing::{info, warn};

use super::body::{FileBody, Piece};
use super::file::{OCTET_STREAM, ServedFile};
use super::range::Span;
use super::{App, internal_error, on_disk, text};
use crate::overlay::segment::Frame;
use crate::overlay::{self, Given, Overlay};
use crate::status::course::Course;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Tar,
    Signature,
    Segment,
}

/// `GET /overlays/FILE`, and HEAD.
pub(super) async fn overlay(
    State(app): State<Arc<App>>,
    ConnectInfo(peer): ConnectInfo<SocketAddrV4>,
    Path(file): Path<String>,
    method: Method,
    headers: HeaderMap,
) -> Response {
    let Some((name, form)) = parse(&file) else { return not_found() };
    let Some(node) = app.served.config.node_named(name.as_str()) else { return not_found() };
    match overlay::may_have(&app.served.config, &app.events, *peer.ip(), node, Given::Files).await {
        Ok(Ok(())) => {}
        Ok(Err(refusal)) => {
            warn!(%peer, node = name.as_str(), file, reason = %refusal, "overlay refused");
            note_refusal(&app, peer, &format!("overlay {file}"), &refusal).await;
            return text(StatusCode::FORBIDDEN, refusal.to_string());
        }
        Err(error) => return internal_error(&error),
    }
    let opened = {
        let (overlays, node) = (Arc::clone(&app.served.overlays), node.clone());
        on_disk(move || overlays.open(&node)).await
    };
    let overlay = match opened {
        Ok(Some(overlay)) => overlay,
        Ok(None) => return not_found(),
        Err(error) => {
            app.events.refuse_at(*peer.ip(), None, &explain(&error).to_string()).await;
            return internal_error(&error);
        }
    };
    if method == Method::GET {
        info!(%peer, node = name.as_str(), file, "overlay handed out");
    }
    match form {
        Form::Tar => {
            let Overlay { tar: file, tar_bytes: size_bytes, etag, .. } = overlay;
            let file = ServedFile { file, size_bytes, etag };
            let wanted = file.wanted(&method, &headers);
            file.respond(wanted, |_| ())
        }
        Form::Signature => overlay.signature.map_or_else(not_found, |signature| {
            ([(CONTENT_TYPE, "text/plain; charset=utf-8")], signature).into_response()
        }),
        Form::Segment => segment(overlay).unwrap_or_else(|error| internal_error(&error)),
    }
}

/// Whoever asks on a node that is up gets none, which is no matter of its boot.
pub(super) async fn note_refusal(app: &App, peer: SocketAddrV4, what: &str, refusal: &overlay::Refusal) {
    let is_up = |mac| app.events.with_courses(|courses| courses.get(&mac).is_some_and(Course::is_up));
    let at = |peer| app.served.config.mac_of(app.served.config.node_at(peer)?);
    if !at(*peer.ip()).is_some_and(is_up) {
        app.events.refuse_at(*peer.ip(), None, &format!("{what} refused: {refusal}")).await;
    }
}

fn parse(file: &str) -> Option<(NodeName, Form)> {
    if let Some(name) = file.strip_suffix(overlay::SEGMENT_SUFFIX) {
        return Some((name.parse().ok()?, Form::Segment));
    }
    let form = if file.ends_with(overlay::TAR_SUFFIX) { Form::Tar } else { Form::Signature };
    Some((overlay::node_of(file)?, form))
}

/// The segment, made as it is sent. It has no ranges: iPXE asks for none.
fn segment(overlay: Overlay) -> io::Result<Response> {
    let tar_bytes = u32::try_from(overlay.tar_bytes).map_err(io::Error::other)?;
    let Frame { before, after } = Frame::new(tar_bytes, overlay.signature.as_deref())?;
    let pieces = vec![
        Piece::Bytes(before.into()),
        Piece::Span(Span { start: 0, length: overlay.tar_bytes }),
        Piece::Bytes(after.into()),
    ];
    let body = FileBody { file: Arc::new(overlay.tar), pieces, when_sent: Arc::new(|| ()), transfer: None };
    Ok(body.respond([(CONTENT_TYPE, OCTET_STREAM)]))
}

fn not_found() -> Response {
    text(StatusCode::NOT_FOUND, "there is no such overlay")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_name_of_the_file_tells_node_and_form() {
        let check = |file, expected: Option<(&str, Form)>| {
            let found = parse(file);
            let found = found.as_ref().map(|(name, form)| (name.as_str(), *form));
            assert_eq!(found, expected, "{file}");
        };
        check("node-001.tar", Some(("node-001", Form::Tar)));
        check("node-001.tar.minisig", Some(("node-001", Form::Signature)));
        check("node-001.img", Some(("node-001", Form::Segment)));
        check("a.tar.img", Some(("a.tar", Form::Segment)));
        for file in ["node-001", "node-001.minisig", ".tar", "../node-001.tar", "..tar", ""] {
            check(file, None);
        }
    }

    proptest! {
        #[test]
        fn any_name_is_of_a_node_or_none(file in "(\\PC{0,9}|[a-z/.]{0,9})(\\.tar|\\.tar\\.minisig|\\.img)?") {
            if let Some((name, _)) = parse(&file) {
                prop_assert!(file.starts_with(name.as_str()) && !name.as_str().contains('/'));
            }
        }
    }
}
