//! The one decision: what a machine boots next.
//!
//! [`decide`] is pure. DHCP replies, TFTP names and iPXE scripts only render what it says, so that a machine is
//! never told two different things. [`initramfs`] completes it for a script, once the image's manifest is read.
//!
//! A machine with a `[[node]]` boots our image. Another boots what the data directory of an older boot server says, where one is
//! configured ([`crate::compat`]); where that says nothing, `boot.default_image`.

use std::fmt;

use bootspec::manifest::{BootMode, Manifest};
use bootspec::store::{INITRAMFS, INITRAMFS_FETCHED, initramfs_of};
use bootspec::{ImageRef, MacAddr};

use crate::arch::{Arch, Platform};
use crate::compat::Site;
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

impl fmt::Display for Stage {
    /// In words.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pxe(arch) => write!(f, "firmware, {arch}, by PXE"),
            Self::HttpBoot(arch) => write!(f, "firmware, {arch}, by HTTP Boot"),
            Self::Ipxe => f.write_str("iPXE"),
            Self::Script => f.write_str("iPXE's request for its script"),
            Self::OperatingSystem => f.write_str("an operating system"),
        }
    }
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
    /// Fetch the script that passes on what iPXE knows of the machine, as a data directory may go by any of it.
    FetchFirstScript,
    /// Boot this image.
    Boot(Assignment<'a>),
    /// Boot from its own disk.
    LocalDisk,
    /// Boot what the data directory says.
    LookUp(LookUp<'a>),
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

/// A data directory that is to be looked into for the machine.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LookUp<'a> {
    /// Where to look.
    pub site: &'a Site,
    default_image: Option<&'a ImageSelector>,
}

impl<'a> LookUp<'a> {
    /// What the machine boots if the directory says nothing of it. One that says no Ethernet address boots no image, as its script
    /// could not say who it is.
    pub fn otherwise(&self, mac: Option<MacAddr>) -> BootDecision<'a> {
        match (self.default_image, mac) {
            (Some(image), Some(_)) => BootDecision::Boot(Assignment { image, node: None }),
            _ => BootDecision::NextDevice(Reason::NotInDataDirectory),
        }
    }
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
    /// Nor does a data directory say anything of it.
    #[error(
        "it is not configured, the data directory says nothing of it, and there is no boot.default_image"
    )]
    NotInDataDirectory,
}

/// Says what `machine` boots.
pub fn decide<'a>(config: &'a Config, machine: &Machine) -> BootDecision<'a> {
    match machine.stage {
        Stage::Pxe(arch) => program(arch, BootDecision::NbpByTftp),
        Stage::HttpBoot(arch) => program(arch, BootDecision::NbpByHttp),
        Stage::Ipxe => match script(config, Some(machine.mac)) {
            BootDecision::LookUp(_) => BootDecision::FetchFirstScript,
            _ => BootDecision::FetchScript,
        },
        Stage::Script => script(config, Some(machine.mac)),
        Stage::OperatingSystem => BootDecision::NotBooting,
    }
}

fn program(arch: Arch, by: fn(Platform) -> BootDecision<'static>) -> BootDecision<'static> {
    arch.platform().map_or(BootDecision::NextDevice(Reason::Architecture(arch)), by)
}

/// Says what the script of the machine with this address boots. One that says no Ethernet address can be known to a data directory
/// alone, by something else that it says.
pub fn script(config: &Config, mac: Option<MacAddr>) -> BootDecision<'_> {
    let node = mac.and_then(|mac| config.node(mac));
    let default_image = config.boot.default_image.as_ref();
    match (node, &config.compat, default_image) {
        (Some(node), _, _) if node.local_disk => BootDecision::LocalDisk,
        (Some(node), _, _) => BootDecision::Boot(Assignment { image: &node.image, node: Some(node) }),
        (None, Some(site), _) => BootDecision::LookUp(LookUp { site, default_image }),
        (None, None, Some(image)) => BootDecision::Boot(Assignment { image, node: None }),
        (None, None, None) => BootDecision::NextDevice(Reason::UnknownMachine),
    }
}

