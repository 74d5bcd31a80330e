//! `bootserve check`: everything that can be known about a configuration before it serves.
//!
//! An error keeps bootserve from starting or a configured machine from booting; a warning may be a matter of order,
//! such as an image that is not built yet.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::{fmt, fs, io};

use bootspec::initramfs::MAX_OVERLAY_BYTES;
use bootspec::store::{MANIFEST_SIGNATURE, SIGNATURE_SUFFIX};
use serde::Serialize;

use crate::arch::Platform;
use crate::compat::Site;
use crate::config::{Config, ConfigError, Node, SecretsProblem};
use crate::edits::store::stored_edits;
use crate::http::tls::Certificate;
use crate::nbp::{INSTALL_HINT, NbpSet};
use crate::overlay::documents::{self, Document, NoCloudFile};
use crate::overlay::layers::{Layers, Placed};
use crate::overlay::{self, OverlayError, OverlayName, Overlays};
use crate::policy::{Assignment, initramfs};
use crate::power::password::{Password, PasswordError};
use crate::privileges::find_user;
use crate::sockets::mtu_bytes;
use crate::store::{resolve, selected_manifest};
use bootspec::diagnosis::explain;

/// What was found, in the order of the checks.
#[derive(Debug, Default, Serialize)]
pub struct Findings {
    /// Whether there is no error.
    pub ok: bool,
    /// Each finding.
    pub findings: Vec<Finding>,
}

/// One finding.
#[derive(Debug, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// What it is, and a remedy.
    pub message: String,
}

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// bootserve would not serve.
    Error,
    /// Some machine would not boot.
    Warning,
}

/// Checks the configuration file at `path` and what it refers to. Binds nothing and writes nothing.
pub async fn check(path: &Path) -> Findings {
    let mut findings = Findings::default();
    match Config::read(path) {
        Ok(config) => {
            let config = findings.with_edits(config).await;
            findings.check_interface(&config);
            findings.check_user(&config);
            findings.check_tls(&config);
            findings.check_nbps(&config);
            findings.check_images(&config);
            findings.check_overlays(&config);
            findings.check_bmcs(&config);
            findings.check_rendering(&config);
            findings.check_secrets(&config);
            findings.check_compat(&config);
        }
        Err(error) => findings.add(Severity::Error, &error),
    }
    findings.ok = findings.findings.iter().all(|finding| finding.severity != Severity::Error);
    findings
}

impl Findings {
    /// The configuration with what `bootserve node` has changed, as far as that can be used.
    async fn with_edits(&mut self, config: Config) -> Config {
        let edits = match stored_edits(&config.server.state).await {
            Ok(edits) => edits,
            Err(error) => {
                self.add(Severity::Warning, &error);
                return config;
            }
        };
        match config.with_edits(edits) {
            Ok(edited) => {
                for node in edited.inventory.gone() {
                    let message = format!(
                        "node {node} was changed by bootserve node and stands in no file any more\n\
                         hint: it is left out until a file has it again"
                    );
                    self.findings.push(Finding { severity: Severity::Warning, message });
                }
                edited
            }
            Err(error) => {
                self.add(Severity::Error, &error);
                config
            }
        }
    }

    /// The configuration may be checked on another machine than the one that serves.
    fn check_interface(&mut self, config: &Config) {
        if let Err(error) = mtu_bytes(&config.server.interface) {
            self.add(Severity::Warning, &error);
        }
    }

    fn check_user(&mut self, config: &Config) {
        if let Some(Err(error)) = config.server.user.as_deref().map(find_user) {
            self.add(Severity::Error, &error);
        }
    }

    /// The key may be for root alone, and the check be anyone's.
    fn check_tls(&mut self, config: &Config) {
        if let Some(Err(error)) = config.tls.as_ref().map(Certificate::read) {
            let severity = if error.is_permission() { Severity::Warning } else { Severity::Error };
            self.add(severity, &error);
        }
    }

    fn check_nbps(&mut self, config: &Config) {
        let nbps = match NbpSet::read(&config.nbp_dirs) {
            Ok(nbps) => nbps,
            Err(error) => return self.add(Severity::Error, &error),
        };
        for (platform, machines) in
            [(Platform::BiosX86, "BIOS machines"), (Platform::EfiX86_64, "UEFI x86-64 machines")]
        {
            if nbps.for_platform(platform).is_none() {
                self.warn(format!(
                    "there is no network boot program for {machines} in {:?}\nhint: {INSTALL_HINT}",
                    config.nbp_dirs
                ));
            }
        }
    }

