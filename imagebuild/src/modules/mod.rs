//! Kernel modules that ride in an initramfs: drivers and file systems that init loads before the root is there.

/// A file of an initramfs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Path below the initramfs' root, without a leading slash: `bootnode/modules/kernel/drivers/net/virtio_net.ko`.
    pub path: String,
    /// What is in it.
    pub contents: Vec<u8>,
}

/// Modules, not compressed, their two indexes, and the firmware that they ask for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ModuleSet {
    /// The files, sorted by path.
    pub files: Vec<Member>,
}
