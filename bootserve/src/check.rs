//! `bootserve check`: everything that can be known about a configuration before it serves.
//!
//! An error keeps bootserve from starting or a configured machine from booting; a warning may be a matter of order,
//! such as an image that is not built yet.

use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;

use serde::Serialize;

use crate::arch::Platform;
use crate::config::Config;
use crate::nbp::NbpSet;
use crate::privileges::find_user;
use crate::sockets::mtu_bytes;
use crate::store::{read_manifest, resolve};
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
            findings.check_interface(&config);
            findings.check_user(&config);
            findings.check_nbps(&config);
            findings.check_images(&config).await;
        }
        Err(error) => findings.add(Severity::Error, &error),
    }
    findings.ok = findings.findings.iter().all(|finding| finding.severity != Severity::Error);
    findings
}

impl Findings {
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

    fn check_nbps(&mut self, config: &Config) {
        let nbps = match NbpSet::read(&config.nbp_dirs) {
            Ok(nbps) => nbps,
            Err(error) => return self.add(Severity::Error, &error),
        };
        for (platform, machines) in
            [(Platform::BiosX86, "BIOS machines"), (Platform::EfiX86_64, "UEFI x86-64 machines")]
        {
            if nbps.for_platform(platform).is_none() {
                let message = format!(
                    "there is no network boot program for {machines} in {:?}\nhint: install the ipxe package or set nbp.dirs",
                    config.nbp_dirs
                );
                self.findings.push(Finding { severity: Severity::Warning, message });
            }
        }
    }

    async fn check_images(&mut self, config: &Config) {
        let store = &config.server.store;
        let selectors = config.nodes().iter().map(|node| &node.image).chain(&config.boot.default_image);
        let mut seen = BTreeSet::new();
        for selector in selectors.filter(|selector| seen.insert(selector.to_string())) {
            let manifest = match resolve(store, selector).await {
                Ok(image) => read_manifest(store, &image).await,
                Err(error) => Err(error),
            };
            if let Err(error) = manifest {
                self.add(Severity::Warning, &error);
            }
        }
    }

    fn add(&mut self, severity: Severity, error: &dyn std::error::Error) {
        self.findings.push(Finding { severity, message: explain(error) });
    }
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
