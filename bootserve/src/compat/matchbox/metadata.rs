//! What is known of a machine in a group: the variables of templates, and the lines of `/metadata`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use serde_json::{Map, Value, json};

use super::group::Group;
use super::template::go_text;
use crate::compat::Labels;

/// The variables of templates: the metadata of the group, what it selects by, in lower case, and the `request`.
pub fn variables(group: &Group, labels: &Labels) -> BTreeMap<String, Value> {
    let mut variables: BTreeMap<_, _> =
        group.metadata.iter().flatten().map(|(key, value)| (key.clone(), value.clone())).collect();
    let selectors = group.selector.iter();
    variables.extend(selectors.map(|(key, value)| (key.to_lowercase(), Value::from(value.as_str()))));
    let query: Map<_, _> = labels.iter().map(|(key, value)| (key.to_owned(), Value::from(value))).collect();
    let request = json!({"query": query, "raw_query": labels.raw_query()});
    variables.insert("request".to_owned(), request);
    variables
}

/// `KEY=value`, a line each: the metadata, then the labels, then the request. What the metadata says is not said again by a label that
/// the group does not select by.
pub fn environment(group: &Group, labels: &Labels) -> String {
    let selectors: BTreeMap<_, _> =
        group.selector.iter().map(|(key, value)| (key.to_lowercase(), value.as_str())).collect();
    let is_reserved = |key: &str| key == "request" || selectors.contains_key(key);
    let metadata = group.metadata.iter().flatten().filter(|(key, _)| !is_reserved(key));
    let mut lines = String::new();
    let mut said = BTreeSet::new();
    for (key, value) in metadata {
        said.insert(key.to_lowercase());
        print(&mut lines, key, value);
    }
    let labelled = labels.iter().map(|(key, value)| (key.to_lowercase(), value));
    let labelled = labelled.filter(|(key, _)| !said.contains(key) && key != "request");
    for (key, value) in labelled.chain(selectors.clone()).collect::<BTreeMap<_, _>>() {
        print(&mut lines, &key, &Value::from(value));
    }
    for (key, value) in labels.iter() {
        print(&mut lines, &format!("request_query_{key}"), &Value::from(value));
    }
    print(&mut lines, "request_raw_query", &Value::from(labels.raw_query()));
    lines
}

/// A line for a text, a number or a truth value, lines for what is in a map, and none for lists.
fn print(lines: &mut String, name: &str, value: &Value) {
    match value {
        Value::Object(map) => {
            map.iter().for_each(|(key, value)| print(lines, &format!("{name}_{key}"), value))
        }
        Value::Array(_) | Value::Null => {}
        _ => writeln!(lines, "{}={}", name.to_uppercase(), go_text(value)).expect("a String takes all"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group() -> Group {
        Group::parse(
            br#"{"id": "g", "profile": "p", "selector": {"mac": "52-54-00-A1-9C-AE", "Region": "west"},
                "metadata": {"meta": "data", "etcd_name": "node1", "some": {"nested": {"data": "some-value"}, "n": 3},
                             "list": [1], "none": null, "big": 1000000, "yes": true, "region": "hidden", "foo": "own"}}"#,
        )
        .unwrap()
    }

    #[test]
    fn the_environment_has_metadata_then_labels_then_the_request() {
        let query = "mac=52-54-00-a1-9c-ae&Region=west&foo=bar&gate=true";
        let expected = "BIG=1000000\nETCD_NAME=node1\nFOO=own\nMETA=data\nSOME_N=3\nSOME_NESTED_DATA=some-value\nYES=true\n\
                        GATE=true\nMAC=52:54:00:a1:9c:ae\nREGION=west\n\
                        REQUEST_QUERY_REGION=west\nREQUEST_QUERY_FOO=bar\nREQUEST_QUERY_GATE=true\n\
                        REQUEST_QUERY_MAC=52:54:00:a1:9c:ae\n\
                        REQUEST_RAW_QUERY=mac=52-54-00-a1-9c-ae&Region=west&foo=bar&gate=true\n";
        assert_eq!(environment(&group(), &Labels::parse(query)), expected);
    }

    #[test]
    fn templates_see_metadata_selectors_and_request_but_no_other_label() {
        let variables = variables(&group(), &Labels::parse("Region=west&os=installed"));
        assert_eq!(variables["region"], "west");
        assert_eq!(variables["foo"], "own");
        assert_eq!(variables["request"]["query"]["os"], "installed");
        assert!(!variables.contains_key("os"));
    }
}
