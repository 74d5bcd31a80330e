//! A node as it stands in a file: what it is known by, where it is, and how it boots.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::num::NonZeroU16;
use std::time::Duration;

use bootspec::MacAddr;
use bootspec::cmdline::{BootParams, ByteSize, InitPath, KernelArg, Mpol, OnFailure, RootSize};
use bootspec::manifest::BootMode;
use bootspec::store::NodeName;
use serde::Serialize;
use uuid::Uuid;

use super::bmc::{self, BmcAddress};
use super::{ConfigError, ImageSelector, NodeKey, OptionBytes, text};
use crate::overlay::OverlayName;

/// A table that may hold every setting of nodes besides its own fields. serde can flatten the settings into it, but would then pass
/// over keys that it does not know.
macro_rules! with_settings {
    ($(#[$attribute:meta])* $visibility:vis struct $name:ident { $($own:tt)* }) => {
        $(#[$attribute])*
        #[derive(serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        $visibility struct $name {
            $($own)*
            #[serde(default, with = "text::option")]
            image: Option<ImageSelector>,
            #[serde(default, with = "text::list")]
            kernel_args: Vec<KernelArg>,
            #[serde(default, with = "text::list")]
            overlays: Vec<OverlayName>,
            #[serde(default, with = "text::list")]
            secrets: Vec<OverlayName>,
            mode: Option<BootMode>,
            #[serde(default, with = "text::option")]
            root_size: Option<RootSize>,
            root_inodes: Option<u64>,
            #[serde(default, with = "text::option")]
            root_mpol: Option<Mpol>,
            #[serde(default, with = "text::option")]
            reserve: Option<ByteSize>,
            workers: Option<NonZeroU16>,
            #[serde(default, with = "text::option")]
            on_failure: Option<OnFailure>,
            failure_delay_seconds: Option<u32>,
            #[serde(default, with = "text::option")]
            init: Option<InitPath>,
            local_disk: Option<bool>,
            bmc: Option<bmc::Wire>,
            #[serde(default)]
            metadata: BTreeMap<String, toml::Value>,
        }
    };
}
pub(crate) use with_settings;

with_settings! {
    /// `[[node]]`.
    #[derive(Serialize)]
    pub(crate) struct Node {
        pub(super) name: NodeName,
        mac: Option<MacAddr>,
        #[serde(default, with = "text::option")]
        client_id: Option<OptionBytes>,
        uuid: Option<Uuid>,
        #[serde(default, with = "text::option")]
        circuit_id: Option<OptionBytes>,
        relay: Option<Ipv4Addr>,
        address: Ipv4Addr,
        #[serde(default, with = "text::option")]
        bmc_address: Option<BmcAddress>,
    }
}

impl TryFrom<Node> for super::Node {
    type Error = ConfigError;

    fn try_from(wire: Node) -> Result<Self, ConfigError> {
        let key = wire.key().map_err(|problem| ConfigError::Key { node: wire.name.clone(), problem })?;
        let params = BootParams {
            mode: wire.mode,
            root_size: wire.root_size,
            root_inodes: wire.root_inodes,
            root_mpol: wire.root_mpol,
            reserve: wire.reserve,
            workers: wire.workers,
            on_failure: wire.on_failure.unwrap_or_default(),
            failure_delay: wire.failure_delay_seconds.map(|seconds| Duration::from_secs(seconds.into())),
            init: wire.init,
            ..BootParams::default()
        };
        let bmc = wire.bmc_address.map(|address| wire.bmc.unwrap_or_default().at(address)).transpose();
        let bmc = bmc.map_err(|source| ConfigError::Bmc { node: wire.name.clone(), source })?;
        let image = wire.image.ok_or_else(|| ConfigError::NoImage { node: wire.name.clone() })?;
        Ok(Self {
            name: wire.name,
            key,
            address: wire.address,
            image,
            kernel_args: wire.kernel_args,
            overlays: wire.overlays,
            secrets: wire.secrets,
            params,
            local_disk: wire.local_disk.unwrap_or_default(),
            bmc,
            metadata: wire.metadata,
        })
    }
}

impl Node {
    /// What it is known by, or what is wrong with that.
    fn key(&self) -> Result<NodeKey, &'static str> {
        let circuit = self.circuit_id.clone().map(|id| NodeKey::Circuit { id, relay: self.relay });
        let keys = [
            self.mac.map(NodeKey::Mac),
            self.client_id.clone().map(NodeKey::ClientId),
            self.uuid.map(NodeKey::Uuid),
            circuit,
        ];
        let mut keys = keys.into_iter().flatten();
        match (keys.next(), keys.next()) {
            (Some(_), _) if self.relay.is_some() && self.circuit_id.is_none() => {
                Err("has a relay and no circuit_id")
            }
            (Some(key), None) => Ok(key),
            (None, _) => Err("is known by nothing"),
            (Some(_), Some(_)) => Err("is known by several things"),
        }
    }
}
