//! How a root is packed: format, level and chunk size, checked against each other.

use bootspec::manifest::Compression;

/// Tar in one chunk unless the recipe says otherwise: enough chunks for every core, and no larger an archive than one
/// stream would give.
pub const DEFAULT_CHUNK_BYTES: u64 = 16 << 20;

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
    /// `level` or the format's default: xz 6, zstd 3. With xz's filter.
    pub fn new(format: Compression, level: Option<u32>, chunk_bytes: u64) -> Result<Self, LevelError> {
        let (default, range) = match format {
            Compression::Xz => (6, 0..=9),
            Compression::Zstd => (3, 1..=22),
        };
        let level = level.unwrap_or(default);
        if !range.contains(&level) {
            return Err(LevelError { format, level, range });
        }
        Ok(Self { format, level, x86_filter: true, chunk_bytes })
    }

    /// The same with another format or level. A new format begins at its default level.
    pub fn overridden(self, format: Option<Compression>, level: Option<u32>) -> Result<Self, LevelError> {
        let same_format = format.is_none_or(|format| format == self.format);
        let level = level.or(same_format.then_some(self.level));
        let new = Self::new(format.unwrap_or(self.format), level, self.chunk_bytes)?;
        Ok(Self { x86_filter: self.x86_filter, ..new })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_format_begins_at_its_default_level() {
        let xz_9 = CompressionSpec::new(Compression::Xz, Some(9), 1).unwrap();
        assert_eq!(xz_9.overridden(None, None), Ok(xz_9));
        assert_eq!(xz_9.overridden(Some(Compression::Zstd), None).unwrap().level, 3);
        assert_eq!(xz_9.overridden(Some(Compression::Xz), Some(1)).unwrap().level, 1);
    }

    #[test]
    fn levels_that_the_format_lacks_are_refused() {
        let error = CompressionSpec::new(Compression::Xz, Some(10), 1).unwrap_err();
        assert_eq!(error.to_string(), "10 is not a level of xz: expected 0 to 9");
        assert!(CompressionSpec::new(Compression::Zstd, Some(0), 1).is_err());
    }
}
