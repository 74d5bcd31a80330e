//! Checking in: one request, when to make the next one, and the loop around both.

use std::fmt;
use std::time::Duration;

use bootspec::diagnosis::explain;
use bootspec::facts::{CheckInAnswer, DEFAULT_WAIT, Facts, MAX_ANSWER_BYTES};

use super::facts::label;
use crate::http::{self, HttpError, Request, Response, Timeouts, Url};
use crate::jitter::jitter;
use crate::kmsg;

/// The pause after the first failure. It doubles with each further one.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause after a failure, and the longest that a server which is busy may ask for.
const MAX_PAUSE: Duration = Duration::from_secs(60);
/// The shortest pause after a refusal, which may end when the server is updated or configured.
const REFUSED_PAUSE: Duration = Duration::from_secs(30);

/// What came of one request.
#[derive(Debug)]
pub enum Outcome {
    /// The server has an answer.
    Told(CheckInAnswer),
    /// The server does not want the facts: a status 4xx. 404 if it has no discovery at all.
    Refused(u16),
    /// The server cannot be reached, is busy, or is not understood; it may say when to come again.
    Failed(String, Option<Duration>),
}

/// What is done with the machine at the end of discover mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It is rebooted.
    Reboot,
    /// It is switched off.
    PowerOff,
}

/// What follows an outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// The next check-in, after so long.
    CheckIn(Duration),
    /// The end of discover mode.
    End(End),
}

/// When to check in, by what has happened so far. Reads no clock.
#[derive(Debug, Default)]
pub struct Schedule {
    /// In a row.
    failures: u32,
}

impl Schedule {
    /// What follows `outcome`. `jitter` is from 0 to 1: machines that were switched on together are not to check in together.
    pub fn next(&mut self, outcome: &Outcome, jitter: f64) -> Next {
        let jitter = jitter.clamp(0.0, 1.0);
        let failures = std::mem::take(&mut self.failures);
        Next::CheckIn(match outcome {
            Outcome::Told(CheckInAnswer::Reboot) => return Next::End(End::Reboot),
            Outcome::Told(CheckInAnswer::PowerOff) => return Next::End(End::PowerOff),
            Outcome::Told(CheckInAnswer::Wait(wait)) => wait.mul_f64(0.9 + 0.2 * jitter),
            Outcome::Told(CheckInAnswer::Unknown(_)) => DEFAULT_WAIT.mul_f64(0.9 + 0.2 * jitter),
            Outcome::Refused(_) => REFUSED_PAUSE.mul_f64(1.0 + jitter),
            Outcome::Failed(_, retry_after) => {
                self.failures = failures.saturating_add(1);
                let backoff = FIRST_PAUSE.saturating_mul(1 << failures.min(16)).min(MAX_PAUSE);
                retry_after.unwrap_or_default().min(MAX_PAUSE) + backoff.mul_f64(0.5 + 0.5 * jitter)
            }
        })
    }
}

/// Checks in until bootserve tells the machine to do something else than wait. `gather` finds out the facts for each time,
/// `pause` waits.
pub fn check_in(
    url: &Url,
    timeouts: Timeouts,
    mut gather: impl FnMut() -> Facts,
    mut pause: impl FnMut(Duration),
) -> End {
    let mut schedule = Schedule::default();
    loop {
        let facts = gather();
        let outcome = check_in_once(url, &facts, timeouts);
        let next = schedule.next(&outcome, jitter());
        // Each line says which machine it is: whoever stands before the screen sees the last ones.
        let line = format!("discover: {}: {url}: {outcome}; {next}", label(&facts));
        match outcome {
            Outcome::Told(_) => kmsg::info(&line),
            Outcome::Refused(_) | Outcome::Failed(..) => kmsg::warn(&line),
        }
        match next {
            Next::CheckIn(after) => pause(after),
            Next::End(end) => return end,
        }
    }
}

/// Tells the facts to the server at `url` once.
pub fn check_in_once(url: &Url, facts: &Facts, timeouts: Timeouts) -> Outcome {
    let json = to_json(facts);
    let failed = |error: HttpError| Outcome::Failed(explain(&error), None);
    let response = match http::send(url, Request::Post(&json), timeouts) {
        Ok(response) => response,
        Err(error) => return failed(error),
    };
    match response.status {
        200..300 => answer(response).unwrap_or_else(failed),
        // Statuses that say "later": RFC 9110 section 15.5.9, RFC 6585.
        status @ (408 | 429 | 500..) => {
            Outcome::Failed(format!("HTTP status {status}"), response.retry_after)
        }
        status => Outcome::Refused(status),
    }
}

/// As they are sent.
pub(super) fn to_json(facts: &Facts) -> Vec<u8> {
    serde_json::to_vec(facts).expect("facts have only string keys")
}

