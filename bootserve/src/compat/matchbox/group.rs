//! Groups: which profile is for a machine with which labels.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::Error as _;
use serde_json::{Map, Value};

use crate::compat::bootcfg::null_is_none;
use crate::compat::{HardwareAddr, Labels};

/// A file of `groups/`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Group {
    /// Its name.
    pub id: String,
    /// The profile of its machines.
    pub profile: String,
    /// What the labels of its machines must be. Under `mac` stands an address in its canonical form.
    #[serde(default, deserialize_with = "null_is_none")]
    pub selector: BTreeMap<String, String>,
    /// Variables of templates.
    #[serde(default)]
    pub metadata: Option<Map<String, Value>>,
}

impl Group {
    /// Parses the JSON of a group.
    pub fn parse(json: &[u8]) -> Result<Self, serde_json::Error> {
        let mut group: Self = serde_json::from_slice(json)?;
        for (what, value) in [("id", &group.id), ("profile", &group.profile)] {
            if value.is_empty() {
                return Err(serde_json::Error::custom(format!("a group needs {what}")));
            }
        }
        for (key, value) in &mut group.selector {
            if key.eq_ignore_ascii_case("mac") {
                let address: HardwareAddr = value.parse().map_err(serde_json::Error::custom)?;
                *value = address.to_string();
            }
        }
        Ok(group)
    }

    /// Whether all that it selects by is so.
    pub fn matches(&self, labels: &Labels) -> bool {
        self.selector.iter().all(|(key, value)| labels.get(key) == Some(value))
    }

    /// The greatest wins: the one that selects by most, then by the text of it.
    fn rank(&self) -> (usize, String) {
        let pairs: Vec<_> = self.selector.iter().map(|(key, value)| format!("{key}={value}")).collect();
        (pairs.len(), pairs.join(","))
    }
}

/// The group of a machine. Of groups that select by the same, the one whose file stands first.
pub fn select(groups: Vec<Group>, labels: &Labels) -> Option<Group> {
    groups.into_iter().rev().filter(|group| group.matches(labels)).max_by_key(Group::rank)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn group(id: &str, selector: &[(&str, &str)]) -> Group {
        let selector = selector.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        Group { id: id.to_owned(), profile: "p".to_owned(), selector, metadata: None }
    }

    #[test]
    fn the_group_with_most_selectors_wins_and_then_the_greatest_text() {
        let groups = || {
            vec![
                group("default", &[]),
                group("also-default", &[]),
                group("mac", &[("mac", "52:54:00:a1:9c:ae")]),
                group("region", &[("region", "west")]),
                group("installed", &[("mac", "52:54:00:a1:9c:ae"), ("os", "installed")]),
            ]
        };
        let check = |query, expected| {
            let found = select(groups(), &Labels::parse(query)).unwrap();
            assert_eq!(found.id, expected, "{query}");
        };
        check("", "default");
        check("mac=nonsense", "default");
        check("mac=52-54-00-A1-9C-AE", "mac");
        check("mac=52-54-00-A1-9C-AE&region=west", "region");
        check("mac=52-54-00-A1-9C-AE&region=west&os=installed", "installed");
        check("REGION=west", "default");
        assert_eq!(select(vec![group("g", &[("a", "b")])], &Labels::parse("a=c")), None);
    }

    #[test]
    fn a_group_needs_id_and_profile_and_addresses_that_are_some() {
        let check =
            |json: &str, is_valid| assert_eq!(Group::parse(json.as_bytes()).is_ok(), is_valid, "{json}");
        check(r#"{"id": "a", "profile": "b", "name": "c", "requirements": {}}"#, true);
        check(r#"{"id": "a", "profile": "b", "selector": null, "metadata": null}"#, true);
        check(r#"{"id": "", "profile": "b"}"#, false);
        check(r#"{"id": "a"}"#, false);
        check(r#"{"id": "a", "profile": "b", "selector": {"MAC": "5254.00a1.9cae"}}"#, true);
        check(r#"{"id": "a", "profile": "b", "selector": {"mac": "x"}}"#, false);
        check(r#"{"id": "a", "profile": "b", "metadata": []}"#, false);
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_group_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            let _ = Group::parse(&bytes);
        }

        #[test]
        fn the_chosen_group_matches_and_none_that_does_selects_by_more(
            selectors in prop::collection::vec(prop::collection::btree_map("[a-c]", "[xy]", 0..3), 0..6), query in "([a-c]=[xy]&){0,3}"
        ) {
            let labels = Labels::parse(&query);
            let groups: Vec<_> = selectors.into_iter().map(|selector| Group { selector, ..group("g", &[]) }).collect();
            let most = groups.iter().filter(|group| group.matches(&labels)).map(|group| group.selector.len()).max();
            let found = select(groups, &labels);
            prop_assert!(found.as_ref().is_none_or(|group| group.matches(&labels)));
            prop_assert_eq!(found.map(|group| group.selector.len()), most);
        }
    }
}
