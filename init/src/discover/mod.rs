//! Discover mode: tells bootserve what the machine is made of, and does what bootserve then says.
//!
//! There is no root. The machine checks in again and again, with fresh facts each time, until it is told to reboot or to
//! switch itself off; once its network has been up it never gives up, because nobody may be there to switch it on again.
//! The protocol is `bootspec::facts`. Left out: reading or writing anything on disks.

mod check_in;
mod connection;
pub mod facts;
pub mod lldp;
mod settle;

use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use bootspec::cmdline::BootParams;
use bootspec::event::Phase;
use bootspec::facts::{DISCOVER_PATH, Facts};
use bootspec::manifest::Manifest;
use rustix::system::RebootCommand;

use crate::failure::{self, BootResult};
use crate::http::{HttpError, Timeouts, Url};
use crate::modules::Modules;
use crate::network::Limits;
use crate::{image, kmsg, network, report};

use check_in::to_json;
pub use check_in::{End, Next, Outcome, Schedule, check_in, check_in_once};
pub use connection::Connection;
use lldp::Neighbours;
use settle::Settling;

const TIMEOUTS: Timeouts = Timeouts { connect: Duration::from_secs(5), stall: Duration::from_secs(10) };
/// How long DHCP is asked for a new lease before the machine goes on with the one that it has.
const RENEWAL: Duration = Duration::from_secs(15);
/// Between two looks at hardware that has not settled yet.
const POLL: Duration = Duration::from_millis(500);

/// Nobody can be told of the machine.
#[derive(Debug, thiserror::Error)]
pub enum DiscoverError {
    /// `bootnode.report=` is missing.
    #[error("mode discover needs bootnode.report= on the kernel command line, to say where to check in")]
    NoServer,
    /// Its URL has no address.
    #[error("cannot check in")]
    Url(#[source] HttpError),
}

/// Discovers. `manifest` is that of the image in the initramfs, if there is one.
pub fn run(manifest: Option<&Manifest>, params: &BootParams) -> BootResult {
    let url = url(params)?;
    report::begin(manifest.map(|manifest| &manifest.image), params);
    manifest.map_or(Ok(()), image::check_kernel)?;
    report::phase(Phase::Network);
    let mut modules = Modules::read(Path::new("/"))?;
    let network = network::up(params, &mut modules)?;
    report::network_is_up(params);
    let connection = Connection::new(network, Instant::now());
    let mut machine = Machine { params, modules, connection, neighbours: Neighbours::listen() };
    let facts = machine.settle();
    kmsg::info(&format!("discover: this machine is {}", facts::identity(&facts)));
    kmsg::info(&format!("discover: it has {}", facts::summary(&facts)));
    kmsg::info(&format!("discover: checking in with {url}"));
    let end = check_in(&url, TIMEOUTS, || machine.gather(), sleep);
    failure::request(match end {
        End::Reboot => RebootCommand::Restart,
        End::PowerOff => RebootCommand::PowerOff,
    })
}

fn url(params: &BootParams) -> Result<Url, DiscoverError> {
    let base = params.report.as_ref().ok_or(DiscoverError::NoServer)?;
    Url::below(base, DISCOVER_PATH).map_err(DiscoverError::Url)
}

/// The machine that is being discovered.
struct Machine<'a> {
    params: &'a BootParams,
    modules: Modules,
    connection: Connection,
    neighbours: Neighbours,
}

impl Machine<'_> {
    /// Gathers until drivers have found what there is to be found.
    fn settle(&mut self) -> Facts {
        let mut settling = Settling::new(Instant::now());
        loop {
            let facts = self.gather();
            if settling.is_over(to_json(&facts), Instant::now()) {
                return facts;
            }
            sleep(POLL);
        }
    }

    /// The facts as they are now. Drivers are loaded for devices that have appeared, and every interface is switched on,
    /// as one that is off does not say whether it has a link.
    fn gather(&mut self) -> Facts {
        self.modules.load_for_devices();
        network::switch_all_on();
        let limits = Limits { dhcp: RENEWAL, ..Limits::default() };
        self.connection.keep(self.params, limits, Instant::now());
        let mac = self.connection.network().mac;
        let mut facts = facts::gather(Path::new("/sys"), Path::new("/proc"), mac);
        facts.node.clone_from(&self.params.node);
        facts.boot = self.params.boot;
        self.neighbours.note(&mut facts.interfaces);
        if let Some((what, found, limit)) = facts.cut_to_limits() {
            kmsg::warn(&format!("discover: of {found} {what} only the first {limit} are reported"));
        }
        facts
    }
}
