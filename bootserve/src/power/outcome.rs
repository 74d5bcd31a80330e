//! What became of a node, as a line for people and an object for programs.

use std::fmt;

use bootspec::diagnosis::explain;
use serde::Serialize;

use super::{Action, Order, PowerError, PowerState};
use crate::config::Node;

/// What was done to a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "done", content = "sent", rename_all = "kebab-case")]
pub enum Deed {
    /// It was asked, and is as it should be.
    Nothing,
    /// It was asked, and this would be sent.
    WouldSend(String),
    /// This was sent.
    Sent(String),
    /// This was sent, and it came where it was to go.
    Reached(String),
}

/// What became of a node.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// Its name.
    pub node: String,
    /// Where its BMC is, if it has one.
    pub bmc: Option<String>,
    /// Whether it is as it should be, or was told to be.
    pub ok: bool,
    /// As it was when it was last asked: with [`Deed::Reached`] afterwards, else before.
    pub state: Option<PowerState>,
    /// What was done.
    #[serde(flatten)]
    pub deed: Option<Deed>,
    /// What went wrong.
    pub error: Option<String>,
    /// What to do about it, a line each.
    pub hints: Vec<String>,
    #[serde(skip)]
    is_question: bool,
}

impl Outcome {
    pub(super) fn of(node: &Node, order: &Order, result: Result<(PowerState, Deed), PowerError>) -> Self {
        let (done, error) = match result {
            Ok(done) => (Some(done), None),
            Err(error) => (None, Some(explain(&error))),
        };
        let (state, deed) = done.unzip();
        let mut lines = error.as_deref().unwrap_or_default().split("\nhint: ").map(str::to_owned);
        let error = lines.next().filter(|error| !error.is_empty());
        Self {
            node: node.name.to_string(),
            bmc: node.bmc.as_ref().map(|bmc| format!("{} {}", bmc.protocol, bmc.address)),
            ok: error.is_none(),
            state,
            deed,
            error,
            hints: lines.collect(),
            is_question: order.action == Action::Status,
        }
    }
}

impl fmt::Display for Outcome {
    /// `node-000: was off, sent On`, without hints.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.node)?;
        let (Some(state), Some(deed)) = (&self.state, &self.deed) else {
            return write!(f, "failed: {}", self.error.as_deref().unwrap_or_default());
        };
        match deed {
            Deed::Nothing if self.is_question => write!(f, "{state}"),
            Deed::Nothing => write!(f, "is {state} already"),
            Deed::WouldSend(what) => write!(f, "is {state}, would be sent {what}"),
            Deed::Sent(what) => write!(f, "was {state}, sent {what}"),
            Deed::Reached(what) => write!(f, "is {state}, was sent {what}"),
        }
    }
}
