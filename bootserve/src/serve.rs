//! The daemon: from a configuration to running services.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use bootspec::event::Phase;
use futures_util::future::OptionFuture;
use tokio::net::{TcpListener, UdpSocket, UnixListener};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::clock::Clock;
use crate::config::{Config, DhcpMode};
use crate::database::Database;
use crate::dhcp::driver::{Answer, Input};
use crate::dhcp::leases::Lease;
use crate::dhcp::ping::Pinger;
use crate::dhcp::proxy::Proxy;
use crate::dhcp::server::Server;
use crate::discovery::binder::Binder;
use crate::edits::store::newest_revision;
use crate::events::EventLog;
use crate::http::admission::Downloads;
use crate::http::recent::RecentScripts;
use crate::http::tls::Certificate;
use crate::in_use::{BOOT_LIMIT, InUse};
use crate::live::Live;
use crate::metrics::Metrics;
use crate::nbp::{INSTALL_HINT, NbpSet};
use crate::notify::Notifier;
use crate::reload::{InForce, Reload, StoredEdits, WatchedFiles};
use crate::sockets::Sockets;
use crate::{dhcp, dns, edits, http, privileges, radv, tftp};

/// How long downloads may go on after the order to stop. Nodes resume or retry them.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(3);

/// Each for itself is right.
const MISFIT: &str = "the configuration does not go with what bootserve node has changed\n\
                      hint: bootserve node history says what that was; node undo and node rm take it back";

/// What is read before we serve.
#[derive(Debug)]
pub struct Loaded {
    /// Where the configuration stands.
    pub file: WatchedFiles,
    /// What it says.
    pub config: Config,
    /// The boot programs that it names.
    pub nbps: NbpSet,
    /// The certificate that it names.
    pub certificate: Option<Arc<Certificate>>,
}

impl Loaded {
    /// Reads the configuration at `path` and what it names.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let mut file = WatchedFiles::new(path);
        let config = file.read().with_context(|| format!("cannot use {}", path.display()))?;
        let nbps = NbpSet::read(&config.nbp_dirs)?;
        let certificate = config.tls.as_ref().map(Certificate::read).transpose()?.map(Arc::new);
        Ok(Self { file, config, nbps, certificate })
    }
}

/// Serves as the configuration at `path` says until SIGTERM or SIGINT: binds, drops privileges, then starts the runtime's
/// threads.
pub fn serve(path: &Path) -> anyhow::Result<()> {
    // With privileges: the key is for root alone.
    let loaded = Loaded::read(path)?;
    let config = &loaded.config;
    let user = config.server.user.as_deref().map(privileges::find_user).transpose()?;
    let sockets = Sockets::bind(config)?;
    privileges::prepare_state(&config.server.state, user.as_ref())?;
    if let Some(user) = &user {
        privileges::become_user(user)?;
    }
    let runtime = tokio::runtime::Runtime::new().context("cannot start the runtime")?;
    runtime.block_on(async {
        let shutdown = CancellationToken::new();
        tokio::spawn(cancel_on_signal(shutdown.clone()));
        run(sockets, loaded, shutdown).await
    })
}

