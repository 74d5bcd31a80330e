//! From [`wire::Recipe`] to [`Recipe`]: what a type cannot say by itself is checked here.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Component, Path, PathBuf};

use bootspec::cmdline::{KernelArg, ParseKernelArgError};
use bootspec::manifest::{BootMode, Compression, FileSystemFormat};
use bootspec::store::{ImageName, ImageVersion, NameError};
use globset::Glob;
use serde::de::DeserializeOwned;

use crate::modules::{COMMON_NICS_WORD, COMMON_STORAGE_WORD, ModuleSpec};

use super::compression::DEFAULT_CHUNK_BYTES;
use super::effective::Effective;
use super::path_glob;
use super::source_map::{Origin, Place};
use super::wire::{self, PackageSourceType, SourceType};
use super::{
    BootSpec, CompressionSpec, Content, Dnf, ExcludeSpec, Existing, ExistingRoot, FileSpec, GroupSpec,
    KernelSpec, Location, Mmdebstrap, OciImage, PackageSource, Recipe, RecipeError, Repository, RootKind,
    ScriptSpec, Services, Source, UserSpec,
};

const DEFAULT_FILE_MODE: u32 = 0o644;
const MIN_CHUNK_BYTES: u64 = 64 << 10;
const MAX_CHUNK_BYTES: u64 = 1 << 30;
const NO_ROOT: &str = "has no meaning for a busybox source, whose image has no root file system";
const NOT_ON_OVERLAYS: &str = "works with boot.root = \"tmpfs\" alone: under an overlay, policies forbid services the files that init has opened";
const DISCOVER_SOURCE: &str = "is discover, whose image has no root file system\nhint: make it from a source of type busybox, or boot this image with the node's mode set to discover";
/// useradd(8) refuses longer names.
const MAX_USER_NAME_BYTES: usize = 32;

impl Recipe {
    /// Checks an effective recipe.
    pub(super) fn check(effective: &Effective<'_>) -> Result<Self, RecipeError> {
        use wire::{Busybox, Dnf, Image, Mmdebstrap, Oci, RootAtPath};
        let at = At { effective };
        let head: wire::Head = effective.read()?;
        match (head.source.kind, head.source.from) {
            (SourceType::Mmdebstrap, _) => at.recipe::<Mmdebstrap>(effective.read()?),
            (SourceType::Dnf, _) => at.recipe::<Dnf>(effective.read()?),
            (SourceType::Busybox, Some(from)) => match from.kind {
                PackageSourceType::Mmdebstrap => at.recipe::<Busybox<Mmdebstrap>>(effective.read()?),
                PackageSourceType::Dnf => at.recipe::<Busybox<Dnf>>(effective.read()?),
            },
            (SourceType::Busybox, None) => {
                Err(at.error("source.from", "is missing: the kernel needs a source of packages"))
            }
            (SourceType::Tar | SourceType::Directory, _) => at.recipe::<RootAtPath>(effective.read()?),
            (SourceType::Image, _) => at.recipe::<Image>(effective.read()?),
            (SourceType::Oci, _) => at.recipe::<Oci>(effective.read()?),
        }
    }
}

/// The keys of one type of source.
trait WireSource: DeserializeOwned {
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

/// The recipe that is being checked.
struct At<'a, 'i> {
    effective: &'a Effective<'i>,
}

impl At<'_, '_> {
    fn recipe<S: WireSource>(&self, wire: wire::Recipe<S>) -> Result<Recipe, RecipeError> {
        let source = wire.source.check(self, "source")?;
        let boot = self.boot(wire.boot, &source)?;
        let microcode = wire.initramfs.microcode;
        let modules = self.modules(wire.initramfs, boot.mode)?;
        let recipe = Recipe {
            name: wire.name,
            description: wire.description,
            source,
            packages: self.all("packages", wire.packages, check_package)?,
            kernel_args: self.kernel_args(wire.kernel.args)?,
            kernel: self.kernel(wire.kernel.package, wire.kernel.release)?,
            files: self.each("file", wire.files, Self::file)?,
            groups: self.each("group", wire.groups, Self::group)?,
            users: self.each("user", wire.users, Self::user)?,
            services: self.services(wire.services)?,
            scripts: self.each("script", wire.scripts, Self::script)?,
            exclude: self.exclude(wire.exclude)?,
            checks: self.each("check", wire.checks, Self::check_script)?,
            allowed_scriptlet_failures: wire.scriptlets.allow_failure,
            compression: self.compression(wire.compression, boot.root)?,
            boot,
            modules,
            microcode,
            selinux_policy: self.selinux(wire.selinux, boot)?,
            variants: self.effective.known_variants().clone(),
            inputs: self.effective.inputs(),
        };
        self.check_busybox(&recipe)?;
        self.check_base(&recipe)?;
        self.check_numbers(&recipe)?;
        self.check_files_exist(&recipe)?;
        Ok(recipe)
    }

