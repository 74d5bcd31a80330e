//! The daemon: from a configuration to running services.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context;
use bootspec::event::Phase;
use futures_util::future::OptionFuture;
use tokio::net::{TcpListener, UdpSocket};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::config::{Config, DhcpMode};
use crate::database::Database;
use crate::events::EventLog;
use crate::http::admission::Downloads;
use crate::http::recent::RecentScripts;
use crate::in_use::{BOOT_LIMIT, InUse};
use crate::metrics::Metrics;
use crate::nbp::{INSTALL_HINT, NbpSet};
use crate::notify::Notifier;
use crate::sockets::Sockets;
use crate::{dhcp, http, privileges, radv, tftp};

/// How long downloads may go on after the order to stop. Nodes resume or retry them.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(3);

/// Serves as `config` says until SIGTERM or SIGINT: binds, drops privileges, then starts the runtime's threads.
pub fn serve(config: Config) -> anyhow::Result<()> {
    let user = config.server.user.as_deref().map(privileges::find_user).transpose()?;
    let nbps = NbpSet::read(&config.nbp_dirs)?;
    // Before privileges are dropped: the key is for root alone.
    let tls = config.tls.as_ref().map(http::tls::acceptor).transpose()?;
    let sockets = Sockets::bind(&config)?;
    privileges::prepare_state(&config.server.state, user.as_ref())?;
    if let Some(user) = &user {
        privileges::become_user(user)?;
    }
    let runtime = tokio::runtime::Runtime::new().context("cannot start the runtime")?;
    runtime.block_on(async {
        let shutdown = CancellationToken::new();
        tokio::spawn(cancel_on_signal(shutdown.clone()));
        run(sockets, config, nbps, tls, shutdown).await
    })
}

/// Runs the services on `sockets` until `shutdown`.
pub async fn run(
    sockets: Sockets,
    config: Config,
    nbps: NbpSet,
    tls: Option<TlsAcceptor>,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let (config, nbps) = (Arc::new(config), Arc::new(nbps));
    let database = Database::open(&config.server.state).await?;
    let leases = dhcp::store::read_leases(&database).await?;
    let events = Arc::new(EventLog::new(database.clone(), Arc::clone(&config)));
    let in_use = InUse::new(config.server.store.clone(), config.pinned_images());
    hold_running_boots(&in_use, &events).await?;
    announce(&config, &nbps, leases.len());

    let metrics = Arc::new(Metrics::new());
    let proxy = dhcp::proxy::Proxy::new(Arc::clone(&config), Arc::clone(&nbps));
    let pxe = sockets.pxe.map(udp).transpose()?;
    let pxe = pxe.map(|socket| {
        let proxy = proxy.clone();
        let answer = move |packet: &[u8], peer| proxy.acknowledge(packet, peer);
        dhcp::driver::run(socket, answer, Arc::clone(&events), Arc::clone(&metrics), shutdown.clone())
    });
    let mut server = dhcp::server::Server::new(Arc::clone(&config), Arc::clone(&nbps), leases);
    let is_proxy = config.dhcp == DhcpMode::Proxy;
    let dhcp = sockets.dhcp.map(udp).transpose()?;
    let dhcp = dhcp.map(|socket| {
        let answer = move |packet: &[u8], _| match is_proxy {
            true => proxy.offer(packet),
            false => server.answer(SystemTime::now(), packet),
        };
        dhcp::driver::run(socket, answer, Arc::clone(&events), Arc::clone(&metrics), shutdown.clone())
    });
    let tftp_server = tftp::driver::Server {
        nbps: Arc::clone(&nbps),
        events: Arc::clone(&events),
        metrics: Arc::clone(&metrics),
        mtu_bytes: sockets.mtu_bytes,
        single_port: config.tftp.single_port,
    };
    let tftp = tftp_server.run(sockets.tftp, shutdown.clone());
    let router_solicitations = sockets.router_solicitations.map(udp).transpose()?;
    let downloads = Downloads::new(config.max_downloads);
    let app =
        http::App { config, nbps, events, in_use, metrics, downloads, recent: RecentScripts::default() };
    let https = sockets.https.map(tcp).transpose()?.zip(tls);
    let http = http::run(tcp(sockets.http)?, https, app, shutdown.clone());

    // Where one of them fails, all end: a service manager restarts the whole.
    let services = async {
        tokio::try_join!(
            async { OptionFuture::from(dhcp).await.transpose().context("the DHCP socket failed") },
            async { OptionFuture::from(pxe).await.transpose().context("the socket of port 4011 failed") },
            async { http.await.context("the HTTP server failed") },
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

/// Boots that began before we were started go on.
async fn hold_running_boots(in_use: &InUse, events: &EventLog) -> anyhow::Result<()> {
    for (mac, event) in events.latest().await? {
        let is_booting = (Phase::Script..Phase::SwitchRoot).contains(&event.phase);
        let is_recent = event.time().elapsed().is_ok_and(|age| age < BOOT_LIMIT);
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
