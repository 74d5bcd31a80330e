//! What operators are told: every error code and every parameter has its place in the documents.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::fs;
use std::num::NonZeroU16;
use std::path::Path;
use std::time::Duration;

use bootspec::cmdline::{BootParams, ByteSize, OnFailure, RootSize, tokenize};
use bootspec::event::BootId;
use bootspec::manifest::BootMode;
use init::code::Code;

fn document(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs").join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("cannot read {}: {error}", path.display()))
}

/// The codes that are named anywhere in a text: `E-` and capitals.
fn named_in(text: &str) -> BTreeSet<&str> {
    let word = |start: usize| {
        let end = text[start + 2..].find(|c: char| !c.is_ascii_uppercase()).map(|length| start + 2 + length);
        &text[start..end.unwrap_or(text.len())]
    };
    let is_inside_a_word =
        |start: usize| text[..start].ends_with(|c: char| c.is_ascii_alphanumeric() || c == '-');
    let starts = text.match_indices("E-").map(|(start, _)| start).filter(|start| !is_inside_a_word(*start));
    starts.map(word).filter(|word| word.len() > 2).collect()
}

#[test]
fn operations_md_explains_every_code_and_no_other() {
    let text = document("operations.md");
    let explained: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("### E-")).collect();
    let explained: Vec<_> = explained.iter().map(|line| line.split([' ', ':']).next().unwrap()).collect();
    let codes: Vec<_> = Code::ALL.iter().map(|code| code.as_str().strip_prefix("E-").unwrap()).collect();
    assert_eq!(
        explained, codes,
        "docs/operations.md has a section ### CODE for each, in the order of Code::ALL"
    );
    for code in Code::ALL {
        assert!(
            text.contains(&format!("| [`{code}`](#")),
            "no row of the table begins with a link to {code}"
        );
    }
}

#[test]
fn no_document_names_a_code_that_does_not_exist() {
    let codes: BTreeSet<_> = Code::ALL.iter().map(|code| code.as_str()).collect();
    for name in
        ["operations.md", "boot-walkthrough.md", "kernel-cmdline.md", "bootserve.md", "architecture.md"]
    {
        let text = document(name);
        let unknown: Vec<_> = named_in(&text).into_iter().filter(|code| !codes.contains(code)).collect();
        assert!(unknown.is_empty(), "docs/{name} names {unknown:?}");
    }
}

/// A new parameter has to be added here, or this does not compile.
fn every_parameter() -> BootParams {
    BootParams {
        mode: Some(BootMode::Fetched),
        node: Some("node-001".parse().unwrap()),
        mac: Some("fc:ab:14:e8:66:02".parse().unwrap()),
        boot: Some(BootId::new(1)),
        report: Some("http://192.168.0.1".parse().unwrap()),
        image: Some("compute/1".parse().unwrap()),
        source: Some("http://192.168.0.1/images/compute/1".parse().unwrap()),
        address: Some("192.168.0.101/24".parse().unwrap()),
        gateway: Some("192.168.0.1".parse().unwrap()),
        fetch_timeout: Some(Duration::from_secs(1)),
        overlay: Some("http://192.168.0.1/overlays/node-001.tar".parse().unwrap()),
        min_rollback_index: Some(1),
        root_size: Some(RootSize::Percent(50)),
        root_inodes: Some(1),
        root_mpol: Some("interleave".parse().unwrap()),
        reserve: Some(ByteSize(1)),
        workers: NonZeroU16::new(1),
        on_failure: OnFailure::Shell,
        failure_delay: Some(Duration::from_secs(1)),
        attempt: 1,
        init: Some("/bin/sh".parse().unwrap()),
    }
}

#[test]
fn kernel_cmdline_md_lists_every_parameter_and_no_other() {
    let text = document("kernel-cmdline.md");
    let rows = text.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("=` |"));
    let listed: BTreeSet<_> =
        rows.map(|(name, _)| name).filter(|name| name.starts_with("bootnode.") || *name == "init").collect();
    let line = every_parameter().to_string();
    let known = tokenize(&line);
    assert_eq!(listed, known.iter().map(|param| param.name.as_str()).collect());
}
