//! The records of PAX extended headers in root archives (POSIX.1-2017, pax, "pax Extended Header"): `LENGTH KEY=VALUE\n`,
//! where LENGTH counts the whole record in decimal. Values are bytes and may hold line feeds (capabilities and file names
//! do), so records are cut by their lengths alone.

/// One record, as it stands in the header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// What it is about: `path`, `SCHILY.xattr.security.capability`.
    pub key: &'a [u8],
    /// The value.
    pub value: &'a [u8],
}

/// The first record of `bytes` and what is behind it; none if there is no whole record.
pub fn split_record(bytes: &[u8]) -> Option<(Record<'_>, &[u8])> {
    let space = bytes.iter().position(|byte| *byte == b' ')?;
    let digits = &bytes[..space];
    let digits = digits.iter().all(u8::is_ascii_digit).then(|| std::str::from_utf8(digits).ok())??;
    let length: usize = digits.parse().ok()?;
    let record = bytes.get(space + 1..length)?.strip_suffix(b"\n")?;
    let equals = record.iter().position(|byte| *byte == b'=')?;
    Some((Record { key: &record[..equals], value: &record[equals + 1..] }, &bytes[length..]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn values_may_hold_line_feeds_and_equals_signs() {
        let (record, rest) = split_record(b"12 path=a\nb\n8 k==\n\0\n").unwrap();
        assert_eq!((record, rest), (Record { key: b"path", value: b"a\nb" }, &b"8 k==\n\0\n"[..]));
        let (record, rest) = split_record(rest).unwrap();
        assert_eq!((record, rest), (Record { key: b"k", value: b"=\n\0" }, &b""[..]));
    }

    #[test]
    fn lengths_that_lie_are_rejected() {
        for bytes in ["", "x", "5 a=b", "99 a=b\n", "0 a=b\n", "2 a=b\n", "-6 a=b\n", "+6 a=b\n", " a=b\n"] {
            assert_eq!(split_record(bytes.as_bytes()), None, "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_split_or_refused_without_panic(bytes: Vec<u8>) {
            let _ = split_record(&bytes);
        }
    }
}
