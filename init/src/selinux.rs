//! Loads the image's SELinux policy before there is a root. On a tmpfs, labels count only if they are set when the policy is
//! known (policies say `fs_use_trans` of it), so it has to be loaded before the root is unpacked, and not by systemd, which
//! loads it once more and finds everything labelled.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use bootspec::initramfs::SELINUX_POLICY;

use crate::kmsg;
use crate::mounts::{self, MountError};

/// There if the kernel runs with SELinux.
const SELINUXFS: &str = "/sys/fs/selinux";

/// The policy cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum SelinuxError {
    /// A file cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// SELinux's own file system cannot be mounted.
    #[error(transparent)]
    Mount(#[from] MountError),
    /// The kernel refuses the policy.
    #[error("the kernel does not take the image's SELinux policy of {size_bytes} bytes")]
    Load {
        /// Its length.
        size_bytes: usize,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// Loads the policy that the initramfs carries, if it carries one and the kernel runs with SELinux.
pub fn load_policy(initramfs: &Path) -> Result<(), SelinuxError> {
    let path = initramfs.join(SELINUX_POLICY);
    let policy = match fs::read(&path) {
        Ok(policy) => policy,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(SelinuxError::Read { path, source }),
    };
    let selinuxfs = Path::new(SELINUXFS);
    if !selinuxfs.exists() {
        kmsg::info("the kernel runs without SELinux: the image's policy is not loaded");
        return Ok(());
    }
    mounts::mount_selinuxfs(selinuxfs)?;
    // The kernel takes a policy as one write (security/selinux/selinuxfs.c), and keeps what it needs of it.
    fs::write(selinuxfs.join("load"), &policy)
        .map_err(|source| SelinuxError::Load { size_bytes: policy.len(), source })?;
    let _ = fs::remove_file(&path);
    kmsg::info(&format!("loaded the SELinux policy, {}", enforcement(selinuxfs)?));
    Ok(mounts::detach(selinuxfs)?)
}

/// What `enforcing=` of the command line has made of it.
fn enforcement(selinuxfs: &Path) -> Result<&'static str, SelinuxError> {
    let path = selinuxfs.join("enforce");
    let enforce = fs::read(&path).map_err(|source| SelinuxError::Read { path, source })?;
    Ok(if enforce.starts_with(b"1") { "enforcing" } else { "permissive" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_initramfs_without_a_policy_needs_no_selinux() {
        load_policy(tempfile::tempdir().unwrap().path()).unwrap();
    }
}
