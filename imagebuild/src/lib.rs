//! Builds bootable images for diskless nodes: recipe -> root file system -> archive -> initramfs -> published image.

pub mod progress;
