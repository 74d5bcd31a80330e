//! The effective recipe: its layers, the chosen variants and the variables put together, before anything of it is checked.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::{Path, PathBuf};

use bootspec::store::ImageName;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue, Deserializer, ValueDeserializer};

use super::layers::{EXTENDS, Layers};
use super::merge::merge;
use super::source_map::{Origin, Place, Problem, key_in};
use super::variables::substitute;
use super::{RecipeError, Selection, listed};

const NAME: &str = "name";
const VARIANTS: &str = "variant";
const VARIABLES: &str = "variables";

/// What is in effect, each value with its place.
pub struct Effective<'i> {
    layers: &'i Layers,
    table: Spanned<DeTable<'i>>,
    /// The variants that were chosen.
    variants: Vec<String>,
    known_variants: BTreeSet<String>,
    /// What `[variables]` and `--set` say, with their places.
    variables: Variables,
}

/// Values of variables and their places, by names.
type Variables = BTreeMap<String, (String, Place)>;
/// The variants of a layer by their names.
type Variants<'i> = BTreeMap<String, DeTable<'i>>;

impl<'i> Effective<'i> {
    /// Puts together what was read.
    pub fn of(layers: &'i Layers, selection: &Selection) -> Result<Self, RecipeError> {
        let mut table = DeTable::new();
        let mut variants = Vec::new();
        let mut variables = BTreeMap::new();
        for number in &layers.order {
            let mut layer = layers.map.parse(*number).expect("it was parsed when it was read");
            layer.remove(EXTENDS);
            let mut of_layer =
                layer.remove(VARIANTS).map_or(Ok(Variants::new()), |v| read_variants(layers, v))?;
            if *number != layers.top() {
                // Two recipes of one name would publish each other's images.
                layer.remove(NAME);
                of_layer.values_mut().for_each(|variant| _ = variant.remove(NAME));
            }
            variants.push(of_layer);
            if let Some(value) = layer.remove(VARIABLES) {
                variables.extend(read_variables(layers, value)?);
            }
            merge(&mut table, layer, "").map_err(|problem| layers.error(problem))?;
        }
        let span = layers.map.range(layers.top());
        let table = Spanned::new(span, table);
        let known_variants = variants.iter().flat_map(BTreeMap::keys).cloned().collect();
        let chosen = selection.variants.clone();
        let mut effective = Self { layers, table, variants: chosen, known_variants, variables };
        for name in &selection.variants {
            effective.apply_variant(name, &variants)?;
        }
        effective.set(&selection.variables)?;
        let values =
            effective.variables.iter().map(|(name, (value, _))| (name.clone(), value.clone())).collect();
        substitute(effective.table.as_mut(), &values).map_err(|problem| layers.error(problem))?;
        Ok(effective)
    }

    /// Applies what each layer says of the variant, the inherited first. An image of its own name.
    fn apply_variant(&mut self, name: &str, variants: &[Variants<'i>]) -> Result<(), RecipeError> {
        let found: Vec<_> = variants.iter().filter_map(|layer| layer.get(name)).collect();
        if found.is_empty() {
            let (path, known) = (self.layers.path.clone(), self.known_variants.clone());
            return Err(RecipeError::NoVariant { path, name: name.to_owned(), known });
        }
        let image = self.table.get_ref().get(NAME).cloned();
        self.table.as_mut().remove(NAME);
        for layer in found {
            merge(self.table.as_mut(), layer.clone(), "").map_err(|problem| self.layers.error(problem))?;
        }
        if !self.table.get_ref().contains_key(NAME)
            && let Some(image) = image
        {
            let span = image.span();
            let key = Spanned::new(span.clone(), NAME.into());
            let value = match image.into_inner() {
                DeValue::String(image) => DeValue::String(format!("{image}-{name}").into()),
                other => other,
            };
            self.table.as_mut().insert(key, Spanned::new(span, value));
        }
        Ok(())
    }

    fn set(&mut self, variables: &[(String, String)]) -> Result<(), RecipeError> {
        for (name, value) in variables {
            let place = Place { origin: Origin::CommandLine, line: 1, column: 1 };
            if !self.variables.contains_key(name) {
                let known = listed(self.variables.keys());
                let problem = format!("there is no such variable; [variables] has {known}");
                return Err(RecipeError::Value { place, key: name.clone(), problem });
            }
            self.variables.insert(name.clone(), (value.clone(), place));
        }
        Ok(())
    }

    /// Reads it as a `T`.
    pub fn read<T: DeserializeOwned>(&self) -> Result<T, RecipeError> {
        T::deserialize(Deserializer::from(self.table.clone())).map_err(|error| {
            let start = error.span().unwrap_or_else(|| self.table.span()).start;
            let place = self.layers.map.place(start);
            let line = self.layers.map.line(start).to_owned();
            RecipeError::Shape { place, line, problem: error.message().to_owned() }
        })
    }

    /// The variants that there are.
    pub fn known_variants(&self) -> &BTreeSet<String> {
        &self.known_variants
    }

    /// The recipe's own file.
    pub fn path(&self) -> &Path {
        &self.layers.path
    }

    /// The texts that it was made of, and what was chosen: equal ones give equal recipes.
    pub fn inputs(&self) -> Vec<String> {
        let texts = self.layers.order.iter().map(|number| self.layers.map.text(*number).to_owned());
        let chosen = self.variables.iter().map(|(name, (value, _))| format!("{name}={value}"));
        texts.chain(chosen).chain(self.variants.iter().cloned()).collect()
    }

    /// Where the value of `key`, such as `file[0].from`, stands, or the table or list that it is missing in. None if that is
    /// the recipe as a whole.
    pub fn place(&self, key: &str) -> Option<Place> {
        self.span(key).map(|span| self.layers.map.place(span.start))
    }

    /// The directory of the file that has the value of `key`. Relative paths start there.
    pub fn dir(&self, key: &str) -> PathBuf {
        let path = match self.place(key).map(|place| place.origin) {
            Some(Origin::File(path)) => path,
            Some(Origin::CommandLine) | None => self.layers.path.clone(),
        };
        path.parent().unwrap_or(Path::new("/")).to_owned()
    }

    fn span(&self, key: &str) -> Option<Range<usize>> {
        let mut found = None;
        let mut parts = key.split(['.', '[']);
        let mut value = self.table.get_ref().get(parts.next()?)?;
        loop {
            found = Some(value.span()).or(found);
            let Some(part) = parts.next() else { return found };
            let next = match value.get_ref() {
                DeValue::Table(table) => table.get(part),
                DeValue::Array(array) => {
                    part.trim_end_matches(']').parse().ok().and_then(|n: usize| array.get(n))
                }
                _ => None,
            };
            match next {
                Some(next) => value = next,
                None => return found,
            }
        }
    }

    /// Every value, in the order in which `show` prints them: of each table first its own values, then its tables.
    pub fn entries(&self) -> Vec<Entry> {
        let variables = self.variables.iter().map(|(name, (value, place))| Entry {
            key: format!("{VARIABLES}.{name}"),
            value: toml::Value::String(value.clone()),
            place: place.clone(),
        });
        let mut entries: Vec<_> = variables.collect();
        self.add_table(self.table.get_ref(), "", &mut entries);
        entries
    }

    fn add_table(&self, table: &DeTable<'i>, path: &str, entries: &mut Vec<Entry>) {
        let is_nested = |value: &DeValue<'_>| match value {
            DeValue::Table(_) => true,
            DeValue::Array(array) => array.iter().any(|item| item.get_ref().is_table()),
            _ => false,
        };
        for nested in [false, true] {
            for (key, value) in table.iter().filter(|(_, value)| is_nested(value.get_ref()) == nested) {
                self.add_value(value, &key_in(path, key.get_ref()), entries);
            }
        }
    }

