//! Machines in the database: one row each, by MAC address.

use std::path::Path;

use bootspec::MacAddr;
use bootspec::facts::Facts;
use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use super::Machine;
use super::port::RelayPort;
use crate::compat::razor::facts::Facter;
use crate::database::{Database, DatabaseError, parse_column, query_error};

/// With where they are plugged in, whether they were nodes, and what Razor's microkernel said if it was the last to check in.
macro_rules! select_machines {
    () => {
        "SELECT machines.*, circuit_id, remote_id, facter, EXISTS (SELECT 1 FROM released_machines \
         WHERE key IN (machines.mac, facts ->> 'uuid')) AS is_released \
         FROM machines LEFT JOIN switch_ports ON switch_ports.mac = machines.mac \
         LEFT JOIN razor_nodes ON razor_nodes.mac = machines.mac AND facter_unix_ms = last_seen_unix_ms"
    };
}

/// Stores what a machine said at `now`, in milliseconds since 1970. Whether it is heard of for the first time.
pub async fn check_in(database: &Database, facts: &Facts, now_unix_ms: i64) -> Result<bool, DatabaseError> {
    let query = sqlx::query_scalar(
        "INSERT INTO machines (mac, first_seen_unix_ms, last_seen_unix_ms, check_ins, facts) VALUES (?1, ?2, ?2, 1, ?3) \
         ON CONFLICT (mac) DO UPDATE SET last_seen_unix_ms = ?2, check_ins = check_ins + 1, facts = ?3 \
         RETURNING check_ins",
    );
    let json = serde_json::to_string(facts).expect("facts are JSON");
    let query = query.bind(facts.mac.to_string()).bind(now_unix_ms).bind(json);
    let check_ins: i64 = query.fetch_one(&database.pool).await.map_err(query_error("store a machine in"))?;
    Ok(check_ins == 1)
}

/// All machines, those first that were heard of last.
pub async fn machines(database: &Database) -> Result<Vec<Machine>, DatabaseError> {
    let query = sqlx::query(concat!(select_machines!(), " ORDER BY last_seen_unix_ms DESC, machines.mac"));
    let rows = query.fetch_all(&database.pool).await.map_err(query_error("read machines from"))?;
    rows.iter().map(machine_of_row).collect()
}

/// Those of the machines with these MAC addresses that are known, those first that came first.
pub async fn machines_with(database: &Database, macs: &[MacAddr]) -> Result<Vec<Machine>, DatabaseError> {
    let query = sqlx::query(concat!(
        select_machines!(),
        " WHERE machines.mac IN (SELECT value FROM json_each(?)) ORDER BY first_seen_unix_ms, machines.mac"
    ));
    let macs: Vec<_> = macs.iter().map(MacAddr::to_string).collect();
    let query = query.bind(serde_json::to_string(&macs).expect("texts are JSON"));
    let rows = query.fetch_all(&database.pool).await.map_err(query_error("read machines from"))?;
    rows.iter().map(machine_of_row).collect()
}

/// The machines that are stored below the state directory of a bootserve, which may run or not. Nothing is written there.
pub async fn stored_machines(state: &Path) -> Result<Vec<Machine>, DatabaseError> {
    match Database::open_to_read_table(state, "razor_nodes").await? {
        Some(database) => machines(&database).await,
        None => Ok(Vec::new()),
    }
}

/// Forgets a machine, until it checks in again, and that it was a node, so that policies have it again. Whether it was there.
pub async fn forget(database: &Database, mac: MacAddr) -> Result<bool, DatabaseError> {
    let failed = || query_error("remove a machine from");
    let mut transaction = database.pool.begin_with("BEGIN IMMEDIATE").await.map_err(failed())?;
    let mut removed = 0;
    for sql in [
        "DELETE FROM released_machines \
         WHERE key IN (SELECT mac FROM machines WHERE mac = ?1 UNION SELECT facts ->> 'uuid' FROM machines WHERE mac = ?1)",
        "DELETE FROM switch_ports WHERE mac = ?1",
        "DELETE FROM machines WHERE mac = ?1",
    ] {
        let done = sqlx::query(sql).bind(mac.to_string()).execute(&mut *transaction).await;
        removed = done.map_err(failed())?.rows_affected();
    }
    transaction.commit().await.map_err(failed())?;
    Ok(removed > 0)
}

