//! Lock files: images of pinned packages, with real mmdebstrap and real dnf, whatever has become of the repositories.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context, Result, ensure};
use bootlab::places::{cache_dir, program};
use bootlab::rpm_repo;
use serde_json::Value;

/// A recipe with its lock, a cache and stores of its own.
struct Site {
    dir: tempfile::TempDir,
}

impl Site {
    fn new(recipe: &str) -> Result<Self> {
        let site = Self { dir: tempfile::tempdir()? };
        fs::write(site.path("recipe.toml"), recipe)?;
        Ok(site)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// `imagebuild COMMAND` on the recipe, with the cache of this name.
    fn run(&self, command: &str, cache: &Path, options: &[&str]) -> Result<Output> {
        let mut imagebuild = Command::new(program("imagebuild")?);
        imagebuild.arg(command).arg(self.path("recipe.toml")).args(options).arg("--json");
        imagebuild.arg("--cache").arg(cache).env("SOURCE_DATE_EPOCH", "1790000000");
        Ok(imagebuild.output()?)
    }

    /// Builds into the store of this name; returns the files of the version.
    fn build(&self, store: &str, cache: &Path, options: &[&str]) -> Result<Built> {
        let store = self.path(store).display().to_string();
        let output = self.run("build", cache, &[options, &["--store", &store]].concat())?;
        let log = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.success(), "{log}");
        let built: Value = serde_json::from_slice(&output.stdout)?;
        let dir = PathBuf::from(built["dir"].as_str().context("it says where it is")?);
        let mut files = BTreeMap::new();
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            files.insert(entry.file_name().to_string_lossy().into_owned(), fs::read(entry.path())?);
        }
        Ok(Built { files, log })
    }

    /// What a build that must fail says.
    fn refused(&self, cache: &Path, options: &[&str]) -> Result<String> {
        let store = self.path("refused").display().to_string();
        let output = self.run("build", cache, &[options, &["--store", &store]].concat())?;
        ensure!(!output.status.success(), "it was built");
        Ok(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

struct Built {
    files: BTreeMap<String, Vec<u8>>,
    log: String,
}

impl Built {
    fn check_same(&self, other: &Self) -> Result<()> {
        let names: Vec<_> = self.files.keys().chain(other.files.keys()).collect();
        let differing: Vec<_> =
            names.into_iter().filter(|name| self.files.get(*name) != other.files.get(*name)).collect();
        ensure!(differing.is_empty(), "{differing:?} differ");
        Ok(())
    }

    fn reused_a_root(&self) -> bool {
        self.log.contains("the root of an earlier build")
    }

    fn version_of(&self, package: &str) -> Result<String> {
        let manifest: Value = serde_json::from_slice(&self.files["manifest.json"])?;
        let packages = manifest["packages"].as_array().context("it has packages")?;
        let found = packages.iter().find(|found| found["name"] == package);
        Ok(found.context("the package is there")?["version"].as_str().unwrap_or_default().to_owned())
    }
}

/// A repository of some packages of the full one, signed as those are, whose metadata are made anew.
struct Repository {
    dir: PathBuf,
    full: PathBuf,
}

impl Repository {
    /// All packages but those whose files begin so.
    fn without(dir: PathBuf, left_out: &str) -> Result<Self> {
        let repository = Self { dir, full: rpm_repo::full()? };
        fs::create_dir(&repository.dir)?;
        for entry in fs::read_dir(repository.full.join("repo/Packages"))? {
            let name = entry?.file_name();
            if !name.to_string_lossy().starts_with(left_out) {
                repository.add_file(&name.to_string_lossy())?;
            }
        }
        repository.index()?;
        Ok(repository)
    }

    fn add_file(&self, name: &str) -> Result<()> {
        std::os::unix::fs::symlink(self.full.join("repo/Packages").join(name), self.dir.join(name))?;
        Ok(())
    }

    fn index(&self) -> Result<()> {
        let output = Command::new("createrepo_c").arg("--quiet").arg(&self.dir).output()?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }
}

fn dnf_recipe(repository: &Repository, packages: &str) -> String {
    format!(
        r#"
name = "locked-dnf"
packages = [{packages}]

[source]
type = "dnf"
releasever = "9"

[[source.repository]]
name = "test"
baseurl = "file://{}"
gpgkeys = ["file://{}/RPM-GPG-KEY-test"]

[compression]
format = "zstd"
level = 1
"#,
        repository.dir.display(),
        repository.full.display()
    )
}

#[test]
fn a_dnf_image_of_a_lock_stays_the_same_when_the_repository_moves_on_or_is_gone() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let repository = Repository::without(dir.path().join("repository"), "hello-2.0-")?;
    let site = Site::new(&dnf_recipe(&repository, r#""kernel-core", "hello""#))?;
    let cache = site.path("cache");
    let error = site.refused(&cache, &["--locked"])?;
    ensure!(error.contains("there is no lock file") && error.contains("hint: `imagebuild lock`"), "{error}");
    let locked = site.run("lock", &cache, &[])?;
    ensure!(locked.status.success(), "{}", String::from_utf8_lossy(&locked.stderr));
    let first = site.build("first", &cache, &["--locked"])?;
    ensure!(first.version_of("hello")? == "1.0-1" && !first.reused_a_root(), "{}", first.log);

    repository.add_file("hello-2.0-1.noarch.rpm")?;
    repository.index()?;
    let check = site.run("lock", &cache, &["--check"])?;
    let result: Value = serde_json::from_slice(&check.stdout)?;
    ensure!(check.status.code() == Some(1) && result["written"] == false, "{result}");
    let change = serde_json::json!([{"what": "hello.noarch", "before": "1.0-1", "after": "2.0-1"}]);
    ensure!(result["changes"] == change, "{result}");
    ensure!(site.build("newest", &cache, &[])?.version_of("hello")? == "2.0-1");

    fs::remove_dir_all(&repository.dir)?;
    // Another machine has the packages and no root.
    let other = site.path("other");
    fs::create_dir(&other)?;
    let copied = Command::new("cp").arg("-r").arg(cache.join("packages")).arg(&other).status()?;
    ensure!(copied.success(), "cp: {copied}");
    let offline = ["--locked", "--offline"];
    let second = site.build("second", &other, &offline)?;
    ensure!(!second.reused_a_root(), "{}", second.log);
    first.check_same(&second)?;
    let third = site.build("third", &cache, &offline)?;
    ensure!(third.reused_a_root(), "{}", third.log);
    first.check_same(&third)?;

    check_damage_is_refused(&site, &other)?;
    fs::write(site.path("recipe.toml"), dnf_recipe(&repository, r#""kernel-core", "bash""#))?;
    let error = site.refused(&cache, &offline)?;
    ensure!(error.contains("packages: only the recipe has bash; only the lock has hello"), "{error}");
    Ok(())
}

/// A package in the cache is changed and the repository is gone: no image, with or without network.
fn check_damage_is_refused(site: &Site, cache: &Path) -> Result<()> {
    let lock: toml::Table = fs::read_to_string(site.path("recipe.lock"))?.parse()?;
    let packages = lock["package"].as_array().context("the lock has packages")?;
    let hello = packages.iter().find(|package| package["name"].as_str() == Some("hello"));
    let sha256 = hello.context("hello is pinned")?["sha256"].as_str().unwrap_or_default();
    let file = cache.join("packages").join(format!("{sha256}.rpm"));
    let mut contents = fs::read(&file)?;
    *contents.last_mut().context("it has contents")? ^= 1;
    fs::write(&file, contents)?;
    let error = site.refused(cache, &["--locked", "--no-cache", "--offline"])?;
    ensure!(error.contains("hello 1.0-1 (noarch)\nhint: build once without --offline"), "{error}");
    let error = site.refused(cache, &["--locked", "--no-cache"])?;
    ensure!(error.contains("downloading hello 1.0-1 (noarch) from file://"), "{error}");
    Ok(())
}

const DEBIAN_RECIPE: &str = r#"
name = "locked-debian"

[source]
type = "mmdebstrap"
suite = "bookworm"
variant = "apt"

[kernel]
package = "linux-image-cloud-amd64"

[compression]
format = "zstd"
level = 1
"#;

/// The first build installs without network from the files alone, the second takes the root that it left.
#[test]
fn a_debian_image_of_a_lock_is_the_same_from_package_files_and_from_a_kept_root() -> Result<()> {
    let site = Site::new(DEBIAN_RECIPE)?;
    let cache = cache_dir();
    let locked = site.run("lock", &cache, &[])?;
    ensure!(locked.status.success(), "{}", String::from_utf8_lossy(&locked.stderr));
    // Of another run of this test.
    let _ = fs::remove_dir_all(cache.join("roots/locked-debian"));
    let first = site.build("first", &cache, &["--locked", "--offline"])?;
    ensure!(!first.reused_a_root(), "{}", first.log);
    let second = site.build("second", &cache, &["--locked", "--offline"])?;
    ensure!(second.reused_a_root(), "{}", second.log);
    first.check_same(&second)
}
