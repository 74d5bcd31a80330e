//! What is done otherwise for firmware that needs it.

use std::fmt;
use std::time::Duration;

use bootspec::store::NodeName;

use crate::arch::Arch;

/// How answers to a machine differ from those to others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quirks {
    /// They are sent later: some ROMs are not ready yet to hear one that comes at once.
    pub delay: Duration,
    /// They have options 60 and 43 with the discovery control of PXE, as those of a proxy have: some PXE ROMs take no offer
    /// for one of PXE without them, and look for a boot server.
    pub discovery_control: bool,
    /// The boot file stands in option 67 as well: some ROMs read nothing but that.
    pub boot_file_option: bool,
}

impl Quirks {
    /// These, and `others`.
    fn and(self, others: Self) -> Self {
        Self {
            delay: self.delay.max(others.delay),
            discovery_control: self.discovery_control || others.discovery_control,
            boot_file_option: self.boot_file_option || others.boot_file_option,
        }
    }
}

impl fmt::Display for Quirks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let delay = format!("delay of {} ms", self.delay.as_millis());
        let all = [
            (!self.delay.is_zero(), delay.as_str()),
            (self.discovery_control, "discovery control"),
            (self.boot_file_option, "boot file in option 67"),
        ];
        let named: Vec<_> = all.iter().filter(|(is_set, _)| *is_set).map(|(_, name)| *name).collect();
        f.write_str(&named.join(", "))
    }
}

/// Quirks and who has them.
#[derive(Clone, Debug)]
pub struct QuirkRule {
    /// A node; none: all machines.
    pub node: Option<NodeName>,
    /// Firmware of this architecture; none: all.
    pub arch: Option<Arch>,
    /// The quirks.
    pub quirks: Quirks,
}

impl QuirkRule {
    /// Those that `rules` give to `node`, whose firmware is for `arch`.
    pub(super) fn quirks_of(rules: &[Self], node: Option<&NodeName>, arch: Option<Arch>) -> Quirks {
        let is_for = |rule: &&Self| {
            let is_node = rule.node.as_ref().is_none_or(|name| Some(name) == node);
            is_node && rule.arch.is_none_or(|meant| Some(meant) == arch)
        };
        rules.iter().filter(is_for).map(|rule| rule.quirks).fold(Quirks::default(), Quirks::and)
    }
}
