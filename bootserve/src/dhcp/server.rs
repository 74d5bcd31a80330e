//! The state machine of the server (RFC 2131 section 4.3): a packet and the time in, actions out. It reads no clock and
//! no socket. A repeated packet gets the same answer.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bootspec::MacAddr;
use dhcproto::error::EncodeError;
use dhcproto::v4::MessageType;
use tracing::{debug, error, info, warn};

use super::leases::{Lease, LeaseTable};
use super::reply::{self, BootOptions, Reply};
use super::request::Request;
use crate::config::Config;
use crate::http;
use crate::nbp::NbpSet;
use crate::policy::{BootDecision, Machine, Stage, decide};

/// How long an offered address is kept for the client that has not asked for it yet. PXE firmware gathers offers for
/// several seconds.
const OFFER_HOLD: Duration = Duration::from_secs(60);
/// How long an address that is in use by someone else is kept out of the range.
const DECLINE_QUARANTINE: Duration = Duration::from_secs(600);

/// What the driver has to do, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Store the lease. It must be durable before the next `Send`: an address that a client was told is its own must
    /// not be forgotten.
    Store(Lease),
    /// Note that the firmware of this machine was given an address.
    Booting(MacAddr),
    /// Send a packet.
    Send(Reply),
}

/// The DHCP server of one network.
#[derive(Debug)]
pub struct Server {
    config: Arc<Config>,
    nbps: Arc<NbpSet>,
    leases: LeaseTable,
}

impl Server {
    /// A server that continues with `stored` leases.
    pub fn new(config: Arc<Config>, nbps: Arc<NbpSet>, stored: Vec<Lease>) -> Self {
        let leases = LeaseTable::new(&config, stored);
        Self { config, nbps, leases }
    }

    /// Answers a packet.
    pub fn handle(&mut self, now: SystemTime, packet: &[u8]) -> Vec<Action> {
        let request = match Request::parse(packet) {
            Ok(request) => request,
            Err(error) => {
                debug!(%error, "DHCP packet ignored");
                return Vec::new();
            }
        };
        let (mac, xid) = (request.mac, format_args!("{:08x}", request.xid));
        debug!(%mac, %xid, kind = ?request.kind, stage = ?request.stage, "DHCP request");
        if request.giaddr != Ipv4Addr::UNSPECIFIED && !self.is_ours(request.giaddr) {
            info!(%mac, %xid, relay = %request.giaddr, "DHCP request ignored: relayed from another subnet");
            return Vec::new();
        }
        match request.kind {
            MessageType::Discover => self.discover(now, &request),
            MessageType::Request => self.request(now, &request),
            MessageType::Release => self.release(now, &request),
            MessageType::Decline => self.decline(now, &request),
            MessageType::Inform => self.inform(&request),
            _ => Vec::new(),
        }
    }

    fn discover(&mut self, now: SystemTime, request: &Request) -> Vec<Action> {
        let mac = request.mac;
        let Some(address) = self.leases.choose(mac, request.requested, now) else {
            warn!(
                %mac,
                "no address left in {}\nhint: widen network.range or shorten network.lease_seconds",
                self.config.network.range
            );
            return Vec::new();
        };
        self.leases.hold(mac, address, now + OFFER_HOLD);
        let boot = self.boot_options(request);
        debug!(%mac, node = self.config.node_name(mac), %address, ?boot, "DHCP offer");
        send(mac, reply::lease(&self.config, request, MessageType::Offer, address, &boot))
    }

    /// RFC 2131 section 4.3.2, in the order of its cases.
    fn request(&mut self, now: SystemTime, request: &Request) -> Vec<Action> {
        let wanted = match (request.server_id, request.requested) {
            // SELECTING: another server's offer was taken. Not ours to answer.
            (Some(server), _) if server != self.config.server.address => {
                debug!(mac = %request.mac, %server, "DHCP request is for another server");
                return Vec::new();
            }
            // SELECTING our offer, or INIT-REBOOT: back on the network, with an address remembered.
            (_, Some(requested)) => requested,
            // RENEWING or REBINDING: an address is in use.
            (_, None) => request.ciaddr,
        };
        if self.leases.may_use(request.mac, wanted, now) {
            self.acknowledge(now, request, wanted)
        } else {
            self.refuse(request, wanted)
        }
    }

