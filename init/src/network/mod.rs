//! Brings the network up before the root is there: one interface, with an IPv4 address.
//!
//! Which interface is said by `bootnode.mac=`; else the first on a live wire is taken, and the next if no DHCP server
//! answers there. The address is that of `bootnode.address=`, or what DHCP gives. Left out: VLANs, bonds, IPv6, names (the
//! sources are addresses), and the renewal of leases by itself: they are longer than a boot ([`Network::renew`]).

pub mod dhcp;
mod interface;

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::net::Ipv4Addr;
use std::thread::sleep;
use std::time::{Duration, Instant};

use bootspec::cmdline::{BootParams, InterfaceAddress};
use bootspec::mac::MacAddr;

use crate::code::Code;
use crate::kmsg;
use crate::modules::Modules;
use crate::sys::{self, Route};
use dhcp::{DhcpError, Lease};
pub use interface::Interface;

/// How long to wait for what.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// For the interface to appear: drivers start, firmware is loaded into cards.
    pub interface: Duration,
    /// From then on, for the wire to carry: a gigabit port takes seconds to agree on a speed.
    pub link: Duration,
    /// For a DHCP server to answer. A switch port with spanning tree passes nothing for its first 30 s.
    pub dhcp: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self { interface: seconds(60), link: seconds(30), dhcp: seconds(60) }
    }
}

/// Between two looks at the interfaces.
const POLL: Duration = Duration::from_millis(20);

/// The interface that is up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Network {
    /// Its name: `eth0`.
    pub interface: String,
    /// Its hardware address.
    pub mac: MacAddr,
    /// Its address.
    pub address: InterfaceAddress,
    /// The way out of its own network.
    pub gateway: Option<Ipv4Addr>,
    /// The DHCP server that gave the address, if one did.
    pub dhcp_server: Option<Ipv4Addr>,
    /// How long that server lets the address be used, if not for ever.
    pub lease: Option<Duration>,
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}) has the address {}", self.interface, self.mac, self.address)?;
        if let Some(gateway) = self.gateway {
            write!(f, ", gateway {gateway}")?;
        }
        match self.dhcp_server {
            Some(server) => write!(f, ", by DHCP from {server}"),
            None => Ok(()),
        }
    }
}