    fn add_value(&self, value: &Spanned<DeValue<'i>>, path: &str, entries: &mut Vec<Entry>) {
        match value.get_ref() {
            DeValue::Table(table) => self.add_table(table, path, entries),
            DeValue::Array(array) if !array.is_empty() => {
                for (index, item) in array.iter().enumerate() {
                    self.add_value(item, &format!("{path}[{index}]"), entries);
                }
            }
            _ => {
                let place = self.layers.map.place(value.span().start);
                let read = toml::Value::deserialize(ValueDeserializer::from(value.clone()));
                let value = read.expect("every TOML value is a value");
                entries.push(Entry { key: path.to_owned(), value, place });
            }
        }
    }
}

fn read_variants<'i>(layers: &Layers, value: Spanned<DeValue<'i>>) -> Result<Variants<'i>, RecipeError> {
    let offset = value.span().start;
    let error =
        |offset, key: &str, problem: String| layers.error(Problem { offset, key: key.to_owned(), problem });
    let expected = |offset, key: &str| error(offset, key, "expected a table: [variant.NAME]".to_owned());
    let DeValue::Table(variants) = value.into_inner() else { return Err(expected(offset, VARIANTS)) };
    let variant = |(name, value): (Spanned<DeString<'i>>, Spanned<DeValue<'i>>)| {
        let (offset, name) = (value.span().start, name.into_inner().into_owned());
        let key = format!("{VARIANTS}.{name}");
        let DeValue::Table(table) = value.into_inner() else { return Err(expected(offset, &key)) };
        // It may become part of the image's name.
        name.parse::<ImageName>().map_err(|problem| error(offset, &key, problem.to_string()))?;
        Ok((name, table))
    };
    variants.into_iter().map(variant).collect()
}

fn read_variables(layers: &Layers, value: Spanned<DeValue<'_>>) -> Result<Variables, RecipeError> {
    let expected = |offset, key: &str| {
        layers.error(Problem {
            offset,
            key: key.to_owned(),
            problem: "expected a text: name = \"value\"".to_owned(),
        })
    };
    let DeValue::Table(variables) = value.get_ref() else {
        return Err(expected(value.span().start, VARIABLES));
    };
    let variable = |(name, value): (&Spanned<DeString<'_>>, &Spanned<DeValue<'_>>)| {
        let (offset, name) = (value.span().start, name.get_ref().to_string());
        match value.get_ref().as_str() {
            Some(text) => Ok((name, (text.to_owned(), layers.map.place(offset)))),
            None => Err(expected(offset, &format!("{VARIABLES}.{name}"))),
        }
    };
    variables.iter().map(variable).collect()
}

/// One value of the effective recipe.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// Its key: `packages[3]`.
    pub key: String,
    /// The value, no table.
    pub value: toml::Value,
    /// Where it stands.
    pub place: Place,
}
