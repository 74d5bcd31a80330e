//! What bootserve is told of the console: the newest lines of the kernel's log that an operator wants to see of a boot that
//! failed or hangs (kernel: Documentation/ABI/testing/dev-kmsg).

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::time::{Duration, Instant};

use bootspec::console::{Console, MAX_CONSOLE_LINES};
use rustix::fs::OFlags;

use crate::clock::uptime_ms;
use crate::kmsg::{PREFIX, shortened};

/// The kernel gives no longer record (PRINTK_MESSAGE_MAX and CONSOLE_EXT_LOG_MAX in kernel/printk).
const MAX_RECORD_BYTES: usize = 8192;
/// A log of a megabyte is read in some milliseconds. Where the kernel writes faster than we read, this is the end.
const READ_LIMIT: Duration = Duration::from_millis(200);
/// Severe enough to be shown (kernel: KERN_WARNING). Of init itself everything is.
const WARNING: u32 = 4;

/// What the kernel's log says by now: its warnings and worse and all of init's own lines, then `words`, which init is going to
/// log. None if there is nothing, or no such log.
pub fn of_kernel(words: &[String]) -> Option<Console> {
    let mut lines = VecDeque::new();
    if let Ok(log) = open() {
        read(log, Instant::now() + READ_LIMIT, &mut lines);
    }
    let stamp = stamp(uptime_ms().saturating_mul(1000));
    let words = words.iter().flat_map(|word| word.lines());
    lines.extend(words.map(|word| format!("{stamp} {PREFIX}{}", shortened(word))));
    Console::newest(lines.iter())
}

fn open() -> io::Result<File> {
    let flags = i32::try_from(OFlags::NONBLOCK.bits()).expect("flags of open() are an int");
    OpenOptions::new().read(true).custom_flags(flags).open("/dev/kmsg")
}

/// A record a read, until the end or until `deadline`. Keeps the newest lines, as many as can be sent.
fn read(mut log: impl Read, deadline: Instant, lines: &mut VecDeque<String>) {
    let mut record = vec![0; MAX_RECORD_BYTES];
    while Instant::now() < deadline {
        match log.read(&mut record) {
            Ok(0) => return,
            Ok(length) => lines.extend(line(&record[..length])),
            // The kernel needed the room of the record that came next.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
            // There is no more, or it cannot be read.
            Err(_) => return,
        }
        if lines.len() > MAX_CONSOLE_LINES {
            lines.pop_front();
        }
    }
}

/// The line of a record, `PRIORITY,NUMBER,MICROSECONDS,FLAGS[,...];TEXT`, if it is to be told. Lines below it are the record's properties.
fn line(record: &[u8]) -> Option<String> {
    let record = String::from_utf8_lossy(record);
    let (head, text) = record.split_once(';')?;
    let text = text.lines().next()?;
    let mut fields = head.split(',');
    let priority: u32 = fields.next()?.parse().ok()?;
    let micros: u64 = fields.nth(1)?.parse().ok()?;
    // Above the three bits of the level is the facility.
    let is_told = priority & 7 <= WARNING || text.starts_with(PREFIX);
    is_told.then(|| format!("{} {text}", stamp(micros)))
}

/// As `dmesg` writes it.
fn stamp(micros: u64) -> String {
    format!("[{:5}.{:06}]", micros / 1_000_000, micros % 1_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A log as the kernel gives it: a record a read.
    struct Records(VecDeque<io::Result<String>>);

    impl Read for Records {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let record = self.0.pop_front().unwrap_or_else(|| Err(io::ErrorKind::WouldBlock.into()))?;
            buffer[..record.len()].copy_from_slice(record.as_bytes());
            Ok(record.len())
        }
    }

    fn read_all(records: impl IntoIterator<Item = io::Result<String>>) -> Vec<String> {
        let mut lines = VecDeque::new();
        let deadline = Instant::now() + Duration::from_secs(60);
        read(Records(records.into_iter().collect()), deadline, &mut lines);
        lines.into()
    }

    #[test]
    fn warnings_of_the_kernel_and_all_of_init_are_told() {
        let records = [
            "6,1,5,-;Linux version 6.12\n",
            "5,2,6,-;Command line: quiet\n",
            "3,339,5140900,-,caller=T1;nvme nvme0: I/O error; giving up\n SUBSYSTEM=nvme\n DEVICE=c241:0\n",
            "14,340,12345678,-;bootnode: network up\n",
            "14,341,12345679,-;systemd-udevd: said something\n",
            "12,342,12345680,-;somebody: warns\n",
        ];
        let lines = read_all(records.map(|record| Ok(record.to_owned())));
        assert_eq!(
            lines,
            [
                "[    5.140900] nvme nvme0: I/O error; giving up",
                "[   12.345678] bootnode: network up",
                "[   12.345680] somebody: warns"
            ]
        );
    }

    #[test]
    fn a_log_that_is_overwritten_or_no_log_is_read_as_far_as_it_goes() {
        let record = |number: u32| Ok(format!("4,{number},{number},-;line {number}\n"));
        let lost = || Err(io::ErrorKind::BrokenPipe.into());
        assert_eq!(read_all([record(1), lost(), record(2)]).len(), 2);
        let lines = read_all((0..500).map(record));
        assert_eq!(lines.len(), MAX_CONSOLE_LINES);
        assert!(lines[0].ends_with("line 400"), "{lines:?}");
        for text in ["", "4", ";", "4,1;x", "x,1,2,-;text", "4,1,x,-;text", "\u{1b}"] {
            assert_eq!(line(text.as_bytes()), None, "{text:?}");
        }
    }

    #[test]
    fn reading_ends_at_its_limit() {
        let mut lines = VecDeque::new();
        read(io::repeat(b'x'), Instant::now() + Duration::from_millis(1), &mut lines);
        assert!(lines.is_empty());
    }
}
