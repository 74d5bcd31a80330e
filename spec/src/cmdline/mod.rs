//! The kernel command line: the `bootnode.*` parameters.
//!
//! bootserve prints [`BootParams`] into the iPXE script, init parses them from /proc/cmdline. Every key is documented
//! in `docs/kernel-cmdline.md`.

mod kernel_arg;
mod values;
mod words;

use std::fmt;
use std::net::Ipv4Addr;
use std::num::NonZeroU16;
use std::str::FromStr;
use std::time::Duration;

use crate::event::BootId;
use crate::mac::MacAddr;
use crate::manifest::BootMode;
use crate::store::{ImageRef, NodeName};

pub use kernel_arg::{KernelArg, ParseKernelArgError};
pub use values::{BaseUrl, ByteSize, InitPath, InterfaceAddress, Mpol, OnFailure, RootSize, Sources};
pub use words::{Param, tokenize};

/// The `bootnode.*` parameters and `init=`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BootParams {
    /// `bootnode.mode=carried|fetched|failsafe|discover`: overrides the manifest.
    pub mode: Option<BootMode>,
    /// `bootnode.node=NAME`: becomes the host name.
    pub node: Option<NodeName>,
    /// `bootnode.mac=ADDRESS`: the interface that was booted from; identifies the node in reports.
    pub mac: Option<MacAddr>,
    /// `bootnode.boot=ID`: marks the events of this boot.
    pub boot: Option<BootId>,
    /// `bootnode.report=URL`: base URL of the bootserve that wants to hear of the boot.
    pub report: Option<BaseUrl>,
    /// `bootnode.image=NAME/VERSION`: the one image that may boot, and that reports are about before its manifest is there.
    pub image: Option<ImageRef>,
    /// `bootnode.source=URL[,URL…]`: where the image's files are, on each of the mirrors, in fetched mode.
    pub source: Option<Sources>,
    /// `bootnode.address=ADDRESS/PREFIX`: the address to fetch with; by default DHCP is asked.
    pub address: Option<InterfaceAddress>,
    /// `bootnode.gateway=ADDRESS`: the way to sources outside the interface's own network.
    pub gateway: Option<Ipv4Addr>,
    /// `bootnode.fetch_timeout=SECONDS`: how long init waits for a byte of a file before it gives the boot up.
    pub fetch_timeout: Option<Duration>,
    /// `bootnode.overlay=URL`: a tar of this node's own files, laid over the root; its signature is beside it.
    pub overlay: Option<BaseUrl>,
    /// `bootnode.min_rollback_index=N`: the least [`crate::manifest::Manifest::rollback_index`] that may boot.
    pub min_rollback_index: Option<u64>,
    /// `bootnode.root_size=SIZE|PERCENT`: limit of the root's tmpfs.
    pub root_size: Option<RootSize>,
    /// `bootnode.root_inodes=N`: limit of inodes in the root's tmpfs.
    pub root_inodes: Option<u64>,
    /// `bootnode.root_mpol=POLICY`: NUMA policy of the root's tmpfs, as tmpfs' `mpol=` takes it.
    pub root_mpol: Option<Mpol>,
    /// `bootnode.reserve=SIZE`: memory that must be left beside the root for what runs in it.
    pub reserve: Option<ByteSize>,
    /// `bootnode.workers=N`: threads that unpack.
    pub workers: Option<NonZeroU16>,
    /// `bootnode.on_failure=reboot|shell|halt`.
    pub on_failure: OnFailure,
    /// `bootnode.failure_delay=SECONDS`: wait before the first retry; see [`BootParams::retry_delay`].
    pub failure_delay: Option<Duration>,
    /// `bootnode.attempt=N`: how many boots of this node have failed in a row, counted by bootserve.
    pub attempt: u32,
    /// `init=PATH`: what to execute in the root.
    pub init: Option<InitPath>,
}

/// A parameter that was not understood and is left at its default.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name}={value}: {problem}")]
pub struct ParamError {
    /// Its name.
    pub name: String,
    /// Its value as found.
    pub value: String,
    /// What is wrong.
    pub problem: String,
}

/// What init is to execute unless `init=` says otherwise.
pub const DEFAULT_INIT: &str = "/sbin/init";
const DEFAULT_FAILURE_DELAY: Duration = Duration::from_secs(10);
const MAX_RETRY_DELAY: Duration = Duration::from_secs(600);

impl BootParams {
    /// Reads the parameters that are ours from a whole kernel command line.
    ///
    /// A node must boot as well as it can whatever its command line says, so a parameter that is unknown or malformed
    /// is left out and returned as an error beside the rest. The last of repeated parameters wins.
    pub fn parse(line: &str) -> (Self, Vec<ParamError>) {
        let mut params = Self::default();
        let mut errors = Vec::new();
        for Param { name, value } in tokenize(line) {
            let value = value.unwrap_or_default();
            if let Err(problem) = params.set(&name, &value) {
                errors.push(ParamError { name, value, problem });
            }
        }
        (params, errors)
    }

