//! A document and its signature, and a key. Whatever the signature says, only what the key has signed is trusted.
#![no_main]

use std::sync::OnceLock;

use bootnode_fuzz::texts;
use bootspec::signature::{TrustedKey, verify};
use libfuzzer_sys::fuzz_target;

/// Made by minisign 0.10: `minisign -G -W -p fuzz.pub -s fuzz.key`, then `minisign -S -s fuzz.key -m signed -x signed.minisig`.
const KEY: &str = include_str!("../signature/fuzz.pub");
const SIGNED: &str = include_str!("../signature/signed");

fuzz_target!(|data: &[u8]| {
    let [document, signature, key] = texts(data);
    let _ = TrustedKey::parse(&key);
    if verify(document.as_bytes(), Some(&signature), trusted()).is_ok() {
        assert_eq!(document, SIGNED);
    }
});

fn trusted() -> &'static [TrustedKey] {
    static KEYS: OnceLock<[TrustedKey; 1]> = OnceLock::new();
    KEYS.get_or_init(|| [TrustedKey::parse(KEY).expect("it is a key")])
}
