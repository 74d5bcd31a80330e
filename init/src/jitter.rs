//! Chance for pauses: nodes that failed together are not to come back together.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

/// Any number, at random: the standard library seeds each of its hashers with random keys.
pub fn random() -> u32 {
    RandomState::new().build_hasher().finish() as u32
}

/// From 0 to 1, at random.
pub fn jitter() -> f64 {
    f64::from(random()) / f64::from(u32::MAX)
}

/// Half of `pause` to one and a half of it, as `jitter` from 0 to 1 says.
pub fn spread(pause: Duration, jitter: f64) -> Duration {
    pause.mul_f64(0.5 + jitter.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn two_nodes_draw_different_numbers() {
        let drawn: std::collections::BTreeSet<_> = (0..100).map(|_| random()).collect();
        assert!(drawn.len() > 90, "{drawn:?}");
    }

    proptest! {
        #[test]
        fn pauses_are_spread_around_what_they_are(milliseconds in 0u64..1 << 32, jitter in 0.0f64..=1.0) {
            let pause = Duration::from_millis(milliseconds);
            let found = spread(pause, jitter);
            let rounding = Duration::from_micros(1);
            prop_assert!(found + rounding >= pause / 2 && found <= pause * 3 / 2 + rounding);
        }
    }
}
