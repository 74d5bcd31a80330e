//! The last lines of a node's console, which it sends along with its events.

use std::collections::VecDeque;
use std::fmt;

use serde::{Deserialize, Serialize};

/// A longer tail is refused.
pub const MAX_CONSOLE_BYTES: usize = 4096;
/// One with more lines as well.
pub const MAX_CONSOLE_LINES: usize = 100;

/// Lines of text, the newest last: at most [`MAX_CONSOLE_BYTES`] and [`MAX_CONSOLE_LINES`], and no control characters but the line
/// feeds between them, so it can be printed on any terminal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Console(String);

/// The text is no such tail.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConsoleError {
    /// Larger than a node has reason to send.
    #[error("the console has {found} {what}, at most {limit} are allowed")]
    TooMuch {
        /// What there is too much of.
        what: &'static str,
        /// How much was found.
        found: usize,
        /// How much is allowed.
        limit: usize,
    },
    /// It could do something to the terminal that it is shown on.
    #[error("the console has the control character {0:?}, only line feeds are allowed")]
    Control(char),
}

impl Console {
    /// The newest of `lines` that fit, without their control characters; `lines` come oldest first. None if nothing is left.
    pub fn newest<L: AsRef<str>>(lines: impl DoubleEndedIterator<Item = L>) -> Option<Self> {
        let (mut kept, mut room) = (VecDeque::new(), MAX_CONSOLE_BYTES);
        for line in lines.rev().take(MAX_CONSOLE_LINES) {
            let line: String = line.as_ref().chars().filter(|c| !c.is_control()).collect();
            // The very last line says most: its beginning is better than nothing.
            let line = if kept.is_empty() { beginning(&line) } else { &line };
            let Some(left) = room.checked_sub(line.len() + 1) else { break };
            room = left;
            kept.push_front(line.to_owned());
        }
        let text = Vec::from(kept).join("\n");
        (!text.trim().is_empty()).then_some(Self(text))
    }

    /// The lines.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn beginning(line: &str) -> &str {
    let end = (0..MAX_CONSOLE_BYTES.min(line.len() + 1)).rev().find(|end| line.is_char_boundary(*end));
    &line[..end.unwrap_or(0)]
}

impl TryFrom<String> for Console {
    type Error = ConsoleError;

    fn try_from(text: String) -> Result<Self, ConsoleError> {
        check_limit("bytes", text.len(), MAX_CONSOLE_BYTES)?;
        check_limit("lines", text.lines().count(), MAX_CONSOLE_LINES)?;
        match text.chars().find(|c| c.is_control() && *c != '\n') {
            Some(control) => Err(ConsoleError::Control(control)),
            None => Ok(Self(text)),
        }
    }
}

fn check_limit(what: &'static str, found: usize, limit: usize) -> Result<(), ConsoleError> {
    if found > limit { Err(ConsoleError::TooMuch { what, found, limit }) } else { Ok(()) }
}

impl From<Console> for String {
    fn from(console: Console) -> Self {
        console.0
    }
}

impl fmt::Display for Console {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn newest(lines: &[&str]) -> Option<String> {
        Console::newest(lines.iter()).map(Into::into)
    }

    #[test]
    fn the_newest_lines_are_kept_without_control_characters() {
        assert_eq!(newest(&["old", "\u{1b}[2Jnew\r"]).as_deref(), Some("old\n[2Jnew"));
        assert_eq!(newest(&[]), None);
        assert_eq!(newest(&["", " "]), None);
        let many: Vec<_> = (0..1000).map(|number| number.to_string()).collect();
        let kept = Console::newest(many.iter()).unwrap();
        assert_eq!(kept.as_str().lines().count(), MAX_CONSOLE_LINES);
        assert!(kept.as_str().starts_with("900\n") && kept.as_str().ends_with("\n999"), "{kept}");
    }

    #[test]
    fn a_line_without_room_is_left_out_and_the_last_one_is_cut() {
        let long = "ä".repeat(MAX_CONSOLE_BYTES);
        assert_eq!(newest(&[&long, "new"]).as_deref(), Some("new"));
        let cut = newest(&["old", &long]).unwrap();
        assert!(cut.len() >= MAX_CONSOLE_BYTES - 2 && long.starts_with(&cut), "{}", cut.len());
    }

    #[test]
    fn what_is_too_long_or_steers_a_terminal_is_refused() {
        for (text, expected) in [
            ("x".repeat(MAX_CONSOLE_BYTES + 1), "4097 bytes, at most 4096"),
            ("\n".repeat(MAX_CONSOLE_LINES + 1), "101 lines, at most 100"),
            ("\u{1b}[2J".to_owned(), r"'\u{1b}'"),
            ("a\rb".to_owned(), r"'\r'"),
            ("\u{9b}2J".to_owned(), r"'\u{9b}'"),
        ] {
            let error = Console::try_from(text).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
        assert!(Console::try_from("x".repeat(MAX_CONSOLE_BYTES)).is_ok());
        assert!(Console::try_from("\n".repeat(MAX_CONSOLE_LINES)).is_ok());
    }

    proptest! {
        #[test]
        fn what_is_cut_is_accepted(lines in prop::collection::vec("(?s).{0,300}", 0..200)) {
            if let Some(console) = Console::newest(lines.iter()) {
                prop_assert_eq!(Console::try_from(console.to_string()), Ok(console));
            }
        }
    }
}
