//! `@{name}` in the texts of a recipe stands for a value of `[variables]` or of `--set`. Shell, dnf and iPXE have `$` and `{}`
//! for their own variables.

use std::borrow::Cow;
use std::collections::BTreeMap;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::listed;
use super::source_map::{Problem, key_in};

const BEGIN: &str = "@{";
/// Stands for [`BEGIN`] itself.
const ESCAPED: &str = "@@{";

/// Replaces the variables in all texts of `table`.
pub fn substitute(table: &mut DeTable<'_>, variables: &BTreeMap<String, String>) -> Result<(), Problem> {
    in_table(table, variables, "")
}

fn in_table(
    table: &mut DeTable<'_>,
    variables: &BTreeMap<String, String>,
    path: &str,
) -> Result<(), Problem> {
    for (key, value) in table.iter_mut() {
        let key = key.get_ref();
        let path = key_in(path, key);
        in_value(value, variables, &path)?;
    }
    Ok(())
}

fn in_value(
    value: &mut Spanned<DeValue<'_>>,
    variables: &BTreeMap<String, String>,
    path: &str,
) -> Result<(), Problem> {
    let offset = value.span().start;
    match value.as_mut() {
        DeValue::String(text) => {
            let replaced = replace(text, variables).map_err(|problem| Problem {
                offset,
                key: path.to_owned(),
                problem,
            })?;
            if let Some(replaced) = replaced {
                *text = Cow::Owned(replaced);
            }
        }
        DeValue::Array(values) => {
            for (index, value) in values.iter_mut().enumerate() {
                in_value(value, variables, &format!("{path}[{index}]"))?;
            }
        }
        DeValue::Table(table) => in_table(table, variables, path)?,
        _ => {}
    }
    Ok(())
}

/// The text with the values of its variables, if it has any, or what is wrong with it.
fn replace(text: &str, variables: &BTreeMap<String, String>) -> Result<Option<String>, String> {
    if !text.contains(BEGIN) {
        return Ok(None);
    }
    let mut replaced = String::new();
    let mut rest = text;
    while let Some(start) = rest.find(BEGIN) {
        let behind = &rest[start + BEGIN.len()..];
        if rest[..start].ends_with('@') {
            replaced.push_str(&rest[..start - 1]);
            replaced.push_str(BEGIN);
            rest = behind;
            continue;
        }
        replaced.push_str(&rest[..start]);
        let (name, behind) = behind.split_once('}').ok_or_else(|| {
            format!("a variable without an end: '{BEGIN}'\nhint: write {ESCAPED} for the two characters themselves")
        })?;
        let value = variables.get(name).ok_or_else(|| {
            let known = listed(variables.keys());
            format!(
                "there is no variable '{name}'; [variables] has {known}\nhint: write {ESCAPED} for the characters {BEGIN} themselves"
            )
        })?;
        replaced.push_str(value);
        rest = behind;
    }
    replaced.push_str(rest);
    Ok(Some(replaced))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn variables() -> BTreeMap<String, String> {
        [("release", "9"), ("empty", ""), ("tricky", "@{release}")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into()
    }

    fn check(text: &str, expected: Result<&str, &str>) {
        match (replace(text, &variables()), expected) {
            (Ok(found), Ok(expected)) => assert_eq!(found.as_deref().unwrap_or(text), expected),
            (Err(problem), Err(expected)) => assert!(problem.contains(expected), "{text}: {problem}"),
            (found, _) => panic!("{text}: {found:?}"),
        }
    }

    #[test]
    fn variables_are_replaced_once_and_what_is_escaped_is_not() {
        check("el@{release}.@{release}@{empty}!", Ok("el9.9!"));
        check("$x ${x} {{x}} a@b", Ok("$x ${x} {{x}} a@b"));
        check("@{tricky}", Ok("@{release}"));
        check("@@{release}", Ok("@{release}"));
    }

    #[test]
    fn unknown_variables_and_those_without_an_end_are_refused() {
        check("@{releas}", Err("no variable 'releas'; [variables] has empty, release, tricky"));
        check("@{release", Err("without an end"));
    }

    #[test]
    fn texts_everywhere_in_a_recipe_are_replaced_and_named() {
        let mut table =
            DeTable::parse("n = 1\n[a]\nb = ['@{release}', { c = '@{release}' }]").unwrap().into_inner();
        substitute(&mut table, &variables()).unwrap();
        let found: toml::Value =
            serde::Deserialize::deserialize(toml::Deserializer::from(Spanned::new(0..0, table))).unwrap();
        assert_eq!(found, toml::from_str("n = 1\n[a]\nb = ['9', { c = '9' }]").unwrap());
        let mut table = DeTable::parse("[a]\nb = ['', { c = '@{x}' }]").unwrap().into_inner();
        let error = substitute(&mut table, &variables()).unwrap_err();
        assert_eq!((error.key.as_str(), error.offset), ("a.b[1].c", 19));
    }

    proptest! {
        #[test]
        fn any_text_is_replaced_or_refused_without_panic(text in "[@{}a-c]{0,20}") {
            let _ = replace(&text, &variables());
        }

        #[test]
        fn escaped_text_is_itself(text in "[a-c{}$ ]{0,20}") {
            let escaped = format!("{text}@@{{");
            prop_assert_eq!(replace(&escaped, &variables()).unwrap(), Some(format!("{text}@{{")));
        }
    }
}
