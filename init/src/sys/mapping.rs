//! Files as memory (mmap(2)).
#![allow(unsafe_code, reason = "that nobody changes a mapped file cannot be expressed in types")]

use std::fs::File;
use std::io;

use memmap2::{Mmap, MmapOptions};

/// Maps a `file` of the initramfs, all of it at once: taking each page when it is looked at costs more.
pub fn map(file: &File) -> io::Result<Mmap> {
    // SAFETY: nobody changes or truncates the file while it is mapped. The initramfs is ours alone: PID 1 starts no other
    // program before it has emptied it, but shells, which come when there is nothing more to unpack.
    unsafe { MmapOptions::new().populate().map(file) }
}
