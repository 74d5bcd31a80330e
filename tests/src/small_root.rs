//! A root that boots nothing but that can be built from: a shell, a kernel's name and the directories that mounts go on.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use anyhow::Result;
use rustix::fs::XattrFlags;

/// The release of its kernel.
pub const RELEASE: &str = "1.0";

/// cap_net_raw=ep as the kernel stores it: version 2, effective (linux/capability.h, `struct vfs_cap_data`).
pub const CAP_NET_RAW: [u8; 20] = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// Makes it in the directory `root`, which need not be there.
pub fn make(root: &Path) -> Result<()> {
    let at = |path: &str| root.join(path);
    for dir in ["bin", "boot", "dev", "etc", "proc", "root", "run", "srv", "sys", "tmp", "usr/sbin"] {
        fs::create_dir_all(at(dir))?;
    }
    let modules = at("lib/modules").join(RELEASE);
    fs::create_dir_all(modules.join("kernel"))?;
    fs::write(modules.join("modules.dep"), "")?;
    fs::write(at("boot").join(format!("vmlinuz-{RELEASE}")), "kernel")?;
    fs::write(at("etc/passwd"), "root:x:0:0::/root:/bin/sh\n")?;
    fs::write(at("etc/machine-id"), "")?;
    fs::copy("/bin/busybox", at("bin/busybox"))?;
    Ok(symlink("/bin/busybox", at("bin/sh"))?)
}

/// Gives the file `path` an extended attribute.
pub fn set_attribute(path: &Path, name: &str, value: &[u8]) -> Result<()> {
    Ok(rustix::fs::lsetxattr(path, name, value, XattrFlags::empty())?)
}
