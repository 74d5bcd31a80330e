//! CoreOS matchbox: `groups/*.json` say which of `profiles/*.json` is for a machine, by its labels; a profile says what to boot
//! and which templates of `ignition/`, `cloud/` and `generic/` are its configs.

pub mod group;
mod metadata;
pub mod template;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use bootspec::diagnosis::explain;
use serde::Deserialize;
use tracing::warn;

use self::group::{Group, select};
use self::metadata::{environment, variables};
use super::bootcfg::null_is_none;
use super::data_dir::file_name;
use super::pixiecore::Answer;
use super::{CompatError, DataDir, Found, Labels, read_json};

/// A file of `profiles/`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Profile {
    id: String,
    #[serde(deserialize_with = "null_is_none")]
    boot: Boot,
    #[serde(deserialize_with = "null_is_none")]
    ignition_id: String,
    #[serde(deserialize_with = "null_is_none")]
    cloud_id: String,
    #[serde(deserialize_with = "null_is_none")]
    generic_id: String,
}

/// What to boot.
#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
struct Boot {
    #[serde(deserialize_with = "null_is_none")]
    kernel: String,
    #[serde(deserialize_with = "null_is_none")]
    initrd: Vec<String>,
    #[serde(deserialize_with = "null_is_none")]
    args: Vec<String>,
}

/// What a machine can ask for besides its boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resource {
    /// `/ipxe`: only its signature is asked for here.
    Ipxe,
    /// `/grub`
    Grub,
    /// `/ignition`
    Ignition,
    /// `/cloud`
    Cloud,
    /// `/generic`
    Generic,
    /// `/metadata`
    Metadata,
}

/// What the machine boots.
pub fn boot(dir: &DataDir, labels: &Labels) -> Result<Option<Found>, CompatError> {
    let Some(group) = group_of(dir, labels)? else { return Ok(None) };
    let Profile { boot, .. } = profile_of(dir, &group)?;
    let rule = format!("matchbox group {}, profile {}", group.id, group.profile);
    let script = boot.script();
    let Boot { kernel, initrd, args } = boot;
    let json = Answer { kernel: kernel.clone(), initrd, cmdline: args.join(" ") }.json();
    Ok(Some(Found { rule, kernel, script, json }))
}

/// The config of the machine; none if no group is for it or the profile names none.
pub fn config(dir: &DataDir, resource: Resource, labels: &Labels) -> Result<Option<Vec<u8>>, CompatError> {
    let Some(group) = group_of(dir, labels)? else { return Ok(None) };
    let profile = || profile_of(dir, &group);
    match resource {
        Resource::Metadata => Ok(Some(environment(&group, labels).into_bytes())),
        Resource::Ipxe => Ok(Some(profile()?.boot.script().into_bytes())),
        Resource::Grub => Ok(Some(profile()?.boot.grub().into_bytes())),
        Resource::Ignition => {
            let id = profile()?.ignition_id;
            let Some((path, config)) = read_config(dir, "ignition", &id)? else { return Ok(None) };
            let is_template = !id.ends_with(".ign") && !id.ends_with(".ignition");
            let config = if is_template { render(&path, &config, &group, labels)? } else { config };
            match serde_json::from_slice::<serde::de::IgnoredAny>(&config) {
                Ok(_) => Ok(Some(config)),
                Err(source) => Err(CompatError::NotIgnition { path, source }),
            }
        }
        Resource::Cloud => rendered(dir, "cloud", &profile()?.cloud_id, &group, labels),
        Resource::Generic => rendered(dir, "generic", &profile()?.generic_id, &group, labels),
    }
}

/// The signature with this `suffix`, `.sig` or `.asc`, that lies beside what [`config`] makes its answer of.
pub fn signature(
    dir: &DataDir,
    resource: Resource,
    suffix: &str,
    labels: &Labels,
) -> Result<Option<Vec<u8>>, CompatError> {
    let Some(group) = group_of(dir, labels)? else { return Ok(None) };
    let profile = || profile_of(dir, &group);
    let beside = |kind: &str, id: &str| file_name(id).map(|id| format!("{kind}/{id}"));
    let of = match resource {
        Resource::Metadata => beside("groups", &format!("{}.metadata", group.id)),
        Resource::Ipxe => beside("profiles", &format!("{}.ipxe", group.profile)),
        Resource::Grub => beside("profiles", &format!("{}.grub", group.profile)),
        Resource::Ignition => beside("ignition", &profile()?.ignition_id),
        Resource::Cloud => beside("cloud", &profile()?.cloud_id),
        Resource::Generic => beside("generic", &profile()?.generic_id),
    };
    match of {
        Some(of) => Ok(dir.read(Path::new(&format!("{of}{suffix}")))?),
        None => Ok(None),
    }
}

