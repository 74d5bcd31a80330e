//! Reads a root archive as the tar that it is: its chunks are streams end to end.

use std::io::{self, BufRead, Read};

use bootspec::manifest::Compression;

/// The tar in `archive`.
pub fn decode<'a>(archive: impl BufRead + 'a, compression: Compression) -> io::Result<Box<dyn Read + 'a>> {
    Ok(match compression {
        Compression::Xz => Box::new(xz2::bufread::XzDecoder::new_multi_decoder(archive)),
        Compression::Zstd => Box::new(zstd::Decoder::with_buffer(archive)?),
    })
}
