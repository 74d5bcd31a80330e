//! A reader that notices when more comes than was announced.

use std::io::{self, Read};

/// Passes on what it reads, of which there must not be more than a limit.
pub struct Limited<R> {
    inner: R,
    limit_bytes: u64,
    left_bytes: u64,
}

impl<R: Read> Limited<R> {
    /// Reads `inner`, which has to end after `limit_bytes` at the latest.
    pub fn new(inner: R, limit_bytes: u64) -> Self {
        Self { inner, limit_bytes, left_bytes: limit_bytes }
    }
}

impl<R: Read> Read for Limited<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left_bytes == 0 && !buffer.is_empty() {
            return match self.inner.read(&mut [0])? {
                0 => Ok(0),
                _ => Err(too_long(self.limit_bytes)),
            };
        }
        let most = usize::try_from(self.left_bytes).unwrap_or(usize::MAX).min(buffer.len());
        let length = self.inner.read(&mut buffer[..most])?;
        self.left_bytes -= length as u64;
        Ok(length)
    }
}

fn too_long(limit_bytes: u64) -> io::Error {
    let problem = format!("it is longer than the {limit_bytes} bytes that the manifest says");
    io::Error::new(io::ErrorKind::InvalidData, problem)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_endless_source_is_stopped_at_the_limit() {
        let mut found = Vec::new();
        let error = Limited::new(io::repeat(7), 5).read_to_end(&mut found).unwrap_err();
        assert_eq!(found, [7; 5]);
        assert!(error.to_string().contains("longer than the 5 bytes"), "{error}");
    }

    proptest! {
        #[test]
        fn what_is_not_too_long_passes_whole(bytes: Vec<u8>, more in 0u64..4) {
            let mut found = Vec::new();
            Limited::new(&*bytes, bytes.len() as u64 + more).read_to_end(&mut found).unwrap();
            prop_assert_eq!(found, bytes);
        }
    }
}
