//! SELinux: labels the root by its own policy, and finds what init loads into the kernel before it unpacks the root. On a
//! tmpfs, labels count only if they are set when the policy is known.

use std::io;
use std::path::{Path, PathBuf};

use bootspec::initramfs::SELINUX_POLICY;

use crate::modules::Member;
use crate::progress::Step;
use crate::sandbox::{SandboxError, View};
use crate::tool::{ToolError, Tools, program};

/// Labels files by the contexts of a policy; of policycoreutils.
const SETFILES: &str = "setfiles";
/// Mounted over on the node, and labelled by systemd.
const NOT_LABELLED: [&str; 4] = ["/dev", "/proc", "/run", "/sys"];

/// The image cannot be made for SELinux.
#[derive(Debug, thiserror::Error)]
pub enum SelinuxError {
    /// The policy is not installed.
    #[error(
        "the image has no SELinux policy '{policy}': {} holds no policy.NUMBER\nhint: add its package (EL: selinux-policy-targeted; Debian: selinux-policy-default), or name the policy that the image has",
        dir.display()
    )]
    NoPolicy {
        /// What the recipe asks for.
        policy: String,
        /// Where it should be, in the root.
        dir: PathBuf,
    },
    /// Nothing labels files.
    #[error("the image has no {SETFILES} to label its files with\nhint: add the package policycoreutils")]
    NoSetfiles,
    /// Files cannot be labelled.
    #[error(transparent)]
    Tool(#[from] ToolError),
    /// The root cannot be entered.
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    /// The policy cannot be read.
    #[error("cannot read {} in the root", path.display())]
    Read {
        /// Path in the root.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// Labels all files of the root as `policy` says.
pub fn label(policy: &str, tools: &Tools, step: &Step) -> Result<(), SelinuxError> {
    tools.sandbox().inside(|| newest(policy).map(drop))??;
    if !tools.root_has(SETFILES)? {
        return Err(SelinuxError::NoSetfiles);
    }
    let mut command = program(SETFILES);
    command.arg("-F").args(NOT_LABELLED.iter().flat_map(|dir| ["-e", dir]));
    command.arg(policy_dir(policy).join("contexts/files/file_contexts")).arg("/");
    Ok(tools.run("labelling the root for SELinux with setfiles", View::Root, command, step)?)
}

/// The policy as a file of the initramfs.
pub fn member(policy: &str, tools: &Tools) -> Result<Member, SelinuxError> {
    let read = || {
        let path = newest(policy)?;
        let contents = std::fs::read(&path).map_err(|source| SelinuxError::Read { path, source })?;
        Ok(Member { path: SELINUX_POLICY.to_owned(), contents })
    };
    tools.sandbox().inside(read)?
}

/// The policy of the newest format: kernels read older ones too, and a distribution's kernel the one that it makes.
fn newest(policy: &str) -> Result<PathBuf, SelinuxError> {
    let dir = policy_dir(policy).join("policy");
    let names = std::fs::read_dir(&dir).into_iter().flatten().flatten();
    let version = |path: &Path| path.file_name()?.to_str()?.strip_prefix("policy.")?.parse::<u32>().ok();
    let versions = names.filter_map(|entry| Some((version(&entry.path())?, entry.path())));
    let newest = versions.max_by_key(|(version, _)| *version);
    newest.map(|(_, path)| path).ok_or_else(|| SelinuxError::NoPolicy { policy: policy.to_owned(), dir })
}

fn policy_dir(policy: &str) -> PathBuf {
    Path::new("/etc/selinux").join(policy)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::Progress;
    use crate::sandbox::Sandbox;
    use crate::testing::is_root;
    use std::fs;

    fn tools(root: &Path) -> Tools {
        Tools::new(Sandbox::new(root), &root.join("log")).unwrap()
    }

    #[test]
    fn the_newest_policy_of_the_root_rides_in_the_initramfs() {
        if !is_root() {
            return;
        }
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("etc/selinux/targeted/policy");
        fs::create_dir_all(&dir).unwrap();
        for name in ["policy.9", "policy.33", "policy.4", "policy.kern"] {
            fs::write(dir.join(name), name).unwrap();
        }
        let found = member("targeted", &tools(root.path())).unwrap();
        assert_eq!((found.path.as_str(), &*found.contents), (SELINUX_POLICY, &b"policy.33"[..]));
    }

    #[test]
    fn a_root_that_cannot_be_labelled_says_what_it_lacks() {
        if !is_root() {
            return;
        }
        let root = tempfile::tempdir().unwrap();
        let progress = Progress::quiet();
        let lacks = || label("mls", &tools(root.path()), &progress.step("label")).unwrap_err().to_string();
        let error = lacks();
        assert!(
            error.contains("no SELinux policy 'mls'") && error.contains("/etc/selinux/mls/policy"),
            "{error}"
        );
        let dir = root.path().join("etc/selinux/mls/policy");
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("policy.33"), "").unwrap();
        assert!(lacks().contains("policycoreutils"));
    }
}
