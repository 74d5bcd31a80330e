//! What nodes are handed once a boot, over TLS: whether they can be.

use bootspec::manifest::BootMode;

use super::{ConfigError, Node, Server, Tls};
use crate::overlay::OverlayName;

/// A node could not be handed its secrets.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SecretsProblem {
    /// There is no directory that they could be in.
    #[error("there is no directory of overlays\nhint: server.overlays names it")]
    NoOverlays,
    /// They go over TLS alone.
    #[error("there is no [tls] to hand them out by\nhint: [tls] with certificate and key: docs/bootserve.md")]
    NoTls,
    /// Whoever is on the way could read it after all.
    #[error("{0} is in overlays, too, which are sent without TLS\nhint: name it in one of the two lists")]
    InBothLists(OverlayName),
    /// init has no network then.
    #[error(
        "init has no network in mode carried, by which it could fetch them\nhint: mode = \"fetched\", or an image whose recipe says so"
    )]
    NoNetwork,
}

impl SecretsProblem {
    /// Whether secrets can be fetched in this mode. Where there is no root that they could be laid over, nobody misses them.
    pub fn of_mode(mode: BootMode) -> Option<Self> {
        match mode {
            BootMode::Carried => Some(Self::NoNetwork),
            BootMode::Fetched | BootMode::Failsafe | BootMode::Discover => None,
        }
    }
}

/// Whether `node` can be handed its secrets, as far as the configuration tells. The mode may be the image's.
pub(super) fn check(node: &Node, server: &Server, tls: Option<&Tls>) -> Result<(), ConfigError> {
    let problem = || {
        if node.secrets.is_empty() {
            return None;
        }
        if server.overlays.is_none() {
            return Some(SecretsProblem::NoOverlays);
        }
        if tls.is_none() {
            return Some(SecretsProblem::NoTls);
        }
        let in_both = node.secrets.iter().find(|secret| node.overlays.contains(secret));
        let in_both = in_both.map(|overlay| SecretsProblem::InBothLists(overlay.clone()));
        in_both.or_else(|| node.params.mode.and_then(SecretsProblem::of_mode))
    };
    match problem() {
        None => Ok(()),
        Some(source) => Err(ConfigError::Secrets { node: node.name.clone(), source }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    const NODE: &str = "image = \"debian-12-compute\"";
    const TLS: &str = "[tls]\ncertificate = 'c'\nkey = 'k'\n[boot]";

    fn parse(server: &str, tls: &str, settings: &str) -> Result<Config, ConfigError> {
        let example = include_str!("../../bootserve.example.toml");
        assert!(example.contains(NODE));
        let text = example
            .replace("[server]", &format!("[server]\n{server}"))
            .replace("[boot]", tls)
            .replacen(NODE, &format!("{NODE}\n{settings}"), 1);
        Config::parse(&text)
    }

    #[test]
    fn secrets_that_could_not_be_handed_out_are_refused() {
        let overlays = "overlays = '/o'";
        let check = |server, tls, settings, expected: SecretsProblem| {
            let Err(ConfigError::Secrets { source, .. }) = parse(server, tls, settings) else {
                panic!("{settings}: expected {expected}");
            };
            assert_eq!(source, expected, "{settings}");
        };
        let secrets = "secrets = ['munge']";
        check("", TLS, secrets, SecretsProblem::NoOverlays);
        check(overlays, "[boot]", secrets, SecretsProblem::NoTls);
        let both = "secrets = ['munge']\noverlays = ['base', 'munge']";
        check(overlays, TLS, both, SecretsProblem::InBothLists("munge".parse().unwrap()));
        check(overlays, TLS, "secrets = ['munge']\nmode = 'carried'", SecretsProblem::NoNetwork);
        let policy = "[[discovery.policy]]\nname = 'p'\nnodes = 'p'\naddress = '192.168.0.77'\nimage = 'i'\nsecrets = ['munge']\n[boot]";
        let error = parse(overlays, policy, "").unwrap_err();
        assert!(bootspec::diagnosis::explain(&error).contains("there is no [tls]"), "{error:?}");
        for settings in
            [secrets, "secrets = ['munge']\nmode = 'fetched'", "secrets = ['munge']\nmode = 'failsafe'"]
        {
            let config = parse(overlays, TLS, settings).unwrap();
            let node = config.nodes().iter().find(|node| !node.secrets.is_empty()).unwrap();
            assert_eq!(node.secrets[0].as_str(), "munge");
        }
    }
}