    fn set(&mut self, name: &str, value: &str) -> Result<(), String> {
        if name == "init" {
            self.init = Some(parse(value)?);
            return Ok(());
        }
        let Some(key) = name.strip_prefix("bootnode.") else { return Ok(()) };
        match key {
            "mode" => self.mode = Some(parse(value)?),
            "node" => self.node = Some(parse(value)?),
            "mac" => self.mac = Some(parse(value)?),
            "boot" => self.boot = Some(parse(value)?),
            "report" => self.report = Some(parse(value)?),
            "image" => self.image = Some(parse(value)?),
            "source" => self.source = Some(parse(value)?),
            "address" => self.address = Some(parse(value)?),
            "gateway" => self.gateway = Some(parse(value)?),
            "fetch_timeout" => self.fetch_timeout = Some(Duration::from_secs(parse::<u32>(value)?.into())),
            "overlay" => self.overlay = Some(parse(value)?),
            "min_rollback_index" => self.min_rollback_index = Some(parse(value)?),
            "root_size" => self.root_size = Some(parse(value)?),
            "root_inodes" => self.root_inodes = Some(parse(value)?),
            "root_mpol" => self.root_mpol = Some(parse(value)?),
            "reserve" => self.reserve = Some(parse(value)?),
            "workers" => self.workers = Some(parse(value)?),
            "on_failure" => self.on_failure = parse(value)?,
            "failure_delay" => self.failure_delay = Some(Duration::from_secs(parse::<u32>(value)?.into())),
            "attempt" => self.attempt = parse(value)?,
            _ => return Err("no such parameter".to_owned()),
        }
        Ok(())
    }

    /// How long to wait before the reboot that follows a failure: the configured delay, doubled for each failed boot
    /// before this one, at most ten minutes (or the configured delay, if that is longer). init spreads it around this.
    pub fn retry_delay(&self) -> Duration {
        let first = self.failure_delay.unwrap_or(DEFAULT_FAILURE_DELAY);
        let doubled = first.saturating_mul(1 << self.attempt.min(16));
        doubled.min(MAX_RETRY_DELAY.max(first))
    }

    /// What to execute in the root.
    pub fn init_path(&self) -> &str {
        self.init.as_ref().map_or(DEFAULT_INIT, InitPath::as_str)
    }
}

fn parse<T: FromStr<Err: fmt::Display>>(value: &str) -> Result<T, String> {
    value.parse().map_err(|error: T::Err| error.to_string())
}

impl fmt::Display for BootParams {
    /// Prints what differs from the default, in the fixed order of the fields.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = Words { f, first: true };
        out.option("bootnode.mode", &self.mode)?;
        out.option("bootnode.node", &self.node)?;
        out.option("bootnode.mac", &self.mac)?;
        out.option("bootnode.boot", &self.boot)?;
        out.option("bootnode.report", &self.report)?;
        out.option("bootnode.image", &self.image)?;
        out.option("bootnode.source", &self.source)?;
        out.option("bootnode.address", &self.address)?;
        out.option("bootnode.gateway", &self.gateway)?;
        out.option("bootnode.fetch_timeout", &self.fetch_timeout.map(|timeout| timeout.as_secs()))?;
        out.option("bootnode.overlay", &self.overlay)?;
        out.option("bootnode.min_rollback_index", &self.min_rollback_index)?;
        out.option("bootnode.root_size", &self.root_size)?;
        out.option("bootnode.root_inodes", &self.root_inodes)?;
        out.option("bootnode.root_mpol", &self.root_mpol)?;
        out.option("bootnode.reserve", &self.reserve)?;
        out.option("bootnode.workers", &self.workers)?;
        out.option(
            "bootnode.on_failure",
            &(self.on_failure != OnFailure::default()).then_some(self.on_failure),
        )?;
        out.option("bootnode.failure_delay", &self.failure_delay.map(|delay| delay.as_secs()))?;
        out.option("bootnode.attempt", &(self.attempt != 0).then_some(self.attempt))?;
        out.option("init", &self.init)
    }
}

struct Words<'a, 'b> {
    f: &'a mut fmt::Formatter<'b>,
    first: bool,
}

