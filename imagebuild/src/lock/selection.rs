//! What of a recipe decides which packages its images have. A lock is for one such selection, and refused with another.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::recipe::{Dnf, Location, Mmdebstrap, PackageSource, Recipe, Repository, Source};

/// The values of a recipe by their keys. Left out is what only says whom to trust and which way packages come:
/// keys, keyrings and proxies.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Selection(BTreeMap<String, Vec<String>>);

impl Selection {
    /// That of `recipe` on this machine.
    pub fn of(recipe: &Recipe) -> Self {
        let mut selection = Self::default();
        let packages: BTreeSet<_> = recipe.packages.iter().cloned().collect();
        selection.set("packages", packages);
        selection.set("kernel.package", recipe.kernel.package.clone());
        selection.set("architecture", [recipe.machine()]);
        match &recipe.source {
            Source::Mmdebstrap(source) => selection.set_mmdebstrap("source", source),
            Source::Dnf(source) => selection.set_dnf("source", source),
            Source::Busybox(from) => {
                selection.set("source.type", ["busybox".to_owned()]);
                match from {
                    PackageSource::Mmdebstrap(source) => selection.set_mmdebstrap("source.from", source),
                    PackageSource::Dnf(source) => selection.set_dnf("source.from", source),
                }
            }
            // No lock is ever made for one; so this differs from all.
            Source::Existing(_) => selection.set("source.type", ["a root that exists already".to_owned()]),
        }
        selection
    }

    fn set(&mut self, key: &str, values: impl IntoIterator<Item = String>) {
        self.0.insert(key.to_owned(), values.into_iter().collect());
    }

    fn set_mmdebstrap(&mut self, key: &str, source: &Mmdebstrap) {
        let Mmdebstrap { suite, mirrors, components, keyrings: _, variant, proxy: _ } = source;
        self.set(&format!("{key}.type"), ["mmdebstrap".to_owned()]);
        self.set(&format!("{key}.suite"), [suite.clone()]);
        self.set(&format!("{key}.mirrors"), mirrors.clone());
        self.set(&format!("{key}.components"), components.clone());
        self.set(&format!("{key}.variant"), [variant.clone()]);
    }

    fn set_dnf(&mut self, key: &str, source: &Dnf) {
        let Dnf {
            releasever,
            repositories,
            module_platform_id,
            modules,
            groups,
            vars,
            weak_deps,
            excludes,
            proxy: _,
        } = source;
        self.set(&format!("{key}.type"), ["dnf".to_owned()]);
        self.set(&format!("{key}.releasever"), [releasever.clone()]);
        self.set(&format!("{key}.repository"), repositories.iter().map(describe_repository));
        self.set(&format!("{key}.module_platform_id"), module_platform_id.clone());
        self.set(&format!("{key}.modules"), modules.clone());
        self.set(&format!("{key}.groups"), groups.clone());
        self.set(&format!("{key}.vars"), vars.iter().map(|(name, value)| format!("{name}={value}")));
        self.set(&format!("{key}.weak_deps"), [weak_deps.to_string()]);
        self.set(&format!("{key}.excludes"), excludes.clone());
    }

    /// What this one has otherwise than `locked`, a line for each key.
    pub fn differences(&self, locked: &Self) -> Vec<String> {
        let keys: BTreeSet<_> = self.0.keys().chain(locked.0.keys()).collect();
        keys.into_iter().filter_map(|key| difference(key, self.0.get(key), locked.0.get(key))).collect()
    }
}

/// What of a list is new, and what is gone; if that is nothing, it has another order.
fn difference(key: &str, now: Option<&Vec<String>>, locked: Option<&Vec<String>>) -> Option<String> {
    if now == locked {
        return None;
    }
    let (now, locked) = (now.map_or(&[][..], Vec::as_slice), locked.map_or(&[][..], Vec::as_slice));
    let only_in = |one: &[String], other: &[String]| {
        let only: Vec<_> = one.iter().filter(|value| !other.contains(value)).map(String::as_str).collect();
        (!only.is_empty()).then(|| only.join(", "))
    };
    let parts = [("recipe", only_in(now, locked)), ("lock", only_in(locked, now))];
    let parts: Vec<_> =
        parts.into_iter().filter_map(|(of, only)| Some(format!("only the {of} has {}", only?))).collect();
    let text = if parts.is_empty() { "in another order".to_owned() } else { parts.join("; ") };
    Some(format!("  {key}: {text}"))
}

fn describe_repository(repository: &Repository) -> String {
    let location = match &repository.location {
        Location::BaseUrl(url) => format!("baseurl {url}"),
        Location::Metalink(url) => format!("metalink {url}"),
        Location::MirrorList(url) => format!("mirrorlist {url}"),
    };
    let mut text = format!("{}: {location}", repository.name);
    if let Some(priority) = repository.priority {
        text += &format!(", priority {priority}");
    }
    for (key, packages) in [("excludes", &repository.excludes), ("includes", &repository.includes)] {
        if !packages.is_empty() {
            text += &format!(", {key} {}", packages.join(" "));
        }
    }
    if repository.module_hotfixes {
        text += ", module_hotfixes";
    }
    text
}
