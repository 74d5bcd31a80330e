//! What a machine says about itself, as bootserve gets it from the network. Facts that are accepted need no cutting, are
//! written and read back without a change, and each text in them is a short line.
#![no_main]

use bootspec::facts::{Facts, MAX_TEXT_BYTES};
use init::discover::facts::{identity, label, summary};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

fuzz_target!(|data: &[u8]| {
    let Ok(mut facts) = Facts::parse(data) else { return };
    assert_eq!(facts.cut_to_limits(), None);
    let json = serde_json::to_value(&facts).expect("facts are JSON");
    check_texts(&json);
    assert_eq!(
        Facts::parse(json.to_string().as_bytes()).expect("what was accepted is accepted again"),
        facts
    );
    for line in [identity(&facts), label(&facts), summary(&facts)] {
        assert!(!line.contains(char::is_control), "{line:?}");
    }
});

fn check_texts(json: &Value) {
    match json {
        Value::String(text) => {
            assert!(
                (1..=MAX_TEXT_BYTES).contains(&text.len()) && !text.contains(char::is_control),
                "{text:?}"
            );
        }
        Value::Array(values) => values.iter().for_each(check_texts),
        Value::Object(fields) => fields.values().for_each(check_texts),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}
