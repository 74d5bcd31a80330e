//! What a running bootserve says, asked over HTTP; and what its database says when it does not run.

use std::io::{self, BufRead, BufReader};
use std::time::{Duration, SystemTime};

use bootspec::event::{BootId, Phase};
use bootspec::{ImageRef, MacAddr};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::{Overview, Seen, overview};
use crate::config::Config;
use crate::database::{Database, DatabaseError};
use crate::dhcp::store::read_leases;
use crate::events::{self, BootEvent};

/// bootserve answers from memory and a small database.
const REQUEST_LIMIT: Duration = Duration::from_secs(5);
/// After this a stream of events is begun anew, where it was: the server may have lost its power, of which no packet tells.
const STREAM_LIMIT: Duration = Duration::from_secs(300);

/// A bootserve that runs.
#[derive(Clone, Debug)]
pub struct Remote {
    base_url: String,
}

/// bootserve did not say it.
#[derive(Debug, thiserror::Error)]
pub enum RemoteError {
    /// It does not answer.
    #[error("bootserve does not answer at {url}")]
    Unreachable {
        /// What was asked.
        url: String,
        /// Why.
        #[source]
        source: Box<ureq::Error>,
    },
    /// It answers with an error.
    #[error("{url}: HTTP status {status}: {text}")]
    Refused {
        /// What was asked.
        url: String,
        /// Which.
        status: u16,
        /// What it says.
        text: String,
    },
    /// What it answers is not understood.
    #[error("{url}: the answer is not understood\nhint: is bootserve there of another version?")]
    Answer {
        /// What was asked.
        url: String,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// The stream of events broke.
    #[error("{url}: the stream of events ended")]
    Stream {
        /// What was asked.
        url: String,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// An event as it stands in answers. Fields that are not used are left out.
#[derive(Debug, Deserialize)]
struct Entry {
    time_unix_ms: i64,
    phase: Phase,
    boot: Option<BootId>,
    image: Option<ImageRef>,
    message: Option<String>,
}

impl From<Entry> for BootEvent {
    fn from(entry: Entry) -> Self {
        let Entry { time_unix_ms, phase, boot, image, message } = entry;
        // Of whom it is, whoever asked knows.
        Self { mac: MacAddr::new([0; 6]), time_unix_ms, phase, boot, image, uptime_ms: None, message }
    }
}

impl Remote {
    /// The one that this configuration is of.
    pub fn new(config: &Config) -> Self {
        Self { base_url: config.base_url() }
    }

    /// Where it is.
    pub fn url(&self) -> &str {
        &self.base_url
    }

    /// How all nodes do, or those with these names.
    pub fn status(&self, nodes: &[String]) -> Result<Overview, RemoteError> {
        let query =
            if nodes.is_empty() { String::new() } else { format!("?node={}", escaped(&nodes.join(","))) };
        self.json(&format!("/v1/status{query}"))
    }

    /// The events of a node, in order of time.
    pub fn events(&self, node: &str) -> Result<Vec<BootEvent>, RemoteError> {
        let entries: Vec<Entry> = self.json(&format!("/v1/nodes/{}/events", escaped(node)))?;
        Ok(entries.into_iter().map(Into::into).collect())
    }

    /// What the node's console said last.
    pub fn console(&self, node: &str) -> Result<String, RemoteError> {
        let url = format!("{}/v1/nodes/{}/console", self.base_url, escaped(node));
        let unreachable = |source| RemoteError::Unreachable { url: url.clone(), source: Box::new(source) };
        request(&url, Some(REQUEST_LIMIT))?.body_mut().read_to_string().map_err(unreachable)
    }

    /// All events of a node and those that follow, one after the other, as JSON and as they are. Ends with `take`'s error, or
    /// when bootserve ends the stream. `after` is the number of the last one that is known, and is moved on.
    pub fn follow<E: From<RemoteError>>(
        &self,
        node: &str,
        after: &mut i64,
        mut take: impl FnMut(&str, BootEvent) -> Result<(), E>,
    ) -> Result<(), E> {
        let url = format!("{}/v1/events?node={}&after={after}", self.base_url, escaped(node));
        let mut body = request(&url, None)?.into_body();
        for line in BufReader::new(body.as_reader()).lines() {
            let line = match line {
                Err(error) if error.kind() == io::ErrorKind::TimedOut => return Ok(()),
                line => line.map_err(|source| RemoteError::Stream { url: url.clone(), source })?,
            };
            if let Some(id) = line.strip_prefix("id: ") {
                *after = id.parse().unwrap_or(*after);
            } else if let Some(json) = line.strip_prefix("data: ") {
                let entry: Entry = serde_json::from_str(json)
                    .map_err(|source| RemoteError::Answer { url: url.clone(), source })?;
                take(json, entry.into())?;
            }
        }
        Ok(())
    }

    fn json<T: DeserializeOwned>(&self, path: &str) -> Result<T, RemoteError> {
        let url = format!("{}{path}", self.base_url);
        let unreachable = |source| RemoteError::Unreachable { url: url.clone(), source: Box::new(source) };
        let mut response = request(&url, Some(REQUEST_LIMIT))?;
        let body = response.body_mut().with_config().limit(u64::MAX).read_to_vec().map_err(unreachable)?;
        serde_json::from_slice(&body).map_err(|source| RemoteError::Answer { url: url.clone(), source })
    }
}

/// An answer that is no error. Without a `limit` it may be a stream.
fn request(url: &str, limit: Option<Duration>) -> Result<ureq::http::Response<ureq::Body>, RemoteError> {
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .proxy(None)
        .timeout_connect(Some(REQUEST_LIMIT))
        .timeout_recv_response(Some(REQUEST_LIMIT))
        .timeout_recv_body(Some(STREAM_LIMIT))
        .timeout_global(limit)
        .build()
        .into();
    let unreachable = |source| RemoteError::Unreachable { url: url.to_owned(), source: Box::new(source) };
    let mut response = agent.get(url).call().map_err(unreachable)?;
    let status = response.status().as_u16();
    if status != 200 {
        let text = response.body_mut().read_to_string().unwrap_or_default().trim_end().to_owned();
        return Err(RemoteError::Refused { url: url.to_owned(), status, text });
    }
    Ok(response)
}

/// For a URL (RFC 3986 section 2.1).
fn escaped(text: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~:,".contains(&byte);
    let escape = |byte| if is_plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") };
    text.bytes().map(escape).collect()
}

/// How all nodes do by what the database says; none, if there is no database.
pub async fn stored_overview(config: &Config, now: SystemTime) -> Result<Option<Overview>, DatabaseError> {
    let Some(database) = Database::open_to_read(&config.server.state).await? else { return Ok(None) };
    let leases = read_leases(&database).await?;
    let courses = events::read_courses(&database).await?;
    let (transfers, waiting) = Default::default();
    let seen = Seen { config, leases: &leases, courses: &courses, transfers, waiting };
    Ok(Some(overview(&seen, now)))
}

/// The events of a machine by what the database says; none, if there is no database.
pub async fn stored_events(config: &Config, mac: MacAddr) -> Result<Option<Vec<BootEvent>>, DatabaseError> {
    let Some(database) = Database::open_to_read(&config.server.state).await? else { return Ok(None) };
    events::events_of(&database, mac).await.map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_name_does_not_change_the_url() {
        assert_eq!(escaped("node-001,02:00:00:00:00:01"), "node-001,02:00:00:00:00:01");
        assert_eq!(escaped("a&b=c d/ä"), "a%26b%3Dc%20d%2F%C3%A4");
    }
}
