//! How one layer of a recipe changes what the layers before it say.
//!
//! A value takes the place of an inherited one; tables are merged key by key. A list takes the place of the inherited list,
//! or changes it: `packages = { add = ["slurmd"], remove = ["vim"] }`. Of `[[file]]`, `[[group]]`, `[[user]]`, `[[script]]` and
//! `[[source.repository]]`, an item takes the place of the inherited one of the same name, or takes it out:
//! `remove = true`. A table whose `type` is another one takes the place of the inherited table.

use toml::Spanned;
use toml::de::{DeArray, DeString, DeTable, DeValue};

use super::source_map::{Problem, key_in};

const ADD: &str = "add";
const REMOVE: &str = "remove";
const TYPE: &str = "type";

/// Lists of tables, and the key by which their items are told apart.
const NAMED_ITEMS: [(&str, &str); 7] = [
    ("file", "path"),
    ("group", "name"),
    ("user", "name"),
    ("script", "name"),
    ("check", "name"),
    ("source.repository", "name"),
    ("source.from.repository", "name"),
];

/// Applies `over` to `base`. `path` is the key of both: empty at the top.
pub fn merge<'i>(base: &mut DeTable<'i>, over: DeTable<'i>, path: &str) -> Result<(), Problem> {
    for (key, value) in over {
        let path = key_in(path, key.get_ref());
        let inherited = base.remove(key.get_ref().as_ref());
        let value = merge_value(inherited, value, &path)?;
        base.insert(key, value);
    }
    Ok(())
}

fn merge_value<'i>(
    inherited: Option<Spanned<DeValue<'i>>>,
    value: Spanned<DeValue<'i>>,
    path: &str,
) -> Result<Spanned<DeValue<'i>>, Problem> {
    let span = value.span();
    let inherited = inherited.map(Spanned::into_inner);
    let merged = match (inherited, value.into_inner()) {
        (inherited, DeValue::Table(change)) if is_change(&change) => {
            DeValue::Array(changed(inherited, change, path)?)
        }
        (Some(DeValue::Table(mut inherited)), DeValue::Table(over)) if !is_other_type(&inherited, &over) => {
            merge(&mut inherited, over, path)?;
            DeValue::Table(inherited)
        }
        (_, DeValue::Table(over)) => {
            let mut table = DeTable::new();
            merge(&mut table, over, path)?;
            DeValue::Table(table)
        }
        (inherited, DeValue::Array(items)) => match NAMED_ITEMS.iter().find(|(list, _)| *list == path) {
            Some((_, name)) => DeValue::Array(merge_items(inherited, items, path, name)?),
            None => DeValue::Array(items),
        },
        (_, scalar) => scalar,
    };
    Ok(Spanned::new(span, merged))
}

fn is_other_type(inherited: &DeTable<'_>, over: &DeTable<'_>) -> bool {
    match (type_of(inherited), type_of(over)) {
        (Some(inherited), Some(over)) => inherited != over,
        _ => false,
    }
}

fn type_of<'a>(table: &'a DeTable<'_>) -> Option<&'a str> {
    table.get(TYPE)?.get_ref().as_str()
}

/// Whether the table is a change of a list. No table of a recipe has such keys with lists.
fn is_change(table: &DeTable<'_>) -> bool {
    let is_part = |(key, value): (&Spanned<DeString<'_>>, &Spanned<DeValue<'_>>)| {
        let key = key.get_ref().as_ref();
        (key == ADD || key == REMOVE) && value.get_ref().is_array()
    };
    !table.is_empty() && table.iter().all(is_part)
}

fn changed<'i>(
    inherited: Option<DeValue<'i>>,
    mut change: DeTable<'i>,
    path: &str,
) -> Result<DeArray<'i>, Problem> {
    let mut part = |name| match change.remove(name).map(Spanned::into_inner) {
        Some(DeValue::Array(values)) => values.into_iter().collect(),
        _ => Vec::new(),
    };
    let (added, removed): (Vec<_>, Vec<_>) = (part(ADD), part(REMOVE));
    let mut list: Vec<Spanned<DeValue<'i>>> = match inherited {
        Some(DeValue::Array(list)) => list.into_iter().collect(),
        _ => Vec::new(),
    };
    for value in removed {
        let before = list.len();
        list.retain(|inherited| !is_same(inherited, &value));
        if list.len() == before {
            let value_text = value.get_ref().as_str().unwrap_or("that").to_owned();
            return Err(Problem {
                offset: value.span().start,
                key: format!("{path}.{REMOVE}"),
                problem: format!("'{value_text}' is not in the list that is inherited"),
            });
        }
    }
    for value in added {
        if !list.iter().any(|inherited| is_same(inherited, &value)) {
            list.push(value);
        }
    }
    Ok(list.into_iter().collect())
}

fn is_same(one: &Spanned<DeValue<'_>>, other: &Spanned<DeValue<'_>>) -> bool {
    one.get_ref().as_str().is_some_and(|text| other.get_ref().as_str() == Some(text))
}

