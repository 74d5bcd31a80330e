//! The end of every build: the initramfs are composed, the artifacts described, the version published.

use std::collections::btree_map::Entry;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;

use bootspec::manifest::{BootMode, Manifest};
use bootspec::store::{ArtifactName, INITRAMFS, INITRAMFS_FETCHED, MANIFEST, VMLINUZ};

use super::{BuildError, Outcome};
use crate::file_error::failed;
use crate::initramfs::{
    InitramfsError, MICROCODE, MODULES, MODULES_FETCHED, Programs, SegmentCompression, init_segment,
    write_root_segment,
};
use crate::progress::{Progress, human};
use crate::signing::{Signer, Signing};
use crate::store::Draft;

/// Composes the initramfs of `draft`, which has everything else, describes its artifacts and publishes it.
pub fn finish(
    draft: Draft,
    mut manifest: Manifest,
    compression: SegmentCompression,
    programs: &Programs,
    signing: &Signing,
    progress: &Progress,
) -> Result<Outcome, BuildError> {
    let step = progress.step("make the initramfs");
    if programs.busybox.is_none() {
        step.note("without a static busybox, the image has no rescue shell");
    }
    let init = init_segment(programs, &signing.trust, compression).map_err(BuildError::Initramfs)?;
    let names = write_initramfs(draft.dir(), &manifest, &init, signing)?;
    for name in artifact_names(draft.dir(), &manifest)? {
        // What another version has already described keeps its digest: damage since then must not become the truth.
        if let Entry::Vacant(unknown) = manifest.artifacts.entry(name) {
            let artifact = draft.describe(unknown.key())?;
            unknown.insert(artifact);
        }
    }
    let size = |name: &ArtifactName| format!("{name} {}", human(manifest.artifacts[name].size_bytes));
    step.done(&names.iter().map(size).collect::<Vec<_>>().join(", "));

    let step = progress.step(format!("publish {}", draft.image));
    let json = manifest.to_json();
    let signature = sign_manifest(&json, &manifest, signing)?;
    if signature.is_none() && !signing.trust.ids().is_empty() {
        step.note("not signed: no node boots it before `imagebuild sign` has signed its manifest.json");
    }
    let image = draft.publish(&json, signature.as_deref(), &manifest)?;
    step.done(&match &signing.signer {
        Some(signer) => format!("published, signed with key {}", signer.id()),
        None => "published".to_owned(),
    });
    Ok(Outcome { image, reused: false })
}

/// Writes the initramfs that carries the root, if the image's mode asks for it, and the one that fetches it, if there is
/// a root to fetch. Returns their names.
fn write_initramfs(
    dir: &Path,
    manifest: &Manifest,
    init: &[u8],
    signing: &Signing,
) -> Result<Vec<ArtifactName>, BuildError> {
    let mut names = Vec::new();
    let microcode = read_if_there(&dir.join(MICROCODE))?;
    if manifest.mode != BootMode::Fetched {
        let path = dir.join(INITRAMFS);
        let mut out = BufWriter::new(File::create_new(&path).map_err(failed("create", &path))?);
        let modules = read_if_there(&dir.join(MODULES))?;
        out.write_all(&[&microcode, init, &modules].concat()).map_err(failed("write", &path))?;
        let json = manifest.carried().to_json();
        let signature = sign_manifest(&json, manifest, signing)?;
        let root = manifest.root.as_ref().map(|root| (root, dir.join(root.file().as_str())));
        let root = root.as_ref().map(|(root, path)| (*root, path.as_path()));
        write_root_segment(&json, signature.as_deref(), root, &mut out).map_err(|error| match error {
            InitramfsError::Write(source) => failed("write", &path)(source).into(),
            error => BuildError::Initramfs(error),
        })?;
        out.flush().map_err(failed("write", &path))?;
        names.push(INITRAMFS.parse()?);
    }
    if manifest.root.is_some() {
        let path = dir.join(INITRAMFS_FETCHED);
        let modules = read_if_there(&dir.join(MODULES_FETCHED))?;
        fs::write(&path, [&microcode, init, &modules].concat()).map_err(failed("write", &path))?;
        names.push(INITRAMFS_FETCHED.parse()?);
    }
    Ok(names)
}

fn sign_manifest(json: &str, manifest: &Manifest, signing: &Signing) -> Result<Option<String>, BuildError> {
    let comment =
        format!("timestamp:{}\tfile:{MANIFEST}\timage:{}", manifest.build.time_unix, manifest.image);
    let sign = |signer: &Signer| signer.sign(json.as_bytes(), &comment);
    Ok(signing.signer.as_ref().map(sign).transpose()?)
}

/// The files of a version that nodes or `repack` need.
fn artifact_names(dir: &Path, manifest: &Manifest) -> Result<Vec<ArtifactName>, BuildError> {
    let mut names: Vec<ArtifactName> = vec![VMLINUZ.parse()?];
    names.extend(manifest.root.as_ref().map(|root| root.file().clone()));
    for name in [MICROCODE, MODULES, MODULES_FETCHED, INITRAMFS, INITRAMFS_FETCHED] {
        if dir.join(name).exists() {
            names.push(name.parse()?);
        }
    }
    Ok(names)
}

