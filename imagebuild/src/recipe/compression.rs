//! How a root is packed: format, level and chunk size, checked against each other.

use bootspec::manifest::Compression;

/// Tar in one chunk unless the recipe says otherwise: as little as makes the archive as small as it can well be, so that
/// there are chunks for every core. Measured: docs/image-format.md.
pub fn default_chunk_bytes(format: Compression) -> u64 {
    match format {
        Compression::Xz => 20 << 20,
        Compression::Zstd => 16 << 20,
    }
}

/// How the root is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CompressionSpec {
    /// Compressor.
    pub format: Compression,
    /// Its level: 0 to 9 for xz, 1 to 22 for zstd.
    pub level: u32,
    /// Whether code for x86 goes through xz's filter for it.
    pub x86_filter: bool,
    /// Length of tar in one chunk, in bytes.
    pub chunk_bytes: u64,
}

/// The compressor has no such level.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{level} is not a level of {format}: expected {} to {}", range.start(), range.end())]
pub struct LevelError {
    format: Compression,
    level: u32,
    range: std::ops::RangeInclusive<u32>,
}

impl CompressionSpec {
    /// `level` or the format's default: xz 6, zstd 3. `chunk_bytes` or [`default_chunk_bytes`]. With xz's filter.
    pub fn new(
        format: Compression,
        level: Option<u32>,
        chunk_bytes: Option<u64>,
    ) -> Result<Self, LevelError> {
        let (default, range) = match format {
            Compression::Xz => (6, 0..=9),
            Compression::Zstd => (3, 1..=22),
        };
        let level = level.unwrap_or(default);
        if !range.contains(&level) {
            return Err(LevelError { format, level, range });
        }
        let chunk_bytes = chunk_bytes.unwrap_or_else(|| default_chunk_bytes(format));
        Ok(Self { format, level, x86_filter: true, chunk_bytes })
    }

    /// The same with another format or level. A new format begins at its default level, and if the chunk size was the old
    /// format's default, with its own.
    pub fn overridden(self, format: Option<Compression>, level: Option<u32>) -> Result<Self, LevelError> {
        let same_format = format.is_none_or(|format| format == self.format);
        let level = level.or(same_format.then_some(self.level));
        let chosen_chunk = (self.chunk_bytes != default_chunk_bytes(self.format)).then_some(self.chunk_bytes);
        let new = Self::new(format.unwrap_or(self.format), level, chosen_chunk)?;
        Ok(Self { x86_filter: self.x86_filter, ..new })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_format_begins_at_its_defaults() {
        let xz_9 = CompressionSpec::new(Compression::Xz, Some(9), Some(1)).unwrap();
        assert_eq!(xz_9.overridden(None, None), Ok(xz_9));
        assert_eq!(xz_9.overridden(Some(Compression::Zstd), None).unwrap().level, 3);
        assert_eq!(xz_9.overridden(Some(Compression::Xz), Some(1)).unwrap().level, 1);
        let xz = CompressionSpec::new(Compression::Xz, None, None).unwrap();
        let zstd = CompressionSpec::new(Compression::Zstd, None, None).unwrap();
        assert_eq!(xz.overridden(Some(Compression::Zstd), None), Ok(zstd));
        assert_eq!(xz_9.overridden(Some(Compression::Zstd), None).unwrap().chunk_bytes, 1);
    }

    #[test]
    fn levels_that_the_format_lacks_are_refused() {
        let error = CompressionSpec::new(Compression::Xz, Some(10), None).unwrap_err();
        assert_eq!(error.to_string(), "10 is not a level of xz: expected 0 to 9");
        assert!(CompressionSpec::new(Compression::Zstd, Some(0), None).is_err());
    }
}
