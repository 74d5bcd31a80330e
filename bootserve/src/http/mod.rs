//! The HTTP server: iPXE scripts, network boot programs, images, and the events API.
//!
//! [`scripts`] renders the boot decision, [`images`] sends files of the store, [`overlays`] those of single
//! nodes and [`secrets`] what is handed out once a boot, [`documents`] texts for them, [`api`] takes and shows boot events, [`event_stream`] tells of them as they happen, [`console`] has their last words, [`status`] says how each node
//! does, [`image_list`] which images there are, and [`health`] how the server does; [`page`] shows it all in a browser. [`compat`] and [`razor`] have the routes of older boot servers. [`transfers`] knows what is being sent.
//!
//! A request comes in by [`listener`] and [`connection`], with or without [`tls`], and is answered by the handler that
//! [`router`] finds. Files are sent by the kernel ([`body`]); [`admission`] says to how many machines at once.
//! What nodes need is open to all: the network is their own. How they are configured is shown and changed by [`configured`], and
//! [`access`] says to whom; [`local`] answers the same to users of this machine.

mod access;
pub mod admission;
mod api;
mod body;
mod compat;
mod configured;
#[doc(hidden)]
pub mod connection;
mod console;
mod discover;
mod documents;
mod event_stream;
mod file;
mod health;
mod image_list;
mod images;
mod listener;
mod local;
mod machines;
mod overlays;
mod page;
mod range;
mod razor;
pub mod recent;
#[doc(hidden)]
pub mod scripts;
mod secrets;
mod status;
pub mod tls;
pub mod transfers;

use std::future::pending;
use std::io;
use std::panic::resume_unwind;
use std::sync::Arc;

use axum::Router;
use axum::extract::FromRef;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use bootspec::MacAddr;
use bootspec::event::EVENTS_PATH;
use bootspec::facts::DISCOVER_PATH;
use bootspec::store::HTTP_PREFIX;
use tokio::net::TcpListener;
use tokio::task::spawn_blocking;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use self::admission::Downloads;
use self::connection::Context;
pub use self::event_stream::EventStreams;
pub use self::image_list::StoreLook;
use self::listener::{Listener, Slots};
pub use self::local::run_local;
use self::recent::RecentScripts;
pub(crate) use self::secrets::HANDED_OUT;
use self::transfers::Transfers;

use crate::compat::pixiecore;
use crate::config::Config;
use crate::consoles::Consoles;
use crate::discovery::binder::Binder;
use crate::events::EventLog;
use crate::in_use::InUse;
use crate::live::{Live, Served};
use crate::metrics::Metrics;
use crate::overlay;
use crate::reload::InForce;
use crate::secrets::{CREDENTIALS_PREFIX, SECRETS_PREFIX};

/// What a handler has.
#[derive(Clone, Debug)]
pub struct App {
    /// What is served since the request came.
    pub served: Arc<Served>,
    /// The boot log.
    pub events: Arc<EventLog>,
    /// The versions that must stay in the store.
    pub in_use: Arc<InUse>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// Who may download.
    pub downloads: Arc<Downloads>,
    /// What was sent a moment ago.
    pub recent: Arc<RecentScripts>,
    /// What is being sent.
    pub transfers: Arc<Transfers>,
    /// Who reads events as they happen.
    pub streams: Arc<EventStreams>,
    /// What nodes' consoles said last.
    pub consoles: Arc<Consoles>,
    /// What was found in the image store a moment ago.
    pub store_look: Arc<StoreLook>,
    /// Which changes of nodes are in force.
    pub in_force: Arc<InForce>,
    /// What is shown to those who speak TLS.
    pub certificate: Option<Arc<tls::Certificate>>,
    /// Who makes nodes of machines, by policies.
    pub binder: Arc<Binder>,
}

/// Gives each request what is served when it comes.
#[derive(Clone)]
struct Handlers {
    live: Arc<Live>,
    app: App,
}

impl FromRef<Handlers> for Arc<App> {
    fn from_ref(handlers: &Handlers) -> Self {
        Self::new(App { served: handlers.live.now(), ..handlers.app.clone() })
    }
}

/// URL of the script of the machine with this address.
pub fn script_url(base_url: &str, mac: MacAddr) -> String {
    format!("{base_url}{}?mac={}", scripts::PATH, mac.hyphenated())
}

/// URL of the script that passes on what iPXE knows of the machine.
pub fn first_script_url(base_url: &str) -> String {
    format!("{base_url}{}", scripts::FIRST_PATH)
}

/// URL of a network boot program.
pub fn nbp_url(config: &Config, name: &str) -> String {
    format!("{}/nbp/{name}", config.base_url())
}

/// Serves HTTP on `plain` until `shutdown`, and with TLS on the other; requests that are being answered then are finished.
pub async fn run(
    plain: TcpListener,
    tls: Option<(TcpListener, TlsAcceptor)>,
    live: Arc<Live>,
    app: App,
    shutdown: CancellationToken,
) -> io::Result<()> {
    let plain = Listener { socket: plain, tls: None };
    let tls = tls.map(|(socket, acceptor)| Listener { socket, tls: Some(acceptor) });
    let (metrics, recent) = (Arc::clone(&app.metrics), Arc::clone(&app.recent));
    let context = Context { router: router(Handlers { live, app }), recent, metrics };
    let listeners = [Some(plain), tls].into_iter().flatten().collect();
    listener::run(listeners, Slots::by_file_limit(), context, shutdown).await
}