    /// What each machine boots, each combination of image and mode once.
    fn check_images(&mut self, config: &Config) {
        let nodes = config.nodes().iter().map(|node| Assignment { image: &node.image, node: Some(node) });
        let made = config.policies.policies.iter().filter_map(|policy| policy.example.as_deref());
        let made = made.map(|node| Assignment { image: &node.image, node: Some(node) });
        let strangers = config.boot.default_image.iter().map(|image| Assignment { image, node: None });
        let mut seen = BTreeSet::new();
        for assignment in nodes.chain(made).chain(strangers) {
            let mode = assignment.node.and_then(|node| node.params.mode);
            let has_secrets = assignment.node.is_some_and(|node| !node.secrets.is_empty());
            if seen.insert((assignment.image.to_string(), mode.map(|mode| mode.to_string()), has_secrets))
                && let Err(error) = check_image(config, assignment)
            {
                self.add(Severity::Warning, &*error);
            }
        }
    }

    fn check_overlays(&mut self, config: &Config) {
        let Some(dir) = &config.server.overlays else { return };
        if let Err(error) = overlay_findings(config, dir).map(|findings| self.findings.extend(findings)) {
            self.warn(format!("cannot read server.overlays {}: {error}", dir.display()));
        }
    }

    /// Each password once. It may be for root alone, and the check be anyone's.
    fn check_bmcs(&mut self, config: &Config) {
        let bmcs = config.nodes().iter().filter_map(|node| node.bmc.as_ref());
        for file in bmcs.map(|bmc| &bmc.password_file).collect::<BTreeSet<_>>() {
            match Password::read(file) {
                Err(PasswordError::Read { source, .. })
                    if source.kind() == io::ErrorKind::PermissionDenied => {}
                Err(error) => self.add(Severity::Warning, &error),
                Ok(_) => {}
            }
        }
    }

    /// What each node is given of its own; what is wrong for many nodes is said once.
    fn check_rendering(&mut self, config: &Config) {
        if config.server.overlays.is_none() {
            return;
        }
        let overlays = Overlays::new(Arc::new(config.clone()));
        let mut problems: BTreeMap<String, (String, usize)> = BTreeMap::new();
        for node in config.nodes() {
            for error in rendering_problems(&overlays, node) {
                let name = node.name.as_str();
                let alike = error.replace(&format!("node {name}"), "node");
                problems.entry(alike).or_insert((error, 0)).1 += 1;
            }
        }
        for (message, nodes) in problems.into_values() {
            self.warn(match nodes {
                1 => message,
                _ => format!("{message}\nthe same for {} more nodes", nodes - 1),
            });
        }
    }

    /// What is a secret of some nodes and sent to others as it is.
    fn check_secrets(&mut self, config: &Config) {
        let secrets: BTreeSet<_> = config.nodes().iter().flat_map(|node| &node.secrets).collect();
        for secret in secrets {
            if let Some(node) = config.nodes().iter().find(|node| node.overlays.contains(secret)) {
                self.warn(format!(
                    "the overlay {secret} is a secret of some nodes, and node {} has it in overlays, which are sent without TLS\n\
                     hint: name it in secrets for all of them",
                    node.name
                ));
            }
        }
    }

    fn check_compat(&mut self, config: &Config) {
        match config.compat.as_ref().map(Site::problems) {
            Some(Ok(problems)) => problems.into_iter().for_each(|problem| self.warn(problem)),
            Some(Err(error)) => self.add(Severity::Warning, &error),
            None => {}
        }
    }

    fn warn(&mut self, message: String) {
        self.findings.push(Finding { severity: Severity::Warning, message });
    }

    fn add(&mut self, severity: Severity, error: &dyn Error) {
        self.findings.push(Finding { severity, message: explain(error) });
    }
}

/// Whether a machine could boot its image now.
fn check_image(config: &Config, assignment: Assignment<'_>) -> Result<(), Box<dyn Error>> {
    let store = &config.server.store;
    let manifest = selected_manifest(store, assignment.image)?;
    let mode = assignment.mode(&manifest);
    initramfs(&manifest, mode)?;
    if let Some(node) = assignment.node.filter(|node| !node.secrets.is_empty())
        && let Some(source) = SecretsProblem::of_mode(mode)
    {
        return Err(ConfigError::Secrets { node: node.name.clone(), source }.into());
    }
    match config.boot.min_rollback_index {
        Some(least) if manifest.rollback_index < least => Err(format!(
            "image {} has rollback index {}, and init refuses those below boot.min_rollback_index = {least}",
            manifest.image, manifest.rollback_index
        )
        .into()),
        _ => Ok(()),
    }
}

