//! Switches machines by Redfish (DMTF DSP0266): HTTPS with basic authentication at each request, so that no session is left behind.

pub mod resource;

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;

use reqwest::{Certificate, Client, Method, StatusCode, redirect};
use serde::de::DeserializeOwned;
use tokio::time::sleep;
use tokio_rustls::rustls::crypto::ring;

use super::{Change, Password, PowerState};
use crate::config::Bmc;
use crate::config::bmc::{BmcAddress, Trust};
use resource::{ActionInfo, Link, Reset, Root, System, Systems, refusal};

/// BMCs are slow, but not to be connected to.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// For one request, from its beginning to the end of the answer.
const REQUEST_LIMIT: Duration = Duration::from_secs(20);
/// How often a question is asked that is answered by none, or by a BMC that is not ready.
const ATTEMPTS: u32 = 3;
const PAUSE_BETWEEN_ATTEMPTS: Duration = Duration::from_secs(1);
/// A system with everything that vendors add has some 30 KiB.
const MAX_ANSWER_BYTES: usize = 1 << 20;

/// A BMC was asked or told something in vain.
#[derive(Debug, thiserror::Error)]
pub enum RedfishError {
    /// A file with certificates cannot be used.
    #[error("cannot read the certificates of bmc.ca = {}", path.display())]
    Authorities {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// TLS cannot be set up.
    #[error("cannot set up TLS")]
    Client(#[source] reqwest::Error),
    /// No answer.
    #[error("cannot {what}{}", hint(what, source))]
    Request {
        /// The request, as `GET https://10.1.9.4/redfish/v1/`.
        what: String,
        /// Why.
        #[source]
        source: reqwest::Error,
    },
    /// An answer that refuses.
    #[error("cannot {what}: HTTP status {status}{}{}", text.iter().map(|text| format!(" ({text})")).collect::<String>(), status_hint(*status))]
    Status {
        /// The request.
        what: String,
        /// The status.
        status: StatusCode,
        /// What the BMC says.
        text: Option<String>,
    },
    /// An answer that is too long.
    #[error("cannot {0}: the answer is longer than {MAX_ANSWER_BYTES} bytes\nhint: is that a BMC?")]
    TooLong(String),
    /// An answer that is not what was asked for.
    #[error(
        "cannot {what}: the answer is no such resource\nhint: is that a BMC with Redfish? protocol = \"ipmi\" is for those without"
    )]
    Answer {
        /// The request.
        what: String,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// A path that is none.
    #[error("cannot use '{path}', which {bmc} refers to: expected a path on the same BMC")]
    Path {
        /// What is referred to.
        path: String,
        /// Where.
        bmc: BmcAddress,
    },
    /// The system is not there, or it is one of several.
    #[error(
        "{bmc} has the systems '{found}': expected {expected}\nhint: bmc = {{ system = \"ID\" }} names the node among them"
    )]
    System {
        /// Where.
        bmc: BmcAddress,
        /// What there is.
        found: String,
        /// Which one it was to be.
        expected: String,
    },
    /// The BMC cannot do it.
    #[error("{bmc} does not offer to switch the machine {change}: it offers '{offered}'")]
    NotOffered {
        /// Where.
        bmc: BmcAddress,
        /// What was wanted.
        change: Change,
        /// What it can.
        offered: String,
    },
}

fn hint(what: &str, error: &reqwest::Error) -> &'static str {
    let mut source: Option<&dyn std::error::Error> = Some(error);
    while let Some(error) = source {
        if error.is::<tokio_rustls::rustls::Error>() || error.to_string().contains("certificate") {
            return "\nhint: bmc = { ca = \"FILE\" } names the BMC's certificate or who signed it; { verify_tls = false } takes any";
        }
        source = error.source();
    }
    if what.starts_with("POST") && !error.is_connect() {
        return "\nhint: the BMC may have done it all the same: bootserve power NODES status";
    }
    match error.is_timeout() || error.is_connect() {
        true => "\nhint: is bmc_address right, and does the BMC answer there?",
        false => "",
    }
}

fn status_hint(status: StatusCode) -> &'static str {
    match status.as_u16() {
        401 => "\nhint: are bmc.user and what is in bmc.password_file right?",
        403 => "\nhint: may bmc.user do this? It must be an operator at least",
        404 => "\nhint: is that a BMC with Redfish? protocol = \"ipmi\" is for those without",
        _ => "",
    }
}

/// HTTP clients, one for all BMCs that are trusted alike.
#[derive(Debug, Default)]
pub struct Clients(HashMap<Trust, Client>);

impl Clients {
    /// The one for `trust`.
    pub fn client(&mut self, trust: &Trust) -> Result<Client, RedfishError> {
        if let Some(client) = self.0.get(trust) {
            return Ok(client.clone());
        }
        let client = client(trust)?;
        self.0.insert(trust.clone(), client.clone());
        Ok(client)
    }
}

fn client(trust: &Trust) -> Result<Client, RedfishError> {
    // reqwest asks for the cryptography of TLS by this. It fails if there is one already, which is as well.
    let _ = ring::default_provider().install_default();
    // A proxy or another host must not see the password.
    let builder = Client::builder()
        .https_only(true)
        .no_proxy()
        .redirect(redirect::Policy::none())
        .connect_timeout(CONNECT_LIMIT)
        .timeout(REQUEST_LIMIT)
        .user_agent(concat!("bootserve/", env!("CARGO_PKG_VERSION")));
    let builder = match trust {
        Trust::System => builder,
        Trust::Authorities(path) => {
            let unusable = |source| RedfishError::Authorities { path: path.clone(), source };
            let pem = std::fs::read(path).map_err(|error| unusable(error.into()))?;
            let certificates = Certificate::from_pem_bundle(&pem).map_err(|error| unusable(error.into()))?;
            if certificates.is_empty() {
                return Err(unusable("there is no certificate in it".into()));
            }
            builder.tls_certs_only(certificates)
        }
        Trust::Any => builder.tls_danger_accept_invalid_certs(true),
    };
    builder.build().map_err(RedfishError::Client)
}

