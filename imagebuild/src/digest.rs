//! SHA-256 of files, read in pieces.

use std::io::{self, Read};

use bootspec::Sha256Digest;
use sha2::{Digest, Sha256};

/// How much of a file is read at a time.
pub const READ_BYTES: usize = 256 * 1024;

/// Reads to the end; returns how much there was and its digest.
pub fn digest(mut from: impl Read) -> io::Result<(u64, Sha256Digest)> {
    let mut digest = Sha256::new();
    let mut buffer = vec![0; READ_BYTES];
    let mut size_bytes = 0;
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok((size_bytes, Sha256Digest::new(digest.finalize().into()))),
            Ok(length) => {
                digest.update(&buffer[..length]);
                size_bytes += length as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
