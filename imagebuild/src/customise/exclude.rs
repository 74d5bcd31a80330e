//! Leaves out of the root what its packages bring and nodes do not need, and says what that saved and what is large still.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use globset::{Glob, GlobSet, GlobSetBuilder};

use super::{CustomiseError, failed};
use crate::progress::{Step, human};
use crate::recipe::{ExcludeSet, ExcludeSpec, path_glob};
use crate::tool::Tools;

/// How many of the largest files are shown.
const LARGEST: usize = 20;
/// What `st_blocks` counts in (stat(2)).
const BLOCK_BYTES: u64 = 512;
/// File systems that belong to the kernel.
const NOT_OURS: [&str; 3] = ["/proc", "/sys", "/dev"];

impl ExcludeSet {
    /// As recipes name it.
    fn name(self) -> &'static str {
        match self {
            Self::Docs => "docs",
            Self::Locales => "locales",
            Self::Caches => "caches",
            Self::StaticLibraries => "static-libraries",
        }
    }

    /// What belongs to it.
    fn paths(self) -> &'static [&'static str] {
        match self {
            Self::Docs => &[
                "/usr/share/doc/*",
                "/usr/share/gtk-doc",
                "/usr/share/help/*",
                "/usr/share/info/*",
                "/usr/share/lintian",
                "/usr/share/man/*",
            ],
            Self::Locales => &[
                "/usr/share/i18n/locales/*",
                "/usr/share/locale/*/LC_*",
                "/usr/share/man/[a-z][a-z]{,[_@.]*}",
            ],
            Self::Caches => &["/usr/**/__pycache__", "/var/cache/*/*"],
            Self::StaticLibraries => &["/usr/lib{,32,64}/**/*.a", "/lib{,32,64}/**/*.a"],
        }
    }

    /// What of it stays: licences must be handed on with what they are for; linkers need these even for shared libraries.
    fn keep(self) -> &'static [&'static str] {
        match self {
            Self::Docs => {
                &["/usr/share/doc/*/copyright", "/usr/share/doc/*/LICEN[CS]E*", "/usr/share/doc/*/COPYING*"]
            }
            Self::StaticLibraries => &["/**/libc_nonshared.a", "/**/libpthread.a", "/**/libdl.a"],
            Self::Locales | Self::Caches => &[],
        }
    }
}

/// What was left out.
#[derive(Debug, Default)]
pub struct Excluded {
    /// Files and bytes by the name of the set; `paths` for the recipe's own.
    saved: BTreeMap<&'static str, (u64, u64)>,
}

/// A file and the bytes it takes.
pub type Large = (PathBuf, u64);

/// One reason to leave something out.
struct Rule {
    name: &'static str,
    exclude: GlobSet,
}

/// Removes what `spec` leaves out; nothing is said if it leaves nothing out.
pub fn exclude(spec: &ExcludeSpec, tools: &Tools) -> Result<Option<Excluded>, CustomiseError> {
    if spec.is_empty() {
        return Ok(None);
    }
    let built_in = |pattern: &&str| path_glob(pattern).expect("the patterns of the sets are valid");
    let mut rules: Vec<_> = spec
        .sets
        .iter()
        .map(|set| Rule { name: set.name(), exclude: glob_set(set.paths().iter().map(built_in)) })
        .collect();
    rules.push(Rule { name: "paths", exclude: glob_set(spec.paths.iter().cloned()) });
    let kept = spec.sets.iter().flat_map(|set| set.keep()).map(built_in);
    let keep = glob_set(kept.chain(spec.keep.iter().cloned()));
    let mut excluded = Excluded::default();
    tools.sandbox().inside(|| walk(Path::new("/"), None, &rules, &keep, &mut excluded))??;
    Ok(Some(excluded))
}

fn glob_set(globs: impl Iterator<Item = Glob>) -> GlobSet {
    let mut builder = GlobSetBuilder::new();
    globs.for_each(|glob| _ = builder.add(glob));
    builder.build().expect("each of the patterns is valid")
}

/// Removes what is in `dir` and left out, or all that is not kept if `dir` itself is left out `because` of a rule. Says
/// whether anything is left in it.
fn walk(
    dir: &Path,
    because: Option<&'static str>,
    rules: &[Rule],
    keep: &GlobSet,
    excluded: &mut Excluded,
) -> Result<bool, CustomiseError> {
    let mut left = false;
    for entry in fs::read_dir(dir).map_err(failed("list", dir))? {
        let path = entry.map_err(failed("list", dir))?.path();
        let metadata = path.symlink_metadata().map_err(failed("look at", &path))?;
        if keep.is_match(&path) || NOT_OURS.iter().any(|dir| path.starts_with(dir)) {
            left = true;
            continue;
        }
        let rule = || rules.iter().find(|rule| rule.exclude.is_match(&path)).map(|rule| rule.name);
        let because = because.or_else(rule);
        if metadata.is_dir() {
            let any_left = walk(&path, because, rules, keep, excluded)?;
            if because.is_none() || any_left {
                left = true;
            } else {
                fs::remove_dir(&path).map_err(failed("remove", &path))?;
            }
        } else if let Some(name) = because {
            fs::remove_file(&path).map_err(failed("remove", &path))?;
            excluded.count(name, &metadata);
        } else {
            left = true;
        }
    }
    Ok(left)
}

