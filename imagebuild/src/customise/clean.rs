//! Removes what must differ from node to node, what the build host left behind, and what a node that boots over the
//! network has no use for. What the recipe itself puts at a path stays.

use std::fs::{self, DirEntry, File};
use std::io;
use std::path::{Path, PathBuf};

use super::{CustomiseError, failed};
use crate::recipe::Recipe;
use crate::tool::Tools;

/// An empty file makes systemd choose an id at each boot; without the file, /etc could not be read-only
/// (machine-id(5)). `uninitialized` would start systemd-firstboot, which asks questions on the console.
const MACHINE_ID: &str = "/etc/machine-id";
/// Copies of the build host's files (a link, as systemd-resolved makes one, is the image's own).
const HOST_FILES: [&str; 2] = ["/etc/hostname", "/etc/resolv.conf"];
/// What each node makes for itself.
const NODE_FILES: [&str; 3] =
    ["/var/lib/systemd/random-seed", "/var/lib/systemd/credential.secret", "/var/lib/dbus/machine-id"];
/// Caches, package lists and logs of the installation; device nodes, which the running kernel makes.
const EMPTIED_DIRS: [&str; 9] = [
    "/dev",
    "/tmp",
    "/var/cache/apt",
    "/var/cache/dnf",
    // ldconfig remembers inode numbers and times there, which differ from build to build.
    "/var/cache/ldconfig",
    "/var/cache/libdnf5",
    "/var/lib/apt/lists",
    "/var/log/apt",
    "/var/tmp",
];
/// Files by directory, and beginning and end of their names: logs of the installation, SSH host keys, and the
/// initramfs of a node that boots from its own disk.
const PATTERNS: [(&str, &str, &str); 6] = [
    ("/var/log", "", ".log"),
    ("/etc/ssh", "ssh_host_", "_key"),
    ("/etc/ssh", "ssh_host_", "_key.pub"),
    ("/boot", "initrd.img", ""),
    ("/boot", "initramfs-", ".img"),
    ("/var/lib/rpm", "rpmdb.sqlite-shm", ""),
];

/// Cleans the root of `tools`.
pub fn clean(recipe: &Recipe, tools: &Tools) -> Result<(), CustomiseError> {
    tools.sandbox().inside(|| {
        let keep = |path: &Path| recipe.files.iter().any(|file| file.path == path);
        remove_host_files(keep)?;
        remove_traces(keep, |dir| recipe.files.iter().any(|file| file.path.starts_with(dir)))?;
        forget_machine_id(keep)
    })?
}

/// Cleans the root after work in it by hand, but for the paths of which `keep` says so. What people put there on purpose stays:
/// the machine's name, id and name servers.
pub fn clean_after_work(tools: &Tools, keep: impl Fn(&Path) -> bool + Sync) -> Result<(), CustomiseError> {
    tools.sandbox().inside(|| remove_traces(&keep, &keep))?
}

fn remove_traces(
    keep: impl Fn(&Path) -> bool,
    keep_below: impl Fn(&Path) -> bool,
) -> Result<(), CustomiseError> {
    NODE_FILES.iter().try_for_each(|path| remove(Path::new(path), &keep))?;
    EMPTIED_DIRS.iter().try_for_each(|dir| empty(Path::new(dir), &keep, &keep_below))?;
    PATTERNS.iter().try_for_each(|(dir, start, end)| remove_matching(Path::new(dir), start, end, &keep))
}

fn remove_host_files(keep: impl Fn(&Path) -> bool) -> Result<(), CustomiseError> {
    for path in HOST_FILES.map(Path::new) {
        if path.symlink_metadata().is_ok_and(|metadata| metadata.is_file()) {
            remove(path, &keep)?;
        }
    }
    Ok(())
}

fn remove_matching(
    dir: &Path,
    start: &str,
    end: &str,
    keep: impl Fn(&Path) -> bool,
) -> Result<(), CustomiseError> {
    for entry in entries(dir)? {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let is_dir = entry.file_type().is_ok_and(|kind| kind.is_dir());
        if name.starts_with(start) && name.ends_with(end) && !is_dir {
            remove(&entry.path(), &keep)?;
        }
    }
    Ok(())
}

