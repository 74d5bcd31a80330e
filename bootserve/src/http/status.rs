//! `GET /v1/status`: how all nodes do. `?node=A,B` or `?node=@gpu` asks for some of them.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use axum::Json;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;

use super::api::no_such_node;
use super::{App, internal_error, text};
use crate::dhcp::leases::Lease;
use crate::dhcp::store::read_leases;
use crate::inventory::listing::names_of;
use crate::status::{Overview, Seen, overview};

#[derive(Deserialize)]
pub(super) struct StatusQuery {
    node: Option<String>,
}

pub(super) async fn status(State(app): State<Arc<App>>, Query(query): Query<StatusQuery>) -> Response {
    let leases = match read_leases(app.events.database()).await {
        Ok(leases) => leases,
        Err(error) => return internal_error(&error),
    };
    let overview = overview_of(&app, &leases, SystemTime::now());
    let names = match query.node.map(|text| names_of(&app.served.config, &text)).transpose() {
        Ok(None) => return Json(overview).into_response(),
        Ok(Some(names)) => names,
        Err(error) => return text(StatusCode::NOT_FOUND, error.to_string()),
    };
    match overview.of(&names) {
        Ok(overview) => Json(overview).into_response(),
        Err(unknown) => no_such_node(&unknown),
    }
}

/// How all nodes do.
pub(super) fn overview_of(app: &App, leases: &[Lease], now: SystemTime) -> Overview {
    let (transfers, waiting) = (app.transfers.newest(), app.downloads.waiting(Instant::now()));
    app.events.with_courses(|courses| {
        overview(&Seen { config: &app.served.config, leases, courses, transfers, waiting }, now)
    })
}
