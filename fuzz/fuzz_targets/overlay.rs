//! What an overlay says of its files, and a template of one. What is said of a file is of a file of the node, and a template ends in
//! bounded time and space.
#![no_main]

use bootnode_fuzz::texts;
use bootserve::overlay::attributes::{Attributes, plain_path};
use bootserve::overlay::template::{MAX_OUTPUT_BYTES, render};
use libfuzzer_sys::fuzz_target;
use minijinja::context;

fuzz_target!(|data: &[u8]| {
    let [attributes, template] = texts(data);
    match Attributes::parse(&attributes) {
        Ok(Attributes(files)) => {
            for (path, attribute) in files {
                assert_eq!(plain_path(&path), Some(path.as_str()));
                assert!(attribute.mode.is_none_or(|mode| mode <= 0o7777), "{attribute:?}");
            }
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
    let variables = context! {
        node => context! { name => "node-001", address => "192.168.0.101" },
        groups => ["compute", "rack-1"],
        metadata => context! { rack => 7 },
    };
    match render(template.as_bytes(), &variables) {
        Ok(text) => assert!(text.len() <= MAX_OUTPUT_BYTES),
        Err(error) => assert!(!error.problem.is_empty()),
    }
});
