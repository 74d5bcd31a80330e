//! What bootserve answers to a machine that has checked in.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Text;

/// A longer answer is refused.
pub const MAX_ANSWER_BYTES: u64 = 4096;
/// The shortest time after which a machine checks in again.
pub const MIN_WAIT: Duration = Duration::from_secs(1);
/// The longest one. A machine that waits hears of nothing.
pub const MAX_WAIT: Duration = Duration::from_secs(3600);
/// How long a machine waits that is not told how long.
pub const DEFAULT_WAIT: Duration = Duration::from_secs(60);

/// What a machine that has checked in is to do: `{"action":"wait","seconds":30}`, `{"action":"reboot"}`,
/// `{"action":"poweroff"}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Wire", into = "Wire")]
pub enum CheckInAnswer {
    /// Check in again after so long. From [`MIN_WAIT`] to [`MAX_WAIT`] when it was parsed.
    Wait(Duration),
    /// Reboot: there is something else to boot now.
    Reboot,
    /// Switch the power off.
    PowerOff,
    /// Something that later releases know. To be taken as [`DEFAULT_WAIT`].
    Unknown(Text),
}

#[derive(Serialize, Deserialize)]
struct Wire {
    action: Text,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    seconds: Option<u64>,
}

/// The answer is not one.
#[derive(Debug, thiserror::Error)]
#[error("expected a JSON object with an action")]
pub struct AnswerError(#[source] serde_json::Error);

impl CheckInAnswer {
    /// Reads an answer from the network.
    pub fn parse(json: &[u8]) -> Result<Self, AnswerError> {
        serde_json::from_slice(json).map_err(AnswerError)
    }
}

impl From<Wire> for CheckInAnswer {
    fn from(Wire { action, seconds }: Wire) -> Self {
        match action.as_str() {
            "wait" => Self::Wait(seconds.map_or(DEFAULT_WAIT, Duration::from_secs).clamp(MIN_WAIT, MAX_WAIT)),
            "reboot" => Self::Reboot,
            "poweroff" => Self::PowerOff,
            _ => Self::Unknown(action),
        }
    }
}

impl From<CheckInAnswer> for Wire {
    fn from(answer: CheckInAnswer) -> Self {
        let known = |action: &str| action.parse().expect("an action is one word");
        let (action, seconds) = match answer {
            CheckInAnswer::Wait(wait) => (known("wait"), Some(wait.as_secs())),
            CheckInAnswer::Reboot => (known("reboot"), None),
            CheckInAnswer::PowerOff => (known("poweroff"), None),
            CheckInAnswer::Unknown(action) => (action, None),
        };
        Self { action, seconds }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn wait(seconds: u64) -> Option<CheckInAnswer> {
        Some(CheckInAnswer::Wait(Duration::from_secs(seconds)))
    }

    #[test]
    fn answers_are_read_within_their_limits() {
        for (json, expected) in [
            (r#"{"action":"wait","seconds":30}"#, wait(30)),
            (r#"{"action":"wait","seconds":0}"#, wait(1)),
            (r#"{"action":"wait","seconds":18446744073709551615}"#, wait(3600)),
            (r#"{"action":"wait","reason":"no tag matches"}"#, wait(60)),
            (r#"{"action":"reboot"}"#, Some(CheckInAnswer::Reboot)),
            (r#"{"action":"poweroff","seconds":5}"#, Some(CheckInAnswer::PowerOff)),
            (r#"{"action":"dance"}"#, "dance".parse().ok().map(CheckInAnswer::Unknown)),
            (r#"{"action":"wait","seconds":-1}"#, None),
            (r#"{"action":"a\nb"}"#, None),
            (r#"{"seconds":30}"#, None),
            (r#""reboot""#, None),
            ("", None),
        ] {
            assert_eq!(CheckInAnswer::parse(json.as_bytes()).ok(), expected, "{json}");
        }
    }

    #[test]
    fn answers_are_written_as_they_are_read() {
        let json = |answer| serde_json::to_string(&answer).unwrap();
        assert_eq!(json(CheckInAnswer::Wait(DEFAULT_WAIT)), r#"{"action":"wait","seconds":60}"#);
        assert_eq!(json(CheckInAnswer::Reboot), r#"{"action":"reboot"}"#);
        assert_eq!(json(CheckInAnswer::PowerOff), r#"{"action":"poweroff"}"#);
    }

    proptest! {
        #[test]
        fn any_answer_is_parsed_or_refused_without_panic(
            bytes: Vec<u8>,
            json in r#"\{"action":"[a-z]{0,8}"(,"seconds":-?[0-9.e]{1,21})?\}"#,
        ) {
            let _ = CheckInAnswer::parse(&bytes);
            let _ = CheckInAnswer::parse(json.as_bytes());
        }
    }
}