    /// Without a root there is nothing that could hold files or users. Packages can bring firmware for a discover image.
    fn check_busybox(&self, recipe: &Recipe) -> Result<(), RecipeError> {
        let Source::Busybox(_) = recipe.source else { return Ok(()) };
        let services = &recipe.services;
        let for_a_root = [
            ("packages", recipe.packages.is_empty() || recipe.mode() == BootMode::Discover),
            ("file", recipe.files.is_empty()),
            ("group", recipe.groups.is_empty()),
            ("user", recipe.users.is_empty()),
            (
                "services",
                !services.presets
                    && services.enable.is_empty()
                    && services.disable.is_empty()
                    && services.mask.is_empty(),
            ),
            ("script", recipe.scripts.is_empty()),
            ("exclude", recipe.exclude.is_empty()),
            ("check", recipe.checks.is_empty()),
        ];
        if let Some((key, _)) = for_a_root.iter().find(|(_, empty)| !empty) {
            return Err(self.error(key, NO_ROOT));
        }
        match recipe.kernel.package {
            Some(_) => Ok(()),
            None => Err(self.error("kernel.package", "is missing: a busybox source installs nothing else")),
        }
    }

    /// An image that builds on itself would grow with each build.
    fn check_base(&self, recipe: &Recipe) -> Result<(), RecipeError> {
        match &recipe.source {
            Source::Existing(Existing { root: ExistingRoot::Image(base), .. })
                if base.split('/').next() == Some(recipe.name.as_str()) =>
            {
                Err(self.error("source.image", "is the image that this recipe makes"))
            }
            _ => Ok(()),
        }
    }

    fn check_files_exist(&self, recipe: &Recipe) -> Result<(), RecipeError> {
        for path in recipe.named_files() {
            let metadata = fs::metadata(&path);
            let metadata = metadata.map_err(|source| RecipeError::Read { path: path.clone(), source })?;
            if !metadata.is_file() {
                let problem = format!("{} is not a regular file", path.display());
                return Err(self.error("file.from", &problem));
            }
        }
        Ok(())
    }

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

    /// Paths start at the directory of the file that they stand in.
    fn paths(&self, key: &str, paths: &[PathBuf]) -> Vec<PathBuf> {
        let absolute = |(n, path)| self.effective.dir(&format!("{key}[{n}]")).join(path);
        paths.iter().enumerate().map(absolute).collect()
    }

    fn kernel(&self, package: Option<String>, release: Option<String>) -> Result<KernelSpec, RecipeError> {
        if let Some(package) = &package {
            self.check("kernel.package", package, check_package)?;
        }
        if let Some(release) = &release {
            self.check("kernel.release", release, check_word)?;
        }
        Ok(KernelSpec { package, release })
    }

    fn file(&self, wire: wire::File, key: &str) -> Result<FileSpec, RecipeError> {
        self.check(&format!("{key}.path"), &wire.path, check_root_path)?;
        let mode = match &wire.mode {
            Some(text) => parse_mode(text).map_err(|problem| self.error(&format!("{key}.mode"), &problem))?,
            None => DEFAULT_FILE_MODE,
        };
        let content = match (wire.content, wire.from, wire.symlink) {
            (Some(text), None, None) => Content::Text { text, mode },
            (None, Some(from), None) => {
                Content::Copy { from: self.effective.dir(&format!("{key}.from")).join(from), mode }
            }
            (None, None, Some(target)) if wire.mode.is_none() => Content::Symlink(target),
            (None, None, Some(_)) => return Err(self.error(key, "a symbolic link has no mode of its own")),
            _ => return Err(self.error(key, "expected exactly one of content, from and symlink")),
        };
        Ok(FileSpec {
            path: wire.path.into(),
            content,
            owner: self.owner(wire.owner, &format!("{key}.owner"))?,
            group: self.owner(wire.group, &format!("{key}.group"))?,
        })
    }

    fn owner(&self, name: Option<String>, key: &str) -> Result<String, RecipeError> {
        let name = name.unwrap_or_else(|| "root".to_owned());
        if name.parse::<u32>().is_err() {
            self.check(key, &name, check_user_name)?;
        }
        Ok(name)
    }

    fn group(&self, wire: wire::Group, key: &str) -> Result<GroupSpec, RecipeError> {
        self.check(&format!("{key}.name"), &wire.name, check_user_name)?;
        Ok(GroupSpec { name: wire.name, gid: wire.gid, system: wire.system })
    }

