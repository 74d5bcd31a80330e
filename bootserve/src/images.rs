//! The images of the store with who is to boot them and who runs them, for people who look at the whole.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

use bootspec::manifest::BootMode;
use bootspec::store::{MANIFEST, MANIFEST_SIGNATURE, NodeName, image_dir};
use bootspec::{ImageName, ImageRef, ImageVersion};
use serde::Serialize;

use crate::config::{Config, ImageSelector};
use crate::status::course::Courses;
use crate::store::{StoreError, read_manifest, resolve};

/// More versions of one image are not looked at: the newest by name count.
const MAX_VERSIONS: usize = 200;

/// An image, and its versions.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Image {
    /// What it is called.
    pub name: ImageName,
    /// The version that nodes boot which name none; null if there is none.
    pub current: Option<ImageVersion>,
    /// Nodes that are to boot the current version while there is none.
    pub waiting: Vec<NodeName>,
    /// The newest by name first.
    pub versions: Vec<Version>,
}

/// A version of an image.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Version {
    /// What it is called.
    pub version: ImageVersion,
    /// What is in it; null if it is not in the store or is of no use.
    pub contents: Option<Contents>,
    /// Why there are no contents, in words.
    pub problem: Option<String>,
    /// Nodes that boot it the next time.
    pub assigned: Vec<NodeName>,
    /// Nodes that are up and have booted it.
    pub running: Vec<NodeName>,
}

/// What is in a version.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Contents {
    /// All of its files together, in bytes.
    pub size_bytes: u64,
    /// How it boots, unless its node says otherwise.
    pub mode: BootMode,
    /// Of its kernel: `6.1.0-55-amd64`.
    pub kernel_release: String,
    /// When it was built, in seconds since 1970.
    pub built_unix: i64,
    /// Whether it has a signature. Nodes verify it, we do not.
    pub is_signed: bool,
}

/// What is in the store, of each image that is named as one.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Stored(BTreeMap<ImageName, StoredImage>);

#[derive(Clone, Debug, Default, PartialEq)]
struct StoredImage {
    current: Option<ImageVersion>,
    versions: BTreeMap<ImageVersion, Result<Contents, String>>,
}

/// Nodes by what they do with a version.
#[derive(Default)]
struct Users {
    assigned: Vec<NodeName>,
    running: Vec<NodeName>,
}

/// Reads what is in the store. A store that is not there yet has nothing in it.
pub fn read_stored(store: &Path) -> Result<Stored, StoreError> {
    let names = names_in::<ImageName>(store)?;
    let images = names.into_iter().map(|name| Ok((name.clone(), read_image(store, &name)?)));
    Ok(Stored(images.collect::<Result<_, StoreError>>()?))
}

fn read_image(store: &Path, name: &ImageName) -> Result<StoredImage, StoreError> {
    let mut versions = names_in::<ImageVersion>(&image_dir(store, name))?;
    versions.sort_by(|one, other| other.cmp(one));
    versions.truncate(MAX_VERSIONS);
    let contents = versions.into_iter().filter_map(|version| {
        let image = ImageRef { name: name.clone(), version: version.clone() };
        // A directory that is none of ours, or one that is being written.
        image.dir(store).join(MANIFEST).exists().then(|| (version, read_contents(store, &image)))
    });
    let versions = contents.collect();
    let current = resolve(store, &ImageSelector::Current(name.clone())).ok().map(|image| image.version);
    Ok(StoredImage { current, versions })
}

fn read_contents(store: &Path, image: &ImageRef) -> Result<Contents, String> {
    let manifest = read_manifest(store, image).map_err(|error| bootspec::diagnosis::explain(&error))?;
    Ok(Contents {
        size_bytes: manifest
            .artifacts
            .values()
            .map(|artifact| artifact.size_bytes)
            .fold(0, u64::saturating_add),
        mode: manifest.mode,
        kernel_release: manifest.kernel_release,
        built_unix: manifest.build.time_unix,
        is_signed: image.dir(store).join(MANIFEST_SIGNATURE).exists(),
    })
}

/// The directories in `dir` that have a name of this kind.
fn names_in<T: std::str::FromStr>(dir: &Path) -> Result<Vec<T>, StoreError> {
    let failed = |source| StoreError::Read { path: dir.to_owned(), source };
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(failed)?;
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            names.extend(entry.file_name().to_str().and_then(|name| name.parse().ok()));
        }
    }
    Ok(names)
}

