//! PAX extended headers (POSIX.1-2017, pax, "pax Extended Header"): records of the form `LENGTH KEY=VALUE\n`, where LENGTH
//! counts the whole record. Values are bytes and may hold line feeds (capabilities and file names do), so records are cut
//! by their lengths alone.

use std::io::{self, Read};

use super::metadata::parse_number;

/// An entry has at most a few attributes of at most 64 KiB each (xattr(7)).
const MAX_HEADER_BYTES: u64 = 1 << 20;

/// A key and its value.
pub type Record = (String, Vec<u8>);

/// Reads the contents of an extended header.
pub fn read_records(header: impl Read) -> io::Result<Vec<Record>> {
    let mut bytes = Vec::new();
    header.take(MAX_HEADER_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_HEADER_BYTES {
        return Err(malformed("it is longer than 1 MiB"));
    }
    parse_records(&bytes).ok_or_else(|| malformed("its records are not LENGTH KEY=VALUE"))
}

fn parse_records(mut bytes: &[u8]) -> Option<Vec<Record>> {
    let mut records = Vec::new();
    while !bytes.is_empty() {
        let space = bytes.iter().position(|byte| *byte == b' ')?;
        let length = usize::try_from(parse_number(&bytes[..space])?).ok()?;
        let record = bytes.get(space + 1..length)?.strip_suffix(b"\n")?;
        let equals = record.iter().position(|byte| *byte == b'=')?;
        let key = String::from_utf8(record[..equals].to_vec()).ok()?;
        records.push((key, record[equals + 1..].to_vec()));
        bytes = &bytes[length..];
    }
    Some(records)
}

fn malformed(problem: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("malformed PAX header: {problem}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn values_may_hold_line_feeds_and_equals_signs() {
        let records = read_records(&b"12 path=a\nb\n8 k==\n\0\n"[..]).unwrap();
        assert_eq!(records, [("path".into(), b"a\nb".to_vec()), ("k".into(), b"=\n\0".to_vec())]);
    }

    #[test]
    fn lengths_that_lie_are_rejected() {
        for bytes in ["x", "5 a=b", "99 a=b\n", "0 a=b\n", "2 a=b\n", "-6 a=b\n", " a=b\n", "6 a=b\n7"] {
            assert!(read_records(bytes.as_bytes()).is_err(), "{bytes:?}");
        }
    }

    #[test]
    fn endless_headers_are_rejected() {
        assert!(read_records(io::repeat(b'1')).unwrap_err().to_string().contains("1 MiB"));
    }

    proptest! {
        #[test]
        fn any_header_is_read_or_rejected_without_panic(bytes: Vec<u8>) {
            let _ = parse_records(&bytes);
        }
    }
}