impl Words<'_, '_> {
    fn option(&mut self, name: &str, value: &Option<impl fmt::Display>) -> fmt::Result {
        let Some(value) = value else { return Ok(()) };
        let space = if std::mem::take(&mut self.first) { "" } else { " " };
        write!(self.f, "{space}{name}={value}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn all_parameters_are_read() {
        let (params, errors) = BootParams::parse(
            "console=ttyS0 bootnode.mode=failsafe bootnode.node=node-001 bootnode.mac=fc-ab-14-e8-66-02 \
             bootnode.boot=0000000000000001 bootnode.report=http://192.168.0.1 \
             bootnode.image=c/1 bootnode.source=http://192.168.0.1/images/c/1,http://10.0.0.1 bootnode.address=192.168.0.11/24 \
             bootnode.gateway=192.168.0.254 bootnode.min_rollback_index=3 bootnode.root_size=4096M \
             bootnode.root_inodes=100 bootnode.root_mpol=bind:0-1 bootnode.reserve=8G bootnode.workers=3 bootnode.on-failure=shell \
             bootnode.failure_delay=5 bootnode.attempt=2 init=/bin/sh -- ignored",
        );
        assert_eq!(errors, []);
        assert_eq!(params.mode, Some(BootMode::Failsafe));
        assert_eq!(params.root_size, Some(RootSize::Bytes(4096 << 20)));
        assert_eq!(params.reserve, Some(ByteSize(8 << 30)));
        assert_eq!(params.image, "c/1".parse().ok());
        assert_eq!(params.source.as_ref().unwrap().urls().len(), 2);
        assert_eq!(params.address.unwrap().netmask(), Ipv4Addr::new(255, 255, 255, 0));
        assert_eq!(params.on_failure, OnFailure::Shell);
        assert_eq!(params.init_path(), "/bin/sh");
        assert_eq!(params.retry_delay(), Duration::from_secs(20));
    }

    #[test]
    fn bad_and_unknown_parameters_are_reported_and_the_rest_is_kept() {
        let (params, errors) = BootParams::parse(
            "bootnode.workers=0 bootnode.colour=red bootnode.node=n1 bootnode.root_size=101%",
        );
        assert_eq!(params.node.unwrap().as_str(), "n1");
        let names: Vec<_> = errors.iter().map(|e| e.name.as_str()).collect();
        assert_eq!(names, ["bootnode.workers", "bootnode.colour", "bootnode.root_size"]);
        assert!(errors[1].to_string().contains("no such parameter"));
    }

    #[test]
    fn retries_back_off_to_ten_minutes() {
        let delay = |attempt| BootParams { attempt, ..BootParams::default() }.retry_delay().as_secs();
        assert_eq!([delay(0), delay(1), delay(4), delay(1000)], [10, 20, 160, 600]);
    }

    prop_compose! {
        fn any_params()(
            node in proptest::option::of("[a-z][a-z0-9-]{0,8}"),
            mac: Option<[u8; 6]>,
            boot: Option<u64>,
            percent in proptest::option::of(1u8..=100),
            inodes: Option<u64>,
            workers: Option<NonZeroU16>,
            shell: bool,
            delay: Option<u32>,
            attempt: u32,
        ) -> BootParams {
            BootParams {
                mode: boot.map(|_| BootMode::Carried),
                node: node.map(|n| n.parse().unwrap()),
                mac: mac.map(MacAddr::new),
                boot: boot.map(BootId::new),
                report: boot.map(|_| "http://10.0.0.1:8080".parse().unwrap()),
                image: boot.map(|_| "compute/v1".parse().unwrap()),
                source: boot.map(|_| "http://10.0.0.1/a,http://10.0.0.2/a".parse().unwrap()),
                address: boot.map(|_| "10.0.0.7/16".parse().unwrap()),
                gateway: boot.map(|_| Ipv4Addr::new(10, 0, 0, 1)),
                fetch_timeout: delay.map(|d| Duration::from_secs(d.into())),
                overlay: mac.map(|_| "http://10.0.0.1/overlays/node-001.tar".parse().unwrap()),
                min_rollback_index: inodes,
                root_size: percent.map(RootSize::Percent),
                root_inodes: inodes,
                root_mpol: inodes.map(|_| "interleave:0-3".parse().unwrap()),
                reserve: boot.map(ByteSize),
                workers,
                on_failure: if shell { OnFailure::Shell } else { OnFailure::Reboot },
                failure_delay: delay.map(|d| Duration::from_secs(d.into())),
                attempt,
                init: delay.map(|_| "/usr/lib/systemd/systemd".parse().unwrap()),
            }
        }
    }

    proptest! {
        #[test]
        fn display_round_trips(params in any_params()) {
            prop_assert_eq!(BootParams::parse(&params.to_string()), (params, vec![]));
        }

        #[test]
        fn any_line_is_parsed_without_panic(line in "\\PC{0,80}") {
            let _ = BootParams::parse(&line);
        }
    }
}
