//! How a command line is cut into parameters: as the kernel's `next_arg` does it (lib/cmdline.c). Parameters are separated by
//! white space, double quotes protect white space, `-` and `_` are the same in names, and what follows `--` belongs to
//! the init program.

/// One `name` or `name=value` of the command line, quotes removed, `-` in the name turned into `_`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Param {
    /// The part before the first `=`.
    pub name: String,
    /// The part after it, if there is a `=`.
    pub value: Option<String>,
}

/// Cuts a command line into its parameters, up to `--`.
pub fn tokenize(line: &str) -> Vec<Param> {
    words(line).into_iter().take_while(|word| *word != "--").map(param).collect()
}

fn words(line: &str) -> Vec<&str> {
    let mut in_quotes = false;
    line.split(|c: char| {
        in_quotes ^= c == '"';
        c.is_ascii_whitespace() && !in_quotes
    })
    .filter(|word| !word.is_empty())
    .collect()
}

fn param(word: &str) -> Param {
    let word = unquote(word);
    match word.split_once('=') {
        Some((name, value)) => Param { name: name.replace('-', "_"), value: Some(unquote(value).to_owned()) },
        None => Param { name: word.replace('-', "_"), value: None },
    }
}

/// Removes a leading quote, and a trailing one if there was a leading one, as the kernel does.
fn unquote(text: &str) -> &str {
    match text.strip_prefix('"') {
        Some(rest) => rest.strip_suffix('"').unwrap_or(rest),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_tokens(line: &str, expected: &[(&str, Option<&str>)]) {
        let found = tokenize(line);
        let found: Vec<_> = found.iter().map(|p| (p.name.as_str(), p.value.as_deref())).collect();
        assert_eq!(found, expected, "{line:?}");
    }

    #[test]
    fn tokens_follow_the_kernel() {
        check_tokens("quiet  root=/dev/sda1\n", &[("quiet", None), ("root", Some("/dev/sda1"))]);
        check_tokens(r#"a="b c" d"#, &[("a", Some("b c")), ("d", None)]);
        check_tokens(r#""a=b c" d"#, &[("a", Some("b c")), ("d", None)]);
        check_tokens("x=1=2 y=", &[("x", Some("1=2")), ("y", Some(""))]);
        check_tokens("no-pipe=1", &[("no_pipe", Some("1"))]);
        check_tokens("a -- single", &[("a", None)]);
        check_tokens(r#"open="b c"#, &[("open", Some("b c"))]);
    }
}
