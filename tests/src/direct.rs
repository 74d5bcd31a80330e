//! A machine that qemu itself hands a kernel and an initramfs. It has no network, and its firmware has nothing to do.

use std::ffi::OsString;
use std::path::PathBuf;

use bootspec::store::NodeName;

use crate::accel::Accel;
use crate::qemu;

/// The machine and what it boots.
#[derive(Clone, Debug)]
pub struct DirectSpec {
    /// Names its files.
    pub name: NodeName,
    /// The kernel.
    pub kernel: PathBuf,
    /// The initramfs.
    pub initramfs: PathBuf,
    /// The kernel command line, but for what [`DirectSpec::arguments`] adds.
    pub kernel_args: String,
    /// Memory in MiB.
    pub memory_mib: u32,
    /// Number of processors.
    pub cpus: u8,
}

impl DirectSpec {
    /// qemu's command line. Its serial console is qemu's standard input and output; a guest that reboots or panics ends
    /// qemu.
    pub fn arguments(&self, accel: Accel) -> Vec<OsString> {
        let mut arguments = qemu::machine_arguments(&self.name, "pc", accel, self.cpus, self.memory_mib);
        let line = format!("console=ttyS0,115200 panic=-1 {}", self.kernel_args);
        arguments.extend(["-nic".into(), "none".into(), "-kernel".into(), self.kernel.clone().into()]);
        arguments.extend(["-initrd".into(), self.initramfs.clone().into(), "-append".into(), line.into()]);
        arguments
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_initramfs_and_command_line_are_handed_over() {
        let spec = DirectSpec {
            name: "direct".parse().unwrap(),
            kernel: "/vmlinuz".into(),
            initramfs: "/a b.img".into(),
            kernel_args: "init=/bin/sh".to_owned(),
            memory_mib: 512,
            cpus: 2,
        };
        let arguments = spec.arguments(Accel::Tcg);
        for pair in [
            ["-kernel", "/vmlinuz"],
            ["-initrd", "/a b.img"],
            ["-append", "console=ttyS0,115200 panic=-1 init=/bin/sh"],
            ["-m", "512M"],
            ["-smp", "2"],
        ] {
            assert!(arguments.windows(2).any(|found| found == pair), "no {pair:?} in {arguments:?}");
        }
    }
}