fn machine_of_row(row: &SqliteRow) -> Result<Machine, DatabaseError> {
    let facts: String = row.get("facts");
    let facts = Facts::parse(facts.as_bytes())
        .map_err(|_| DatabaseError::Row { what: "facts of a machine", text: row.get("mac") })?;
    Ok(Machine {
        facts,
        first_seen_unix_ms: row.get("first_seen_unix_ms"),
        last_seen_unix_ms: row.get("last_seen_unix_ms"),
        check_ins: u64::try_from(row.get::<i64, _>("check_ins")).unwrap_or(0),
        port: port_of_row(row)?,
        is_released: row.get("is_released"),
        facter: facter_of_row(row)?,
    })
}

fn facter_of_row(row: &SqliteRow) -> Result<Option<Facter>, DatabaseError> {
    let facter: Option<String> = row.get("facter");
    let error = |_| DatabaseError::Row { what: "facts of facter", text: row.get("mac") };
    facter.map(|json| serde_json::from_str(&json)).transpose().map_err(error)
}

fn port_of_row(row: &SqliteRow) -> Result<Option<RelayPort>, DatabaseError> {
    let id = |column: &str| {
        let text: Option<String> = row.get(column);
        text.map(|text| parse_column("the port of a machine", text)).transpose()
    };
    let (circuit_id, remote_id) = (id("circuit_id")?, id("remote_id")?);
    let is_known = circuit_id.is_some() || remote_id.is_some();
    Ok(is_known.then_some(RelayPort { circuit_id, remote_id }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn facts(number: u32) -> Facts {
        let [a, b, c, d] = number.to_be_bytes();
        let mac = MacAddr::new([2, 0, a, b, c, d]).to_string();
        let json = json!({
            "mac": mac,
            "system": {"product": "R640", "serial": format!("S{number}")},
            "firmware": {"kind": "uefi"},
        });
        Facts::parse(json.to_string().as_bytes()).unwrap()
    }

    #[tokio::test]
    async fn a_machine_is_kept_with_what_it_said_last() {
        let dir = tempfile::tempdir().unwrap();
        let database = Database::open(dir.path()).await.unwrap();
        assert!(check_in(&database, &facts(1), 10).await.unwrap());
        assert!(check_in(&database, &facts(2), 20).await.unwrap());
        let more = Facts { memory_bytes: 7, ..facts(1) };
        assert!(!check_in(&database, &more, 30).await.unwrap());
        let machines = machines(&database).await.unwrap();
        let (first_seen_unix_ms, last_seen_unix_ms) = (10, 30);
        let (port, is_released, facter) = (None, false, None);
        let check_ins = 2;
        let expected = Machine {
            facts: more,
            first_seen_unix_ms,
            last_seen_unix_ms,
            check_ins,
            port,
            is_released,
            facter,
        };
        assert_eq!(machines[0], expected);
        assert!(machines[1].is_called("S2") && machines[1].is_called("02:00:00:00:00:02"));
        assert!(!machines[1].is_called("S1") && !machines[1].is_called(""));
        assert!(forget(&database, facts(1).mac).await.unwrap());
        assert!(!forget(&database, facts(1).mac).await.unwrap());
    }

    #[tokio::test]
    async fn those_that_were_heard_of_last_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let database = Database::open(dir.path()).await.unwrap();
        let mut transaction = database.pool.begin().await.unwrap();
        for number in 0..4097 {
            let facts = facts(number);
            sqlx::query("INSERT INTO machines VALUES (?, 0, ?, 1, ?)")
                .bind(facts.mac.to_string())
                .bind(number)
                .bind(serde_json::to_string(&facts).unwrap())
                .execute(&mut *transaction)
                .await
                .unwrap();
        }
        transaction.commit().await.unwrap();
        let machines = machines(&database).await.unwrap();
        assert_eq!(machines.len(), 4096);
        assert_eq!(machines.last().unwrap().serial(), Some("S1"), "the oldest one is gone");
    }
}
