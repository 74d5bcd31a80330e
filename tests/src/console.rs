//! A node's serial console: streamed to a file, searched while it grows, typed on.
//!
//! Patterns are plain text, looked for in what a person would see: escape sequences and carriage returns are left
//! out. The file keeps every byte. Time is noted for each piece that arrives, so that a line also tells when.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

/// So many lines are shown of a console that did not say what was expected.
const TAIL_LINES: usize = 40;

/// What was awaited did not appear.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not in time.
    #[error("no '{pattern}' on the console within {} s\n{tail}", .limit.as_secs())]
    TimedOut {
        /// What was awaited.
        pattern: String,
        /// How long.
        limit: Duration,
        /// The console's end and the path of its log.
        tail: Tail,
    },
    /// Never: the machine is off.
    #[error("the machine went off before it printed '{pattern}'\n{tail}")]
    Ended {
        /// What was awaited.
        pattern: String,
        /// The console's end and the path of its log.
        tail: Tail,
    },
    /// What was typed did not reach the machine.
    #[error("cannot type on the console that {} logs", .log.display())]
    Send {
        /// The console's log.
        log: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// The last lines of a console, for people.
#[derive(Debug)]
pub struct Tail {
    log: PathBuf,
    lines: Vec<String>,
}

impl Tail {
    /// The last line; empty if nothing was printed.
    pub fn last_line(&self) -> &str {
        self.lines.last().map_or("", String::as_str)
    }
}

impl std::fmt::Display for Tail {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for line in &self.lines {
            writeln!(f, "  | {line}")?;
        }
        write!(f, "console: {}", self.log.display())
    }
}

/// A serial console.
pub struct Console {
    screen: Arc<Screen>,
    keyboard: Mutex<Box<dyn Write + Send>>,
    log: PathBuf,
}

#[derive(Default)]
struct Screen {
    output: Mutex<Output>,
    changed: Condvar,
}

#[derive(Default)]
struct Output {
    text: String,
    /// When the text had grown to how many bytes.
    times: Vec<(usize, SystemTime)>,
    ended: bool,
}

impl Console {
    /// Follows `output` on a thread, until it ends, and copies it to the file `log`; what is typed goes to `keyboard`.
    pub fn start(
        output: impl Read + Send + 'static,
        keyboard: impl Write + Send + 'static,
        log: PathBuf,
    ) -> io::Result<Self> {
        let file = File::create(&log)?;
        let screen = Arc::new(Screen::default());
        let follower = Arc::clone(&screen);
        thread::Builder::new().name("console".to_owned()).spawn(move || {
            if let Err(error) = follower.follow(output, file) {
                eprintln!("bootlab: reading a console: {error}");
            }
            follower.lock().ended = true;
            follower.changed.notify_all();
        })?;
        Ok(Self { screen, keyboard: Mutex::new(Box::new(keyboard)), log })
    }

    /// The file with everything that was printed.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Everything printed so far, without escape sequences.
    pub fn text(&self) -> String {
        self.screen.lock().text.clone()
    }

    /// Whether the machine is off.
    pub fn ended(&self) -> bool {
        self.screen.lock().ended
    }

    /// The last lines.
    pub fn tail(&self) -> Tail {
        self.tail_of(&self.screen.lock())
    }

    /// When `pattern` was first printed.
    pub fn time_of(&self, pattern: &str) -> Option<SystemTime> {
        let output = self.screen.lock();
        let end = output.text.find(pattern)? + pattern.len();
        let piece = output.times.partition_point(|(length, _)| *length < end);
        output.times.get(piece).map(|(_, time)| *time)
    }

    /// When the kernel logged the first line with `pattern`, since its start; by the time in brackets before the line.
    pub fn kernel_time_of(&self, pattern: &str) -> Option<Duration> {
        let output = self.screen.lock();
        let line = output.text.lines().find(|line| line.contains(pattern))?;
        let (seconds, _) = line.trim_start().strip_prefix('[')?.split_once(']')?;
        Duration::try_from_secs_f64(seconds.trim().parse().ok()?).ok()
    }

    /// Waits until `pattern` has been printed, at whatever time since power-on.
    pub fn wait_for(&self, pattern: &str, limit: Duration) -> Result<(), Error> {
        self.wait_until(pattern, limit, |output| output.text.contains(pattern))
    }

