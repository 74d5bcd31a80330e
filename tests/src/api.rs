//! bootserve's HTTP interface, asked from inside the lab's network.

use std::time::Duration;

use bootspec::event::{BootId, Phase};
use bootspec::store::NodeName;
use serde::Deserialize;

use crate::netns::{self, NetNs, SERVER_ADDRESS};

/// bootserve answers from memory and a small database; it is slower only while it starts.
const REQUEST_LIMIT: Duration = Duration::from_secs(5);

/// One boot event, as bootserve lists it. Fields that the lab does not use are left out.
#[derive(Clone, Debug, Deserialize)]
pub struct NodeEvent {
    /// When, in milliseconds since 1970.
    pub time_unix_ms: u64,
    /// What began.
    pub phase: Phase,
    /// Which boot of the node, once that is known.
    pub boot: Option<BootId>,
    /// More, for humans.
    pub message: Option<String>,
}

/// bootserve did not answer as expected.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no answer, or one with an error status.
    #[error("GET {url}")]
    Request {
        /// What was asked.
        url: String,
        /// Why it failed.
        #[source]
        source: Box<ureq::Error>,
    },
    /// The answer is not a list of events.
    #[error("GET {url}: expected a JSON list of events, found: {body}")]
    Body {
        /// What was asked.
        url: String,
        /// What was answered.
        body: String,
        /// Why it is not understood.
        #[source]
        source: serde_json::Error,
    },
    /// The lab's network cannot be entered.
    #[error(transparent)]
    Network(#[from] netns::Error),
}

/// The events of a node, oldest first.
pub fn events(netns: &NetNs, node: &NodeName) -> Result<Vec<NodeEvent>, Error> {
    let path = format!("/v1/nodes/{node}/events");
    let body = get(netns, &path)?;
    serde_json::from_str(&body).map_err(|source| Error::Body { url: url(&path), body, source })
}

/// Whether bootserve is ready to serve.
pub fn healthy(netns: &NetNs) -> Result<bool, netns::Error> {
    match get(netns, "/healthz") {
        Ok(_) => Ok(true),
        Err(Error::Network(error)) => Err(error),
        Err(_) => Ok(false),
    }
}

/// The body of the answer to a GET request for `path`.
pub fn get(netns: &NetNs, path: &str) -> Result<String, Error> {
    let url = url(path);
    let config = ureq::Agent::config_builder().timeout_global(Some(REQUEST_LIMIT)).build();
    let request = || {
        let agent = ureq::Agent::new_with_config(config);
        agent.get(&url).call().and_then(|mut response| response.body_mut().read_to_string())
    };
    netns.inside(request)?.map_err(|source| Error::Request { url: url.clone(), source: Box::new(source) })
}

fn url(path: &str) -> String {
    format!("http://{SERVER_ADDRESS}{path}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_of_the_server_and_of_the_node_are_understood() {
        let json = r#"[
            {"time_unix_ms": 1, "phase": "dhcp", "boot": null, "image": null, "message": null},
            {"time_unix_ms": 2, "phase": "switch-root", "boot": "00000000000000ff", "image": "a/1", "message": "x"}
        ]"#;
        let events: Vec<NodeEvent> = serde_json::from_str(json).unwrap();
        assert_eq!((events[0].phase, events[0].boot), (Phase::Dhcp, None));
        assert_eq!((events[1].phase, events[1].boot), (Phase::SwitchRoot, Some(BootId::new(255))));
    }
}
