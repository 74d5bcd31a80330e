//! Which distribution a root is, by its os-release(5).

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;

use bootspec::manifest::{Manifest, Root};
use tar::Archive;

use crate::archive::decode;
use crate::file_error::{FileError, failed};
use crate::source::PackageFormat;

const OS_RELEASE: [&str; 2] = ["usr/lib/os-release", "etc/os-release"];
/// Longer ones are not read to the end.
const MAX_BYTES: u64 = 64 << 10;
/// Distributions whose packages are Debian's, by ID and ID_LIKE.
const DEB: [&str; 2] = ["debian", "ubuntu"];
/// The same of RPM.
const RPM: [&str; 5] = ["fedora", "rhel", "centos", "suse", "opensuse"];

/// A distribution.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Distribution {
    /// Its ID: `debian`, `rocky`.
    pub id: String,
    /// Its VERSION_ID: `12`, `9.4`. Empty for one that always moves on.
    pub version: String,
    /// What its packages are.
    pub format: PackageFormat,
}

/// The distribution of a version's root. Unknown if the root says none that is known here, or is no archive.
pub fn of_root(dir: &Path, manifest: &Manifest) -> Result<Option<Distribution>, FileError> {
    let Some(Root::Archive(archive)) = &manifest.root else { return Ok(None) };
    let path = dir.join(archive.file.as_str());
    let open = || decode(BufReader::new(File::open(&path)?), archive.compression);
    let text = open().and_then(os_release).map_err(failed("read", &path))?;
    Ok(text.and_then(|text| parse(&text)))
}

/// The text of the os-release in an archive. The first is the file; the other is a link as a rule.
fn os_release(tar: impl Read) -> io::Result<Option<String>> {
    for entry in Archive::new(tar).entries()? {
        let entry = entry?;
        let is_it = OS_RELEASE.iter().any(|name| entry.path_bytes().as_ref() == name.as_bytes());
        if is_it && entry.header().entry_type().is_file() {
            let mut text = Vec::new();
            entry.take(MAX_BYTES).read_to_end(&mut text)?;
            return Ok(Some(String::from_utf8_lossy(&text).into_owned()));
        }
    }
    Ok(None)
}

fn parse(text: &str) -> Option<Distribution> {
    let value = |key: &str| {
        // Of several the last counts.
        let lines = text.lines().rev().filter_map(|line| line.split_once('='));
        let mut found =
            lines.filter(|(name, _)| *name == key).map(|(_, value)| value.trim_matches(['"', '\'']));
        found.next().unwrap_or_default().to_owned()
    };
    let id = value("ID");
    let like = value("ID_LIKE");
    let is = |known: &[&str]| known.contains(&&*id) || like.split(' ').any(|id| known.contains(&id));
    let format = match (is(&DEB), is(&RPM)) {
        (true, _) => PackageFormat::Deb,
        (false, true) => PackageFormat::Rpm,
        (false, false) => return None,
    };
    Some(Distribution { id, version: value("VERSION_ID"), format })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn distributions_are_known_by_their_names_or_by_what_they_are_like() {
        let check = |text: &str, expected: Option<(&str, &str, PackageFormat)>| {
            let expected = expected.map(|(id, version, format)| Distribution {
                id: id.into(),
                version: version.into(),
                format,
            });
            assert_eq!(parse(text), expected, "{text}");
        };
        check(
            "NAME=\"Debian GNU/Linux\"\nVERSION_ID=\"12\"\nID=debian\n",
            Some(("debian", "12", PackageFormat::Deb)),
        );
        let rocky = "ID=\"rocky\"\nID_LIKE=\"rhel centos fedora\"\nVERSION_ID='9.4'\n";
        check(rocky, Some(("rocky", "9.4", PackageFormat::Rpm)));
        check("ID=debian\n", Some(("debian", "", PackageFormat::Deb)));
        check("ID=alpine\nVERSION_ID=3\n", None);
        check("", None);
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_panic(text in "\\PC{0,200}") {
            let _ = parse(&text);
        }
    }
}
