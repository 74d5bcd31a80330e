//! Distributions made of RPM packages, by the build host's dnf 4 or 5 with `--installroot`.
//!
//! dnf sees the recipe's repositories and nothing of the host's configuration: no repository, plug-in, variable or
//! rpm macro. It does not mount anything, so /proc, /sys and /dev come from the sandbox.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use bootspec::manifest::Package;

use super::scriptlet::Watch;
use super::{
    Job, PackageFormat, Purpose, ScriptletFailure, SourceError, Traced, make_dir, parse_packages, work_dir,
};
use crate::recipe::{Dnf, Location, Proxy, Repository};
use crate::sandbox::View;
use crate::tool::{ToolError, hide_proxies, program};
use crate::user_namespace;

/// Where the image's own rpm looks for its database; hosts have other ideas. rpm leaves /proc and /sys alone, which
/// are mounted while the packages that own them are unpacked.
const RPM_MACROS: &str = "%_dbpath /var/lib/rpm\n%_netsharedpath /proc:/sys\n";
/// What rpm prints of a package for [`parse_packages`].
pub(super) const PACKAGE_FORMAT: &str = "%{NAME}\\t%|EPOCH?{%{EPOCH}:}:{}|%{VERSION}-%{RELEASE}\\t%{ARCH}\\n";
/// The same behind the digest of the header, which no other package has, and in the form of repoquery(8).
const TRACE_FORMAT: &str = "%{SHA256HEADER}\\t%{NAME}-%{EPOCHNUM}:%{VERSION}-%{RELEASE}.%{ARCH}\\t";
/// Without a root to keep logs in, dnf 4 writes into the build host's /var/log, and fails where it may not. The mount goes
/// with the sandbox.
const VERSION: &str = "mount -t tmpfs tmpfs /var/log && exec dnf --version";
/// rpm's pseudo-package for an imported key.
pub(super) const KEY_PACKAGE: &str = "gpg-pubkey";

