//! Where a version comes from: the digest of its inputs, its time, and who made it.

use std::fs;

use bootspec::{ImageVersion, Sha256Digest};
use sha2::{Digest, Sha256};

use super::BuildError;
use crate::file_error::failed;
use crate::initramfs::Programs;
use crate::recipe::CompressionSpec;
use crate::signing::Signing;

/// Digest of what decides the root (`bases`: recipe, lock, what it starts from), of how the root is packed, and of everything
/// that goes into the initramfs from this machine.
pub fn inputs_digest(
    bases: &[Option<Sha256Digest>],
    compression: Option<CompressionSpec>,
    programs: &Programs,
    signing: &Signing,
) -> Result<Sha256Digest, BuildError> {
    let mut digest = Sha256::new();
    digest.update(tool());
    bases.iter().flatten().for_each(|base| digest.update(base.as_bytes()));
    if let Some(CompressionSpec { format, level, x86_filter, chunk_bytes }) = compression {
        digest.update(format!("{format} {level} {x86_filter} {chunk_bytes}"));
    }
    for path in [Some(&programs.init), programs.busybox.as_ref()].into_iter().flatten() {
        let contents = fs::read(path).map_err(failed("read", path))?;
        digest.update(Sha256::digest(contents));
    }
    for (path, contents) in signing.trust.members() {
        digest.update(format!("trust {path} {contents}"));
    }
    if let Some(signer) = &signing.signer {
        digest.update(format!("signer {}", signer.id()));
    }
    Ok(Sha256Digest::new(digest.finalize().into()))
}

/// What SOURCE_DATE_EPOCH says (<https://reproducible-builds.org/specs/source-date-epoch/>), if it is set.
pub fn source_date() -> Result<Option<i64>, BuildError> {
    let Ok(text) = std::env::var("SOURCE_DATE_EPOCH") else { return Ok(None) };
    text.parse().map(Some).map_err(|_| BuildError::SourceDateEpoch(text))
}

/// Now, or what SOURCE_DATE_EPOCH says.
pub fn build_time() -> Result<i64, BuildError> {
    Ok(source_date()?.unwrap_or_else(|| jiff::Timestamp::now().as_second()))
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

/// What this machine calls itself. Empty with SOURCE_DATE_EPOCH: who sets that wants the same image from every machine.
pub fn host_name() -> Result<String, BuildError> {
    Ok(match source_date()? {
        Some(_) => String::new(),
        None => rustix::system::uname().nodename().to_string_lossy().into_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signing::{Signer, Trust, keygen};
    use std::collections::BTreeSet;
    use std::path::Path;

    #[test]
    fn the_inputs_are_others_with_another_program_key_or_rollback_index() {
        let dir = tempfile::tempdir().unwrap();
        let init = dir.path().join("init");
        let keys = ["a", "b"].map(|name| keygen(&dir.path().join(name), None).unwrap());
        let digest = |contents: &str, signed_by: Option<usize>, trusted: &[usize], least| {
            fs::write(&init, contents).unwrap();
            let programs = Programs { init: init.clone(), busybox: None };
            let read = |path: &Path| Signer::read(path, |_| panic!("it has no password")).unwrap();
            let public: Vec<_> = trusted.iter().map(|n| keys[*n].public.clone()).collect();
            let signing = Signing {
                signer: signed_by.map(|n| read(&keys[n].secret)),
                trust: Trust::read(&public, least).unwrap(),
            };
            inputs_digest(&[Some(Sha256Digest::new([0; 32]))], None, &programs, &signing).unwrap()
        };
        let all: BTreeSet<_> = [
            digest("init", None, &[], None),
            digest("INIT", None, &[], None),
            digest("init", Some(0), &[], None),
            digest("init", Some(1), &[], None),
            digest("init", Some(1), &[0], None),
            digest("init", Some(1), &[0, 1], None),
            digest("init", None, &[], Some(1)),
            digest("init", None, &[], Some(2)),
        ]
        .into();
        assert_eq!(all.len(), 8);
        assert_eq!(digest("init", Some(1), &[1, 0], None), digest("init", Some(1), &[0, 1], None));
    }

    #[test]
    fn versions_are_times_that_sort_as_text() {
        assert_eq!(time_version(1_795_328_097).unwrap().as_str(), "20261122T061457Z");
        assert!(time_version(0).unwrap() < time_version(1).unwrap());
        assert!(time_version(i64::MAX).is_err());
    }
}
