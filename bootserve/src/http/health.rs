//! How the server itself does, for whoever watches it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use bootspec::diagnosis::explain;

use super::status::overview_of;
use super::{App, internal_error, text};
use crate::database::DatabaseError;
use crate::dhcp::store::read_leases;
use crate::metrics::Present;

/// `GET /healthz`: whether the database answers.
pub(super) async fn health(State(app): State<Arc<App>>) -> Response {
    match app.events.database().probe().await {
        Ok(()) => text(StatusCode::OK, "ok"),
        Err(error) => internal_error(&error),
    }
}

/// `GET /readyz`: whether a node could boot now, as far as that is the server's part. 503 with the reasons if not.
pub(super) async fn ready(State(app): State<Arc<App>>) -> Response {
    let mut problems = Vec::new();
    if let Err(error) = app.events.database().probe().await {
        problems.push(explain(&error));
    }
    if let Err(error) = tokio::fs::read_dir(&app.served.config.server.store).await {
        problems.push(format!("cannot read the store {}: {error}", app.served.config.server.store.display()));
    }
    if app.served.nbps.names().next().is_none() {
        problems.push("there are no network boot programs\nhint: install the ipxe package".to_owned());
    }
    match problems.is_empty() {
        true => text(StatusCode::OK, "ready"),
        false => text(StatusCode::SERVICE_UNAVAILABLE, problems.join("\n")),
    }
}

/// `GET /metrics`: all counters, for Prometheus.
pub(super) async fn metrics(State(app): State<Arc<App>>) -> Response {
    const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    match metrics_text(&app).await {
        Ok(Ok(text)) => ([(CONTENT_TYPE, OPENMETRICS)], text).into_response(),
        Ok(Err(error)) => internal_error(&error),
        Err(error) => internal_error(&error),
    }
}

async fn metrics_text(app: &App) -> Result<Result<String, std::fmt::Error>, DatabaseError> {
    let now = SystemTime::now();
    let leases = read_leases(app.events.database()).await?;
    let states = overview_of(app, &leases, now).summary;
    let config = &app.served.config;
    let phases = app.events.with_courses(|courses| {
        let mut phases = BTreeMap::new();
        for node in config.nodes() {
            let course = config.mac_of(node).and_then(|mac| courses.get(&mac));
            *phases.entry(course.and_then(|course| course.newest()).map(|step| step.phase)).or_insert(0) += 1;
        }
        phases
    });
    let present = Present {
        phases,
        states,
        leases: leases.iter().filter(|lease| lease.expires > now).count(),
        downloads: app.transfers.under_way(),
        event_streams: app.streams.open(),
    };
    Ok(app.metrics.text(&present))
}
