//! Adds packages to a root that exists already, by the package manager in it and from the repositories that it knows.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use bootspec::manifest::Package;

use super::dnf::{KEY_PACKAGE, PACKAGE_FORMAT as RPM_FORMAT};
use super::mmdebstrap::PACKAGE_FORMAT as DPKG_FORMAT;
use super::scriptlet::Watch;
use super::{Job, SourceError, parse_packages, set_proxy, sorted};
use crate::file_error::failed;
use crate::progress::Step;
use crate::recipe::Proxy;
use crate::sandbox::View;
use crate::tool::{Tools, program};

/// Maintainer scripts ask it before they start a service (invoke-rc.d(8)); 101 forbids it.
const POLICY: &str = "/usr/sbin/policy-rc.d";
const POLICY_TEXT: &str = "#!/bin/sh\nexit 101\n";

/// What installs packages: its command, and how it is told.
struct Manager {
    program: &'static str,
    /// Run first.
    refresh: &'static [&'static str],
    install: &'static [&'static str],
}

/// Recommended packages are left out by all.
const MANAGERS: [Manager; 3] = [
    Manager {
        program: "apt-get",
        refresh: &["update", "--error-on=any"],
        install: &["install", "--yes", "--no-install-recommends"],
    },
    Manager { program: "dnf", refresh: &[], install: &["install", "-y", "--setopt=install_weak_deps=False"] },
    Manager {
        program: "microdnf",
        refresh: &[],
        install: &["install", "-y", "--setopt=install_weak_deps=0"],
    },
];

impl Job<'_> {
    pub(super) fn add_packages(&self, proxy: Option<&Proxy>) -> Result<(), SourceError> {
        if self.packages.is_empty() {
            return Ok(());
        }
        let manager = self.manager()?;
        let made_policy = forbid_services(self.tools)?;
        if !manager.refresh.is_empty() {
            self.manage(manager, "refreshing package lists", manager.refresh, &[], proxy)?;
        }
        self.manage(manager, "installing packages", manager.install, &self.packages, proxy)?;
        if made_policy {
            allow_services(self.tools)?;
        }
        Ok(())
    }

    fn manager(&self) -> Result<&'static Manager, SourceError> {
        for manager in &MANAGERS {
            if self.tools.root_has(manager.program)? {
                return Ok(manager);
            }
        }
        let known = MANAGERS.map(|manager| manager.program).join(", ");
        Err(SourceError::NoManager { packages: self.packages.clone(), known })
    }

    fn manage(
        &self,
        manager: &Manager,
        what: &str,
        verb: &[&str],
        packages: &[String],
        proxy: Option<&Proxy>,
    ) -> Result<(), SourceError> {
        let what = format!("{what} with the root's own {}", manager.program);
        let mut command = program(manager.program);
        // The node's initramfs is made by imagebuild: the kernel package needs none.
        command.env("INITRD", "No").args(verb).args(packages);
        proxy.iter().for_each(|proxy| set_proxy(&mut command, proxy));
        let mut watch = Watch::default();
        let on_line = &mut |line: &str| watch.line(line);
        self.tools.run_watched(&what, View::RootOnline, command, self.step, on_line)?;
        self.judge(watch.failures())
    }
}

/// Where Debian's scripts look for a policy, there will be one; says whether it was made.
pub fn forbid_services(tools: &Tools) -> Result<bool, SourceError> {
    let path = Path::new(POLICY);
    let make = || {
        if !path.parent().is_some_and(Path::is_dir) || path.exists() {
            return Ok(false);
        }
        fs::write(path, POLICY_TEXT)?;
        fs::set_permissions(path, PermissionsExt::from_mode(0o755)).map(|()| true)
    };
    Ok(tools.sandbox().inside(|| make().map_err(|error: io::Error| failed("write", path)(error)))??)
}

/// Takes that policy away again, unless there is another one by now.
pub fn allow_services(tools: &Tools) -> Result<(), SourceError> {
    let path = Path::new(POLICY);
    let is_ours = || fs::read(path).is_ok_and(|text| text == POLICY_TEXT.as_bytes());
    let remove = || if is_ours() { fs::remove_file(path).map_err(failed("remove", path)) } else { Ok(()) };
    Ok(tools.sandbox().inside(remove)??)
}

/// What is installed in a root that has brought its package manager along, sorted; None if it has not.
pub fn list_packages(tools: &Tools, step: &Step) -> Result<Option<Vec<Package>>, SourceError> {
    let list = |name: &'static str, command: Command| {
        let what = format!("listing packages with the root's own {name}");
        let mut packages = parse_packages(name, &tools.lines(&what, View::Root, command, step)?)?;
        packages.retain(|package| package.name != KEY_PACKAGE);
        Ok(Some(sorted(packages)))
    };
    if tools.root_has("dpkg-query")? {
        let mut command = program("dpkg-query");
        command.args(["--show", &format!("--showformat={DPKG_FORMAT}")]);
        list("dpkg-query", command)
    } else if tools.root_has("rpm")? {
        let mut command = program("rpm");
        command.args(["-qa", "--qf", RPM_FORMAT]);
        list("rpm", command)
    } else {
        Ok(None)
    }
}
