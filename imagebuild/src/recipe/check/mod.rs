//! From [`wire::Recipe`] to [`Recipe`]: what a type cannot say by itself is checked here.

mod source;
mod words;

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use bootspec::cmdline::{KernelArg, ParseKernelArgError};
use bootspec::manifest::{BootMode, Compression, FileSystemFormat};
use globset::Glob;

use crate::modules::{COMMON_NICS_WORD, COMMON_STORAGE_WORD, ModuleSpec};

use super::effective::Effective;
use super::path_glob;
use super::source_map::{Origin, Place};
use super::wire::{self, PackageSourceType, SourceType};
use super::{
    BootSpec, CompressionSpec, Content, ExcludeSpec, Existing, ExistingRoot, FileSpec, GroupSpec, KernelSpec,
    Recipe, RecipeError, RootKind, ScriptSpec, Services, Source, UserSpec,
};

use source::WireSource;
use words::{
    Check, check_package, check_passwd_path, check_password_hash, check_root_path, check_ssh_key,
    check_user_name, check_word, parse_mode,
};

const DEFAULT_FILE_MODE: u32 = 0o644;
const MIN_CHUNK_BYTES: u64 = 64 << 10;
const MAX_CHUNK_BYTES: u64 = 1 << 30;
const NO_ROOT: &str = "has no meaning for a busybox source, whose image has no root file system";
const NOT_ON_OVERLAYS: &str = "works with boot.root = \"tmpfs\" alone: under an overlay, policies forbid services the files that init has opened";
const DISCOVER_SOURCE: &str = "is discover, whose image has no root file system\nhint: make it from a source of type busybox, or boot this image with the node's mode set to discover";

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
            architecture: wire.architecture,
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
            self.refuse(wire.x86_filter, "compression.x86_filter", problem)?;
        }
        let chunk_bytes = wire.chunk.map(|size| size.0);
        if chunk_bytes.is_some_and(|bytes| !(MIN_CHUNK_BYTES..=MAX_CHUNK_BYTES).contains(&bytes)) {
            return Err(self.error("compression.chunk", "expected 64K to 1G"));
        }
        let format = wire.format.unwrap_or(Compression::Xz);
        if format != Compression::Xz {
            self.refuse(wire.x86_filter, "compression.x86_filter", "is a filter that only xz has")?;
        }
        let spec = CompressionSpec::new(format, wire.level, chunk_bytes)
            .map_err(|error| self.error("compression.level", &error.to_string()))?;
        Ok(CompressionSpec { x86_filter: wire.x86_filter.unwrap_or(spec.x86_filter), ..spec })
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

#[cfg(test)]
mod tests;
