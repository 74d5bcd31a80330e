//! Debian and its relatives, by mmdebstrap(1) in root mode.
//!
//! The archive of downloaded packages is a directory of the cache, mounted over the root's own while mmdebstrap runs,
//! so that a package is downloaded once. mmdebstrap mounts /proc, /sys and /dev by itself.

use std::path::Path;

use bootspec::manifest::Package;

use super::{Job, Purpose, SourceError, parse_packages, set_proxy};
use crate::recipe::Mmdebstrap;
use crate::sandbox::View;
use crate::tool::program;

/// Where apt keeps what it downloads. The mount goes with the sandbox.
const MOUNT_ARCHIVES: &str = r#"mkdir -p "$1/var/cache/apt/archives" && mount --bind "$BOOTNODE_ARCHIVES" "$1/var/cache/apt/archives""#;
/// mmdebstrap must not empty the cache.
const KEEP_ARCHIVES: &str = "essential/unlink,cleanup/apt/cache";
/// mmdebstrap's own hooks that make /bin, /sbin and /lib links before the first package is unpacked, where the suite
/// wants that. Without them the package usrmerge does it afterwards, and brings perl into the image for it.
const MERGED_USR_HOOKS: &str = "/usr/share/mmdebstrap/hooks/maybe-merged-usr";

/// What dpkg-query prints of a package for [`parse_packages`].
pub(super) const PACKAGE_FORMAT: &str = r"${Package}\t${Version}\t${Architecture}\n";

impl Job<'_> {
    pub(super) fn mmdebstrap(
        &self,
        source: &Mmdebstrap,
        purpose: Purpose,
    ) -> Result<Vec<Package>, SourceError> {
        let archives = self.cache.join("apt");
        // apt gives up at once when another apt works in the same archive of packages.
        let _lock = self.lock_cache(&archives)?;
        let mut command = program("mmdebstrap");
        // The node's initramfs is made by imagebuild: the kernel package needs none.
        command.env("INITRD", "No").env("BOOTNODE_ARCHIVES", &archives);
        if let Some(proxy) = &source.proxy {
            set_proxy(&mut command, proxy);
        }
        command.args(["--mode=root", "--format=directory"]);
        command.arg(match purpose {
            Purpose::System => format!("--variant={}", source.variant),
            Purpose::KernelOnly => "--variant=extract".to_owned(),
        });
        if purpose == Purpose::System && Path::new(MERGED_USR_HOOKS).is_dir() {
            command.arg(format!("--hook-dir={MERGED_USR_HOOKS}"));
        }
        command.arg(format!("--skip={KEEP_ARCHIVES}")).arg(format!("--setup-hook={MOUNT_ARCHIVES}"));
        command.args(source.keyrings.iter().map(|keyring| format!("--keyring={}", keyring.display())));
        if !source.components.is_empty() {
            command.arg(format!("--components={}", source.components.join(",")));
        }
        if !self.packages.is_empty() {
            command.arg(format!("--include={}", self.packages.join(",")));
        }
        command.arg(&source.suite).arg(self.root()).args(&source.mirrors);
        self.tools.run("installing packages with mmdebstrap", View::Host, command, self.step)?;
        self.dpkg_packages()
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
