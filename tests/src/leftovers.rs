//! What a program must not leave behind when it ends, however it ends: mounts and processes.

use std::fs;
use std::path::Path;

use anyhow::{Result, ensure};

/// Fails if something is mounted in `dir`, in whichever mount namespace, or if a process is at work there.
pub fn check(dir: &Path) -> Result<()> {
    let path = dir.display().to_string();
    let mentions = |text: &[u8]| String::from_utf8_lossy(text).contains(&path);
    for process in fs::read_dir("/proc")? {
        // One that has ended since it was listed has nothing any more.
        let process = process?.path();
        let read = |name: &str| fs::read(process.join(name)).unwrap_or_default();
        ensure!(!mentions(&read("cmdline")), "a process is left: {}", process.display());
        ensure!(!mounted_below(&read("mountinfo"), &path), "{} has mounts in {path}", process.display());
        let link = |name: &str| fs::read_link(process.join(name)).unwrap_or_default();
        let is_there = link("root").starts_with(dir) || link("cwd").starts_with(dir);
        ensure!(!is_there, "a process is left in {path}: {}", process.display());
    }
    Ok(())
}

/// Whether a mount point (the fifth field of proc_pid_mountinfo(5)) is below `dir`. What is mounted at `dir` itself is not.
fn mounted_below(mountinfo: &[u8], dir: &str) -> bool {
    let text = String::from_utf8_lossy(mountinfo);
    let points = text.lines().filter_map(|line| line.split(' ').nth(4));
    points.into_iter().any(|point| point.strip_prefix(dir).is_some_and(|rest| rest.starts_with('/')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_found_below_the_directory_alone() {
        let mountinfo = b"22 1 0:20 / /store rw - tmpfs x rw\n23 22 0:21 / /store/a/proc rw - proc x rw\n";
        assert!(mounted_below(mountinfo, "/store"));
        assert!(!mounted_below(mountinfo, "/store/b") && !mounted_below(mountinfo, "/store/a/proc"));
    }
}
