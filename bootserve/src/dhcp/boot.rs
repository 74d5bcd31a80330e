//! What a machine is told about booting: the decision, as DHCP can say it.

use std::fmt;

use bootspec::MacAddr;
use tracing::warn;

use super::request::Request;
use crate::arch::Platform;
use crate::config::Config;
use crate::http;
use crate::nbp::NbpSet;
use crate::policy::{BootDecision, Machine, decide};

/// What a reply says about booting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BootOptions {
    /// Nothing: the client is an operating system, or there is nothing to boot.
    None,
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
            Self::None => f.write_str("nothing"),
            Self::Tftp(name) => write!(f, "nbp {name}"),
            Self::Http(url) => write!(f, "nbp {url}"),
            Self::Ipxe(_) => f.write_str("ipxe-script"),
        }
    }
}

/// What the machine that sent `request` is told. Where there is nothing for it, the log says why.
pub fn boot_options(config: &Config, nbps: &NbpSet, request: &Request) -> BootOptions {
    let mac = request.mac;
    match decide(config, &Machine { mac, stage: request.stage }) {
        BootDecision::NbpByTftp(platform) => match nbps.for_platform(platform) {
            Some(name) => BootOptions::Tftp(name.to_owned()),
            None => no_program(mac, platform),
        },
        BootDecision::NbpByHttp(platform) => match nbps.for_platform(platform) {
            Some(name) => BootOptions::Http(http::nbp_url(config, name)),
            None => no_program(mac, platform),
        },
        BootDecision::FetchScript => BootOptions::Ipxe(http::script_url(config, mac)),
        BootDecision::NextDevice(reason) => {
            warn!(%mac, %reason, "nothing to boot");
            BootOptions::None
        }
        BootDecision::Boot(_) | BootDecision::NotBooting => BootOptions::None,
    }
}

fn no_program(mac: MacAddr, platform: Platform) -> BootOptions {
    let hint = "install the ipxe package or set nbp.dirs";
    warn!(%mac, %platform, hint, "no network boot program for this machine");
    BootOptions::None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_says_in_words_what_is_offered() {
        let check = |boot: BootOptions, expected| assert_eq!(boot.to_string(), expected);
        check(BootOptions::None, "nothing");
        check(BootOptions::Tftp("undionly.kpxe".into()), "nbp undionly.kpxe");
        check(BootOptions::Http("http://h/nbp/ipxe.efi".into()), "nbp http://h/nbp/ipxe.efi");
        check(BootOptions::Ipxe("http://h/ipxe".into()), "ipxe-script");
    }
}
