//! One compressed stream, hashed and counted on its way to a file.

use std::io::{self, Write};

use bootspec::Sha256Digest;
use bootspec::manifest::Compression;
use sha2::{Digest, Sha256};
use xz2::stream::{Check, Filters, LzmaOptions, Stream};

/// Compresses what is written to it.
pub struct Encoder<W: Write> {
    inner: Inner<W>,
    input_bytes: u64,
}

enum Inner<W: Write> {
    Xz(xz2::write::XzEncoder<Hasher<W>>),
    Zstd(zstd::Encoder<'static, Hasher<W>>),
}

/// What came out of an [`Encoder`].
#[derive(Debug)]
pub struct Encoded {
    /// Bytes that went in.
    pub input_bytes: u64,
    /// Bytes that came out.
    pub output_bytes: u64,
    /// Digest of what came out.
    pub sha256: Sha256Digest,
}

impl<W: Write> Encoder<W> {
    /// A new stream into `out`. Levels: xz 0 to 9, zstd 1 to 22. `x86` says whether what will be written is code for x86 that
    /// is to go through a filter for it; only xz has one.
    pub fn new(compression: Compression, level: u32, x86: bool, out: W) -> io::Result<Self> {
        let out = Hasher { out, digest: Sha256::new(), bytes: 0 };
        let inner = match compression {
            Compression::Xz => {
                // CRC32, because that is the check every decoder has. Integrity rests on the manifest's SHA-256.
                let stream = Stream::new_stream_encoder(&xz_filters(level, x86)?, Check::Crc32)?;
                Inner::Xz(xz2::write::XzEncoder::new_stream(out, stream))
            }
            Compression::Zstd => Inner::Zstd(zstd::Encoder::new(out, level as i32)?),
        };
        Ok(Self { inner, input_bytes: 0 })
    }

    /// Ends the stream and gives back the output.
    pub fn finish(self) -> io::Result<(W, Encoded)> {
        let hasher = match self.inner {
            Inner::Xz(encoder) => encoder.finish()?,
            Inner::Zstd(encoder) => encoder.finish()?,
        };
        let encoded = Encoded {
            input_bytes: self.input_bytes,
            output_bytes: hasher.bytes,
            sha256: Sha256Digest::new(hasher.digest.finalize().into()),
        };
        Ok((hasher.out, encoded))
    }
}

impl<W: Write> Write for Encoder<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = match &mut self.inner {
            Inner::Xz(encoder) => encoder.write(bytes),
            Inner::Zstd(encoder) => encoder.write(bytes),
        }?;
        self.input_bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.inner {
            Inner::Xz(encoder) => encoder.flush(),
            Inner::Zstd(encoder) => encoder.flush(),
        }
    }
}

/// liblzma has the filter for x86, and so init, xz, tar, libarchive and Python; busybox does not.
fn xz_filters(level: u32, x86: bool) -> io::Result<Filters> {
    let mut filters = Filters::new();
    if x86 {
        filters.x86();
    }
    let mut options = LzmaOptions::new_preset(level)?;
    if level == 6 {
        options.dict_size(XZ_6_DICTIONARY_BYTES);
    }
    filters.lzma2(&options);
    Ok(filters)
}

/// The dictionary of xz' level 6, which is imagebuild's default. liblzma's own has 8 MiB; this is the largest with which an
/// encoder stays below 150 MiB (docs/benchmarks.md).
const XZ_6_DICTIONARY_BYTES: u32 = 12 << 20;

/// Memory that a decoder of a stream of this level takes: its dictionary or window, and some for tables and buffers
/// (xz(1), section "Preset levels"; zstd's lib/compress/clevels.h).
pub fn decoder_bytes(compression: Compression, level: u32) -> u64 {
    const MIB: u64 = 1 << 20;
    let window_bytes = match (compression, level) {
        (Compression::Xz, 0..=2) => 2 * MIB,
        (Compression::Xz, 3..=5) => 8 * MIB,
        (Compression::Xz, 6) => XZ_6_DICTIONARY_BYTES.into(),
        (Compression::Xz, _) => 64 * MIB,
        (Compression::Zstd, 0..=19) => 8 * MIB,
        (Compression::Zstd, _) => 128 * MIB,
    };
    window_bytes + MIB
}

struct Hasher<W> {
    out: W,
    digest: Sha256,
    bytes: u64,
}

impl<W: Write> Write for Hasher<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.digest.update(&bytes[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    fn encode(x86: bool, bytes: &[u8]) -> Vec<u8> {
        let mut encoder = Encoder::new(Compression::Xz, 1, x86, Vec::new()).unwrap();
        encoder.write_all(bytes).unwrap();
        let (xz, encoded) = encoder.finish().unwrap();
        assert_eq!((encoded.input_bytes, encoded.output_bytes), (bytes.len() as u64, xz.len() as u64));
        xz
    }

    /// Calls of one function from everywhere: `e8` and how far away it is.
    fn code() -> Vec<u8> {
        let call = |at: i32| [vec![0xe8], (0x10_0000 - at).to_le_bytes().to_vec(), vec![0x90; 3]].concat();
        (0..0x8000).step_by(8).flat_map(call).collect()
    }

    #[test]
    fn the_x86_filter_shortens_code() {
        let (code, mut decoded) = (code(), Vec::new());
        let (with, without) = (encode(true, &code), encode(false, &code));
        assert!(
            with.len() * 4 < without.len(),
            "{} bytes with the filter, {} without",
            with.len(),
            without.len()
        );
        xz2::read::XzDecoder::new(&*with).read_to_end(&mut decoded).unwrap();
        assert!(decoded == code);
    }
}
