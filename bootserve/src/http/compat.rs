//! The routes of CoreOS bootcfg and matchbox over their data directories ([`crate::compat`]), and pixiecore's API.
//!
//! What cannot be used is 404 to the client and a warning in the log, as their clients take any other error for a reason to try
//! again.

use std::net::SocketAddrV4;
use std::path::Path as FilePath;
use std::sync::Arc;
use std::time::Instant;

use axum::Extension;
use axum::extract::{ConnectInfo, Path, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use bootspec::MacAddr;
use bootspec::event::BootId;
use tracing::{info, warn};

use super::file::{ServedFile, Wanted};
use super::images::busy_response;
use super::scripts::{FIRST_PATH, NoBoot, PreparedBoot, log_cannot_boot};
use super::{App, internal_error, on_disk, page, text};
use crate::compat::data_dir::DataFile;
use crate::compat::matchbox::{self, Resource};
use crate::compat::pixiecore::{Answer, unrecorded_boot};
use crate::compat::{CompatError, DataDir, Found, HardwareAddr, Labels, Site, bootcfg};
use crate::config::Scheme;
use crate::policy::{self, Assignment, BootDecision, Reason};

/// A decision about what a machine boots, after all directories were looked into.
pub(super) enum Settled<'a> {
    /// This image of ours.
    Ours(MacAddr, Assignment<'a>),
    /// What the data directory says.
    Found(Found),
    /// What is on its disk.
    LocalDisk(MacAddr),
    /// Nothing.
    Nothing(Reason),
    /// Nothing, since the data directory cannot be used. The log says why.
    Unusable,
}

/// Looks into the data directory where `decision` says so.
pub(super) async fn settle(decision: BootDecision<'_>, mac: Option<MacAddr>, labels: Labels) -> Settled<'_> {
    let decision = match decision {
        BootDecision::LookUp(look_up) => {
            let site = look_up.site.clone();
            match on_disk(move || site.boot(&labels)).await {
                Ok(Some(found)) => {
                    info!(
                        mac = mac.map(tracing::field::display),
                        rule = found.rule,
                        "boots what a data directory says"
                    );
                    return Settled::Found(found);
                }
                Ok(None) => look_up.otherwise(mac),
                Err(error) => {
                    log(&error);
                    return Settled::Unusable;
                }
            }
        }
        decision => decision,
    };
    match (decision, mac) {
        (BootDecision::Boot(assignment), Some(mac)) => Settled::Ours(mac, assignment),
        (BootDecision::LocalDisk, Some(mac)) => Settled::LocalDisk(mac),
        (decision, _) => {
            let reason = match decision {
                BootDecision::NextDevice(reason) => reason,
                _ => Reason::UnknownMachine,
            };
            info!(mac = mac.map(tracing::field::display), %reason, "nothing to boot");
            Settled::Nothing(reason)
        }
    }
}

/// `GET /v1/boot/MAC`, `/pixiecore/v1/boot/MAC`: what pixiecore boots the machine with. Anything but 200 means that it is none of ours.
pub(super) async fn pixiecore(
    State(app): State<Arc<App>>,
    Extension(scheme): Extension<Scheme>,
    method: Method,
    Path(address): Path<String>,
) -> Response {
    let address: HardwareAddr = match address.parse() {
        Ok(address) => address,
        Err(error) => return text(StatusCode::BAD_REQUEST, format!("{error}")),
    };
    let mac = address.mac();
    let decision = match mac {
        None if app.served.config.compat.is_none() => return not_found(),
        mac => policy::script(&app.served.config, mac),
    };
    match settle(decision, mac, Labels::of(&address, None)).await {
        Settled::Ours(mac, assignment) => match own_boot(&app, scheme, &method, mac, assignment).await {
            Ok(json) => json_response(json),
            Err(NoBoot::Database(error)) => internal_error(&error),
            Err(NoBoot::CannotBoot(error)) => {
                log_cannot_boot(&app, mac, assignment, &error);
                text(StatusCode::NOT_FOUND, "the machine cannot boot its image; see the log of bootserve")
            }
        },
        Settled::Found(found) => json_response(found.json),
        Settled::LocalDisk(_) | Settled::Nothing(_) | Settled::Unusable => not_found(),
    }
}

/// One of our images as JSON. The client asks several times within one boot: the first time begins the boot, and until the machine
/// loads its kernel each answer is the same.
async fn own_boot(
    app: &App,
    scheme: Scheme,
    method: &Method,
    mac: MacAddr,
    assignment: Assignment<'_>,
) -> Result<String, NoBoot> {
    let is_recorded = app.events.knows(mac).await?;
    let begun = app.events.begun_boot(mac).await?;
    let id = match (is_recorded, &begun) {
        (false, _) => unrecorded_boot(mac),
        (true, Some((id, _))) => *id,
        (true, None) => BootId::new(rand::random()),
    };
    let mut boot = PreparedBoot::new(app, scheme, mac, assignment, id).await?;
    match begun {
        Some((_, image)) if is_recorded && image.as_ref() == Some(boot.image()) => {
            // This boot is counted already.
            boot.params.attempt = boot.params.attempt.saturating_sub(1);
            boot.hold(app, mac)?;
        }
        begun => {
            if begun.is_some() && is_recorded {
                // Another version is current by now.
                boot = PreparedBoot::new(app, scheme, mac, assignment, BootId::new(rand::random())).await?;
            }
            if is_recorded && method == Method::GET {
                boot.begin(app, mac).await?;
            }
        }
    }
    let view = boot.view();
    let (kernel, initrd, cmdline) = (view.kernel_url(), view.initrd_urls(), view.bare_arguments());
    Ok(Answer { kernel, initrd, cmdline }.json())
}

/// `GET /cloud`: the cloud config of the machine. That of bootcfg is a file, that of matchbox a template.
pub(super) async fn cloud(
    State(app): State<Arc<App>>,
    ConnectInfo(peer): ConnectInfo<SocketAddrV4>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
) -> Response {
    let labels = labels(&uri);
    match app.served.config.compat.clone() {
        Some(Site::Bootcfg(path)) => {
            let found = on_disk(move || bootcfg::cloud(&DataDir::open(&path)?, &labels)).await;
            let mut response = file_response(&app, peer, &method, &headers, found);
            if response.status() == StatusCode::OK {
                response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(PLAIN));
            }
            response
        }
        Some(Site::Matchbox(path)) => matchbox_config(path.as_path(), Resource::Cloud, labels).await,
        None => not_found(),
    }
}

/// `GET /`: who answers here.
pub(super) async fn home(State(app): State<Arc<App>>, headers: HeaderMap) -> Response {
    if page::is_browser(&headers) {
        return page::redirect();
    }
    match &app.served.config.compat {
        Some(Site::Matchbox(_)) => text(StatusCode::OK, "matchbox"),
        _ => not_found(),
    }
}

/// `GET /grub`, `/ignition`, `/generic`, `/metadata` and the signatures of these, of `/ipxe`, `/cloud` and `/boot.ipxe`.
pub(super) async fn config(State(app): State<Arc<App>>, uri: Uri) -> Response {
    let served = &app.served.config;
    let Some(Site::Matchbox(dir)) = &served.compat else { return not_found() };
    let (path, labels) = (uri.path(), labels(&uri));
    let (of, suffix) =
        match [".sig", ".asc"].iter().find_map(|suffix| Some((path.strip_suffix(suffix)?, suffix))) {
            Some((of, suffix)) => (of, Some(*suffix)),
            None => (path, None),
        };
    let resource = match of {
        "/ipxe" => Resource::Ipxe,
        "/grub" => Resource::Grub,
        "/ignition" => Resource::Ignition,
        "/cloud" => Resource::Cloud,
        "/generic" => Resource::Generic,
        "/metadata" => Resource::Metadata,
        _ => return first_signature(dir, of, suffix).await,
    };
    let is_boot = matches!(resource, Resource::Ipxe | Resource::Grub);
    // A node of ours boots our image, which is iPXE's to load and which nobody has signed for it.
    if is_boot && labels.mac().is_some_and(|mac| served.node(mac).is_some()) {
        return not_found();
    }
    match suffix {
        Some(suffix) => matchbox_signature(dir, resource, suffix, labels).await,
        None => matchbox_config(dir, resource, labels).await,
    }
}

/// The script is the same for all, and so is its signature.
async fn first_signature(dir: &FilePath, of: &str, suffix: Option<&'static str>) -> Response {
    let (Some(suffix), true) = (suffix, of.trim_end_matches(".0") == FIRST_PATH) else { return not_found() };
    let dir = dir.to_owned();
    let name = format!("boot.ipxe{suffix}");
    let found = on_disk(move || Ok(DataDir::open(&dir)?.read(FilePath::new(&name))?)).await;
    answer(found, signature_type(suffix))
}

async fn matchbox_config(dir: &FilePath, resource: Resource, labels: Labels) -> Response {
    let dir = dir.to_owned();
    let found = on_disk(move || matchbox::config(&DataDir::open(&dir)?, resource, &labels)).await;
    answer(found, if resource == Resource::Ignition { JSON } else { PLAIN })
}

async fn matchbox_signature(
    dir: &FilePath,
    resource: Resource,
    suffix: &'static str,
    labels: Labels,
) -> Response {
    let dir = dir.to_owned();
    let found = on_disk(move || matchbox::signature(&DataDir::open(&dir)?, resource, suffix, &labels)).await;
    answer(found, signature_type(suffix))
}

/// `GET /assets/PATH` of matchbox, with HEAD, Range and conditional requests.
pub(super) async fn asset(
    State(app): State<Arc<App>>,
    ConnectInfo(peer): ConnectInfo<SocketAddrV4>,
    method: Method,
    Path(path): Path<String>,
    headers: HeaderMap,
) -> Response {
    match &app.served.config.compat {
        Some(site @ Site::Matchbox(_)) => asset_of(&app, peer, &method, &headers, site, path).await,
        _ => not_found(),
    }
}

/// `GET /images/PATH` where the store has no such file: it may be one of bootcfg's.
pub(super) async fn image_of_bootcfg(
    app: &App,
    peer: SocketAddrV4,
    method: &Method,
    headers: &HeaderMap,
    path: String,
) -> Option<Response> {
    let site = app.served.config.compat.as_ref().filter(|site| matches!(site, Site::Bootcfg(_)))?;
    Some(asset_of(app, peer, method, headers, site, path).await)
}

async fn asset_of(
    app: &App,
    peer: SocketAddrV4,
    method: &Method,
    headers: &HeaderMap,
    site: &Site,
    path: String,
) -> Response {
    let (dir, kind) = (site.path().to_owned(), site.assets());
    let found = on_disk(move || Ok(DataDir::open(&dir.join(kind))?.open_file(FilePath::new(&path))?)).await;
    file_response(app, peer, method, headers, found)
}

fn file_response(
    app: &App,
    peer: SocketAddrV4,
    method: &Method,
    headers: &HeaderMap,
    found: Result<Option<DataFile>, CompatError>,
) -> Response {
    let DataFile { file, size_bytes, etag } = match found {
        Ok(Some(file)) => file,
        Ok(None) => return not_found(),
        Err(error) => {
            log(&error);
            return not_found();
        }
    };
    let file = ServedFile { file, size_bytes, etag };
    let wanted = file.wanted(method, headers);
    if let Wanted::Head(_) = wanted {
        return file.respond(wanted, |_| ());
    }
    match app.downloads.admit(*peer.ip(), Instant::now()) {
        Ok(permit) => file.respond(wanted, move |_| {
            // As long as the body is, the permit is.
            let _ = &permit;
        }),
        Err(busy) => busy_response(&busy),
    }
}

const PLAIN: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";

fn signature_type(suffix: &str) -> &'static str {
    if suffix == ".asc" { PLAIN } else { super::file::OCTET_STREAM }
}

fn labels(uri: &Uri) -> Labels {
    Labels::parse(uri.query().unwrap_or_default())
}

fn json_response(json: String) -> Response {
    ([(CONTENT_TYPE, JSON)], json).into_response()
}

fn answer(found: Result<Option<Vec<u8>>, CompatError>, content_type: &'static str) -> Response {
    match found {
        Ok(Some(bytes)) => ([(CONTENT_TYPE, content_type)], bytes).into_response(),
        Ok(None) => not_found(),
        Err(error) => {
            log(&error);
            not_found()
        }
    }
}

fn log(error: &CompatError) {
    warn!(error = error as &dyn std::error::Error, "a data directory cannot be used");
}

pub(super) fn not_found() -> Response {
    text(StatusCode::NOT_FOUND, "404 page not found")
}
