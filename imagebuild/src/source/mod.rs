//! Sources of root file systems: each fills an empty directory with a recipe's packages.

mod dnf;
mod mmdebstrap;
mod scriptlet;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use bootspec::manifest::Package;

pub use scriptlet::ScriptletFailure;

use crate::progress::Step;
use crate::recipe::{PackageSource, Recipe, Source};
use crate::tool::{ToolError, Tools};

/// What the packages of a root are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    /// To run: they are configured by their scripts.
    System,
    /// To take the kernel from: they are unpacked and no script runs.
    KernelOnly,
}

/// A root could not be filled.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// A program failed.
    #[error(transparent)]
    Tool(#[from] ToolError),
    /// Packages were installed, but not all their scripts succeeded.
    #[error(
        "{} failed:\n{}\nhint: if the image works without what the script does, add the package to [scriptlets] allow_failure",
        if failures.len() == 1 { "a package's script" } else { "scripts of packages" },
        failures.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
    )]
    Scriptlets {
        /// Which.
        failures: Vec<ScriptletFailure>,
    },
    /// The list of installed packages is not as expected.
    #[error("cannot understand '{line}' in the list of packages that {program} printed")]
    PackageList {
        /// Which program.
        program: &'static str,
        /// The line.
        line: String,
    },
    /// A file or directory that the package manager needs cannot be made.
    #[error("cannot prepare {}", path.display())]
    Prepare {
        /// Which.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// Installs the packages of `recipe` and returns what is installed, sorted by name. Downloads are kept in `cache`.
pub fn install(
    recipe: &Recipe,
    tools: &Tools,
    cache: &Path,
    step: &Step,
) -> Result<Vec<Package>, SourceError> {
    let mut packages = recipe.packages.clone();
    packages.extend(recipe.kernel.package.clone());
    let job = Job { packages, allowed_failures: &recipe.allowed_scriptlet_failures, tools, cache, step };
    let mut installed = match &recipe.source {
        Source::Mmdebstrap(source) => job.mmdebstrap(source, Purpose::System)?,
        Source::Dnf(source) => job.dnf(source, Purpose::System)?,
        Source::Busybox(PackageSource::Mmdebstrap(source)) => job.mmdebstrap(source, Purpose::KernelOnly)?,
        Source::Busybox(PackageSource::Dnf(source)) => job.dnf(source, Purpose::KernelOnly)?,
    };
    installed.sort_by(|a, b| a.name.cmp(&b.name).then_with(|| a.version.cmp(&b.version)));
    Ok(installed)
}

/// One installation.
struct Job<'a> {
    packages: Vec<String>,
    allowed_failures: &'a std::collections::BTreeSet<String>,
    tools: &'a Tools,
    cache: &'a Path,
    step: &'a Step,
}

impl Job<'_> {
    fn root(&self) -> &Path {
        self.tools.sandbox().root()
    }
}

fn make_dir(path: &Path) -> Result<(), SourceError> {
    fs::create_dir_all(path).map_err(|source| SourceError::Prepare { path: path.to_owned(), source })
}

/// Lines of name, version and architecture, separated by tabs.
fn parse_packages(program: &'static str, lines: &[String]) -> Result<Vec<Package>, SourceError> {
    let parse = |line: &String| match line.split('\t').collect::<Vec<_>>()[..] {
        [name, version, architecture] => Ok(Package {
            name: name.to_owned(),
            version: version.to_owned(),
            architecture: architecture.to_owned(),
        }),
        _ => Err(SourceError::PackageList { program, line: line.clone() }),
    };
    lines.iter().map(parse).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn package_lists_are_parsed_and_warnings_in_between_are_refused() {
        let lines = ["bash\t5.2-1\tamd64".to_owned()];
        let packages = parse_packages("dpkg-query", &lines).unwrap();
        assert_eq!((packages[0].name.as_str(), packages[0].version.as_str()), ("bash", "5.2-1"));
        let error = parse_packages("rpm", &["warning: old database".to_owned()]).unwrap_err();
        assert!(error.to_string().contains("'warning: old database'"), "{error}");
    }
}
