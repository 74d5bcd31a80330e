//! The routes of Razor's clients: its microkernel, iPXE at its sites, and the scripts of its tasks ([`crate::compat::razor`]).
//!
//! There are none without `compat.razor`. A client that is refused asks again after a while; the log says why.

use std::net::SocketAddrV4;
use std::sync::Arc;
use std::time::SystemTime;

use axum::body::{Body, to_bytes};
use axum::extract::{ConnectInfo, Path, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use bootspec::MacAddr;
use bootspec::event::{MAX_MESSAGE_BYTES, Phase};
use bootspec::facts::CheckInAnswer;
use serde::Deserialize;
use serde_json::json;
use tracing::{info, warn};

use super::compat::settle;
use super::discover::{MAX_FACTS_BYTES, register};
use super::scripts::settled_script;
use super::{App, documents, internal_error, text};
use crate::compat::razor::bootstrap::Bootstrap;
use crate::compat::razor::facts::{Facter, ours};
use crate::compat::razor::hardware::Hardware;
use crate::compat::razor::store::{self, Found, Numbered};
use crate::compat::{HardwareAddr, Labels};
use crate::config::{Config, Node, Scheme};
use crate::database::DatabaseError;
use crate::events::BootEvent;
use crate::overlay::documents::Document;
use crate::policy;
use crate::timestamp::unix_ms;

/// An answer in place of the one that was asked for.
pub(super) enum Refusal {
    Answer(StatusCode, String),
    Database(DatabaseError),
}

impl From<DatabaseError> for Refusal {
    fn from(error: DatabaseError) -> Self {
        Self::Database(error)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        match self {
            Self::Answer(status, message) => {
                info!(%status, message, "a client of Razor's is refused");
                text(status, message)
            }
            Self::Database(error) => internal_error(&error),
        }
    }
}

pub(super) type Answer = Result<Response, Refusal>;

fn bad_request(message: impl Into<String>) -> Refusal {
    Refusal::Answer(StatusCode::BAD_REQUEST, message.into())
}

fn not_found(message: impl Into<String>) -> Refusal {
    Refusal::Answer(StatusCode::NOT_FOUND, message.into())
}

fn check_enabled(app: &App) -> Result<(), Refusal> {
    match app.served.config.razor {
        true => Ok(()),
        false => Err(not_found("Razor's clients are not answered here\nhint: [compat] razor = true")),
    }
}

/// `GET /svc/boot?net0=…`: the script of the machine, which has a number from then on.
pub(super) async fn boot(
    State(app): State<Arc<App>>,
    Extension(scheme): Extension<Scheme>,
    method: Method,
    uri: Uri,
) -> Answer {
    let (hardware, machine) = asking(&app, &uri).await?;
    let config = &app.served.config;
    let mac = booting_as(config, &hardware, &machine)?;
    let decision = policy::razor_script(config, mac, machine.is_installed && machine.is_registered);
    let labels = Labels::of(&HardwareAddr::from(mac), None);
    let settled = settle(decision, Some(mac), labels).await;
    Ok(settled_script(&app, scheme, &method, Some(mac), settled).await)
}

/// `GET /svc/nodeid?net0=…`: the number of the machine.
pub(super) async fn node_id(State(app): State<Arc<App>>, uri: Uri) -> Answer {
    let (_, machine) = asking(&app, &uri).await?;
    Ok(Json(json!({"id": machine.id})).into_response())
}

/// Who asks by this URL.
async fn asking(app: &App, uri: &Uri) -> Result<(Hardware, Numbered), Refusal> {
    check_enabled(app)?;
    let hardware = Hardware::parse(uri.query().unwrap_or_default());
    if hardware.is_empty() {
        return Err(bad_request(
            "the machine does not say who it is: expected net0=52-54-00-a1-9c-ae, or serial, asset or uuid",
        ));
    }
    match store::identify(app.events.database(), &hardware, unix_ms(SystemTime::now())).await? {
        Found::One(machine) => Ok((hardware, machine)),
        Found::Several(machines) => Err(ambiguous(app, &machines).await),
        Found::Unknown => Err(bad_request(
            "the machine is not known, and it names no interface: expected net0=52-54-00-a1-9c-ae",
        )),
    }
}

/// Each of the machines that it could be has this in its events.
async fn ambiguous(app: &App, machines: &[Numbered]) -> Refusal {
    let ids: Vec<_> = machines.iter().map(|machine| format!("{} ({})", machine.id, machine.mac)).collect();
    let message = format!("a machine asked that could be each of these: {}", ids.join(", "));
    for machine in machines {
        warn!(mac = %machine.mac, id = machine.id, "what a machine says of itself fits several");
        app.events.refuse(machine.mac, &message).await;
    }
    bad_request(message)
}

/// The interface that says what it boots: that of a node, or else the one that it was first known by.
fn booting_as(config: &Config, hardware: &Hardware, machine: &Numbered) -> Result<MacAddr, Refusal> {
    let node = |mac: &MacAddr| config.node(*mac).map(|node| (&node.name, *mac));
    let mut nodes = hardware.macs.iter().filter_map(node);
    match nodes.next() {
        Some((name, _)) if nodes.any(|(other, _)| other != name) => {
            Err(bad_request("its interfaces are those of several nodes"))
        }
        Some((_, mac)) => Ok(mac),
        None => Ok(machine.macs.iter().find_map(node).map_or(machine.mac, |(_, mac)| mac)),
    }
}

/// The node that the machine is, by any of its interfaces.
fn node_of<'a>(config: &'a Config, machine: &Numbered) -> Option<&'a Node> {
    [machine.mac].iter().chain(&machine.macs).find_map(|mac| config.node(*mac))
}

