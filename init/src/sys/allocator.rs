//! The C library's allocator (mallopt(3)).
#![allow(unsafe_code, reason = "mallopt(3) has no safe API")]

/// From this size on, a block of memory is a mapping of its own.
const MAPPED_BYTES: libc::c_int = 128 * 1024;

/// Makes each freed block of [`MAPPED_BYTES`] or more go back to the kernel at once. By default the allocator raises that
/// threshold when the first such block is freed, and keeps the next ones for itself: all that was ever held of a download.
pub fn give_back_large_blocks() {
    // SAFETY: mallopt(3) takes two integers. It may be called at any time.
    unsafe { libc::mallopt(libc::M_MMAP_THRESHOLD, MAPPED_BYTES) };
}
