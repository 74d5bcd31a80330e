//! What happened in each node's boots: what we saw of it, and what the node reported. Kept in the database, and logged
//! at info for whoever watches.
//!
//! The newest [`MAX_EVENTS_PER_NODE`] events of a machine are kept, and only of machines that are configured or have
//! had a lease, so that made-up addresses cannot fill the disk.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use bootspec::event::{BootId, MAX_MESSAGE_BYTES, Phase, Report};
use bootspec::{ImageRef, MacAddr};
use serde::Serialize;
use sqlx::sqlite::SqliteRow;
use sqlx::{Row, SqliteConnection};
use tokio::sync::{mpsc, oneshot, watch};
use tracing::{debug, info, warn};

use crate::database::{Database, DatabaseError, parse_column, query_error};
use crate::dhcp::store;
use crate::live::{Live, Served};
use crate::metrics::Metrics;
use crate::status::course::Courses;
use crate::timestamp::unix_ms;

/// How many events are kept of a machine, by a trigger of the database's.
pub const MAX_EVENTS_PER_NODE: u32 = 1000;
/// Of which so many say what we refused it, by another trigger: whoever asks for nonsense does not push out what happened.
pub const MAX_REFUSALS_PER_NODE: u32 = 100;
/// How many events of a machine are read to know how far it is: some boots. More would take time at the start.
const MAX_EVENTS_READ: u32 = 64;
/// What else was refused to a machine within this after a refusal is told by the log alone.
const REFUSAL_PAUSE: Duration = Duration::from_millis(200);

/// From the first time that a boot loader is told what to boot until it loads it.
const BEGUN_BOOT_LIMIT: Duration = Duration::from_secs(600);

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

/// The boot that a script began.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Boot {
    /// The machine.
    pub mac: MacAddr,
    /// The image its script named.
    pub image: Option<ImageRef>,
}

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

/// A stored event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Its number: events are numbered in the order in which they were stored.
    pub id: i64,
    /// What happened.
    pub event: BootEvent,
}

/// How many requests to record something may wait; more of them wait to be taken.
const MAX_ORDERS: usize = 1024;

