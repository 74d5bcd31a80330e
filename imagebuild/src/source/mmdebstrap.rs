//! Debian and its relatives, by mmdebstrap(1) in root mode.
//!
//! The archive of downloaded packages is a directory of the cache, mounted over the root's own while mmdebstrap runs,
//! so that a package is downloaded once. mmdebstrap mounts /proc, /sys and /dev by itself.
//!
//! Package files to install from become such an archive, with the index of a repository beside them. apt is given that
//! repository in place of those in the root's sources.list, which stays as mmdebstrap writes it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use bootspec::manifest::Package;

use super::{
    Job, PackageFiles, PackageFormat, Purpose, SourceError, Traced, apt, parse_packages, set_proxy, work_dir,
};
use crate::recipe::Mmdebstrap;
use crate::sandbox::View;
use crate::tool::program;

/// Where apt keeps what it downloads. The mount goes with the sandbox.
const MOUNT_ARCHIVES: &str = r#"mkdir -p "$1/var/cache/apt/archives" && mount --bind "$BOOTNODE_ARCHIVES" "$1/var/cache/apt/archives""#;
/// Gives apt the repository of package files in place of the recipe's.
const USE_FILES: &str = r#"printf 'Dir::Etc::SourceList "%s";\nDir::Etc::SourceParts "/dev/null";\n' "$BOOTNODE_ARCHIVES/sources.list" >> "$MMDEBSTRAP_APT_CONFIG""#;
/// mmdebstrap must not empty the cache; and that this machine runs programs for the image's has been looked at already.
const SKIPPED: &str = "essential/unlink,cleanup/apt/cache,check/qemu";
/// mmdebstrap's own hooks that make /bin, /sbin and /lib links before the first package is unpacked, where the suite
/// wants that. Without them the package usrmerge does it afterwards, and brings perl into the image for it.
const HOOKS: &str = "/usr/share/mmdebstrap/hooks";
/// Runs the first of them, but not where base-files brings the links along and only provides the name usr-is-merged, as
/// Ubuntu's does since 24.04: `maybe-merged-usr` takes that for a package and misses it later (mmdebstrap 1.3).
const MERGE_USR: &str = r#"cd "$1"; export APT_CONFIG="$MMDEBSTRAP_APT_CONFIG"
apt-get update --error-on=any
if apt-cache show --no-all-versions usr-is-merged 2> /dev/null | grep --quiet '^Package: usr-is-merged$'; then
    "$BOOTNODE_HOOKS/merged-usr/setup00.sh" "$1"
fi"#;
/// Runs the second where the first has left its work to be finished.
const FINISH_MERGED_USR: &str = r#"if [ -n "$(dpkg-query --root="$1" --show --showformat='${Version}' usr-is-merged 2> /dev/null)" ]; then
    "$BOOTNODE_HOOKS/maybe-merged-usr/essential00.sh" "$1"
fi"#;
/// Writes what is installed to `packages`, as apt names packages: `NAME:ARCHITECTURE=VERSION`.
const LIST_INSTALLED: &str = r#"dpkg-query --admindir="$1/var/lib/dpkg" --show --showformat='${Package}:${Architecture}=${Version}\n' > "$BOOTNODE_WORK/packages""#;
/// The same of what was unpacked. dpkg knows nothing of it, but apt says once more what it takes.
const LIST_UNPACKED: &str = r#"set -f; mkdir -p "$BOOTNODE_WORK/none/partial"
apt-get install --yes --print-uris -oDir::Cache::archives="$BOOTNODE_WORK/none" $BOOTNODE_PACKAGES > "$BOOTNODE_WORK/taken"
sed -n "s/^'[^']*' \([^_]*\)_\([^_]*\)_\([^_]*\)\.deb .*/\1:\3=\2/p" "$BOOTNODE_WORK/taken" | sed 's/%3a/:/g' > "$BOOTNODE_WORK/packages""#;
/// Writes where those packages lie to `uris`, and what the repositories say of them to `stanzas`.
const TRACE: &str = r#"cd "$BOOTNODE_WORK"
xargs apt-get download --print-uris -oAcquire::ForceHash=SHA256 < packages > uris
xargs apt-cache show --no-all-versions < packages > stanzas"#;
/// Control files of packages, each with the separator behind it.
const PRINT_CONTROLS: &str = r#"for deb; do dpkg-deb --field "$deb"; echo; done > "$BOOTNODE_CONTROLS""#;

