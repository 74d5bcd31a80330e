//! `GET /v1/status`: how all nodes do. `?node=A,B` asks for some of them.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use axum::Json;
use axum::extract::{Query, State};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;

use super::api::no_such_node;
use super::{App, internal_error};
use crate::dhcp::leases::Lease;
use crate::dhcp::store::read_leases;
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
    let names: Vec<_> = query.node.iter().flat_map(|names| names.split(',')).map(str::trim).collect();
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
