//! Razor's numbers of machines in the database, and what machines are known by.
//!
//! A number is given once: that of a machine that is forgotten is no other's.

use bootspec::MacAddr;
use sqlx::sqlite::SqliteRow;
use sqlx::{Row, SqliteConnection};

use super::facts::Facter;
use super::hardware::Hardware;
use crate::database::{Database, DatabaseError, parse_column, query_error};

/// A machine is known by no more than this: cards come and go.
const MAX_KEYS: i64 = 128;

/// A machine with a number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Numbered {
    /// Its number.
    pub id: i64,
    /// The interface that it was first known by: who it is among our machines.
    pub mac: MacAddr,
    /// All of its interfaces that are known.
    pub macs: Vec<MacAddr>,
    /// Whether a system was installed on its disk.
    pub is_installed: bool,
    /// Whether it has said its facts.
    pub is_registered: bool,
    /// How many stages of its boots were done.
    pub boots: i64,
}

/// Which machine is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// This one.
    One(Numbered),
    /// It could be each of these.
    Several(Vec<Numbered>),
    /// None that is known.
    Unknown,
}

macro_rules! select_numbered {
    () => {
        "SELECT id, mac, boots, installed, facter IS NOT NULL AS registered, \
         (SELECT json_group_array(substr(key, 5)) FROM razor_hardware AS known \
          WHERE known.id = razor_nodes.id AND key GLOB 'mac=*') AS macs FROM razor_nodes"
    };
}

/// The machine with this hardware. Nothing is written.
pub async fn find(database: &Database, hardware: &Hardware) -> Result<Found, DatabaseError> {
    let connection = database.pool.acquire().await;
    find_by(&mut *connection.map_err(query_error("look up a machine in"))?, hardware).await
}

/// The machine with this hardware at `now`, in milliseconds since 1970; a new one if none is known and it names an interface. What it
/// says besides, it is known by from now on.
pub async fn identify(
    database: &Database,
    hardware: &Hardware,
    now_unix_ms: i64,
) -> Result<Found, DatabaseError> {
    let failed = || query_error("store a machine in");
    let mut transaction = database.pool.begin_with("BEGIN IMMEDIATE").await.map_err(failed())?;
    let id = match find_by(&mut transaction, hardware).await? {
        Found::One(machine) => Some(machine.id),
        Found::Several(machines) => return Ok(Found::Several(machines)),
        Found::Unknown => None,
    };
    let id = match (id, hardware.macs.first()) {
        (Some(id), _) => {
            let query = sqlx::query("UPDATE razor_nodes SET seen_unix_ms = ? WHERE id = ?");
            query.bind(now_unix_ms).bind(id).execute(&mut *transaction).await.map_err(failed())?;
            id
        }
        (None, Some(mac)) => {
            let query = sqlx::query("INSERT INTO razor_nodes (mac, seen_unix_ms) VALUES (?, ?)");
            let done = query.bind(mac.to_string()).bind(now_unix_ms).execute(&mut *transaction).await;
            done.map_err(failed())?.last_insert_rowid()
        }
        (None, None) => return Ok(Found::Unknown),
    };
    let query = sqlx::query(
        "INSERT OR IGNORE INTO razor_hardware (key, id) SELECT value, ?1 FROM json_each(?2) \
         WHERE (SELECT count(*) FROM razor_hardware WHERE id = ?1) < ?3",
    );
    let keys = serde_json::to_string(&hardware.keys()).expect("texts are JSON");
    query.bind(id).bind(keys).bind(MAX_KEYS).execute(&mut *transaction).await.map_err(failed())?;
    let found = read_by(&mut transaction, id).await?;
    transaction.commit().await.map_err(failed())?;
    Ok(found.map_or(Found::Unknown, Found::One))
}

async fn find_by(connection: &mut SqliteConnection, hardware: &Hardware) -> Result<Found, DatabaseError> {
    let query = sqlx::query(concat!(
        select_numbered!(),
        " WHERE id IN (SELECT id FROM razor_hardware WHERE key IN (SELECT value FROM json_each(?))) \
         ORDER BY id LIMIT 16"
    ));
    let sought = serde_json::to_string(&hardware.sought()).expect("texts are JSON");
    let rows = query.bind(sought).fetch_all(connection).await.map_err(query_error("look up a machine in"))?;
    let mut machines = rows.iter().map(numbered).collect::<Result<Vec<_>, _>>()?;
    Ok(match machines.len() {
        0 => Found::Unknown,
        1 => Found::One(machines.remove(0)),
        _ => Found::Several(machines),
    })
}

/// The machine with this number.
pub async fn read(database: &Database, id: i64) -> Result<Option<Numbered>, DatabaseError> {
    let connection = database.pool.acquire().await;
    read_by(&mut *connection.map_err(query_error("look up a machine in"))?, id).await
}

