//! What bootserve answers to a machine that has checked in. One that is understood is written and understood alike, keeps
//! the machine waiting no longer than is allowed, and is told on the console in one line.
#![no_main]

use bootspec::facts::{CheckInAnswer, MAX_WAIT, MIN_WAIT};
use init::discover::{End, Next, Outcome, Schedule};
use libfuzzer_sys::fuzz_target;

/// Pauses are a tenth longer or shorter at random, and a little for what floating point loses.
const JITTER: f64 = 0.11;

fuzz_target!(|data: &[u8]| {
    check(data);
    // Numbers that would seldom come about as text.
    if let Some(seconds) = data.first_chunk() {
        let seconds = u64::from_le_bytes(*seconds);
        check(format!(r#"{{"action":"wait","seconds":{seconds}}}"#).as_bytes());
    }
});

fn check(json: &[u8]) {
    let Ok(answer) = CheckInAnswer::parse(json) else { return };
    let json = serde_json::to_vec(&answer).expect("an answer is JSON");
    assert_eq!(CheckInAnswer::parse(&json).ok().as_ref(), Some(&answer));

    let outcome = Outcome::Told(answer.clone());
    assert!(!outcome.to_string().contains(char::is_control), "{outcome}");
    for jitter in [0.0, 1.0] {
        match Schedule::default().next(&outcome, jitter) {
            Next::CheckIn(pause) => {
                assert!(pause >= MIN_WAIT.mul_f64(1.0 - JITTER) && pause <= MAX_WAIT.mul_f64(1.0 + JITTER));
            }
            Next::End(End::Reboot) => assert_eq!(answer, CheckInAnswer::Reboot),
            Next::End(End::PowerOff) => assert_eq!(answer, CheckInAnswer::PowerOff),
        }
    }
}