    /// The same until the line with `pattern` has ended, so that all of it and of what stands before it can be looked at.
    pub fn wait_for_line(&self, pattern: &str, limit: Duration) -> Result<(), Error> {
        self.wait_until(pattern, limit, |output| {
            output.text.find(pattern).is_some_and(|start| output.text[start..].contains('\n'))
        })
    }

    /// Types `line` and waits for `answer`, which must be no part of the line: the line itself is echoed.
    ///
    /// A console drops what is typed before a program reads it, so the line is typed again now and then.
    pub fn ask(&self, line: &str, answer: &str, limit: Duration) -> Result<(), Error> {
        let start = self.screen.lock().text.len();
        let deadline = Instant::now() + limit;
        loop {
            self.send(line)?;
            let left = deadline.saturating_duration_since(Instant::now());
            let answered = |output: &Output| output.text[start..].contains(answer);
            match self.wait_until(answer, left.min(RETYPE_AFTER), answered) {
                Err(Error::TimedOut { .. }) if left > RETYPE_AFTER => {}
                result => return result,
            }
        }
    }

    /// Types `line` and the return key.
    pub fn send(&self, line: &str) -> Result<(), Error> {
        let mut keyboard = self.keyboard.lock().unwrap_or_else(PoisonError::into_inner);
        keyboard
            .write_all(format!("{line}\n").as_bytes())
            .and_then(|()| keyboard.flush())
            .map_err(|source| Error::Send { log: self.log.clone(), source })
    }

    /// Waits until the machine is off; tells whether that happened in time.
    pub fn wait_for_end(&self, limit: Duration) -> bool {
        let output = self.screen.lock();
        let wait = self.screen.changed.wait_timeout_while(output, limit, |output| !output.ended);
        wait.unwrap_or_else(PoisonError::into_inner).0.ended
    }

    /// Waits until what was printed is `complete`, which takes `pattern`.
    fn wait_until(
        &self,
        pattern: &str,
        limit: Duration,
        complete: impl Fn(&Output) -> bool,
    ) -> Result<(), Error> {
        let wait = self
            .screen
            .changed
            .wait_timeout_while(self.screen.lock(), limit, |output| !complete(output) && !output.ended);
        let (output, _) = wait.unwrap_or_else(PoisonError::into_inner);
        let pattern = pattern.to_owned();
        match complete(&output) {
            true => Ok(()),
            false if output.ended => Err(Error::Ended { pattern, tail: self.tail_of(&output) }),
            false => Err(Error::TimedOut { pattern, limit, tail: self.tail_of(&output) }),
        }
    }

    fn tail_of(&self, output: &Output) -> Tail {
        let lines: Vec<&str> = output.text.lines().filter(|line| !line.trim().is_empty()).collect();
        let lines = lines[lines.len().saturating_sub(TAIL_LINES)..]
            .iter()
            .map(|line| line.trim_end().to_owned())
            .collect();
        Tail { log: self.log.clone(), lines }
    }
}

const RETYPE_AFTER: Duration = Duration::from_secs(5);

impl Screen {
    fn lock(&self) -> MutexGuard<'_, Output> {
        // The text is whole even if a thread panicked while it held the lock.
        self.output.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn follow(&self, mut output: impl Read, mut log: File) -> io::Result<()> {
        let mut plain = PlainText::default();
        let mut buffer = [0; 4096];
        loop {
            let length = output.read(&mut buffer)?;
            if length == 0 {
                return Ok(());
            }
            log.write_all(&buffer[..length])?;
            let mut output = self.lock();
            output.text.extend(buffer[..length].iter().filter_map(|&byte| plain.push(byte)));
            let grown_to = output.text.len();
            output.times.push((grown_to, SystemTime::now()));
            self.changed.notify_all();
        }
    }
}

/// Takes escape sequences (ECMA-48 section 5.4) and control characters out of a stream of bytes. Bytes beyond ASCII
/// become question marks, as a pattern never needs them.
#[derive(Default)]
enum PlainText {
    #[default]
    Text,
    Escape,
    ControlSequence,
}

