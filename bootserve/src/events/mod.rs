//! What happened in each node's boots: what we saw of it, and what the node reported. Kept in the database, and logged
//! at info for whoever watches.
//!
//! The newest [`MAX_EVENTS_PER_NODE`] events of a machine are kept, and only of machines that are configured or have
//! had a lease, so that made-up addresses cannot fill the disk.

mod queries;
mod writing;

use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use bootspec::event::{BootId, MAX_MESSAGE_BYTES, Phase, Report};
use bootspec::{ImageRef, MacAddr};
use serde::Serialize;
use tokio::sync::{mpsc, oneshot, watch};
use tracing::{debug, info, warn};

use crate::database::{Database, DatabaseError};
use crate::dhcp::store;
use crate::live::{Live, Served};
use crate::metrics::Metrics;
use crate::status::course::Courses;
use crate::timestamp::unix_ms;

pub use queries::{Boot, Stored, events_of, read_courses};
pub(crate) use writing::write;
use writing::{MAX_ORDERS, Order, write_orders};

/// How many events are kept of a machine, by a trigger of the database's.
pub const MAX_EVENTS_PER_NODE: u32 = 1000;
/// Of which so many say what we refused it, by another trigger: whoever asks for nonsense does not push out what happened.
pub const MAX_REFUSALS_PER_NODE: u32 = 100;
/// What else was refused to a machine within this after a refusal is told by the log alone.
const REFUSAL_PAUSE: Duration = Duration::from_millis(200);

/// A phase of a boot and when it began, on our clock.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BootEvent {
    /// Whose boot.
    #[serde(skip)]
    pub mac: MacAddr,
    /// Milliseconds since the epoch.
    pub time_unix_ms: i64,
    /// What began.
    pub phase: Phase,
    /// Which boot; unknown before the script.
    pub boot: Option<BootId>,
    /// What is booted; unknown before the script.
    pub image: Option<ImageRef>,
    /// The node's own clock, if the node reported the event, in milliseconds since its kernel started.
    #[serde(skip)]
    pub uptime_ms: Option<i64>,
    /// More, for humans.
    pub message: Option<String>,
}

/// The message of a script that sends a machine to its disk, in place of the mode.
pub const LOCAL_DISK: &str = "local-disk";

/// How the message of a refusal begins that is about a node's secrets. It stops no boot: whoever asked may be anyone, and of the node
/// itself init says so.
pub const SECRETS_REFUSED: &str = "secrets refused to ";

/// The log of all boots.
#[derive(Debug)]
pub struct EventLog {
    shared: Shared,
    orders: mpsc::Sender<Order>,
}

/// What everyone who writes events has.
#[derive(Clone, Debug)]
struct Shared {
    database: Database,
    live: Arc<Live>,
    /// What the events of each machine come to.
    courses: Arc<Mutex<Courses>>,
    /// Told what ends.
    metrics: Arc<Metrics>,
    /// Told that there are new events.
    news: watch::Sender<()>,
}

impl BootEvent {
    /// When it began, by our clock.
    pub fn time(&self) -> SystemTime {
        let since_epoch = Duration::from_millis(self.time_unix_ms.try_into().unwrap_or(0));
        SystemTime::UNIX_EPOCH + since_epoch
    }

    /// An event of this moment.
    pub fn now(mac: MacAddr, phase: Phase) -> Self {
        let time_unix_ms = unix_ms(SystemTime::now());
        Self { mac, time_unix_ms, phase, boot: None, image: None, uptime_ms: None, message: None }
    }

    /// The events of a node's report that arrived at `received`. The node's clock is related to ours by the moment
    /// at which it sent the report.
    pub fn from_report(report: Report, received: SystemTime) -> Vec<Self> {
        let Report { mac, boot, image, uptime_ms, events, .. } = report;
        let events = events.into_iter().map(|event| {
            // Nothing that is reported can have happened after the report.
            let event_uptime_ms = event.uptime_ms.min(uptime_ms);
            let age = Duration::from_millis(uptime_ms - event_uptime_ms);
            let began = received.checked_sub(age).unwrap_or(SystemTime::UNIX_EPOCH);
            Self {
                mac,
                time_unix_ms: unix_ms(began),
                phase: event.phase,
                boot,
                image: Some(image.clone()),
                uptime_ms: Some(i64::try_from(event_uptime_ms).unwrap_or(i64::MAX)),
                message: event.message,
            }
        });
        events.collect()
    }
}