    /// No two users and no two groups of the recipe have one number.
    fn check_numbers(&self, recipe: &Recipe) -> Result<(), RecipeError> {
        let users: Vec<_> = recipe.users.iter().map(|user| (&user.name, user.uid)).collect();
        let groups: Vec<_> = recipe.groups.iter().map(|group| (&group.name, group.gid)).collect();
        for (kind, number, items) in [("user", "uid", users), ("group", "gid", groups)] {
            let mut owners = BTreeMap::new();
            for (n, (name, id)) in items.into_iter().enumerate() {
                let Some(id) = id else { continue };
                if let Some(owner) = owners.insert(id, name) {
                    let problem = format!("{id} is that of the {kind} '{owner}' too");
                    return Err(self.error(&format!("{kind}[{n}].{number}"), &problem));
                }
            }
        }
        Ok(())
    }

    /// The primary group of a user, by its number or its name.
    fn primary_group(
        &self,
        gid: Option<u32>,
        group: Option<String>,
        key: &str,
    ) -> Result<Option<String>, RecipeError> {
        match (gid, group) {
            (Some(_), Some(_)) => Err(self.error(key, "expected only one of gid and group")),
            (Some(gid), None) => Ok(Some(gid.to_string())),
            (None, Some(group)) => {
                self.check(&format!("{key}.group"), &group, check_user_name)?;
                Ok(Some(group))
            }
            (None, None) => Ok(None),
        }
    }

    fn user(&self, wire: wire::User, key: &str) -> Result<UserSpec, RecipeError> {
        self.check(&format!("{key}.name"), &wire.name, check_user_name)?;
        for (name, path) in [("home", &wire.home), ("shell", &wire.shell)] {
            if let Some(path) = path {
                self.check(&format!("{key}.{name}"), path, check_passwd_path)?;
            }
        }
        if let Some(hash) = &wire.password_hash {
            // The value is left out of the message: it may be a password in clear.
            check_password_hash(hash).map_err(|expected| {
                self.error(&format!("{key}.password_hash"), &format!("expected {expected}"))
            })?;
        }
        Ok(UserSpec {
            name: wire.name,
            uid: wire.uid,
            group: self.primary_group(wire.gid, wire.group, key)?,
            groups: self.all(&format!("{key}.groups"), wire.groups, check_user_name)?,
            home: wire.home,
            shell: wire.shell,
            password_hash: wire.password_hash,
            ssh_keys: self.all(&format!("{key}.ssh_keys"), wire.ssh_keys, check_ssh_key)?,
        })
    }

    fn services(&self, wire: wire::Services) -> Result<Services, RecipeError> {
        Ok(Services {
            presets: wire.presets,
            enable: self.all("services.enable", wire.enable, check_word)?,
            disable: self.all("services.disable", wire.disable, check_word)?,
            mask: self.all("services.mask", wire.mask, check_word)?,
        })
    }

    fn script(&self, wire: wire::Script, key: &str) -> Result<ScriptSpec, RecipeError> {
        let text = self.script_text(wire.run, wire.path, key)?;
        Ok(ScriptSpec { name: wire.name, text, network: wire.network })
    }

    fn check_script(&self, wire: wire::Check, key: &str) -> Result<ScriptSpec, RecipeError> {
        let text = self.script_text(wire.run, wire.path, key)?;
        Ok(ScriptSpec { name: wire.name, text, network: false })
    }

    fn script_text(
        &self,
        run: Option<String>,
        path: Option<PathBuf>,
        key: &str,
    ) -> Result<String, RecipeError> {
        match (run, path) {
            (Some(text), None) => Ok(text),
            (None, Some(path)) => {
                let path = self.effective.dir(&format!("{key}.path")).join(path);
                fs::read_to_string(&path).map_err(|source| RecipeError::Read { path, source })
            }
            _ => Err(self.error(key, "expected exactly one of run and path")),
        }
    }

    fn exclude(&self, wire: wire::Exclude) -> Result<ExcludeSpec, RecipeError> {
        let globs = |key: &str, patterns: Vec<String>| {
            let patterns = patterns.iter().enumerate();
            patterns
                .map(|(n, pattern)| self.root_glob(&format!("exclude.{key}[{n}]"), pattern))
                .collect::<Result<_, _>>()
        };
        Ok(ExcludeSpec {
            sets: wire.sets,
            paths: globs("paths", wire.paths)?,
            keep: globs("keep", wire.keep)?,
        })
    }

    fn root_glob(&self, key: &str, pattern: &str) -> Result<Glob, RecipeError> {
        self.check(key, pattern, check_root_path)?;
        path_glob(pattern)
            .map_err(|error| self.error(key, &format!("'{pattern}' is no pattern: {}", error.kind())))
    }

