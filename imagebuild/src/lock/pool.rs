//! Package files by their digests, `CACHE/packages/SHA256`: what lies there under a name is what the name says, or is
//! replaced.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::thread;

use bootspec::Sha256Digest;

use super::{LockError, Pinned};
use crate::digest::digest;
use crate::file_error::{FileError, failed};
use crate::progress::{Step, human};
use crate::sandbox::View;
use crate::source::{PackageFormat, wait_for_lock};
use crate::tool::{Tools, program};

const DIR: &str = "packages";
/// Downloads at once. More would be rude to mirrors.
const DOWNLOADS: usize = 4;
/// The ending of a file that is not complete or not verified yet.
const PART: &str = "part";
/// How curl(1) is to go about it: an answer that is no success is an error, mirrors may send elsewhere, and what stands
/// still for a minute is given up.
const CURL_OPTIONS: [&str; 15] = [
    "--fail",
    "--silent",
    "--show-error",
    "--location",
    "--globoff",
    "--proto",
    "=http,https,ftp,file",
    "--retry",
    "3",
    "--connect-timeout",
    "30",
    "--speed-limit",
    "1",
    "--speed-time",
    "60",
];

/// The files of one kind of package.
pub struct Pool {
    dir: PathBuf,
    format: PackageFormat,
}

impl Pool {
    /// That of the directory `cache`.
    pub fn open(cache: &Path, format: PackageFormat) -> Result<Self, FileError> {
        let dir = cache.join(DIR);
        fs::create_dir_all(&dir).map_err(failed("create", &dir))?;
        Ok(Self { dir, format })
    }

    /// Adds `file` and returns its length and digest.
    pub fn add(&self, file: &Path) -> Result<(u64, Sha256Digest), FileError> {
        let (size_bytes, sha256) = File::open(file).and_then(digest).map_err(failed("read", file))?;
        let path = self.path(sha256);
        if !has_digest(&path, sha256) {
            let part = tempfile::Builder::new()
                .suffix(&format!(".{PART}"))
                .make_in(&self.dir, |part| link_or_copy(file, part))
                .map_err(failed("add a package to", &self.dir))?;
            part.into_temp_path().persist(&path).map_err(|error| failed("write", &path)(error.error))?;
        }
        Ok((size_bytes, sha256))
    }

    /// Sees that each of `packages` is there and what its digest says. What is not is downloaded, or with `offline` refused.
    pub fn provide(
        &self,
        packages: &[Pinned],
        offline: bool,
        tools: &Tools,
        step: &Step,
    ) -> Result<(), LockError> {
        let _lock = wait_for_lock(&self.dir, step).map_err(failed("lock", &self.dir))?;
        let missing: Vec<_> = packages
            .iter()
            .filter(|package| !has_digest(&self.path(package.sha256), package.sha256))
            .collect();
        if missing.is_empty() {
            return Ok(());
        }
        if offline {
            let packages = missing.into_iter().map(Pinned::title).collect();
            return Err(LockError::Offline { pool: self.dir.clone(), packages });
        }
        self.remove_parts()?;
        let size_bytes = missing.iter().map(|package| package.size_bytes).sum();
        step.note(&format!("downloading {} packages, {}", missing.len(), human(size_bytes)));
        let queue = Mutex::new(missing.into_iter());
        let work = || -> Result<(), LockError> {
            let next = || queue.lock().expect("nobody panics while taking a package").next();
            while let Some(package) = next() {
                let downloaded = self.download(package, tools, step);
                if downloaded.is_err() {
                    // The others come to an end as well.
                    while next().is_some() {}
                }
                downloaded?;
            }
            Ok(())
        };
        thread::scope(|scope| {
            let workers: Vec<_> = (0..DOWNLOADS).map(|_| scope.spawn(work)).collect();
            workers.into_iter().try_for_each(|worker| {
                worker.join().unwrap_or_else(|panicked| std::panic::resume_unwind(panicked))
            })
        })
    }

    /// Puts the files of `packages`, which are provided, into the directory `dir` under the names that the package manager
    /// gives them.
    pub fn link_into(&self, dir: &Path, packages: &[Pinned]) -> Result<(), FileError> {
        for package in packages {
            let path = dir.join(self.format.file_name(package));
            link_or_copy(&self.path(package.sha256), &path).map_err(failed("create", &path))?;
        }
        Ok(())
    }

    fn download(&self, package: &Pinned, tools: &Tools, step: &Step) -> Result<(), LockError> {
        let path = self.path(package.sha256);
        let part = path.with_extension(PART);
        let mut command = program("curl");
        command.args(CURL_OPTIONS).arg("--output").arg(&part).args(["--url", &package.url]);
        let what = format!("downloading {} from {}", package.title(), package.url);
        tools.run(&what, View::Host, command, step)?;
        let (_, found) = File::open(&part).and_then(digest).map_err(failed("read", &part))?;
        if found != package.sha256 {
            fs::remove_file(&part).map_err(failed("remove", &part))?;
            return Err(LockError::Digest {
                package: package.title(),
                url: package.url.clone(),
                expected: package.sha256,
                found,
            });
        }
        fs::rename(&part, &path).map_err(failed("write", &path))?;
        Ok(())
    }