/// The same of a machine of Razor's. One that has installed a system on its disk boots that as long as it is no node.
pub fn razor_script(config: &Config, mac: MacAddr, has_installed: bool) -> BootDecision<'_> {
    match config.node(mac) {
        None if has_installed => BootDecision::LocalDisk,
        _ => script(config, Some(mac)),
    }
}

impl Assignment<'_> {
    /// How the machine boots the image that `manifest` describes.
    pub fn mode(&self, manifest: &Manifest) -> BootMode {
        self.node.and_then(|node| node.params.mode).unwrap_or(manifest.mode)
    }
}

/// The image was not built for this mode.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("image {image} has no {wanted}, which mode {mode} boots\nhint: {}", self.hint())]
pub struct NoInitramfs {
    image: ImageRef,
    wanted: &'static str,
    mode: BootMode,
    built_for: BootMode,
}

impl NoInitramfs {
    fn hint(&self) -> String {
        let name = &self.image.name;
        match (self.mode, self.built_for) {
            (BootMode::Fetched, BootMode::Failsafe | BootMode::Discover) => {
                "it is an image without a root, and there is nothing to fetch".to_owned()
            }
            (BootMode::Discover, BootMode::Failsafe) => {
                "it has no drivers for network cards: imagebuild build discover".to_owned()
            }
            (BootMode::Carried, BootMode::Fetched) => {
                format!(
                    "its recipe says mode fetched: leave the node's mode out, or build {name} with mode carried"
                )
            }
            _ => format!("imagebuild build {name}, with imagebuild of the release that bootserve is of"),
        }
    }
}

/// The artifact that a machine boots as its initramfs.
pub fn initramfs(manifest: &Manifest, mode: BootMode) -> Result<&'static str, NoInitramfs> {
    let has = |file: &&str| manifest.artifacts.keys().any(|artifact| artifact.as_str() == *file);
    let (wanted, fallback) = match (mode, manifest.mode) {
        // A shell needs init and busybox alone, which every initramfs has.
        (BootMode::Failsafe, _) => (INITRAMFS, Some(INITRAMFS_FETCHED)),
        // Discovery needs the drivers of network cards, which the initramfs with the root does not have.
        (BootMode::Discover, built_for) if built_for != BootMode::Discover => (INITRAMFS_FETCHED, None),
        _ => (initramfs_of(mode), None),
    };
    let found = [wanted].into_iter().chain(fallback).find(has);
    found.ok_or_else(|| NoInitramfs { image: manifest.image.clone(), wanted, mode, built_for: manifest.mode })
}

