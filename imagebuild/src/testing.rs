//! What several unit tests need.

use std::collections::BTreeMap;
use std::path::Path;

use bootspec::ImageRef;
use bootspec::manifest::{
    Artifact, BootMode, Build, FORMAT, FileSystemFormat, Manifest, Root, RootFileSystem, RootOrigin,
};
use bootspec::signature::TrustedKey;

use crate::digest::digest;
use crate::signing::{Signer, Trust, keygen};
use crate::store::Store;

/// Namespaces, owners, devices and mounts are root's. Returns false, and says so, for anybody else.
pub fn is_root() -> bool {
    let is_root = rustix::process::geteuid().is_root();
    if !is_root {
        eprintln!("skipped: needs root");
    }
    is_root
}

/// The root of [`manifest`], in three blocks.
pub const ROOT: &[u8] = b"block 0 block 1 end";
/// The other artifacts of [`manifest`].
pub const OTHERS: [(&str, &[u8]); 2] = [("initramfs-fetched.img", b"init"), ("vmlinuz", b"kernel")];

/// The manifest of `compute/1`: a fetched image with a small file system root.
pub fn manifest() -> Manifest {
    let root = RootFileSystem {
        file: "rootfs.squashfs".parse().unwrap(),
        format: FileSystemFormat::Squashfs,
        size_bytes: ROOT.len() as u64,
        block_bytes: 8,
        blocks: ROOT.chunks(8).map(|block| digest(block).unwrap().1).collect(),
    };
    let artifact = |(name, contents): (&str, &[u8])| {
        let (size_bytes, sha256) = digest(contents).unwrap();
        (name.parse().unwrap(), Artifact { size_bytes, sha256 })
    };
    Manifest {
        format: FORMAT,
        image: "compute/1".parse().unwrap(),
        architecture: "x86_64".into(),
        kernel_release: "6.1".into(),
        mode: BootMode::Fetched,
        kernel_args: vec![],
        artifacts: OTHERS.into_iter().chain([(root.file.as_str(), ROOT)]).map(artifact).collect(),
        root: Some(Root::FileSystem(root)),
        rollback_index: 0,
        packages: vec![],
        build: Build {
            inputs: digest(&b""[..]).unwrap().1,
            tool: "test".into(),
            host: "test".into(),
            time_unix: 1_700_000_000,
            root: RootOrigin::default(),
        },
    }
}

/// Publishes the version that [`manifest`] describes, signed if there is a `signer`.
pub fn publish(store: &Store, signer: Option<&Signer>) -> ImageRef {
    let manifest = manifest();
    let draft = store.begin_named(&manifest.image).unwrap();
    for (name, contents) in OTHERS.into_iter().chain([("rootfs.squashfs", ROOT)]) {
        std::fs::write(draft.dir().join(name), contents).unwrap();
    }
    let json = manifest.to_json();
    let signature = signer.map(|signer| signer.sign(json.as_bytes(), "").unwrap());
    draft.publish(&json, signature.as_deref(), &manifest).unwrap()
}

/// A key pair in `dir`: what signs, and what trusts it.
pub fn keys(dir: &Path) -> (Signer, Vec<TrustedKey>) {
    let keys = keygen(dir, None).unwrap();
    let signer = Signer::read(&keys.secret, |_| panic!("it has no password")).unwrap();
    (signer, Trust::read(&[keys.public], None).unwrap().trusted_keys())
}

/// The files of a directory: names and contents.
pub fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let file = |entry: std::io::Result<std::fs::DirEntry>| {
        let entry = entry.unwrap();
        (entry.file_name().into_string().unwrap(), std::fs::read(entry.path()).unwrap())
    };
    std::fs::read_dir(dir).unwrap().map(file).collect()
}
