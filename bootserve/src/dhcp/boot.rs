//! What a machine is told about booting: the decision, as DHCP can say it.

use std::fmt;

use tracing::warn;

use super::client::Client;
use crate::arch::Platform;
use crate::config::Config;
use crate::http;
use crate::nbp::{INSTALL_HINT, NbpSet};
use crate::policy::{BootDecision, Machine, Reason, decide};

/// What a reply says about booting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BootOptions {
    /// Nothing.
    Nothing(Nothing),
    /// To PXE firmware: this file by TFTP.
    Tftp(String),
    /// To UEFI HTTP Boot firmware: this URL.
    Http(String),
    /// To iPXE: the URL of its script.
    Ipxe(String),
}

impl fmt::Display for BootOptions {
    /// As the log says it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing(_) => f.write_str("nothing"),
            Self::Tftp(name) => write!(f, "nbp {name}"),
            Self::Http(url) => write!(f, "nbp {url}"),
            Self::Ipxe(_) => f.write_str("ipxe-script"),
        }
    }
}

impl BootOptions {
    /// With the reason if it is nothing.
    pub fn explained(&self) -> String {
        match self {
            Self::Nothing(reason) => format!("nothing: {reason}"),
            Self::Ipxe(url) => format!("its script, {url}"),
            other => other.to_string(),
        }
    }
}

/// Why a reply says nothing about booting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Nothing {
    /// An operating system asks.
    #[error("it did not ask for anything to boot")]
    NotBooting,
    /// iPXE for it is not installed.
    #[error("there is no network boot program for {0}\nhint: {INSTALL_HINT}")]
    NoProgram(Platform),
    /// The decision.
    #[error(transparent)]
    Decided(#[from] Reason),
}

/// What `client` is told. Where there is nothing for it though it wants to boot, the log says why.
pub fn boot_options(config: &Config, nbps: &NbpSet, client: &Client) -> BootOptions {
    let mac = client.mac();
    let program = |platform| nbps.for_platform(platform).ok_or(Nothing::NoProgram(platform));
    let found = match decide(config, &Machine { mac, stage: client.request.stage }) {
        BootDecision::NbpByTftp(platform) => program(platform).map(|name| BootOptions::Tftp(name.to_owned())),
        BootDecision::NbpByHttp(platform) => {
            program(platform).map(|name| BootOptions::Http(http::nbp_url(config, name)))
        }
        BootDecision::FetchScript => Ok(BootOptions::Ipxe(http::script_url(&config.base_url(), mac))),
        BootDecision::FetchFirstScript => Ok(BootOptions::Ipxe(http::first_script_url(&config.base_url()))),
        BootDecision::NextDevice(reason) => Err(reason.into()),
        BootDecision::Boot(_)
        | BootDecision::LocalDisk
        | BootDecision::LookUp(_)
        | BootDecision::NotBooting => Err(Nothing::NotBooting),
    };
    found.unwrap_or_else(|reason| {
        match reason {
            Nothing::NotBooting => {}
            Nothing::NoProgram(platform) => {
                warn!(%mac, %platform, hint = INSTALL_HINT, "no network boot program for this machine");
            }
            Nothing::Decided(reason) => warn!(%mac, %reason, "nothing to boot"),
        }
        BootOptions::Nothing(reason)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_says_in_words_what_is_offered() {
        let check = |boot: BootOptions, expected| assert_eq!(boot.to_string(), expected);
        check(BootOptions::Nothing(Nothing::NotBooting), "nothing");
        check(BootOptions::Tftp("undionly.kpxe".into()), "nbp undionly.kpxe");
        check(BootOptions::Http("http://h/nbp/ipxe.efi".into()), "nbp http://h/nbp/ipxe.efi");
        check(BootOptions::Ipxe("http://h/ipxe".into()), "ipxe-script");
    }
}
