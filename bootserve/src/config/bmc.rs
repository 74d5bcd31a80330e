//! A node's BMC: where it is, and how it is spoken to. The address is the node's own, as its MAC is; all else may be inherited.

use std::fmt;
use std::net::Ipv6Addr;
use std::path::PathBuf;
use std::str::FromStr;

use axum::http::uri::Authority;
use serde::{Deserialize, Serialize};

/// What switches a node's power.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bmc {
    /// Where it is.
    pub address: BmcAddress,
    /// How it is spoken to.
    pub protocol: Protocol,
    /// Whom it knows.
    pub user: String,
    /// Whose first line is the password.
    pub password_file: PathBuf,
    /// Whom we believe that it is the BMC; Redfish alone.
    pub trust: Trust,
    /// The id of the node among the systems of the BMC; Redfish alone.
    pub system: Option<String>,
    /// The number of the cipher suite (IPMI 2.0, table 22-20); IPMI alone. Without one, ipmitool asks for the best.
    pub cipher_suite: Option<u8>,
}

/// The language of a BMC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// DMTF DSP0266, over HTTPS.
    #[default]
    Redfish,
    /// IPMI 2.0 over the network (RMCP+).
    Ipmi,
}

/// Which certificates a BMC may show.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Trust {
    /// Those of the authorities that the system trusts.
    System,
    /// Those of the authorities in this PEM file, or the certificate in it.
    Authorities(PathBuf),
    /// Any: whoever stands between us and the BMC learns the password.
    Any,
}

/// A host with a port or without: `10.1.9.4`, `bmc-004.example:8443`, `[fd00::4]:623`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct BmcAddress {
    /// A name or an address; IPv6 addresses have no brackets.
    pub host: String,
    /// None is the protocol's.
    pub port: Option<u16>,
}

/// What is said of a BMC does not do.
#[derive(Debug, thiserror::Error)]
pub enum BmcError {
    /// A key is not there.
    #[error(
        "has an address and no {0}\nhint: bmc = {{ {0} = … }} in the node's table, in a profile of its, or in [defaults] of the inventory"
    )]
    Missing(&'static str),
    /// A path that depends on where the command is run.
    #[error("has bmc.{key} = \"{}\": expected an absolute path", path.display())]
    Relative {
        /// Which key.
        key: &'static str,
        /// What it says.
        path: PathBuf,
    },
    /// A certificate is to be checked and not to be checked.
    #[error("has bmc.ca and verify_tls = false\nhint: leave one of them out")]
    Trust,
}

/// An address cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not the address of a BMC: expected HOST or HOST:PORT")]
pub struct ParseBmcAddressError(String);

/// The settings as they stand in a file; what is missing may stand in another layer.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Wire {
    #[serde(skip_serializing_if = "Option::is_none")]
    protocol: Option<Protocol>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    password_file: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    verify_tls: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ca: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    system: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cipher_suite: Option<u8>,
}

impl Wire {
    /// The BMC with these settings at `address`.
    pub(super) fn at(self, address: BmcAddress) -> Result<Bmc, BmcError> {
        for (key, path) in [("password_file", &self.password_file), ("ca", &self.ca)] {
            if let Some(path) = path.as_ref().filter(|path| !path.is_absolute()) {
                return Err(BmcError::Relative { key, path: path.clone() });
            }
        }
        let trust = match (self.verify_tls.unwrap_or(true), self.ca) {
            (true, None) => Trust::System,
            (true, Some(file)) => Trust::Authorities(file),
            (false, None) => Trust::Any,
            (false, Some(_)) => return Err(BmcError::Trust),
        };
        Ok(Bmc {
            address,
            protocol: self.protocol.unwrap_or_default(),
            user: self.user.ok_or(BmcError::Missing("user"))?,
            password_file: self.password_file.ok_or(BmcError::Missing("password_file"))?,
            trust,
            system: self.system,
            cipher_suite: self.cipher_suite,
        })
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Redfish => "Redfish",
            Self::Ipmi => "IPMI",
        })
    }
}