/// The group of the machine. A file that is no group is none, as if it were not there.
fn group_of(dir: &DataDir, labels: &Labels) -> Result<Option<Group>, CompatError> {
    let mut groups = Vec::new();
    for (path, group) in read_groups(dir)? {
        match group {
            Ok(group) => groups.push(group),
            Err(source) => {
                let error = CompatError::Json { path, source };
                warn!(error = &error as &dyn std::error::Error, "a group of matchbox is left out");
            }
        }
    }
    Ok(select(groups, labels))
}

type ReadGroup = (PathBuf, Result<Group, serde_json::Error>);

fn read_groups(dir: &DataDir) -> Result<Vec<ReadGroup>, CompatError> {
    let mut groups = Vec::new();
    for name in dir.names("groups")?.iter().filter(|name| name.ends_with(".json")) {
        let path = Path::new("groups").join(name);
        let bytes = dir.read(&path)?;
        groups.extend(bytes.map(|bytes| (dir.path().join(&path), Group::parse(&bytes))));
    }
    Ok(groups)
}

fn profile_of(dir: &DataDir, group: &Group) -> Result<Profile, CompatError> {
    let missing = || CompatError::NoProfile { group: group.id.clone(), profile: group.profile.clone() };
    let name = file_name(&group.profile).ok_or_else(missing)?;
    read_json(dir, Path::new(&format!("profiles/{name}.json")))?.ok_or_else(missing)
}

/// The file of a config and what is in it.
fn read_config(dir: &DataDir, kind: &str, id: &str) -> Result<Option<(PathBuf, Vec<u8>)>, CompatError> {
    let Some(id) = file_name(id) else { return Ok(None) };
    let path = Path::new(kind).join(id);
    Ok(dir.read(&path)?.map(|bytes| (dir.path().join(&path), bytes)))
}

fn rendered(
    dir: &DataDir,
    kind: &str,
    id: &str,
    group: &Group,
    labels: &Labels,
) -> Result<Option<Vec<u8>>, CompatError> {
    let Some((path, config)) = read_config(dir, kind, id)? else { return Ok(None) };
    render(&path, &config, group, labels).map(Some)
}

fn render(path: &Path, source: &[u8], group: &Group, labels: &Labels) -> Result<Vec<u8>, CompatError> {
    let error = |reason: String| CompatError::Template { path: path.to_owned(), reason };
    let source = std::str::from_utf8(source).map_err(|not_text| error(not_text.to_string()))?;
    let text = template::render(source, &variables(group, labels)).map_err(error)?;
    Ok(text.into_bytes())
}

impl Boot {
    fn arguments(&self) -> String {
        self.args.iter().map(|argument| format!(" {argument}")).collect()
    }

    /// One `initrd` line for each file.
    fn script(&self) -> String {
        let initrd: String = self.initrd.iter().map(|file| format!("\ninitrd {file}")).collect();
        format!("#!ipxe\nkernel {}{}{initrd}\nboot\n", self.kernel, self.arguments())
    }

    /// An entry for UEFI, and one for BIOS that GRUB falls back to.
    fn grub(&self) -> String {
        let files: String = self.initrd.iter().map(|file| format!(" \"{file}\"")).collect();
        let entry = |firmware, suffix| {
            format!(
                "menuentry \"CoreOS ({firmware})\" {{\necho \"Loading kernel\"\nlinux{suffix} \"{}\"{}\n\
                 echo \"Loading initrd\"\ninitrd{suffix} {files}\n}}\n",
                self.kernel,
                self.arguments()
            )
        };
        format!("default=0\nfallback=1\ntimeout=1\n{}{}", entry("EFI", "efi"), entry("BIOS", ""))
    }
}

