//! The events API: nodes report how their boots go, admins and tests ask.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use axum::Json;
use axum::body::{Body, to_bytes};
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use bootspec::MacAddr;
use bootspec::event::{MAX_REPORT_BYTES, Phase, Report};
use bootspec::store::NodeName;
use serde::Serialize;
use tracing::info;

use super::{App, internal_error, text};
use crate::database::DatabaseError;
use crate::dhcp::store::read_leases;
use crate::events::BootEvent;
use crate::status::course::Course;
use bootspec::diagnosis::explain;

/// `POST /v1/events`: a node's report.
pub(super) async fn report(State(app): State<Arc<App>>, body: Body) -> Response {
    let Ok(json) = to_bytes(body, MAX_REPORT_BYTES).await else {
        let limit = format!("a boot report has at most {MAX_REPORT_BYTES} bytes");
        return text(StatusCode::PAYLOAD_TOO_LARGE, limit);
    };
    let report = match Report::parse(&json) {
        Ok(report) => report,
        Err(error) => {
            info!(error = &error as &dyn std::error::Error, "boot report refused");
            return text(StatusCode::BAD_REQUEST, explain(&error));
        }
    };
    if let Some(event) = report.events.iter().find(|event| event.phase < Phase::Init) {
        return text(StatusCode::BAD_REQUEST, format!("phase {} is not a node's to report", event.phase));
    }
    match take(&app, report).await {
        Ok(true) => StatusCode::NO_CONTENT.into_response(),
        Ok(false) => {
            text(StatusCode::BAD_REQUEST, "this machine is neither configured nor has it had a lease")
        }
        Err(error) => internal_error(&error),
    }
}

/// Records the report, if its sender is known.
async fn take(app: &App, report: Report) -> Result<bool, DatabaseError> {
    let known = app.events.knows(report.mac).await?;
    if known {
        // From then on, nothing more is fetched.
        if report.events.iter().any(|event| matches!(event.phase, Phase::SwitchRoot | Phase::Ready)) {
            app.in_use.end(report.mac, Instant::now());
        }
        // Whoever hears of the event asks for it.
        app.consoles.keep(&report, &app.served.config);
        app.events.record_report(report, SystemTime::now()).await?;
    }
    Ok(known)
}

/// `GET /v1/nodes/NAME-OR-MAC/events`: all events of a machine in the order of time.
pub(super) async fn events_of(State(app): State<Arc<App>>, Path(node): Path<String>) -> Response {
    let mac = match app.served.config.machine_called(&node) {
        Some(Some(mac)) => mac,
        // It has not asked for an address yet.
        Some(None) => return Json(Vec::<NodeEvent>::new()).into_response(),
        None => return no_such_node(&node),
    };
    match app.events.events_of(mac).await {
        Ok(events) => {
            let mut course = Course::default();
            let told = events.into_iter().map(|event| {
                let begins_boot = course.add(&event).begins_boot;
                NodeEvent { event, begins_boot }
            });
            Json(told.collect::<Vec<_>>()).into_response()
        }
        Err(error) => internal_error(&error),
    }
}

/// An event in the answer of [`events_of`].
#[derive(Serialize)]
struct NodeEvent {
    #[serde(flatten)]
    event: BootEvent,
    /// Whether it is the first one of a boot.
    begins_boot: bool,
}

pub(super) fn no_such_node(name: &str) -> Response {
    text(StatusCode::NOT_FOUND, format!("there is no node {name:?}, nor is that a MAC address"))
}

/// A machine in the answer of [`nodes`].
#[derive(Serialize)]
struct NodeStatus {
    name: Option<NodeName>,
    /// None of a node that is known by something else and has not asked for an address yet.
    mac: Option<MacAddr>,
    address: Ipv4Addr,
    /// The image that it boots by configuration.
    image: Option<String>,
    /// The newest event.
    phase: Option<Phase>,
    time_unix_ms: Option<i64>,
    message: Option<String>,
}

/// `GET /v1/nodes`: every configured node and every machine with a lease, by MAC address.
pub(super) async fn nodes(State(app): State<Arc<App>>) -> Response {
    match status(&app).await {
        Ok(nodes) => Json(nodes).into_response(),
        Err(error) => internal_error(&error),
    }
}

async fn status(app: &App) -> Result<Vec<NodeStatus>, DatabaseError> {
    let leases = read_leases(app.events.database()).await?;
    let mut addresses: BTreeMap<_, _> = leases.into_iter().map(|lease| (lease.mac, lease.address)).collect();
    let config = &app.served.config;
    let mut unseen = Vec::new();
    for node in config.nodes() {
        match config.mac_of(node) {
            Some(mac) => drop(addresses.insert(mac, node.address)),
            None => unseen.push((None, node.address, Some(node))),
        }
    }
    let mut latest = app.events.latest().await?;
    let seen = addresses.into_iter().map(|(mac, address)| (Some(mac), address, config.node(mac)));
    let nodes = seen.chain(unseen).map(|(mac, address, node)| {
        let image = node.map(|node| &node.image).or(config.boot.default_image.as_ref());
        let event = mac.and_then(|mac| latest.remove(&mac));
        NodeStatus {
            name: node.map(|node| node.name.clone()),
            mac,
            address,
            image: image.map(ToString::to_string),
            phase: event.as_ref().map(|event| event.phase),
            time_unix_ms: event.as_ref().map(|event| event.time_unix_ms),
            message: event.and_then(|event| event.message),
        }
    });
    Ok(nodes.collect())
}