impl EventLog {
    /// The log in `database`; `live` says which machines there are and what they are called. It is written by a task of its
    /// own, which ends with the log.
    pub fn new(database: Database, live: Arc<Live>) -> Self {
        Self::counting(database, live, Arc::default())
    }

    /// A log that tells `metrics` what ends.
    pub fn counting(database: Database, live: Arc<Live>, metrics: Arc<Metrics>) -> Self {
        let (orders, taken) = mpsc::channel(MAX_ORDERS);
        let shared =
            Shared { database, live, courses: Arc::default(), metrics, news: watch::Sender::new(()) };
        tokio::spawn(write_orders(taken, shared.clone()));
        Self { shared, orders }
    }

    /// Reads how far each machine is, as far as events were stored before.
    pub async fn read_courses(&self) -> Result<(), DatabaseError> {
        *self.shared.courses() = read_courses(&self.shared.database).await?;
        Ok(())
    }

    /// What the events of each machine come to; nobody else can look while `look` does.
    pub fn with_courses<T>(&self, look: impl FnOnce(&Courses) -> T) -> T {
        look(&self.shared.courses())
    }

    /// What is served now: who the machines of events are.
    pub fn served(&self) -> Arc<Served> {
        self.shared.live.now()
    }

    /// Changes when there are new events.
    pub fn news(&self) -> watch::Receiver<()> {
        self.shared.news.subscribe()
    }

    /// Where the log is kept.
    pub fn database(&self) -> &Database {
        &self.shared.database
    }

    /// Stores and logs `events`, all of one machine and one boot. They are on the disk when this returns; what is recorded
    /// meanwhile is written together, since a hall of nodes reports at once and a disk syncs some hundred times a second.
    pub async fn record(&self, events: Vec<BootEvent>) -> Result<(), DatabaseError> {
        let (done, stored) = oneshot::channel();
        // Neither end of a channel is dropped while the log is there, but for a panic.
        self.orders.send(Order { events, done }).await.map_err(|_| DatabaseError::Lost)?;
        stored.await.map_err(|_| DatabaseError::Lost)?.map_err(DatabaseError::Together)
    }

    /// Stores and logs what a node reported. It may repeat what it reported of this boot before. A boot id that this
    /// machine was not given is dropped: it would put the events into the boot of another.
    pub async fn record_report(&self, report: Report, received: SystemTime) -> Result<(), DatabaseError> {
        let boot = match report.boot {
            Some(id) if self.boot(id).await?.is_none_or(|boot| boot.mac != report.mac) => {
                let (mac, served) = (report.mac, self.shared.live.now());
                let node = served.config.node_name(mac);
                warn!(%mac, node, boot = %id, "boot id of a report dropped: this machine was not given it");
                None
            }
            boot => boot,
        };
        self.record(BootEvent::from_report(Report { boot, ..report }, received)).await
    }

    /// Stores an event that the boot does not depend on: if that fails, it is only logged.
    pub async fn note(&self, event: BootEvent) {
        if let Err(error) = self.record(vec![event]).await {
            warn!(error = &error as &dyn std::error::Error, "boot event lost");
        }
    }

    /// Notes that the machine that was last given `peer`, or for which another server keeps it, was sent the network boot
    /// program `name`.
    pub async fn note_nbp(&self, peer: Ipv4Addr, name: &str) {
        match self.machine_at(peer).await {
            Ok(Some(mac)) => {
                self.note(BootEvent { message: Some(name.to_owned()), ..BootEvent::now(mac, Phase::Nbp) })
                    .await;
            }
            Ok(None) => info!(%peer, %name, "network boot program sent to an unknown machine"),
            Err(error) => warn!(error = &error as &dyn std::error::Error, "boot event lost"),
        }
    }

    /// The machine that was last given this address, or for which another server keeps it.
    async fn machine_at(&self, address: Ipv4Addr) -> Result<Option<MacAddr>, DatabaseError> {
        let served = self.shared.live.now();
        let reserved = || served.config.mac_of(served.config.node_at(address)?);
        Ok(store::mac_of(&self.shared.database, address).await?.or_else(reserved))
    }