impl Excluded {
    /// A file takes its space until its last name goes.
    fn count(&mut self, name: &'static str, metadata: &Metadata) {
        let (files, bytes) = self.saved.entry(name).or_default();
        *files += 1;
        *bytes += if metadata.nlink() == 1 { metadata.blocks() * BLOCK_BYTES } else { 0 };
    }

    /// Says what was saved, and what is large still.
    pub fn report(&self, largest: &[Large], step: &Step) {
        if self.saved.is_empty() {
            step.note("exclude: nothing in the root matches");
        }
        for (name, (files, bytes)) in &self.saved {
            step.note(&format!("exclude: {name}: {files} files, {} saved", human(*bytes)));
        }
        step.note(&format!("the {} largest files that remain:", largest.len()));
        for (path, bytes) in largest {
            step.note(&format!("  {:>10}  {}", human(*bytes), path.display()));
        }
    }
}

/// The largest files of the root, the largest first, each under one of its names.
pub fn largest(tools: &Tools) -> Result<Vec<Large>, CustomiseError> {
    let mut found = Vec::new();
    let mut seen = BTreeSet::new();
    tools.sandbox().inside(|| collect(Path::new("/"), &mut seen, &mut found))??;
    found.sort_by(|a: &Large, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    found.truncate(LARGEST);
    Ok(found)
}

fn collect(dir: &Path, seen: &mut BTreeSet<u64>, found: &mut Vec<Large>) -> Result<(), CustomiseError> {
    let mut entries: Vec<_> = fs::read_dir(dir).and_then(Iterator::collect).map_err(failed("list", dir))?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let path = entry.path();
        let metadata = path.symlink_metadata().map_err(failed("look at", &path))?;
        if metadata.is_dir() {
            collect(&path, seen, found)?;
        } else if metadata.is_file() && seen.insert(metadata.ino()) {
            found.push((path, metadata.blocks() * BLOCK_BYTES));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::Progress;
    use crate::recipe::{Recipe, Selection};
    use crate::sandbox::Sandbox;
    use crate::testing::is_root;

    /// Leaves out of a root with the files `paths` what `[exclude]` with these keys says; returns what is left, and what
    /// was counted.
    fn check(paths: &[&str], keys: &str, expected: &[&str]) -> BTreeMap<&'static str, u64> {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        for path in paths {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "content").unwrap();
        }
        let recipe = dir.path().join("recipe.toml");
        let text = "name = 'x'\n[source]\ntype = 'mmdebstrap'\nsuite = 'bookworm'\n[exclude]\n";
        fs::write(&recipe, format!("{text}{keys}")).unwrap();
        let recipe = Recipe::read(&recipe, &Selection::default()).unwrap();
        let tools = Tools::new(Sandbox::new(&root), &dir.path().join("log")).unwrap();
        let excluded = exclude(&recipe.exclude, &tools).unwrap().unwrap();
        let left: Vec<_> = paths.iter().filter(|path| root.join(path).exists()).copied().collect();
        assert_eq!(left, expected, "{keys}");
        let remaining = largest(&tools).unwrap();
        assert_eq!(remaining.len(), expected.len().min(LARGEST));
        excluded.report(&remaining, &Progress::quiet().step("test"));
        excluded.saved.iter().map(|(name, (files, _))| (*name, *files)).collect()
    }

    #[test]
    fn sets_leave_out_what_they_are_named_after_and_keep_licences() {
        if !is_root() {
            return;
        }
        let paths = [
            "usr/share/doc/bash/README",
            "usr/share/doc/bash/copyright",
            "usr/share/man/man1/bash.1.gz",
            "usr/share/man/de/man1/bash.1.gz",
            "usr/share/locale/de/LC_MESSAGES/bash.mo",
            "usr/share/locale/locale.alias",
            "usr/lib/x86_64-linux-gnu/libm.a",
            "usr/lib/x86_64-linux-gnu/libc_nonshared.a",
            "usr/lib/x86_64-linux-gnu/libm.so.6",
            "usr/lib/python3/__pycache__/os.pyc",
            "usr/bin/bash",
        ];
        let counted = check(&paths, "sets = ['docs']", &[&paths[1..2], &paths[4..]].concat());
        assert_eq!(counted, [("docs", 3)].into());
        let left = [&paths[..3], &paths[5..]].concat();
        check(&paths, "sets = ['locales']", &left);
        check(&paths, "sets = ['static-libraries']", &[&paths[..6], &paths[7..]].concat());
        check(&paths, "sets = ['caches']", &[&paths[..9], &paths[10..]].concat());
    }

    #[test]
    fn paths_of_the_recipe_go_with_all_that_is_in_them_but_what_is_kept() {
        if !is_root() {
            return;
        }
        let paths = ["usr/share/games/a/b", "usr/share/games/keep", "usr/share/misc", "usr/src/x.c"];
        let keys = "paths = ['/usr/share/games', '/usr/**/*.c']\nkeep = ['/usr/share/games/keep']";
        assert_eq!(check(&paths, keys, &paths[1..3]), [("paths", 2)].into());
        assert!(check(&paths, "paths = ['/usr/share/g?']", &paths).is_empty());
    }

    #[test]
    fn the_patterns_of_the_sets_are_valid() {
        let sets = [ExcludeSet::Docs, ExcludeSet::Locales, ExcludeSet::Caches, ExcludeSet::StaticLibraries];
        for pattern in sets.iter().flat_map(|set| set.paths().iter().chain(set.keep())) {
            path_glob(pattern).unwrap();
        }
    }
}
