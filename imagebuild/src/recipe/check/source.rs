//! `[source]`: each type has keys of its own.

use std::fs;
use std::path::{Path, PathBuf};

use bootspec::store::{ImageName, ImageVersion, NameError};
use serde::de::DeserializeOwned;

use super::super::wire::{self, SourceType};
use super::super::{
    Dnf, Existing, ExistingRoot, Location, Mmdebstrap, OciImage, PackageSource, RecipeError, Repository,
    Source,
};
use super::words::{
    check_group, check_line, check_module_stream, check_package, check_variable_name, check_word,
};
use super::{At, NO_ROOT};

/// The keys of one type of source.
pub trait WireSource: DeserializeOwned {
    fn check(self, at: &At<'_, '_>, key: &str) -> Result<Source, RecipeError>;
}

impl WireSource for wire::Mmdebstrap {
    fn check(self, at: &At<'_, '_>, key: &str) -> Result<Source, RecipeError> {
        Ok(Source::Mmdebstrap(at.mmdebstrap(self, key)?))
    }
}

impl WireSource for wire::Dnf {
    fn check(self, at: &At<'_, '_>, key: &str) -> Result<Source, RecipeError> {
        Ok(Source::Dnf(at.dnf(self, key)?))
    }
}

impl WireSource for wire::Busybox<wire::Mmdebstrap> {
    fn check(self, at: &At<'_, '_>, key: &str) -> Result<Source, RecipeError> {
        let from = at.mmdebstrap(self.from, &format!("{key}.from"))?;
        Ok(Source::Busybox(PackageSource::Mmdebstrap(from)))
    }
}

impl WireSource for wire::Busybox<wire::Dnf> {
    fn check(self, at: &At<'_, '_>, key: &str) -> Result<Source, RecipeError> {
        let from = at.dnf(self.from, &format!("{key}.from"))?;
        at.refuse(from.groups.first(), &format!("{key}.from.groups"), NO_ROOT)?;
        Ok(Source::Busybox(PackageSource::Dnf(from)))
    }
}

impl WireSource for wire::RootAtPath {
    fn check(self, at: &At<'_, '_>, key: &str) -> Result<Source, RecipeError> {
        let key = format!("{key}.path");
        let root = match self.kind {
            SourceType::Directory => ExistingRoot::Directory(at.existing_dir(&key, &self.path)?),
            _ => ExistingRoot::Tar(at.existing_file(&key, &self.path)?),
        };
        Ok(Source::Existing(Existing { root, proxy: self.proxy }))
    }
}

impl WireSource for wire::Image {
    fn check(self, at: &At<'_, '_>, key: &str) -> Result<Source, RecipeError> {
        let key = format!("{key}.image");
        let (name, version) = match self.image.split_once('/') {
            Some((name, version)) => (name, Some(version)),
            None => (&*self.image, None),
        };
        let refuse = |error: NameError| at.error(&key, &error.to_string());
        name.parse::<ImageName>().map_err(refuse)?;
        version.map_or(Ok(()), |version| version.parse::<ImageVersion>().map(drop)).map_err(refuse)?;
        Ok(Source::Existing(Existing { root: ExistingRoot::Image(self.image), proxy: self.proxy }))
    }
}

impl WireSource for wire::Oci {
    fn check(self, at: &At<'_, '_>, key: &str) -> Result<Source, RecipeError> {
        let of_registry = "is for an image in a registry alone";
        if self.reference.is_none() {
            at.refuse(self.tls_verify, &format!("{key}.tls_verify"), of_registry)?;
        }
        if let Some(tag) = &self.tag {
            at.check(&format!("{key}.tag"), tag, check_word)?;
        }
        let image = match (self.archive, self.layout, self.reference) {
            (Some(path), None, None) => {
                OciImage::Archive { path: at.existing_file(&format!("{key}.archive"), &path)?, tag: self.tag }
            }
            (None, Some(path), None) => {
                OciImage::Layout { path: at.existing_dir(&format!("{key}.layout"), &path)?, tag: self.tag }
            }
            (None, None, Some(reference)) => {
                at.check(&format!("{key}.reference"), &reference, check_word)?;
                at.refuse(
                    self.tag,
                    &format!("{key}.tag"),
                    "has no meaning here: the reference ends in the tag",
                )?;
                OciImage::Registry { reference, tls_verify: self.tls_verify.unwrap_or(true) }
            }
            _ => return Err(at.error(key, "expected exactly one of archive, layout and reference")),
        };
        Ok(Source::Existing(Existing { root: ExistingRoot::Oci(image), proxy: self.proxy }))
    }
}

