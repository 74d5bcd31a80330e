//! What apt prints about packages, and the index of a repository in its format (deb822(5), sources.list(5)).

use std::collections::BTreeMap;
use std::fmt::Write;

use bootspec::Sha256Digest;
use bootspec::manifest::Package;

use crate::lock::Pinned;

/// A package as the index of a repository describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Described {
    pub package: Package,
    pub priority: Option<String>,
    pub sha256: Sha256Digest,
}

/// Where a package file lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Location {
    pub url: String,
    /// Its name in apt's archive of downloaded packages.
    pub file_name: String,
}

/// The lines of `apt-get --print-uris` by the digests of the files: `'URL' NAME SIZE SHA256:DIGEST`. Others are passed over.
pub fn parse_uris(text: &str) -> BTreeMap<Sha256Digest, Location> {
    let line = |line: &str| {
        let (url, rest) = line.strip_prefix('\'')?.split_once("' ")?;
        let [file_name, _size, hash] = rest.split_whitespace().collect::<Vec<_>>()[..] else { return None };
        let sha256 = hash.strip_prefix("SHA256:")?.parse().ok()?;
        Some((sha256, Location { url: local_url(url), file_name: file_name.to_owned() }))
    };
    text.lines().filter_map(line).collect()
}

/// apt's ways to name a local file, as others write it.
fn local_url(url: &str) -> String {
    let local = url.strip_prefix("file:").or_else(|| url.strip_prefix("copy:"));
    local.map_or_else(|| url.to_owned(), |path| format!("file:///{}", path.trim_start_matches('/')))
}

/// The stanzas of `apt-cache show`. Those without a digest, of packages that are installed and in no repository, are passed
/// over.
pub fn parse_stanzas(text: &str) -> Vec<Described> {
    text.split("\n\n").filter_map(parse_stanza).collect()
}

fn parse_stanza(stanza: &str) -> Option<Described> {
    let continued = |line: &&str| !line.starts_with([' ', '\t']);
    let fields: BTreeMap<_, _> =
        stanza.lines().filter(continued).filter_map(|line| line.split_once(':')).collect();
    let field = |name: &str| Some(fields.get(name)?.trim().to_owned());
    Some(Described {
        package: Package {
            name: field("Package")?,
            version: field("Version")?,
            architecture: field("Architecture")?,
        },
        priority: field("Priority"),
        sha256: field("SHA256")?.parse().ok()?,
    })
}

/// The index of a repository of `packages`; `controls` are their control files, in the same order, `file_name` says how their
/// files are called.
pub fn index(packages: &[Pinned], controls: &[String], file_name: impl Fn(&Pinned) -> String) -> String {
    let mut index = String::new();
    for (package, control) in packages.iter().zip(controls) {
        write_stanza(&mut index, package, control, &file_name(package))
            .expect("writing to a string does not fail");
    }
    index
}

fn write_stanza(index: &mut String, package: &Pinned, control: &str, file_name: &str) -> std::fmt::Result {
    let is_priority = |line: &&str| line.to_ascii_lowercase().starts_with("priority:");
    for line in control.lines().filter(|line| package.priority.is_none() || !is_priority(line)) {
        writeln!(index, "{line}")?;
    }
    if let Some(priority) = &package.priority {
        writeln!(index, "Priority: {priority}")?;
    }
    let Pinned { size_bytes, sha256, .. } = package;
    writeln!(index, "Filename: {file_name}\nSize: {size_bytes}\nSHA256: {sha256}\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const DIGEST: &str = "c24fe4eb8e60d8632d72ed104cce7c92cff200847c897dc8ba764b6c47b519e0";

    #[test]
    fn uris_are_found_between_other_lines() {
        let check = |url: &str, expected: &str| {
            let text = format!(
                "Need to get 183 kB of archives.\n'{url}' libattr1_1%3a2.5_amd64.deb 183272 SHA256:{DIGEST}\n"
            );
            let uris = parse_uris(&text);
            let location = Location { url: expected.into(), file_name: "libattr1_1%3a2.5_amd64.deb".into() };
            assert_eq!(uris, BTreeMap::from([(DIGEST.parse().unwrap(), location)]));
        };
        check("http://h/a%2bb.deb", "http://h/a%2bb.deb");
        check("file:/srv/a.deb", "file:///srv/a.deb");
        check("copy:///srv/a.deb", "file:///srv/a.deb");
    }

    #[test]
    fn stanzas_without_a_digest_are_passed_over() {
        let stanza = format!(
            "Package: adduser\nVersion: 3.134\nArchitecture: all\nDescription: x\n Package: y\nPriority: important\nSHA256: {DIGEST}\n"
        );
        let expected = Described {
            package: Package { name: "adduser".into(), version: "3.134".into(), architecture: "all".into() },
            priority: Some("important".into()),
            sha256: DIGEST.parse().unwrap(),
        };
        let text = format!("Package: own\nVersion: 1\nArchitecture: all\n\n{stanza}\n");
        assert_eq!(parse_stanzas(&text), [expected]);
    }

    #[test]
    fn the_index_says_what_the_repository_said_of_the_priority() {
        let package = |priority: Option<&str>| Pinned {
            name: "apt".into(),
            version: "1:2".into(),
            architecture: "amd64".into(),
            sha256: DIGEST.parse().unwrap(),
            size_bytes: 5,
            url: "http://h/apt.deb".into(),
            priority: priority.map(str::to_owned),
        };
        let controls = ["Package: apt\nPriority: important\nVersion: 1:2\n".to_owned()];
        let index = |priority| index(&[package(priority)], &controls, |_| "apt.deb".to_owned());
        let end = format!("Filename: apt.deb\nSize: 5\nSHA256: {DIGEST}\n\n");
        assert_eq!(index(Some("required")), format!("Package: apt\nVersion: 1:2\nPriority: required\n{end}"));
        assert_eq!(index(None), format!("Package: apt\nPriority: important\nVersion: 1:2\n{end}"));
    }

    proptest! {
        #[test]
        fn any_output_is_read_without_panic(text in "['A-Z:a-f0-9 \n]{0,200}") {
            let _ = (parse_uris(&text), parse_stanzas(&text));
        }
    }
}
