//! The indexes of kernel modules, the kernel command line, and what a device says that it is.
#![no_main]

use bootnode_fuzz::texts;
use init::modules::{Modules, alias};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let [wanted, dep, alias, cmdline] = texts(data);
    let modules = Modules::parse(&dep, &alias, &cmdline);
    for name in modules.load_order(&wanted) {
        assert!(!name.contains('/'), "{name} is a path");
        assert!(dep.contains(&format!("{name}.ko")), "{name} is not in the index");
    }
    for pattern in alias.lines() {
        if alias::matches(pattern, &wanted) && !pattern.contains(['*', '?', '[', '\\']) {
            assert!(alias::is_same(pattern, &wanted));
        }
    }
});