    fn kernel_args(&self, args: Vec<String>) -> Result<Vec<KernelArg>, RecipeError> {
        let check = |(n, arg): (usize, String)| {
            arg.parse().map_err(|error: ParseKernelArgError| {
                self.error(&format!("kernel.args[{n}]"), &error.to_string())
            })
        };
        args.into_iter().enumerate().map(check).collect()
    }

    fn boot(&self, wire: wire::Boot, source: &Source) -> Result<BootSpec, RecipeError> {
        if let Source::Busybox(_) = source {
            self.refuse(wire.root, "boot.root", NO_ROOT)?;
        }
        let mode = match (source, wire.mode) {
            (Source::Busybox(_), None) => BootMode::Failsafe,
            (Source::Busybox(_), Some(wire::Mode::Discover)) => BootMode::Discover,
            (Source::Busybox(_), Some(_)) => return Err(self.error("boot.mode", NO_ROOT)),
            (_, None | Some(wire::Mode::Carried)) => BootMode::Carried,
            (_, Some(wire::Mode::Fetched)) => BootMode::Fetched,
            (_, Some(wire::Mode::Discover)) => return Err(self.error("boot.mode", DISCOVER_SOURCE)),
        };
        let root = match wire.root {
            None | Some(wire::RootKind::Tmpfs) => RootKind::Tmpfs,
            Some(wire::RootKind::Squashfs) => RootKind::FileSystem(FileSystemFormat::Squashfs),
            Some(wire::RootKind::Erofs) => RootKind::FileSystem(FileSystemFormat::Erofs),
        };
        Ok(BootSpec { mode, root, rollback_index: wire.rollback_index })
    }

    fn modules(&self, wire: wire::Initramfs, mode: BootMode) -> Result<ModuleSpec, RecipeError> {
        let common: &[&str] = match mode {
            BootMode::Failsafe => {
                self.refuse(wire.modules, "initramfs.modules", NO_ROOT)?;
                return Ok(ModuleSpec::default());
            }
            BootMode::Carried | BootMode::Fetched => &[COMMON_NICS_WORD],
            BootMode::Discover => &[COMMON_NICS_WORD, COMMON_STORAGE_WORD],
        };
        Ok(wire.modules.unwrap_or_else(|| ModuleSpec::new(common).expect("the words are defined")))
    }

    fn selinux(&self, wire: wire::Selinux, boot: BootSpec) -> Result<Option<String>, RecipeError> {
        let Some(policy) = wire.policy else { return Ok(None) };
        let refused = |problem: &str| Err(self.error("selinux.policy", problem));
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
        if !boot.mode.has_root() {
            refused(NO_ROOT)
        } else if boot.root != RootKind::Tmpfs {
            refused(NOT_ON_OVERLAYS)
        } else if policy.is_empty() || !policy.bytes().all(is_name) {
            refused(&format!(
                "'{policy}' is not the name of a policy: expected a directory of /etc/selinux, such as targeted"
            ))
        } else {
            Ok(Some(policy))
        }
    }

    /// What would have no effect must not look as if it had one.
    fn refuse<T>(&self, value: Option<T>, key: &str, problem: &str) -> Result<(), RecipeError> {
        value.map_or(Ok(()), |_| Err(self.error(key, problem)))
    }

    fn compression(&self, wire: wire::Compression, root: RootKind) -> Result<CompressionSpec, RecipeError> {
        if root == RootKind::FileSystem(FileSystemFormat::Erofs) {
            let problem = "has no meaning for an EROFS root, which is always compressed with lz4hc";
            self.refuse(wire.format, "compression.format", problem)?;
            self.refuse(wire.level, "compression.level", problem)?;
        }
        if root != RootKind::Tmpfs {
            let problem = "has no meaning for a root that is a file system: it is not cut into chunks";
            self.refuse(wire.chunk, "compression.chunk", problem)?;
        }
        let chunk_bytes = wire.chunk.map_or(DEFAULT_CHUNK_BYTES, |size| size.0);
        if !(MIN_CHUNK_BYTES..=MAX_CHUNK_BYTES).contains(&chunk_bytes) {
            return Err(self.error("compression.chunk", "expected 64K to 1G"));
        }
        CompressionSpec::new(wire.format.unwrap_or(Compression::Xz), wire.level, chunk_bytes)
            .map_err(|error| self.error("compression.level", &error.to_string()))
    }

    fn each<W, T>(
        &self,
        key: &str,
        items: Vec<W>,
        check: fn(&Self, W, &str) -> Result<T, RecipeError>,
    ) -> Result<Vec<T>, RecipeError> {
        items.into_iter().enumerate().map(|(n, item)| check(self, item, &format!("{key}[{n}]"))).collect()
    }

