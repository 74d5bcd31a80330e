//! What several fuzz targets share.

#[path = "../../init/tests/hostile/mod.rs"]
pub mod hostile;

use std::sync::OnceLock;

use hostile::Sandbox;
use init::unpack::{Existing, extract};
use tar::Header;

/// `tar` with the right checksum in every block that looks like a header.
pub fn mend_checksums(tar: &[u8]) -> Vec<u8> {
    let mut tar = tar.to_vec();
    for block in tar.chunks_exact_mut(512) {
        let mut header = Header::new_old();
        header.as_mut_bytes().copy_from_slice(block);
        if header.as_ustar().is_some() || header.as_gnu().is_some() {
            header.set_cksum();
            block.copy_from_slice(header.as_bytes());
        }
    }
    tar
}

/// Extracts `tar` in both ways into a root in memory, and panics if anything outside of it changes.
pub fn extract_in_sandbox(tar: &[u8]) {
    let sandbox = sandbox();
    for existing in [Existing::Refuse, Existing::Replace] {
        sandbox.clear().expect("the root can be emptied");
        let _ = extract(&mut &*tar, &sandbox.root().expect("the root is there"), existing);
        sandbox.check();
    }
}

/// One sandbox for all inputs: only its root is made anew.
pub fn sandbox() -> &'static Sandbox {
    static SANDBOX: OnceLock<Sandbox> = OnceLock::new();
    SANDBOX.get_or_init(|| {
        let dir = std::env::temp_dir().join(format!("bootnode-fuzz.{}", std::process::id()));
        std::fs::create_dir(&dir).expect("TMPDIR is writable");
        Sandbox::new(&dir).expect("the sandbox can be made")
    })
}

/// Cuts `data` into packets, each behind its length in two bytes. The last may be shorter than it says.
pub fn packets(mut data: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let (length, rest) = data.split_first_chunk()?;
        let (packet, rest) = rest.split_at(usize::from(u16::from_be_bytes(*length)).min(rest.len()));
        data = rest;
        Some(packet)
    })
}

/// Cuts `data` into `N` texts at its first zeros. Those that are missing are empty.
pub fn texts<const N: usize>(data: &[u8]) -> [String; N] {
    let mut parts = data.splitn(N, |byte| *byte == 0);
    std::array::from_fn(|_| String::from_utf8_lossy(parts.next().unwrap_or_default()).into_owned())
}
