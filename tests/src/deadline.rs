//! How long to wait.
//!
//! Limits in this crate are written as the time that a step takes on an idle machine, emulated without KVM. What is
//! really waited is a multiple of that: emulated nodes that share two cores were seen to take three times as long.

use std::time::{Duration, Instant};
use std::{env, thread};

/// Overrides the factor, for machines that are slower still.
pub const FACTOR_VARIABLE: &str = "BOOTLAB_TIMEOUT_FACTOR";
const POLL: Duration = Duration::from_millis(10);
const DEFAULT_FACTOR: f64 = 4.0;

/// How long to wait for a step that takes `idle` on an idle machine.
pub fn within(idle: Duration) -> Duration {
    idle.mul_f64(factor(env::var(FACTOR_VARIABLE).ok().as_deref()))
}

/// Looks at `condition` again and again until it holds, or until `idle` has passed as [`within`] takes it; tells whether
/// it holds.
pub fn wait_until(idle: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + within(idle);
    loop {
        if condition() {
            return true;
        }
        if Instant::now() > deadline {
            return false;
        }
        thread::sleep(POLL);
    }
}

/// A factor that is no positive number is left out, with a warning: a test run should not fail for it.
fn factor(text: Option<&str>) -> f64 {
    let Some(text) = text else { return DEFAULT_FACTOR };
    match text.parse() {
        Ok(factor) if (0.1..=1000.0).contains(&factor) => factor,
        _ => {
            eprintln!(
                "bootlab: {FACTOR_VARIABLE}={text}: expected a number from 0.1 to 1000, using {DEFAULT_FACTOR}"
            );
            DEFAULT_FACTOR
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn factor_is_a_sane_number_or_the_default() {
        let cases = [
            (None, 4.0),
            (Some("2.5"), 2.5),
            (Some("0"), 4.0),
            (Some("-1"), 4.0),
            (Some("inf"), 4.0),
            (Some("x"), 4.0),
        ];
        for (text, expected) in cases {
            assert_eq!(factor(text), expected, "{text:?}");
        }
    }
}
