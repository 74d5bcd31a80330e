//! A node's overlay, or its credential, as a segment of its initramfs: a newc archive (kernel: Documentation/driver-api/early-userspace/
//! buffer-format) that the boot loader puts behind the image's own, and that the kernel unpacks with it.

use std::io;

use bootspec::initramfs::{BOOTNODE_DIR, CREDENTIAL, OVERLAY, OVERLAY_SIGNATURE};
use cpio::newc;

const DIRECTORY: u32 = 0o040_755;
/// Overlays hold secrets: for root alone.
const PRIVATE: u32 = 0o100_600;
/// newc pads members to this, and the kernel recognises an archive only at a multiple of it (init/initramfs.c).
const ALIGNMENT: usize = 4;

/// The bytes of the segment before and after those of the tar.
#[derive(Debug)]
pub struct Frame {
    /// From the beginning to the header of the tar, the last member.
    pub before: Vec<u8>,
    /// Padding and the trailer.
    pub after: Vec<u8>,
}

impl Frame {
    /// The frame around a tar of `tar_bytes`.
    pub fn new(tar_bytes: u32, signature: Option<&[u8]>) -> io::Result<Self> {
        let mut archive = Archive { bytes: Vec::new(), members: 0 };
        archive.add(BOOTNODE_DIR, DIRECTORY, b"")?;
        if let Some(signature) = signature {
            archive.add(OVERLAY_SIGNATURE, PRIVATE, signature)?;
        }
        archive.begin(OVERLAY, PRIVATE, tar_bytes)?;
        let tar_bytes = tar_bytes as usize;
        let padding = vec![0; tar_bytes.next_multiple_of(ALIGNMENT) - tar_bytes];
        Ok(Self { before: archive.bytes, after: newc::trailer(padding)? })
    }
}

/// The segment with the node's credential, of these bytes.
pub fn credential(bytes: &[u8]) -> io::Result<Vec<u8>> {
    let mut archive = Archive { bytes: Vec::new(), members: 0 };
    archive.add(BOOTNODE_DIR, DIRECTORY, b"")?;
    archive.add(CREDENTIAL, PRIVATE, bytes)?;
    newc::trailer(archive.bytes)
}

/// Members one after the other. Times and owners are zero.
struct Archive {
    bytes: Vec<u8>,
    members: u32,
}

impl Archive {
    fn add(&mut self, name: &str, mode: u32, data: &[u8]) -> io::Result<()> {
        let size = u32::try_from(data.len()).map_err(io::Error::other)?;
        let mut member = self.member(name, mode).write(&mut self.bytes, size);
        io::Write::write_all(&mut member, data)?;
        member.finish()?;
        Ok(())
    }

    /// Writes the header of a member whose data are not at hand.
    fn begin(&mut self, name: &str, mode: u32, size: u32) -> io::Result<()> {
        self.member(name, mode).write(&mut self.bytes, size).finish()?;
        Ok(())
    }

    /// Inode numbers count up: members of one number would be hard links of each other.
    fn member(&mut self, name: &str, mode: u32) -> newc::Builder {
        self.members += 1;
        newc::Builder::new(name).ino(self.members).mode(mode)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::fs;
    use std::io::Write;
    use std::os::unix::fs::PermissionsExt;
    use std::process::{Command, Stdio};

    fn segment(tar: &[u8], signature: Option<&[u8]>) -> Vec<u8> {
        let frame = Frame::new(tar.len() as u32, signature).unwrap();
        [&frame.before, tar, &frame.after].concat()
    }

    /// Unpacks with GNU cpio, which complains of everything that is not as it should be.
    fn unpack(archive: &[u8]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let mut cpio = Command::new("cpio")
            .args(["--extract", "--make-directories", "--quiet", "--no-absolute-filenames"])
            .current_dir(dir.path())
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("GNU cpio is installed");
        cpio.stdin.take().unwrap().write_all(archive).unwrap();
        let output = cpio.wait_with_output().unwrap();
        let complaints = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && complaints.is_empty(), "{complaints}");
        dir
    }

    #[test]
    fn gnu_cpio_reads_the_segment_back() {
        for tar in [&b""[..], b"1", b"12", b"123", b"1234", &[7; 100_000]] {
            let dir = unpack(&segment(tar, Some(b"signature")));
            assert_eq!(fs::read(dir.path().join(OVERLAY)).unwrap(), tar);
            assert_eq!(fs::read(dir.path().join(OVERLAY_SIGNATURE)).unwrap(), b"signature");
            for file in [OVERLAY, OVERLAY_SIGNATURE] {
                let mode = fs::metadata(dir.path().join(file)).unwrap().permissions().mode();
                assert_eq!(mode, PRIVATE, "{file}");
            }
        }
    }

    #[test]
    fn gnu_cpio_reads_a_credential_back() {
        let dir = unpack(&credential(b"a\nb\n").unwrap());
        let path = dir.path().join(CREDENTIAL);
        assert_eq!(fs::read(&path).unwrap(), b"a\nb\n");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode(), PRIVATE);
    }

    #[test]
    fn an_unsigned_overlay_is_alone() {
        let dir = unpack(&segment(b"tar", None));
        let names =
            fs::read_dir(dir.path().join(BOOTNODE_DIR)).unwrap().map(|entry| entry.unwrap().file_name());
        assert_eq!(names.collect::<Vec<_>>(), ["overlay.tar"]);
    }

    proptest! {
        #[test]
        fn a_segment_ends_aligned(tar_bytes in 0..1000_u32, signature in 0..1000_usize) {
            let frame = Frame::new(tar_bytes, Some(&vec![0; signature])).unwrap();
            prop_assert_eq!(frame.before.len() % ALIGNMENT, 0);
            prop_assert_eq!((tar_bytes as usize + frame.after.len()) % ALIGNMENT, 0);
        }
    }
}
