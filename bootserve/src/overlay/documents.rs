//! Texts that a node asks for by name: cloud-init's NoCloud data source, and any others, as Ignition configs and kickstart files.
//!
//! `OVERLAYS/nocloud/FILE` and `OVERLAYS/templates/NAME`, or the same with `.j2`, rendered with the variables of overlays.
//! Source: cloud-init's documentation of the NoCloud data source.

use std::collections::BTreeSet;
use std::path::Path;
use std::{fmt, fs};

use bootspec::store::ArtifactName;
use minijinja::value::Value;

use super::RenderError;
use super::template::{MAX_OUTPUT_BYTES, render};
use super::tree::{TEMPLATE_SUFFIX, read_document};
use crate::config::Node;

/// Where they are in `server.overlays`, first those for cloud-init.
pub const DIRECTORIES: [&str; 2] = ["nocloud", "templates"];

/// What cloud-init asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoCloudFile {
    /// Who the machine is; made by us unless there is one.
    MetaData,
    /// What the site wants of it; empty unless there is one.
    UserData,
    /// What its vendor wants.
    VendorData,
    /// Its network; by DHCP unless there is one.
    NetworkConfig,
}

/// A text, and whose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Document {
    /// `OVERLAYS/nocloud/FILE`.
    NoCloud(NoCloudFile),
    /// `OVERLAYS/templates/NAME`.
    Template(ArtifactName),
}

impl NoCloudFile {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::MetaData, Self::UserData, Self::VendorData, Self::NetworkConfig];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::MetaData => "meta-data",
            Self::UserData => "user-data",
            Self::VendorData => "vendor-data",
            Self::NetworkConfig => "network-config",
        }
    }

    /// The one with this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|file| file.name() == name)
    }

    /// What is sent where there is no such file. cloud-init does not do without the first two.
    fn default(self, node: &Node) -> Option<String> {
        match self {
            Self::MetaData => Some(format!("instance-id: {0}\nlocal-hostname: {0}\n", node.name)),
            Self::UserData => Some("#cloud-config\n{}\n".to_owned()),
            Self::VendorData | Self::NetworkConfig => None,
        }
    }
}

impl fmt::Display for Document {
    /// As it stands below `server.overlays`: `nocloud/user-data`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (place, name) = self.place();
        write!(f, "{place}/{name}")
    }
}

impl Document {
    fn place(&self) -> (&'static str, &str) {
        match self {
            Self::NoCloud(file) => (DIRECTORIES[0], file.name()),
            Self::Template(name) => (DIRECTORIES[1], name.as_str()),
        }
    }

    /// The text for `node`, if there is one, of the files in `dir`.
    pub fn render(
        &self,
        dir: &Path,
        node: &Node,
        variables: impl FnOnce() -> Value,
    ) -> Result<Option<Vec<u8>>, RenderError> {
        let (place, name) = self.place();
        let found = read_document(&dir.join(place), name, MAX_OUTPUT_BYTES as u64)
            .map_err(|source| RenderError::Document { node: node.name.clone(), source: Box::new(source) })?;
        match (found, self) {
            (Some((source, true)), _) => {
                let text = render(&source, &variables()).map_err(|source| RenderError::DocumentTemplate {
                    node: node.name.clone(),
                    file: format!("{place}/{name}.j2"),
                    source: Box::new(source),
                })?;
                Ok(Some(text.into_bytes()))
            }
            (Some((text, false)), _) => Ok(Some(text)),
            (None, Self::NoCloud(file)) => Ok(file.default(node).map(String::into_bytes)),
            (None, Self::Template(_)) => Ok(None),
        }
    }
}

/// The names of the texts in `dir`, `server.overlays`, that are not cloud-init's.
pub fn templates(dir: &Path) -> BTreeSet<ArtifactName> {
    let entries = fs::read_dir(dir.join(DIRECTORIES[1])).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        name.strip_suffix(TEMPLATE_SUFFIX).unwrap_or(&name).parse().ok()
    });
    names.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use minijinja::context;

    fn rendered(dir: &Path, document: &Document) -> Result<Option<String>, RenderError> {
        let config = Config::parse(include_str!("../../bootserve.example.toml")).unwrap();
        let node = config.node_named("node-001").unwrap();
        let variables = || context! { node => context! { name => "node-001" } };
        let text = document.render(dir, node, variables)?;
        Ok(text.map(|text| String::from_utf8(text).unwrap()))
    }

    #[test]
    fn cloud_init_is_told_who_it_is_even_if_there_is_no_file() {
        let dir = tempfile::tempdir().unwrap();
        let texts = NoCloudFile::ALL.map(|file| rendered(dir.path(), &Document::NoCloud(file)).unwrap());
        let meta = "instance-id: node-001\nlocal-hostname: node-001\n";
        assert_eq!(texts, [Some(meta.to_owned()), Some("#cloud-config\n{}\n".to_owned()), None, None]);
    }

    #[test]
    fn files_are_sent_as_they_are_and_templates_rendered() {
        let dir = tempfile::tempdir().unwrap();
        for place in DIRECTORIES {
            fs::create_dir(dir.path().join(place)).unwrap();
        }
        fs::write(dir.path().join("nocloud/meta-data"), "{{ node.name }}").unwrap();
        fs::write(dir.path().join("nocloud/user-data.j2"), "#cloud-config\nhostname: {{ node.name }}\n")
            .unwrap();
        fs::write(dir.path().join("templates/a.ign.j2"), "{{ nosuch }}").unwrap();
        let text = |file| rendered(dir.path(), &Document::NoCloud(file)).unwrap().unwrap();
        assert_eq!(text(NoCloudFile::MetaData), "{{ node.name }}");
        assert_eq!(text(NoCloudFile::UserData), "#cloud-config\nhostname: node-001\n");
        let error = rendered(dir.path(), &Document::Template("a.ign".parse().unwrap())).unwrap_err();
        assert_eq!(error.to_string(), "cannot render templates/a.ign.j2 for node node-001");
        assert_eq!(rendered(dir.path(), &Document::Template("b".parse().unwrap())).unwrap(), None);
        assert_eq!(templates(dir.path()).iter().map(ArtifactName::as_str).collect::<Vec<_>>(), ["a.ign"]);
        std::os::unix::fs::symlink("/etc/passwd", dir.path().join("templates/b")).unwrap();
        assert!(rendered(dir.path(), &Document::Template("b".parse().unwrap())).is_err());
    }
}
