//! What stands before an entry and describes it: the records of PAX extended headers ([`bootspec::pax`]), bounded. GNU tar's
//! long names are read as records too.

use std::io::{self, Read};

use bootspec::pax::split_record;

/// An entry has at most a few attributes of at most 64 KiB each (xattr(7)).
const MAX_BYTES: u64 = 1 << 20;
/// The names of an object's attributes take 64 KiB together at most (listxattr(2)). A record takes more memory than it has
/// bytes in the archive.
const MAX_RECORDS: usize = 16 * 1024;

/// A key and its value.
pub type Record = (String, Vec<u8>);

/// The headers before one entry. There may be several, so they are bounded together.
#[derive(Default)]
pub struct Extensions {
    records: Vec<Record>,
    read_bytes: u64,
}

impl Extensions {
    /// Reads the contents of an extended header.
    pub fn read_records(&mut self, header: impl Read) -> io::Result<()> {
        let bytes = self.read(header)?;
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let (record, behind) =
                first_record(rest).ok_or_else(|| malformed("its records are not LENGTH KEY=VALUE"))?;
            self.push(record)?;
            rest = behind;
        }
        Ok(())
    }

    /// Reads a name that does not fit into the header, as GNU tar writes it by default: contents that end with a NUL.
    pub fn read_long_name(&mut self, key: &str, header: impl Read) -> io::Result<()> {
        let mut name = self.read(header)?;
        match name.pop() {
            Some(0) => self.push((key.to_owned(), name)),
            _ => Err(malformed("a long name without an end")),
        }
    }

    /// All records, in order.
    pub fn into_records(self) -> Vec<Record> {
        self.records
    }

    fn read(&mut self, header: impl Read) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        header.take(MAX_BYTES + 1 - self.read_bytes).read_to_end(&mut bytes)?;
        self.read_bytes += bytes.len() as u64;
        if self.read_bytes > MAX_BYTES {
            return Err(malformed("what describes one entry is longer than 1 MiB"));
        }
        Ok(bytes)
    }

    fn push(&mut self, record: Record) -> io::Result<()> {
        if self.records.len() == MAX_RECORDS {
            return Err(malformed("one entry has more than 16384 records"));
        }
        self.records.push(record);
        Ok(())
    }
}

/// The first record, and what is behind it.
fn first_record(bytes: &[u8]) -> Option<(Record, &[u8])> {
    let (record, rest) = split_record(bytes)?;
    let key = String::from_utf8(record.key.to_vec()).ok()?;
    Some(((key, record.value.to_vec()), rest))
}

fn malformed(problem: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("malformed PAX header: {problem}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read_records(header: impl Read) -> io::Result<Vec<Record>> {
        let mut extensions = Extensions::default();
        extensions.read_records(header)?;
        Ok(extensions.into_records())
    }

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

    #[test]
    fn several_headers_of_one_entry_are_bounded_together() {
        let record = [b"1000 k=".as_slice(), &[b'v'; 992], b"\n"].concat();
        let mut extensions = Extensions::default();
        let error = (0..2000).find_map(|_| extensions.read_records(&*record).err()).unwrap();
        assert!(error.to_string().contains("1 MiB"), "{error}");
        assert!(extensions.read_bytes <= MAX_BYTES + 1);

        let mut extensions = Extensions::default();
        let error = (0..20_000).find_map(|_| extensions.read_long_name("path", &b"a\0"[..]).err()).unwrap();
        assert!(error.to_string().contains("16384 records"), "{error}");
        assert!(read_records(&*b"4 =\n".repeat(MAX_RECORDS)).is_ok());
        assert!(read_records(&*b"4 =\n".repeat(MAX_RECORDS + 1)).is_err());
    }

    #[test]
    fn long_names_end_with_a_nul() {
        let mut extensions = Extensions::default();
        extensions.read_long_name("path", &b"a\nb\0"[..]).unwrap();
        assert!(extensions.read_long_name("linkpath", &b"a"[..]).is_err());
        assert!(extensions.read_long_name("linkpath", io::empty()).is_err());
        assert_eq!(extensions.into_records(), [("path".to_owned(), b"a\nb".to_vec())]);
    }

    proptest! {
        #[test]
        fn any_header_is_read_or_rejected_without_panic(bytes: Vec<u8>) {
            let _ = read_records(&*bytes);
        }
    }
}
