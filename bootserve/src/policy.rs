//! The one decision: what a machine boots next.
//!
//! [`decide`] is pure. DHCP replies, TFTP names and iPXE scripts only render what it says, so that a machine is
//! never told two different things.

use bootspec::MacAddr;

use crate::arch::{Arch, Platform};
use crate::config::{Config, ImageSelector, Node};

/// What is known of the machine that asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Machine {
    /// The interface it asks from.
    pub mac: MacAddr,
    /// How far its boot has come.
    pub stage: Stage,
}

/// Who is asking on the machine's behalf.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The firmware's PXE client, which loads a program by TFTP.
    Pxe(Arch),
    /// The firmware's HTTP Boot client, which loads a program by HTTP.
    HttpBoot(Arch),
    /// iPXE's DHCP client.
    Ipxe,
    /// iPXE, fetching its script.
    Script,
    /// The DHCP client of an operating system.
    OperatingSystem,
}

/// What the machine is to do.
#[derive(Clone, Debug, PartialEq)]
pub enum BootDecision<'a> {
    /// Load the network boot program for this platform, by TFTP.
    NbpByTftp(Platform),
    /// Load the network boot program for this platform, by HTTP.
    NbpByHttp(Platform),
    /// Fetch the iPXE script.
    FetchScript,
    /// Boot this image.
    Boot(Assignment<'a>),
    /// Nothing that we know of: go on to the next boot device.
    NextDevice(Reason),
    /// It did not ask for anything to boot.
    NotBooting,
}

/// An image and the node that it is for.
#[derive(Clone, Copy, Debug)]
pub struct Assignment<'a> {
    /// What to boot.
    pub image: &'a ImageSelector,
    /// The machine's entry in the configuration, if it has one.
    pub node: Option<&'a Node>,
}

/// Why a machine gets nothing to boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// There is no program for its architecture.
    #[error("no network boot program exists for {0}")]
    Architecture(Arch),
    /// It has no `[[node]]`, and there is no image for such machines.
    #[error("it is not configured, and there is no boot.default_image")]
    UnknownMachine,
}

/// Says what `machine` boots.
pub fn decide<'a>(config: &'a Config, machine: &Machine) -> BootDecision<'a> {
    match machine.stage {
        Stage::Pxe(arch) => program(arch, BootDecision::NbpByTftp),
        Stage::HttpBoot(arch) => program(arch, BootDecision::NbpByHttp),
        Stage::Ipxe => BootDecision::FetchScript,
        Stage::Script => image(config, machine.mac),
        Stage::OperatingSystem => BootDecision::NotBooting,
    }
}

fn program(arch: Arch, by: fn(Platform) -> BootDecision<'static>) -> BootDecision<'static> {
    arch.platform().map_or(BootDecision::NextDevice(Reason::Architecture(arch)), by)
}

fn image(config: &Config, mac: MacAddr) -> BootDecision<'_> {
    let node = config.node(mac);
    let image = node.map(|node| &node.image).or(config.boot.default_image.as_ref());
    match image {
        Some(image) => BootDecision::Boot(Assignment { image, node }),
        None => BootDecision::NextDevice(Reason::UnknownMachine),
    }
}

impl PartialEq for Assignment<'_> {
    /// Nodes are told apart by their MAC address.
    fn eq(&self, other: &Self) -> bool {
        self.image == other.image && self.node.map(|node| node.mac) == other.node.map(|node| node.mac)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE_000: &str = "fc:ab:14:e8:66:01";
    const STRANGER: &str = "02:00:00:00:00:01";

    fn classic() -> Config {
        Config::parse(include_str!("../bootserve.example.toml")).unwrap()
    }

    fn check(mac: &str, stage: Stage, expected: BootDecision) {
        check_with(&classic(), mac, stage, expected);
    }

    fn check_with(config: &Config, mac: &str, stage: Stage, expected: BootDecision) {
        let machine = Machine { mac: mac.parse().unwrap(), stage };
        assert_eq!(decide(config, &machine), expected, "{machine:?}");
    }

    #[test]
    fn firmware_loads_the_program_of_its_architecture() {
        let bios = BootDecision::NbpByTftp(Platform::BiosX86);
        check(NODE_000, Stage::Pxe(Arch::BiosX86), bios);
        check(STRANGER, Stage::Pxe(Arch::EfiX86_64), BootDecision::NbpByTftp(Platform::EfiX86_64));
        check(NODE_000, Stage::HttpBoot(Arch::HttpX86_64), BootDecision::NbpByHttp(Platform::EfiX86_64));
        let unknown = Arch::Unknown(41);
        check(NODE_000, Stage::Pxe(unknown), BootDecision::NextDevice(Reason::Architecture(unknown)));
    }

    #[test]
    fn ipxe_fetches_the_script_and_an_operating_system_nothing() {
        check(NODE_000, Stage::Ipxe, BootDecision::FetchScript);
        check(STRANGER, Stage::Ipxe, BootDecision::FetchScript);
        check(NODE_000, Stage::OperatingSystem, BootDecision::NotBooting);
    }

    #[test]
    fn a_node_boots_its_image_and_a_stranger_the_default() {
        let own: ImageSelector = "failsafe".parse().unwrap();
        let default: ImageSelector = "rocky-9-compute".parse().unwrap();
        let mut config = classic();
        config.boot.default_image = Some(default.clone());
        let node = config.node(NODE_000.parse().unwrap());
        let boot = |image, node| BootDecision::Boot(Assignment { image, node });
        check_with(&config, NODE_000, Stage::Script, boot(&own, node));
        check_with(&config, STRANGER, Stage::Script, boot(&default, None));
    }

    #[test]
    fn a_stranger_without_default_image_goes_on_to_its_next_device() {
        check(STRANGER, Stage::Script, BootDecision::NextDevice(Reason::UnknownMachine));
    }
}
