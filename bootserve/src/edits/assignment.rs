//! `KEY=VALUE`, as it is written on a command line.
//!
//! A value is what TOML makes of it, so `100`, `["a", "b"]` and `{ rack = "1" }` are a number, a list and a table. What is not TOML, or
//! does not fit the key so, is a text: `image=rocky-9` needs no quotes. Where a list is expected, one text will do. A key with dots is
//! one of a table: `metadata.rack=1`.

use toml::{Table, Value};

/// What is written cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum AssignmentError {
    /// It has no equals sign, or no key.
    #[error("{0:?} is no assignment\nhint: KEY=VALUE, such as image=rocky-9 or metadata.rack=1")]
    Form(String),
    /// A key is there twice, or is both a table and something else.
    #[error("{0} is assigned twice")]
    Twice(String),
    /// The value does not fit the key, or there is no such key.
    #[error("cannot use {assignment:?}: {source}")]
    Value {
        /// What is written.
        assignment: String,
        /// What is wrong with it.
        source: Box<toml::de::Error>,
    },
}

/// The table that `assignments` make, each of which must pass `check` by itself.
pub fn table<S: AsRef<str>>(
    assignments: &[S],
    check: impl Fn(Table) -> Result<(), toml::de::Error>,
) -> Result<Table, AssignmentError> {
    let mut all = Table::new();
    for assignment in assignments {
        let assignment = assignment.as_ref();
        let form = || AssignmentError::Form(assignment.to_owned());
        let (key, text) = assignment.split_once('=').ok_or_else(form)?;
        let path: Vec<&str> = key.trim().split('.').collect();
        if path.iter().any(|part| part.is_empty()) {
            return Err(form());
        }
        let value = fitting(text, |value| check(nested(&path, value))).map_err(|source| {
            AssignmentError::Value { assignment: assignment.to_owned(), source: Box::new(source) }
        })?;
        insert(&mut all, &path, value).map_err(|()| AssignmentError::Twice(key.to_owned()))?;
    }
    Ok(all)
}

/// The first reading of `text` that passes `check`, or why the text itself does not.
fn fitting(
    text: &str,
    check: impl Fn(Value) -> Result<(), toml::de::Error>,
) -> Result<Value, toml::de::Error> {
    let text = || text.to_owned();
    let toml = format!("value = {}", text()).parse::<Table>().ok();
    let toml = toml.filter(|table| table.len() == 1).and_then(|mut table| table.remove("value"));
    let list = Value::Array(vec![Value::String(text())]);
    if let Some(value) = toml.clone().into_iter().chain([list]).find(|value| {
        let is_text = check(Value::String(text())).is_ok();
        check(value.clone()).is_ok() && (!is_text || toml.as_ref() == Some(value))
    }) {
        return Ok(value);
    }
    let value = Value::String(text());
    check(value.clone()).map(|()| value)
}

fn nested(path: &[&str], value: Value) -> Table {
    let mut table = Table::new();
    insert(&mut table, path, value).expect("an empty table has no keys");
    table
}

fn insert(table: &mut Table, path: &[&str], value: Value) -> Result<(), ()> {
    let (key, rest) = path.split_first().ok_or(())?;
    if rest.is_empty() {
        return match table.insert((*key).to_owned(), value) {
            None => Ok(()),
            Some(_) => Err(()),
        };
    }
    let inner = table.entry((*key).to_owned()).or_insert_with(|| Table::new().into());
    insert(inner.as_table_mut().ok_or(())?, rest, value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;
    use std::collections::BTreeMap;

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "it is read to be checked")]
    struct Wire {
        image: Option<String>,
        inodes: Option<u64>,
        args: Option<Vec<String>>,
        #[serde(default)]
        metadata: BTreeMap<String, Value>,
    }

    fn read(assignments: &[&str]) -> Result<Table, AssignmentError> {
        table(assignments, |table| table.try_into::<Wire>().map(drop))
    }

    #[test]
    fn a_value_is_what_fits_its_key() {
        let cases = [
            ("image=rocky-9", "image = 'rocky-9'"),
            ("image=9", "image = '9'"),
            ("image=\"9\"", "image = '9'"),
            ("image=a=b", "image = 'a=b'"),
            ("inodes=100", "inodes = 100"),
            ("args=console=ttyS0", "args = ['console=ttyS0']"),
            ("args=[\"a\", \"b\"]", "args = ['a', 'b']"),
            ("metadata.rack=1", "metadata = { rack = 1 }"),
            ("metadata.rack=r1", "metadata = { rack = 'r1' }"),
            ("metadata={ a = true }", "metadata = { a = true }"),
        ];
        for (assignment, expected) in cases {
            assert_eq!(read(&[assignment]).unwrap(), expected.parse().unwrap(), "{assignment}");
        }
        let both = read(&["metadata.rack=1", "image=x", "metadata.row=2"]).unwrap();
        assert_eq!(both, "image = 'x'\nmetadata = { rack = 1, row = 2 }".parse().unwrap());
    }

    #[test]
    fn what_cannot_be_used_is_named() {
        let cases: [(&[&str], &str); 6] = [
            (&["image"], "\"image\" is no assignment\nhint: "),
            (&["=x"], "\"=x\" is no assignment\nhint: "),
            (&["a..b=x"], "\"a..b=x\" is no assignment\nhint: "),
            (&["image=x", "image=y"], "image is assigned twice"),
            (&["inodes=many"], "cannot use \"inodes=many\": "),
            (&["imagee=x"], "cannot use \"imagee=x\": unknown field `imagee`"),
        ];
        for (assignments, expected) in cases {
            let error = read(assignments).unwrap_err().to_string();
            assert!(error.starts_with(expected), "{assignments:?}: {error}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_it_panic(text in ".{0,40}") {
            let _ = read(&[text.as_str()]);
            let _ = read(&[format!("metadata.{text}={text}").as_str()]);
        }
    }
}