/// Runs the services on `sockets` until `shutdown`.
pub async fn run(sockets: Sockets, loaded: Loaded, shutdown: CancellationToken) -> anyhow::Result<()> {
    let Loaded { file, config, nbps, certificate } = loaded;
    let database = Database::open(&config.server.state).await?;
    let revision = newest_revision(&database).await?;
    let config = config.edited(edits::store::read(&database).await?).context(MISFIT)?;
    let leases = dhcp::store::read_leases(&database).await?;
    announce(&config, &nbps, leases.len());
    let in_use = Arc::new(InUse::new(config.server.store.clone(), config.pinned_images()));
    let downloads = Arc::new(Downloads::new(config.max_downloads));
    let single_port = config.tftp.single_port;
    let live = Arc::new(Live::new(config, nbps));
    let metrics = Arc::new(Metrics::new());
    let events = EventLog::counting(database.clone(), Arc::clone(&live), Arc::clone(&metrics));
    let events = Arc::new(events);
    events.read_courses().await?;
    hold_running_boots(&in_use, &events).await?;
    let recent = Arc::new(RecentScripts::default());
    let in_force = Arc::new(InForce::default());

    let dhcp_driver = |socket, pinger, answer| {
        dhcp::driver::run(socket, pinger, answer, Arc::clone(&events), Arc::clone(&metrics), shutdown.clone())
    };
    let pxe = sockets.pxe.map(udp).transpose()?;
    let pxe = pxe.map(|socket| dhcp_driver(socket, Pinger::new(None), answer_pxe(&live)));
    let ping = sockets.ping.map(udp).transpose()?;
    let dhcp = sockets.dhcp.map(udp).transpose()?.map(|socket| {
        let answer = answer_dhcp(&live, leases, ping.is_some());
        dhcp_driver(socket, Pinger::new(ping), answer)
    });
    let tftp_server = tftp::driver::Server {
        live: Arc::clone(&live),
        events: Arc::clone(&events),
        metrics: Arc::clone(&metrics),
        mtu_bytes: sockets.mtu_bytes,
        single_port,
    };
    let tftp = tftp_server.run(sockets.tftp, shutdown.clone());
    let dns = match sockets.dns {
        Some((queries, connections)) => {
            let server = dns::driver::Server::new(Arc::clone(&live), database.clone(), Arc::clone(&metrics));
            Some(server.run(udp(queries)?, tcp(connections)?, shutdown.clone()))
        }
        None => None,
    };
    let router_solicitations = sockets.router_solicitations.map(udp).transpose()?;
    let binder = Binder::start(Arc::clone(&events), Arc::clone(&in_force), Arc::clone(&metrics));
    let app = http::App {
        served: live.now(),
        events,
        in_use: Arc::clone(&in_use),
        metrics: Arc::clone(&metrics),
        downloads: Arc::clone(&downloads),
        recent: Arc::clone(&recent),
        transfers: Arc::default(),
        streams: Arc::default(),
        consoles: Arc::default(),
        store_look: Arc::default(),
        in_force: Arc::clone(&in_force),
        certificate: certificate.clone(),
        binder: Arc::new(binder),
    };
    let tls = certificate.clone().map(Certificate::acceptor).transpose().context("cannot speak TLS")?;
    let https = sockets.https.map(tcp).transpose()?.zip(tls);
    let local_app = app.clone();
    let http = http::run(tcp(sockets.http)?, https, Arc::clone(&live), app, shutdown.clone());
    let edits = StoredEdits { database: database.clone(), revision };
    let local = sockets.api.map(unix).transpose()?;
    let local = local.map(|socket| http::run_local(socket, Arc::clone(&live), local_app, shutdown.clone()));
    let reload = Reload { file, edits, live, in_use, downloads, recent, certificate, metrics, in_force };

    // Where one of them fails, all end: a service manager restarts the whole.
    let services = async {
        tokio::try_join!(
            async { OptionFuture::from(dhcp).await.transpose().context("the DHCP socket failed") },
            async { OptionFuture::from(pxe).await.transpose().context("the socket of port 4011 failed") },
            async { OptionFuture::from(dns).await.transpose().context("the DNS sockets failed") },
            async { http.await.context("the HTTP server failed") },
            async { OptionFuture::from(local).await.transpose().context("the API's socket failed") },
            async { tftp.await.context("the TFTP server failed") },
            async {
                if let Some(socket) = router_solicitations {
                    radv::run(socket, shutdown.clone()).await;
                }
                Ok(())
            },
        )
    };
    let notifier = Notifier::start();
    notifier.ready();
    let served = tokio::select! {
        served = services => served.map(|_| ()),
        failed = reload.run(&notifier) => failed.context("cannot read the configuration again"),
        never = notifier.keep_watchdog(&database) => match never {},
        () = grace_after(&shutdown, &notifier) => {
            warn!("downloads were cut off");
            Ok(())
        }
    };
    database.close().await;
    info!("stopped");
    served
}