async fn numbered(app: &App, id: &str) -> Result<Numbered, Refusal> {
    check_enabled(app)?;
    let machine = match id.parse() {
        Ok(id) => store::read(app.events.database(), id).await?,
        Err(_) => None,
    };
    machine.ok_or_else(|| not_found("there is no machine of this number"))
}

/// What the microkernel sends. `hw_id` says nothing that the number does not.
#[derive(Deserialize)]
struct CheckIn {
    facts: Facter,
}

/// `POST /svc/checkin/ID`.
pub(super) async fn check_in(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Answer {
    check_enabled(&app)?;
    let content_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    if !essence.eq_ignore_ascii_case("application/json") {
        return Err(bad_request("expected the content type application/json"));
    }
    let json = to_bytes(body, MAX_FACTS_BYTES).await.map_err(|_| {
        let message = format!("facts of more than {MAX_FACTS_BYTES} bytes are not kept");
        Refusal::Answer(StatusCode::PAYLOAD_TOO_LARGE, message)
    })?;
    let CheckIn { facts: facter } = serde_json::from_slice(&json)
        .map_err(|error| bad_request(format!("expected {{\"hw_id\": …, \"facts\": {{…}}}}: {error}")))?;
    let machine = numbered(&app, &id).await?;
    let now_unix_ms = unix_ms(SystemTime::now());
    // First, so that policies see them.
    store::write_facter(app.events.database(), machine.id, &facter, now_unix_ms).await?;
    let answer = register(&app, &ours(machine.mac, &facter), now_unix_ms).await?;
    let action = match answer {
        CheckInAnswer::Reboot => "reboot",
        _ => "none",
    };
    Ok(Json(json!({"action": action})).into_response())
}

#[derive(Default, Deserialize)]
struct Parameters {
    name: Option<String>,
    msg: Option<String>,
    severity: Option<String>,
}

/// The first of each that is there.
fn parameters(uri: &Uri) -> Parameters {
    let mut parameters = Parameters::default();
    for (key, value) in form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes()) {
        let slot = match &*key {
            "name" => &mut parameters.name,
            "msg" => &mut parameters.msg,
            "severity" => &mut parameters.severity,
            _ => continue,
        };
        slot.get_or_insert_with(|| value.into_owned());
    }
    parameters
}

/// `GET /svc/stage-done/ID[?name=finished]`.
pub(super) async fn stage_done(State(app): State<Arc<App>>, Path(id): Path<String>, uri: Uri) -> Answer {
    let machine = numbered(&app, &id).await?;
    let is_last = parameters(&uri).name.as_deref() == Some("finished");
    store::stage_done(app.events.database(), machine.id, is_last).await?;
    info!(mac = %machine.mac, id = machine.id, finished = is_last, "a stage of a machine's boot is done");
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// `GET /svc/log/ID?msg=…&severity=…`: a line in our log; an error is an event of the machine besides.
pub(super) async fn log(State(app): State<Arc<App>>, Path(id): Path<String>, uri: Uri) -> Answer {
    let machine = numbered(&app, &id).await?;
    let Parameters { msg, severity, .. } = parameters(&uri);
    let message: String = msg.unwrap_or_default().chars().take(MAX_MESSAGE_BYTES / 4).collect();
    let mac = machine.mac;
    match severity.as_deref() {
        Some("error") => {
            warn!(%mac, id = machine.id, message, "a machine reports an error");
            if app.events.knows(mac).await? {
                let event = BootEvent::now(mac, Phase::Failed);
                app.events.note(BootEvent { message: Some(message), ..event }).await;
            }
        }
        Some("warn") => warn!(%mac, id = machine.id, message, "a machine says"),
        _ => info!(%mac, id = machine.id, message, "a machine says"),
    }
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// `GET /svc/file/ID/NAME`: a template for the node that the machine is.
pub(super) async fn file(
    State(app): State<Arc<App>>,
    ConnectInfo(peer): ConnectInfo<SocketAddrV4>,
    Path((id, name)): Path<(String, String)>,
    method: Method,
) -> Answer {
    let machine = numbered(&app, &id).await?;
    let node = node_of(&app.served.config, &machine)
        .ok_or_else(|| Refusal::Answer(StatusCode::CONFLICT, "the machine is no node yet".to_owned()))?;
    let name = name.parse().map_err(|_| not_found("there is no such file"))?;
    Ok(documents::document(&app, peer, node.name.as_str(), Document::Template(name), &method).await)
}

/// `GET /api/microkernel/bootstrap?nic_max=N&http_port=P`.
pub(super) async fn bootstrap(State(app): State<Arc<App>>, uri: Uri) -> Answer {
    check_enabled(&app)?;
    let server = &app.served.config.server;
    let bootstrap = Bootstrap::parse(uri.query().unwrap_or_default(), server.http_port);
    let script = bootstrap.map_err(|error| bad_request(error.to_string()))?.script(server.address);
    Ok(([(CONTENT_TYPE, "text/plain; charset=utf-8")], script).into_response())
}