/// What is wrong with the files, each in a sentence.
pub fn problems(dir: &DataDir) -> Result<Vec<String>, CompatError> {
    let mut problems = Vec::new();
    let mut named = BTreeSet::new();
    for (path, group) in read_groups(dir)? {
        match group {
            Ok(group) => {
                problems.extend(profile_of(dir, &group).err().map(|error| explain(&error)));
                named.insert(group.profile);
            }
            Err(source) => problems.push(explain(&CompatError::Json { path, source })),
        }
    }
    for name in dir.names("profiles")? {
        let Some(id) = name.strip_suffix(".json") else { continue };
        if !named.contains(id) {
            problems.push(format!("no group names {}", dir.path().join("profiles").join(&name).display()));
        }
        problems.extend(profile_problems(dir, id)?);
    }
    // One that a group names was told there.
    problems.sort();
    problems.dedup();
    Ok(problems)
}

fn profile_problems(dir: &DataDir, id: &str) -> Result<Vec<String>, CompatError> {
    let name = format!("profiles/{id}.json");
    let path = dir.path().join(&name);
    let profile = match read_json::<Profile>(dir, Path::new(&name)) {
        Ok(Some(profile)) => profile,
        Ok(None) => return Ok(vec![format!("{} is no regular file of the directory", path.display())]),
        Err(error) => return Ok(vec![explain(&error)]),
    };
    let mut problems = Vec::new();
    if profile.id != id {
        problems.push(format!("{} has the id {:?}, and groups name it as {id}", path.display(), profile.id));
    }
    let configs =
        [("ignition", &profile.ignition_id), ("cloud", &profile.cloud_id), ("generic", &profile.generic_id)];
    for (kind, config) in configs.into_iter().filter(|(_, config)| !config.is_empty()) {
        problems.extend(config_problem(dir, &path, kind, config)?);
    }
    Ok(problems)
}

fn config_problem(
    dir: &DataDir,
    profile: &Path,
    kind: &str,
    id: &str,
) -> Result<Option<String>, CompatError> {
    let Some((path, source)) = read_config(dir, kind, id)? else {
        return Ok(Some(format!("{} names {kind}/{id}, which is not there", profile.display())));
    };
    if kind == "ignition" && [".ign", ".ignition"].iter().any(|suffix| id.ends_with(suffix)) {
        let parsed = serde_json::from_slice::<serde::de::IgnoredAny>(&source);
        return Ok(parsed.err().map(|source| explain(&CompatError::Json { path, source })));
    }
    // What becomes JSON begins with a brace, be it that of an action.
    if kind == "ignition" && !source.trim_ascii_start().starts_with(b"{") {
        return Ok(Some(format!(
            "{} renders to no JSON\nhint: Container Linux Configs are not translated to Ignition here; do it beforehand, with butane",
            path.display()
        )));
    }
    let checked = std::str::from_utf8(&source).map_err(|error| error.to_string()).and_then(template::check);
    Ok(checked.err().map(|reason| explain(&CompatError::Template { path, reason })))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn boot_of(json: &str) -> Boot {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn a_script_has_a_line_for_each_file() {
        let boot =
            boot_of(r#"{"kernel": "/k", "initrd": ["/a", "--name b /b"], "args": ["x=${uuid}", "quiet"]}"#);
        assert_eq!(boot.script(), "#!ipxe\nkernel /k x=${uuid} quiet\ninitrd /a\ninitrd --name b /b\nboot\n");
        assert_eq!(boot_of("{}").script(), "#!ipxe\nkernel \nboot\n");
    }

    #[test]
    fn grub_has_an_entry_for_each_firmware() {
        let boot = boot_of(r#"{"kernel": "(http;h:8080)/k", "initrd": ["/a", "/b"], "args": ["quiet"]}"#);
        let expected = "default=0\nfallback=1\ntimeout=1\n\
            menuentry \"CoreOS (EFI)\" {\necho \"Loading kernel\"\nlinuxefi \"(http;h:8080)/k\" quiet\n\
            echo \"Loading initrd\"\ninitrdefi  \"/a\" \"/b\"\n}\n\
            menuentry \"CoreOS (BIOS)\" {\necho \"Loading kernel\"\nlinux \"(http;h:8080)/k\" quiet\n\
            echo \"Loading initrd\"\ninitrd  \"/a\" \"/b\"\n}\n";
        assert_eq!(boot.grub(), expected);
    }
}
