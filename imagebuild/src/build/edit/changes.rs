//! What an edit has changed in a root, and whether the rest of the image fits it.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use bootspec::ImageRef;
use bootspec::manifest::{Manifest, Package};

use super::{BuildError, EditError, EditRequest};
use crate::customise::clean_after_work;
use crate::diff::{self, Change, Object};
use crate::file_error::failed;
use crate::progress::{Progress, Step};
use crate::recipe::path_glob;
use crate::root::RootError;
use crate::selinux;
use crate::source;
use crate::tool::Tools;

/// How many changes are shown before the version is published.
const SHOWN_CHANGES: usize = 20;
/// What the initramfs has of the root as well, chosen by the recipe when it was made.
const IN_INITRAMFS: [(&str, &str); 4] = [
    ("/boot/vmlinuz*", "the kernel"),
    ("/{usr/,}lib/modules/**", "the kernel or its modules"),
    ("/{usr/,}lib/firmware/{amd,intel}-ucode/**", "the microcode"),
    ("/etc/selinux/*/policy/policy.*", "the SELinux policy"),
];
const SELINUX_LABEL: &str = "security.selinux";
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// What was changed.
pub struct Changes {
    /// In the root.
    pub files: Vec<Change>,
    /// The packages of the changed root.
    pub packages: Vec<Package>,
    /// Which of them differ.
    pub package_changes: Vec<Change>,
}

/// Tidies the root and compares it with what it was before. Refuses changes that do not fit the rest of the image.
pub fn find(
    request: &EditRequest<'_>,
    tools: &Tools,
    old: &Manifest,
    before: &BTreeMap<String, Object>,
    progress: &Progress,
) -> Result<Changes, BuildError> {
    let step = progress.step(format!("compare with {}", request.image));
    tidy(tools, before, old, &step)?;
    let after = read_tree(tools, &step)?;
    let files = diff::file_changes(before, &after, request.with_times);
    if files.is_empty() {
        step.done("nothing was changed, nothing is published");
        return Ok(Changes { files, packages: old.packages.clone(), package_changes: Vec::new() });
    }
    refuse_what_the_initramfs_has(&files)?;
    refuse_unlabelled(&files, before, &after, old)?;
    let packages = list_packages(tools, old, request.image, &step)?;
    let package_changes = diff::package_changes(&old.packages, &packages);
    if !request.dry_run {
        shown(&files).iter().for_each(|line| step.note(line));
    }
    step.done(&summary(&files, &package_changes));
    Ok(Changes { files, packages, package_changes })
}

/// All that is in the root of `tools`.
pub fn read_tree(tools: &Tools, step: &Step) -> Result<BTreeMap<String, Object>, EditError> {
    Ok(diff::read_tree(tools.sandbox().root(), |bytes| step.advance(bytes))?)
}

/// Removes what the edit leaves by the way, and labels what is new.
fn tidy(
    tools: &Tools,
    before: &BTreeMap<String, Object>,
    old: &Manifest,
    step: &Step,
) -> Result<(), BuildError> {
    let was_there = |path: &Path| before.contains_key(&*path.to_string_lossy());
    clean_after_work(tools, was_there).map_err(RootError::from)?;
    if !was_there(Path::new(RESOLV_CONF)) {
        remove_mount_point(tools)?;
    }
    if let Some(policy) = &old.build.root.selinux_policy {
        selinux::label(policy, tools, step)?;
    }
    Ok(())
}

/// The build host's name servers were mounted there.
fn remove_mount_point(tools: &Tools) -> Result<(), BuildError> {
    let path = Path::new(RESOLV_CONF);
    let is_empty = || path.symlink_metadata().is_ok_and(|file| file.is_file() && file.len() == 0);
    let remove = || if is_empty() { fs::remove_file(path) } else { Ok(()) };
    let removed = tools.sandbox().inside(remove).map_err(RootError::from)?;
    Ok(removed.map_err(failed("remove", path))?)
}

fn refuse_what_the_initramfs_has(files: &[Change]) -> Result<(), EditError> {
    for (pattern, what) in IN_INITRAMFS {
        let pattern = path_glob(pattern).expect("the patterns are valid").compile_matcher();
        let changes: Vec<_> = files.iter().filter(|change| pattern.is_match(&change.what)).cloned().collect();
        if !changes.is_empty() {
            return Err(EditError::InInitramfs { what, changes });
        }
    }
    Ok(())
}

/// In an image whose policy is known, everything has been labelled. Of others it is only known that they have labels.
fn refuse_unlabelled(
    files: &[Change],
    before: &BTreeMap<String, Object>,
    after: &BTreeMap<String, Object>,
    old: &Manifest,
) -> Result<(), EditError> {
    let is_labelled = |object: &Object| object.has_xattr(SELINUX_LABEL);
    if old.build.root.selinux_policy.is_some() || !before.values().any(is_labelled) {
        return Ok(());
    }
    let lacks = |change: &&Change| after.get(&change.what).is_some_and(|object| !is_labelled(object));
    let lacking = files.iter().filter(lacks);
    let paths: Vec<_> = lacking.take(SHOWN_CHANGES).map(|change| format!("  {}", change.what)).collect();
    if paths.is_empty() { Ok(()) } else { Err(EditError::Unlabelled { paths }) }
}

/// By the root's own package manager. Without one, nobody knows better than before.
fn list_packages(
    tools: &Tools,
    old: &Manifest,
    image: &ImageRef,
    step: &Step,
) -> Result<Vec<Package>, BuildError> {
    let listed = source::list_packages(tools, step).map_err(RootError::from)?;
    Ok(listed.unwrap_or_else(|| {
        if !old.packages.is_empty() {
            step.note(&format!(
                "the root has neither dpkg-query nor rpm: the manifest lists the packages of {image}"
            ));
        }
        old.packages.clone()
    }))
}

/// The first changes, one a line.
pub fn shown(changes: &[Change]) -> Vec<String> {
    let mut lines: Vec<_> = changes.iter().take(SHOWN_CHANGES).map(|change| format!("  {change}")).collect();
    match changes.len().saturating_sub(SHOWN_CHANGES) {
        0 => {}
        more => lines.push(format!("  and {more} more")),
    }
    lines
}

fn summary(files: &[Change], packages: &[Change]) -> String {
    let (mut added, mut removed, mut changed) = (0, 0, 0);
    for change in files {
        match (&change.before, &change.after) {
            (None, _) => added += 1,
            (_, None) => removed += 1,
            _ => changed += 1,
        }
    }
    format!("{added} files added, {removed} removed, {changed} changed; {} packages differ", packages.len())
}
