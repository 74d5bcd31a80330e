//! The recipe as it stands in the file: the shape and the spelling of every key, nothing more.
//!
//! serde and toml report unknown keys and wrong types with their positions. A source's keys depend on its `type`;
//! so [`SourceType`] is read first, and then the whole recipe with that type's keys, because serde's tagged enums
//! would lose the position of an error.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use bootspec::cmdline::ByteSize;
use bootspec::manifest::Compression as Format;
use bootspec::store::ImageName;
use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::architecture::Architecture;
use crate::modules::ModuleSpec;

use super::{ExcludeSet, Proxy};

/// The part of a recipe that says which keys `[source]` has.
#[derive(Deserialize)]
pub struct Head {
    pub source: SourceHead,
}

#[derive(Deserialize)]
pub struct SourceHead {
    #[serde(rename = "type")]
    pub kind: SourceType,
    pub from: Option<FromHead>,
}

/// The `type` of the `[source.from]` of a busybox source.
#[derive(Deserialize)]
pub struct FromHead {
    #[serde(rename = "type")]
    pub kind: PackageSourceType,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SourceType {
    Mmdebstrap,
    Dnf,
    Busybox,
    Tar,
    Directory,
    Image,
    Oci,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PackageSourceType {
    Mmdebstrap,
    Dnf,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe<S> {
    pub name: ImageName,
    #[serde(default)]
    pub description: String,
    pub architecture: Option<Architecture>,
    pub source: S,
    #[serde(default)]
    pub packages: Vec<String>,
    #[serde(default)]
    pub kernel: Kernel,
    #[serde(default, rename = "file")]
    pub files: Vec<File>,
    #[serde(default, rename = "group")]
    pub groups: Vec<Group>,
    #[serde(default, rename = "user")]
    pub users: Vec<User>,
    #[serde(default)]
    pub services: Services,
    #[serde(default, rename = "script")]
    pub scripts: Vec<Script>,
    #[serde(default)]
    pub exclude: Exclude,
    #[serde(default, rename = "check")]
    pub checks: Vec<Check>,
    #[serde(default)]
    pub scriptlets: Scriptlets,
    #[serde(default)]
    pub compression: Compression,
    #[serde(default)]
    pub boot: Boot,
    #[serde(default)]
    pub initramfs: Initramfs,
    #[serde(default)]
    pub selinux: Selinux,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mmdebstrap {
    #[serde(rename = "type")]
    _kind: IgnoredAny,
    pub suite: String,
    #[serde(default)]
    pub mirrors: Vec<String>,
    #[serde(default)]
    pub components: Vec<String>,
    #[serde(default)]
    pub keyrings: Vec<PathBuf>,
    pub variant: Option<String>,
    pub proxy: Option<Proxy>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dnf {
    #[serde(rename = "type")]
    _kind: IgnoredAny,
    pub releasever: String,
    #[serde(rename = "repository")]
    pub repositories: Vec<Repository>,
    pub module_platform_id: Option<String>,
    #[serde(default)]
    pub modules: Vec<String>,
    #[serde(default)]
    pub groups: Vec<String>,
    #[serde(default)]
    pub vars: BTreeMap<String, String>,
    #[serde(default)]
    pub weak_deps: bool,
    #[serde(default)]
    pub excludes: Vec<String>,
    pub proxy: Option<Proxy>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Repository {
    pub name: String,
    pub baseurl: Option<String>,
    pub metalink: Option<String>,
    pub mirrorlist: Option<String>,
    #[serde(default)]
    pub gpgkeys: Vec<String>,
    #[serde(default = "yes")]
    pub gpgcheck: bool,
    #[serde(default)]
    pub repo_gpgcheck: bool,
    pub proxy: Option<Proxy>,
    pub priority: Option<u32>,
    #[serde(default)]
    pub excludes: Vec<String>,
    #[serde(default)]
    pub includes: Vec<String>,
    #[serde(default)]
    pub module_hotfixes: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Busybox<S> {
    #[serde(rename = "type")]
    _kind: IgnoredAny,
    pub from: S,
}

/// Of `tar` and `directory`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RootAtPath {
    #[serde(rename = "type")]
    pub kind: SourceType,
    pub path: PathBuf,
    pub proxy: Option<Proxy>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Image {
    #[serde(rename = "type")]
    _kind: IgnoredAny,
    pub image: String,
    pub proxy: Option<Proxy>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Oci {
    #[serde(rename = "type")]
    _kind: IgnoredAny,
    pub archive: Option<PathBuf>,
    pub layout: Option<PathBuf>,
    pub reference: Option<String>,
    pub tag: Option<String>,
    pub tls_verify: Option<bool>,
    pub proxy: Option<Proxy>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kernel {
    pub package: Option<String>,
    pub release: Option<String>,
    #[serde(default)]
    pub args: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct File {
    pub path: String,
    pub content: Option<String>,
    pub from: Option<PathBuf>,
    pub symlink: Option<String>,
    pub mode: Option<String>,
    pub owner: Option<String>,
    pub group: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Group {
    pub name: String,
    pub gid: Option<u32>,
    #[serde(default)]
    pub system: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct User {
    pub name: String,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub group: Option<String>,
    #[serde(default)]
    pub groups: Vec<String>,
    pub home: Option<String>,
    pub shell: Option<String>,
    pub password_hash: Option<String>,
    #[serde(default)]
    pub ssh_keys: Vec<String>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Services {
    #[serde(default)]
    pub presets: bool,
    #[serde(default)]
    pub enable: Vec<String>,
    #[serde(default)]
    pub disable: Vec<String>,
    #[serde(default)]
    pub mask: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Script {
    pub name: String,
    pub run: Option<String>,
    pub path: Option<PathBuf>,
    #[serde(default)]
    pub network: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Check {
    pub name: String,
    pub run: Option<String>,
    pub path: Option<PathBuf>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Exclude {
    #[serde(default)]
    pub sets: BTreeSet<ExcludeSet>,
    #[serde(default)]
    pub paths: Vec<String>,
    #[serde(default)]
    pub keep: Vec<String>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Boot {
    pub mode: Option<Mode>,
    pub root: Option<RootKind>,
    #[serde(default)]
    pub rollback_index: u64,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Initramfs {
    pub microcode: Option<bool>,
    pub modules: Option<ModuleSpec>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Selinux {
    pub policy: Option<String>,
}

/// The modes that a recipe chooses from. An image of a busybox source is failsafe unless it is for discovery.
#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    Carried,
    Fetched,
    Discover,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RootKind {
    Tmpfs,
    Squashfs,
    Erofs,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scriptlets {
    #[serde(default)]
    pub allow_failure: BTreeSet<String>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Compression {
    pub format: Option<Format>,
    pub level: Option<u32>,
    pub x86_filter: Option<bool>,
    pub chunk: Option<Size>,
}

/// A number of bytes with an optional K, M, G or T: `16M`.
#[derive(Clone, Copy, Deserialize)]
#[serde(try_from = "String")]
pub struct Size(pub u64);

impl TryFrom<String> for Size {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let size = text.parse().map_err(|expected| format!("'{text}' is not a size: {expected}"));
        size.map(|ByteSize(bytes)| Self(bytes))
    }
}

fn yes() -> bool {
    true
}
