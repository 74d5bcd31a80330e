//! The overlays of one node, one laid over the other.

use std::collections::BTreeMap;
use std::path::Path;

use minijinja::value::Value;

use super::template::render;
use super::tree::{self, Entry, Kind, Room};
use super::{MAX_ENTRIES, MAX_RENDERED_BYTES, OverlayName, RenderError};
use crate::config::Node;

/// What a node's overlays hold together, by path on the node; a directory comes before what is in it.
pub type Layers = BTreeMap<String, Placed>;

/// An entry, and whose it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed {
    /// The overlay that it is of.
    pub overlay: OverlayName,
    /// What it is.
    pub entry: Entry,
}

/// Reads these overlays in `dir`, for `node`. What is in a later one takes the place of what is in an earlier one, and a file or a link that of
/// a directory with all that is in it.
pub fn read(dir: &Path, node: &Node, overlays: &[OverlayName]) -> Result<Layers, RenderError> {
    let mut room = Room { bytes: MAX_RENDERED_BYTES, entries: MAX_ENTRIES };
    let mut layers = Layers::new();
    for overlay in overlays {
        let tree = tree::read(&dir.join(overlay.as_str()), &mut room).map_err(|source| {
            RenderError::Tree { node: node.name.clone(), overlay: overlay.clone(), source: Box::new(source) }
        })?;
        for (path, entry) in tree {
            lay(&mut layers, path, Placed { overlay: overlay.clone(), entry });
        }
    }
    Ok(layers)
}

fn lay(layers: &mut Layers, path: String, placed: Placed) {
    let was_directory = layers.get(&path).is_some_and(|below| below.entry.kind == Kind::Directory);
    if was_directory && placed.entry.kind != Kind::Directory {
        let inside = format!("{path}/");
        layers.retain(|path, _| !path.starts_with(&inside));
    }
    layers.insert(path, placed);
}

/// Makes files of the templates, for `node`. With `only`, of that one alone.
pub fn render_templates(
    layers: &mut Layers,
    node: &Node,
    variables: &Value,
    only: Option<&str>,
) -> Result<(), RenderError> {
    let mut total = 0;
    for (path, placed) in layers.iter_mut().filter(|(path, _)| only.is_none_or(|only| only == *path)) {
        if let Kind::Template(source) = &placed.entry.kind {
            let text = render(source, variables).map_err(|source| RenderError::Template {
                node: node.name.clone(),
                overlay: placed.overlay.clone(),
                file: format!("{path}.j2"),
                source: Box::new(source),
            })?;
            placed.entry.kind = Kind::File(text.into_bytes());
        }
        if let Kind::File(contents) = &placed.entry.kind {
            total += contents.len() as u64;
        }
        if total > MAX_RENDERED_BYTES {
            return Err(RenderError::TooLarge { node: node.name.clone(), limit: MAX_RENDERED_BYTES });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn placed(overlay: &str, kind: Kind) -> Placed {
        let entry = Entry { kind, mode: 0o644, uid: 0, gid: 0, mtime: 0 };
        Placed { overlay: overlay.parse().unwrap(), entry }
    }

    fn laid(entries: &[(&str, &str, Kind)]) -> Vec<(String, String)> {
        let mut layers = Layers::new();
        for (overlay, path, kind) in entries {
            lay(&mut layers, (*path).to_owned(), placed(overlay, kind.clone()));
        }
        layers.into_iter().map(|(path, placed)| (path, placed.overlay.to_string())).collect()
    }

    #[test]
    fn the_later_overlay_takes_the_place_of_the_earlier() {
        let (file, link) = (Kind::File(Vec::new()), Kind::Symlink("x".to_owned()));
        let check = |entries: &[(&str, &str, Kind)], expected: &[(&str, &str)]| {
            let expected: Vec<_> =
                expected.iter().map(|(path, by)| ((*path).to_owned(), (*by).to_owned())).collect();
            assert_eq!(laid(entries), expected);
        };
        let below =
            [("a", "etc", Kind::Directory), ("a", "etc/x", file.clone()), ("a", "etc-x", file.clone())];
        check(
            &[&below[..], &[("b", "etc/x", link.clone())]].concat(),
            &[("etc", "a"), ("etc-x", "a"), ("etc/x", "b")],
        );
        check(
            &[&below[..], &[("b", "etc", Kind::Directory)]].concat(),
            &[("etc", "b"), ("etc-x", "a"), ("etc/x", "a")],
        );
        check(&[&below[..], &[("b", "etc", link)]].concat(), &[("etc", "b"), ("etc-x", "a")]);
        check(
            &[("a", "etc", file.clone()), ("b", "etc", Kind::Directory), ("b", "etc/y", file)],
            &[("etc", "b"), ("etc/y", "b")],
        );
    }
}
