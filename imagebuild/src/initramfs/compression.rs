//! Compression of the segments that the kernel unpacks.

use std::io;

use flate2::write::GzEncoder;

use crate::kernel::Config;

/// Level 19 makes the modules a ninth smaller and takes ten times as long. The kernel's limit is a window of 128 MiB;
/// this level's is 4 MiB.
const ZSTD_LEVEL: i32 = 12;
/// The kernel recognises an uncompressed archive only at a multiple of this (init/initramfs.c).
const ALIGNMENT: usize = 4;
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// How the segments are compressed that the kernel unpacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SegmentCompression {
    /// Every kernel reads it.
    Gzip,
    /// Smaller and unpacked several times faster, by kernels that have CONFIG_RD_ZSTD.
    Zstd,
}

impl SegmentCompression {
    /// What a kernel of this configuration unpacks fastest.
    pub fn for_kernel(config: Option<&Config>) -> Self {
        match config {
            Some(config) if config.is_built_in("CONFIG_RD_ZSTD") => Self::Zstd,
            _ => Self::Gzip,
        }
    }

    /// What the initramfs that begins with these bytes is compressed with.
    pub fn of(initramfs: &[u8]) -> Option<Self> {
        if initramfs.starts_with(&GZIP_MAGIC) {
            Some(Self::Gzip)
        } else if initramfs.starts_with(&ZSTD_MAGIC) {
            Some(Self::Zstd)
        } else {
            None
        }
    }

    /// Compresses `archive`, padded so that whatever follows begins aligned. The kernel checks the stream's checksum.
    pub fn compress(self, archive: &[u8]) -> io::Result<Vec<u8>> {
        let segment = match self {
            Self::Gzip => {
                let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::best());
                io::Write::write_all(&mut encoder, archive)?;
                encoder.finish()?
            }
            Self::Zstd => {
                let mut encoder = zstd::Encoder::new(Vec::new(), ZSTD_LEVEL)?;
                encoder.include_checksum(true)?;
                io::Write::write_all(&mut encoder, archive)?;
                encoder.finish()?
            }
        };
        Ok(padded(segment))
    }
}

/// `segment` with zeros up to where the kernel looks for another.
pub fn padded(mut segment: Vec<u8>) -> Vec<u8> {
    segment.resize(segment.len().next_multiple_of(ALIGNMENT), 0);
    segment
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn a_segment_is_recognised_aligned_and_decompresses() {
        for compression in [SegmentCompression::Gzip, SegmentCompression::Zstd] {
            let segment = compression.compress(b"archive").unwrap();
            assert_eq!(SegmentCompression::of(&segment), Some(compression));
            assert_eq!(segment.len() % ALIGNMENT, 0);
            let mut archive = Vec::new();
            match compression {
                SegmentCompression::Gzip => {
                    flate2::bufread::GzDecoder::new(&segment[..]).read_to_end(&mut archive).unwrap();
                }
                SegmentCompression::Zstd => {
                    let decoder = zstd::Decoder::with_buffer(&segment[..]).unwrap();
                    decoder.single_frame().read_to_end(&mut archive).unwrap();
                }
            }
            assert_eq!(archive, b"archive");
        }
        assert_eq!(SegmentCompression::of(b"070701"), None);
    }
}