/// A segment that not every image has.
fn read_if_there(path: &Path) -> Result<Vec<u8>, BuildError> {
    match fs::read(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        result => Ok(result.map_err(failed("read", path))?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    use bootspec::Sha256Digest;
    use bootspec::manifest::{Build, FORMAT, FileSystemFormat, Root, RootFileSystem, RootOrigin};
    use bootspec::signature;
    use cpio::newc;

    use crate::signing::{Trust, keygen};

    /// A manifest of an image with a file system root of `size_bytes` in one block.
    fn manifest(mode: BootMode, size_bytes: u64) -> Manifest {
        let root = RootFileSystem {
            file: "rootfs.erofs".parse().unwrap(),
            format: FileSystemFormat::Erofs,
            size_bytes,
            block_bytes: size_bytes,
            blocks: vec![Sha256Digest::new([0; 32])],
        };
        Manifest {
            format: FORMAT,
            image: "compute/1".parse().unwrap(),
            architecture: "x86_64".into(),
            kernel_release: "6.1".into(),
            mode,
            kernel_args: vec![],
            artifacts: BTreeMap::new(),
            root: Some(Root::FileSystem(root)),
            rollback_index: 0,
            packages: vec![],
            build: Build {
                inputs: Sha256Digest::new([0; 32]),
                tool: "test".into(),
                host: "test".into(),
                time_unix: 0,
                root: RootOrigin::default(),
            },
        }
    }

    /// A draft's directory with a root and the modules of both initramfs.
    fn draft() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, contents) in
            [("rootfs.erofs", "root"), (MODULES, "for root"), (MODULES_FETCHED, "to fetch")]
        {
            fs::write(dir.path().join(name), contents).unwrap();
        }
        dir
    }

    /// The regular files of a newc archive.
    fn members(mut archive: &[u8]) -> BTreeMap<String, Vec<u8>> {
        let mut members = BTreeMap::new();
        loop {
            let mut reader = newc::Reader::new(archive).unwrap();
            let name = reader.entry().name().to_owned();
            if reader.entry().is_trailer() {
                return members;
            }
            let mut contents = Vec::new();
            std::io::Read::read_to_end(&mut reader, &mut contents).unwrap();
            members.insert(name, contents);
            archive = reader.finish().unwrap();
        }
    }

    #[test]
    fn the_carried_root_has_a_manifest_that_init_trusts() {
        let (dir, keys) = (draft(), tempfile::tempdir().unwrap());
        let keys = keygen(keys.path(), None).map(|files| (keys, files)).unwrap();
        let signer = Signer::read(&keys.1.secret, |_| panic!("it has no password")).unwrap();
        let trust = Trust::read(std::slice::from_ref(&keys.1.public), None).unwrap();
        let trusted = trust.trusted_keys();
        let signing = Signing { signer: Some(signer), trust };
        let manifest = manifest(BootMode::Carried, 4);
        let names = write_initramfs(dir.path(), &manifest, b"init", &signing).unwrap();
        assert_eq!(
            names.iter().map(ArtifactName::as_str).collect::<Vec<_>>(),
            [INITRAMFS, INITRAMFS_FETCHED]
        );

        let carried = fs::read(dir.path().join(INITRAMFS)).unwrap();
        let members = members(carried.strip_prefix(b"initfor root").expect("init and modules come first"));
        let json = &members["bootnode/manifest.json"];
        assert_eq!(Manifest::parse(json).unwrap(), manifest.carried());
        let signature = String::from_utf8(members["bootnode/manifest.json.minisig"].clone()).unwrap();
        assert_eq!(signature::verify(json, Some(&signature), &trusted), Ok(()));
        assert_eq!(members["bootnode/root.erofs"], b"root");
        assert_eq!(fs::read(dir.path().join(INITRAMFS_FETCHED)).unwrap(), b"initto fetch");
    }

    #[test]
    fn a_fetched_image_carries_nothing() {
        let dir = draft();
        let signing = Signing::default();
        let names = write_initramfs(dir.path(), &manifest(BootMode::Fetched, 4), b"init", &signing).unwrap();
        assert_eq!(names.iter().map(ArtifactName::as_str).collect::<Vec<_>>(), [INITRAMFS_FETCHED]);
        assert!(!dir.path().join(INITRAMFS).exists());
    }

    #[test]
    fn a_discover_image_has_drivers_and_no_root() {
        let dir = draft();
        let manifest = Manifest { root: None, ..manifest(BootMode::Discover, 4) };
        let names = write_initramfs(dir.path(), &manifest, b"init", &Signing::default()).unwrap();
        assert_eq!(names.iter().map(ArtifactName::as_str).collect::<Vec<_>>(), [INITRAMFS]);
        let initramfs = fs::read(dir.path().join(INITRAMFS)).unwrap();
        let members = members(initramfs.strip_prefix(b"initfor root").expect("init and modules come first"));
        assert_eq!(members.keys().collect::<Vec<_>>(), ["bootnode", "bootnode/manifest.json"]);
        assert_eq!(Manifest::parse(&members["bootnode/manifest.json"]).unwrap().mode, BootMode::Discover);
    }

    #[test]
    fn a_root_that_is_too_large_to_be_carried_is_refused_with_the_way_out() {
        let manifest = manifest(BootMode::Carried, 5 << 30);
        let error = write_initramfs(draft().path(), &manifest, b"init", &Signing::default()).unwrap_err();
        let error = std::error::Error::source(&error).map(ToString::to_string).unwrap();
        assert!(error.contains("bootnode/root.erofs has 5368709120 bytes"), "{error}");
        assert!(error.contains("\nhint: let nodes fetch the root: set [boot] mode = \"fetched\""), "{error}");
    }
}
