//! The network of a machine that stays longer than a lease lasts.

use std::time::Instant;

use bootspec::cmdline::BootParams;
use bootspec::diagnosis::explain;

use crate::kmsg;
use crate::network::{Limits, Network};

/// The network, and since when it has its address.
#[derive(Debug)]
pub struct Connection {
    network: Network,
    since: Instant,
    /// Its lease ended and could not be renewed.
    expired: bool,
}

impl Connection {
    /// The network has come up at `since`.
    pub fn new(network: Network, since: Instant) -> Self {
        Self { network, since, expired: false }
    }

    /// The network as it came up last.
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// Asks DHCP again when half of the lease is over (RFC 2131 section 4.4.5), and takes the address back when all of it
    /// is. What goes wrong is not the end: the next call tries again.
    pub fn keep(&mut self, params: &BootParams, limits: Limits, now: Instant) {
        let Some(lease) = self.network.lease else { return };
        let age = now.saturating_duration_since(self.since);
        if age < lease / 2 {
            return;
        }
        match self.network.renew(params, limits) {
            Ok(network) => *self = Self::new(network, now),
            Err(error) => {
                kmsg::warn(&format!("cannot renew the lease: {}", explain(&error)));
                if age >= lease {
                    self.expire();
                }
            }
        }
    }

    /// From now on the address may be another machine's.
    fn expire(&mut self) {
        if std::mem::replace(&mut self.expired, true) {
            return;
        }
        kmsg::warn(&format!("the lease has ended: {} is given up", self.network.address));
        if let Err(error) = self.network.remove_address() {
            kmsg::warn(&explain(&error));
        }
    }
}
