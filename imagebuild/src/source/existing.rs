//! Roots that exist already: a tar archive, a directory, another image of the store, or a container image (`oci`). What
//! else the recipe wants is added by the root's own package manager (`own_manager`).

use std::fs;
use std::path::{Path, PathBuf};

use bootspec::manifest::{FileSystemFormat, Package, Root};
use bootspec::store::MANIFEST;
use bootspec::{ImageRef, Sha256Digest};
use sha2::{Digest, Sha256};

use super::own_manager::list_packages;
use super::{Job, SourceError, make_dir};
use crate::architecture::{self, Architecture};
use crate::archive::{Entry, scan};
use crate::file_error::failed;
use crate::progress::Step;
use crate::recipe::{Existing, ExistingRoot, Recipe, Source};
use crate::sandbox::View;
use crate::store::Store;
use crate::tool::{Tools, program};
use crate::tree::Tree;
use crate::user_namespace::{self, UNMAPPED_ID};
use crate::verify::verify;

/// GNU tar keeps all that a tar archive can hold, and without `--absolute-names` lets no name lead out of the root.
const TAR: [&str; 7] = [
    "--extract",
    "--preserve-permissions",
    "--numeric-owner",
    "--sparse",
    "--acls",
    "--xattrs",
    "--xattrs-include=*",
];

/// What is in /dev does not come into the image, and device nodes are only root's to make.
const NOT_DEVICES: [&str; 4] = ["--anchored", "--wildcards", "--exclude=dev/*", "--exclude=./dev/*"];

/// Format, image, mount point and root are its arguments.
const COPY_MOUNTED: &str =
    r#"mount -t "$1" -o loop,ro "$2" "$3" && cp --archive --no-target-directory "$3" "$4""#;

/// Digest of what `recipe` starts from, as far as it is known here and not a file that the recipe names: the base image,
/// or what is in the directory. A file of the directory counts as changed when its size or time has.
pub fn state(recipe: &Recipe, store: &Store) -> Result<Option<Sha256Digest>, SourceError> {
    let Source::Existing(Existing { root, .. }) = &recipe.source else { return Ok(None) };
    let digest = match root {
        ExistingRoot::Image(name) => {
            let path = store.dir(&store.resolve(name)?).join(MANIFEST);
            Sha256::digest(fs::read(&path).map_err(failed("read", &path))?)
        }
        ExistingRoot::Directory(path) => {
            let entries = scan(path)?;
            entries
                .iter()
                .fold(Sha256::new(), |digest, entry| digest.chain_update(format!("{entry:?}")))
                .finalize()
        }
        ExistingRoot::Tar(_) | ExistingRoot::Oci(_) => return Ok(None),
    };
    Ok(Some(Sha256Digest::new(digest.into())))
}

impl Job<'_> {
    pub(super) fn existing(&self, existing: &Existing, store: &Store) -> Result<Vec<Package>, SourceError> {
        let proxy = existing.proxy.as_ref();
        match &existing.root {
            ExistingRoot::Tar(path) => {
                unpack(path, &[&TAR[..], &NOT_DEVICES].concat(), self.tools, self.step)?;
            }
            ExistingRoot::Directory(path) => {
                if user_namespace::is_entered()
                    && let Some(path) = foreign(&scan(path)?)
                {
                    return Err(SourceError::Foreign { path });
                }
                self.tools.copy_tree(path, self.root(), self.step)?;
            }
            ExistingRoot::Image(name) => unpack_image(store, &store.resolve(name)?, self.tools, self.step)?,
            ExistingRoot::Oci(image) => self.unpack_oci(image, proxy)?,
        }
        self.require_own_machine()?;
        self.add_packages(proxy)?;
        Ok(list_packages(self.tools, self.step)?.unwrap_or_else(|| {
            self.step.note("the root has neither dpkg-query nor rpm: the manifest will list no packages");
            Vec::new()
        }))
    }

    /// Fails if the root is not for the machines that the image is for. One without a shell may be for any.
    fn require_own_machine(&self) -> Result<(), SourceError> {
        let Some(wanted) = self.architecture.or_else(Architecture::of_host) else { return Ok(()) };
        let shell = Tree::open(self.root())?.read_if_there(Path::new(SHELL))?;
        match shell.as_deref().and_then(architecture::machine_of) {
            Some(machine) if machine != wanted.elf_machine() => {
                Err(SourceError::OtherMachine { found: Architecture::with_programs(machine), wanted })
            }
            _ => Ok(()),
        }
    }
}