/// One machine behind a BMC.
#[derive(Debug)]
pub struct Machine<'a> {
    connection: Connection<'a>,
    path: String,
}

impl<'a> Machine<'a> {
    /// Finds the machine at the BMC.
    pub async fn find(client: Client, bmc: &'a Bmc, password: &'a Password) -> Result<Self, RedfishError> {
        let connection = Connection { client, bmc, password };
        let Root { systems } = connection.read("/redfish/v1/").await?;
        let systems: Systems = connection.read(&systems.path).await?;
        let id = bmc.system.as_deref();
        let Link { path } = systems.choose(id).map_err(|found| RedfishError::System {
            bmc: bmc.address.clone(),
            found,
            expected: id.map_or_else(|| "one".to_owned(), |id| format!("'{id}' among them")),
        })?;
        Ok(Self { connection, path: path.clone() })
    }

    /// Whether it is on.
    pub async fn state(&self) -> Result<PowerState, RedfishError> {
        Ok(self.connection.read::<System>(&self.path).await?.power())
    }

    /// The type of reset by which `change` is brought about, and where it is asked for.
    pub async fn plan(&self, change: Change) -> Result<Plan, RedfishError> {
        let system: System = self.connection.read(&self.path).await?;
        let mut reset = system.reset().cloned().unwrap_or_default();
        if let Some(info) = reset.info() {
            let info: ActionInfo = self.connection.read(info).await?;
            reset = reset.with(info);
        }
        let Reset { target, .. } = &reset;
        let bmc = self.connection.bmc.address.clone();
        if target.is_empty() {
            return Err(RedfishError::NotOffered { bmc, change, offered: "nothing".to_owned() });
        }
        let chosen = reset.choose(change);
        let reset_type = chosen.map_err(|offered| RedfishError::NotOffered { bmc, change, offered })?;
        Ok(Plan { target: target.clone(), reset_type: reset_type.to_string() })
    }

    /// Sends it once: without an answer, it cannot be known whether it was done.
    pub async fn carry_out(&self, plan: &Plan) -> Result<(), RedfishError> {
        let body = serde_json::json!({ "ResetType": plan.reset_type }).to_string();
        self.connection.ask(Method::POST, &plan.target, Some(body)).await.map(drop)
    }
}

/// What a BMC is to be told.
#[derive(Debug)]
pub struct Plan {
    target: String,
    /// As `ForceOff`.
    pub reset_type: String,
}

#[derive(Debug)]
struct Connection<'a> {
    client: Client,
    bmc: &'a Bmc,
    password: &'a Password,
}

impl Connection<'_> {
    /// A resource, asked for again where that may help.
    async fn read<T: DeserializeOwned>(&self, path: &str) -> Result<T, RedfishError> {
        let mut attempt = 1;
        let body = loop {
            match self.ask(Method::GET, path, None).await {
                Err(error) if attempt < ATTEMPTS && error.may_pass() => sleep(PAUSE_BETWEEN_ATTEMPTS).await,
                answer => break answer?,
            }
            attempt += 1;
        };
        let what = || self.what(&Method::GET, path);
        serde_json::from_slice(&body).map_err(|source| RedfishError::Answer { what: what(), source })
    }

    async fn ask(&self, method: Method, path: &str, body: Option<String>) -> Result<Vec<u8>, RedfishError> {
        // Else the answer of a BMC could have us send the password elsewhere.
        if !path.starts_with('/') || path.starts_with("//") {
            let path = path.escape_debug().take(100).collect();
            return Err(RedfishError::Path { path, bmc: self.bmc.address.clone() });
        }
        let what = self.what(&method, path);
        let failed = |source: reqwest::Error| RedfishError::Request {
            what: what.clone(),
            source: source.without_url(),
        };
        let mut request = self.client.request(method, format!("https://{}{path}", self.bmc.address));
        request = request.basic_auth(&self.bmc.user, Some(self.password.expose()));
        request = request.header("accept", "application/json").header("odata-version", "4.0");
        if let Some(body) = body {
            request = request.header("content-type", "application/json").body(body);
        }
        let mut response = request.send().await.map_err(failed)?;
        let mut answer = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(failed)? {
            if answer.len() + chunk.len() > MAX_ANSWER_BYTES {
                return Err(RedfishError::TooLong(what));
            }
            answer.extend_from_slice(&chunk);
        }
        match response.status() {
            status if status.is_success() => Ok(answer),
            status => Err(RedfishError::Status { what, status, text: refusal(&answer) }),
        }
    }

    fn what(&self, method: &Method, path: &str) -> String {
        let path: String = path.escape_debug().take(200).collect();
        format!("{method} https://{}{path} as {}", self.bmc.address, self.bmc.user)
    }
}

impl RedfishError {
    /// Whether the same question may be answered in a moment.
    fn may_pass(&self) -> bool {
        match self {
            // A certificate stays what it is.
            Self::Request { what, source } => !hint(what, source).contains("verify_tls"),
            Self::Status { status, .. } => {
                status.is_server_error() || *status == StatusCode::TOO_MANY_REQUESTS
            }
            _ => false,
        }
    }
}