fn empty(
    dir: &Path,
    keep: &impl Fn(&Path) -> bool,
    keep_below: &impl Fn(&Path) -> bool,
) -> Result<(), CustomiseError> {
    for entry in entries(dir)? {
        let path = entry.path();
        if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove(&path, keep)?;
        } else if keep_below(&path) {
            empty(&path, keep, keep_below)?;
        } else {
            fs::remove_dir_all(&path).map_err(failed("remove", &path))?;
        }
    }
    Ok(())
}

/// What is in `dir`; nothing if it is not there, or is a link to somewhere else.
fn entries(dir: &Path) -> Result<Vec<DirEntry>, CustomiseError> {
    if !dir.symlink_metadata().is_ok_and(|metadata| metadata.is_dir()) {
        return Ok(Vec::new());
    }
    fs::read_dir(dir).and_then(Iterator::collect).map_err(failed("list", dir))
}

fn remove(path: &Path, keep: impl Fn(&Path) -> bool) -> Result<(), CustomiseError> {
    if keep(path) {
        return Ok(());
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", path)(error)),
        _ => Ok(()),
    }
}

fn forget_machine_id(keep: impl Fn(&Path) -> bool) -> Result<(), CustomiseError> {
    let path = PathBuf::from(MACHINE_ID);
    let has_etc = path.parent().is_some_and(Path::is_dir);
    if keep(&path) || !has_etc {
        return Ok(());
    }
    File::create(&path).map(drop).map_err(failed("empty", &path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recipe::Selection;
    use crate::sandbox::Sandbox;
    use crate::testing::is_root;

    const MINIMAL: &str = "name = 'x'\n[source]\ntype = 'mmdebstrap'\nsuite = 'bookworm'\n";

    /// Cleans a root made of `paths` under a recipe that ends in `rest`, and returns the files that are left.
    fn left(paths: &[&str], rest: &str) -> Vec<String> {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        for path in paths {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "full").unwrap();
        }
        let recipe = dir.path().join("recipe.toml");
        fs::write(&recipe, format!("{MINIMAL}{rest}")).unwrap();
        let tools = Tools::new(Sandbox::new(&root), &dir.path().join("log")).unwrap();
        clean(&Recipe::read(&recipe, &Selection::default()).unwrap(), &tools).unwrap();
        paths.iter().filter(|path| root.join(path).exists()).map(|path| (*path).to_owned()).collect()
    }

    #[test]
    fn what_belongs_to_a_node_or_to_the_build_is_removed_and_the_rest_stays() {
        if !is_root() {
            return;
        }
        let removed = [
            "etc/hostname",
            "etc/resolv.conf",
            "etc/ssh/ssh_host_ed25519_key",
            "etc/ssh/ssh_host_ed25519_key.pub",
            "boot/initrd.img-6.1",
            "var/log/dpkg.log",
            "var/cache/apt/archives/a.deb",
            "tmp/x/y",
        ];
        let kept = ["etc/machine-id", "etc/ssh/sshd_config", "boot/vmlinuz-6.1", "var/log/btmp"];
        assert_eq!(left(&[&removed[..], &kept[..]].concat(), ""), kept);
    }

    #[test]
    fn a_path_that_the_recipe_sets_stays() {
        if !is_root() {
            return;
        }
        let rest = "[[file]]\npath = '/etc/resolv.conf'\ncontent = 'nameserver 192.168.0.1'\n";
        assert_eq!(left(&["etc/resolv.conf", "etc/hostname"], rest), ["etc/resolv.conf"]);
        let rest = "[[file]]\npath = '/var/tmp/site/keep'\ncontent = ''\n";
        assert_eq!(
            left(&["var/tmp/site/keep", "var/tmp/site/drop", "var/tmp/x/y"], rest),
            ["var/tmp/site/keep"]
        );
    }
}