fn answer(response: Response) -> Result<Outcome, HttpError> {
    let json = response.read_all(MAX_ANSWER_BYTES)?;
    Ok(match CheckInAnswer::parse(&json) {
        Ok(answer) => Outcome::Told(answer),
        Err(error) => Outcome::Failed(format!("an answer that is none: {}", explain(&error)), None),
    })
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Told(CheckInAnswer::Wait(_)) => f.write_str("the machine is known and is to wait"),
            Self::Told(CheckInAnswer::Reboot) => f.write_str("the machine is to reboot"),
            Self::Told(CheckInAnswer::PowerOff) => f.write_str("the machine is to be switched off"),
            Self::Told(CheckInAnswer::Unknown(action)) => {
                write!(
                    f,
                    "the machine is to '{action}', which is unknown here: is this image older than bootserve?"
                )
            }
            Self::Refused(404) => f.write_str("HTTP status 404: this server has no discovery"),
            Self::Refused(status) => write!(f, "HTTP status {status}: the server refuses the facts"),
            Self::Failed(reason, _) => f.write_str(reason),
        }
    }
}

impl fmt::Display for Next {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CheckIn(after) => write!(f, "checking in again in {:.0} s", after.as_secs_f64()),
            Self::End(End::Reboot) => f.write_str("rebooting"),
            Self::End(End::PowerOff) => f.write_str("switching off"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn failed(retry_after: Option<u64>) -> Outcome {
        Outcome::Failed("HTTP status 503".to_owned(), retry_after.map(Duration::from_secs))
    }

    fn told(seconds: u64) -> Outcome {
        Outcome::Told(CheckInAnswer::Wait(Duration::from_secs(seconds)))
    }

    fn seconds(schedule: &mut Schedule, outcome: &Outcome, jitter: f64) -> u64 {
        match schedule.next(outcome, jitter) {
            Next::CheckIn(after) => after.as_secs(),
            Next::End(end) => panic!("{end:?}"),
        }
    }

    #[test]
    fn pauses_after_failures_double_up_to_a_minute_and_begin_anew_after_an_answer() {
        let mut schedule = Schedule::default();
        let pauses: Vec<_> = (0..8).map(|_| seconds(&mut schedule, &failed(None), 1.0)).collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(seconds(&mut schedule, &told(30), 0.5), 30);
        assert_eq!(seconds(&mut schedule, &failed(None), 1.0), 1);
        assert_eq!(seconds(&mut schedule, &failed(Some(5)), 1.0), 7);
        assert_eq!(seconds(&mut schedule, &failed(Some(86400)), 1.0), 64);
    }

    #[test]
    fn a_refusal_may_end_and_is_asked_for_every_minute() {
        let mut schedule = Schedule::default();
        for _ in 0..3 {
            assert_eq!(seconds(&mut schedule, &Outcome::Refused(404), 0.0), 30);
            assert_eq!(seconds(&mut schedule, &Outcome::Refused(413), 1.0), 60);
        }
    }

    #[test]
    fn the_server_ends_it() {
        let next = |answer| Schedule::default().next(&Outcome::Told(answer), 0.5);
        assert_eq!(next(CheckInAnswer::Reboot), Next::End(End::Reboot));
        assert_eq!(next(CheckInAnswer::PowerOff), Next::End(End::PowerOff));
        let unknown = CheckInAnswer::Unknown("dance".parse().unwrap());
        assert_eq!(next(unknown), Next::CheckIn(DEFAULT_WAIT));
    }

    #[test]
    fn lines_say_what_the_server_said_and_what_follows() {
        let line = |outcome: Outcome| format!("{outcome}; {}", Schedule::default().next(&outcome, 0.5));
        assert_eq!(line(told(30)), "the machine is known and is to wait; checking in again in 30 s");
        let no_discovery = "HTTP status 404: this server has no discovery; checking in again in 45 s";
        assert_eq!(line(Outcome::Refused(404)), no_discovery);
        assert_eq!(line(Outcome::Told(CheckInAnswer::Reboot)), "the machine is to reboot; rebooting");
    }

    proptest! {
        #[test]
        fn pauses_stay_in_their_bounds(
            failures in 0usize..40, wait in 1u64..=3600, jitter in 0.0f64..=1.0, after: Option<u32>,
        ) {
            let mut schedule = Schedule::default();
            let after = after.map(u64::from);
            for _ in 0..=failures {
                let Next::CheckIn(pause) = schedule.next(&failed(after), jitter) else { panic!() };
                prop_assert!(pause >= FIRST_PAUSE / 2 && pause <= 2 * MAX_PAUSE);
            }
            let Next::CheckIn(pause) = schedule.next(&told(wait), jitter) else { panic!() };
            let wait = Duration::from_secs(wait);
            prop_assert!(pause >= wait.mul_f64(0.89) && pause <= wait.mul_f64(1.11));
        }
    }
}
