//! Where the data of a file with holes lies.

use std::fs::File;
use std::io;

use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;

/// A run of data in a sparse file, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Where it begins in the file.
    pub offset: u64,
    /// How long it is.
    pub length: u64,
}

/// The data of `file`, which is `size_bytes` long, in order; all else is holes (lseek(2), SEEK_DATA).
pub fn extents(file: &File, size_bytes: u64) -> io::Result<Vec<Extent>> {
    let mut extents = Vec::new();
    let mut position = 0;
    while position < size_bytes {
        let start = match seek(file, SeekFrom::Data(position)) {
            Ok(start) => start.min(size_bytes),
            Err(Errno::NXIO) => break,
            Err(error) => return Err(error.into()),
        };
        let end = seek(file, SeekFrom::Hole(start))?.min(size_bytes);
        if end > start {
            extents.push(Extent { offset: start, length: end - start });
        }
        position = end;
    }
    Ok(extents)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;

    #[test]
    fn holes_are_left_out() {
        let file = tempfile::tempfile().unwrap();
        let size = 10 << 20;
        file.set_len(size).unwrap();
        file.write_all_at(b"data", 4 << 20).unwrap();
        let extents = extents(&file, size).unwrap();
        assert_eq!(extents.len(), 1);
        assert!(extents[0].offset <= 4 << 20 && extents[0].offset + extents[0].length >= (4 << 20) + 4);
        assert!(extents[0].length < 1 << 20);
    }

    #[test]
    fn a_file_of_one_hole_has_no_data() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(1 << 20).unwrap();
        assert_eq!(extents(&file, 1 << 20).unwrap(), []);
    }
}
