//! `POST /v1/discover`: machines in discover mode say what they are made of, and are told what to do (docs/discovery.md).

use std::sync::Arc;
use std::time::SystemTime;

use axum::Json;
use axum::body::{Body, to_bytes};
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use bootspec::diagnosis::explain;
use bootspec::facts::{CheckInAnswer, Facts};
use bootspec::manifest::BootMode;
use tracing::{info, warn};

use super::{App, internal_error, on_disk, text};
use crate::config::Node;
use crate::database::DatabaseError;
use crate::discovery::node_of;
use crate::discovery::store::check_in;
use crate::live::Served;
use crate::policy::Assignment;
use crate::store::{StoreError, selected_manifest};
use crate::timestamp::unix_ms;

/// Real machines say a tenth of it. With the number of machines that are kept, it bounds what strangers can make us store.
pub(super) const MAX_FACTS_BYTES: usize = 128 << 10;

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
