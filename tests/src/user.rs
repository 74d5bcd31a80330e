//! A user who is not root and may build images all the same: he has subordinate ids, and a directory of his own.
//!
//! The machine does not know him. What he runs has mounts of its own, with a copy of /etc in which he stands, and with the
//! ways to the lab's directories open.

use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, ensure};

use crate::places::{lab_dir, make_dir, program};

/// His number and that of his group.
pub const UID: u32 = 61_000;
/// His name.
pub const NAME: &str = "bootlab-user";
/// His lines in /etc/subuid and /etc/subgid.
pub const SUBORDINATE_IDS: &str = "bootlab-user:2000000:65536\n";

/// The user, and what is there for him as long as this lives.
pub struct User {
    dir: tempfile::TempDir,
}

impl User {
    /// A user with enough subordinate ids.
    pub fn new() -> Result<Self> {
        Self::with_ids(SUBORDINATE_IDS)
    }

    /// A user for whom /etc/subuid and /etc/subgid are `lines`.
    pub fn with_ids(lines: &str) -> Result<Self> {
        let user = Self { dir: tempfile::tempdir()? };
        fs::set_permissions(user.dir.path(), Permissions::from_mode(0o755))?;
        fs::create_dir(user.home())?;
        chown(user.home(), Some(UID), Some(UID))?;
        let etc = user.path("etc");
        let copied = Command::new("cp").args(["--archive", "/etc"]).arg(&etc).status()?;
        ensure!(copied.success(), "cp: {copied}");
        let passwd = fs::read_to_string("/etc/passwd")?;
        fs::write(etc.join("passwd"), format!("{passwd}{NAME}:x:{UID}:{UID}::/nonexistent:/bin/sh\n"))?;
        for file in ["subuid", "subgid"] {
            fs::write(etc.join(file), lines)?;
        }
        fs::create_dir(user.path("staged"))?;
        Ok(user)
    }

    /// Where he may write.
    pub fn home(&self) -> PathBuf {
        self.path("home")
    }

    /// A cache of packages for him, which stays for the next run.
    pub fn cache(&self) -> Result<PathBuf> {
        let cache = lab_dir().join("cache-user");
        make_dir(&cache)?;
        chown(&cache, Some(UID), Some(UID))?;
        Ok(cache)
    }

    /// Writes a file beside his directory, or in it, that he can read.
    pub fn give(&self, name: &str, contents: &str) -> io::Result<PathBuf> {
        let path = self.path(name);
        fs::write(&path, contents)?;
        fs::set_permissions(&path, Permissions::from_mode(0o644))?;
        Ok(path)
    }

    /// Runs, as him, the program and arguments that are appended. Root runs the shell commands `before` first: what they mount
    /// is seen by the program alone, and they may put something before it in `"$@"`. The process that is started becomes
    /// the program.
    pub fn command(&self, before: &str) -> Result<Command> {
        let script = format!(
            "set -e; {}; set -- setpriv --reuid {UID} --regid {UID} --clear-groups \"$@\"; {before}; exec \"$@\"",
            self.mounts()?.join("; ")
        );
        let mut command = Command::new("unshare");
        command.args(["--mount", "--uts", "sh", "-c", &script, "sh"]);
        Ok(command)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Shell commands that show him his /etc, and open what lies behind directories that he may not enter.
    fn mounts(&self) -> Result<Vec<String>> {
        let programs = program("imagebuild")?;
        let target = programs.ancestors().nth(2).unwrap_or(Path::new("/")).to_owned();
        let dirs = BTreeSet::from([target, lab_dir()]);
        let behind: Vec<_> = dirs.iter().filter_map(|dir| Some((dir, closed_above(dir)?))).collect();
        let staged = |index: usize| self.path("staged").join(index.to_string());
        let stage = |(index, (dir, _)): (usize, &(&PathBuf, PathBuf))| {
            let (dir, staged) = (dir.display(), staged(index));
            format!("mkdir -p {0}; mount --rbind {dir} {0}", staged.display())
        };
        let show = |(index, (dir, _)): (usize, &(&PathBuf, PathBuf))| {
            let (dir, staged) = (dir.display(), staged(index));
            format!("mkdir -p {dir}; mount --move {} {dir}", staged.display())
        };
        let closed: BTreeSet<_> = behind.iter().map(|(_, closed)| closed).collect();
        let hide = |closed: &PathBuf| format!("mount -t tmpfs -o mode=755 tmpfs {}", closed.display());
        let mut mounts = vec![format!("mount --bind {} /etc", self.path("etc").display())];
        mounts.extend(behind.iter().enumerate().map(stage));
        mounts.extend(closed.into_iter().map(hide));
        mounts.extend(behind.iter().enumerate().map(show));
        Ok(mounts)
    }
}

/// The outermost directory above `dir` that others than its owner may not enter.
fn closed_above(dir: &Path) -> Option<PathBuf> {
    let above: Vec<_> = dir.ancestors().skip(1).collect();
    let is_closed =
        |dir: &&&Path| fs::metadata(dir).is_ok_and(|metadata| metadata.permissions().mode() & 0o001 == 0);
    above.iter().rev().find(is_closed).map(|dir| dir.to_path_buf())
}
