//! What a node shows to be given its secrets, as init reads it.
#![no_main]

use bootspec::credential::Credential;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| match Credential::parse(data) {
    Ok(credential) => assert_eq!(Credential::parse(&credential.to_bytes()).as_ref(), Ok(&credential)),
    Err(error) => assert!(error.to_string().len() < 200, "it tells what was found"),
});
