//! Block devices that show a file (loop(4)).

use std::fs::File;
use std::io;
use std::path::PathBuf;

use crate::sys;

const CONTROL: &str = "/dev/loop-control";

/// A device that shows a file while this, or a mount of it, lives.
pub struct LoopDevice {
    /// Its node.
    pub path: PathBuf,
    _device: File,
}

impl LoopDevice {
    /// Attaches `file`, which is open for reading only. Nobody but PID 1 runs that could take the free device meanwhile.
    pub fn attach(file: &File) -> io::Result<Self> {
        let control = File::options().read(true).write(true).open(CONTROL)?;
        let path = PathBuf::from(format!("/dev/loop{}", sys::free_loop_device(&control)?));
        let device = File::open(&path)?;
        sys::attach_loop_device(&device, file)?;
        Ok(Self { path, _device: device })
    }
}
