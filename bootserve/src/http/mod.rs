//! The HTTP server: iPXE scripts, network boot programs, images, and the events API.
//!
//! [`scripts`] renders the boot decision, [`images`] sends files of the store, [`overlays`] those of single
//! nodes, [`api`] takes and shows boot events, [`health`] says how the server does.
//! There is no TLS and no authentication: the network is the nodes' own.

mod api;
mod file;
mod health;
mod images;
mod overlays;
mod range;
mod scripts;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::middleware::map_response_with_state;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use bootspec::MacAddr;
use bootspec::event::EVENTS_PATH;
use bootspec::store::HTTP_PREFIX;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::events::EventLog;
use crate::in_use::InUse;
use crate::metrics::Metrics;
use crate::nbp::NbpSet;
use crate::overlay;

/// What the handlers share.
#[derive(Debug)]
pub struct App {
    /// What is served to whom.
    pub config: Arc<Config>,
    /// The programs for UEFI HTTP Boot.
    pub nbps: Arc<NbpSet>,
    /// The boot log.
    pub events: Arc<EventLog>,
    /// The versions that must stay in the store.
    pub in_use: InUse,
    /// What is counted.
    pub metrics: Arc<Metrics>,
}

/// URL of the script of the machine with this address.
pub fn script_url(config: &Config, mac: MacAddr) -> String {
    format!("{}/ipxe?mac={}", config.base_url(), mac.hyphenated())
}

/// URL of a network boot program.
pub fn nbp_url(config: &Config, name: &str) -> String {
    format!("{}/nbp/{name}", config.base_url())
}

/// Serves HTTP on `listener` until `shutdown`; requests that are being answered then are finished.
pub async fn run(listener: TcpListener, app: App, shutdown: CancellationToken) -> io::Result<()> {
    let service = router(app).into_make_service_with_connect_info::<SocketAddr>();
    axum::serve(listener, service).with_graceful_shutdown(shutdown.cancelled_owned()).await
}

fn router(app: App) -> Router {
    let app = Arc::new(app);
    Router::new()
        .route("/boot.ipxe", get(scripts::first))
        // Some boot loaders add ".0" to names without a suffix that they know.
        .route("/boot.ipxe.0", get(scripts::first))
        .route("/ipxe", get(scripts::of_machine))
        .route("/nbp/{name}", get(scripts::nbp))
        .route(&format!("{HTTP_PREFIX}/{{name}}/{{version}}/{{artifact}}"), get(images::artifact))
        .route(&format!("{}/{{file}}", overlay::HTTP_PREFIX), get(overlays::overlay))
        .route(EVENTS_PATH, post(api::report))
        .route("/v1/nodes", get(api::nodes))
        .route("/v1/nodes/{node}/events", get(api::events_of))
        .route("/healthz", get(health::health))
        .route("/readyz", get(health::ready))
        .route("/metrics", get(health::metrics))
        .layer(map_response_with_state(Arc::clone(&app), count))
        .with_state(app)
}

async fn count(State(app): State<Arc<App>>, response: Response) -> Response {
    app.metrics.http_responded(response.status().as_u16());
    response
}

/// An answer of plain text.
fn text(status: StatusCode, message: impl Into<String>) -> Response {
    (status, [(CONTENT_TYPE, "text/plain; charset=utf-8")], message.into() + "\n").into_response()
}

/// The answer to a request that failed on our side. The log has the reason; it is none of the client's business.
fn internal_error(error: &(dyn std::error::Error + 'static)) -> Response {
    tracing::error!(error, "request failed");
    text(StatusCode::INTERNAL_SERVER_ERROR, "internal error; see the log of bootserve")
}
