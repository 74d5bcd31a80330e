//! A kernel command line. What was understood of it is printed as bootserve prints it, and must be understood alike. What
//! passes as one kernel argument must leave those behind it alone.
#![no_main]

use bootspec::cmdline::{BootParams, KernelArg, tokenize};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let line = String::from_utf8_lossy(data);
    let (params, _) = BootParams::parse(&line);
    assert_eq!(BootParams::parse(&params.to_string()), (params, vec![]));

    if let Ok(argument) = line.parse::<KernelArg>() {
        let behind = "bootnode.workers=7";
        let params = tokenize(&format!("{argument} {behind}"));
        assert_eq!(params.len(), 2, "{argument}");
        assert_eq!(params[1..], tokenize(behind), "{argument}");
    }
});
