//! The HTTP proxy through which packages are fetched: a cache of packages, or the way out of the site.

use std::fmt;
use std::str::FromStr;

use serde::Deserialize;

use super::{Dnf, Mmdebstrap, PackageSource, Recipe, Source};

/// In place of a URL: without a proxy, whatever else names one.
const DIRECT: &str = "none";
/// What curl, and so dnf, and apt both understand.
const SCHEMES: [&str; 3] = ["http", "https", "socks5h"];

/// How packages are fetched.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum Proxy {
    /// From their servers.
    Direct,
    /// By this proxy: `http://cache:3128`.
    Url(String),
}

/// A text names no proxy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a proxy: expected a URL such as http://cache:3128, or \"{DIRECT}\"")]
pub struct ParseProxyError(String);

impl Proxy {
    /// Its URL, if it is one.
    pub fn url(&self) -> Option<&str> {
        match self {
            Self::Direct => None,
            Self::Url(url) => Some(url),
        }
    }
}

impl FromStr for Proxy {
    type Err = ParseProxyError;

    fn from_str(text: &str) -> Result<Self, ParseProxyError> {
        if text == DIRECT {
            return Ok(Self::Direct);
        }
        let is_url = text.split_once("://").is_some_and(|(scheme, rest)| {
            let host = rest.strip_suffix('/').unwrap_or(rest);
            // What else is in it would be a line or a list of its own in the package manager's configuration.
            let plain =
                |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'/' | b'?' | b'#' | b'"' | b',');
            SCHEMES.contains(&scheme) && !host.is_empty() && host.bytes().all(plain)
        });
        if is_url { Ok(Self::Url(text.to_owned())) } else { Err(ParseProxyError(text.to_owned())) }
    }
}

impl TryFrom<String> for Proxy {
    type Error = ParseProxyError;

    fn try_from(text: String) -> Result<Self, ParseProxyError> {
        text.parse()
    }
}

impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.url().unwrap_or(DIRECT))
    }
}

impl Recipe {
    /// Fetches all packages by `proxy`, whatever the recipe says. It stays the same recipe: packages are what they are,
    /// whichever way they came.
    pub fn use_proxy(&mut self, proxy: Proxy) {
        match &mut self.source {
            Source::Mmdebstrap(debian) | Source::Busybox(PackageSource::Mmdebstrap(debian)) => {
                debian.use_proxy(proxy);
            }
            Source::Dnf(dnf) | Source::Busybox(PackageSource::Dnf(dnf)) => dnf.use_proxy(proxy),
            Source::Existing(existing) => existing.proxy = Some(proxy),
        }
    }
}

impl Mmdebstrap {
    fn use_proxy(&mut self, proxy: Proxy) {
        self.proxy = Some(proxy);
    }
}

impl Dnf {
    fn use_proxy(&mut self, proxy: Proxy) {
        self.proxy = Some(proxy);
        self.repositories.iter_mut().for_each(|repository| repository.proxy = None);
    }

    /// Whether the recipe or the command line says how packages are fetched.
    pub fn names_proxy(&self) -> bool {
        self.proxy.is_some() || self.repositories.iter().any(|repository| repository.proxy.is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proxies_are_urls_or_none_and_print_as_they_were_written() {
        for text in ["http://cache:3128", "https://[fd00::1]:3129/", "socks5h://user:word@gate", "none"] {
            assert_eq!(text.parse::<Proxy>().unwrap().to_string(), text);
        }
        for text in ["", "cache:3128", "http://", "http:///x", "ftp://cache", "http://a\nb", "http://c/path"]
        {
            let error = text.parse::<Proxy>().unwrap_err().to_string();
            assert!(error.contains("expected a URL such as http://cache:3128"), "{error}");
        }
    }
}