/// One run of mmdebstrap.
struct Run<'a> {
    source: &'a Mmdebstrap,
    purpose: Purpose,
    archives: &'a Path,
    /// For the files that hooks write.
    work: &'a Path,
    /// What to find out at the end.
    hooks: &'a [&'a str],
}

/// What dpkg-query prints of a package for [`parse_packages`].
pub(super) const PACKAGE_FORMAT: &str = r"${Package}\t${Version}\t${Architecture}\n";

impl Job<'_> {
    pub(super) fn mmdebstrap(
        &self,
        source: &Mmdebstrap,
        purpose: Purpose,
    ) -> Result<Vec<Package>, SourceError> {
        let work = work_dir()?;
        let work = work.path();
        if let Some(files) = self.files {
            self.make_repository(source, files)?;
            let hooks: &[_] = if purpose == Purpose::KernelOnly { &[LIST_UNPACKED] } else { &[] };
            self.run_mmdebstrap(&Run { source, purpose, archives: files.dir, work, hooks })?;
            return match purpose {
                Purpose::System => self.dpkg_packages(),
                Purpose::KernelOnly => listed_packages(&work.join("packages")),
            };
        }
        let archives = self.archives();
        // apt gives up at once when another apt works in the same archive of packages.
        let _lock = self.lock_cache(&archives)?;
        self.run_mmdebstrap(&Run { source, purpose, archives: &archives, work, hooks: &[] })?;
        self.dpkg_packages()
    }

    pub(super) fn mmdebstrap_and_trace(
        &self,
        source: &Mmdebstrap,
        purpose: Purpose,
    ) -> Result<Vec<Traced>, SourceError> {
        let work = work_dir()?;
        let work = work.path();
        let archives = self.archives();
        let _lock = self.lock_cache(&archives)?;
        let list = match purpose {
            Purpose::System => LIST_INSTALLED,
            Purpose::KernelOnly => LIST_UNPACKED,
        };
        self.run_mmdebstrap(&Run { source, purpose, archives: &archives, work, hooks: &[list, TRACE] })?;
        let uris = apt::parse_uris(&read(&work.join("uris"))?);
        let described = apt::parse_stanzas(&read(&work.join("stanzas"))?);
        let trace = |package: Package| {
            let of_package = described.iter().filter(|described| described.package == package);
            let found =
                of_package.filter_map(|described| Some((described, uris.get(&described.sha256)?))).next();
            let Some((described, location)) = found else {
                return Err(SourceError::Untraced {
                    package: format!("{} {}", package.name, package.version),
                });
            };
            let file = match location.url.strip_prefix("file://") {
                Some(path) => PathBuf::from(path),
                None => archives.join(&location.file_name),
            };
            let (url, sha256, priority) =
                (location.url.clone(), Some(described.sha256), described.priority.clone());
            Ok(Traced { package, url, file, sha256, priority })
        };
        listed_packages(&work.join("packages"))?.into_iter().map(trace).collect()
    }

    fn run_mmdebstrap(&self, run: &Run<'_>) -> Result<(), SourceError> {
        let Run { source, purpose, archives, work, hooks } = run;
        let packages: Vec<_> = self.packages.iter().map(|package| self.asked_for(package)).collect();
        let mut command = program("mmdebstrap");
        // The node's initramfs is made by imagebuild: the kernel package needs none.
        command.env("INITRD", "No").env("BOOTNODE_ARCHIVES", archives).env("BOOTNODE_WORK", work);
        command.env("BOOTNODE_PACKAGES", packages.join(" ")).env("BOOTNODE_HOOKS", HOOKS);
        if let Some(proxy) = &source.proxy {
            set_proxy(&mut command, proxy);
        }
        command.args(["--mode=root", "--format=directory"]);
        command.args(
            self.architecture.map(|architecture| format!("--architectures={}", architecture.debian_name())),
        );
        command.arg(match purpose {
            Purpose::System => format!("--variant={}", source.variant),
            Purpose::KernelOnly => "--variant=extract".to_owned(),
        });
        // Before the hooks of mmdebstrap's own, which ask apt what there is.
        command.arg(format!("--setup-hook={MOUNT_ARCHIVES}"));
        if self.files.is_some() {
            command.arg(format!("--setup-hook={USE_FILES}"));
        }
        if *purpose == Purpose::System && Path::new(HOOKS).join("maybe-merged-usr").is_dir() {
            command.arg(format!("--setup-hook={MERGE_USR}"));
            command.arg(format!("--essential-hook={FINISH_MERGED_USR}"));
        }
        add_last_hooks(&mut command, *purpose, hooks);
        command.arg(format!("--skip={SKIPPED}"));
        command.args(source.keyrings.iter().map(|keyring| format!("--keyring={}", keyring.display())));
        if !source.components.is_empty() {
            command.arg(format!("--components={}", source.components.join(",")));
        }
        if !packages.is_empty() {
            command.arg(format!("--include={}", packages.join(",")));
        }
        command.arg(&source.suite).arg(self.root()).args(&source.mirrors);
        Ok(self.tools.run("installing packages with mmdebstrap", View::Host, command, self.step)?)
    }

    /// `NAME/SUITE` asks for the package of a suite. Package files are of none.
    fn asked_for<'p>(&self, package: &'p str) -> &'p str {
        match (self.files, package.split_once('/')) {
            (Some(_), Some((name, _suite))) => name,
            _ => package,
        }
    }

    /// Where apt keeps what it downloads, between builds.
    fn archives(&self) -> PathBuf {
        self.cache.join("apt")
    }

    /// Makes the directory of the files a repository of `source`'s suite.
    fn make_repository(&self, source: &Mmdebstrap, files: PackageFiles<'_>) -> Result<(), SourceError> {
        let PackageFiles { dir, packages } = files;
        let file_name = |package: &_| PackageFormat::Deb.file_name(package);
        let controls = dir.join("controls");
        let mut command = program("sh");
        command.args(["-e", "-c", PRINT_CONTROLS, "sh"]).env("BOOTNODE_CONTROLS", &controls);
        command.args(packages.iter().map(|package| dir.join(file_name(package))));
        self.tools.run("reading packages with dpkg-deb", View::Host, command, self.step)?;
        let controls: Vec<_> = read(&controls)?.split_terminator("\n\n").map(str::to_owned).collect();
        let suite = &source.suite;
        let texts = [
            ("Packages", apt::index(packages, &controls, file_name)),
            // mmdebstrap asks apt for packages of the suite.
            ("Release", format!("Suite: {suite}\nCodename: {suite}\n")),
            ("sources.list", format!("deb [trusted=yes] copy:{} ./\n", dir.display())),
        ];
        texts.iter().try_for_each(|(name, text)| {
            let path = dir.join(name);
            fs::write(&path, text).map_err(|source| SourceError::Prepare { path, source })
        })
    }

    /// Packages that were only unpacked are not in dpkg's database.
    fn dpkg_packages(&self) -> Result<Vec<Package>, SourceError> {
        let mut command = program("dpkg-query");
        command.arg(format!("--admindir={}", self.root().join("var/lib/dpkg").display()));
        command.args(["--show", &format!("--showformat={PACKAGE_FORMAT}")]);
        let lines = self.tools.lines("listing packages with dpkg-query", View::Host, command, self.step)?;
        parse_packages("dpkg-query", &lines)
    }
}

