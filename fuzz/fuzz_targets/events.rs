//! A boot report, as bootserve gets it from the network. One that is accepted is written and read back without a change.
#![no_main]

use bootspec::event::{MAX_REPORT_BYTES, Report};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(report) = Report::parse(data) else { return };
    let json = serde_json::to_vec(&report).expect("a report is JSON");
    if json.len() <= MAX_REPORT_BYTES {
        assert_eq!(Report::parse(&json).ok(), Some(report));
    }
});