    fn all(&self, key: &str, values: Vec<String>, accept: Check) -> Result<Vec<String>, RecipeError> {
        for (n, value) in values.iter().enumerate() {
            self.check(&format!("{key}[{n}]"), value, accept)?;
        }
        Ok(values)
    }

    fn check(&self, key: &str, value: &str, accept: Check) -> Result<(), RecipeError> {
        accept(value).map_err(|expected| self.error(key, &format!("found '{value}', expected {expected}")))
    }

    fn error(&self, key: &str, problem: &str) -> RecipeError {
        let whole = || Place { origin: Origin::File(self.effective.path().to_owned()), line: 1, column: 1 };
        let place = self.effective.place(key).unwrap_or_else(whole);
        RecipeError::Value { place, key: key.to_owned(), problem: problem.to_owned() }
    }
}

/// Says what was expected if a value is not acceptable.
type Check = fn(&str) -> Result<(), &'static str>;

/// One argument of a program that is not taken for an option.
fn check_word(text: &str) -> Result<(), &'static str> {
    let plain = !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic());
    (plain && !text.starts_with('-')).then_some(()).ok_or("one word that does not begin with '-'")
}

/// mmdebstrap takes a comma-separated list.
fn check_package(text: &str) -> Result<(), &'static str> {
    check_word(text)?;
    (!text.contains(',')).then_some(()).ok_or("one package")
}

/// A module with a stream. Profiles are left out: what is to be installed, `packages` say.
fn check_module_stream(text: &str) -> Result<(), &'static str> {
    let expected = "a module and its stream, such as nodejs:20";
    check_word(text).map_err(|_| expected)?;
    let named = |(module, stream): (&str, &str)| {
        !module.is_empty() && !stream.is_empty() && !stream.contains([':', '/'])
    };
    text.split_once(':').is_some_and(named).then_some(()).ok_or(expected)
}

/// dnf takes `@nodejs:20/common` for a module.
fn check_group(text: &str) -> Result<(), &'static str> {
    let plain = check_word(text).is_ok() && !text.contains(['@', ':', '/', ',']);
    plain.then_some(()).ok_or("the id of a group without '@', such as core")
}

fn check_variable_name(text: &str) -> Result<(), &'static str> {
    let plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    plain.then_some(()).ok_or("letters, digits and '_', without '$'")
}

fn check_line(text: &str) -> Result<(), &'static str> {
    let plain = !text.is_empty() && !text.contains(char::is_control) && !text.starts_with('-');
    plain.then_some(()).ok_or("one line")
}

fn check_root_path(text: &str) -> Result<(), &'static str> {
    let path = PathBuf::from(text);
    let mut components = path.components();
    let absolute = components.next() == Some(Component::RootDir);
    let mut names = components.peekable();
    let named = names.peek().is_some() && names.all(|c| matches!(c, Component::Normal(_)));
    let plain = !text.contains(char::is_control) && !text.ends_with('/');
    (absolute && named && plain).then_some(()).ok_or("an absolute path inside the image, without '..'")
}

/// A field of /etc/passwd.
fn check_passwd_path(text: &str) -> Result<(), &'static str> {
    check_root_path(text)?;
    (!text.contains(':')).then_some(()).ok_or("a path without ':'")
}

fn check_user_name(text: &str) -> Result<(), &'static str> {
    let first = text.starts_with(|c: char| c.is_ascii_lowercase() || c == '_');
    let rest = text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"_-".contains(&b));
    (first && rest && text.len() <= MAX_USER_NAME_BYTES)
        .then_some(())
        .ok_or("at most 32 lower-case letters, digits, '_' and '-', the first a letter or '_'")
}

fn check_password_hash(text: &str) -> Result<(), &'static str> {
    let hash = text.starts_with(['$', '!', '*']) && text.bytes().all(|b| b.is_ascii_graphic() && b != b':');
    hash.then_some(()).ok_or("a hash as `mkpasswd` or `openssl passwd -6` prints it, or '!' for no password")
}

fn check_ssh_key(text: &str) -> Result<(), &'static str> {
    let line = !text.contains(char::is_control) && text.split_whitespace().count() >= 2;
    line.then_some(()).ok_or("one line of an authorized_keys file")
}

fn parse_mode(text: &str) -> Result<u32, String> {
    let mode = u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o7777);
    mode.ok_or_else(|| format!("found '{text}', expected an octal mode such as \"0644\""))
}

#[cfg(test)]
mod tests {
    use super::super::Selection;
    use super::super::layers::Layers;
    use super::*;
    use proptest::prelude::*;

