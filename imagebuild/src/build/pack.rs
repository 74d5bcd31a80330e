//! Packs the root, and the kernel modules that a node needs before it has the root.

use std::fs;
use std::num::NonZeroUsize;
use std::path::Path;

use bootspec::manifest::{BootMode, Root, RootArchive, RootFileSystem};

use super::BuildError;
use crate::archive::{self, Entry, PackError, PackOptions, scan, with_xattr};
use crate::file_error::failed;
use crate::file_system::{self, FileSystemOptions};
use crate::initramfs::{
    MICROCODE, MODULES, MODULES_FETCHED, SegmentCompression, microcode_segment, modules_segment,
};
use crate::microcode;
use crate::modules::{self, ModuleSpec};
use crate::progress::{Progress, human};
use crate::recipe::{CompressionSpec, Recipe, RootKind};
use crate::selinux;
use crate::tool::Tools;

/// Writes the microcode's segment into `dir`, if the root has any and the recipe does not forbid it.
pub fn microcode(recipe: &Recipe, tools: &Tools, dir: &Path, progress: &Progress) -> Result<(), BuildError> {
    let updates = microcode::collect(tools.sandbox().root(), recipe.microcode)?;
    if updates.is_empty() {
        return Ok(());
    }
    let step = progress.step("collect microcode");
    let segment = microcode_segment(&updates).map_err(BuildError::Initramfs)?;
    let path = dir.join(MICROCODE);
    fs::write(&path, &segment).map_err(failed("write", &path))?;
    let files: usize = updates.iter().map(|vendor| vendor.files).sum();
    step.done(&format!("{files} files -> {}", human(segment.len() as u64)));
    Ok(())
}

/// Writes the modules' segment of each initramfs that has one into `dir`. The SELinux policy rides along.
pub fn modules(
    recipe: &Recipe,
    tools: &Tools,
    release: &str,
    compression: SegmentCompression,
    dir: &Path,
    progress: &Progress,
) -> Result<(), BuildError> {
    let root = tools.sandbox().root();
    let policy = recipe.selinux_policy.as_ref().map(|policy| selinux::member(policy, tools)).transpose()?;
    for (name, wanted) in wanted(recipe) {
        let step = progress.step(format!("collect kernel modules: {name}"));
        let mut set = modules::select(root, release, &wanted)?;
        set.files.extend(policy.clone());
        let segment = modules_segment(&set, compression).map_err(BuildError::Initramfs)?;
        let path = dir.join(name);
        fs::write(&path, &segment).map_err(failed("write", &path))?;
        let (modules, firmware) = (human(set.module_bytes), human(set.firmware_bytes));
        step.done(&format!(
            "{} modules ({modules}), {} firmware files ({firmware}) -> {}",
            set.modules,
            set.firmware,
            human(segment.len() as u64)
        ));
    }
    Ok(())
}

/// The name of each segment, and which modules are to be in it.
fn wanted(recipe: &Recipe) -> Vec<(&'static str, ModuleSpec)> {
    let for_root = needed_by(recipe.boot.root);
    let for_fetching = || (MODULES_FETCHED, recipe.modules.clone().and(for_root.clone()));
    match recipe.mode() {
        BootMode::Failsafe => vec![],
        BootMode::Discover => vec![(MODULES, recipe.modules.clone())],
        BootMode::Carried if !for_root.is_empty() || recipe.selinux_policy.is_some() => {
            vec![(MODULES, for_root.clone()), for_fetching()]
        }
        BootMode::Carried | BootMode::Fetched => vec![for_fetching()],
    }
}

/// What init needs to mount such a root.
fn needed_by(root: RootKind) -> ModuleSpec {
    match root {
        RootKind::Tmpfs => ModuleSpec::default(),
        RootKind::FileSystem(format) => ModuleSpec::new(["loop", "overlay", &format.to_string()])
            .expect("file systems are called like their modules"),
    }
}

/// How a root is packed.
#[derive(Clone, Copy, Debug)]
pub struct Packing {
    /// What it is on the node.
    pub kind: RootKind,
    /// How it is compressed.
    pub compression: CompressionSpec,
    /// Chunks compressed at once.
    pub jobs: NonZeroUsize,
    /// When the image is made, in seconds since 1970.
    pub time_unix: i64,
    /// SOURCE_DATE_EPOCH, if it is set: nothing in the root is younger.
    pub source_date: Option<i64>,
}

