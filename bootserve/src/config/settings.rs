//! The configuration as it stands in the file, with the defaults filled in, and what is different in another one.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::Serialize;
use serde_json::Value;

/// What tells the tables of an array apart: `[[node]]` have names, `[[network]]` subnets; others are numbered.
const NAMES: [&str; 2] = ["name", "subnet"];

/// What is read at the start alone: a table, and its key, or none for all of them.
const NEEDS_RESTART: [(&str, Option<&str>); 14] = [
    ("server", Some("interface")),
    ("server", Some("address")),
    ("server", Some("store")),
    ("server", Some("state")),
    ("server", Some("user")),
    ("server", Some("http_port")),
    ("server", Some("api_socket")),
    ("server", Some("api_group")),
    ("dhcp", None),
    ("network", Some("router_advertisements")),
    ("tftp", None),
    ("http", Some("congestion_control")),
    ("tls", Some("port")),
    // With it the section comes and goes.
    ("dns", Some("zone")),
];

/// Every setting of a configuration: its keys and their values by table.
#[derive(Clone, Debug, Default)]
pub struct Settings(BTreeMap<Table, BTreeMap<String, Value>>);

/// A table of the file: `[server]`, or one of several, as `[[node]]` node-000.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Table {
    /// The word in brackets.
    pub table: String,
    /// Which of several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// A setting that is not the same in another configuration.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Change {
    /// Where it stands.
    #[serde(flatten)]
    pub table: Table,
    /// What is set.
    pub key: String,
    /// Its value before; none if it was left out and has no default.
    pub before: Option<Value>,
    /// Its value from now on.
    pub after: Option<Value>,
    /// Whether only a restart puts it in force.
    pub needs_restart: bool,
}

/// All settings that are not the same, by table and key.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(transparent)]
pub struct Changes(pub Vec<Change>);

impl Settings {
    /// Those of `file`, whose fields are tables or arrays of tables.
    pub(super) fn of(file: &impl Serialize) -> Self {
        let Ok(Value::Object(tables)) = serde_json::to_value(file) else { return Self::default() };
        let tables = tables.into_iter().flat_map(|(table, value)| match value {
            Value::Array(several) => several
                .into_iter()
                .zip(1..)
                .map(|(one, number)| (Table { table: table.clone(), name: Some(name_of(&one, number)) }, one))
                .collect(),
            one => vec![(Table { table, name: None }, one)],
        });
        let settings = tables.filter_map(|(table, value)| match value {
            Value::Object(settings) => {
                Some((table, settings.into_iter().filter(|(_, value)| !value.is_null()).collect()))
            }
            _ => None,
        });
        Self(settings.collect())
    }

    /// The settings of one of several tables, as TOML has them.
    pub fn table(&self, table: &str, name: &str) -> toml::Table {
        let table = Table { table: table.to_owned(), name: Some(name.to_owned()) };
        let settings = self.0.get(&table).into_iter().flatten();
        settings.filter_map(|(key, value)| Some((key.clone(), toml::Value::try_from(value).ok()?))).collect()
    }

    /// What is different in `after`.
    pub fn changes(&self, after: &Self) -> Changes {
        let tables: BTreeSet<_> = self.0.keys().chain(after.0.keys()).collect();
        let none = BTreeMap::new();
        let changes = tables.into_iter().flat_map(|table| {
            let [before, after] = [self, after].map(|settings| settings.0.get(table).unwrap_or(&none));
            let keys: BTreeSet<_> = before.keys().chain(after.keys()).collect();
            keys.into_iter().filter(|key| before.get(*key) != after.get(*key)).map(|key| Change {
                table: table.clone(),
                key: key.clone(),
                before: before.get(key).cloned(),
                after: after.get(key).cloned(),
                needs_restart: needs_restart(&table.table, key),
            })
        });
        Changes(changes.collect())
    }
}

fn name_of(table: &Value, number: usize) -> String {
    let name = NAMES.iter().find_map(|key| table.get(key)?.as_str());
    name.map_or_else(|| number.to_string(), str::to_owned)
}

fn needs_restart(table: &str, key: &str) -> bool {
    NEEDS_RESTART.iter().any(|(of, what)| *of == table && what.is_none_or(|what| what == key))
}

impl Changes {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether one is of `table`.
    pub fn touch(&self, table: &str) -> bool {
        self.0.iter().any(|change| change.table.table == table)
    }

    /// Those that only a restart puts in force.
    pub fn needing_restart(&self) -> Self {
        Self(self.0.iter().filter(|change| change.needs_restart).cloned().collect())
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.table)?;
        self.name.iter().try_for_each(|name| write!(f, " {name}"))
    }
}