/// A program that every root has which can hold packages.
pub(super) const SHELL: &str = "bin/sh";

/// Verifies `image` and unpacks its root into that of `tools`.
pub fn unpack_image(store: &Store, image: &ImageRef, tools: &Tools, step: &Step) -> Result<(), SourceError> {
    let _held = store.hold(image)?;
    let Some(root) = store.manifest(image)?.root else {
        return Err(SourceError::NoRoot { image: image.clone() });
    };
    if let Some(damage) = verify(store, image, &[], |_| {})?.into_iter().next() {
        let problem = format!("{} {}", damage.what, damage.problem);
        return Err(SourceError::Damaged { image: image.clone(), problem });
    }
    let path = store.dir(image).join(root.file().as_str());
    match root {
        Root::Archive(_) => {
            // The archive is our own: no name in it leads out of the root, and with this option GNU tar gets the times of
            // directories right that hold absolute links (docs/image-format.md).
            let options = [&TAR[..], &["--absolute-names"]].concat();
            unpack(&path, &options, tools, step)
        }
        Root::FileSystem(image) => copy_mounted(&path, image.format, tools, step),
    }
}

/// Copies what is in a file system image. The kernel reads all that is in it; unsquashfs(1) and fsck.erofs(1) do not, in all
/// their releases. The mount is the program's own, and ends with it.
fn copy_mounted(
    image: &Path,
    format: FileSystemFormat,
    tools: &Tools,
    step: &Step,
) -> Result<(), SourceError> {
    if user_namespace::is_entered() {
        return Err(SourceError::Mount { path: image.to_owned() });
    }
    let root = tools.sandbox().root();
    let mounted = root.with_extension("mounted");
    make_dir(&mounted)?;
    let mut command = program("sh");
    command.args(["-c", COPY_MOUNTED, "sh", &format.to_string()]).arg(image).arg(&mounted).arg(root);
    tools.run(&format!("mounting and copying {}", image.display()), View::Host, command, step)?;
    fs::remove_dir(&mounted).map_err(failed("remove", &mounted))?;
    Ok(())
}

fn unpack(archive: &Path, options: &[&str], tools: &Tools, step: &Step) -> Result<(), SourceError> {
    let root = tools.sandbox().root();
    make_dir(root)?;
    let mut command = program("tar");
    command.args(options).arg("--file").arg(archive).arg("--directory").arg(root);
    let mut lost = None;
    let what = format!("unpacking {}", archive.display());
    tools.run_watched(&what, View::Host, command, step, &mut |line| {
        if lost.is_none() && is_lost_attribute(line) {
            lost = Some(line.to_owned());
        }
    })?;
    let archive = archive.to_owned();
    lost.map_or(Ok(()), |line| Err(SourceError::LostAttribute { archive, line }))
}

/// The first entry whose owner or group is none of those that this user namespace has.
fn foreign(entries: &[Entry]) -> Option<PathBuf> {
    let found = entries.iter().find(|entry| entry.uid == UNMAPPED_ID || entry.gid == UNMAPPED_ID);
    found.map(|entry| Path::new("/").join(&entry.path))
}

/// GNU tar only warns that it cannot keep an extended attribute.
fn is_lost_attribute(line: &str) -> bool {
    line.contains("Cannot set '") && line.contains("' extended attribute for file ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attribute_that_tar_cannot_set_is_noticed() {
        let line = "tar: setxattrat: Cannot set 'trusted.x' extended attribute for file './f': Operation not permitted";
        assert!(is_lost_attribute(line));
        assert!(!is_lost_attribute("tar: ./f: Cannot open: File exists"));
    }
}