/// Events to record, all of one machine and one boot.
struct Order {
    events: Vec<BootEvent>,
    done: oneshot::Sender<Result<(), Arc<DatabaseError>>>,
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
    pub async fn refuse_at(&self, peer: IpAddr, boot: Option<BootId>, reason: &str) {
        let by_boot = match boot {
            Some(id) => self.boot(id).await.map(|boot| boot.map(|boot| boot.mac)),
            None => Ok(None),
        };
        let mac = match (by_boot, peer.to_canonical()) {
            (Ok(None), IpAddr::V4(peer)) => self.machine_at(peer).await,
            (by_boot, _) => by_boot,
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

    /// Stores `events` and returns those that were not known before.
    pub(crate) async fn write(
        connection: &mut SqliteConnection,
        events: Vec<BootEvent>,
    ) -> Result<Vec<BootEvent>, DatabaseError> {
        let mut news = Vec::new();
        for event in events {
            if insert(connection, &event).await? {
                news.push(event);
            }
        }
        Ok(news)
    }

    /// Tells everyone of events that are stored.
    pub(crate) fn publish(&self, events: &[BootEvent]) {
        self.shared.publish(events);
    }

    /// Events after the one with this number, at most `limit`; of one machine, or of all.
    pub async fn events_after(
        &self,
        id: i64,
        mac: Option<MacAddr>,
        limit: u32,
    ) -> Result<Vec<Stored>, DatabaseError> {
        let sql = match mac {
            Some(_) => "SELECT * FROM events WHERE mac = ?3 AND id > ?1 ORDER BY id LIMIT ?2",
            None => "SELECT * FROM events WHERE id > ?1 ORDER BY id LIMIT ?2",
        };
        let query = sqlx::query(sql).bind(id).bind(limit);
        let query = match mac {
            Some(mac) => query.bind(mac.to_string()),
            None => query,
        };
        let rows =
            query.fetch_all(&self.shared.database.pool).await.map_err(query_error("read events from"))?;
        rows.iter().map(|row| Ok(Stored { id: row.get("id"), event: event(row)? })).collect()
    }

    /// The number of the newest event; 0 if there is none.
    pub async fn newest_id(&self) -> Result<i64, DatabaseError> {
        let query = sqlx::query_scalar("SELECT ifnull(max(id), 0) FROM events");
        query.fetch_one(&self.shared.database.pool).await.map_err(query_error("read events from"))
    }

    /// The events of a machine in the order of time.
    pub async fn events_of(&self, mac: MacAddr) -> Result<Vec<BootEvent>, DatabaseError> {
        events_of(&self.shared.database, mac).await
    }

    /// The newest step of each machine's boots: what was refused is none.
    pub async fn latest(&self) -> Result<HashMap<MacAddr, BootEvent>, DatabaseError> {
        // With max(), SQLite takes the other columns from the row that has the maximum.
        let query = sqlx::query(
            "SELECT *, max(id) FROM events WHERE phase NOT IN ('refused', 'policy') GROUP BY mac",
        );
        let rows =
            query.fetch_all(&self.shared.database.pool).await.map_err(query_error("read events from"))?;
        rows.iter().map(|row| event(row).map(|event| (event.mac, event))).collect()
    }

    /// The boot that the script with this id began.
    pub async fn boot(&self, id: BootId) -> Result<Option<Boot>, DatabaseError> {
        let query = sqlx::query("SELECT * FROM events WHERE boot = ? AND phase = ?");
        let query = query.bind(id.to_string()).bind(Phase::Script.to_string());
        let row = query
            .fetch_optional(&self.shared.database.pool)
            .await
            .map_err(query_error("look up a boot in"))?;
        let event = row.as_ref().map(event).transpose()?;
        Ok(event.map(|event| Boot { mac: event.mac, image: event.image }))
    }

    /// The boot that the newest script of the machine began, and its image, if nothing of it was loaded since and that is not long ago.
    pub async fn begun_boot(
        &self,
        mac: MacAddr,
    ) -> Result<Option<(BootId, Option<ImageRef>)>, DatabaseError> {
        let query = sqlx::query(
            "SELECT * FROM events AS script \
             WHERE id = (SELECT max(id) FROM events WHERE mac = ?1 AND phase = ?2 AND boot IS NOT NULL) \
             AND NOT EXISTS (SELECT 1 FROM events WHERE mac = ?1 AND boot = script.boot AND phase != ?2)",
        );
        let query = query.bind(mac.to_string()).bind(Phase::Script.to_string());
        let row = query
            .fetch_optional(&self.shared.database.pool)
            .await
            .map_err(query_error("look up a boot in"))?;
        let event = row.as_ref().map(event).transpose()?;
        // What lies in the future is of a clock that was set back.
        let is_recent = |event: &BootEvent| event.time().elapsed().is_ok_and(|age| age < BEGUN_BOOT_LIMIT);
        Ok(event.filter(is_recent).and_then(|event| Some((event.boot?, event.image))))
    }

    /// Whether the machine's firmware was given an address and its system is not up yet, as far as we know. Only what we saw
    /// ourselves begins a boot, and only the report of a boot that we began ends it.
    pub async fn is_booting(&self, mac: MacAddr) -> Result<bool, DatabaseError> {
        self.has_begun_and_not(mac, [Phase::SwitchRoot, Phase::Ready]).await
    }

    /// The same, but until it has reported that it is ready: whoever boots another system than ours goes on with it.
    pub async fn is_coming_up(&self, mac: MacAddr) -> Result<bool, DatabaseError> {
        self.has_begun_and_not(mac, [Phase::Ready; 2]).await
    }

    /// Whether the machine was given an address after it came to each of these phases.
    async fn has_begun_and_not(&self, mac: MacAddr, ends: [Phase; 2]) -> Result<bool, DatabaseError> {
        let query = sqlx::query_scalar(
            "SELECT ifnull(max(id) FILTER (WHERE phase = ?2 AND uptime_ms IS NULL), 0) > \
             ifnull(max(id) FILTER (WHERE phase IN (?3, ?4) AND boot IS NOT NULL), 0) FROM events WHERE mac = ?1",
        );
        let phases = [Phase::Dhcp, ends[0], ends[1]].map(|phase| phase.to_string());
        let query = phases.into_iter().fold(query.bind(mac.to_string()), |query, phase| query.bind(phase));
        query.fetch_one(&self.shared.database.pool).await.map_err(query_error("look up a boot in"))
    }

    /// How many scripts the machine was given since it was last ready: how many boots failed in a row.
    pub async fn attempts(&self, mac: MacAddr) -> Result<u32, DatabaseError> {
        let query = sqlx::query_scalar(
            "SELECT count(*) FROM events WHERE mac = ?1 AND phase = ?2 AND id > \
             (SELECT ifnull(max(id), 0) FROM events WHERE mac = ?1 AND phase = ?3)",
        );
        let query =
            query.bind(mac.to_string()).bind(Phase::Script.to_string()).bind(Phase::Ready.to_string());
        query.fetch_one(&self.shared.database.pool).await.map_err(query_error("count attempts in"))
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
        let ended: Vec<_> =
            events.iter().map(|event| courses.entry(event.mac).or_default().add(event)).collect();
        drop(courses);
        ended.into_iter().for_each(|ended| self.metrics.boot_went_on(ended));
        self.news.send_replace(());
        log(&self.live, events);
    }
}

/// What the stored events of each machine come to.
pub async fn read_courses(database: &Database) -> Result<Courses, DatabaseError> {
    let query = sqlx::query(
        "SELECT * FROM events WHERE id IN (SELECT newest.id FROM (SELECT DISTINCT mac FROM events) AS machine \
         JOIN events AS newest ON newest.id IN \
         (SELECT id FROM events WHERE mac = machine.mac ORDER BY id DESC LIMIT ?)) ORDER BY id",
    );
    let rows = query.bind(MAX_EVENTS_READ).fetch_all(&database.pool).await;
    let mut courses = Courses::new();
    for row in &rows.map_err(query_error("read events from"))? {
        let event = event(row)?;
        courses.entry(event.mac).or_default().add(&event);
    }
    Ok(courses)
}

/// The events of a machine in the order of time.
pub async fn events_of(database: &Database, mac: MacAddr) -> Result<Vec<BootEvent>, DatabaseError> {
    let query = sqlx::query("SELECT * FROM events WHERE mac = ? ORDER BY time_unix_ms, id");
    let rows = query.bind(mac.to_string()).fetch_all(&database.pool).await;
    rows.map_err(query_error("read events from"))?.iter().map(event).collect()
}

/// Writes what waits together, until nobody records any more.
async fn write_orders(mut taken: mpsc::Receiver<Order>, shared: Shared) {
    let mut orders = Vec::new();
    while taken.recv_many(&mut orders, MAX_ORDERS).await > 0 {
        let (events, done): (Vec<_>, Vec<_>) =
            orders.drain(..).map(|order| (order.events, order.done)).unzip();
        let written = write_together(&shared.database, events).await.map_err(Arc::new);
        let answer = written.as_ref().map(|_| ()).map_err(Arc::clone);
        // First, so that whoever recorded something finds it in the status.
        shared.publish(&written.unwrap_or_default());
        // Who went away meanwhile does not want to know.
        done.into_iter().for_each(|done| drop(done.send(answer.clone())));
    }
}

/// Stores the events of several orders in one transaction and returns those that are news.
async fn write_together(
    database: &Database,
    orders: Vec<Vec<BootEvent>>,
) -> Result<Vec<BootEvent>, DatabaseError> {
    let transaction = database.pool.begin_with("BEGIN IMMEDIATE").await;
    let mut transaction = transaction.map_err(query_error("write to"))?;
    let mut all_news = Vec::new();
    for events in orders {
        let news = EventLog::write(&mut transaction, events).await?;
        let reported = news.iter().find(|event| event.uptime_ms.is_some());
        if let Some(BootEvent { mac, boot: Some(boot), .. }) = reported {
            align_clock(&mut transaction, *mac, *boot).await?;
        }
        all_news.extend(news);
    }
    transaction.commit().await.map_err(query_error("write to"))?;
    Ok(all_news)
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

/// Stores one event; whether it is new.
async fn insert(connection: &mut SqliteConnection, event: &BootEvent) -> Result<bool, DatabaseError> {
    let query = sqlx::query(
        "INSERT OR IGNORE INTO events (mac, time_unix_ms, phase, boot, image, uptime_ms, message) \
         VALUES (?, ?, ?, ?, ?, ?, ?)",
    );
    let result = query
        .bind(event.mac.to_string())
        .bind(event.time_unix_ms)
        .bind(event.phase.to_string())
        .bind(event.boot.map(|boot| boot.to_string()))
        .bind(event.image.as_ref().map(ImageRef::to_string))
        .bind(event.uptime_ms)
        .bind(event.message.as_ref())
        .execute(connection)
        .await;
    Ok(result.map_err(query_error("store an event in"))?.rows_affected() == 1)
}

/// Puts all that a node reported of one boot on one clock. Each report relates the node's clock to ours, later than true by
/// the time that it travelled; the least late one serves for all, or events of two reports could stand in the wrong order.
async fn align_clock(
    connection: &mut SqliteConnection,
    mac: MacAddr,
    boot: BootId,
) -> Result<(), DatabaseError> {
    let query = sqlx::query(
        "UPDATE events SET time_unix_ms = uptime_ms + (SELECT min(time_unix_ms - uptime_ms) FROM events \
         WHERE mac = ?1 AND boot = ?2 AND uptime_ms IS NOT NULL) \
         WHERE mac = ?1 AND boot = ?2 AND uptime_ms IS NOT NULL",
    );
    let result = query.bind(mac.to_string()).bind(boot.to_string()).execute(connection).await;
    result.map_err(query_error("put reported times in order in"))?;
    Ok(())
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

fn event(row: &SqliteRow) -> Result<BootEvent, DatabaseError> {
    let optional = |column: &str| row.get::<Option<String>, _>(column);
    Ok(BootEvent {
        mac: parse_column("mac", row.get("mac"))?,
        time_unix_ms: row.get("time_unix_ms"),
        phase: parse_phase(row.get("phase"))?,
        boot: optional("boot").map(|text| parse_column("boot", text)).transpose()?,
        image: optional("image").map(|text| parse_column("image", text)).transpose()?,
        uptime_ms: row.get("uptime_ms"),
        message: optional("message"),
    })
}

/// A phase reads as it is written in JSON.
fn parse_phase(text: String) -> Result<Phase, DatabaseError> {
    serde_json::from_value(text.clone().into()).map_err(|_| DatabaseError::Row { what: "phase", text })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::nbp::NbpSet;
    use bootspec::event::Event;
    use std::io::{self, Write};

    const NODE_001: MacAddr = MacAddr::new([0xfc, 0xab, 0x14, 0xe8, 0x66, 0x02]);

    async fn log() -> (tempfile::TempDir, EventLog) {
        let dir = tempfile::tempdir().unwrap();
        let config = Config::parse(include_str!("../bootserve.example.toml")).unwrap();
        let database = Database::open(dir.path()).await.unwrap();
        (dir, EventLog::new(database, Arc::new(Live::new(config, NbpSet::default()))))
    }

    fn report(events: &[(Phase, u64)]) -> Report {
        Report {
            mac: NODE_001,
            node: None,
            boot: Some(BootId::new(7)),
            image: "compute/1".parse().unwrap(),
            uptime_ms: 30_000,
            events: events
                .iter()
                .map(|(phase, uptime_ms)| Event {
                    phase: *phase,
                    uptime_ms: *uptime_ms,
                    message: None,
                    console: None,
                })
                .collect(),
        }
    }

    #[test]
    fn reported_times_are_put_on_our_clock() {
        let received = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
        let events =
            BootEvent::from_report(report(&[(Phase::Init, 5_000), (Phase::Ready, 40_000)]), received);
        assert_eq!(events[0].time_unix_ms, 975_000);
        assert_eq!(
            events[1].time_unix_ms, 1_000_000,
            "an event after the report is no older than the report"
        );
    }

    #[tokio::test]
    async fn a_repeated_report_is_stored_once() {
        let (_dir, log) = log().await;
        for events in [&[(Phase::Init, 5_000)][..], &[(Phase::Init, 5_000), (Phase::Ready, 29_000)]] {
            log.record(BootEvent::from_report(report(events), SystemTime::now())).await.unwrap();
        }
        let phases: Vec<_> = log.events_of(NODE_001).await.unwrap().iter().map(|event| event.phase).collect();
        assert_eq!(phases, [Phase::Init, Phase::Ready]);
        assert_eq!(log.latest().await.unwrap()[&NODE_001].phase, Phase::Ready);
    }

    #[tokio::test]
    async fn reports_of_one_boot_are_on_one_clock_whatever_their_delays() {
        let (_dir, log) = log().await;
        let sent = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
        let init_and_network = [(Phase::Init, 3_000), (Phase::Network, 3_001)];
        let all = [(Phase::Init, 3_000), (Phase::Network, 3_001), (Phase::Unpack, 3_500)];
        // The first report travels for two seconds, the second for one.
        for (events, uptime_ms, received_after) in
            [(&init_and_network[..], 3_100, 2_000), (&all[..], 3_600, 1_500)]
        {
            let received = sent + Duration::from_millis(received_after);
            log.record(BootEvent::from_report(Report { uptime_ms, ..report(events) }, received))
                .await
                .unwrap();
        }
        let events = log.events_of(NODE_001).await.unwrap();
        let times: Vec<_> = events.iter().map(|event| (event.phase, event.time_unix_ms)).collect();
        // The kernel started 3.6 seconds before the second report arrived at 1001.5.
        let start = 1_001_500 - 3_600;
        assert_eq!(
            times,
            [(Phase::Init, start + 3_000), (Phase::Network, start + 3_001), (Phase::Unpack, start + 3_500)]
        );
    }

    #[tokio::test]
    async fn clocks_out_of_all_range_do_no_harm() {
        let (_dir, log) = log().await;
        for uptime_ms in [u64::MAX, 0, 30_000] {
            let events = report(&[(Phase::Init, u64::MAX), (Phase::Network, 0), (Phase::Unpack, 20_000)]);
            let events = BootEvent::from_report(Report { uptime_ms, ..events }, SystemTime::now());
            log.record(events).await.unwrap();
        }
        assert!(!log.events_of(NODE_001).await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn a_failure_is_a_warning_with_its_code() {
        let (_dir, log) = log().await;
        let lines = LogLines::default();
        let writer = lines.clone();
        let subscriber =
            tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
        let message = Some("[E-VERIFY] chunk 3 is damaged".to_owned());
        let event = BootEvent { message, ..BootEvent::now(NODE_001, Phase::Failed) };
        tracing::subscriber::with_default(subscriber, || log.publish(&[event]));
        let text = lines.text();
        for part in [
            " WARN ",
            "boot failed",
            "mac=fc:ab:14:e8:66:02",
            "node=\"node-001\"",
            "code=\"E-VERIFY\"",
            "chunk 3",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
    }

    /// Collects what is logged.
    #[derive(Clone, Default)]
    struct LogLines(Arc<Mutex<Vec<u8>>>);

    impl LogLines {
        fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    impl Write for LogLines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn the_code_of_a_failure_is_read_from_its_message() {
        let cases = [
            ("[E-VERIFY] chunk 3 is damaged", Some("E-VERIFY")),
            ("[E-X]", Some("E-X")),
            ("E-VERIFY", None),
            ("[E-", None),
            ("]E-[", None),
            ("", None),
        ];
        for (message, code) in cases {
            assert_eq!(failure_code(message), code, "{message}");
        }
    }

    #[tokio::test]
    async fn a_reported_boot_id_is_stored_only_if_the_machine_was_given_it() {
        let id = Some(BootId::new(7));
        let node_000 = MacAddr::new([0xfc, 0xab, 0x14, 0xe8, 0x66, 0x01]);
        for (given_to, expected) in [(Some(NODE_001), id), (Some(node_000), None), (None, None)] {
            let (_dir, log) = log().await;
            if let Some(mac) = given_to {
                log.note(BootEvent { boot: id, ..BootEvent::now(mac, Phase::Script) }).await;
            }
            log.record_report(report(&[(Phase::Ready, 5_000)]), SystemTime::now()).await.unwrap();
            assert_eq!(log.latest().await.unwrap()[&NODE_001].boot, expected, "given to {given_to:?}");
        }
    }

    #[tokio::test]
    async fn a_machine_boots_from_its_dhcp_until_it_reports_that_the_system_is_up() {
        let (_dir, log) = log().await;
        let mut seen = vec![log.is_booting(NODE_001).await.unwrap()];
        let given = BootEvent { boot: Some(BootId::new(7)), ..BootEvent::now(NODE_001, Phase::Script) };
        for event in [BootEvent::now(NODE_001, Phase::Dhcp), given] {
            log.note(event).await;
            seen.push(log.is_booting(NODE_001).await.unwrap());
        }
        let unknown = Report { boot: Some(BootId::new(8)), ..report(&[(Phase::Ready, 1)]) };
        let forged = report(&[(Phase::Dhcp, 3)]);
        for report in [unknown, report(&[(Phase::Unpack, 1)]), report(&[(Phase::Ready, 2)]), forged] {
            log.record_report(report, SystemTime::now()).await.unwrap();
            seen.push(log.is_booting(NODE_001).await.unwrap());
        }
        log.note(BootEvent::now(NODE_001, Phase::Dhcp)).await;
        seen.push(log.is_booting(NODE_001).await.unwrap());
        assert_eq!(seen, [false, true, true, true, true, false, false, true]);
    }

    #[tokio::test]
    async fn attempts_count_scripts_since_the_last_ready() {
        let (_dir, log) = log().await;
        let mut seen = Vec::new();
        for phase in [Phase::Script, Phase::Script, Phase::Ready, Phase::Script] {
            log.note(BootEvent::now(NODE_001, phase)).await;
            seen.push(log.attempts(NODE_001).await.unwrap());
        }
        assert_eq!(seen, [1, 2, 0, 1]);
    }

    #[tokio::test]
    async fn a_boot_is_found_by_the_id_of_its_script() {
        let (_dir, log) = log().await;
        let image: ImageRef = "compute/1".parse().unwrap();
        let script = BootEvent::now(NODE_001, Phase::Script);
        let id = BootId::new(9);
        log.note(BootEvent { boot: Some(id), image: Some(image.clone()), ..script }).await;
        assert_eq!(log.boot(id).await.unwrap(), Some(Boot { mac: NODE_001, image: Some(image) }));
        assert_eq!(log.boot(BootId::new(10)).await.unwrap(), None);
    }

    #[tokio::test]
    async fn of_what_was_refused_the_newest_is_kept_and_pushes_out_nothing_else() {
        let (_dir, log) = log().await;
        log.note(BootEvent::now(NODE_001, Phase::Dhcp)).await;
        let many = MAX_REFUSALS_PER_NODE + 20;
        log.record((0..many).map(|_| BootEvent::now(NODE_001, Phase::Refused)).collect()).await.unwrap();
        let kept = log.events_of(NODE_001).await.unwrap();
        let refused = kept.iter().filter(|event| event.phase == Phase::Refused).count();
        assert_eq!((refused as u32, kept.len() - refused), (MAX_REFUSALS_PER_NODE, 1));
    }

    #[tokio::test]
    async fn only_the_newest_events_are_kept() {
        let (_dir, log) = log().await;
        let many = MAX_EVENTS_PER_NODE + 20;
        let events = (0..many).map(|_| BootEvent::now(NODE_001, Phase::Dhcp)).collect();
        log.record(events).await.unwrap();
        assert_eq!(log.events_of(NODE_001).await.unwrap().len() as u32, MAX_EVENTS_PER_NODE);
    }
}
