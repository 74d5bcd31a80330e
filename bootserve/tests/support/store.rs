//! Images of arbitrary bytes.

use std::collections::BTreeMap;
use std::os::unix::fs::symlink;
use std::path::Path;

use bootspec::manifest::{
    Artifact, BootMode, Build, FORMAT, FileSystemFormat, Manifest, Root, RootFileSystem, RootOrigin,
};
use bootspec::store::image_dir;
use bootspec::{ImageRef, Sha256Digest};

pub const ROOT_FILE: &str = "rootfs.squashfs";
pub const ROOT_BYTES: &[u8] = b"root";

/// Publishes `files` as an image that is current. Those with a root hold it in [`ROOT_FILE`].
pub fn publish(store: &Path, image: &str, mode: BootMode, files: &[(&str, &[u8])]) {
    let image: ImageRef = image.parse().unwrap();
    let dir = image.dir(store);
    std::fs::create_dir_all(&dir).unwrap();
    let mut artifacts = BTreeMap::new();
    for (index, (name, bytes)) in files.iter().enumerate() {
        std::fs::write(dir.join(name), bytes).unwrap();
        let sha256 = Sha256Digest::new([index as u8; 32]);
        artifacts.insert(name.parse().unwrap(), Artifact { size_bytes: bytes.len() as u64, sha256 });
    }
    let root = RootFileSystem {
        file: ROOT_FILE.parse().unwrap(),
        format: FileSystemFormat::Squashfs,
        size_bytes: ROOT_BYTES.len() as u64,
        block_bytes: 4096,
        blocks: vec![Sha256Digest::new([7; 32])],
    };
    let manifest = Manifest {
        format: FORMAT,
        image: image.clone(),
        architecture: "x86_64".to_owned(),
        kernel_release: "6.1".to_owned(),
        mode,
        kernel_args: vec!["quiet".parse().unwrap()],
        artifacts,
        root: mode.has_root().then_some(Root::FileSystem(root)),
        rollback_index: 0,
        packages: Vec::new(),
        build: Build {
            inputs: Sha256Digest::new([0; 32]),
            tool: "test".to_owned(),
            host: "test".to_owned(),
            time_unix: 0,
            root: RootOrigin::default(),
        },
    };
    std::fs::write(dir.join("manifest.json"), manifest.to_json()).unwrap();
    symlink(image.version.as_str(), image_dir(store, &image.name).join("current")).unwrap();
}