impl Job<'_> {
    pub(super) fn dnf(&self, source: &Dnf, purpose: Purpose) -> Result<Vec<Package>, SourceError> {
        let work = work_dir()?;
        self.run_dnf(source, purpose, work.path())?;
        self.rpm_packages(work.path())
    }

    pub(super) fn dnf_and_trace(&self, source: &Dnf, purpose: Purpose) -> Result<Vec<Traced>, SourceError> {
        let work = work_dir()?;
        let work = work.path();
        self.run_dnf(source, purpose, work)?;
        let installed = self.installed(work)?;
        let mut files = self.downloaded(&self.urls(source, &installed, work)?, work)?;
        let trace = |Installed { package, header, nevra }| {
            let (url, file) =
                files.remove(&(nevra.clone(), header)).ok_or(SourceError::Untraced { package: nevra })?;
            Ok(Traced { package, url, file, sha256: None, priority: None })
        };
        installed.into_iter().map(trace).collect()
    }

    fn run_dnf(&self, source: &Dnf, purpose: Purpose, work: &Path) -> Result<(), SourceError> {
        let configuration = match self.files {
            Some(_) => main_configuration(source, work),
            None => configuration(source, work),
        };
        write_configuration(source, &configuration, work)?;
        make_dir(self.root())?;
        // dnf's own lock names the process that holds it, and in its PID namespace each is the first.
        let _lock = self.lock_cache(&self.dnf_cache())?;
        if !source.modules.is_empty() {
            let mut command = self.dnf_command(source, work);
            command.args(["--refresh", "-y", "module", "enable"]).args(&source.modules);
            self.tools.run("enabling module streams with dnf", View::HostAndRoot, command, self.step)?;
        }
        let mut watch = Watch::default();
        let command = self.install_command(source, purpose, work);
        let what = "installing packages with dnf";
        let mut refused = None;
        let result = self.tools.run_watched(what, View::HostAndRoot, command, self.step, &mut |line| {
            watch.line(line);
            if refused.is_none() && line.contains("unpacking of archive failed") {
                refused = Some(line.to_owned());
            }
        });
        match (result, refused) {
            // A list of all packages follows, behind which this line is forgotten.
            (Err(ToolError::Failed { log, .. }), Some(line)) if user_namespace::is_entered() => {
                return Err(SourceError::Unpack { line, log });
            }
            (result, _) => result?,
        }
        self.remove_traces()?;
        self.judge(watch.failures())
    }

    fn install_command(&self, source: &Dnf, purpose: Purpose, work: &Path) -> Command {
        let mut command = self.dnf_command(source, work);
        command.arg("-y");
        if purpose == Purpose::KernelOnly {
            command.arg("--setopt=tsflags=noscripts");
        }
        match self.files {
            Some(files) => {
                // The lock's digests stand for signatures.
                command.args(["--setopt=localpkg_gpgcheck=0", "install"]);
                let path = |package| files.dir.join(PackageFormat::Rpm.file_name(package));
                command.args(files.packages.iter().map(path));
            }
            None => {
                command.args(["--refresh", "install"]).args(&self.packages);
                command.args(source.groups.iter().map(|group| format!("@{group}")));
            }
        }
        command
    }

    /// dnf without a command of its own, on the recipe's repositories.
    fn dnf_command(&self, source: &Dnf, work: &Path) -> Command {
        let mut command = rpm_program("dnf", work);
        if source.names_proxy() {
            hide_proxies(&mut command);
        }
        command.arg(format!("--config={}", work.join("dnf.conf").display()));
        command.arg(format!("--installroot={}", self.root().display()));
        command.args(self.architecture.map(|architecture| format!("--forcearch={architecture}")));
        command.arg(format!("--releasever={}", source.releasever)).arg("--noplugins");
        // In the configuration file these would be taken relative to the root.
        command.arg(format!("--setopt=cachedir={}", self.dnf_cache().display()));
        command.arg(format!("--setopt=persistdir={}", work.join("persist").display()));
        command
    }

    fn dnf_cache(&self) -> PathBuf {
        self.cache.join("dnf")
    }

    /// dnf 4 notes expired repositories below the path of the cache, but in the root.
    fn remove_traces(&self) -> Result<(), SourceError> {
        let cache = self.dnf_cache();
        let inside = self.root().join(cache.strip_prefix("/").unwrap_or(&cache));
        let expired = inside.join("expired_repos.json");
        match fs::remove_file(&expired) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            result => result.map_err(|source| SourceError::Prepare { path: expired, source })?,
        }
        let made =
            inside.ancestors().take_while(|dir| dir.parent().is_some_and(|parent| parent != self.root()));
        for dir in made {
            // One that is not empty belongs to a package, and so do those above it.
            if fs::remove_dir(dir).is_err() {
                break;
            }
        }
        Ok(())
    }

    /// Failures that the recipe allows are noted, the others fail the build.
    pub(super) fn judge(&self, failures: Vec<ScriptletFailure>) -> Result<(), SourceError> {
        let (allowed, failures): (Vec<_>, Vec<_>) =
            failures.into_iter().partition(|failure| self.allowed_failures.contains(&failure.package));
        for failure in allowed {
            self.step.note(&format!("allowed by the recipe: {}: {}", failure.package, failure.message));
        }
        if failures.is_empty() { Ok(()) } else { Err(SourceError::Scriptlets { failures }) }
    }

    fn rpm_packages(&self, work: &Path) -> Result<Vec<Package>, SourceError> {
        let mut command = rpm_program("rpm", work);
        command.arg("--root").arg(self.root()).args(["-qa", "--qf", PACKAGE_FORMAT]);
        let lines = self.tools.lines("listing packages with rpm", View::Host, command, self.step)?;
        let mut packages = parse_packages("rpm", &lines)?;
        packages.retain(|package| package.name != KEY_PACKAGE);
        Ok(packages)
    }

    /// What is installed, with what tells it from other builds of the same version.
    fn installed(&self, work: &Path) -> Result<Vec<Installed>, SourceError> {
        let mut command = rpm_program("rpm", work);
        command.arg("--root").arg(self.root()).args([
            "-qa",
            "--qf",
            &format!("{TRACE_FORMAT}{PACKAGE_FORMAT}"),
        ]);
        let lines = self.tools.lines("listing packages with rpm", View::Host, command, self.step)?;
        let mut installed = lines.iter().map(|line| Installed::parse(line)).collect::<Result<Vec<_>, _>>()?;
        installed.retain(|installed| installed.package.name != KEY_PACKAGE);
        Ok(installed)
    }

    /// Where the repositories have these packages. A version may be in several.
    fn urls(&self, source: &Dnf, installed: &[Installed], work: &Path) -> Result<Vec<String>, SourceError> {
        let version = version_command();
        let version = self.tools.lines("asking dnf for its version", View::Host, version, self.step)?;
        let mut command = self.dnf_command(source, work);
        command.args(["--cacheonly", "--quiet", "repoquery"]);
        // Each of the two knows one of these.
        match version.first().is_some_and(|line| line.starts_with("dnf5")) {
            true => command.args(["--queryformat", "%{remote_location}\\n"]),
            false => command.arg("--location"),
        };
        command.args(installed.iter().map(|installed| &installed.nevra));
        let what = "asking dnf where packages are from";
        let mut lines = self.tools.lines(what, View::HostAndRoot, command, self.step)?;
        self.remove_traces()?;
        lines.retain(|line| line.contains("://"));
        Ok(lines)
    }

    /// The files behind `urls` that are on this machine, in the cache or where a file URL says, with their URLs, by names and
    /// digests of their headers.
    fn downloaded(&self, urls: &[String], work: &Path) -> Result<Files, SourceError> {
        let packages = |entry: fs::DirEntry| entry.path().join("packages");
        let cache = self.dnf_cache();
        let dirs: Vec<_> = cache.read_dir().into_iter().flatten().flatten().map(packages).collect();
        let candidates = urls.iter().flat_map(|url| match url.strip_prefix("file://") {
            Some(path) => vec![(url.clone(), PathBuf::from(path))],
            None => {
                let name = url.rsplit('/').next().unwrap_or_default();
                dirs.iter().map(|dir| (url.clone(), dir.join(name))).collect()
            }
        });
        let candidates: Vec<_> = candidates.filter(|(_, path)| path.is_file()).collect();
        if candidates.is_empty() {
            return Ok(Files::new());
        }
        let mut command = rpm_program("rpm", work);
        // dnf has checked the signatures of those that it installed.
        command.args([
            "-q",
            "--nosignature",
            "--qf",
            &format!("{TRACE_FORMAT}{PACKAGE_FORMAT}"),
            "--package",
        ]);
        command.args(candidates.iter().map(|(_, path)| path));
        let lines = self.tools.lines("reading packages with rpm", View::Host, command, self.step)?;
        let file = |(line, candidate): (&String, _)| {
            let Installed { nevra, header, .. } = Installed::parse(line)?;
            Ok(((nevra, header), candidate))
        };
        // Of several equal ones the first counts.
        lines.iter().zip(candidates).rev().map(file).collect()
    }
}