impl fmt::Display for Change {
    /// As `node node-000 image: "compute" -> "compute/20261122T061457Z"`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: ", self.table, self.key)?;
        let value = |value: &Option<Value>| value.as_ref().map_or("nothing".to_owned(), Value::to_string);
        write!(f, "{} -> {}", value(&self.before), value(&self.after))?;
        f.write_str(if self.needs_restart { " (needs a restart)" } else { "" })
    }
}

impl fmt::Display for Changes {
    /// A line for each, joined by newlines.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, change) in self.0.iter().enumerate() {
            let newline = if index == 0 { "" } else { "\n" };
            write!(f, "{newline}{change}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::Config;
    use super::*;

    fn settings(change: impl Fn(&str) -> String) -> Settings {
        let text = change(include_str!("../../bootserve.example.toml"));
        Config::parse(&text).unwrap().settings()
    }

    fn changes(from: &str, to: &str) -> String {
        let example = include_str!("../../bootserve.example.toml");
        assert!(example.contains(from), "{from}");
        settings(str::to_owned).changes(&settings(|text| text.replacen(from, to, 1))).to_string()
    }

    #[test]
    fn a_change_is_told_with_its_table_key_and_values() {
        let changed = changes("192.168.0.101", "192.168.0.111");
        assert_eq!(changed, "node node-001 address: \"192.168.0.101\" -> \"192.168.0.111\"");
        let changed = changes("domain = \"cluster\"\nlease_seconds = 3600", "lease_seconds = 7200");
        let expected = "network 192.168.0.0/24 domain: \"cluster\" -> nothing\n\
                        network 192.168.0.0/24 lease_seconds: 3600 -> 7200";
        assert_eq!(changed, expected);
    }

    #[test]
    fn what_means_the_same_is_no_change() {
        assert_eq!(changes("fc:ab:14:e8:66:02", "FC-AB-14-E8-66-02"), "");
        assert_eq!(changes("http_port = 80\n", ""), "");
        assert_eq!(changes("[network]", "[[network]]"), "");
    }

    #[test]
    fn a_node_that_is_new_has_nothing_before() {
        let extra =
            "[[node]]\nname = 'a'\nmac = '02:00:00:00:00:01'\naddress = '192.168.0.77'\nimage = 'x/1'\n";
        let changes = settings(str::to_owned).changes(&settings(|text| format!("{text}\n{extra}")));
        assert!(changes.0.iter().all(|change| change.before.is_none() && !change.needs_restart));
        let image = changes.0.iter().find(|change| change.key == "image").unwrap();
        assert_eq!(image.to_string(), "node a image: nothing -> \"x/1\"");
        let json = serde_json::to_value(image).unwrap();
        assert_eq!(json["table"], "node");
        assert_eq!(json["name"], "a");
    }

    #[test]
    fn tables_without_a_name_are_numbered() {
        let two = "[[quirk]]\ndelay_ms = 5\n[[quirk]]\ndelay_ms = 7\n[boot]";
        let changed = changes("[boot]", two);
        assert!(changed.contains("quirk 1 delay_ms: nothing -> 5\n"), "{changed}");
        assert!(changed.contains("quirk 2 delay_ms: nothing -> 7"), "{changed}");
    }

    #[test]
    fn what_is_read_at_the_start_alone_needs_a_restart() {
        let changed = changes("http_port = 80\n", "http_port = 8080\n");
        assert_eq!(changed, "server http_port: 80 -> 8080 (needs a restart)");
        assert!(changes("[server]", "[tftp]\nsingle_port = true\n[server]").ends_with("(needs a restart)"));
    }

    #[test]
    fn what_needs_a_restart_is_named_as_it_is_in_the_file() {
        let text = include_str!("../../bootserve.example.toml")
            .replace("[server]", "[server]\napi_socket = 's'\napi_group = 'g'")
            .replace("[boot]", "[tls]\ncertificate = 'a'\nkey = 'b'\n[dns]\nzone = 'cluster'\n[boot]")
            + "\n[http]\ncongestion_control = 'reno'\n";
        let Settings(tables) = Config::parse(&text).unwrap().settings();
        for (table, key) in NEEDS_RESTART.iter().filter(|(_, key)| *key != Some("router_advertisements")) {
            let found = tables.iter().find(|(found, _)| found.table == *table);
            let (_, settings) = found.unwrap_or_else(|| panic!("no table {table}"));
            assert!(key.is_none_or(|key| settings.contains_key(key)), "{table}.{key:?}");
        }
    }
}
