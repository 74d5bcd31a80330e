//! iPXE scripts and network boot programs: the boot decision, rendered for HTTP clients.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use axum::Extension;
use axum::body::Body;
use axum::extract::{ConnectInfo, Path, Query, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{Method, Request, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use bootspec::cmdline::{BaseUrl, BootParams, KernelArg};
use bootspec::event::{BootId, Phase};
use bootspec::manifest::{BootMode, Manifest};
use bootspec::{ImageRef, MacAddr};
use bytes::Bytes;
use serde::Deserialize;
use tracing::warn;

use super::compat::{self, Settled};
use super::recent::RecentScripts;
use super::{App, internal_error, on_disk, script_url, text};
use crate::compat::{Labels, bootcfg};
use crate::config::{Config, Node, Scheme, SecretsProblem};
use crate::database::DatabaseError;
use crate::dhcp::store::leased_address;
use crate::edits;
use crate::events::{BootEvent, LOCAL_DISK};
use crate::overlay::{self, Overlays};
use crate::policy::{self, Assignment, NoInitramfs, initramfs};
use crate::script::{self, Client};
use crate::secrets::CREDENTIALS_PREFIX;
use crate::sources::sources;
use crate::store;
use bootspec::diagnosis::explain;

/// What a script's URL says of the machine.
#[derive(Deserialize)]
pub struct MachineQuery {
    mac: Option<String>,
}

impl MachineQuery {
    /// Which machine it is, or what is wrong with the URL.
    pub fn mac(&self) -> Result<MacAddr, String> {
        let text = self.mac.as_deref().ok_or("mac is missing: expected /ipxe?mac=fc-ab-14-e8-66-01")?;
        text.parse::<MacAddr>().map_err(|error| error.to_string())
    }
}

/// `GET /boot.ipxe`: the script for iPXE that does not know its own URL yet. A data directory may go by all that iPXE knows.
pub(super) async fn first(State(app): State<Arc<App>>) -> Response {
    let script = match &app.served.config.compat {
        Some(_) => bootcfg::FIRST_SCRIPT,
        None => script::FIRST_SCRIPT,
    };
    script_response(script.into())
}

/// Where the script is that finds out who the machine is.
pub(super) const FIRST_PATH: &str = "/boot.ipxe";

/// Where the script of a machine is.
pub(super) const PATH: &str = "/ipxe";

/// The script that a machine was sent a moment ago, if that is what it asks for again. A hall of nodes asks at once, and finding a
/// handler costs more than this.
pub(super) fn repeated(recent: &RecentScripts, request: &Request<Body>) -> Option<Response> {
    if request.method() != Method::GET || request.uri().path() != PATH {
        return None;
    }
    let Query(query) = Query::<MachineQuery>::try_from_uri(request.uri()).ok()?;
    let scheme = *request.extensions().get::<Scheme>()?;
    recent.get(query.mac().ok()?, scheme, Instant::now()).map(script_response)
}

/// `GET /ipxe?mac=`: the script of one machine. Where a data directory is looked into, it may be known by something else.
pub(super) async fn of_machine(
    State(app): State<Arc<App>>,
    Extension(scheme): Extension<Scheme>,
    method: Method,
    uri: Uri,
) -> Response {
    let labels = Labels::parse(uri.query().unwrap_or_default());
    let asked = Query::<MachineQuery>::try_from_uri(&uri);
    let mac = asked.map_err(|error| error.to_string()).and_then(|Query(query)| query.mac());
    let config = &app.served.config;
    let mac = match (mac, &config.compat) {
        (Err(problem), None) => return text(StatusCode::BAD_REQUEST, problem),
        (mac, _) => mac.ok().or_else(|| labels.mac()),
    };
    let settled = compat::settle(policy::script(config, mac), mac, labels).await;
    settled_script(&app, scheme, &method, mac, settled).await
}

/// The script of what a machine boots, whichever route it came by.
pub(super) async fn settled_script(
    app: &App,
    scheme: Scheme,
    method: &Method,
    mac: Option<MacAddr>,
    settled: Settled<'_>,
) -> Response {
    match settled {
        Settled::Ours(mac, assignment) => match boot_script(app, scheme, method, mac, assignment).await {
            Ok(script) => script_response(script.into()),
            Err(error) => internal_error(&error),
        },
        Settled::Found(found) => script_response(found.script.into()),
        Settled::LocalDisk(mac) => match note_local_disk(app, method, mac).await {
            Ok(()) => script_response(script::local_disk(mac).into()),
            Err(error) => internal_error(&error),
        },
        Settled::Nothing(reason) => {
            if let Some(mac) = mac {
                app.events.refuse(mac, &format!("no image: {reason}")).await;
            }
            match (mac, &app.served.config.compat) {
                // What these servers say to machines that they do not know.
                (None, _) | (_, Some(_)) => text(StatusCode::NOT_FOUND, reason.to_string()),
                (Some(mac), None) => script_response(script::next_device(mac, &reason.to_string()).into()),
            }
        }
        Settled::Unusable => compat::not_found(),
    }
}

/// Notes that a machine was sent to its disk. We hear no more of that boot.
async fn note_local_disk(app: &App, method: &Method, mac: MacAddr) -> Result<(), DatabaseError> {
    if method == Method::GET && app.events.knows(mac).await? {
        let message = Some(LOCAL_DISK.to_owned());
        app.events.note(BootEvent { message, ..BootEvent::now(mac, Phase::Script) }).await;
        spend_once(app, mac).await?;
    }
    Ok(())
}

/// What the node was to have for one boot is not for the next. It is stored before the script leaves.
async fn spend_once(app: &App, mac: MacAddr) -> Result<(), DatabaseError> {
    let config = &app.served.config;
    if let Some(node) = config.node(mac).filter(|node| config.edits().has_once(&node.name)) {
        edits::store::spend_once(app.events.database(), &node.name).await?;
        app.in_force.ask();
    }
    Ok(())
}

/// Renders the script and notes the boot that it begins. HEAD begins none: the script is not sent, only its length.
async fn boot_script(
    app: &App,
    scheme: Scheme,
    method: &Method,
    mac: MacAddr,
    assignment: Assignment<'_>,
) -> Result<String, DatabaseError> {
    let url = script_url(&app.served.config.url_by(scheme), mac);
    let client = Client { mac, script_url: &url };
    let id = BootId::new(rand::random());
    let rendered = async {
        let boot = PreparedBoot::new(app, scheme, mac, assignment, id).await?;
        let script = script::boot(client, &boot.view());
        // Who only says that it is a machine takes no room in our memory.
        if method == Method::GET && app.events.knows(mac).await? {
            boot.begin(app, mac).await?;
            app.recent.insert(mac, scheme, script.clone().into(), Instant::now());
        }
        Ok(script)
    };
    match rendered.await {
        Err(NoBoot::Database(error)) => Err(error),
        Err(NoBoot::CannotBoot(error)) => {
            log_cannot_boot(app, mac, assignment, &error);
            let reason = explain(&error);
            if method == Method::GET {
                app.events.refuse(mac, &format!("cannot boot: {reason}")).await;
            }
            Ok(script::wait(client, &reason))
        }
        Ok(script) => Ok(script),
    }
}

/// Says in the log why a machine does not boot its image.
pub(super) fn log_cannot_boot(app: &App, mac: MacAddr, assignment: Assignment<'_>, error: &CannotBoot) {
    let node = app.served.config.node_name(mac);
    warn!(%mac, node, image = %assignment.image, error = error as &dyn std::error::Error, "cannot boot");
}

/// A boot of one of our images that can begin, whatever the form in which the machine is told.
pub(super) struct PreparedBoot<'a> {
    image: BootableImage,
    base_url: String,
    /// Where the boot loader is given what init shows to be given the node's secrets.
    credential: Option<String>,
    id: BootId,
    kernel_args: Vec<&'a KernelArg>,
    /// What init is told.
    pub params: BootParams,
}

/// Why there is none.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoBoot {
    #[error(transparent)]
    CannotBoot(#[from] CannotBoot),
    #[error(transparent)]
    Database(#[from] DatabaseError),
}

impl<'a> PreparedBoot<'a> {
    /// Finds the image and says how `mac` boots it.
    pub async fn new(
        app: &'a App,
        scheme: Scheme,
        mac: MacAddr,
        assignment: Assignment<'a>,
        id: BootId,
    ) -> Result<Self, NoBoot> {
        let image = {
            let (overlays, image) = (Arc::clone(&app.served.overlays), assignment.image.clone());
            let find = move || {
                let node = overlays.config().node(mac);
                find_image(&overlays, scheme, Assignment { image: &image, node })
            };
            on_disk(find).await?
        };
        if image.has_secrets && app.certificate.is_none() {
            return Err(CannotBoot::NoTls.into());
        }
        let params = boot_params(app, mac, assignment, id, &image).await?;
        let config = &app.served.config;
        let node_args = assignment.node.map_or(&[][..], |node| &node.kernel_args);
        let kernel_args = config.boot.kernel_args.iter().chain(node_args).collect();
        let base_url = config.url_by(scheme);
        let credential = assignment.node.filter(|_| image.has_secrets).map(|node| {
            format!("{base_url}{CREDENTIALS_PREFIX}/{}{}?boot={id}", node.name, overlay::SEGMENT_SUFFIX)
        });
        let boot = Self { image, base_url, credential, id, kernel_args, params };
        match boot.view().command_line_bytes() {
            found if found > MAX_COMMAND_LINE_BYTES => Err(CannotBoot::CommandLine { found }.into()),
            _ => Ok(boot),
        }
    }

    /// For who renders it.
    pub fn view(&self) -> script::Boot<'_> {
        script::Boot {
            manifest: &self.image.manifest,
            initramfs: self.image.initramfs,
            overlay: self.image.overlay_url.as_ref().filter(|_| self.image.mode == BootMode::Carried),
            credential: self.credential.as_deref(),
            base_url: &self.base_url,
            id: self.id,
            kernel_args: &self.kernel_args,
            params: &self.params,
        }
    }

    /// Holds the image and notes that the boot begins.
    pub async fn begin(&self, app: &App, mac: MacAddr) -> Result<(), NoBoot> {
        self.hold(app, mac)?;
        let event = BootEvent::now(mac, Phase::Script);
        let image = Some(self.image.manifest.image.clone());
        let message = Some(self.image.mode.to_string());
        app.events.note(BootEvent { boot: Some(self.id), image, message, ..event }).await;
        Ok(spend_once(app, mac).await?)
    }

    /// Holds the image in the store until the machine is up.
    pub fn hold(&self, app: &App, mac: MacAddr) -> Result<(), CannotBoot> {
        let image = &self.image.manifest.image;
        let held = app.in_use.begin(mac, image, Instant::now());
        held.map_err(|source| CannotBoot::Removed { image: image.clone(), source })
    }

    /// The version of the image.
    pub fn image(&self) -> &ImageRef {
        &self.image.manifest.image
    }
}

/// What the kernel keeps of a command line, COMMAND_LINE_SIZE less the final NUL: the same on x86 and arm64. It cuts off the
/// rest without a word, and the end is where we tell init what to do.
const MAX_COMMAND_LINE_BYTES: usize = 2047;

/// An image that a machine can boot now, and how.
struct BootableImage {
    manifest: Manifest,
    mode: BootMode,
    initramfs: &'static str,
    overlay_url: Option<BaseUrl>,
    /// Whether the node is to fetch its secrets.
    has_secrets: bool,
}

/// A machine cannot boot what is assigned to it.
#[derive(Debug, thiserror::Error)]
pub(super) enum CannotBoot {
    #[error(transparent)]
    Store(#[from] store::StoreError),
    #[error(transparent)]
    Initramfs(#[from] NoInitramfs),
    #[error(transparent)]
    Overlay(#[from] overlay::OverlayError),
    #[error("the node has secrets")]
    Secrets(#[from] SecretsProblem),
    #[error(
        "the node has secrets, and TLS is not spoken yet\nhint: [tls] is put in force by a restart of bootserve"
    )]
    NoTls,
    #[error("image {image} cannot be held in the store")]
    Removed { image: ImageRef, source: std::io::Error },
    #[error(
        "its kernel command line has {found} bytes, and kernels read {MAX_COMMAND_LINE_BYTES}\nhint: have fewer kernel_args or mirrors"
    )]
    CommandLine { found: usize },
}

fn find_image(
    overlays: &Overlays,
    scheme: Scheme,
    assignment: Assignment<'_>,
) -> Result<BootableImage, CannotBoot> {
    let store = &overlays.config().server.store;
    let manifest = store::selected_manifest(store, assignment.image)?;
    let mode = assignment.mode(&manifest);
    let initramfs = initramfs(&manifest, mode)?;
    let overlay_url = match assignment.node {
        Some(node) => overlay_url(overlays, scheme, node, mode)?,
        None => None,
    };
    let has_secrets = match assignment.node {
        Some(node) => has_secrets(overlays, node, mode)?,
        None => false,
    };
    Ok(BootableImage { manifest, mode, initramfs, overlay_url, has_secrets })
}

/// Whether the node is to fetch secrets in this mode. As its overlay, they are made here already.
fn has_secrets(overlays: &Overlays, node: &Node, mode: BootMode) -> Result<bool, CannotBoot> {
    if node.secrets.is_empty() {
        return Ok(false);
    }
    if let Some(problem) = SecretsProblem::of_mode(mode) {
        return Err(problem.into());
    }
    let is_fetched = mode == BootMode::Fetched;
    if is_fetched {
        overlays.secrets(node)?;
    }
    Ok(is_fetched)
}

/// Where the node's overlay is fetched, if there is one: by the boot loader in carried mode, by init in fetched mode.
fn overlay_url(
    overlays: &Overlays,
    scheme: Scheme,
    node: &Node,
    mode: BootMode,
) -> Result<Option<BaseUrl>, overlay::OverlayError> {
    let config = overlays.config();
    let (base_url, suffix) = match mode {
        BootMode::Carried => (config.url_by(scheme), overlay::SEGMENT_SUFFIX),
        // init speaks TLS for secrets alone.
        BootMode::Fetched => (config.base_url(), overlay::TAR_SUFFIX),
        // There is no root to lay it over.
        BootMode::Failsafe | BootMode::Discover => return Ok(None),
    };
    // It is made here already: the machine's screen has room to say why it cannot be.
    let found = overlays.open(node)?;
    Ok(found.map(|_| overlay::url(&base_url, &node.name, suffix)))
}

/// What init is told: the node's own parameters and what identifies this boot.
async fn boot_params(
    app: &App,
    mac: MacAddr,
    assignment: Assignment<'_>,
    id: BootId,
    image: &BootableImage,
) -> Result<BootParams, DatabaseError> {
    let own = assignment.node.map(|node| node.params.clone()).unwrap_or_default();
    let params = BootParams {
        node: assignment.node.map(|node| node.name.clone()),
        mac: Some(mac),
        boot: Some(id),
        report: report_url(&app.served.config),
        min_rollback_index: app.served.config.boot.min_rollback_index,
        ..own
    };
    match image.mode {
        BootMode::Carried => Ok(BootParams { attempt: app.events.attempts(mac).await?, ..params }),
        BootMode::Fetched => {
            let address = address(app, mac, assignment).await?;
            Ok(BootParams {
                attempt: app.events.attempts(mac).await?,
                // Always: there is no manifest in this initramfs that would say it.
                mode: Some(BootMode::Fetched),
                image: Some(image.manifest.image.clone()),
                source: Some(sources(&app.served.config, mac, &image.manifest.image)),
                overlay: image.overlay_url.clone(),
                ..with_address(&app.served.config, address, params)
            })
        }
        // They never report `ready`, so the count would only grow.
        BootMode::Failsafe => Ok(params),
        // It may stay so for days, so init asks DHCP itself and renews the lease, unless the address is the node's own.
        BootMode::Discover => {
            Ok(with_address(&app.served.config, assignment.node.map(|node| node.address), params))
        }
    }
}

/// With the address that init is to use, and the gateway of its network. Where init has no address it asks DHCP.
fn with_address(config: &Config, address: Option<Ipv4Addr>, params: BootParams) -> BootParams {
    let Some(network) = address.and_then(|address| config.networks.of(address)) else { return params };
    let address = address.and_then(|address| config.networks.on_interface(address));
    BootParams { address, gateway: network.router, ..params }
}

/// The address that init fetches with: the one that the firmware was given, which is not the node's own if the node has
/// come to another network.
async fn address(
    app: &App,
    mac: MacAddr,
    assignment: Assignment<'_>,
) -> Result<Option<Ipv4Addr>, DatabaseError> {
    let leased = leased_address(app.events.database(), mac, SystemTime::now()).await?;
    Ok(leased.or(assignment.node.map(|node| node.address)))
}

fn report_url(config: &Config) -> Option<BaseUrl> {
    config.base_url().parse().ok()
}

/// `GET /nbp/NAME`: a network boot program for UEFI HTTP Boot, which sends HEAD before GET.
pub(super) async fn nbp(
    State(app): State<Arc<App>>,
    ConnectInfo(peer): ConnectInfo<SocketAddrV4>,
    method: Method,
    Path(name): Path<String>,
) -> Response {
    let Some((name, program)) = app.served.nbps.find(&name) else {
        return text(StatusCode::NOT_FOUND, "there is no such network boot program");
    };
    if method == Method::GET {
        app.events.note_nbp(*peer.ip(), name).await;
    }
    ([(CONTENT_TYPE, "application/efi")], program.clone()).into_response()
}

pub(super) fn script_response(script: Bytes) -> Response {
    ([(CONTENT_TYPE, "text/plain; charset=utf-8")], script).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::database::Database;
    use crate::dhcp::leases::Lease;
    use crate::dhcp::store::write_leases;
    use crate::discovery::binder::Binder;
    use crate::events::EventLog;
    use crate::http::admission::Downloads;
    use crate::in_use::InUse;
    use crate::live::Live;
    use crate::nbp::NbpSet;
    use std::time::Duration;

    #[tokio::test]
    async fn init_is_told_the_reserved_or_leased_address_and_asks_dhcp_for_want_of_either() {
        let dir = tempfile::tempdir().unwrap();
        let text = include_str!("../../bootserve.example.toml")
            .replace("[network]", "[[network]]")
            .replace("[boot]\n", "[[network]]\nsubnet = '10.1.0.0/16'\nrouter = '10.1.0.1'\n[boot]\n");
        let live = Arc::new(Live::new(Config::parse(&text).unwrap(), NbpSet::default()));
        let served = live.now();
        let config = &served.config;
        let moved = config.mac_of(&config.nodes()[0]).unwrap();
        let database = Database::open(dir.path()).await.unwrap();
        let leased: MacAddr = "02:00:00:00:00:01".parse().unwrap();
        let expired: MacAddr = "02:00:00:00:00:02".parse().unwrap();
        let mut connection = database.pool.acquire().await.unwrap();
        let soon = SystemTime::now() + Duration::from_secs(60);
        for (mac, address, expires) in [
            (leased, [192, 168, 0, 200], soon),
            (expired, [192, 168, 0, 201], SystemTime::UNIX_EPOCH),
            (moved, [10, 1, 0, 5], soon),
        ] {
            let lease = Lease { mac, address: address.into(), expires };
            write_leases(&mut connection, [lease]).await.unwrap();
        }
        let events = Arc::new(EventLog::new(database, live));
        let binder = Binder::start(Arc::clone(&events), Arc::default(), Arc::default());
        let in_use = InUse::new(config.server.store.clone(), []);
        let app = App {
            served: Arc::clone(&served),
            events,
            in_use: Arc::new(in_use),
            metrics: Arc::default(),
            downloads: Arc::new(Downloads::new(None)),
            recent: Arc::default(),
            transfers: Arc::default(),
            streams: Arc::default(),
            consoles: Arc::default(),
            store_look: Arc::default(),
            in_force: Arc::default(),
            certificate: None,
            binder: Arc::new(binder),
        };
        let node = &config.nodes()[1];
        for (mac, node, expected) in [
            (config.mac_of(node).unwrap(), Some(node), Some(("192.168.0.101/24", [192, 168, 0, 1]))),
            (leased, None, Some(("192.168.0.200/24", [192, 168, 0, 1]))),
            (expired, None, None),
            (moved, Some(&config.nodes()[0]), Some(("10.1.0.5/16", [10, 1, 0, 1]))),
        ] {
            let image = &config.nodes()[0].image;
            let found = address(&app, mac, Assignment { image, node }).await.unwrap();
            let params = with_address(config, found, BootParams::default());
            assert_eq!(params.address.map(|a| a.to_string()).as_deref(), expected.map(|e| e.0), "{mac}");
            assert_eq!(params.gateway, expected.map(|e| e.1.into()), "{mac}");
        }
    }
}
