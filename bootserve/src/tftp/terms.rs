//! What client and server agree on before the first block: the options of RFC 2347.

use std::str::FromStr;
use std::time::Duration;

use super::wire::{Request, TftpOption};

/// RFC 2348: the smallest and the largest block.
const MIN_BLKSIZE: u16 = 8;
const MAX_BLKSIZE: u16 = 65464;
/// More in a burst would overrun the receive buffer that Linux gives a socket by default.
const MAX_WINDOWSIZE: u16 = 64;

/// How the file is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terms {
    /// Bytes of the file in each block but the last.
    pub blksize: u16,
    /// Blocks that are sent before an acknowledgement is waited for.
    pub windowsize: u16,
    /// How long an acknowledgement is waited for.
    pub timeout: Duration,
}

impl Default for Terms {
    /// Those of RFC 1350, which leaves the time-out to us.
    fn default() -> Self {
        Self { blksize: 512, windowsize: 1, timeout: Duration::from_secs(1) }
    }
}

impl Terms {
    /// The terms for a file of `size_bytes`, and the options that the OACK tells. Those that are unknown or malformed
    /// are left out there, which refuses them.
    pub fn negotiate(request: &Request, size_bytes: usize, max_blksize: u16) -> (Self, Vec<TftpOption>) {
        let mut terms = Self::default();
        let mut accepted = Vec::new();
        let mut accept = |name: &str, value: String| accepted.push(TftpOption { name: name.into(), value });
        if let Some(blksize) = option::<u16>(request, "blksize").filter(|size| *size >= MIN_BLKSIZE) {
            terms.blksize = blksize.min(max_blksize.clamp(MIN_BLKSIZE, MAX_BLKSIZE));
            accept("blksize", terms.blksize.to_string());
        }
        if let Some(seconds) = option::<u8>(request, "timeout").filter(|seconds| *seconds > 0) {
            terms.timeout = Duration::from_secs(seconds.into());
            accept("timeout", seconds.to_string());
        }
        if request.option("tsize").is_some() {
            accept("tsize", size_bytes.to_string());
        }
        if let Some(windowsize) = option::<u16>(request, "windowsize").filter(|blocks| *blocks > 0) {
            terms.windowsize = MAX_WINDOWSIZE.min(windowsize);
            accept("windowsize", terms.windowsize.to_string());
        }
        (terms, accepted)
    }
}

fn option<T: FromStr>(request: &Request, name: &str) -> Option<T> {
    request.option(name)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(options: &[(&str, &str)]) -> Vec<TftpOption> {
        options
            .iter()
            .map(|(name, value)| TftpOption { name: (*name).into(), value: (*value).into() })
            .collect()
    }

    fn negotiate(asked: &[(&str, &str)]) -> (Terms, Vec<TftpOption>) {
        let request = Request { filename: "x".into(), mode: "octet".into(), options: options(asked) };
        Terms::negotiate(&request, 5000, 1468)
    }

    #[test]
    fn what_is_asked_for_is_accepted_within_our_limits() {
        let check = |asked: &[(&str, &str)], expected: &[(&str, &str)]| {
            assert_eq!(negotiate(asked).1, options(expected), "{asked:?}");
        };
        check(&[("tsize", "0"), ("blksize", "1432")], &[("blksize", "1432"), ("tsize", "5000")]);
        check(&[("blksize", "65464")], &[("blksize", "1468")]);
        check(&[("timeout", "3"), ("windowsize", "4")], &[("timeout", "3"), ("windowsize", "4")]);
        check(&[("windowsize", "65535")], &[("windowsize", "64")]);
        let (terms, _) = negotiate(&[("timeout", "3"), ("windowsize", "4"), ("blksize", "8")]);
        assert_eq!(terms, Terms { blksize: 8, windowsize: 4, timeout: Duration::from_secs(3) });
    }

    #[test]
    fn what_is_malformed_or_unknown_changes_nothing() {
        for refused in [
            ("blksize", "7"),
            ("blksize", "x"),
            ("timeout", "0"),
            ("timeout", "256"),
            ("windowsize", "0"),
            ("windowsize", "65536"),
            ("multicast", ""),
        ] {
            assert_eq!(negotiate(&[refused]), (Terms::default(), vec![]), "{refused:?}");
        }
    }
}
