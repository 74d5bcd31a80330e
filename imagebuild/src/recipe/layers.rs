//! A recipe and the recipes that it extends, in the order in which they are applied.

use std::fs;
use std::path::{Path, PathBuf};

use bootspec::store::ImageName;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::source_map::{Origin, Place, Problem, SourceMap};
use super::{Recipe, RecipeError};

/// The key that names them.
pub const EXTENDS: &str = "extends";
/// Directory of the shipped layers, which are no recipes by themselves, among the shipped recipes.
const SHIPPED_LAYERS: &str = "layers";

/// All that was read.
#[derive(Debug)]
pub struct Layers {
    pub map: SourceMap,
    /// The numbers of the texts in `map`: what is extended comes before what extends it, the recipe itself last.
    pub order: Vec<usize>,
    /// The recipe's file, absolute.
    pub path: PathBuf,
}

impl Layers {
    /// Reads the recipe file at `path` and what it extends. A recipe that several others extend is applied once, the first time.
    pub fn read(path: &Path, shipped_dirs: &[PathBuf]) -> Result<Self, RecipeError> {
        let read_error = |source| RecipeError::Read { path: path.to_owned(), source };
        let path = std::path::absolute(path).map_err(read_error)?;
        let text = fs::read_to_string(&path).map_err(read_error)?;
        Self::of(path, text, shipped_dirs)
    }

    /// The same for the `text` of the file at `path`, which is absolute.
    pub fn of(path: PathBuf, text: String, shipped_dirs: &[PathBuf]) -> Result<Self, RecipeError> {
        let mut layers = Self { map: SourceMap::default(), order: Vec::new(), path: path.clone() };
        layers.add(path, text, shipped_dirs, &mut Vec::new())?;
        Ok(layers)
    }

    /// The number of the recipe itself.
    pub fn top(&self) -> usize {
        self.order[self.order.len() - 1]
    }

    /// The error that `problem` is, with its place.
    pub fn error(&self, Problem { offset, key, problem }: Problem) -> RecipeError {
        RecipeError::Value { place: self.map.place(offset), key, problem }
    }

    /// Adds the file, after those that it extends. `extending` are the files that lead to it, in the way they are compared.
    fn add(
        &mut self,
        path: PathBuf,
        text: String,
        shipped_dirs: &[PathBuf],
        extending: &mut Vec<PathBuf>,
    ) -> Result<(), RecipeError> {
        let number = self.map.add(Origin::File(path.clone()), text);
        let table =
            self.map.parse(number).map_err(|source| RecipeError::Toml { path: path.clone(), source })?;
        extending.push(real(&path));
        for (name, place) in extended(&self.map, &table)? {
            let problem =
                |problem| RecipeError::Value { place: place.clone(), key: EXTENDS.to_owned(), problem };
            let dir = path.parent().unwrap_or(Path::new("/"));
            let base = find(dir, &name, shipped_dirs).map_err(|error| problem(error.to_string()))?;
            if extending.contains(&real(&base)) {
                return Err(problem(format!("{} extends itself in the end", base.display())));
            }
            let is_there =
                |number: &usize| self.map.path(*number).is_some_and(|path| real(path) == real(&base));
            if !self.order.iter().any(is_there) {
                let text = fs::read_to_string(&base)
                    .map_err(|source| RecipeError::Read { path: base.clone(), source })?;
                self.add(base, text, shipped_dirs, extending)?;
            }
        }
        extending.pop();
        self.order.push(number);
        Ok(())
    }
}

/// The file that `name_or_path` means in a recipe in `dir`: a layer that is shipped, or what it would mean on the command line.
fn find(dir: &Path, name_or_path: &str, shipped_dirs: &[PathBuf]) -> Result<PathBuf, RecipeError> {
    let layer = format!("{name_or_path}.toml");
    let is_name = name_or_path.parse::<ImageName>().is_ok();
    let mut shipped =
        shipped_dirs.iter().filter(|_| is_name).map(|dir| dir.join(SHIPPED_LAYERS).join(&layer));
    Recipe::find_from(dir, name_or_path, shipped_dirs)
        .or_else(|error| shipped.find(|path| path.is_file()).ok_or(error))
}

/// What files are compared by: `../a/recipe.toml` and a link to it are one recipe.
fn real(path: &Path) -> PathBuf {
    fs::canonicalize(path).unwrap_or_else(|_| path.to_owned())
}

/// The names in `extends`: one text, or a list of them.
fn extended(map: &SourceMap, table: &DeTable<'_>) -> Result<Vec<(String, Place)>, RecipeError> {
    let Some(value) = table.get(EXTENDS) else { return Ok(Vec::new()) };
    let values = match value.get_ref() {
        DeValue::Array(array) => array.iter().collect(),
        _ => vec![value],
    };
    let name = |value: &Spanned<DeValue<'_>>| {
        let place = map.place(value.span().start);
        match value.get_ref().as_str() {
            Some(name) => Ok((name.to_owned(), place)),
            None => Err(RecipeError::Value {
                place,
                key: EXTENDS.to_owned(),
                problem: "expected the path or the name of a recipe, or a list of them".to_owned(),
            }),
        }
    };
    values.into_iter().map(name).collect()
}
