//! The files that a recipe is made of, one behind the other as if they were one text: an offset into all of it says which
//! file, line and column a value is from, however the values were put together.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// All texts.
#[derive(Debug, Default)]
pub struct SourceMap {
    sources: Vec<Source>,
}

#[derive(Debug)]
struct Source {
    origin: Origin,
    text: String,
    /// Where it begins among all of them.
    start: usize,
}

/// Where a text is from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A file, by its absolute path.
    File(PathBuf),
    /// `--set` of the command line.
    CommandLine,
}

/// Where a value stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// In which text.
    pub origin: Origin,
    /// In which line, from 1.
    pub line: usize,
    /// At which character of it, from 1.
    pub column: usize,
}

/// Something wrong with a value.
#[derive(Debug)]
pub struct Problem {
    /// Where the value stands, among all texts.
    pub offset: usize,
    /// Its key.
    pub key: String,
    /// What is wrong with it.
    pub problem: String,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.origin {
            Origin::File(path) => write!(f, "{}:{}", path.display(), self.line),
            Origin::CommandLine => f.write_str("--set"),
        }
    }
}

impl SourceMap {
    /// Adds a text; returns its number.
    pub fn add(&mut self, origin: Origin, text: String) -> usize {
        // A byte between two texts keeps the end of one apart from the beginning of the next.
        let start = self.sources.last().map_or(0, |last| last.start + last.text.len() + 1);
        self.sources.push(Source { origin, text, start });
        self.sources.len() - 1
    }

    /// The text of that number.
    pub fn text(&self, number: usize) -> &str {
        &self.sources[number].text
    }

    /// The file of that number.
    pub fn path(&self, number: usize) -> Option<&Path> {
        match &self.sources[number].origin {
            Origin::File(path) => Some(path),
            Origin::CommandLine => None,
        }
    }

    /// The text of that number as TOML, with positions among all texts.
    pub fn parse(&self, number: usize) -> Result<DeTable<'_>, toml::de::Error> {
        let Source { text, start, .. } = &self.sources[number];
        Ok(moved_table(DeTable::parse(text)?.into_inner(), *start))
    }

    /// Where the text of that number begins and ends.
    pub fn range(&self, number: usize) -> Range<usize> {
        let Source { text, start, .. } = &self.sources[number];
        *start..start + text.len()
    }

    /// Where `offset` is.
    pub fn place(&self, offset: usize) -> Place {
        let (source, before) = self.split(offset);
        let line_start = before.rfind('\n').map_or(0, |end| end + 1);
        Place {
            origin: source.origin.clone(),
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
        }
    }

    /// The line that `offset` is in.
    pub fn line(&self, offset: usize) -> &str {
        let (source, before) = self.split(offset);
        source.text.lines().nth(before.matches('\n').count()).unwrap_or_default()
    }

    /// The text with `offset`, and what of it lies before.
    fn split(&self, offset: usize) -> (&Source, &str) {
        let behind = self.sources.partition_point(|source| source.start <= offset);
        let source = &self.sources[behind.saturating_sub(1)];
        let length = offset.saturating_sub(source.start).min(source.text.len());
        (source, source.text.get(..length).unwrap_or_default())
    }
}

/// The key of what is called `name` in the table `path`, which is empty for the recipe as a whole.
pub fn key_in(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

fn moved_table(table: DeTable<'_>, by: usize) -> DeTable<'_> {
    let moved = |(key, value): (Spanned<_>, _)| (moved_span(key, by), moved_value(value, by));
    table.into_iter().map(moved).collect()
}

fn moved_value(value: Spanned<DeValue<'_>>, by: usize) -> Spanned<DeValue<'_>> {
    let span = value.span();
    let value = match value.into_inner() {
        DeValue::Table(table) => DeValue::Table(moved_table(table, by)),
        DeValue::Array(array) => {
            DeValue::Array(array.into_iter().map(|value| moved_value(value, by)).collect())
        }
        scalar => scalar,
    };
    moved_span(Spanned::new(span, value), by)
}

fn moved_span<T>(spanned: Spanned<T>, by: usize) -> Spanned<T> {
    let span = spanned.span();
    Spanned::new(span.start + by..span.end + by, spanned.into_inner())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn two_files() -> SourceMap {
        let mut map = SourceMap::default();
        map.add(Origin::File("/a".into()), "x = 1\ny = [2]\n".to_owned());
        map.add(Origin::File("/b".into()), "'ü' = 1\n  z = { k = 'v' }".to_owned());
        map
    }

    #[test]
    fn values_know_their_file_line_and_column() {
        let map = two_files();
        let table = map.parse(1).unwrap();
        let DeValue::Table(z) = table["z"].get_ref() else { panic!("a table") };
        let place = map.place(z["k"].span().start);
        assert_eq!((place.to_string().as_str(), place.column), ("/b:2", 13));
        assert_eq!(map.line(z["k"].span().start), "  z = { k = 'v' }");
        let table = map.parse(0).unwrap();
        let DeValue::Array(y) = table["y"].get_ref() else { panic!("an array") };
        assert_eq!(map.place(y[0].span().start).to_string(), "/a:2");
    }

    proptest! {
        #[test]
        fn any_offset_is_somewhere(offset: usize) {
            let map = two_files();
            let _ = (map.place(offset), map.line(offset));
        }
    }
}