async fn read_by(connection: &mut SqliteConnection, id: i64) -> Result<Option<Numbered>, DatabaseError> {
    let query = sqlx::query(concat!(select_numbered!(), " WHERE id = ?")).bind(id);
    let row = query.fetch_optional(connection).await.map_err(query_error("look up a machine in"))?;
    row.as_ref().map(numbered).transpose()
}

/// Stores what facter said on a machine at `now`, which is when it has checked in with us.
pub async fn write_facter(
    database: &Database,
    id: i64,
    facter: &Facter,
    now_unix_ms: i64,
) -> Result<(), DatabaseError> {
    let query = sqlx::query(
        "UPDATE razor_nodes SET facter = ?, facter_unix_ms = ?2, seen_unix_ms = ?2 WHERE id = ?3",
    );
    let json = serde_json::to_string(facter).expect("facts are JSON");
    let done = query.bind(json).bind(now_unix_ms).bind(id).execute(&database.pool).await;
    done.map_err(query_error("store facts in"))?;
    Ok(())
}

/// Counts a stage that a machine has done; with the last one it is installed. Whether the machine is known.
pub async fn stage_done(database: &Database, id: i64, is_last: bool) -> Result<bool, DatabaseError> {
    let query =
        sqlx::query("UPDATE razor_nodes SET boots = boots + 1, installed = installed OR ? WHERE id = ?");
    let done = query.bind(is_last).bind(id).execute(&database.pool).await;
    Ok(done.map_err(query_error("store a machine in"))?.rows_affected() > 0)
}

fn numbered(row: &SqliteRow) -> Result<Numbered, DatabaseError> {
    let macs: String = row.get("macs");
    let error = |_| DatabaseError::Row { what: "interfaces of a machine", text: row.get("macs") };
    Ok(Numbered {
        id: row.get("id"),
        mac: parse_column("an interface of a machine", row.get("mac"))?,
        macs: serde_json::from_str(&macs).map_err(error)?,
        is_installed: row.get("installed"),
        is_registered: row.get("registered"),
        boots: row.get("boots"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn database() -> (tempfile::TempDir, Database) {
        let dir = tempfile::tempdir().unwrap();
        let database = Database::open(dir.path()).await.unwrap();
        (dir, database)
    }

    async fn number(database: &Database, query: &str) -> i64 {
        match identify(database, &Hardware::parse(query), 1).await.unwrap() {
            Found::One(machine) => machine.id,
            other => panic!("{query}: {other:?}"),
        }
    }

    const A: &str = "net0=02-00-00-00-00-01";
    const B: &str = "net0=02-00-00-00-00-02";

    #[tokio::test]
    async fn a_machine_keeps_its_number_by_whatever_it_is_known() {
        let (_dir, database) = database().await;
        let first = number(&database, &format!("{A}&serial=S1&asset=x")).await;
        let second = number(&database, &format!("{B}&serial=S1")).await;
        assert_ne!(first, second, "a serial number that two have");
        assert_eq!(number(&database, &format!("net1=02-00-00-00-00-03&{A}")).await, first);
        assert_eq!(number(&database, "net0=02-00-00-00-00-03").await, first, "by its other card");
        assert_eq!(number(&database, "asset=X").await, first);
        let several = find(&database, &Hardware::parse("serial=s1")).await.unwrap();
        assert!(matches!(several, Found::Several(machines) if machines.len() == 2));
        for unknown in ["serial=nosuch", ""] {
            let found = identify(&database, &Hardware::parse(unknown), 1).await.unwrap();
            assert_eq!(found, Found::Unknown);
        }
    }

    #[tokio::test]
    async fn a_number_is_given_once_and_those_heard_of_last_are_kept() {
        let (_dir, database) = database().await;
        let first = number(&database, A).await;
        assert!(stage_done(&database, first, false).await.unwrap());
        assert!(stage_done(&database, first, true).await.unwrap());
        let machine = read(&database, first).await.unwrap().unwrap();
        assert_eq!((machine.boots, machine.is_installed, machine.is_registered), (2, true, false));
        let sql = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 4096) \
                   INSERT INTO razor_nodes (mac, seen_unix_ms) SELECT 'x' || i, 5 FROM n";
        sqlx::query(sql).execute(&database.pool).await.unwrap();
        let count: i64 =
            sqlx::query_scalar("SELECT count(*) FROM razor_nodes").fetch_one(&database.pool).await.unwrap();
        assert_eq!(count, 4096);
        assert_eq!(read(&database, first).await.unwrap(), None);
        assert!(!stage_done(&database, first, true).await.unwrap());
        let again = identify(&database, &Hardware::parse(A), 9).await.unwrap();
        assert!(matches!(again, Found::One(machine) if machine.id == first + 4097));
    }
}