impl PlainText {
    fn push(&mut self, byte: u8) -> Option<char> {
        match (&self, byte) {
            (Self::Text, 0x1b) => *self = Self::Escape,
            (Self::Text, b'\n' | b'\t' | b' '..=b'~') => return Some(char::from(byte)),
            (Self::Text, 0x80..) => return Some('?'),
            (Self::Text, _) => {}
            (Self::Escape, b'[') => *self = Self::ControlSequence,
            (Self::Escape, _) => *self = Self::Text,
            // Parameters and intermediates run up to a final byte from @ to ~.
            (Self::ControlSequence, b'@'..=b'~') => *self = Self::Text,
            (Self::ControlSequence, _) => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::PipeWriter;

    const SOON: Duration = Duration::from_millis(50);
    const LATE: Duration = Duration::from_secs(10);

    fn console() -> (Console, PipeWriter, tempfile::TempDir) {
        let dir = tempfile::tempdir().unwrap();
        let (output, machine) = io::pipe().unwrap();
        let console = Console::start(output, io::sink(), dir.path().join("console.log")).unwrap();
        (console, machine, dir)
    }

    #[test]
    fn pattern_cut_by_reads_and_escape_sequences_is_found() {
        let (console, mut machine, _dir) = console();
        machine.write_all(b"boot\x1b[0;1m").unwrap();
        machine.write_all(b"node: re\x1b[mady\r\n").unwrap();
        console.wait_for("bootnode: ready\n", LATE).unwrap();
        assert_eq!(std::fs::read(console.log()).unwrap(), b"boot\x1b[0;1mnode: re\x1b[mady\r\n");
    }

    #[test]
    fn time_out_shows_the_last_lines_and_the_path() {
        let (console, mut machine, _dir) = console();
        for number in 0..100 {
            writeln!(machine, "line {number}").unwrap();
        }
        console.wait_for("line 99", LATE).unwrap();
        let error = console.wait_for("ready", SOON).unwrap_err().to_string();
        assert!(error.contains("line 60\n") && !error.contains("line 59\n"), "{error}");
        assert!(error.contains("console.log"), "{error}");
    }

    #[test]
    fn a_line_that_is_awaited_is_awaited_to_its_end() {
        let (console, mut machine, _dir) = console();
        machine.write_all(b"first line\nremedy: ").unwrap();
        console.wait_for("remedy: ", LATE).unwrap();
        assert!(matches!(console.wait_for_line("remedy: ", SOON), Err(Error::TimedOut { .. })));
        machine.write_all(b"reboot\n").unwrap();
        console.wait_for_line("remedy: ", LATE).unwrap();
        assert!(console.text().ends_with("remedy: reboot\n"));
    }

    #[test]
    fn a_machine_that_goes_off_ends_the_wait() {
        let (console, mut machine, _dir) = console();
        machine.write_all(b"power down\n").unwrap();
        drop(machine);
        assert!(matches!(console.wait_for("ready", LATE), Err(Error::Ended { .. })));
        assert!(console.wait_for_end(SOON));
        console.wait_for("power down", SOON).unwrap();
    }

    #[test]
    fn answers_from_before_the_question_do_not_count() {
        let (console, mut machine, _dir) = console();
        machine.write_all(b"42\n").unwrap();
        console.wait_for("42", LATE).unwrap();
        assert!(console.ask("echo $((6*7))", "42", SOON).is_err());
    }

    #[test]
    fn time_of_a_line_is_when_its_end_arrived() {
        let (console, mut machine, _dir) = console();
        machine.write_all(b"first ").unwrap();
        console.wait_for("first", LATE).unwrap();
        let between = SystemTime::now();
        machine.write_all(b"line\nsecond").unwrap();
        console.wait_for("second", LATE).unwrap();
        assert!(console.time_of("first").unwrap() <= between);
        assert!(console.time_of("first line").unwrap() >= between);
        assert_eq!(console.time_of("third"), None);
    }

    #[test]
    fn kernel_time_stands_in_brackets_before_the_line() {
        let (console, mut machine, _dir) = console();
        machine.write_all(b"login: [    4.250000] systemd[1]: up\n[ 12.000001] late\n[x] odd\n").unwrap();
        console.wait_for("odd\n", LATE).unwrap();
        assert_eq!(console.kernel_time_of("late"), Some(Duration::from_micros(12_000_001)));
        assert_eq!(console.kernel_time_of("up"), None);
        assert_eq!(console.kernel_time_of("odd"), None);
        assert_eq!(console.kernel_time_of("missing"), None);
    }

    proptest! {
        #[test]
        fn any_bytes_become_printable_text(bytes: Vec<u8>) {
            let mut plain = PlainText::default();
            let text: String = bytes.iter().filter_map(|&byte| plain.push(byte)).collect();
            prop_assert!(text.chars().all(|c| c == '\n' || c == '\t' || (' '..='~').contains(&c)));
        }
    }
}