/// The variant that only unpacks does not come to the hooks at the end.
fn add_last_hooks(command: &mut Command, purpose: Purpose, hooks: &[&str]) {
    let option = match purpose {
        Purpose::System => "customize",
        Purpose::KernelOnly => "extract",
    };
    let with_apt = |hook: &&str| format!(r#"set -eu; export APT_CONFIG="$MMDEBSTRAP_APT_CONFIG"; {hook}"#);
    command.args(hooks.iter().map(|hook| format!("--{option}-hook={}", with_apt(hook))));
}

/// What [`LIST_INSTALLED`] writes.
fn listed_packages(path: &Path) -> Result<Vec<Package>, SourceError> {
    let parse = |line: &str| {
        let (name, version) = line.split_once('=')?;
        let (name, architecture) = name.split_once(':')?;
        Some(Package { name: name.into(), version: version.into(), architecture: architecture.into() })
    };
    let unclear =
        |line: &str| SourceError::PackageList { program: "mmdebstrap's hook", line: line.to_owned() };
    read(path)?.lines().map(|line| parse(line).ok_or_else(|| unclear(line))).collect()
}

fn read(path: &Path) -> Result<String, SourceError> {
    fs::read_to_string(path).map_err(|source| SourceError::Prepare { path: path.to_owned(), source })
}
