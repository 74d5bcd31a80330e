//! Machines in discover mode, as admins see them and make nodes of them. `openapi.json` describes these routes.

use std::sync::Arc;

use axum::Json;
use axum::body::{Body, to_bytes};
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use bootspec::diagnosis::explain;
use bootspec::store::NodeName;
use serde::Deserialize;

use super::access::{Operator, Viewer};
use super::configured::{ChangeQuery, made};
use super::{App, internal_error, on_disk, text};
use crate::discovery::approval::{FindError, approval, find};
use crate::discovery::listing::Listing;
use crate::discovery::store::machines;

/// Of an approval.
const MAX_APPROVAL_BYTES: usize = 4096;

/// `GET /v1/machines`: those that have checked in, those first that were heard of last.
pub(super) async fn list(_: Viewer, State(app): State<Arc<App>>) -> Response {
    match machines(app.events.database()).await {
        Ok(machines) => {
            let config = Arc::clone(&app.served.config);
            Json(on_disk(move || Listing::of(&machines, &config, true)).await).into_response()
        }
        Err(error) => internal_error(&error),
    }
}

/// `GET /v1/machines/MACHINE`: all that a machine has said, by its MAC address, serial number or UUID.
pub(super) async fn facts(_: Viewer, State(app): State<Arc<App>>, Path(name): Path<String>) -> Response {
    let machines = match machines(app.events.database()).await {
        Ok(machines) => machines,
        Err(error) => return internal_error(&error),
    };
    match find(&machines, &name) {
        Ok(machine) => Json(machine.json()).into_response(),
        Err(error) => text(status_of(&error), explain(&error)),
    }
}

/// What is approved: the node that a policy was seen to propose.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Approval {
    node: NodeName,
}

/// `POST /v1/machines/MACHINE/approve`: makes the machine the node that a policy proposes. It is answered as a change of nodes is.
pub(super) async fn approve(
    Operator(token): Operator,
    State(app): State<Arc<App>>,
    Path(name): Path<String>,
    Query(query): Query<ChangeQuery>,
    body: Body,
) -> Response {
    let Ok(json) = to_bytes(body, MAX_APPROVAL_BYTES).await else {
        let message = format!("an approval has at most {MAX_APPROVAL_BYTES} bytes");
        return text(StatusCode::PAYLOAD_TOO_LARGE, message);
    };
    let Approval { node } = match serde_json::from_slice(&json) {
        Ok(approval) => approval,
        Err(error) => {
            let message = format!(
                "this approves nothing: {error}\nhint: {{\"node\": \"node-107\"}}, as offer.node of GET /v1/machines has it"
            );
            return text(StatusCode::BAD_REQUEST, message);
        }
    };
    let machines = match machines(app.events.database()).await {
        Ok(machines) => machines,
        Err(error) => return internal_error(&error),
    };
    let config = Arc::clone(&app.served.config);
    let looked_at = on_disk(move || {
        let machine = find(&machines, &name).map_err(|error| (status_of(&error), explain(&error)))?;
        approval(machine, &machines, &config, Some(&node))
            .map_err(|error| (StatusCode::CONFLICT, explain(&error)))
    });
    match looked_at.await {
        Ok(operation) => made(&app, &token.name, &operation, query.dry_run).await,
        Err((status, message)) => text(status, message),
    }
}

fn status_of(error: &FindError) -> StatusCode {
    match error {
        FindError::Unknown(_) => StatusCode::NOT_FOUND,
        FindError::Ambiguous { .. } => StatusCode::CONFLICT,
    }
}