    /// Notes that `mac` was refused something, and why. What was refused before for the same reason, with nothing since, is not
    /// noted again, so a machine that asks again and again costs nothing.
    pub async fn refuse(&self, mac: MacAddr, reason: &str) {
        let message = shortened(reason);
        if self.shared.is_refused(mac, &message) {
            return;
        }
        match self.knows(mac).await {
            Ok(true) => {
                let event = BootEvent::now(mac, Phase::Refused);
                self.note(BootEvent { message: Some(message), ..event }).await;
            }
            Ok(false) => {}
            Err(error) => warn!(error = &error as &dyn std::error::Error, "boot event lost"),
        }
    }

    /// Likewise of the machine whose boot is `boot`, else of the one at `peer`.
    pub async fn refuse_at(&self, peer: Ipv4Addr, boot: Option<BootId>, reason: &str) {
        let by_boot = match boot {
            Some(id) => self.boot(id).await.map(|boot| boot.map(|boot| boot.mac)),
            None => Ok(None),
        };
        let mac = match by_boot {
            Ok(None) => self.machine_at(peer).await,
            known => known,
        };
        match mac {
            Ok(Some(mac)) => self.refuse(mac, reason).await,
            Ok(None) => debug!(%peer, reason, "refused to an unknown machine"),
            Err(error) => warn!(error = &error as &dyn std::error::Error, "boot event lost"),
        }
    }

    /// Whether events of this machine are kept.
    pub async fn knows(&self, mac: MacAddr) -> Result<bool, DatabaseError> {
        Ok(self.shared.live.now().config.node(mac).is_some()
            || store::has_lease(&self.shared.database, mac).await?)
    }

    /// Tells everyone of events that are stored.
    pub(crate) fn publish(&self, events: &[BootEvent]) {
        self.shared.publish(events);
    }
}

impl Shared {
    fn courses(&self) -> MutexGuard<'_, Courses> {
        // A course is whole even if a thread panicked while it held the lock.
        self.courses.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether this is what the machine was refused last, with nothing since, or something was a moment ago.
    fn is_refused(&self, mac: MacAddr, message: &str) -> bool {
        let courses = self.courses();
        let Some(course) = courses.get(&mac) else { return false };
        let before = match message.starts_with(SECRETS_REFUSED) {
            true => course.refused_secrets.as_ref(),
            false => course.problem.as_ref().filter(|_| course.is_stopped),
        };
        before.is_some_and(|problem| {
            let age_ms = unix_ms(SystemTime::now()).saturating_sub(problem.time_unix_ms);
            problem.message == message || (0..REFUSAL_PAUSE.as_millis() as i64).contains(&age_ms)
        })
    }

    /// Tells everyone of events that are stored.
    fn publish(&self, events: &[BootEvent]) {
        if events.is_empty() {
            return;
        }
        let mut courses = self.courses();
        let changes: Vec<_> =
            events.iter().map(|event| courses.entry(event.mac).or_default().add(event)).collect();
        drop(courses);
        changes.into_iter().for_each(|change| self.metrics.boot_went_on(change));
        self.news.send_replace(());
        log(&self.live, events);
    }
}

/// For whoever watches.
fn log(live: &Live, events: &[BootEvent]) {
    let served = live.now();
    for event in events {
        let BootEvent { mac, phase, message, .. } = event;
        let node = served.config.node_name(*mac);
        let (boot, image) =
            (event.boot.map(tracing::field::display), event.image.as_ref().map(tracing::field::display));
        if *phase == Phase::Failed {
            let code = message.as_deref().and_then(failure_code);
            warn!(%mac, node, code, boot, image, detail = message, "boot failed");
        } else if matches!(phase, Phase::Refused | Phase::Policy) {
            // Whoever refused it, or has decided of it, has said so with more.
            debug!(%mac, node, %phase, detail = message, "boot event");
        } else {
            info!(%mac, node, %phase, boot, image, detail = message, "boot event");
        }
    }
}

/// The stable code in the message of [`Phase::Failed`]: `E-VERIFY` of `[E-VERIFY] chunk 3 ...`.
pub(crate) fn failure_code(message: &str) -> Option<&str> {
    let (code, _) = message.strip_prefix('[')?.split_once(']')?;
    Some(code)
}

/// No longer than what a node may report.
fn shortened(text: &str) -> String {
    let mut end = text.len().min(MAX_MESSAGE_BYTES);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}

#[cfg(test)]
mod tests;