/// What matchbox has of a machine, and signatures of it.
const MATCHBOX_PATHS: [&str; 20] = [
    "/grub",
    "/ignition",
    "/generic",
    "/metadata",
    "/boot.ipxe.sig",
    "/boot.ipxe.asc",
    "/boot.ipxe.0.sig",
    "/boot.ipxe.0.asc",
    "/ipxe.sig",
    "/ipxe.asc",
    "/grub.sig",
    "/grub.asc",
    "/ignition.sig",
    "/ignition.asc",
    "/cloud.sig",
    "/cloud.asc",
    "/generic.sig",
    "/generic.asc",
    "/metadata.sig",
    "/metadata.asc",
];

fn router(handlers: Handlers) -> Router {
    let pixiecore = pixiecore::PATHS.into_iter();
    let router = pixiecore.fold(Router::new(), |router, path| router.route(path, get(compat::pixiecore)));
    let router =
        MATCHBOX_PATHS.into_iter().fold(router, |router, path| router.route(path, get(compat::config)));
    router
        .route(scripts::FIRST_PATH, get(scripts::first))
        // Some boot loaders add ".0" to names without a suffix that they know.
        .route("/boot.ipxe.0", get(scripts::first))
        .route(scripts::PATH, get(scripts::of_machine))
        .route("/", get(compat::home))
        .route("/cloud", get(compat::cloud))
        .route("/assets/{*path}", get(compat::asset))
        .route("/nbp/{name}", get(scripts::nbp))
        .route(&format!("{HTTP_PREFIX}/{{*path}}"), get(images::artifact))
        .route(&format!("{}/{{file}}", overlay::HTTP_PREFIX), get(overlays::overlay))
        .route(&format!("{CREDENTIALS_PREFIX}/{{file}}"), get(secrets::credential))
        .route(&format!("{SECRETS_PREFIX}/{{node}}"), get(secrets::secrets))
        .route("/nocloud/{node}/{file}", get(documents::nocloud))
        .route("/templates/{node}/{name}", get(documents::template))
        .route(EVENTS_PATH, post(api::report).get(event_stream::events))
        .route(DISCOVER_PATH, post(discover::discover))
        .route("/svc/boot", get(razor::boot))
        .route("/svc/nodeid", get(razor::node_id))
        .route("/svc/checkin/{id}", post(razor::check_in))
        .route("/svc/stage-done/{id}", get(razor::stage_done))
        .route("/svc/log/{id}", get(razor::log))
        .route("/svc/file/{id}/{name}", get(razor::file))
        .route("/api/microkernel/bootstrap", get(razor::bootstrap))
        .merge(api_routes())
        .with_state(handlers)
}

/// What admins ask for, but for the stream of events.
fn api_routes() -> Router<Handlers> {
    Router::new()
        .route("/v1/status", get(status::status))
        .route("/v1/nodes", get(api::nodes))
        .route("/v1/nodes/{node}", get(configured::explained))
        .route("/v1/nodes/{node}/events", get(api::events_of))
        .route("/v1/nodes/{node}/console", get(console::console))
        .route("/v1/inventory", get(configured::inventory))
        .route("/v1/changes", get(configured::changes).post(configured::make_change))
        .route("/v1/machines", get(machines::list))
        .route("/v1/machines/{machine}", get(machines::facts))
        .route("/v1/machines/{machine}/approve", post(machines::approve))
        .route("/v1/openapi.json", get(configured::openapi))
        .route("/v1/images", get(image_list::list))
        .route(page::PATH, get(page::page))
        .route(&format!("{}/", page::PATH), get(page::page))
        .route(&format!("{}/codes", page::PATH), get(page::codes))
        .route(&format!("{}/console/{{node}}", page::PATH), get(console::for_page))
        .route(&format!("{}/{{file}}", page::PATH), get(page::file))
        .route("/healthz", get(health::health))
        .route("/readyz", get(health::ready))
        .route("/metrics", get(health::metrics))
}

/// An answer of plain text.
fn text(status: StatusCode, message: impl Into<String>) -> Response {
    (status, [(CONTENT_TYPE, "text/plain; charset=utf-8")], message.into() + "\n").into_response()
}

/// Does what waits for the disk on another thread, once for all that a request needs: each time costs two changes of the thread.
async fn on_disk<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => resume_unwind(panic),
            // The process ends, and nobody waits for us.
            Err(_) => pending().await,
        },
    }
}

/// The answer to a request that failed on our side. The log has the reason; it is none of the client's business.
fn internal_error(error: &(dyn std::error::Error + 'static)) -> Response {
    tracing::error!(error, "request failed");
    text(StatusCode::INTERNAL_SERVER_ERROR, "internal error; see the log of bootserve")
}
