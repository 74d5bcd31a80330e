//! `GET /v1/nodes/NODE/console`: what a node's console said last, as its newest report has it.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use bootspec::console::Console;

use super::api::no_such_node;
use super::{App, text};

/// As text.
pub(super) async fn console(State(app): State<Arc<App>>, Path(node): Path<String>) -> Response {
    match find(&app, &node) {
        Some(Some(console)) => text(StatusCode::OK, console),
        Some(None) => text(
            StatusCode::NOT_FOUND,
            format!(
                "no console of {node} has come since bootserve started: nodes that are configured send it with what init reports"
            ),
        ),
        None => no_such_node(&node),
    }
}

/// For the page, which asks of every node: as JSON, null if there is none.
pub(super) async fn for_page(State(app): State<Arc<App>>, Path(node): Path<String>) -> Response {
    match find(&app, &node) {
        Some(console) => Json(console).into_response(),
        None => no_such_node(&node),
    }
}

/// None if there is no such node.
fn find(app: &App, node: &str) -> Option<Option<Console>> {
    let mac = app.served.config.machine_called(node)?;
    Some(mac.and_then(|mac| app.consoles.of(mac)))
}