    const MINIMAL: &str = "name = 'compute'\n[source]\ntype = 'mmdebstrap'\nsuite = 'bookworm'\n";

    fn parse(text: &str) -> Result<Recipe, RecipeError> {
        let layers = Layers::of("/recipes/compute/recipe.toml".into(), text.to_owned(), &[])?;
        Recipe::check(&Effective::of(&layers, &Selection::default())?)
    }

    /// Parses the minimal recipe followed by `rest`, and returns the whole chain of the error.
    fn check_rejected(rest: &str, expected: &str) {
        let error = parse(&format!("{MINIMAL}{rest}")).unwrap_err();
        let source = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
        let message = format!("{error}: {source}");
        assert!(message.contains(expected), "{rest:?} gave {message}");
    }

    #[test]
    fn a_minimal_recipe_gets_the_documented_defaults() {
        let recipe = parse(MINIMAL).unwrap();
        let Source::Mmdebstrap(source) = &recipe.source else { panic!("{:?}", recipe.source) };
        assert_eq!((source.variant.as_str(), source.mirrors.len()), ("minbase", 0));
        let expected = CompressionSpec { format: Compression::Xz, level: 6, chunk_bytes: 16 << 20 };
        assert_eq!(recipe.compression, expected);
    }

    #[test]
    fn unknown_keys_are_named_with_their_line_and_column() {
        check_rejected("colour = 'red'", "line 5, column 1");
        check_rejected("[kernel]\narg = []", "unknown field `arg`");
        check_rejected("releasever = '9'", "unknown field `releasever`");
        check_rejected("[[file]]\npath = '/etc/motd'\nperm = '0644'", "line 7, column 1");
    }

    #[test]
    fn values_that_cannot_be_right_are_rejected_with_their_key() {
        check_rejected(
            "[[file]]\npath = '/etc/motd'",
            "file[0]: expected exactly one of content, from and symlink",
        );
        check_rejected("[[file]]\npath = 'etc/motd'\ncontent = ''", "file[0].path");
        check_rejected("[[file]]\npath = '/etc/../../motd'\ncontent = ''", "without '..'");
        check_rejected("[[file]]\npath = '/etc/motd'\ncontent = ''\nmode = '999'", "octal");
        check_rejected(
            "[[file]]\npath = '/etc/motd'\nfrom = 'absent'",
            "cannot read /recipes/compute/absent",
        );
        check_rejected("[[user]]\nname = 'Root'", "user[0].name");
        check_rejected("[services]\nenable = ['--now']", "services.enable[0]");
        check_rejected("[kernel]\nargs = ['a b']", "kernel.args[0]");
        check_rejected("[kernel]\nargs = ['x=${ip}']", "kernel.args[0]");
        check_rejected("[compression]\nlevel = 10", "expected 0 to 9");
        check_rejected("[compression]\nchunk = '1Q'", "not a size");
        check_rejected("[compression]\nchunk = '1K'", "64K to 1G");
        check_rejected("[[script]]\nname = 'x'", "script[0]: expected exactly one of run and path");
    }

    #[test]
    fn a_password_in_clear_is_refused_without_being_shown() {
        let text = format!("{MINIMAL}[[user]]\nname = 'root'\npassword_hash = 'hunter2'");
        let message = parse(&text).unwrap_err().to_string();
        assert!(message.contains("password_hash") && !message.contains("hunter2"), "{message}");
    }

    #[test]
    fn signatures_are_checked_unless_the_recipe_says_no() {
        let dnf = |rest: &str| {
            parse(&format!(
                "name = 'el'\n[source]\ntype = 'dnf'\nreleasever = '9'\n\
                 [[source.repository]]\nname = 'base'\nbaseurl = 'file:///repo'\n{rest}"
            ))
        };
        assert!(dnf("").unwrap_err().to_string().contains("gpgkeys is empty"));
        let Source::Dnf(source) = dnf("gpgkeys = ['https://h/key']").unwrap().source else {
            panic!("not dnf")
        };
        assert!(source.repositories[0].gpgcheck && !source.weak_deps);
        dnf("gpgcheck = false").unwrap();
    }