impl PartialEq for Assignment<'_> {
    /// Nodes are told apart by their names.
    fn eq(&self, other: &Self) -> bool {
        self.image == other.image && self.node.map(|node| &node.name) == other.node.map(|node| &node.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bootspec::Sha256Digest;
    use bootspec::manifest::{Artifact, Build, FORMAT, RootOrigin};

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
        check(NODE_000, Stage::Pxe(Arch::BIOS_X86), bios);
        check(STRANGER, Stage::Pxe(7.into()), BootDecision::NbpByTftp(Platform::EfiX86_64));
        check(NODE_000, Stage::HttpBoot(16.into()), BootDecision::NbpByHttp(Platform::EfiX86_64));
        let unknown = Arch::from(41);
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

    #[test]
    fn a_stranger_is_looked_for_in_the_data_directory_before_it_boots_the_default() {
        let mut config = classic();
        let site = Site::Bootcfg("/data".into());
        config.compat = Some(site.clone());
        let node = config.node(NODE_000.parse().unwrap());
        let own = BootDecision::Boot(Assignment { image: &node.unwrap().image, node });
        check_with(&config, NODE_000, Stage::Script, own);
        check_with(&config, NODE_000, Stage::Ipxe, BootDecision::FetchScript);
        check_with(&config, STRANGER, Stage::Ipxe, BootDecision::FetchFirstScript);
        let mac = STRANGER.parse().unwrap();
        let look_up = LookUp { site: &site, default_image: None };
        check_with(&config, STRANGER, Stage::Script, BootDecision::LookUp(look_up));
        let nothing = BootDecision::NextDevice(Reason::NotInDataDirectory);
        assert_eq!(look_up.otherwise(Some(mac)), nothing);
        let default: ImageSelector = "rocky-9-compute".parse().unwrap();
        config.boot.default_image = Some(default.clone());
        let look_up = LookUp { site: &site, default_image: Some(&default) };
        assert_eq!(script(&config, None), BootDecision::LookUp(look_up));
        let boot = BootDecision::Boot(Assignment { image: &default, node: None });
        assert_eq!(look_up.otherwise(Some(mac)), boot);
        assert_eq!(look_up.otherwise(None), nothing);
    }

    fn manifest(mode: BootMode, files: &[&str]) -> Manifest {
        let artifact = Artifact { size_bytes: 1, sha256: Sha256Digest::new([0; 32]) };
        Manifest {
            format: FORMAT,
            image: "compute/1".parse().unwrap(),
            architecture: "x86_64".into(),
            kernel_release: "6.1".into(),
            mode,
            kernel_args: Vec::new(),
            artifacts: files.iter().map(|file| (file.parse().unwrap(), artifact.clone())).collect(),
            root: None,
            rollback_index: 0,
            packages: Vec::new(),
            build: Build {
                inputs: Sha256Digest::new([0; 32]),
                tool: "imagebuild".into(),
                host: "head".into(),
                time_unix: 0,
                root: RootOrigin::default(),
            },
        }
    }

    #[test]
    fn the_mode_of_the_node_comes_before_that_of_the_image() {
        let example = include_str!("../bootserve.example.toml");
        let config = Config::parse(&format!("{example}mode = 'carried'\n")).unwrap();
        let fetched = manifest(BootMode::Fetched, &[]);
        let mode = |node| Assignment { image: &config.nodes()[0].image, node }.mode(&fetched);
        assert_eq!(mode(None), BootMode::Fetched);
        assert_eq!(mode(Some(&config.nodes()[0])), BootMode::Fetched);
        assert_eq!(mode(Some(&config.nodes()[1])), BootMode::Carried);
    }

    #[test]
    fn the_mode_chooses_the_initramfs_and_any_will_do_for_a_shell() {
        let (both, fetched, carried) = (
            &["initramfs.img", "initramfs-fetched.img"][..],
            &["initramfs-fetched.img"][..],
            &["initramfs.img"][..],
        );
        let check = |files, mode, expected: Option<&'static str>| {
            assert_eq!(
                initramfs(&manifest(BootMode::Carried, files), mode).ok(),
                expected,
                "{mode} of {files:?}"
            );
        };
        check(both, BootMode::Carried, Some("initramfs.img"));
        check(both, BootMode::Fetched, Some("initramfs-fetched.img"));
        check(both, BootMode::Failsafe, Some("initramfs.img"));
        check(fetched, BootMode::Carried, None);
        check(fetched, BootMode::Failsafe, Some("initramfs-fetched.img"));
        check(carried, BootMode::Fetched, None);
        check(&[], BootMode::Failsafe, None);
        check(both, BootMode::Discover, Some("initramfs-fetched.img"));
        check(carried, BootMode::Discover, None);
        let discover = manifest(BootMode::Discover, carried);
        assert_eq!(initramfs(&discover, BootMode::Discover), Ok("initramfs.img"));
        assert_eq!(initramfs(&discover, BootMode::Failsafe), Ok("initramfs.img"));
    }

    #[test]
    fn a_missing_initramfs_is_named_with_the_remedy() {
        let error = |built_for, mode| initramfs(&manifest(built_for, &[]), mode).unwrap_err().to_string();
        let check = |built_for, mode, expected: [&str; 2]| {
            for part in expected {
                assert!(error(built_for, mode).contains(part), "{part:?} in {}", error(built_for, mode));
            }
        };
        check(BootMode::Fetched, BootMode::Carried, ["has no initramfs.img", "leave the node's mode out"]);
        check(BootMode::Failsafe, BootMode::Fetched, ["has no initramfs-fetched.img", "without a root"]);
        check(BootMode::Carried, BootMode::Fetched, ["compute/1", "hint: imagebuild build compute"]);
        let no_drivers = ["has no initramfs-fetched.img", "hint: it has no drivers for network cards"];
        check(BootMode::Failsafe, BootMode::Discover, no_drivers);
    }
}
