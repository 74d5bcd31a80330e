//! Files stored with their holes left out: GNU's sparse format 1.0. The contents begin with a map in decimal lines, the
//! number of runs and then offset and length of each, padded to a block; the data of the runs follows.

use std::io::{self, BufRead, Read, Seek, SeekFrom, Write};

use bootspec::manifest::RootArchive;

use super::metadata::parse_number;

const BLOCK: u64 = 512;
/// 20 digits and a line feed hold any 64-bit number.
const MAX_LINE_BYTES: u64 = 21;

/// Writes the data of the entry `from` to its places in `file`, which then is `size_bytes` long. `copy` copies all that
/// it is given.
pub fn extract<R: BufRead, W: Write + Seek>(
    from: &mut R,
    file: &mut W,
    size_bytes: u64,
    mut copy: impl FnMut(&mut io::Take<&mut R>, &mut W) -> io::Result<u64>,
) -> io::Result<()> {
    let mut map = Map { from, read_bytes: 0 };
    let runs = map.number()?;
    if runs > RootArchive::MAX_SPARSE_RUNS {
        return Err(malformed("its map has more runs than may be held in memory"));
    }
    let mut extents = Vec::new();
    for _ in 0..runs {
        let (offset, length) = (map.number()?, map.number()?);
        if offset.checked_add(length).is_none_or(|end| end > size_bytes) {
            return Err(malformed("a run of data ends past the end of the file"));
        }
        extents.push((offset, length));
    }
    map.skip_padding()?;
    for (offset, length) in extents {
        file.seek(SeekFrom::Start(offset))?;
        if copy(&mut from.take(length), file)? != length {
            return Err(malformed("the data ends early"));
        }
    }
    Ok(())
}

struct Map<'a, R> {
    from: &'a mut R,
    read_bytes: u64,
}

impl<R: BufRead> Map<'_, R> {
    fn number(&mut self) -> io::Result<u64> {
        let mut line = Vec::new();
        (&mut *self.from).take(MAX_LINE_BYTES).read_until(b'\n', &mut line)?;
        self.read_bytes += line.len() as u64;
        line.strip_suffix(b"\n")
            .filter(|digits| !digits.is_empty())
            .and_then(parse_number)
            .ok_or_else(|| malformed("its map is not made of decimal lines"))
    }

    fn skip_padding(&mut self) -> io::Result<()> {
        let padding = self.read_bytes.next_multiple_of(BLOCK) - self.read_bytes;
        io::copy(&mut (&mut *self.from).take(padding), &mut io::sink())?;
        Ok(())
    }
}

fn malformed(problem: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("malformed sparse file: {problem}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Cursor;

    fn run(contents: &[u8], size_bytes: u64) -> io::Result<Vec<u8>> {
        let mut file = Cursor::new(Vec::new());
        extract(&mut &contents[..], &mut file, size_bytes, |from, to| io::copy(from, to))?;
        Ok(file.into_inner())
    }

    #[test]
    fn runs_land_at_their_offsets() {
        let mut contents = b"2\n3\n2\n8\n0\n".to_vec();
        contents.resize(512, 0);
        contents.extend(b"ab");
        assert_eq!(run(&contents, 8).unwrap(), b"\0\0\0ab");
    }

    #[test]
    fn maps_that_lie_are_rejected() {
        for contents in ["", "1\n", "x\n", "1\n7\n2\n", "1\n18446744073709551615\n1\n", "1\n0\n4\n"] {
            let mut contents = contents.as_bytes().to_vec();
            contents.resize(512, 0);
            assert!(run(&contents, 8).is_err(), "{contents:?}");
        }
    }

    #[test]
    fn a_map_that_does_not_fit_into_memory_is_refused_unread() {
        let head = format!("{}\n", RootArchive::MAX_SPARSE_RUNS + 1).into_bytes();
        let mut contents = head.chain(io::BufReader::new(io::repeat(b'0')));
        let error = extract(&mut contents, &mut Cursor::new(Vec::new()), 8, |from, to| io::copy(from, to));
        assert!(error.unwrap_err().to_string().contains("more runs"));
    }

    proptest! {
        #[test]
        fn any_map_is_read_or_rejected_without_panic(contents: Vec<u8>, size_bytes in 0u64..4096) {
            let _ = run(&contents, size_bytes);
        }
    }
}
