//! What a recipe adds to its packages, in this order: files, groups, users with their SSH keys, services;
//! bootnode's own report unit; scripts; then exclusion, cleaning and checks.
//!
//! Files come first because they may be what later steps read (`/etc/skel`, `/etc/login.defs`, units to enable). Scripts
//! come last because they may go over all that is there: label it for SELinux, for instance.
//! Everything happens with the root as `/`, so that links in it lead nowhere else.

mod accounts;
mod clean;
mod exclude;
mod files;
mod groups;
mod report;
mod scripts;
mod services;
mod users;

use std::io;
use std::path::{Path, PathBuf};

pub use clean::clean_after_work;

use crate::progress::Step;
use crate::recipe::Recipe;
use crate::sandbox::SandboxError;
use crate::tool::{ToolError, Tools};

/// A step on the root failed.
#[derive(Debug, thiserror::Error)]
pub enum CustomiseError {
    /// A program failed.
    #[error(transparent)]
    Tool(#[from] ToolError),
    /// The root cannot be entered.
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    /// A file of the root cannot be made, changed or removed.
    #[error("cannot {action} {} in the root", path.display())]
    File {
        /// What was attempted.
        action: &'static str,
        /// Its path inside the root.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// A file of the build host cannot be read.
    #[error("cannot read {}", path.display())]
    Host {
        /// Which file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A user or group that the image does not have.
    #[error("{}: the image has no {kind} '{name}'\nhint: {hint}", path.display())]
    Owner {
        /// The file that should belong to it.
        path: PathBuf,
        /// `user` or `group`.
        kind: &'static str,
        /// Its name.
        name: String,
        /// What to do about it.
        hint: &'static str,
    },
    /// A user or group is to have a number that another one has.
    #[error("cannot give the {kind} '{name}' the number {id}: it is that of '{owner}'")]
    IdTaken {
        /// `user` or `group`.
        kind: &'static str,
        /// Who is to have it.
        name: String,
        /// The number.
        id: u32,
        /// Who has it.
        owner: String,
    },
    /// A group of the packages is to have another number.
    #[error(
        "the image's group '{name}' has the number {gid}, not {wanted}\nhint: files belong to that number: leave out gid, or change both in a script"
    )]
    OtherGid {
        /// The group.
        name: String,
        /// Its number in the recipe.
        wanted: u32,
        /// Its number.
        gid: u32,
    },
    /// Services are asked for, but nothing manages them.
    #[error("the image has no systemctl to {action} {} with\nhint: install systemd, or leave out [services]", units.join(", "))]
    NoSystemd {
        /// What was to be done.
        action: &'static str,
        /// To which units.
        units: Vec<String>,
    },
}

/// Applies the recipe to the root of `tools`.
pub fn apply(recipe: &Recipe, tools: &Tools, init_binary: &Path, step: &Step) -> Result<(), CustomiseError> {
    files::write(&recipe.files, tools)?;
    groups::apply(&recipe.groups, tools, step)?;
    users::apply(&recipe.users, tools, step)?;
    services::apply(&recipe.services, tools, step)?;
    let reports = report::install(init_binary, tools, step)?;
    scripts::run(&recipe.scripts, tools, step)?;
    // A script may have brought systemd with it.
    if !reports && !report::install(init_binary, tools, step)? {
        step.note("no systemd in the image: it will not report when it is ready");
    }
    let excluded = exclude::exclude(&recipe.exclude, tools)?;
    clean::clean(recipe, tools)?;
    if let Some(excluded) = excluded {
        excluded.report(&exclude::largest(tools)?, step);
    }
    scripts::check(&recipe.checks, tools, step)
}

/// How much a recipe adds, in words.
pub fn summary(recipe: &Recipe) -> String {
    let counts = [
        (recipe.files.len(), "files"),
        (recipe.users.len(), "users"),
        (recipe.services.enable.len(), "services"),
        (recipe.scripts.len(), "scripts"),
        (recipe.checks.len(), "checks"),
    ];
    counts.map(|(count, what)| format!("{count} {what}")).join(", ")
}

/// Names the path inside the root on which an action failed.
fn failed<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> CustomiseError + 'a {
    move |source| CustomiseError::File { action, path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::Progress;
    use crate::recipe::Selection;
    use crate::sandbox::Sandbox;
    use crate::testing::is_root;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    /// A root with a shell and a systemctl that notes what it is asked for.
    fn make_root(root: &Path) {
        fs::create_dir_all(root.join("bin")).unwrap();
        fs::copy("/bin/busybox", root.join("bin/busybox")).expect("busybox-static is installed");
        for applet in ["sh", "ls", "cp", "cat"] {
            symlink("busybox", root.join("bin").join(applet)).unwrap();
        }
        write_program(&root.join("bin/systemctl"), "#!/bin/sh\necho $@ >> /calls\n");
    }

    fn write_program(path: &Path, text: &str) {
        fs::write(path, text).unwrap();
        fs::set_permissions(path, PermissionsExt::from_mode(0o755)).unwrap();
    }

    /// Customises the root as a recipe with this script says.
    fn customise(root: &Path, script: &str) {
        try_customise(root, &format!("[[script]]\nname = 's'\nrun = '''{script}'''\n")).unwrap();
    }

    /// Customises the root as a recipe that ends in `rest` says.
    fn try_customise(root: &Path, rest: &str) -> Result<(), CustomiseError> {
        let dir = tempfile::tempdir().unwrap();
        let recipe = dir.path().join("recipe.toml");
        let text = "name = 'x'\n[source]\ntype = 'mmdebstrap'\nsuite = 'bookworm'\n";
        fs::write(&recipe, format!("{text}{rest}")).unwrap();
        let init = dir.path().join("init");
        fs::write(&init, "init").unwrap();
        let tools = Tools::new(Sandbox::new(root), &dir.path().join("log")).unwrap();
        let progress = Progress::quiet();
        apply(
            &Recipe::read(&recipe, &Selection::default()).unwrap(),
            &tools,
            &init,
            &progress.step("customise"),
        )
    }

    #[test]
    fn a_check_sees_the_finished_root_and_cannot_change_it() {
        if !is_root() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        make_root(dir.path());
        fs::create_dir(dir.path().join("tmp")).unwrap();
        fs::write(dir.path().join("README"), "").unwrap();
        let exclude = "[exclude]\npaths = ['/README']\n";
        let check = |run: &str| {
            let rest = format!("{exclude}[[check]]\nname = 'c'\nrun = '''{run}'''\n");
            try_customise(dir.path(), &rest).map_err(|error| error.to_string())
        };
        check("ls /README && exit 1; ls /bin/sh; echo x > /tmp/x; cat /proc/1/stat > /dev/null").unwrap();
        let error = check("echo changed > /changed").unwrap_err();
        assert!(error.contains("check 'c' failed") && error.contains("Read-only file system"), "{error}");
        assert!(!dir.path().join("changed").exists() && !dir.path().join("tmp/x").exists());
    }

    #[test]
    fn a_script_has_the_network_that_it_asks_for() {
        if !is_root() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        make_root(dir.path());
        fs::create_dir_all(dir.path().join("etc")).unwrap();
        symlink("../run/systemd/resolve/stub-resolv.conf", dir.path().join("etc/resolv.conf")).unwrap();
        fs::create_dir(dir.path().join("run")).unwrap();
        let devices = |key: &str| {
            let run = "ls /sys/class/net > /seen; cat /etc/resolv.conf >> /seen || true";
            let rest = format!("[[script]]\nname = 's'\nrun = '''{run}'''\n{key}");
            try_customise(dir.path(), &rest).unwrap();
            fs::read_to_string(dir.path().join("seen")).unwrap()
        };
        assert_eq!(devices(""), "lo\n");
        let host = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
        let seen = devices("network = true");
        let all = fs::read_dir("/sys/class/net").unwrap().count();
        assert_eq!(seen.lines().count(), all + host.lines().count(), "{seen}");
        assert!(seen.ends_with(&host));
        assert_eq!(fs::read_dir(dir.path().join("run")).unwrap().count(), 0);
    }

    #[test]
    fn scripts_see_all_that_the_image_will_have() {
        if !is_root() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        make_root(dir.path());
        let seen = "ls /usr/lib/bootnode /usr/lib/systemd/system > /seen; cat /calls >> /seen";
        customise(dir.path(), seen);
        let seen = fs::read_to_string(dir.path().join("seen")).unwrap();
        for what in ["bootnode-report\n", "bootnode-report.service\n", "enable bootnode-report.service\n"] {
            assert!(seen.contains(what), "no {what:?} in {seen:?}");
        }
    }

    #[test]
    fn a_script_may_bring_systemd() {
        if !is_root() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        make_root(dir.path());
        fs::rename(dir.path().join("bin/systemctl"), dir.path().join("late")).unwrap();
        customise(dir.path(), "cp /late /bin/systemctl");
        assert!(dir.path().join("usr/lib/bootnode/bootnode-report").exists());
        let calls = fs::read_to_string(dir.path().join("calls")).unwrap();
        assert_eq!(calls, "enable bootnode-report.service\n");
    }
}
