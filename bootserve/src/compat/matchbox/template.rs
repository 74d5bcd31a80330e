//! Templates in the language of Go's text/template, by the gotmpl crate: `{{.variable}}`, fields of fields, `index`, `if`, `range`,
//! `with`, `printf` and the rest of what Go has by itself. A variable that is missing is an error.

use std::collections::BTreeMap;
use std::sync::Arc;

use gotmpl::{MissingKey, Template, Value};
use serde_json::Value as Json;

/// A template of a few lines has no use for more turns of its loops.
const MAX_LOOPS: u64 = 100_000;

/// Renders `source` with `variables`, or says what is wrong and where.
pub fn render(source: &str, variables: &BTreeMap<String, Json>) -> Result<String, String> {
    let template = parse(source)?;
    let fields = variables.iter().map(|(name, value)| (Arc::from(name.as_str()), go_value(value)));
    let data = Value::Map(Arc::new(fields.collect()));
    template.execute_to_string(&data).map_err(|error| error.to_string())
}

/// Whether `source` is a template.
pub fn check(source: &str) -> Result<(), String> {
    parse(source).map(|_| ())
}

fn parse(source: &str) -> Result<Template, String> {
    let template = Template::new("config").missing_key(MissingKey::Error).max_range_iters(MAX_LOOPS);
    template.parse(source).map_err(|error| error.to_string())
}

/// A value as Go prints it, lists in brackets; but for numbers from a million on, which Go has as 1e+06 and which are digits here.
pub fn go_text(value: &Json) -> String {
    go_value(value).to_string()
}

fn go_value(value: &Json) -> Value {
    match value {
        Json::Null => Value::Nil,
        Json::Bool(value) => Value::Bool(*value),
        Json::Number(number) => Value::Float(number.as_f64().unwrap_or(f64::NAN)),
        Json::String(text) => Value::String(Arc::from(text.as_str())),
        Json::Array(list) => Value::List(list.iter().map(go_value).collect()),
        Json::Object(map) => {
            let fields = map.iter().map(|(key, value)| (Arc::from(key.as_str()), go_value(value)));
            Value::Map(Arc::new(fields.collect()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn variables() -> BTreeMap<String, Json> {
        let json = json!({
            "name": "node1",
            "domain_name": "node1.example.com",
            "etcd": {"name": "e1", "peers": ["a=1", "b=2"], "initial": true},
            "count": 3,
            "large": 1_000_000,
            "off": false,
            "ssh-keys": ["ssh-rsa AAAA"],
            "request": {"query": {"mac": "52:54:00:a1:9c:ae"}, "raw_query": "mac=52-54-00-a1-9c-ae"},
        });
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn templates_say_what_they_say_in_go() {
        let check = |source: &str, expected: &str| {
            assert_eq!(render(source, &variables()).as_deref(), Ok(expected), "{source}");
        };
        check("plain\n", "plain\n");
        check("{{.name}}.{{ .etcd.name }}", "node1.e1");
        check("{{index . \"ssh-keys\" 0}} {{index .etcd \"name\"}}", "ssh-rsa AAAA e1");
        check("{{range $i, $key := index . \"ssh-keys\"}}{{$i}}: {{$key}}{{end}}", "0: ssh-rsa AAAA");
        check("{{if .etcd.initial}}new{{else}}existing{{end}}{{if .off}}x{{end}}", "new");
        check("a\n{{- range .etcd.peers}}\n- {{.}}\n{{- end}}\nb", "a\n- a=1\n- b=2\nb");
        check("{{if eq .name \"node1\"}}one{{end}}", "one");
        check(
            "{{with .etcd}}{{.name}}{{end}} {{.request.query.mac}} {{.request.raw_query}}",
            "e1 52:54:00:a1:9c:ae mac=52-54-00-a1-9c-ae",
        );
        check(
            "{{printf \"%q\" .name}} {{.count}} {{.large}} {{.etcd.peers}}",
            "\"node1\" 3 1000000 [a=1 b=2]",
        );
        check("{{/* comment */}}{{len .etcd.peers}}", "2");
    }

    #[test]
    fn a_missing_variable_and_what_is_no_template_are_errors() {
        let check = |source: &str, expected: &str| {
            let error = render(source, &variables()).unwrap_err();
            assert!(error.contains(expected), "{source}: {error}");
        };
        check("{{.nosuch}}", "nosuch");
        check("{{.etcd.nosuch}}", "nosuch");
        check("{{.name", "unclosed action");
        check("{{nosuch .name}}", "nosuch");
        check("{{range 1000000000}}x{{end}}", "");
    }

    proptest! {
        #[test]
        fn any_template_is_rendered_or_refused(source in "\\PC{0,30}|(\\{\\{-?|[a-z.$ |\"]{0,6}|(if|end|range|with|index|define) ?|\\}\\}){0,8}") {
            let _ = render(&source, &variables());
        }

        #[test]
        fn any_value_is_printed(text in "\\PC{0,20}", number: f64, flag: bool) {
            prop_assert_eq!(go_text(&json!(text)), text.as_str());
            prop_assert_eq!(go_text(&json!(flag)), flag.to_string());
            let _ = go_text(&json!([number, {"a": [text]}]));
        }
    }
}
