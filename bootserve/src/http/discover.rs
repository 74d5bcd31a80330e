//! `POST /v1/discover`: machines in discover mode say what they are made of, and are told what to do (docs/discovery.md); and those
//! machines as admins see them.

use std::sync::Arc;
use std::time::SystemTime;

use axum::Json;
use axum::body::{Body, to_bytes};
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use bootspec::diagnosis::explain;
use bootspec::facts::{CheckInAnswer, Facts};
use bootspec::manifest::BootMode;
use bootspec::store::NodeName;
use serde::Deserialize;
use tracing::{info, warn};

use super::access::{Operator, Viewer};
use super::configured::{ChangeQuery, made};
use super::{App, internal_error, on_disk, text};
use crate::config::Node;
use crate::database::DatabaseError;
use crate::discovery::approval::{FindError, approval, find};
use crate::discovery::listing::Listing;
use crate::discovery::node_of;
use crate::discovery::store::{check_in, machines};
use crate::live::Served;
use crate::policy::Assignment;
use crate::store::{StoreError, selected_manifest};
use crate::timestamp::unix_ms;

/// Real machines say a tenth of it. With the number of machines that are kept, it bounds what strangers can make us store.
pub(super) const MAX_FACTS_BYTES: usize = 128 << 10;
/// Of an approval.
const MAX_APPROVAL_BYTES: usize = 4096;

pub(super) async fn discover(State(app): State<Arc<App>>, body: Body) -> Response {
    let Ok(json) = to_bytes(body, MAX_FACTS_BYTES).await else {
        return text(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("facts of more than {MAX_FACTS_BYTES} bytes are not kept"),
        );
    };
    let facts = match Facts::parse(&json) {
        Ok(facts) => facts,
        Err(error) => {
            info!(error = &error as &dyn std::error::Error, "facts of a machine refused");
            return text(StatusCode::BAD_REQUEST, explain(&error));
        }
    };
    match register(&app, &facts, unix_ms(SystemTime::now())).await {
        Ok(answer) => Json(answer).into_response(),
        Err(error) => internal_error(&error),
    }
}

/// Keeps what a machine said at `now`, in milliseconds since 1970, has policies look at it, and says what it is to do.
pub(super) async fn register(
    app: &App,
    facts: &Facts,
    now_unix_ms: i64,
) -> Result<CheckInAnswer, DatabaseError> {
    if check_in(app.events.database(), facts, now_unix_ms).await? {
        introduce(facts);
    }
    let config = &app.served.config;
    if !config.policies.is_empty() && node_of(config, facts).is_none() {
        app.binder.bind(facts.mac).await;
    }
    // Policies may have made a node of it since it asked.
    Ok(answer(&app.events.served(), facts).await)
}

/// Says in the log who is there.
fn introduce(facts: &Facts) {
    let text = |text: &Option<bootspec::facts::Text>| text.as_ref().map(ToString::to_string);
    let (product, serial) = (text(&facts.system.product), text(&facts.system.serial));
    info!(mac = %facts.mac, product, serial, "a machine introduced itself");
}

/// A node that is to boot something else reboots; all others wait.
async fn answer(served: &Served, facts: &Facts) -> CheckInAnswer {
    let config = &served.config;
    let wait = CheckInAnswer::Wait(config.discovery_poll);
    let Some(node) = node_of(config, facts) else { return wait };
    match boots_discover(served, node).await {
        Ok(true) => wait,
        Ok(false) => {
            info!(mac = %facts.mac, node = %node.name, "a machine in discover mode is told to reboot into its image");
            CheckInAnswer::Reboot
        }
        Err(error) => {
            let error = &error as &dyn std::error::Error;
            warn!(mac = %facts.mac, node = %node.name, error, "a machine in discover mode waits for its image");
            wait
        }
    }
}

/// Whether the node would only come back here.
async fn boots_discover(served: &Served, node: &Node) -> Result<bool, StoreError> {
    if node.local_disk {
        return Ok(false);
    }
    let (store, node) = (served.config.server.store.clone(), node.clone());
    on_disk(move || {
        let manifest = selected_manifest(&store, &node.image)?;
        let assignment = Assignment { image: &node.image, node: Some(&node) };
        Ok(assignment.mode(&manifest) == BootMode::Discover)
    })
    .await
}

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