/// Packs the root of `tools`, for the kernel of this release, into a file in `dir`.
pub fn root(
    tools: &Tools,
    release: &str,
    dir: &Path,
    packing: Packing,
    progress: &Progress,
) -> Result<Root, BuildError> {
    Ok(match packing.kind {
        RootKind::Tmpfs => {
            Root::Archive(root_archive(tools.sandbox().root(), release, dir, packing, progress)?)
        }
        RootKind::FileSystem(format) => {
            let Packing { compression, jobs, time_unix, source_date, .. } = packing;
            let options = FileSystemOptions { format, compression, jobs, time_unix, source_date };
            Root::FileSystem(root_file_system(tools, dir, options, progress)?)
        }
    })
}

fn root_archive(
    root: &Path,
    release: &str,
    dir: &Path,
    packing: Packing,
    progress: &Progress,
) -> Result<RootArchive, BuildError> {
    let spec = packing.compression;
    let step = progress.step(format!("pack the root file system with {} level {}", spec.format, spec.level));
    let options = PackOptions {
        compression: spec.format,
        level: spec.level,
        x86_filter: spec.x86_filter,
        chunk_bytes: spec.chunk_bytes,
        jobs: packing.jobs,
        source_date: packing.source_date,
    };
    let entries = scan(root).map_err(|error| BuildError::Pack(PackError::Scan(error)))?;
    if let Some(warning) = lost_user_attributes(&entries, release) {
        step.note(&warning);
    }
    let archive = archive::pack(root, entries, dir, options, &step).map_err(BuildError::Pack)?;
    let (unpacked, packed) = (human(archive.unpacked_bytes), human(archive.compressed_bytes()));
    step.done(&format!("{unpacked} -> {packed} in {} chunks", archive.chunks.len()));
    Ok(archive)
}

fn root_file_system(
    tools: &Tools,
    dir: &Path,
    options: FileSystemOptions,
    progress: &Progress,
) -> Result<RootFileSystem, BuildError> {
    let step = progress.step(format!("pack the root file system as {}", options.format));
    let packed = file_system::pack(tools, dir, options, &step)?;
    step.done(&format!("{} in {} blocks", human(packed.size_bytes), packed.blocks.len()));
    Ok(packed)
}

/// What to say of `user.*` attributes that the node's tmpfs does not keep, with a kernel of this release.
fn lost_user_attributes(entries: &[Entry], release: &str) -> Option<String> {
    if has_user_attributes_in_tmpfs(release) {
        return None;
    }
    let lost = with_xattr(entries, "user.");
    let (first, count) = (lost.first()?, lost.len());
    Some(format!(
        "warning: a tmpfs of Linux {release} keeps no user.* attributes (6.6 and later do): they are lost on {} ({count} in all)",
        first.display()
    ))
}

/// Since Linux 6.6 (tmpfs(5)). Of a release that cannot be read nothing is known.
fn has_user_attributes_in_tmpfs(release: &str) -> bool {
    let mut numbers = release.split(['.', '-']).map(str::parse::<u32>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor) >= (6, 6),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::XattrFlags;

    #[test]
    fn user_attributes_that_the_nodes_tmpfs_loses_are_counted() {
        let dir = tempfile::tempdir().unwrap();
        let set = |name: &str, attribute: &str| {
            let path = dir.path().join(name);
            fs::write(&path, "").unwrap();
            rustix::fs::lsetxattr(&path, attribute, b"x", XattrFlags::empty()).unwrap();
        };
        let warn = |release| lost_user_attributes(&scan(dir.path()).unwrap(), release);
        fs::write(dir.path().join("plain"), "").unwrap();
        assert_eq!(warn("6.1.0-56-amd64"), None);
        set("b", "user.note");
        set("c", "user.note");
        let warning = warn("6.1.0-56-amd64").unwrap();
        assert!(warning.contains("Linux 6.1.0-56-amd64") && warning.contains("/b (2 in all)"), "{warning}");
        assert_eq!(warn("6.6.0"), None);
        assert_eq!(warn("7.0-rc1"), None);
        assert!(warn("5.14.0-427.el9.x86_64").is_some() && warn("odd").is_some());
    }
}
