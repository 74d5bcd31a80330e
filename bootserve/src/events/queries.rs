//! What is asked of the events in the database.

use std::collections::HashMap;
use std::time::Duration;

use bootspec::event::{BootId, Phase};
use bootspec::{ImageRef, MacAddr};
use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use super::{BootEvent, EventLog};
use crate::database::{Database, DatabaseError, parse_column, query_error};
use crate::status::course::Courses;

/// How many events of a machine are read to know how far it is: some boots. More would take time at the start.
const MAX_EVENTS_READ: u32 = 64;
/// From the first time that a boot loader is told what to boot until it loads it.
const BEGUN_BOOT_LIMIT: Duration = Duration::from_secs(600);

/// The boot that a script began.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Boot {
    /// The machine.
    pub mac: MacAddr,
    /// The image its script named.
    pub image: Option<ImageRef>,
}

/// A stored event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Its number: events are numbered in the order in which they were stored.
    pub id: i64,
    /// What happened.
    pub event: BootEvent,
}

impl EventLog {
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
        let event = boot_event(query.fetch_optional(&self.shared.database.pool).await)?;
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
        let event = boot_event(query.fetch_optional(&self.shared.database.pool).await)?;
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

/// The event in the row that was looked for, if there is one.
fn boot_event(row: Result<Option<SqliteRow>, sqlx::Error>) -> Result<Option<BootEvent>, DatabaseError> {
    row.map_err(query_error("look up a boot in"))?.as_ref().map(event).transpose()
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
