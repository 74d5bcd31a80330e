//! Time since the kernel started.

use rustix::time::{ClockId, clock_gettime};

/// Milliseconds since the kernel started, suspension included (CLOCK_BOOTTIME).
pub fn uptime_ms() -> u64 {
    let time = clock_gettime(ClockId::Boottime);
    // Neither part of a boot-time clock is ever negative.
    time.tv_sec.unsigned_abs() * 1000 + time.tv_nsec.unsigned_abs() / 1_000_000
}