/// All images that are stored, that nodes are to boot, or that they run.
pub fn images(stored: &Stored, config: &Config, courses: &Courses) -> Vec<Image> {
    let mut users: BTreeMap<ImageRef, Users> = BTreeMap::new();
    let mut waiting: BTreeMap<ImageName, Vec<NodeName>> = BTreeMap::new();
    for node in config.nodes() {
        match stored.version_of(&node.image) {
            Ok(image) => users.entry(image).or_default().assigned.push(node.name.clone()),
            Err(name) => waiting.entry(name).or_default().push(node.name.clone()),
        }
        let course = config.mac_of(node).and_then(|mac| courses.get(&mac)).filter(|course| course.is_up());
        if let Some(image) = course.and_then(|course| course.image.clone()) {
            users.entry(image).or_default().running.push(node.name.clone());
        }
    }
    let mut names: Vec<_> =
        stored.0.keys().chain(waiting.keys()).chain(users.keys().map(|image| &image.name)).collect();
    names.sort();
    names.dedup();
    let all = names.into_iter().cloned().collect::<Vec<_>>().into_iter();
    all.map(|name| image_of(stored, &users, waiting.remove(&name).unwrap_or_default(), name)).collect()
}

fn image_of(
    stored: &Stored,
    users: &BTreeMap<ImageRef, Users>,
    waiting: Vec<NodeName>,
    name: ImageName,
) -> Image {
    let nothing = StoredImage::default();
    let image = stored.0.get(&name).unwrap_or(&nothing);
    let used = users.keys().filter(|used| used.name == name).map(|used| &used.version);
    let mut versions: Vec<_> = image.versions.keys().chain(used).collect();
    versions.sort_by(|one, other| other.cmp(one));
    versions.dedup();
    let versions = versions.into_iter().map(|version| {
        let found = image.versions.get(version);
        let used = users.get(&ImageRef { name: name.clone(), version: version.clone() });
        Version {
            version: version.clone(),
            contents: found.and_then(|contents| contents.clone().ok()),
            problem: match found {
                None => Some("it is not in the store".to_owned()),
                Some(contents) => contents.clone().err(),
            },
            assigned: used.map(|users| users.assigned.clone()).unwrap_or_default(),
            running: used.map(|users| users.running.clone()).unwrap_or_default(),
        }
    });
    Image { current: image.current.clone(), waiting, versions: versions.collect(), name }
}

impl Stored {
    /// The version that a node which is to boot this boots; if it has none, the name of the image.
    fn version_of(&self, selector: &ImageSelector) -> Result<ImageRef, ImageName> {
        match selector {
            ImageSelector::Version(image) => Ok(image.clone()),
            ImageSelector::Current(name) => {
                let version = self.0.get(name).and_then(|image| image.current.clone());
                version.map(|version| ImageRef { name: name.clone(), version }).ok_or_else(|| name.clone())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::BootEvent;
    use bootspec::event::Phase;

    fn contents(size_bytes: u64) -> Contents {
        Contents {
            size_bytes,
            mode: BootMode::Carried,
            kernel_release: "6.1".to_owned(),
            built_unix: 0,
            is_signed: false,
        }
    }

    /// The example's nodes, all with debian-12-compute.
    fn config() -> Config {
        let example = include_str!("../bootserve.example.toml");
        Config::parse(&example.replace("\nimage = \"failsafe\"", "\nimage = \"debian-12-compute\"")).unwrap()
    }

    fn stored(current: Option<&str>) -> Stored {
        let version = |text: &str| text.parse::<ImageVersion>().unwrap();
        let versions = [(version("1"), Ok(contents(10))), (version("2"), Err("damaged".to_owned()))];
        let image = StoredImage { current: current.map(version), versions: versions.into() };
        Stored([("debian-12-compute".parse().unwrap(), image)].into())
    }

    #[test]
    fn versions_have_those_who_boot_them_and_those_who_run_them() {
        let config = config();
        let names: Vec<_> = config.nodes().iter().map(|node| node.name.clone()).collect();
        let mac = config.mac_of(&config.nodes()[0]).unwrap();
        let mut courses = Courses::new();
        for phase in [Phase::Script, Phase::Ready] {
            let image = Some("debian-12-compute/0".parse().unwrap());
            courses.entry(mac).or_default().add(&BootEvent { image, ..BootEvent::now(mac, phase) });
        }
        let found = images(&stored(Some("1")), &config, &courses);
        let image = &found[0];
        let versions: Vec<_> = image.versions.iter().map(|version| version.version.as_str()).collect();
        assert_eq!(versions, ["2", "1", "0"], "the newest first, with one that was removed");
        assert_eq!(image.versions[0].problem.as_deref(), Some("damaged"));
        assert_eq!(image.versions[1].assigned, names);
        assert_eq!(image.versions[2].problem.as_deref(), Some("it is not in the store"));
        assert_eq!(image.versions[2].running, names[..1]);
        assert!(image.waiting.is_empty());
    }

    #[test]
    fn nodes_wait_for_an_image_without_a_current_version() {
        let found = images(&stored(None), &config(), &Courses::new());
        assert_eq!((found[0].current.clone(), found[0].waiting.len()), (None, config().nodes().len()));
        let found = images(&Stored::default(), &config(), &Courses::new());
        assert_eq!((found.len(), found[0].versions.len()), (1, 0));
    }
}
