//! Bytes as an archive. Without correct checksums nearly all of them would end at the first header, so headers get those.
#![no_main]

use bootnode_fuzz::extract_in_sandbox;
use libfuzzer_sys::fuzz_target;
use tar::Header;

const BLOCK: usize = 512;

fuzz_target!(|data: &[u8]| {
    let mut tar = data.to_vec();
    for block in tar.chunks_exact_mut(BLOCK) {
        let mut header = Header::new_old();
        header.as_mut_bytes().copy_from_slice(block);
        if header.as_ustar().is_some() || header.as_gnu().is_some() {
            header.set_cksum();
            block.copy_from_slice(header.as_bytes());
        }
    }
    extract_in_sandbox(&tar);
});
