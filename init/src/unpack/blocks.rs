//! The blocks of a tar stream (POSIX.1-2017, pax, "ustar Interchange Format"): each entry is a header block and its
//! contents, padded to a block. A block of zeros ends the entries, or the stream just ends.

use std::io::{self, BufRead, Read};

use tar::Header;

const BLOCK_BYTES: usize = 512;

/// The contents of an entry, as far as they are not read yet.
pub type Contents<'a> = io::Take<&'a mut dyn BufRead>;

/// Calls `visit` with the header and the contents of each entry of `tar`, and reads what it leaves of them. An error of the
/// stream itself becomes the caller's by `unreadable`.
pub fn each_entry<E>(
    tar: &mut dyn BufRead,
    unreadable: impl Fn(io::Error) -> E,
    mut visit: impl FnMut(&Header, &mut Contents<'_>) -> Result<(), E>,
) -> Result<(), E> {
    while let Some(header) = next_header(tar).map_err(&unreadable)? {
        // Of the header alone: imagebuild writes lengths of any size there.
        let size_bytes = header.entry_size().map_err(&unreadable)?;
        let mut contents = contents(tar, size_bytes);
        visit(&header, &mut contents)?;
        let unread_bytes = contents.limit();
        skip(tar, unread_bytes).and_then(|()| skip(tar, padding_bytes(size_bytes))).map_err(&unreadable)?;
    }
    Ok(())
}

/// The header that `tar` is at, `None` behind the last entry.
fn next_header(tar: &mut dyn BufRead) -> io::Result<Option<Header>> {
    let mut header = Header::new_old();
    if tar.fill_buf()?.is_empty() {
        return Ok(None);
    }
    tar.read_exact(header.as_mut_bytes())?;
    if header.as_bytes().iter().all(|byte| *byte == 0) {
        return Ok(None);
    }
    let (found, expected) = (header.cksum()?, checksum(header.as_bytes()));
    if found != expected {
        let problem = format!("no tar header: its checksum is {expected}, not the {found} that it states");
        return Err(io::Error::new(io::ErrorKind::InvalidData, problem));
    }
    Ok(Some(header))
}

/// The next `size_bytes` of `tar`.
fn contents<'a>(tar: &'a mut dyn BufRead, size_bytes: u64) -> Contents<'a> {
    tar.take(size_bytes)
}

/// What stands between contents of so many bytes and the next header.
fn padding_bytes(contents_bytes: u64) -> u64 {
    contents_bytes.wrapping_neg() % BLOCK_BYTES as u64
}

/// Reads `count` bytes of `tar` for nothing.
fn skip(tar: &mut dyn BufRead, count: u64) -> io::Result<()> {
    let skipped = io::copy(&mut tar.take(count), &mut io::sink())?;
    if skipped == count { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

/// The sum of all bytes, those of the checksum itself taken as spaces.
fn checksum(header: &[u8; BLOCK_BYTES]) -> u32 {
    const FIELD: std::ops::Range<usize> = 148..156;
    let sum = |bytes: &[u8]| bytes.iter().map(|byte| u32::from(*byte)).sum::<u32>();
    sum(header) - sum(&header[FIELD]) + FIELD.len() as u32 * u32::from(b' ')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn header() -> Header {
        let mut header = Header::new_ustar();
        header.set_size(3);
        header.set_cksum();
        header
    }

    #[test]
    fn a_block_of_zeros_or_the_end_of_the_stream_ends_the_entries() {
        assert!(next_header(&mut &[0; 1024][..]).unwrap().is_none());
        assert!(next_header(&mut &[][..]).unwrap().is_none());
        let found = next_header(&mut &header().as_bytes()[..]).unwrap().unwrap();
        assert_eq!(found.entry_size().unwrap(), 3);
    }

    #[test]
    fn a_header_that_is_damaged_or_cut_short_is_refused() {
        let mut damaged = *header().as_bytes();
        damaged[0] ^= 1;
        let error = next_header(&mut &damaged[..]).unwrap_err();
        assert!(error.to_string().contains("checksum"), "{error}");
        let error = next_header(&mut &header().as_bytes()[..511]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn contents_are_visited_whether_they_are_read_or_not() {
        let mut block = [0; 512];
        block[..3].copy_from_slice(b"abc");
        let tar = [&header().as_bytes()[..], &block, header().as_bytes(), &block].concat();
        for read in [false, true] {
            let mut sizes = Vec::new();
            let visit = |header: &Header, contents: &mut Contents<'_>| {
                sizes.push(header.entry_size()?);
                if read { io::copy(contents, &mut io::sink()).map(|_| ()) } else { Ok(()) }
            };
            each_entry(&mut &tar[..], |error| error, visit).unwrap();
            assert_eq!(sizes, [3, 3]);
        }
        let cut = each_entry(&mut &tar[..1600], |error| error, |_, _| Ok(())).unwrap_err();
        assert_eq!(cut.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn what_is_to_be_skipped_must_be_there() {
        let mut tar = &[1, 2, 3][..];
        skip(&mut tar, 2).unwrap();
        assert_eq!(tar, [3]);
        assert_eq!(skip(&mut tar, 2).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    proptest! {
        #[test]
        fn contents_and_padding_are_whole_blocks(contents_bytes: u64) {
            let padding = padding_bytes(contents_bytes);
            prop_assert!(padding < 512);
            prop_assert_eq!((u128::from(contents_bytes) + u128::from(padding)) % 512, 0);
        }

        #[test]
        fn any_block_is_a_header_or_rejected_without_panic(block in proptest::collection::vec(any::<u8>(), 0..600)) {
            let _ = next_header(&mut &block[..]);
        }
    }
}