    fn acknowledge(&mut self, now: SystemTime, request: &Request, address: Ipv4Addr) -> Vec<Action> {
        let mac = request.mac;
        let expires = now + self.config.network.lease;
        self.leases.hold(mac, address, expires);
        let boot = self.boot_options(request);
        info!(%mac, node = self.config.node_name(mac), %address, ?boot, "DHCP lease");
        let mut actions = vec![Action::Store(Lease { mac, address, expires })];
        if request.stage != Stage::OperatingSystem {
            actions.push(Action::Booting(mac));
        }
        actions.extend(send(mac, reply::lease(&self.config, request, MessageType::Ack, address, &boot)));
        actions
    }

    fn refuse(&self, request: &Request, address: Ipv4Addr) -> Vec<Action> {
        let mac = request.mac;
        let reason =
            if self.is_ours(address) { "not your address" } else { "not an address of this network" };
        info!(%mac, node = self.config.node_name(mac), %address, reason, "DHCP request refused");
        send(mac, reply::nak(&self.config, request, reason))
    }

    fn release(&mut self, now: SystemTime, request: &Request) -> Vec<Action> {
        let Some(lease) = self.leases.release(request.mac, request.ciaddr, now) else { return Vec::new() };
        info!(mac = %lease.mac, address = %lease.address, "DHCP lease released");
        vec![Action::Store(lease)]
    }

    fn decline(&mut self, now: SystemTime, request: &Request) -> Vec<Action> {
        let Some(address) = request.requested else { return Vec::new() };
        let mac = request.mac;
        if self.leases.quarantine(mac, address, now + DECLINE_QUARANTINE) {
            warn!(%mac, %address, "address is in use by another machine and is left out for ten minutes");
        } else {
            let node = self.config.node_name(mac);
            error!(%mac, node, %address, "address was declined\nhint: another machine may be using it");
        }
        Vec::new()
    }

    fn inform(&self, request: &Request) -> Vec<Action> {
        // The reply goes to whatever address the packet claims, so it must be one of this network.
        if !self.is_ours(request.ciaddr) {
            return Vec::new();
        }
        send(request.mac, reply::inform(&self.config, request, &self.boot_options(request)))
    }

    fn is_ours(&self, address: Ipv4Addr) -> bool {
        self.config.network.subnet.contains(&address)
    }

    fn boot_options(&self, request: &Request) -> BootOptions {
        let mac = request.mac;
        match decide(&self.config, &Machine { mac, stage: request.stage }) {
            BootDecision::NbpByTftp(platform) => match self.nbps.for_platform(platform) {
                Some(name) => BootOptions::Tftp(name.to_owned()),
                None => no_program(mac, platform),
            },
            BootDecision::NbpByHttp(platform) => match self.nbps.for_platform(platform) {
                Some(name) => BootOptions::Http(http::nbp_url(&self.config, name)),
                None => no_program(mac, platform),
            },
            BootDecision::FetchScript => BootOptions::Ipxe(http::script_url(&self.config, mac)),
            BootDecision::NextDevice(reason) => {
                warn!(%mac, %reason, "nothing to boot");
                BootOptions::None
            }
            BootDecision::Boot(_) | BootDecision::NotBooting => BootOptions::None,
        }
    }
}

fn no_program(mac: MacAddr, platform: crate::arch::Platform) -> BootOptions {
    warn!(%mac, ?platform, "no network boot program for this machine\nhint: install the ipxe package or set nbp.dirs");
    BootOptions::None
}

fn send(mac: MacAddr, reply: Result<Reply, EncodeError>) -> Vec<Action> {
    match reply {
        Ok(reply) => vec![Action::Send(reply)],
        Err(error) => {
            error!(%mac, %error, "cannot encode the DHCP reply");
            Vec::new()
        }
    }
}