/// What comes in, answers out.
type Answerer = Box<dyn FnMut(Input<'_>) -> Answer + Send>;

/// What answers on port 67; it `asks_addresses` before it offers them, or does not.
fn answer_dhcp(live: &Arc<Live>, leases: Vec<Lease>, asks_addresses: bool) -> Answerer {
    let live = Arc::clone(live);
    let mut served = live.now();
    if served.config.dhcp == DhcpMode::Proxy {
        return Box::new(move |input| match input {
            Input::Packet(packet, _) => proxy(&live).offer(packet),
            Input::Probed(_) => Ok(Vec::new()),
        });
    }
    let mut server = Server::new(Arc::clone(&served.config), Arc::clone(&served.nbps), leases);
    if asks_addresses {
        server.probe_addresses();
    }
    let mut clock = Clock::read();
    // It may have been set while we did not run.
    server.set_clock(clock.wall(), clock.wall());
    Box::new(move |input| {
        let now = live.now();
        if !Arc::ptr_eq(&served, &now) {
            server.reconfigure(Arc::clone(&now.config), Arc::clone(&now.nbps));
            served = now;
        }
        let before = std::mem::replace(&mut clock, Clock::read());
        let undisturbed = before.undisturbed(&clock);
        let leases = undisturbed.map(|undisturbed| server.set_clock(undisturbed, clock.wall()));
        let answer = match input {
            Input::Packet(packet, _) => server.answer(clock.wall(), packet),
            Input::Probed(probed) => server.probed(clock.wall(), probed),
        };
        let Some(mut actions) = leases else { return answer };
        warn!(leases = actions.len(), "the clock was set; leases last as long as they were to");
        match answer {
            Ok(answer) => actions.extend(answer),
            Err(ignored) => ignored.log(),
        }
        Ok(actions)
    })
}

/// What answers on port 4011.
fn answer_pxe(live: &Arc<Live>) -> Answerer {
    let live = Arc::clone(live);
    Box::new(move |input| match input {
        Input::Packet(packet, peer) => proxy(&live).acknowledge(packet, peer),
        Input::Probed(_) => Ok(Vec::new()),
    })
}

/// It knows of nothing but what is served.
fn proxy(live: &Live) -> Proxy {
    let served = live.now();
    Proxy::new(Arc::clone(&served.config), Arc::clone(&served.nbps))
}

/// Boots that began before we were started go on.
async fn hold_running_boots(in_use: &InUse, events: &EventLog) -> anyhow::Result<()> {
    for (mac, event) in events.latest().await? {
        let is_booting = (Phase::Script..Phase::SwitchRoot).contains(&event.phase);
        // What lies in the future is of a clock that was set back, and may be of this moment.
        let is_recent = event.time().elapsed().map_or(true, |age| age < BOOT_LIMIT);
        let Some(image) = event.image.filter(|_| is_booting && is_recent) else { continue };
        // It counts from now: the limit is there to end some time.
        if let Err(error) = in_use.begin(mac, &image, Instant::now()) {
            warn!(%mac, %image, %error, "cannot hold the version that a machine is booting");
        }
    }
    Ok(())
}

fn announce(config: &Config, nbps: &NbpSet, leases: usize) {
    let nbps: Vec<_> = nbps.names().collect();
    if nbps.is_empty() {
        warn!(dirs = ?config.nbp_dirs, hint = INSTALL_HINT, "no network boot programs");
    }
    let (interface, url) = (&config.server.interface, config.base_url());
    info!(interface, url, dhcp = ?config.dhcp, nodes = config.nodes().len(), leases, ?nbps, "serving");
}

fn udp(socket: std::net::UdpSocket) -> anyhow::Result<UdpSocket> {
    socket.set_nonblocking(true).context("cannot make a socket non-blocking")?;
    UdpSocket::from_std(socket).context("cannot register a socket with the runtime")
}

fn tcp(socket: std::net::TcpListener) -> anyhow::Result<TcpListener> {
    socket.set_nonblocking(true).context("cannot make a socket non-blocking")?;
    TcpListener::from_std(socket).context("cannot register a socket with the runtime")
}

fn unix(socket: std::os::unix::net::UnixListener) -> anyhow::Result<UnixListener> {
    socket.set_nonblocking(true).context("cannot make a socket non-blocking")?;
    UnixListener::from_std(socket).context("cannot register a socket with the runtime")
}

async fn grace_after(shutdown: &CancellationToken, notifier: &Notifier) {
    shutdown.cancelled().await;
    notifier.stopping();
    tokio::time::sleep(SHUTDOWN_GRACE).await;
}

async fn cancel_on_signal(shutdown: CancellationToken) {
    use tokio::signal::unix::{SignalKind, signal};
    let terminate = signal(SignalKind::terminate());
    let interrupt = signal(SignalKind::interrupt());
    match (terminate, interrupt) {
        (Ok(mut terminate), Ok(mut interrupt)) => {
            tokio::select! {
                _ = terminate.recv() => info!("stopping on SIGTERM"),
                _ = interrupt.recv() => info!("stopping on SIGINT"),
            }
            shutdown.cancel();
        }
        (terminate, interrupt) => warn!(?terminate, ?interrupt, "cannot listen for signals"),
    }
}
