//! Builds bootable images for diskless nodes: recipe -> root file system -> archive -> initramfs -> published image.

pub mod architecture;
pub mod archive;
pub mod build;
pub mod cli;
pub mod contents;
pub mod customise;
pub mod diff;
pub mod digest;
pub mod file_error;
pub mod file_system;
pub mod initramfs;
pub mod interrupt;
pub mod kernel;
pub mod lock;
pub mod microcode;
pub mod modules;
pub mod programs;
pub mod progress;
pub mod recipe;
pub mod root;
pub mod sandbox;
pub mod sbom;
pub mod secrets;
pub mod selinux;
pub mod signing;
pub mod source;
pub mod store;
mod sys;
mod terminal;
#[cfg(test)]
mod testing;
pub mod tool;
pub mod transfer;
pub mod tree;
pub mod user_namespace;
pub mod verify;
