//! Where a version comes from: the digest of its inputs, its time, and who made it.

use std::fs;

use bootspec::{ImageVersion, Sha256Digest};
use sha2::{Digest, Sha256};

use super::BuildError;
use crate::file_error::failed;
use crate::initramfs::Programs;
use crate::recipe::CompressionSpec;

/// Digest of `base`, of how the root is packed, and of everything that goes into the initramfs from this machine.
pub fn inputs_digest(
    base: &Sha256Digest,
    compression: Option<CompressionSpec>,
    programs: &Programs,
) -> Result<Sha256Digest, BuildError> {
    let mut digest = Sha256::new();
    digest.update(tool());
    digest.update(base.as_bytes());
    if let Some(CompressionSpec { format, level, chunk_bytes }) = compression {
        digest.update(format!("{format} {level} {chunk_bytes}"));
    }
    for path in [Some(&programs.init), programs.busybox.as_ref()].into_iter().flatten() {
        let contents = fs::read(path).map_err(failed("read", path))?;
        digest.update(Sha256::digest(contents));
    }
    Ok(Sha256Digest::new(digest.finalize().into()))
}

/// Now, or what SOURCE_DATE_EPOCH says (<https://reproducible-builds.org/specs/source-date-epoch/>).
pub fn build_time() -> Result<i64, BuildError> {
    match std::env::var("SOURCE_DATE_EPOCH") {
        Ok(text) => text.parse().map_err(|_| BuildError::SourceDateEpoch(text)),
        Err(_) => Ok(jiff::Timestamp::now().as_second()),
    }
}

/// A version named after its time in UTC: `20261122T061457Z`.
pub fn time_version(time_unix: i64) -> Result<ImageVersion, BuildError> {
    let time = jiff::Timestamp::from_second(time_unix)
        .map_err(|_| BuildError::SourceDateEpoch(time_unix.to_string()))?;
    Ok(time.strftime("%Y%m%dT%H%M%SZ").to_string().parse()?)
}

/// This program and its version.
pub fn tool() -> String {
    format!("imagebuild {}", env!("CARGO_PKG_VERSION"))
}

/// What this machine calls itself.
pub fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_times_that_sort_as_text() {
        assert_eq!(time_version(1_795_328_097).unwrap().as_str(), "20261122T061457Z");
        assert!(time_version(0).unwrap() < time_version(1).unwrap());
        assert!(time_version(i64::MAX).is_err());
    }
}
