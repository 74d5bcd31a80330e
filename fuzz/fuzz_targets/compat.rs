//! What the routes of older boot servers read: queries, addresses, groups and templates, with NUL bytes between them. A group that is
//! chosen is one for the machine; an address is printed as it is read; a file that a query names is one path component.
#![no_main]

use std::net::Ipv4Addr;
use std::path::{Component, Path};

use bootserve::compat::data_dir::file_name;
use bootserve::compat::matchbox::group::{Group, select};
use bootserve::compat::matchbox::template::render;
use bootserve::compat::razor::bootstrap::Bootstrap;
use bootserve::compat::razor::facts::{Facter, facters, ours};
use bootserve::compat::razor::hardware::Hardware;
use bootserve::compat::razor::rule::RazorRule;
use bootserve::compat::{HardwareAddr, Labels};
use bootspec::MacAddr;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let parts: Vec<&str> = text.split('\0').collect();
    let [query, template, groups @ ..] = parts.as_slice() else { return };
    let labels = Labels::parse(query);
    for (key, value) in labels.iter() {
        if key.eq_ignore_ascii_case("mac") {
            let address: HardwareAddr = value.parse().expect("what is no address is no label");
            assert_eq!(address.to_string(), value);
        }
        if let Some(name) = file_name(value) {
            let parts: Vec<_> = Path::new(name).components().collect();
            assert!(matches!(parts.as_slice(), [Component::Normal(_)]), "{name:?}");
        }
    }
    let groups: Vec<_> = groups.iter().filter_map(|json| Group::parse(json.as_bytes()).ok()).collect();
    let variables = groups.iter().filter_map(|group| group.metadata.clone()).flatten().collect();
    if let Some(group) = select(groups, &labels) {
        assert!(group.matches(&labels));
    }
    let _ = render(template, &variables);
    razor(query, template);
});

/// The query of a client of Razor, and a rule of a tag, over what that query says as facts.
fn razor(query: &str, rule: &str) {
    let hardware = Hardware::parse(query);
    assert_eq!(hardware.is_empty(), hardware.sought().is_empty());
    let _ = Bootstrap::parse(query, 80).map(|bootstrap| bootstrap.script(Ipv4Addr::LOCALHOST));
    let facter: Facter = serde_json::from_str(query).unwrap_or_default();
    let facts = ours(MacAddr::new([2, 0, 0, 0, 0, 1]), &facter);
    let _ = facters(&serde_json::to_value(facts).expect("facts are JSON"));
    if let Ok(rule) = RazorRule::parse(rule, |_| None) {
        let _ = rule.holds(&(&serde_json::json!({"facter": facter})).into());
    }
}
