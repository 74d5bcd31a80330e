//! Puts a recipe's files and symbolic links into the root.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, lchown, symlink};
use std::path::Path;

use super::accounts::Accounts;
use super::{CustomiseError, failed};
use crate::recipe::{Content, FileSpec};
use crate::tool::Tools;

/// Writes `files` in order. What is at a path already is replaced, links included; directories on the way are made.
pub fn write(files: &[FileSpec], tools: &Tools) -> Result<(), CustomiseError> {
    // Opened while the build host's paths still mean something.
    let sources: Vec<_> = files.iter().map(open_source).collect::<Result<_, _>>()?;
    tools.sandbox().inside(|| {
        let accounts = Accounts::read().map_err(failed("read", Path::new("/etc/passwd")))?;
        files.iter().zip(sources).try_for_each(|(file, source)| put(file, source, &accounts))
    })?
}

fn open_source(file: &FileSpec) -> Result<Option<File>, CustomiseError> {
    let Content::Copy { from, .. } = &file.content else { return Ok(None) };
    File::open(from).map(Some).map_err(|source| CustomiseError::Host { path: from.clone(), source })
}

fn put(file: &FileSpec, source: Option<File>, accounts: &Accounts) -> Result<(), CustomiseError> {
    let path = &file.path;
    let uid = owner(accounts.uid(&file.owner), path, "user", &file.owner)?;
    let gid = owner(accounts.gid(&file.group), path, "group", &file.group)?;
    make_way(path).map_err(failed("make way for", path))?;
    match &file.content {
        Content::Symlink(target) => symlink(target, path),
        Content::Text { text, .. } => write_new(path, &mut text.as_bytes()),
        Content::Copy { .. } => write_new(path, &mut source.expect("copies have been opened")),
    }
    .map_err(failed("write", path))?;
    lchown(path, Some(uid), Some(gid)).map_err(failed("change the owner of", path))?;
    match file.content {
        // After the owner, because changing that clears setuid.
        Content::Text { mode, .. } | Content::Copy { mode, .. } => {
            fs::set_permissions(path, PermissionsExt::from_mode(mode))
                .map_err(failed("set the mode of", path))
        }
        Content::Symlink(_) => Ok(()),
    }
}

fn owner(id: Option<u32>, path: &Path, kind: &'static str, name: &str) -> Result<u32, CustomiseError> {
    id.ok_or_else(|| CustomiseError::Owner {
        path: path.to_owned(),
        kind,
        name: name.to_owned(),
        hint: "files are written before the recipe's users are made: give a number, or change the owner in a script",
    })
}

/// Makes the directories above `path` and removes what is there, unless it is a directory.
pub fn make_way(path: &Path) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        DirBuilder::new().recursive(true).mode(0o755).create(parent)?;
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Not readable for others until its owner and mode are set.
pub fn write_new(path: &Path, content: &mut dyn io::Read) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    io::copy(content, &mut file)?;
    file.flush()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;
    use crate::sandbox::Sandbox;
    use crate::testing::is_root;

    fn spec(path: &str, content: Content, owner: &str) -> FileSpec {
        FileSpec { path: path.into(), content, owner: owner.into(), group: "root".into() }
    }

    fn text(text: &str, mode: u32) -> Content {
        Content::Text { text: text.into(), mode }
    }

    #[test]
    fn files_replace_what_is_there_with_the_owner_and_mode_asked_for() {
        if !is_root() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        fs::create_dir_all(root.join("etc")).unwrap();
        fs::write(root.join("etc/passwd"), "alice:x:1000:1000::/home/alice:/bin/sh\n").unwrap();

        symlink("/run/stub", root.join("etc/resolv.conf")).unwrap();
        fs::write(dir.path().join("source"), "copied").unwrap();
        let tools = Tools::new(Sandbox::new(&root), &dir.path().join("log")).unwrap();

        let copy = Content::Copy { from: dir.path().join("source"), mode: 0o4755 };
        let files = [
            spec("/etc/resolv.conf", text("nameserver 192.168.0.1\n", 0o644), "root"),
            spec("/opt/a/b", copy, "alice"),
            spec("/opt/link", Content::Symlink("a/b".into()), "4711"),
        ];
        write(&files, &tools).unwrap();
        let resolv = root.join("etc/resolv.conf");
        assert!(resolv.symlink_metadata().unwrap().is_file());
        let copied = root.join("opt/a/b").metadata().unwrap();
        assert_eq!((copied.mode() & 0o7777, copied.uid()), (0o4755, 1000));
        assert_eq!(fs::read_to_string(root.join("opt/link")).unwrap(), "copied");
        assert_eq!(root.join("opt/link").symlink_metadata().unwrap().uid(), 4711);

        let error = write(&[spec("/etc/motd", text("", 0o644), "bob")], &tools).unwrap_err();
        assert!(error.to_string().contains("/etc/motd: the image has no user 'bob'"), "{error}");
    }
}
