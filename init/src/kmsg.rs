//! Lines in the kernel's log, and so on every console (kernel: Documentation/ABI/testing/dev-kmsg).
//!
//! Before /dev is there, and where init is tested, lines go to standard error.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::sync::OnceLock;

/// Begins each line, so that an operator can grep for it.
pub(crate) const PREFIX: &str = "bootnode: ";
/// The kernel drops records of user space beyond ten in five seconds unless this says `on`, with a line feed
/// (devkmsg_sysctl_set_loglvl in kernel/printk/printk.c).
const RATE_LIMIT: &str = "/proc/sys/kernel/printk_devkmsg";
/// The kernel refuses a record of more than 1024 bytes (976 before Linux 6.0), and names in an archive may be that long.
const MAX_LINE_BYTES: usize = 900;

static KMSG: OnceLock<File> = OnceLock::new();

#[derive(Clone, Copy)]
enum Level {
    Error = 3,
    Warning = 4,
    Info = 6,
}

/// Sends lines to the kernel's log from now on. Needs /dev and /proc.
pub fn open() {
    // A kernel that was booted with printk.devkmsg= keeps its setting and refuses ours, rightly.
    let _ = fs::write(RATE_LIMIT, "on\n");
    match OpenOptions::new().write(true).open("/dev/kmsg") {
        Ok(file) => _ = KMSG.set(file),
        Err(error) => warn(&format!("cannot open /dev/kmsg: {error}")),
    }
}

/// What happens.
pub fn info(text: &str) {
    log(Level::Info, text);
}

/// What is odd and does not stop the boot.
pub fn warn(text: &str) {
    log(Level::Warning, text);
}

/// What stops the boot. Reaches the console under `quiet` as well.
pub fn error(text: &str) {
    log(Level::Error, text);
}

/// A record a line, since the kernel escapes line feeds within a record.
fn log(level: Level, text: &str) {
    for line in text.lines().map(shortened) {
        let record = format!("<{}>{PREFIX}{line}\n", level as u8);
        let written = match KMSG.get() {
            Some(mut kmsg) => kmsg.write_all(record.as_bytes()),
            None => writeln!(std::io::stderr(), "{PREFIX}{line}"),
        };
        // There is no other place to say that a line was lost.
        let _ = written;
    }
}

/// The beginning of the line that the kernel takes.
pub(crate) fn shortened(line: &str) -> &str {
    let end = (0..=MAX_LINE_BYTES.min(line.len())).rev().find(|end| line.is_char_boundary(*end));
    &line[..end.unwrap_or(0)]
}

/// Logs how far something long has come, each tenth once.
pub struct Progress {
    what: &'static str,
    total_bytes: u64,
    done_bytes: u64,
    tenths: u64,
}

impl Progress {
    /// `what` has been done to none of `total_bytes` yet: `unpacked`.
    pub fn new(what: &'static str, total_bytes: u64) -> Self {
        Self { what, total_bytes, done_bytes: 0, tenths: 0 }
    }

    /// It has been done to so many more.
    pub fn advance(&mut self, bytes: u64) {
        self.done_bytes = self.done_bytes.saturating_add(bytes).min(self.total_bytes);
        let tenths = u128::from(self.done_bytes) * 10 / u128::from(self.total_bytes.max(1));
        let tenths = u64::try_from(tenths).expect("it is ten at most");
        if tenths > self.tenths {
            self.tenths = tenths;
            info(&format!("{} {} %", self.what, tenths * 10));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_line_is_cut_to_what_the_kernel_takes() {
        assert_eq!(shortened("short"), "short");
        let long = "ä".repeat(MAX_LINE_BYTES);
        assert_eq!(shortened(&long).len(), MAX_LINE_BYTES);
        assert_eq!(shortened(&format!("x{long}")).len(), MAX_LINE_BYTES - 1);
    }
}