/// Package files with their URLs, by names and digests of their headers.
type Files = BTreeMap<(String, String), (String, PathBuf)>;

/// A line of [`TRACE_FORMAT`] and [`PACKAGE_FORMAT`].
struct Installed {
    package: Package,
    header: String,
    nevra: String,
}

impl Installed {
    fn parse(line: &str) -> Result<Self, SourceError> {
        let [header, nevra, package] = line.splitn(3, '\t').collect::<Vec<_>>()[..] else {
            return Err(SourceError::PackageList { program: "rpm", line: line.to_owned() });
        };
        let package = parse_packages("rpm", &[package.to_owned()])?.remove(0);
        Ok(Self { package, header: header.to_owned(), nevra: nevra.to_owned() })
    }
}

pub(super) fn version_command() -> Command {
    let mut command = program("sh");
    command.args(["-c", VERSION]);
    command
}

/// rpm reads its macros from the home directory.
fn rpm_program(name: &str, work: &Path) -> Command {
    let mut command = program(name);
    command.env("HOME", work);
    command
}

fn write_configuration(source: &Dnf, configuration: &str, work: &Path) -> Result<(), SourceError> {
    for directory in ["repositories", "variables"] {
        make_dir(&work.join(directory))?;
    }
    write(&work.join(".rpmmacros"), RPM_MACROS)?;
    write(&work.join("dnf.conf"), configuration)?;
    source.vars.iter().try_for_each(|(name, value)| write(&work.join("variables").join(name), value))
}

fn write(path: &Path, text: &str) -> Result<(), SourceError> {
    fs::write(path, text).map_err(|source| SourceError::Prepare { path: path.to_owned(), source })
}