    #[test]
    fn numbers_of_users_and_groups_are_their_own() {
        let ok = "[[group]]\nname = 'hpc'\ngid = 4000\nsystem = true\n\
                  [[user]]\nname = 'a'\nuid = 4000\ngroup = 'hpc'\n[[user]]\nname = 'b'\ngid = 4000\n";
        let recipe = parse(&format!("{MINIMAL}{ok}")).unwrap();
        let groups: Vec<_> = recipe.users.iter().map(|user| user.group.as_deref()).collect();
        assert_eq!((recipe.groups[0].gid, &groups[..]), (Some(4000), &[Some("hpc"), Some("4000")][..]));
        let again = "[[user]]\nname = 'c'\nuid = 4000";
        check_rejected(&format!("{ok}{again}"), "user[2].uid: 4000 is that of the user 'a' too");
        let again = "[[group]]\nname = 'c'\ngid = 4000";
        check_rejected(&format!("{ok}{again}"), "group[1].gid: 4000 is that of the group 'hpc' too");
        check_rejected("[[user]]\nname = 'a'\ngid = 1\ngroup = 'x'", "only one of gid and group");
        check_rejected("[[group]]\nname = 'A'", "group[0].name");
    }

    #[test]
    fn what_dnf_is_told_besides_packages_is_checked() {
        let dnf = |keys: &str| {
            parse(&format!(
                "name = 'el'\n[source]\ntype = 'dnf'\nreleasever = '9'\n{keys}\n\
                 [[source.repository]]\nname = 'base'\nbaseurl = 'file:///repo'\ngpgcheck = false\n"
            ))
        };
        dnf("modules = ['nodejs:20', 'perl:5.32']\ngroups = ['core', '^minimal-environment']\nvars.stream = '9-x'")
            .unwrap();
        for (keys, expected) in [
            ("modules = ['nodejs']", "source.modules[0]: found 'nodejs', expected a module and its stream"),
            ("modules = ['nodejs:20/common']", "such as nodejs:20"),
            ("groups = ['@core']", "source.groups[0]: found '@core', expected the id of a group without '@'"),
            ("vars.'$stream' = '9'", "without '$'"),
            ("vars.stream = \"a\\nb\"", "expected one line"),
            ("proxy = 'cache:3128'", "'cache:3128' is not a proxy"),
        ] {
            let error = dnf(keys).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn a_busybox_source_has_a_kernel_and_nothing_else() {
        let text = "name = 'failsafe'\n[source]\ntype = 'busybox'\n";
        assert!(parse(text).unwrap_err().to_string().contains("source.from"));
        let text = format!("{text}[source.from]\ntype = 'mmdebstrap'\nsuite = 'bookworm'\n");
        assert!(parse(&text).unwrap_err().to_string().contains("kernel.package"));
        let text = format!("{text}[kernel]\npackage = 'linux-image-cloud-amd64'\n");
        assert_eq!(parse(&text).unwrap().mode(), bootspec::manifest::BootMode::Failsafe);
        for (section, key) in [
            ("[boot]\nmode = 'carried'", "boot.mode"),
            ("[boot]\nroot = 'tmpfs'", "boot.root"),
            ("[initramfs]\nmodules = []", "initramfs.modules"),
        ] {
            let error = parse(&format!("{text}{section}\n")).unwrap_err().to_string();
            assert!(error.contains(key), "{error}");
        }
        let text = format!("packages = ['vim']\n{text}");
        assert!(parse(&text).unwrap_err().to_string().contains("packages"));
    }

    #[test]
    fn a_discover_image_has_drivers_and_may_have_firmware() {
        let text = "name = 'discover'\npackages = ['firmware-bnx2']\n[kernel]\npackage = 'linux-image-amd64'\n\
                    [source]\ntype = 'busybox'\n[source.from]\ntype = 'mmdebstrap'\nsuite = 'bookworm'\n";
        let recipe = parse(&format!("{text}[boot]\nmode = 'discover'")).unwrap();
        assert_eq!(recipe.mode(), BootMode::Discover);
        assert_eq!(recipe.packages, ["firmware-bnx2"]);
        assert_eq!(recipe.modules, ModuleSpec::new(["common-nics", "common-storage"]).unwrap());
        let recipe =
            parse(&format!("{text}[boot]\nmode = 'discover'\n[initramfs]\nmodules = ['igb']")).unwrap();
        assert_eq!(recipe.modules, ModuleSpec::new(["igb"]).unwrap());
        let error =
            parse(&format!("{text}[boot]\nmode = 'discover'\nroot = 'tmpfs'")).unwrap_err().to_string();
        assert!(error.contains("boot.root"), "{error}");
        check_rejected("[boot]\nmode = 'discover'", "hint: make it from a source of type busybox");
    }

    #[test]
    fn an_image_boots_as_the_recipe_says() {
        let boot = |rest: &str| parse(&format!("{MINIMAL}{rest}")).unwrap().boot;
        let default = BootSpec { mode: BootMode::Carried, root: RootKind::Tmpfs, rollback_index: 0 };
        assert_eq!(boot(""), default);
        let squashfs = RootKind::FileSystem(FileSystemFormat::Squashfs);
        let expected = BootSpec { mode: BootMode::Fetched, root: squashfs, rollback_index: 7 };
        assert_eq!(boot("[boot]\nmode = 'fetched'\nroot = 'squashfs'\nrollback_index = 7"), expected);
        check_rejected("[boot]\nmode = 'failsafe'", "line 6, column 8");
        check_rejected("[boot]\nroot = 'ext4'", "expected one of `tmpfs`, `squashfs`, `erofs`");
        check_rejected("[boot]\nrollback_index = -1", "line 6, column 18");
    }

    #[test]
    fn modules_are_named_or_those_of_common_network_cards() {
        let modules = |rest: &str| parse(&format!("{MINIMAL}{rest}")).unwrap().modules;
        assert_eq!(modules(""), ModuleSpec::new([COMMON_NICS_WORD]).unwrap());
        assert!(modules("[initramfs]\nmodules = []").is_empty());
        assert_eq!(modules("[initramfs]\nmodules = ['e1000-e']"), ModuleSpec::new(["e1000_e"]).unwrap());
        check_rejected("[initramfs]\nmodules = ['net/e1000.ko']", "is not the name of a kernel module");
        check_rejected("[initramfs]\nmodules = ['net/e1000.ko']", "line 6, column 11");
    }

    #[test]
    fn what_a_kind_of_root_does_not_have_is_refused() {
        check_rejected(
            "[boot]\nroot = 'erofs'\n[compression]\nlevel = 3",
            "compression.level: has no meaning",
        );
        check_rejected("[boot]\nroot = 'erofs'\n[compression]\nformat = 'xz'", "lz4hc");
        check_rejected("[boot]\nroot = 'squashfs'\n[compression]\nchunk = '1M'", "not cut into chunks");
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_or_refused_without_panic(text in "\\PC{0,200}") {
            let _ = parse(&text);
            let _ = parse(&format!("{MINIMAL}{text}"));
        }
    }

    #[test]
    fn a_root_that_exists_is_named_in_one_way() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().display();
        let source = |keys: &str| parse(&format!("name = 'x'\n[source]\n{keys}")).map(|recipe| recipe.source);
        let refused = |keys: &str, expected: &str| {
            let error = source(keys).unwrap_err().to_string();
            assert!(error.contains(expected), "{keys} gave {error}");
        };
        let found = source(&format!("type = 'directory'\npath = '{dir}'")).unwrap();
        assert!(
            matches!(found, Source::Existing(Existing { root: ExistingRoot::Directory(_), .. })),
            "{found:?}"
        );
        refused(&format!("type = 'tar'\npath = '{dir}'"), "source.path: ");
        refused("type = 'tar'\npath = 'absent'", "cannot read /recipes/compute/absent");
        refused("type = 'image'\nimage = 'x/1'", "is the image that this recipe makes");
        refused("type = 'image'\nimage = 'a/b/c'", "source.image: ");
        refused("type = 'oci'", "expected exactly one of archive, layout and reference");
        refused("type = 'oci'\nreference = 'a'\ntag = 'b'", "the reference ends in the tag");
        refused(&format!("type = 'oci'\nlayout = '{dir}'\ntls_verify = true"), "source.tls_verify: ");
        refused("type = 'directory'\npath = 'x'\nsuite = 'y'", "unknown field `suite`");
    }

    #[test]
    fn what_is_left_out_are_sets_and_patterns_of_absolute_paths() {
        let recipe = parse(&format!("{MINIMAL}[exclude]\nsets = ['docs']\npaths = ['/usr/**/*.a']")).unwrap();
        assert!(recipe.exclude.sets.contains(&super::super::ExcludeSet::Docs));
        check_rejected("[exclude]\nsets = ['dox']", "unknown variant `dox`");
        check_rejected("[exclude]\npaths = ['usr']", "exclude.paths[0]: ");
        check_rejected("[exclude]\npaths = ['/usr/[a']", "'/usr/[a' is no pattern: ");
        check_rejected("[[check]]\nname = 'c'\nrun = ''\nnetwork = true", "unknown field `network`");
    }

    #[test]
    fn a_selinux_policy_is_for_roots_in_a_tmpfs() {
        let policy = |rest: &str| parse(&format!("{MINIMAL}{rest}")).unwrap().selinux_policy;
        assert_eq!(policy(""), None);
        assert_eq!(policy("[selinux]\npolicy = 'targeted'").as_deref(), Some("targeted"));
        check_rejected("[selinux]\npolicy = '../x'", "not the name of a policy");
        check_rejected("[boot]\nroot = 'erofs'\n[selinux]\npolicy = 'targeted'", "tmpfs");
        check_rejected("[selinux]\nmode = 'enforcing'", "unknown field `mode`");
    }
}
