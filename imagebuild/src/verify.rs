//! Reads a published version again and compares it with what its manifest says, as nodes will.

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

use bootspec::ImageRef;
use bootspec::manifest::{Manifest, Piece, Root};
use bootspec::signature::{self, TrustedKey};
use bootspec::store::MANIFEST;

use crate::digest::digest;
use crate::file_error::{FileError, failed};
use crate::store::{Store, StoreError, describe};

/// Something is not as the manifest says.
#[derive(Clone, Debug)]
pub struct Damage {
    /// The artifact.
    pub what: String,
    /// What is wrong.
    pub problem: String,
}

/// Checks every artifact of a version, every piece of its root, and, if there are `keys`, its signature. `done` is told how
/// many bytes have been checked: each artifact once, and the root once more.
pub fn verify(
    store: &Store,
    image: &ImageRef,
    keys: &[TrustedKey],
    mut done: impl FnMut(u64),
) -> Result<Vec<Damage>, StoreError> {
    let _held = store.hold(image)?;
    let manifest = store.manifest(image)?;
    let dir = store.dir(image);
    let mut damage: Vec<Damage> = check_signature(store, image, keys)?.into_iter().collect();
    for (name, expected) in &manifest.artifacts {
        let path = dir.join(name.as_str());
        let problem = if !path.exists() {
            Some("is missing".to_owned())
        } else {
            let found = describe(&path)?;
            done(found.size_bytes);
            if found.size_bytes != expected.size_bytes {
                Some(format!("has {} bytes, expected {}", found.size_bytes, expected.size_bytes))
            } else {
                (found.sha256 != expected.sha256)
                    .then(|| format!("has SHA-256 {}, expected {}", found.sha256, expected.sha256))
            }
        };
        damage.extend(problem.map(|problem| Damage { what: name.to_string(), problem }));
    }
    damage.extend(check_pieces(&manifest, &dir, &mut done)?);
    Ok(damage)
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

/// The pieces, which lie end to end, are what nodes check: the first that is not as the manifest says. A file that is too short for its pieces is
/// too short for its artifact, which has been said.
fn check_pieces(
    manifest: &Manifest,
    dir: &Path,
    done: &mut impl FnMut(u64),
) -> Result<Option<Damage>, FileError> {
    let Some(root) = &manifest.root else { return Ok(None) };
    let (kind, pieces): (_, Vec<Piece>) = match root {
        Root::Archive(archive) => ("chunk", archive.pieces().collect()),
        Root::FileSystem(image) => ("block", image.pieces().collect()),
    };
    let path = dir.join(root.file().as_str());
    let Ok(mut file) = File::open(&path) else { return Ok(None) };
    if file.metadata().map_err(failed("look at", &path))?.len() < root.file_bytes() {
        return Ok(None);
    }
    for (index, piece) in pieces.iter().enumerate() {
        let (size_bytes, found) =
            digest((&mut file).take(piece.size_bytes)).map_err(failed("read", &path))?;
        done(size_bytes);
        if found != piece.sha256 {
            let problem = format!("is damaged in {kind} {index} of {}", pieces.len());
            return Ok(Some(Damage { what: root.file().to_string(), problem }));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signing::{Signer, Trust, keygen};
    use bootspec::manifest::{BootMode, Build, FORMAT, FileSystemFormat, RootFileSystem};
    use bootspec::store::ArtifactName;
    use std::collections::BTreeMap;
    use std::path::PathBuf;

    const IMAGE: &[u8] = b"block 0 block 1 end";

    struct Published {
        dir: tempfile::TempDir,
        store: Store,
        image: ImageRef,
    }

    impl Published {
        /// A version with a root of three blocks, signed by a key in the same directory.
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let store = Store::new(dir.path().join("store"));
            let draft = store.begin(&"compute".parse().unwrap(), &"1".parse().unwrap()).unwrap();
            let file: ArtifactName = "rootfs.squashfs".parse().unwrap();
            fs::write(draft.dir().join("rootfs.squashfs"), IMAGE).unwrap();
            let block_bytes = 8;
            let manifest = Manifest {
                format: FORMAT,
                image: draft.image.clone(),
                architecture: "x86_64".into(),
                kernel_release: "6.1".into(),
                mode: BootMode::Fetched,
                kernel_args: vec![],
                artifacts: BTreeMap::from([(file.clone(), draft.describe(&file).unwrap())]),
                root: Some(Root::FileSystem(RootFileSystem {
                    file,
                    format: FileSystemFormat::Squashfs,
                    size_bytes: IMAGE.len() as u64,
                    block_bytes,
                    blocks: IMAGE.chunks(8).map(|block| digest(block).unwrap().1).collect(),
                })),
                rollback_index: 0,
                packages: vec![],
                build: Build {
                    inputs: digest(&b""[..]).unwrap().1,
                    tool: "test".into(),
                    host: "test".into(),
                    time_unix: 0,
                },
            };
            let keys = keygen(dir.path(), None).unwrap();
            let signer = Signer::read(&keys.secret, |_| panic!("it has no password")).unwrap();
            let json = manifest.to_json();
            let signature = signer.sign(json.as_bytes(), "").unwrap();
            let image = draft.publish(&json, Some(&signature), &manifest).unwrap();
            Self { dir, store, image }
        }

        fn path(&self, name: &str) -> PathBuf {
            self.store.dir(&self.image).join(name)
        }

        /// What is wrong, in words, for someone who trusts `keys`.
        fn damage(&self, keys: &[TrustedKey]) -> Vec<String> {
            let damage = verify(&self.store, &self.image, keys, |_| ()).unwrap();
            damage.iter().map(|Damage { what, problem }| format!("{what} {problem}")).collect()
        }

        fn key(&self) -> Vec<TrustedKey> {
            Trust::read(&[self.dir.path().join("bootnode.pub")], None).unwrap().trusted_keys()
        }
    }

    #[test]
    fn a_version_as_it_was_published_is_not_damaged() {
        let published = Published::new();
        let mut checked = 0;
        let damage =
            verify(&published.store, &published.image, &published.key(), |bytes| checked += bytes).unwrap();
        assert!(damage.is_empty(), "{damage:?}");
        assert_eq!(checked, 2 * IMAGE.len() as u64, "once as a file, once in blocks");
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
        assert!(published.damage(&published.key())[0].contains("or of another document"));

        fs::remove_file(published.path("manifest.json.minisig")).unwrap();
        assert!(published.damage(&published.key())[0].contains("is not signed"));
    }
}
