//! What Razor's clients ask for. A machine is known by what it may be known by, and the script that iPXE begins with has no line but ours.
#![no_main]

use std::net::Ipv4Addr;

use bootserve::compat::razor::bootstrap::Bootstrap;
use bootserve::compat::razor::hardware::Hardware;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|query: &str| {
    let hardware = Hardware::parse(query);
    assert_eq!(hardware.is_empty(), hardware.sought().is_empty());
    for key in hardware.keys() {
        assert!(!key.bytes().any(|byte| byte.is_ascii_uppercase()), "{key:?}");
    }
    if let Ok(bootstrap) = Bootstrap::parse(query, 80) {
        let script = bootstrap.script(Ipv4Addr::LOCALHOST);
        assert!(script.starts_with("#!ipxe\n") && script.is_ascii(), "{script}");
    }
});