    /// Those of a build that was killed. Nobody else has the lock.
    fn remove_parts(&self) -> Result<(), FileError> {
        let list = failed("list", &self.dir);
        for entry in fs::read_dir(&self.dir).map_err(&list)? {
            let path = entry.map_err(&list)?.path();
            if path.extension().is_some_and(|extension| extension == PART) {
                fs::remove_file(&path).map_err(failed("remove", &path))?;
            }
        }
        Ok(())
    }

    fn path(&self, sha256: Sha256Digest) -> PathBuf {
        self.dir.join(format!("{sha256}.{}", self.format))
    }
}

/// What cannot be read is not there.
fn has_digest(path: &Path, sha256: Sha256Digest) -> bool {
    File::open(path).and_then(digest).is_ok_and(|(_, found)| found == sha256)
}

/// A second name where that is possible: on one file system. Of the file itself: a second name of a link would be gone with
/// what it points to.
fn link_or_copy(from: &Path, to: &Path) -> io::Result<()> {
    use io::ErrorKind::{CrossesDevices, PermissionDenied};
    let from = fs::canonicalize(from)?;
    match fs::hard_link(&from, to) {
        // Files of others are not everybody's to link (proc_sys_fs(5), protected_hardlinks).
        Err(error) if [CrossesDevices, PermissionDenied].contains(&error.kind()) => {
            fs::copy(&from, to).map(|_| ())
        }
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::Progress;
    use crate::sandbox::Sandbox;
    use crate::testing::is_root;

    struct Lab {
        dir: tempfile::TempDir,
        pool: Pool,
        tools: Tools,
        package: Pinned,
    }

    /// A repository of one file, and an empty pool.
    fn lab() -> Lab {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("hello.rpm");
        fs::write(&file, "hello").unwrap();
        let (size_bytes, sha256) = digest(&b"hello"[..]).unwrap();
        let package = Pinned {
            name: "hello".into(),
            version: "2.0-1".into(),
            architecture: "noarch".into(),
            sha256,
            size_bytes,
            url: format!("file://{}", file.display()),
            priority: None,
        };
        let tools = Tools::new(Sandbox::new(&dir.path().join("root")), &dir.path().join("log")).unwrap();
        let pool = Pool::open(&dir.path().join("cache"), PackageFormat::Rpm).unwrap();
        Lab { dir, pool, tools, package }
    }

    #[test]
    fn a_link_in_a_repository_becomes_a_file_of_the_pool() {
        let lab = lab();
        let link = lab.dir.path().join("link.rpm");
        std::os::unix::fs::symlink(lab.repository_file(), &link).unwrap();
        let (_, sha256) = lab.pool.add(&link).unwrap();
        assert!(lab.pool.path(sha256).symlink_metadata().unwrap().is_file());
    }

    impl Lab {
        fn provide(&self, offline: bool) -> Result<(), String> {
            let step = Progress::quiet().step("test");
            let packages = std::slice::from_ref(&self.package);
            self.pool.provide(packages, offline, &self.tools, &step).map_err(|error| error.to_string())
        }

        fn repository_file(&self) -> PathBuf {
            self.dir.path().join("hello.rpm")
        }
    }

    #[test]
    fn what_is_missing_or_damaged_is_downloaded_and_refused_offline() {
        if !is_root() {
            return;
        }
        let lab = lab();
        let error = lab.provide(true).unwrap_err();
        assert!(error.contains("  hello 2.0-1 (noarch)\nhint: build once without --offline"), "{error}");
        lab.provide(false).unwrap();
        lab.provide(true).unwrap();
        fs::write(lab.pool.path(lab.package.sha256), "jello").unwrap();
        assert!(lab.provide(true).is_err());
        lab.provide(false).unwrap();
        assert_eq!(fs::read(lab.pool.path(lab.package.sha256)).unwrap(), b"hello");
    }

    #[test]
    fn a_download_that_is_something_else_is_refused_with_both_digests() {
        if !is_root() {
            return;
        }
        let lab = lab();
        fs::write(lab.repository_file(), "other").unwrap();
        let error = lab.provide(false).unwrap_err();
        let (_, found) = digest(&b"other"[..]).unwrap();
        for part in [&lab.package.url, &lab.package.sha256.to_string(), &found.to_string()] {
            assert!(error.contains(part), "{error}");
        }
        assert_eq!(fs::read_dir(&lab.pool.dir).unwrap().count(), 0, "something is left");
        fs::remove_file(lab.repository_file()).unwrap();
        let error = lab.provide(false).unwrap_err();
        assert!(error.contains(&lab.package.url) && error.contains("curl: "), "{error}");
    }

    #[test]
    fn files_are_added_under_their_digests_and_handed_out_under_their_names() {
        let lab = lab();
        assert_eq!(
            lab.pool.add(&lab.repository_file()).unwrap(),
            (lab.package.size_bytes, lab.package.sha256)
        );
        let out = lab.dir.path().join("out");
        fs::create_dir(&out).unwrap();
        lab.pool.link_into(&out, std::slice::from_ref(&lab.package)).unwrap();
        assert_eq!(fs::read(out.join("hello-2.0-1.noarch.rpm")).unwrap(), b"hello");
    }
}
