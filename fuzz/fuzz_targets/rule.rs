//! Rules of tags, and what strangers say of themselves. A rule that is accepted says yes, no, or why it says neither, whatever a machine
//! claims to be made of.
#![no_main]

use bootnode_fuzz::texts;
use bootserve::compat::razor::facts::facters;
use bootserve::compat::razor::rule::RazorRule;
use bootserve::discovery::rule::{Facts, Rule};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

fuzz_target!(|data: &[u8]| {
    let [rule, facts] = texts(data);
    let Ok(Value::Object(facts)) = serde_json::from_str(&facts) else { return };
    let facts = Value::Object(facts);
    let seen = Facts::from(&facts);
    let none = |_: &str| None;
    let rules = [Rule::expression(&rule), RazorRule::parse(&rule, none).map(Rule::Razor)];
    for rule in rules.into_iter().flatten() {
        if let Err(error) = rule.holds(&seen) {
            assert!(!error.to_string().is_empty());
        }
    }
    facters(&facts);
});
