//! Times as they are stored, and as they are shown.

use std::time::SystemTime;

use jiff::Timestamp;

/// Milliseconds since the epoch.
pub fn unix_ms(time: SystemTime) -> i64 {
    let ms = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis();
    i64::try_from(ms).unwrap_or(i64::MAX)
}

/// As `2026-11-27T21:04:05Z`.
pub fn utc(time_unix_ms: i64) -> String {
    Timestamp::from_millisecond(time_unix_ms).unwrap_or_default().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}
