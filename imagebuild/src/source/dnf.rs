//! Distributions made of RPM packages, by the build host's dnf 4 or 5 with `--installroot`.
//!
//! dnf sees the recipe's repositories and nothing of the host's configuration: no repository, plug-in, variable or
//! rpm macro. It does not mount anything, so /proc, /sys and /dev come from the sandbox.

use std::fmt::Write;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use bootspec::manifest::Package;

use super::scriptlet::Watch;
use super::{Job, Purpose, ScriptletFailure, SourceError, make_dir, parse_packages};
use crate::recipe::{Dnf, Location, Proxy, Repository};
use crate::sandbox::View;
use crate::tool::{hide_proxies, program};

/// Where the image's own rpm looks for its database; hosts have other ideas. rpm leaves /proc and /sys alone, which
/// are mounted while the packages that own them are unpacked.
const RPM_MACROS: &str = "%_dbpath /var/lib/rpm\n%_netsharedpath /proc:/sys\n";
/// What rpm prints of a package for [`parse_packages`].
pub(super) const PACKAGE_FORMAT: &str = "%{NAME}\\t%|EPOCH?{%{EPOCH}:}:{}|%{VERSION}-%{RELEASE}\\t%{ARCH}\\n";
/// rpm's pseudo-package for an imported key.
pub(super) const KEY_PACKAGE: &str = "gpg-pubkey";

impl Job<'_> {
    pub(super) fn dnf(&self, source: &Dnf, purpose: Purpose) -> Result<Vec<Package>, SourceError> {
        let work = tempfile::tempdir()
            .map_err(|error| SourceError::Prepare { path: std::env::temp_dir(), source: error })?;
        let work = work.path();
        write_configuration(source, work)?;
        make_dir(self.root())?;
        // dnf's own lock names the process that holds it, and in its PID namespace each is the first.
        let _lock = self.lock_cache(&self.dnf_cache())?;
        if !source.modules.is_empty() {
            let mut command = self.dnf_command(source, work);
            command.args(["module", "enable"]).args(&source.modules);
            self.tools.run("enabling module streams with dnf", View::HostAndRoot, command, self.step)?;
        }
        let mut watch = Watch::default();
        let mut command = self.dnf_command(source, work);
        if purpose == Purpose::KernelOnly {
            command.arg("--setopt=tsflags=noscripts");
        }
        command.arg("install").args(&self.packages);
        command.args(source.groups.iter().map(|group| format!("@{group}")));
        let what = "installing packages with dnf";
        self.tools.run_watched(what, View::HostAndRoot, command, self.step, &mut |line| watch.line(line))?;
        self.remove_traces()?;
        self.judge(watch.failures())?;
        self.rpm_packages(work)
    }

    /// dnf without a command of its own, on the recipe's repositories.
    fn dnf_command(&self, source: &Dnf, work: &Path) -> Command {
        let mut command = rpm_program("dnf", work);
        if source.names_proxy() {
            hide_proxies(&mut command);
        }
        command.arg(format!("--config={}", work.join("dnf.conf").display()));
        command.arg(format!("--installroot={}", self.root().display()));
        command.arg(format!("--releasever={}", source.releasever)).args(["--noplugins", "--refresh", "-y"]);
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
}

/// rpm reads its macros from the home directory.
fn rpm_program(name: &str, work: &Path) -> Command {
    let mut command = program(name);
    command.env("HOME", work);
    command
}

fn write_configuration(source: &Dnf, work: &Path) -> Result<(), SourceError> {
    for directory in ["repositories", "variables"] {
        make_dir(&work.join(directory))?;
    }
    write(&work.join(".rpmmacros"), RPM_MACROS)?;
    write(&work.join("dnf.conf"), &configuration(source, work))?;
    source.vars.iter().try_for_each(|(name, value)| write(&work.join("variables").join(name), value))
}

fn write(path: &Path, text: &str) -> Result<(), SourceError> {
    fs::write(path, text).map_err(|source| SourceError::Prepare { path: path.to_owned(), source })
}

/// dnf.conf(5) with everything in one file. The directories for more of it are empty ones of our own.
fn configuration(source: &Dnf, work: &Path) -> String {
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
    for repository in &source.repositories {
        write_repository(&mut text, repository).expect("writing to a string does not fail");
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