/// `items` among the inherited ones. Two of one layer are never taken for the same.
fn merge_items<'i>(
    inherited: Option<DeValue<'i>>,
    items: DeArray<'i>,
    path: &str,
    name: &str,
) -> Result<DeArray<'i>, Problem> {
    let mut list: Vec<Option<Spanned<DeValue<'i>>>> = match inherited {
        Some(DeValue::Array(list)) => list.into_iter().map(Some).collect(),
        _ => Vec::new(),
    };
    let inherited = list.len();
    for item in items {
        let same = match name_of(&item, name) {
            Some(item_name) => list[..inherited]
                .iter()
                .position(|old| old.as_ref().and_then(|old| name_of(old, name)) == Some(item_name)),
            None => None,
        };
        match (is_removal(&item), same) {
            (true, Some(index)) => list[index] = None,
            (true, None) => {
                return Err(Problem {
                    offset: item.span().start,
                    key: path.to_owned(),
                    problem: format!(
                        "nothing to remove: no inherited item has the {name} '{}'",
                        name_of(&item, name).unwrap_or_default()
                    ),
                });
            }
            (false, Some(index)) => list[index] = Some(item),
            (false, None) => list.push(Some(item)),
        }
    }
    Ok(list.into_iter().flatten().collect())
}

fn name_of<'a>(item: &'a Spanned<DeValue<'_>>, name: &str) -> Option<&'a str> {
    item.get_ref().as_table()?.get(name)?.get_ref().as_str()
}

fn is_removal(item: &Spanned<DeValue<'_>>) -> bool {
    let remove = item.get_ref().as_table().and_then(|table| table.get(REMOVE));
    remove.and_then(|remove| remove.get_ref().as_bool()).unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn merged(layers: &[&str]) -> Result<toml::Value, Problem> {
        let mut base = DeTable::new();
        for layer in layers {
            merge(&mut base, DeTable::parse(layer).unwrap().into_inner(), "")?;
        }
        let deserializer = toml::Deserializer::from(Spanned::new(0..0, base));
        Ok(serde::Deserialize::deserialize(deserializer).unwrap())
    }

    fn check(layers: &[&str], expected: &str) {
        let expected: toml::Value = toml::from_str(expected).unwrap();
        assert_eq!(merged(layers).unwrap(), expected, "{layers:?}");
    }

    fn check_refused(layers: &[&str], expected: &str) {
        let error = merged(layers).unwrap_err();
        let text = format!("{}: {}", error.key, error.problem);
        assert!(text.contains(expected), "{layers:?} gave {text}");
    }

    #[test]
    fn values_and_lists_are_replaced_and_tables_merged() {
        check(
            &["a = 1\nl = ['x']\n[t]\nb = 1\nc = 1", "a = 2\nl = ['y']\n[t]\nc = 2"],
            "a = 2\nl = ['y']\n[t]\nb = 1\nc = 2",
        );
    }

    #[test]
    fn lists_add_and_remove() {
        check(&["l = ['x', 'y']", "l = { add = ['z', 'y'], remove = ['x'] }"], "l = ['y', 'z']");
        check(&["l = { add = ['x'] }"], "l = ['x']");
        check(
            &["[t]\nl = ['x']", "[t]\nl = { add = ['y'] }", "[t.l]\nadd = ['z']"],
            "[t]\nl = ['x', 'y', 'z']",
        );
        check_refused(&["l = ['x']", "l = { remove = ['y'] }"], "l.remove: 'y' is not in the list");
    }

    #[test]
    fn named_items_replace_each_other_and_can_be_taken_out() {
        let base = "[[file]]\npath = '/a'\ncontent = '1'\n[[file]]\npath = '/b'\ncontent = '1'";
        check(
            &[base, "[[file]]\npath = '/c'\ncontent = '2'\n[[file]]\npath = '/a'\ncontent = '2'"],
            "[[file]]\npath = '/a'\ncontent = '2'\n[[file]]\npath = '/b'\ncontent = '1'\n[[file]]\npath = '/c'\ncontent = '2'",
        );
        check(&[base, "[[file]]\npath = '/a'\nremove = true"], "[[file]]\npath = '/b'\ncontent = '1'");
        check_refused(&[base, "[[file]]\npath = '/x'\nremove = true"], "no inherited item has the path '/x'");
        // The same twice in one layer is for the layer to know.
        let twice = "[[script]]\nname = 'x'\nrun = '1'\n[[script]]\nname = 'x'\nrun = '2'";
        check(&[twice], twice);
    }

    #[test]
    fn a_source_of_another_type_replaces_the_inherited_one() {
        check(
            &["[source]\ntype = 'mmdebstrap'\nsuite = 'x'", "[source]\ntype = 'dnf'\nreleasever = '9'"],
            "[source]\ntype = 'dnf'\nreleasever = '9'",
        );
        check(
            &["[source]\ntype = 'dnf'\nreleasever = '8'\nweak_deps = true", "[source]\nreleasever = '9'"],
            "[source]\ntype = 'dnf'\nreleasever = '9'\nweak_deps = true",
        );
    }

    proptest! {
        #[test]
        fn a_layer_over_nothing_is_itself(keys in proptest::collection::btree_map("[a-z]{1,3}", "[a-z]{0,5}", 0..5)) {
            let text = toml::to_string(&keys).unwrap();
            check(&[&text], &text);
            check(&[&text, &text], &text);
        }
    }
}
