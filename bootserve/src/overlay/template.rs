//! Templates in the language of Jinja, by the minijinja crate. A variable that is unknown is an error, and so is printing one that has
//! no value. Nothing is escaped, a template sees no other file, and its time, memory and output are bounded.

use std::io;
use std::sync::LazyLock;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Value;
use minijinja::{AutoEscape, Environment, Error, ErrorKind, UndefinedBehavior};

/// What a template can spend: about so many steps, or 64 times as many bytes. A list of 100 000 nodes takes a fiftieth.
const FUEL: u64 = 10_000_000;
/// What a template may write.
pub const MAX_OUTPUT_BYTES: usize = 4 << 20;

static ENVIRONMENT: LazyLock<Environment<'static>> = LazyLock::new(environment);

/// A template cannot be rendered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}{problem}", line.map(|line| format!("line {line}: ")).unwrap_or_default())]
pub struct TemplateError {
    /// Where, counted from 1, if that is known.
    pub line: Option<usize>,
    /// What is wrong.
    pub problem: String,
}

/// Renders the template `source` with these variables.
pub fn render(source: &[u8], variables: &Value) -> Result<String, TemplateError> {
    let source = std::str::from_utf8(source).map_err(|error| TemplateError {
        line: Some(source[..error.valid_up_to()].iter().filter(|byte| **byte == b'\n').count() + 1),
        problem: "it is not UTF-8".to_owned(),
    })?;
    let environment: &Environment<'_> = &ENVIRONMENT;
    let mut output = Bounded(Vec::new());
    let rendered = environment
        .template_from_named_str("template", source)
        .and_then(|template| template.render_captured_to(variables.clone(), &mut output).map(drop));
    rendered.map_err(|error| problem(&error, source))?;
    Ok(String::from_utf8(output.0).expect("templates write text"))
}

fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    environment.set_debug(true);
    environment.set_fuel(Some(FUEL));
    let syntax =
        SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).keep_trailing_newline(true).build();
    environment.set_syntax(syntax.expect("Jinja's delimiters differ from each other"));
    environment.set_formatter(|output, state, value| {
        if value.is_none() {
            return Err(Error::new(ErrorKind::InvalidOperation, NO_VALUE));
        }
        minijinja::escape_formatter(output, state, value)
    });
    environment
}

const NO_VALUE: &str = "has no value here";

/// What is wrong, with the expression that it is about.
fn problem(error: &Error, source: &str) -> TemplateError {
    let detail = match (error.kind(), error.detail()) {
        (ErrorKind::WriteFailure, _) => format!("it writes more than {MAX_OUTPUT_BYTES} bytes"),
        (ErrorKind::OutOfFuel, _) => "it takes too long, or too much memory".to_owned(),
        (kind, Some(detail)) if detail != NO_VALUE => format!("{kind}: {detail}"),
        (_, Some(detail)) => detail.to_owned(),
        (kind, None) => kind.to_string(),
    };
    let expression = error.range().and_then(|range| source.get(range)).map(str::trim);
    let problem = match expression.filter(|text| is_short(text) && !detail.contains(text)) {
        Some(expression) => format!("`{expression}`: {detail}"),
        None => detail,
    };
    TemplateError { line: error.line(), problem }
}

fn is_short(text: &str) -> bool {
    !text.is_empty() && text.len() <= 80 && !text.contains('\n')
}

/// Takes no more than [`MAX_OUTPUT_BYTES`].
struct Bounded(Vec<u8>);

impl io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > MAX_OUTPUT_BYTES {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use minijinja::context;
    use proptest::prelude::*;

    fn variables() -> Value {
        context! { node => context!{ name => "n1", mac => Value::from(()) }, groups => ["gpu", "rack1"], metadata => context!{ rack => 7 } }
    }

    fn check(source: &str, expected: &str) {
        assert_eq!(render(source.as_bytes(), &variables()).as_deref(), Ok(expected), "{source}");
    }

    #[test]
    fn templates_say_what_they_say_in_jinja() {
        check("plain\n", "plain\n");
        check("<{{ node.name }}> & {{ metadata.rack + 1 }}\n", "<n1> & 8\n");
        check("{% if \"gpu\" in groups %}\ngres\n{% endif %}\nend\n", "gres\nend\n");
        check("{% for group in groups %}\n  {{ group }}\n{% endfor %}\n", "  gpu\n  rack1\n");
        check("{{ metadata.serial | default(\"none\") }} {{ metadata.serial is defined }}", "none False");
        check("{% if node.mac %}x{% endif %}{{ node.mac or \"unknown\" }}", "unknown");
        check("{% macro twice(x) %}{{ x }}{{ x }}{% endmacro %}{{ twice(\"a\") }}", "aa");
        check("{{ groups | tojson }} {{ groups | join(\",\") }}", "[\"gpu\", \"rack1\"] gpu,rack1");
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line_and_its_expression() {
        let check = |source: &str, line: usize, expected: &[&str]| {
            let error = render(source.as_bytes(), &variables()).unwrap_err();
            assert_eq!(error.line, Some(line), "{error}");
            expected.iter().for_each(|part| assert!(error.problem.contains(part), "{part:?} in {error}"));
        };
        check("a\n{{ nosuch }}\n", 2, &["nosuch", "undefined"]);
        check("a\nb\n{{ metadata.serial }}\n", 3, &["metadata.serial", "undefined"]);
        check("{% if nosuch %}x{% endif %}", 1, &["nosuch"]);
        check("\n{{ node.mac }}", 2, &["node.mac", "has no value here"]);
        check("{{ node.name", 1, &["syntax error"]);
        check("{{ node.name | nosuch }}", 1, &["nosuch"]);
        check("a\n{% include \"/etc/shadow\" %}", 2, &["include"]);
        let error = render(b"{{ metadata.serial }}", &variables()).unwrap_err().to_string();
        assert_eq!(error, "line 1: undefined value: `metadata.serial` is undefined");
        let error = render(b"a\n\xff", &variables()).unwrap_err().to_string();
        assert_eq!(error, "line 2: it is not UTF-8");
    }

    #[test]
    fn a_template_that_never_ends_or_writes_without_end_is_refused() {
        let check = |source: &str| {
            let error = render(source.as_bytes(), &variables()).unwrap_err().to_string();
            assert!(error.contains("too long") || error.contains("writes more"), "{error}");
        };
        check("{% for a in range(90000) %}{% for b in range(90000) %}{% endfor %}{% endfor %}");
        check("{% for a in range(90000) %}{{ \"x\" * 1000 }}{% endfor %}");
        let error = render(b"{{ \"x\" * 99000000000 }}", &variables()).unwrap_err();
        assert!(error.line.is_some(), "{error}");
        let error = render(b"{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", &variables()).unwrap_err();
        assert!(error.to_string().contains("recursion"), "{error}");
    }

    proptest! {
        #[test]
        fn any_template_is_rendered_or_refused(
            source in "\\PC{0,30}|(\\{[{%]-?|[a-z.|\"\\[ ]{0,6}|(if|endif|for x in groups|endfor|set|macro|block|filter) ?|[%}]\\}){0,9}"
        ) {
            let _ = render(source.as_bytes(), &variables());
        }

        #[test]
        fn any_bytes_are_rendered_or_refused(source in proptest::collection::vec(any::<u8>(), 0..40)) {
            let _ = render(&source, &variables());
        }
    }
}
