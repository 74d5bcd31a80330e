//! Failed scriptlets in the output of dnf.
//!
//! rpm takes a failed %post for a warning and dnf then ends with status 0, so the output is the only witness. dnf 4
//! prints `Error in POSTIN scriptlet in rpm package NAME`; rpm itself, below dnf 4 and dnf 5, prints
//! `%post(NAME-VERSION-RELEASE.ARCH) scriptlet failed, exit status 3`.

use std::fmt;

use crate::tool::Tail;

/// A package whose script failed, and what was printed before that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScriptletFailure {
    /// Name of the package, without version.
    pub package: String,
    /// The line that says so.
    pub message: String,
    /// The lines before it, since the last script started.
    pub output: String,
}

impl fmt::Display for ScriptletFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.package, self.message)?;
        if self.output.is_empty() { Ok(()) } else { write!(f, "\n{}", self.output) }
    }
}

/// Watches the output of dnf, line by line.
#[derive(Default)]
pub struct Watch {
    since_last_start: Tail,
    failures: Vec<ScriptletFailure>,
}

impl Watch {
    /// Takes the next line.
    pub fn line(&mut self, line: &str) {
        if starts_something(line) {
            self.since_last_start.clear();
        }
        match failed_package(line) {
            Some(package) => self.failed(package, line),
            None => self.since_last_start.push(line),
        }
    }

    /// The failures seen, one for each package.
    pub fn failures(self) -> Vec<ScriptletFailure> {
        self.failures
    }

    fn failed(&mut self, package: &str, line: &str) {
        if self.failures.iter().any(|known| known.package == package) {
            return;
        }
        let output = self.since_last_start.text();
        let message = line.trim_start_matches(">>>").trim().to_owned();
        self.failures.push(ScriptletFailure { package: package.to_owned(), message, output });
    }
}

/// dnf 4 prints `  Running scriptlet: NEVRA  1/2` and `  Installing  : NEVRA  1/2`.
fn starts_something(line: &str) -> bool {
    let line = line.trim_start();
    line.starts_with("Running scriptlet:") || line.starts_with("Installing  ")
}

fn failed_package(line: &str) -> Option<&str> {
    if let Some((before, package)) = line.split_once(" scriptlet in rpm package ") {
        return before.contains("Error in ").then(|| package.trim());
    }
    let (before, _) = line.split_once(") scriptlet failed")?;
    let (_, nevra) = before.rsplit_once('(')?;
    package_name(nevra)
}

/// `bad-post-1.0-1.noarch` is version 1.0, release 1.noarch of `bad-post`.
fn package_name(nevra: &str) -> Option<&str> {
    nevra.rsplitn(3, '-').nth(2)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn watch(output: &str) -> Vec<ScriptletFailure> {
        let mut watch = Watch::default();
        output.lines().for_each(|line| watch.line(line));
        watch.failures()
    }

    #[test]
    fn dnf_4_reports_a_failure_twice_and_it_counts_once() {
        let failures = watch(
            "  Installing       : hello-1.0-1.noarch     1/2 \n\
             \x20 Installing       : bad-post-1.0-1.noarch  2/2 \n\
             \x20 Running scriptlet: bad-post-1.0-1.noarch  2/2 \n\
             cannot find the flux capacitor\n\
             warning: %post(bad-post-1.0-1.noarch) scriptlet failed, exit status 3\n\
             \n\
             Error in POSTIN scriptlet in rpm package bad-post\n\
             \x20 Verifying        : hello-1.0-1.noarch     1/2 \n",
        );
        assert_eq!(failures.len(), 1);
        assert_eq!(failures[0].package, "bad-post");
        assert!(failures[0].output.contains("flux capacitor"), "{:?}", failures[0]);
        assert!(!failures[0].output.contains("hello"), "{:?}", failures[0]);
    }

    #[test]
    fn both_wordings_name_the_package() {
        let check = |line: &str, expected| assert_eq!(failed_package(line), expected, "{line}");
        check("Error in PREIN scriptlet in rpm package bad-pre", Some("bad-pre"));
        check("error: %prein(bad-pre-1.0-1.noarch) scriptlet failed, exit status 4", Some("bad-pre"));
        check(
            ">>> [RPM] %triggerin(glibc-common-2.34-1.el9.x86_64) scriptlet failed, signal 9",
            Some("glibc-common"),
        );
        check("  Running scriptlet: hello-1.0-1.noarch", None);
        check("every scriptlet in rpm package bash succeeded", None);
        check("(nothing) scriptlet failed", None);
    }

    proptest! {
        #[test]
        fn no_line_makes_it_panic(line in "\\PC{0,80}") {
            watch(&line);
        }
    }
}
