//! Bytes as an archive. Without correct checksums nearly all of them would end at the first header, so headers get those.
#![no_main]

use bootnode_fuzz::{extract_in_sandbox, mend_checksums};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| extract_in_sandbox(&mend_checksums(data)));
