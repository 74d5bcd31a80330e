//! What a machine says about itself, as bootserve gets it from the network. Facts that are accepted need no cutting, are
//! written and read back without a change, and are told to the operator in lines.
#![no_main]

use bootspec::facts::Facts;
use init::discover::facts::{identity, label, summary};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(mut facts) = Facts::parse(data) else { return };
    assert_eq!(facts.cut_to_limits(), None);
    let json = serde_json::to_vec(&facts).expect("facts are JSON");
    assert_eq!(Facts::parse(&json).expect("what was accepted is accepted again"), facts);
    for line in [identity(&facts), label(&facts), summary(&facts)] {
        assert!(!line.contains(char::is_control), "{line:?}");
    }
});