impl FromStr for BmcAddress {
    type Err = ParseBmcAddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.parse::<Ipv6Addr>().is_ok() {
            return Ok(Self { host: text.to_owned(), port: None });
        }
        let problem = || ParseBmcAddressError(text.to_owned());
        let authority: Authority = text.parse().map_err(|_| problem())?;
        let host = authority.host();
        let inner = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let is_host = match inner {
            Some(inner) => inner.parse::<Ipv6Addr>().is_ok(),
            // ipmitool must not take it for an option.
            None => {
                host.starts_with(|first: char| first.is_ascii_alphanumeric())
                    && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte))
            }
        };
        let behind = text.strip_prefix(host).ok_or_else(problem)?;
        let port = match behind.strip_prefix(':') {
            Some(port) => Some(port.parse().map_err(|_| problem())?),
            None => None,
        };
        if !is_host || (port.is_none() && !behind.is_empty()) {
            return Err(problem());
        }
        Ok(Self { host: inner.unwrap_or(host).to_owned(), port })
    }
}

impl fmt::Display for BmcAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]", self.host)?,
            false => f.write_str(&self.host)?,
        }
        self.port.iter().try_for_each(|port| write!(f, ":{port}"))
    }
}

#[cfg(test)]
mod tests {
    use super::super::Config;
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn addresses_are_hosts_with_and_without_ports() {
        for (text, host, port, shown) in [
            ("10.1.9.4", "10.1.9.4", None, "10.1.9.4"),
            ("bmc-004.example:8443", "bmc-004.example", Some(8443), "bmc-004.example:8443"),
            ("fd00::4", "fd00::4", None, "[fd00::4]"),
            ("[fd00::4]:623", "fd00::4", Some(623), "[fd00::4]:623"),
        ] {
            let address: BmcAddress = text.parse().unwrap();
            assert_eq!(address, BmcAddress { host: host.into(), port });
            assert_eq!(address.to_string(), shown);
        }
        for text in
            ["", ":443", "a:", "a:x", "a:65536", "user@host", "a/b", "-H", "[fd00::4", "[x]", "a b", "a%20b"]
        {
            assert!(text.parse::<BmcAddress>().is_err(), "{text}");
        }
    }

    fn parse(bmc: &str) -> Result<Option<Bmc>, String> {
        let node = "[[node]]\nname = 'a'\nmac = '02:00:00:00:00:01'\naddress = '192.168.0.77'\nimage = 'x'\n";
        let example = include_str!("../../bootserve.example.toml");
        let config = Config::parse(&format!("{example}\n{node}{bmc}"));
        let config = config.map_err(|error| bootspec::diagnosis::explain(&error))?;
        Ok(config.node_named("a").unwrap().bmc.clone())
    }

    #[test]
    fn a_bmc_has_an_address_a_user_and_a_password_file() {
        assert_eq!(parse(""), Ok(None));
        // Settings that are inherited by a node without a BMC.
        assert_eq!(parse("bmc = { user = 'admin' }"), Ok(None));
        let bmc =
            parse("bmc_address = 'b'\n[node.bmc]\nuser = 'admin'\npassword_file = '/p'").unwrap().unwrap();
        assert_eq!((bmc.protocol, bmc.trust), (Protocol::Redfish, Trust::System));
        let error = parse("bmc_address = 'b'\nbmc = { user = 'admin' }").unwrap_err();
        let relative = parse("bmc_address = 'b'\nbmc = { user = 'admin', password_file = 'p' }").unwrap_err();
        assert_eq!(relative, "the BMC of node a: has bmc.password_file = \"p\": expected an absolute path");
        assert!(
            error.starts_with("the BMC of node a: has an address and no password_file\nhint: bmc = {"),
            "{error}"
        );
    }

    #[test]
    fn certificates_are_checked_unless_it_is_said_otherwise() {
        let trust = |extra: &str| {
            let bmc = format!("bmc_address = 'b'\nbmc = {{ user = 'a', password_file = '/p', {extra} }}");
            parse(&bmc).map(|bmc| bmc.unwrap().trust)
        };
        assert_eq!(trust("verify_tls = true"), Ok(Trust::System));
        assert_eq!(trust("ca = '/ca.pem'"), Ok(Trust::Authorities("/ca.pem".into())));
        assert_eq!(trust("verify_tls = false"), Ok(Trust::Any));
        assert!(trust("verify_tls = false, ca = '/ca.pem'").unwrap_err().contains("leave one of them out"));
    }

    proptest! {
        #[test]
        fn any_text_is_an_address_that_is_written_as_it_was_or_none(text in "[a-z0-9.:@/\\[\\]-]{0,20}", other: String) {
            for text in [text, other] {
                if let Ok(address) = text.parse::<BmcAddress>() {
                    prop_assert_eq!(address.to_string().parse::<BmcAddress>(), Ok(address));
                }
            }
        }
    }
}