impl At<'_, '_> {
    fn mmdebstrap(&self, wire: wire::Mmdebstrap, key: &str) -> Result<Mmdebstrap, RecipeError> {
        let variant = wire.variant.unwrap_or_else(|| "minbase".to_owned());
        self.check(&format!("{key}.suite"), &wire.suite, check_word)?;
        self.check(&format!("{key}.variant"), &variant, check_word)?;
        Ok(Mmdebstrap {
            suite: wire.suite,
            mirrors: self.all(&format!("{key}.mirrors"), wire.mirrors, check_line)?,
            components: self.all(&format!("{key}.components"), wire.components, check_word)?,
            keyrings: self.paths(&format!("{key}.keyrings"), &wire.keyrings),
            variant,
            proxy: wire.proxy,
        })
    }

    fn dnf(&self, wire: wire::Dnf, key: &str) -> Result<Dnf, RecipeError> {
        self.check(&format!("{key}.releasever"), &wire.releasever, check_word)?;
        if let Some(id) = &wire.module_platform_id {
            self.check(&format!("{key}.module_platform_id"), id, check_word)?;
        }
        for (name, value) in &wire.vars {
            self.check(&format!("{key}.vars.{name}"), name, check_variable_name)?;
            self.check(&format!("{key}.vars.{name}"), value, check_line)?;
        }
        if wire.repositories.is_empty() {
            return Err(self.error(&format!("{key}.repository"), "names no repository to install from"));
        }
        Ok(Dnf {
            releasever: wire.releasever,
            repositories: self.each(&format!("{key}.repository"), wire.repositories, Self::repository)?,
            module_platform_id: wire.module_platform_id,
            modules: self.all(&format!("{key}.modules"), wire.modules, check_module_stream)?,
            groups: self.all(&format!("{key}.groups"), wire.groups, check_group)?,
            vars: wire.vars,
            weak_deps: wire.weak_deps,
            excludes: self.all(&format!("{key}.excludes"), wire.excludes, check_package)?,
            proxy: wire.proxy,
        })
    }

    fn repository(&self, wire: wire::Repository, key: &str) -> Result<Repository, RecipeError> {
        self.check(&format!("{key}.name"), &wire.name, check_word)?;
        let location = match (wire.baseurl, wire.metalink, wire.mirrorlist) {
            (Some(url), None, None) => Location::BaseUrl(url),
            (None, Some(url), None) => Location::Metalink(url),
            (None, None, Some(url)) => Location::MirrorList(url),
            _ => return Err(self.error(key, "expected exactly one of baseurl, metalink and mirrorlist")),
        };
        let (Location::BaseUrl(url) | Location::Metalink(url) | Location::MirrorList(url)) = &location;
        self.check(key, url, check_word)?;
        if (wire.gpgcheck || wire.repo_gpgcheck) && wire.gpgkeys.is_empty() {
            let problem = "gpgkeys is empty, so no signature can be checked\n\
                           hint: name the repository's keys, or set gpgcheck = false if it has none";
            return Err(self.error(key, problem));
        }
        let gpgkeys = self.all(&format!("{key}.gpgkeys"), wire.gpgkeys, check_word)?;
        Ok(Repository {
            name: wire.name,
            location,
            gpgkeys: gpgkeys
                .iter()
                .enumerate()
                .map(|(n, url)| self.key_url(&format!("{key}.gpgkeys[{n}]"), url))
                .collect(),
            gpgcheck: wire.gpgcheck,
            repo_gpgcheck: wire.repo_gpgcheck,
            proxy: wire.proxy,
            priority: wire.priority,
            excludes: self.all(&format!("{key}.excludes"), wire.excludes, check_package)?,
            includes: self.all(&format!("{key}.includes"), wire.includes, check_package)?,
            module_hotfixes: wire.module_hotfixes,
        })
    }

    /// The keys of a repository are URLs, or paths.
    fn key_url(&self, key: &str, url: &str) -> String {
        if url.contains("://") {
            url.to_owned()
        } else {
            format!("file://{}", self.effective.dir(key).join(url).display())
        }
    }

    /// The absolute path of a regular file on this host.
    fn existing_file(&self, key: &str, path: &Path) -> Result<PathBuf, RecipeError> {
        self.existing(key, path, fs::Metadata::is_file, "is not a regular file")
    }

    /// The absolute path of a directory on this host.
    fn existing_dir(&self, key: &str, path: &Path) -> Result<PathBuf, RecipeError> {
        self.existing(key, path, fs::Metadata::is_dir, "is not a directory")
    }

    fn existing(
        &self,
        key: &str,
        path: &Path,
        is_right: fn(&fs::Metadata) -> bool,
        otherwise: &str,
    ) -> Result<PathBuf, RecipeError> {
        let joined = self.effective.dir(key).join(path);
        let read = |source| RecipeError::Read { path: joined.clone(), source };
        let path = std::path::absolute(&joined).map_err(read)?;
        match fs::metadata(&path) {
            Ok(metadata) if is_right(&metadata) => Ok(path),
            Ok(_) => Err(self.error(key, &format!("{} {otherwise}", path.display()))),
            Err(error) => Err(self.error(key, &format!("cannot read {}: {error}", path.display()))),
        }
    }
}
