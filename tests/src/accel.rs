//! Whether guests can use KVM.
//!
//! A /dev/kvm that opens proves nothing. There are hosts, virtual machines themselves, whose KVM starts a guest and
//! emulates its first instructions, until iPXE returns from an interrupt in protected mode and the guest is stopped
//! with "KVM internal error, emulation failure". So a guest is run that does just that: a small firmware that enters
//! protected mode, executes IRET and ends qemu with a known status.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};
use std::{env, fmt, io, thread};

use crate::qemu;

/// Forces `kvm` or `tcg` without a probe.
pub const ACCEL_VARIABLE: &str = "BOOTLAB_ACCEL";

/// How qemu executes the guest's instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accel {
    /// By the host's processor.
    Kvm,
    /// By translation, some ten times slower.
    Tcg,
}

impl Accel {
    /// What this machine can do, found out once per process.
    pub fn detect() -> Self {
        static DETECTED: OnceLock<Accel> = OnceLock::new();
        *DETECTED.get_or_init(|| match env::var(ACCEL_VARIABLE).as_deref() {
            Ok("kvm") => Self::Kvm,
            Ok("tcg") => Self::Tcg,
            _ if Path::new("/dev/kvm").exists() && Self::Kvm.runs_guests().unwrap_or(false) => Self::Kvm,
            _ => Self::Tcg,
        })
    }

    /// qemu's name for it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        }
    }

    /// The processor model that guests see. Under TCG a rich model boots two to three times slower, as its string
    /// instructions are emulated badly.
    pub const fn cpu_model(self) -> &'static str {
        match self {
            Self::Kvm => "host",
            // Not `max`, whose string instructions TCG emulates slowly; and not less than x86-64-v2, which EL 9 needs.
            Self::Tcg => "qemu64,+cx16,+lahf-lm,+popcnt,+ssse3,+sse4.1,+sse4.2",
        }
    }

    fn runs_guests(self) -> io::Result<bool> {
        let mut firmware = tempfile::NamedTempFile::new()?;
        firmware.write_all(&probe_firmware())?;
        let mut guest = Command::new(qemu::program())
            .args(["-machine", &format!("pc,accel={}", self.name()), "-cpu", self.cpu_model(), "-m", "16"])
            .args(["-nodefaults", "-display", "none", "-monitor", "none", "-serial", "none"])
            .args(["-device", "isa-debug-exit,iobase=0xf4,iosize=1", "-bios"])
            .arg(firmware.path())
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let deadline = Instant::now() + PROBE_LIMIT;
        while Instant::now() < deadline {
            if let Some(status) = guest.try_wait()? {
                return Ok(status.code() == Some(PROBE_STATUS));
            }
            thread::sleep(Duration::from_millis(10));
        }
        guest.kill()?;
        guest.wait()?;
        Ok(false)
    }
}

impl fmt::Display for Accel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A guest that runs needs some 50 ms, nearly all of it for the start of qemu.
const PROBE_LIMIT: Duration = Duration::from_secs(3);
/// isa-debug-exit ends qemu with twice the byte written, plus one.
const PROBE_STATUS: i32 = 0x10 * 2 + 1;

/// Firmware is mapped to end at 4 GiB, where the reset vector is.
const FIRMWARE_BYTES: usize = 0x10000;

/// The last 256 bytes of the probe's firmware, by offset: code, a descriptor table, the reset vector.
const PROBE_CODE: [(usize, &[u8]); 12] = [
    (0x00, &[0x2e, 0x66, 0x0f, 0x01, 0x16, 0xd0, 0xff]), // lgdt cs:[0xffd0]
    (0x07, &[0x0f, 0x20, 0xc0, 0x0c, 0x01, 0x0f, 0x22, 0xc0]), // cr0 |= PE, by way of eax
    (0x0f, &[0x66, 0xea, 0x40, 0xff, 0xff, 0xff, 0x08, 0x00]), // jmp 0x08:0xffffff40, 32 bits from here on
    (0x40, &[0x66, 0xb8, 0x10, 0x00, 0x8e, 0xd0]),       // mov ax, 0x10; mov ss, ax
    (0x46, &[0xbc, 0x00, 0x80, 0x00, 0x00]),             // mov esp, 0x8000
    (0x4b, &[0x9c, 0x6a, 0x08, 0x68, 0x60, 0xff, 0xff, 0xff]), // push flags, 0x08, 0xffffff60
    (0x53, &[0xcf]),                                     // iret
    (0x60, &[0xb0, 0x10, 0xe6, 0xf4, 0xf4]),             // mov al, 0x10; out 0xf4, al; hlt
    (0xb8, &[0xff, 0xff, 0x00, 0x00, 0x00, 0x9b, 0xcf, 0x00]), // segment 0x08: code, 4 GiB
    (0xc0, &[0xff, 0xff, 0x00, 0x00, 0x00, 0x93, 0xcf, 0x00]), // segment 0x10: data, 4 GiB
    (0xd0, &[0x17, 0x00, 0xb0, 0xff, 0xff, 0xff]),       // descriptor table: 24 bytes at 0xffffffb0
    (0xf0, &[0xe9, 0x0d, 0xff]),                         // reset vector: jmp 0xff00
];

fn probe_firmware() -> Vec<u8> {
    let mut image = vec![0; FIRMWARE_BYTES];
    for (offset, code) in PROBE_CODE {
        let start = FIRMWARE_BYTES - 0x100 + offset;
        image[start..start + code.len()].copy_from_slice(code);
    }
    image
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probe_sees_that_emulated_guests_run() {
        assert!(Accel::Tcg.runs_guests().unwrap());
    }
}