/// The network does not come up.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// There is no interface to use.
    #[error(
        "{} after {} s; {}{}",
        match wanted {
            Some(mac) => format!("no network interface has the address {mac}"),
            None => "there is no Ethernet interface".to_owned(),
        },
        waited.as_secs(), list(found), list_driverless(driverless)
    )]
    NoInterface {
        /// `bootnode.mac=`.
        wanted: Option<MacAddr>,
        /// How long it was waited for.
        waited: Duration,
        /// What interfaces there are.
        found: Vec<Interface>,
        /// Network cards on the PCI bus that no driver has taken.
        driverless: Vec<String>,
    },
    /// The interface is there, and its driver cannot start it.
    #[error("cannot switch on {interface}")]
    SwitchOn {
        /// Its name.
        interface: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The interface is there, and nothing is at the other end of its wire.
    #[error("no link on {} after {} s; {}", interfaces.join(" and "), waited.as_secs(), list(found))]
    NoLink {
        /// Names of the interfaces that were tried.
        interfaces: Vec<String>,
        /// How long a link was waited for.
        waited: Duration,
        /// What interfaces there are.
        found: Vec<Interface>,
    },
    /// DHCP gives no address.
    #[error(transparent)]
    Dhcp(#[from] DhcpError),
    /// The kernel refuses to configure the interface.
    #[error("cannot {action} on {interface}")]
    Configure {
        /// What was attempted.
        action: String,
        /// Where.
        interface: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

impl NetworkError {
    /// A name for the kind of failure that stays the same from release to release.
    pub fn code(&self) -> Code {
        match self {
            Self::NoInterface { .. } | Self::SwitchOn { .. } => Code::Nic,
            Self::NoLink { .. } => Code::Link,
            Self::Dhcp(_) => Code::Dhcp,
            Self::Configure { .. } => Code::Address,
        }
    }

    /// What the operator can do about it.
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::NoInterface { driverless, .. } if !driverless.is_empty() => {
                "put the card's driver, and its firmware, into the image: add its name to the recipe's kernel modules"
            }
            Self::NoInterface { .. } => {
                "check bootnode.mac= and that the image has the card's driver: add its name to the recipe's kernel modules"
            }
            Self::SwitchOn { .. } => {
                "see the driver's lines above; if it lacks firmware, install the card's firmware package in the image"
            }
            Self::NoLink { .. } => "check the cable and the switch port of this node",
            Self::Dhcp(DhcpError::Silent { .. }) => {
                "check that a DHCP server serves this network and knows this node, and that the switch port passes frames; or give bootnode.address="
            }
            Self::Dhcp(DhcpError::Refused { .. }) => {
                "read the DHCP server's log; two servers may serve this network"
            }
            Self::Dhcp(DhcpError::Socket { .. }) | Self::Configure { .. } => {
                "check bootnode.address= and bootnode.gateway=; else boot a kernel with IPv4 built in"
            }
        }
    }
}

fn list(found: &[Interface]) -> String {
    match found {
        [] => "there is no interface at all".to_owned(),
        _ => format!("there are: {}", found.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")),
    }
}

fn list_driverless(cards: &[String]) -> String {
    match cards {
        [] => String::new(),
        _ => format!("; network cards without a driver: {}", cards.join(", ")),
    }
}

/// Brings the network up as the command line says.
pub fn up(params: &BootParams, modules: &mut Modules) -> Result<Network, NetworkError> {
    up_within(params, modules, Limits::default())
}

/// As [`up`], with other limits.
pub fn up_within(
    params: &BootParams,
    modules: &mut Modules,
    limits: Limits,
) -> Result<Network, NetworkError> {
    if let Err(error) = sys::set_up("lo", true) {
        kmsg::warn(&format!("cannot switch on the loopback interface: {error}"));
    }
    let mut search = Search::new(params.mac, limits);
    let mut silent = None;
    loop {
        let (interface, mac) = match search.next(modules) {
            Ok(found) => found,
            // That a live wire has no DHCP server says more than that the others have no link.
            Err(error) => return Err(silent.unwrap_or(error)),
        };
        match configure(&interface, mac, params, limits) {
            Err(error @ NetworkError::Dhcp(_)) if params.mac.is_none() => {
                kmsg::warn(&error.to_string());
                silent = silent.or(Some(error));
            }
            Ok(network) => {
                search.switch_off_others(&network.interface);
                return Ok(network);
            }
            Err(error) => return Err(error),
        }
    }
}

/// Gives the interface its address.
fn configure(
    interface: &str,
    mac: MacAddr,
    params: &BootParams,
    limits: Limits,
) -> Result<Network, NetworkError> {
    let interface = interface.to_owned();
    let network = match params.address {
        Some(address) => {
            Network { interface, mac, address, gateway: params.gateway, dhcp_server: None, lease: None }
        }
        None => {
            kmsg::info(&format!("asking for an address by DHCP on {interface}"));
            let Lease { address, gateway, server, duration } = dhcp::acquire(&interface, mac, limits.dhcp)?;
            // A gateway on the command line was chosen for this node; the lease's is for all.
            let gateway = params.gateway.or(gateway);
            Network { interface, mac, address, gateway, dhcp_server: Some(server), lease: duration }
        }
    };
    network.apply()?;
    kmsg::info(&network.to_string());
    Ok(network)
}

impl Network {
    fn apply(&self) -> Result<(), NetworkError> {
        let Self { interface, address, gateway, .. } = self;
        let refused = |action: String| {
            move |source| NetworkError::Configure { action, interface: interface.clone(), source }
        };
        sys::set_address(interface, *address).map_err(refused(format!("set the address {address}")))?;
        let Some(gateway) = *gateway else { return Ok(()) };
        let add_gateway = || {
            if !is_on_link(*address, gateway) {
                sys::add_route(interface, Route::Host(gateway))?;
            }
            sys::add_route(interface, Route::Default(gateway))
        };
        add_gateway().map_err(refused(format!("set the gateway {gateway}")))
    }

    /// Asks for an address anew, on the same interface, which keeps the one that it has until there is another.
    pub fn renew(&self, params: &BootParams, limits: Limits) -> Result<Self, NetworkError> {
        configure(&self.interface, self.mac, params, limits)
    }

    /// Takes the interface its address.
    pub fn remove_address(&self) -> Result<(), NetworkError> {
        sys::remove_address(&self.interface).map_err(|source| self.cannot("take back the address", source))
    }

    /// Takes the interface its address and switches it off, as the image's own network configuration expects to find it:
    /// udev gives a new name only to an interface that is off (before Linux 6.2).
    pub fn down(&self) -> Result<(), NetworkError> {
        self.remove_address()?;
        sys::set_up(&self.interface, false).map_err(|source| self.cannot("switch off the link", source))
    }

    fn cannot(&self, action: &str, source: io::Error) -> NetworkError {
        NetworkError::Configure { action: action.to_owned(), interface: self.interface.clone(), source }
    }
}

/// Switches every interface on, so that each says whether it has a link.
pub fn switch_all_on() {
    for interface in interface::list() {
        // One that cannot be switched on has no link, and its driver has said why in the kernel's log.
        let _ = sys::set_up(&interface.name, true);
    }
}

/// Whether the machine at `other` is in the interface's own network.
fn is_on_link(interface: InterfaceAddress, other: Ipv4Addr) -> bool {
    interface.address & interface.netmask() == other & interface.netmask()
}

/// Looks for interfaces on live wires.
struct Search {
    wanted: Option<MacAddr>,
    limits: Limits,
    began: Instant,
    /// When the first interface was there that may be used.
    appeared: Option<Instant>,
    /// Those that were switched on.
    switched_on: BTreeSet<String>,
    /// Why the first of those that cannot be switched on cannot be.
    failed: Option<NetworkError>,
    /// Those that had a link when they were last looked at.
    linked: BTreeSet<String>,
    /// Those that [`Search::next`] has returned.
    returned: BTreeSet<String>,
}

impl Search {
    fn new(wanted: Option<MacAddr>, limits: Limits) -> Self {
        Self {
            wanted,
            limits,
            began: Instant::now(),
            appeared: None,
            switched_on: BTreeSet::new(),
            failed: None,
            linked: BTreeSet::new(),
            returned: BTreeSet::new(),
        }
    }

    /// The next interface with a link. Meanwhile drivers are loaded for devices that appear.
    fn next(&mut self, modules: &mut Modules) -> Result<(String, MacAddr), NetworkError> {
        loop {
            modules.load_for_devices();
            let found = interface::list();
            let now = Instant::now();
            let wanted = self.wanted;
            let linked_before = std::mem::take(&mut self.linked);
            for (interface, mac) in found.iter().filter_map(|interface| usable(interface, wanted)) {
                self.appeared.get_or_insert(now);
                self.switch_on(interface);
                if interface.has_link {
                    self.linked.insert(interface.name.clone());
                }
                // Frames pass a moment after the link is there (the kernel's linkwatch attaches the queue).
                if linked_before.contains(&interface.name) && self.returned.insert(interface.name.clone()) {
                    return Ok((interface.name.clone(), mac));
                }
            }
            // One whose link came while another was asked for an address is to be looked at once more, however late it is.
            if self.linked.is_subset(&self.returned) {
                self.check_limits(now, found)?;
            }
            sleep(POLL);
        }
    }

    fn switch_on(&mut self, interface: &Interface) {
        if !self.switched_on.insert(interface.name.clone()) {
            return;
        }
        kmsg::info(&format!("network interface {interface}"));
        if let Err(source) = sys::set_up(&interface.name, true) {
            kmsg::warn(&format!("cannot switch on {}: {source}", interface.name));
            let interface = interface.name.clone();
            self.failed.get_or_insert(NetworkError::SwitchOn { interface, source });
        }
    }

    /// Leaves those that are not used as they were found, for the image's own network configuration.
    fn switch_off_others(&self, used: &str) {
        for other in self.switched_on.iter().filter(|name| *name != used) {
            if let Err(error) = sys::set_up(other, false) {
                kmsg::warn(&format!("cannot switch off {other}: {error}"));
            }
        }
    }

    fn check_limits(&mut self, now: Instant, found: Vec<Interface>) -> Result<(), NetworkError> {
        let Limits { interface, link, .. } = self.limits;
        match self.appeared {
            None if now >= self.began + interface => Err(NetworkError::NoInterface {
                wanted: self.wanted,
                waited: interface,
                found,
                driverless: interface::driverless(),
            }),
            Some(appeared) if now >= appeared + link => {
                let interfaces = self.switched_on.iter().cloned().collect();
                let no_link = NetworkError::NoLink { interfaces, waited: link, found };
                Err(self.failed.take().unwrap_or(no_link))
            }
            _ => Ok(()),
        }
    }
}

fn usable(interface: &Interface, wanted: Option<MacAddr>) -> Option<(&Interface, MacAddr)> {
    let mac = interface.ethernet()?;
    wanted.is_none_or(|wanted| wanted == mac).then_some((interface, mac))
}