/// dnf.conf(5) with everything in one file.
fn configuration(source: &Dnf, work: &Path) -> String {
    let mut text = main_configuration(source, work);
    for repository in &source.repositories {
        write_repository(&mut text, repository).expect("writing to a string does not fail");
    }
    text
}

/// What of it is not a repository. The directories for more of it are empty ones of our own.
fn main_configuration(source: &Dnf, work: &Path) -> String {
    let mut text = format!(
        "[main]\nreposdir={}\nvarsdir={}\nplugins=0\nkeepcache=1\nbest=1\nskip_if_unavailable=0\ninstall_weak_deps={}\n",
        work.join("repositories").display(),
        work.join("variables").display(),
        u8::from(source.weak_deps),
    );
    if let Some(id) = &source.module_platform_id {
        text += &format!("module_platform_id={id}\n");
    }
    if !source.excludes.is_empty() {
        text += &format!("excludepkgs={}\n", source.excludes.join(","));
    }
    if let Some(proxy) = &source.proxy {
        text += &proxy_line(proxy);
    }
    text
}

fn write_repository(text: &mut String, repository: &Repository) -> std::fmt::Result {
    writeln!(text, "\n[{0}]\nname={0}\nenabled=1", repository.name)?;
    match &repository.location {
        Location::BaseUrl(url) => writeln!(text, "baseurl={url}")?,
        Location::Metalink(url) => writeln!(text, "metalink={url}")?,
        Location::MirrorList(url) => writeln!(text, "mirrorlist={url}")?,
    }
    writeln!(text, "gpgcheck={}", u8::from(repository.gpgcheck))?;
    writeln!(text, "repo_gpgcheck={}", u8::from(repository.repo_gpgcheck))?;
    writeln!(text, "gpgkey={}", repository.gpgkeys.join(" "))?;
    if let Some(priority) = repository.priority {
        writeln!(text, "priority={priority}")?;
    }
    for (key, packages) in [("excludepkgs", &repository.excludes), ("includepkgs", &repository.includes)] {
        if !packages.is_empty() {
            writeln!(text, "{key}={}", packages.join(","))?;
        }
    }
    if repository.module_hotfixes {
        writeln!(text, "module_hotfixes=1")?;
    }
    repository.proxy.as_ref().map_or(Ok(()), |proxy| text.write_str(&proxy_line(proxy)))
}

/// An empty value means: without a proxy.
fn proxy_line(proxy: &Proxy) -> String {
    format!("proxy={}\n", proxy.url().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_holds_the_recipe_and_nothing_of_the_host() {
        let source = Dnf {
            releasever: "9".into(),
            repositories: vec![Repository {
                name: "base".into(),
                location: Location::BaseUrl("file:///repo".into()),
                gpgkeys: vec!["file:///key".into(), "https://h/key".into()],
                gpgcheck: true,
                repo_gpgcheck: false,
                proxy: Some(Proxy::Direct),
                priority: Some(10),
                excludes: vec!["a".into(), "b".into()],
                includes: vec!["c*".into()],
                module_hotfixes: true,
            }],
            module_platform_id: Some("platform:el9".into()),
            modules: vec!["nodejs:20".into()],
            groups: vec!["core".into()],
            vars: [("stream".into(), "9".into())].into(),
            weak_deps: false,
            excludes: vec!["*-firmware".into(), "foo".into()],
            proxy: Some("http://cache:3128".parse().unwrap()),
        };
        assert_eq!(
            configuration(&source, Path::new("/work")),
            "[main]\nreposdir=/work/repositories\nvarsdir=/work/variables\nplugins=0\nkeepcache=1\nbest=1\n\
             skip_if_unavailable=0\ninstall_weak_deps=0\nmodule_platform_id=platform:el9\n\
             excludepkgs=*-firmware,foo\nproxy=http://cache:3128\n\n[base]\nname=base\nenabled=1\nbaseurl=file:///repo\ngpgcheck=1\n\
             repo_gpgcheck=0\ngpgkey=file:///key https://h/key\n\
             priority=10\nexcludepkgs=a,b\nincludepkgs=c*\nmodule_hotfixes=1\nproxy=\n"
        );
    }
}