/// What `node` cannot be given.
fn rendering_problems(overlays: &Overlays, node: &Node) -> Vec<String> {
    let nocloud = NoCloudFile::ALL.into_iter().map(Document::NoCloud);
    let texts = nocloud.chain(overlays.templates().into_iter().map(Document::Template));
    let texts = texts.filter_map(|text| overlays.document(node, &text).err());
    let mut problems: Vec<_> = texts.map(|error| explain(&error).to_string()).collect();
    for list in [&node.overlays, &node.secrets] {
        problems.extend(overlays.layers(node, list).iter().flat_map(|layers| wrong_modes(layers, node)));
    }
    match overlays.secrets(node) {
        Ok(secrets)
            if !node.secrets.is_empty()
                && secrets.signature.is_none()
                && is_signed(overlays.config(), node) =>
        {
            problems.push(format!(
                "nothing signs the secrets of node {}, and its image {} is signed\nhint: if its initramfs has keys, name one in \
                 server.overlay_key: docs/overlays.md",
                node.name, node.image
            ));
        }
        Ok(_) => {}
        Err(error) => problems.push(explain(&error).to_string()),
    }
    match overlays.open(node) {
        Ok(Some(overlay)) if overlay.signature.is_none() && is_signed(overlays.config(), node) => {
            problems.push(format!(
                "the overlay of node {} is not signed, and its image {} is\nhint: if its initramfs has keys, name one in server.overlay_key, \
                 or sign the overlay: docs/overlays.md",
                node.name, node.image
            ));
        }
        Ok(_) => {}
        // Of files that are not made of overlays, the check of the directory tells.
        Err(OverlayError::Read { .. } | OverlayError::NotAFile { .. } | OverlayError::TooLarge { .. })
            if node.overlays.is_empty() => {}
        Err(error) => problems.push(explain(&error).to_string()),
    }
    problems
}

/// Directories that every image has, with another mode than programs count on.
fn wrong_modes(layers: &Layers, node: &Node) -> Vec<String> {
    let is_wrong = |path: &str, mode: u32| match path {
        "tmp" | "var/tmp" => mode != 0o1777,
        "root" => mode & 0o007 != 0,
        _ => false,
    };
    let wrong = layers.iter().filter(|(path, placed)| is_wrong(path, placed.entry.mode));
    let wrong = wrong.map(|(path, Placed { overlay, entry })| {
        format!(
            "the overlay {overlay} gives /{path} of node {} the mode {:04o}\nhint: chmod it, or say another in overlay.toml",
            node.name, entry.mode
        )
    });
    wrong.collect()
}

/// Whether the image that `node` boots has a signature.
fn is_signed(config: &Config, node: &Node) -> bool {
    let store = &config.server.store;
    resolve(store, &node.image).is_ok_and(|image| image.dir(store).join(MANIFEST_SIGNATURE).exists())
}

/// What is wrong with the files in the directory of overlays, by name.
fn overlay_findings(config: &Config, dir: &Path) -> io::Result<Vec<Finding>> {
    let mut paths =
        fs::read_dir(dir)?.map(|entry| entry.map(|entry| entry.path())).collect::<io::Result<Vec<_>>>()?;
    paths.sort();
    let warning = |message| Finding { severity: Severity::Warning, message };
    Ok(paths.iter().flat_map(|path| overlay_problems(config, path)).map(warning).collect())
}

fn overlay_problems(config: &Config, path: &Path) -> Vec<String> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let Some(node) = overlay::node_of(&name) else {
        let is_overlay = name.parse::<OverlayName>().is_ok() || documents::DIRECTORIES.contains(&&*name);
        return match is_overlay && path.is_dir() {
            true => Vec::new(),
            false => vec![format!(
                "{} is no overlay: expected a directory, NODE.tar or NODE.tar.minisig",
                path.display()
            )],
        };
    };
    let mut problems = Vec::new();
    if config.node_named(node.as_str()).is_none() {
        problems.push(format!("is of {node}, and there is no such node"));
    }
    let is_signature = name.ends_with(SIGNATURE_SUFFIX);
    if is_signature && !path.with_extension("").exists() {
        problems.push(format!("signs {node}.tar, which is not there"));
    }
    match fs::metadata(path) {
        Ok(file) => {
            // Signatures are no secret.
            if file.mode() & 0o004 != 0 && !is_signature {
                problems.push(
                    "can be read by every user\nhint: chgrp it to the group of server.user, chmod 640"
                        .to_owned(),
                );
            }
            if file.len() > MAX_OVERLAY_BYTES {
                problems.push(format!("has {} bytes, at most {} are sent", file.len(), MAX_OVERLAY_BYTES));
            }
        }
        Err(error) => problems.push(format!("cannot be read: {error}")),
    }
    problems.into_iter().map(|problem| format!("{} {problem}", path.display())).collect()
}

impl fmt::Display for Findings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for finding in &self.findings {
            let severity = match finding.severity {
                Severity::Error => "error",
                Severity::Warning => "warning",
            };
            writeln!(f, "{severity}: {}", finding.message)?;
        }
        f.write_str(if self.ok { "the configuration is valid" } else { "the configuration cannot be used" })
    }
}
