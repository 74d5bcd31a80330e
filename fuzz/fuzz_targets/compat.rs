//! What the routes of older boot servers read: queries, addresses, groups and templates, with NUL bytes between them. A group that is
//! chosen is one for the machine; an address is printed as it is read; a file that a query names is one path component.
#![no_main]

use std::path::{Component, Path};

use bootserve::compat::data_dir::file_name;
use bootserve::compat::matchbox::group::{Group, select};
use bootserve::compat::matchbox::template::render;
use bootserve::compat::{HardwareAddr, Labels};
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
});
