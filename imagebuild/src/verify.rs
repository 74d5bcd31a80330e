//! Reads a published version again and compares it with what its manifest says, as nodes will.

use std::fs::{self, File};
use std::io::{self, BufReader};
use std::path::Path;

use bootspec::ImageRef;
use bootspec::manifest::Manifest;
use bootspec::signature::{self, TrustedKey};
use bootspec::store::{ArtifactName, MANIFEST};

use crate::contents::{Check, Checked};
use crate::digest::READ_BYTES;
use crate::file_error::{FileError, failed};
use crate::store::{Store, StoreError};

/// Something is not as the manifest says.
#[derive(Clone, Debug)]
pub struct Damage {
    /// The artifact.
    pub what: String,
    /// What is wrong.
    pub problem: String,
}

/// Checks every artifact of a version, every piece of its root, and, if there are `keys`, its signature. `done` is told how
/// many bytes have been checked.
pub fn verify(
    store: &Store,
    image: &ImageRef,
    keys: &[TrustedKey],
    mut done: impl FnMut(u64),
) -> Result<Vec<Damage>, StoreError> {
    let _held = store.hold(image)?;
    let manifest = store.manifest(image)?;
    let mut damage: Vec<Damage> = check_signature(store, image, keys)?.into_iter().collect();
    for name in manifest.artifacts.keys() {
        let path = store.dir(image).join(name.as_str());
        let problems = check_file(&manifest, name, &path, &mut done)?;
        damage.extend(problems.into_iter().map(|problem| Damage { what: name.to_string(), problem }));
    }
    Ok(damage)
}

/// What is wrong with the artifact `name`, which is at `path`.
fn check_file(
    manifest: &Manifest,
    name: &ArtifactName,
    path: &Path,
    done: &mut impl FnMut(u64),
) -> Result<Vec<String>, FileError> {
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(vec!["is missing".to_owned()]),
        result => result.map_err(failed("open", path))?,
    };
    let check = Check::new(manifest, name).expect("the manifest lists it");
    let mut file = BufReader::with_capacity(READ_BYTES, Checked::new(file, check, done));
    io::copy(&mut file, &mut io::sink()).map_err(failed("read", path))?;
    Ok(file.into_inner().problems())
}

fn check_signature(
    store: &Store,
    image: &ImageRef,
    keys: &[TrustedKey],
) -> Result<Option<Damage>, StoreError> {
    let path = store.dir(image).join(MANIFEST);
    let json = fs::read(&path).map_err(failed("read", &path))?;
    let signature = store.signature(image)?;
    let verified = signature::verify(&json, signature.as_deref(), keys);
    let problem = |error: signature::SignatureError| {
        let problem = format!("is not trusted: {error}");
        Damage { what: MANIFEST.to_owned(), problem }
    };
    Ok(verified.err().map(problem))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signing::{Trust, keygen};
    use crate::testing;
    use std::path::PathBuf;

    struct Published {
        _dir: tempfile::TempDir,
        store: Store,
        image: ImageRef,
        key: Vec<TrustedKey>,
    }

    impl Published {
        /// The sample, signed.
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let store = Store::new(dir.path().join("store"));
            let (signer, key) = testing::keys(dir.path());
            let image = testing::publish(&store, Some(&signer));
            Self { _dir: dir, store, image, key }
        }

        fn path(&self, name: &str) -> PathBuf {
            self.store.dir(&self.image).join(name)
        }

        /// What is wrong, in words, for someone who trusts `keys`.
        fn damage(&self, keys: &[TrustedKey]) -> Vec<String> {
            let damage = verify(&self.store, &self.image, keys, |_| ()).unwrap();
            damage.iter().map(|Damage { what, problem }| format!("{what} {problem}")).collect()
        }
    }

    #[test]
    fn a_version_as_it_was_published_is_not_damaged() {
        let published = Published::new();
        let mut checked = 0;
        let damage =
            verify(&published.store, &published.image, &published.key, |bytes| checked += bytes).unwrap();
        assert!(damage.is_empty(), "{damage:?}");
        let artifacts: u64 = testing::manifest().artifacts.values().map(|artifact| artifact.size_bytes).sum();
        assert_eq!(checked, artifacts);
    }

    #[test]
    fn damage_is_named_with_its_place() {
        let published = Published::new();
        fs::write(published.path("rootfs.squashfs"), b"block 0 blOck 1 end").unwrap();
        let damage = published.damage(&[]);
        assert!(damage[0].contains("rootfs.squashfs has SHA-256"), "{damage:?}");
        assert_eq!(damage[1], "rootfs.squashfs is damaged in block 1 of 3");
        fs::write(published.path("rootfs.squashfs"), b"block 0").unwrap();
        assert_eq!(published.damage(&[]), ["rootfs.squashfs has 7 bytes, expected 19"]);
        fs::remove_file(published.path("rootfs.squashfs")).unwrap();
        assert_eq!(published.damage(&[]), ["rootfs.squashfs is missing"]);
    }

    #[test]
    fn a_manifest_must_be_signed_by_a_key_that_is_asked_for() {
        let published = Published::new();
        let other = tempfile::tempdir().unwrap();
        let other =
            keygen(other.path(), None).map(|keys| Trust::read(&[keys.public], None)).unwrap().unwrap();
        assert!(
            published.damage(&other.trusted_keys())[0].contains("by none of the trusted keys (there are 1)")
        );

        let manifest = published.path("manifest.json");
        let json = fs::read_to_string(&manifest).unwrap();
        fs::write(&manifest, json.replace("\"test\"", "\"evil\"")).unwrap();
        assert!(published.damage(&[]).is_empty(), "nobody asked for a signature");
        assert!(published.damage(&published.key)[0].contains("or of another document"));

        fs::remove_file(published.path("manifest.json.minisig")).unwrap();
        assert!(published.damage(&published.key)[0].contains("is not signed"));
    }
}
