//! Leases in the database: one row an address, and one row a machine.

use std::net::Ipv4Addr;
use std::time::{Duration, SystemTime};

use bootspec::MacAddr;
use sqlx::sqlite::SqliteRow;
use sqlx::{Row, SqliteConnection};

use super::leases::Lease;
use crate::database::{Database, DatabaseError, parse_column, query_error};

/// All stored leases.
pub async fn read_leases(database: &Database) -> Result<Vec<Lease>, DatabaseError> {
    let query = sqlx::query("SELECT mac, address, expires_unix FROM leases");
    let rows = query.fetch_all(&database.pool).await.map_err(query_error("read leases from"))?;
    rows.iter().map(lease_of_row).collect()
}

const OF_MACHINE: &str = "SELECT mac, address, expires_unix FROM leases WHERE mac = ? AND expires_unix > ?";
const OF_ADDRESS: &str =
    "SELECT mac, address, expires_unix FROM leases WHERE address = ? AND expires_unix > ?";

/// Whose lease is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseOf {
    /// That of a machine.
    Machine(MacAddr),
    /// That of an address.
    Address(Ipv4Addr),
}

/// The lease that has not run out at `now`, found by an index.
pub async fn current_lease(
    database: &Database,
    of: LeaseOf,
    now: SystemTime,
) -> Result<Option<Lease>, DatabaseError> {
    let (query, key) = match of {
        LeaseOf::Machine(mac) => (OF_MACHINE, mac.to_string()),
        LeaseOf::Address(address) => (OF_ADDRESS, address.to_string()),
    };
    let query = sqlx::query(query).bind(key).bind(unix_seconds(now));
    let row = query.fetch_optional(&database.pool).await.map_err(query_error("look up a lease in"))?;
    row.as_ref().map(lease_of_row).transpose()
}

fn lease_of_row(row: &SqliteRow) -> Result<Lease, DatabaseError> {
    let expires_unix = u64::try_from(row.get::<i64, _>("expires_unix")).unwrap_or(0);
    Ok(Lease {
        mac: parse_column("mac", row.get("mac"))?,
        address: parse_column("address", row.get("address"))?,
        expires: SystemTime::UNIX_EPOCH + Duration::from_secs(expires_unix),
    })
}

/// Stores leases one after the other, each in place of any other of its machine or its address. One statement for all, as the
/// way to SQLite's thread and back takes longer than storing a lease.
pub async fn write_leases(
    connection: &mut SqliteConnection,
    leases: impl IntoIterator<Item = Lease>,
) -> Result<(), DatabaseError> {
    let rows: Vec<_> = leases
        .into_iter()
        .map(|lease| (lease.address, lease.mac.to_string(), unix_seconds(lease.expires)))
        .collect();
    if rows.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "INSERT OR REPLACE INTO leases (address, mac, expires_unix) \
         SELECT value ->> 0, value ->> 1, value ->> 2 FROM json_each(?) ORDER BY key",
    )
    .bind(serde_json::to_string(&rows).expect("addresses and numbers are JSON"))
    .execute(connection)
    .await
    .map_err(query_error("store leases in"))?;
    Ok(())
}

/// The machine that was last given `address`.
pub async fn mac_of(database: &Database, address: Ipv4Addr) -> Result<Option<MacAddr>, DatabaseError> {
    let query = sqlx::query_scalar("SELECT mac FROM leases WHERE address = ?").bind(address.to_string());
    let mac: Option<String> =
        query.fetch_optional(&database.pool).await.map_err(query_error("look up an address in"))?;
    mac.map(|mac| parse_column("mac", mac)).transpose()
}

/// The address that the machine has a lease for at `now`.
pub async fn leased_address(
    database: &Database,
    mac: MacAddr,
    now: SystemTime,
) -> Result<Option<Ipv4Addr>, DatabaseError> {
    let lease = current_lease(database, LeaseOf::Machine(mac), now).await?;
    Ok(lease.map(|lease| lease.address))
}

/// Whether the machine was ever given an address.
pub async fn has_lease(database: &Database, mac: MacAddr) -> Result<bool, DatabaseError> {
    let query =
        sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM leases WHERE mac = ?)").bind(mac.to_string());
    query.fetch_one(&database.pool).await.map_err(query_error("look up a machine in"))
}

fn unix_seconds(time: SystemTime) -> i64 {
    let seconds = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    i64::try_from(seconds).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn leases_survive_reopening_and_replace_each_other() {
        let dir = tempfile::tempdir().unwrap();
        let lease = |mac: u8, last: u8| Lease {
            mac: MacAddr::new([2, 0, 0, 0, 0, mac]),
            address: Ipv4Addr::new(10, 0, 0, last),
            expires: SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000),
        };
        let database = Database::open(dir.path()).await.unwrap();
        let mut connection = database.pool.acquire().await.unwrap();
        write_leases(&mut connection, [lease(1, 1), lease(2, 2)]).await.unwrap();
        write_leases(&mut connection, [lease(1, 4), lease(1, 3), lease(3, 2)]).await.unwrap();
        drop(connection);
        database.close().await;
        let database = Database::open(dir.path()).await.unwrap();
        let mut leases = read_leases(&database).await.unwrap();
        leases.sort_by_key(|lease| lease.mac);
        assert_eq!(leases, [lease(1, 3), lease(3, 2)]);
        assert_eq!(mac_of(&database, Ipv4Addr::new(10, 0, 0, 3)).await.unwrap(), Some(lease(1, 3).mac));
        assert_eq!(mac_of(&database, Ipv4Addr::new(10, 0, 0, 1)).await.unwrap(), None);
        assert!(!has_lease(&database, lease(2, 2).mac).await.unwrap());
        let lease = lease(1, 3);
        let just_before = lease.expires - Duration::from_secs(1);
        for of in [LeaseOf::Machine(lease.mac), LeaseOf::Address(lease.address)] {
            assert_eq!(current_lease(&database, of, just_before).await.unwrap(), Some(lease));
            assert_eq!(current_lease(&database, of, lease.expires).await.unwrap(), None);
        }
        for (now, expected) in [(just_before, Some(lease.address)), (lease.expires, None)] {
            assert_eq!(leased_address(&database, lease.mac, now).await.unwrap(), expected);
        }
    }

    #[tokio::test]
    async fn a_lease_is_found_without_a_look_at_all_of_them() {
        let dir = tempfile::tempdir().unwrap();
        let database = Database::open(dir.path()).await.unwrap();
        for query in [OF_MACHINE, OF_ADDRESS] {
            let plan = sqlx::query(sqlx::AssertSqlSafe(format!("EXPLAIN QUERY PLAN {query}")));
            let plan = plan.bind("").bind(0).fetch_all(&database.pool).await.unwrap();
            let steps: Vec<String> = plan.iter().map(|step| step.get("detail")).collect();
            assert!(steps.iter().all(|step| step.starts_with("SEARCH leases USING INDEX")), "{steps:?}");
        }
    }
}
