//! The system calls that no safe API offers.
#![allow(unsafe_code, reason = "loop devices are configured by ioctl(2), which has no safe API")]

use std::ffi::c_void;
use std::os::fd::{AsFd, AsRawFd};
use std::ptr;

use rustix::io::Errno;
use rustix::ioctl::{IntegerSetter, Ioctl, IoctlOutput, Opcode, Setter, ioctl};

// linux/loop.h
const LOOP_CTL_GET_FREE: Opcode = 0x4C82;
const LOOP_SET_FD: Opcode = 0x4C00;
const LOOP_SET_STATUS64: Opcode = 0x4C04;
const LO_FLAGS_AUTOCLEAR: u32 = 4;

/// The number of a loop device that nobody uses. `control` is /dev/loop-control.
pub fn free_loop_device(control: impl AsFd) -> Result<u32, Errno> {
    // SAFETY: the request takes no argument and writes to no memory of ours.
    unsafe { ioctl(control, GetFreeLoop) }
}

/// Makes the loop device show `file`, and let go of it when its last user is gone. Read-only if `file` is open so.
pub fn attach_loop_device(device: impl AsFd, file: impl AsFd) -> Result<(), Errno> {
    let fd = usize::try_from(file.as_fd().as_raw_fd()).map_err(|_| Errno::BADF)?;
    // SAFETY: LOOP_SET_FD takes a file descriptor by value; the kernel checks it.
    unsafe { ioctl(device.as_fd(), IntegerSetter::<LOOP_SET_FD>::new_usize(fd)) }?;
    let info = LoopInfo64 { lo_flags: LO_FLAGS_AUTOCLEAR, ..LoopInfo64::default() };
    // SAFETY: LOOP_SET_STATUS64 reads one struct loop_info64, which LoopInfo64 has the layout of.
    unsafe { ioctl(device.as_fd(), Setter::<LOOP_SET_STATUS64, LoopInfo64>::new(info)) }
}

struct GetFreeLoop;

// SAFETY: LOOP_CTL_GET_FREE ignores its argument and answers with its return value alone.
unsafe impl Ioctl for GetFreeLoop {
    type Output = u32;

    const IS_MUTATING: bool = false;

    fn opcode(&self) -> Opcode {
        LOOP_CTL_GET_FREE
    }

    fn as_ptr(&mut self) -> *mut c_void {
        ptr::null_mut()
    }

    unsafe fn output_from_ptr(out: IoctlOutput, _: *mut c_void) -> Result<u32, Errno> {
        u32::try_from(out).map_err(|_| Errno::NODEV)
    }
}

/// struct loop_info64. All zeroes but the flags is a whole file without transformation.
#[repr(C)]
#[derive(Default)]
struct LoopInfo64 {
    lo_device: u64,
    lo_inode: u64,
    lo_rdevice: u64,
    lo_offset: u64,
    lo_sizelimit: u64,
    lo_number: u32,
    lo_encrypt_type: u32,
    lo_encrypt_key_size: u32,
    lo_flags: u32,
    /// lo_file_name, lo_crypt_name, lo_encrypt_key: bytes, of no interest here.
    names: [u64; 20],
    lo_init: [u64; 2],
}

const _: () = assert!(size_of::<LoopInfo64>() == 232);
