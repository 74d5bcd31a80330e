//! How nodes are configured: shown, exported, changed. `openapi.json` describes these routes.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::{Body, to_bytes};
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use bootspec::diagnosis::explain;
use serde::{Deserialize, Serialize};
use tracing::info;

use super::access::{Operator, Viewer};
use super::{App, internal_error, text};
use crate::edits::store::{ChangeError, Outcome, change, history, trial};
use crate::edits::{Operation, OperationError};
use crate::inventory::export::Exported;
use crate::inventory::listing::{Explained, ListingError};

const OPENAPI: &str = include_str!("openapi.json");
/// Of a change that is asked for.
const MAX_CHANGE_BYTES: usize = 1 << 20;
const MAX_HISTORY: u32 = 10_000;
const DEFAULT_HISTORY: u32 = 100;
/// How long a change may take to be in force; with 10 000 nodes it takes a second.
const IN_FORCE: Duration = Duration::from_secs(10);

/// `GET /v1/openapi.json`.
pub(super) async fn openapi() -> Response {
    ([(CONTENT_TYPE, "application/json")], OPENAPI).into_response()
}

/// `GET /v1/nodes/NODES`: all settings of a set of nodes, and where each comes from.
pub(super) async fn explained(_: Viewer, State(app): State<Arc<App>>, Path(nodes): Path<String>) -> Response {
    match Explained::of(&app.served.config, &nodes) {
        Ok(explained) => Json(explained).into_response(),
        Err(error) => refused_listing(&error),
    }
}

#[derive(Deserialize)]
pub(super) struct InventoryQuery {
    nodes: Option<String>,
}

/// `GET /v1/inventory`: nodes as an inventory, in TOML.
pub(super) async fn inventory(
    _: Viewer,
    State(app): State<Arc<App>>,
    Query(query): Query<InventoryQuery>,
) -> Response {
    match Exported::of(&app.served.config, query.nodes.as_deref()) {
        Ok(exported) => ([(CONTENT_TYPE, "application/toml")], exported.to_string()).into_response(),
        Err(error) => refused_listing(&error),
    }
}

#[derive(Deserialize)]
pub(super) struct HistoryQuery {
    limit: Option<u32>,
}

/// `GET /v1/changes`: the newest changes of nodes.
pub(super) async fn changes(
    _: Viewer,
    State(app): State<Arc<App>>,
    Query(query): Query<HistoryQuery>,
) -> Response {
    let limit = query.limit.unwrap_or(DEFAULT_HISTORY);
    if !(1..=MAX_HISTORY).contains(&limit) {
        return text(StatusCode::BAD_REQUEST, format!("limit is {limit}, expected 1 to {MAX_HISTORY}"));
    }
    match history(app.events.database(), limit).await {
        Ok(history) => Json(history).into_response(),
        Err(error) => internal_error(&error),
    }
}

#[derive(Deserialize)]
pub(super) struct ChangeQuery {
    #[serde(default)]
    pub dry_run: bool,
}

/// What became of a change.
#[derive(Serialize)]
struct Changed {
    #[serde(flatten)]
    outcome: Outcome,
    /// Whether it is served by now.
    in_force: bool,
}

/// `POST /v1/changes`: changes nodes as `bootserve node` does. It is answered once the change is in force.
pub(super) async fn make_change(
    Operator(token): Operator,
    State(app): State<Arc<App>>,
    Query(query): Query<ChangeQuery>,
    body: Body,
) -> Response {
    let dry_run = query.dry_run;
    let Ok(json) = to_bytes(body, MAX_CHANGE_BYTES).await else {
        return text(StatusCode::PAYLOAD_TOO_LARGE, format!("a change has at most {MAX_CHANGE_BYTES} bytes"));
    };
    let operation: Operation = match serde_json::from_slice(&json) {
        Ok(operation) => operation,
        Err(error) => {
            let message =
                format!("this is no change of nodes: {error}\nhint: /v1/openapi.json describes them");
            return text(StatusCode::BAD_REQUEST, message);
        }
    };
    made(&app, &token.name, &operation, dry_run).await
}

/// Makes a change, or tries it, and answers once it is in force.
pub(super) async fn made(app: &App, author: &str, operation: &Operation, dry_run: bool) -> Response {
    let (database, config) = (app.events.database(), &app.served.config);
    let made = match dry_run {
        true => trial(database, config, operation).await,
        false => change(database, config, author, operation).await,
    };
    let outcome = match made {
        Ok(outcome) => outcome,
        Err(error) => return refused_change(&error),
    };
    let Some(revision) = outcome.revision else {
        return Json(Changed { outcome, in_force: !dry_run }).into_response();
    };
    info!(revision, author, %operation, "nodes were changed");
    let in_force = tokio::time::timeout(IN_FORCE, app.in_force.wait_for(revision)).await.is_ok();
    (StatusCode::CREATED, Json(Changed { outcome, in_force })).into_response()
}

fn refused_listing(error: &ListingError) -> Response {
    let status = match error {
        ListingError::NoNode(_) => StatusCode::NOT_FOUND,
        ListingError::Set(_) => StatusCode::BAD_REQUEST,
    };
    text(status, explain(error))
}

fn refused_change(error: &ChangeError) -> Response {
    use OperationError::{ChangedSince, Exists, InFile, NoChange, NoRoom, Nodes, NotSet, NothingSet};
    let status = match error {
        ChangeError::Database(error) => return internal_error(error),
        ChangeError::Operation(Nodes(ListingError::NoNode(_)) | NoChange(_)) => StatusCode::NOT_FOUND,
        ChangeError::Operation(
            Exists { .. }
            | ChangedSince { .. }
            | InFile { .. }
            | NotSet { .. }
            | NothingSet { .. }
            | NoRoom { .. },
        )
        | ChangeError::Config(_) => StatusCode::CONFLICT,
        ChangeError::Operation(_) => StatusCode::BAD_REQUEST,
    };
    text(status, explain(error))
}
