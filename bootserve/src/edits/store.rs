//! Edits in the database. Each change is one transaction, which reads what is there, checks the whole configuration with the change,
//! and stores it with what it changed: of any number of writers, none loses what another has written,
//! and a killed one has changed all or nothing.

use std::collections::{BTreeSet, HashSet};
use std::panic::resume_unwind;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use bootspec::MacAddr;
use bootspec::store::NodeName;
use serde::Serialize;
use sqlx::sqlite::SqliteRow;
use sqlx::{Row, Sqlite, SqliteConnection, Transaction};
use tokio::task::spawn_blocking;
use toml::Table;

use super::operation::{Changed, Made, Operation, OperationError, Past, changed};
use super::{Edit, Edits, KEYS};
use crate::config::{Changes, Config, ConfigError};
use crate::database::{Database, DatabaseError, parse_column, query_error};
use crate::inventory::node_set::NodeSet;
use crate::timestamp::unix_ms;

/// Older databases do not have it.
const TABLE: &str = "node_edits";
/// How often a change is prepared while others may write.
const QUICK_TRIES: usize = 3;

/// Who makes changes that nobody asks for at that moment.
const AUTHOR: &str = "bootserve";

/// A change that was not made.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    /// It cannot be made.
    #[error(transparent)]
    Operation(#[from] OperationError),
    /// With it, the configuration would not be consistent with itself.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// It cannot be stored.
    #[error(transparent)]
    Database(#[from] DatabaseError),
}

/// A change that was made, or would be.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Outcome {
    /// Its number; none if nothing was stored.
    pub revision: Option<i64>,
    /// What it changes of the nodes.
    pub changes: Changes,
}

/// A change that was made before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Revision {
    /// Its number.
    pub revision: i64,
    /// When, in milliseconds since 1970.
    pub time_unix_ms: i64,
    /// By whom.
    pub author: String,
    /// What was asked for.
    pub operation: String,
    /// The nodes that it changed.
    pub nodes: Vec<NodeName>,
}

/// What is stored below the state directory of a bootserve, which may run or not. Nothing is written there.
pub async fn stored_edits(state: &Path) -> Result<Edits, DatabaseError> {
    match Database::open_to_read_table(state, TABLE).await? {
        Some(database) => read(&database).await,
        None => Ok(Edits::default()),
    }
}

/// The newest changes that are stored there.
pub async fn stored_history(state: &Path, limit: u32) -> Result<Vec<Revision>, DatabaseError> {
    match Database::open_to_read_table(state, TABLE).await? {
        Some(database) => history(&database, limit).await,
        None => Ok(Vec::new()),
    }
}

/// All edits.
pub async fn read(database: &Database) -> Result<Edits, DatabaseError> {
    let mut connection = database.pool.acquire().await.map_err(query_error("read nodes from"))?;
    read_edits(&mut connection).await
}

/// The number of the newest change; 0 if there is none.
pub async fn newest_revision(database: &Database) -> Result<i64, DatabaseError> {
    let query = sqlx::query_scalar("SELECT ifnull(max(revision), 0) FROM node_changes");
    query.fetch_one(&database.pool).await.map_err(query_error("read changes of nodes from"))
}

/// The newest changes, at most `limit`, the newest first.
pub async fn history(database: &Database, limit: u32) -> Result<Vec<Revision>, DatabaseError> {
    let query = sqlx::query(
        "SELECT revision, time_unix_ms, author, operation, \
         (SELECT json_group_array(node) FROM node_change_rows AS rows WHERE rows.revision = node_changes.revision) AS nodes \
         FROM node_changes ORDER BY revision DESC LIMIT ?",
    );
    let rows = query.bind(limit).fetch_all(&database.pool).await;
    let rows = rows.map_err(query_error("read changes of nodes from"))?;
    rows.iter().map(revision_of_row).collect()
}

fn revision_of_row(row: &SqliteRow) -> Result<Revision, DatabaseError> {
    let nodes: String = row.get("nodes");
    let nodes = serde_json::from_str(&nodes).map_err(|_| DatabaseError::Row { what: "nodes", text: nodes });
    Ok(Revision {
        revision: row.get("revision"),
        time_unix_ms: row.get("time_unix_ms"),
        author: row.get("author"),
        operation: row.get("operation"),
        nodes: nodes?,
    })
}

/// A node that a machine became.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bound {
    /// By which change.
    pub revision: i64,
    /// The MAC address of the machine.
    pub mac: MacAddr,
    /// The node.
    pub node: NodeName,
}

/// Makes nodes of machines, by an [`Operation::Bind`]; those that became none are left out.
pub async fn bind(
    database: &Database,
    config: &Arc<Config>,
    author: &str,
    operation: &Operation,
) -> Result<Vec<Bound>, ChangeError> {
    let (outcome, nodes) = make(database, config, author, operation, Telling::Nothing).await?;
    let Some(revision) = outcome.revision else { return Ok(Vec::new()) };
    let bound = nodes.into_iter().filter_map(|Changed { name: node, after, .. }| {
        let mac = after?.table.get("mac")?.as_str()?.parse().ok()?;
        Some(Bound { revision, mac, node })
    });
    Ok(bound.collect())
}

/// Makes a change of `config`'s nodes. Whatever edits `config` has, those of the database count.
///
/// It is checked without holding up other writers of the database, those of leases among them, unless others are quicker each time.
pub async fn change(
    database: &Database,
    config: &Arc<Config>,
    author: &str,
    operation: &Operation,
) -> Result<Outcome, ChangeError> {
    make(database, config, author, operation, Telling::Changes).await.map(|(outcome, _)| outcome)
}

async fn make(
    database: &Database,
    config: &Arc<Config>,
    author: &str,
    operation: &Operation,
    telling: Telling,
) -> Result<(Outcome, Vec<Changed>), ChangeError> {
    for _ in 0..QUICK_TRIES {
        let mut reading = database.pool.begin().await.map_err(failed())?;
        let before = Before::read(&mut reading, operation).await?;
        reading.rollback().await.map_err(failed())?;
        let plan = Plan::make(config, operation, before, telling).await?;
        if plan.nodes.is_empty() {
            return Ok((Outcome { revision: None, changes: plan.changes }, Vec::new()));
        }
        let mut writing = database.pool.begin_with("BEGIN IMMEDIATE").await.map_err(failed())?;
        if next_revision(&mut writing).await? == plan.revision {
            return plan.store(writing, author, operation).await;
        }
    }
    let mut writing = database.pool.begin_with("BEGIN IMMEDIATE").await.map_err(failed())?;
    let before = Before::read(&mut writing, operation).await?;
    let plan = Plan::make(config, operation, before, telling).await?;
    plan.store(writing, author, operation).await
}

/// What a change would be, if it were made now. Nothing is written.
pub async fn trial(
    database: &Database,
    config: &Arc<Config>,
    operation: &Operation,
) -> Result<Outcome, ChangeError> {
    let mut reading = database.pool.begin().await.map_err(query_error("read nodes from"))?;
    let before = Before::read(&mut reading, operation).await?;
    let Plan { changes, .. } = Plan::make(config, operation, before, Telling::Changes).await?;
    Ok(Outcome { revision: None, changes })
}

/// The same for a bootserve with this state directory, which may run or not.
pub async fn stored_trial(config: &Arc<Config>, operation: &Operation) -> Result<Outcome, ChangeError> {
    if let Some(database) = Database::open_to_read_table(&config.server.state, TABLE).await? {
        return trial(&database, config, operation).await;
    }
    let before = Before { edits: Edits::default(), next_revision: 1, past: Past::default() };
    let Plan { changes, .. } = Plan::make(config, operation, before, Telling::Changes).await?;
    Ok(Outcome { revision: None, changes })
}

/// Notes that the boot has begun which a node had settings for; the next one goes without them.
pub async fn spend_once(database: &Database, name: &NodeName) -> Result<(), DatabaseError> {
    let mut transaction = database.pool.begin_with("BEGIN IMMEDIATE").await.map_err(failed())?;
    let Some(before) =
        read_edits(&mut transaction).await?.0.remove(name).filter(|edit| !edit.once.is_empty())
    else {
        return Ok(());
    };
    let revision = next_revision(&mut transaction).await?;
    let after = Edit { revision, once: Table::new(), ..before.clone() };
    let after = Some(after).filter(|after| !after.is_empty());
    let node = Changed { name: name.clone(), before: Some(before), after };
    write(&mut transaction, revision, AUTHOR, &format!("boot {name}"), &[node]).await?;
    transaction.commit().await.map_err(failed())
}

/// Whether somebody wants to know what a change changes of the settings, which takes about as long as to check it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Telling {
    Changes,
    Nothing,
}

/// What a change is made of.
struct Before {
    edits: Edits,
    next_revision: i64,
    past: Past,
}

impl Before {
    async fn read(connection: &mut SqliteConnection, operation: &Operation) -> Result<Self, DatabaseError> {
        let past = match operation {
            Operation::Undo { revision } => {
                Past { undone: made(connection, *revision).await?, ..Past::default() }
            }
            Operation::Bind { .. } => Past { released: released(connection).await?, ..Past::default() },
            _ => Past::default(),
        };
        let (edits, next_revision) = (read_edits(connection).await?, next_revision(connection).await?);
        Ok(Self { edits, next_revision, past })
    }
}

/// What a change will be, if no other is made before.
struct Plan {
    revision: i64,
    nodes: Vec<Changed>,
    changes: Changes,
}

impl Plan {
    /// With thousands of nodes it takes long enough to do it on another thread.
    async fn make(
        config: &Arc<Config>,
        operation: &Operation,
        before: Before,
        telling: Telling,
    ) -> Result<Self, ChangeError> {
        let (config, operation) = (Arc::clone(config), operation.clone());
        let made = spawn_blocking(move || {
            let Before { edits, next_revision: revision, past } = before;
            let before = config.with_edits(edits.clone());
            let base = before.as_ref().unwrap_or(&config);
            let new = operation.apply(base, &edits, revision, past)?;
            let nodes = changed(&edits, &new);
            let changes = match config.with_edits(new) {
                Ok(_) if telling == Telling::Nothing => Changes::default(),
                Ok(after) => base.settings().changes(&after.settings()),
                // The files have changed since. It takes several steps to put that right where several nodes do not fit.
                Err(_) if before.is_err() && operation.takes_back() => Changes::default(),
                Err(error) => return Err(error.into()),
            };
            Ok(Self { revision, nodes, changes })
        });
        made.await.unwrap_or_else(|panicked| resume_unwind(panicked.into_panic()))
    }

    async fn store(
        self,
        mut transaction: Transaction<'_, Sqlite>,
        author: &str,
        operation: &Operation,
    ) -> Result<(Outcome, Vec<Changed>), ChangeError> {
        let Self { revision, nodes, changes } = self;
        if nodes.is_empty() {
            return Ok((Outcome { revision: None, changes }, nodes));
        }
        write(&mut transaction, revision, author, &described(operation, &nodes), &nodes).await?;
        transaction.commit().await.map_err(failed())?;
        Ok((Outcome { revision: Some(revision), changes }, nodes))
    }
}

/// What was asked for. Which nodes a policy makes is not asked for, and is told with it.
fn described(operation: &Operation, nodes: &[Changed]) -> String {
    match operation {
        Operation::Bind { policy, .. } => {
            let names = NodeSet(nodes.iter().map(|node| node.name.clone()).collect());
            format!("bind {names} policy={policy}")
        }
        other => other.to_string(),
    }
}

fn failed() -> impl Fn(sqlx::Error) -> DatabaseError {
    query_error("change nodes in")
}

async fn next_revision(connection: &mut SqliteConnection) -> Result<i64, DatabaseError> {
    // Numbers of changes that were forgotten are not used again.
    let query = sqlx::query_scalar(
        "SELECT 1 + max(ifnull((SELECT seq FROM sqlite_sequence WHERE name = 'node_changes'), 0), \
         ifnull((SELECT max(revision) FROM node_changes), 0))",
    );
    query.fetch_one(connection).await.map_err(query_error("read changes of nodes from"))
}

async fn read_edits(connection: &mut SqliteConnection) -> Result<Edits, DatabaseError> {
    let query = sqlx::query("SELECT node, added, revision, settings, once FROM node_edits");
    let rows = query.fetch_all(connection).await.map_err(query_error("read nodes from"))?;
    rows.iter().map(edit_of_row).collect::<Result<_, _>>().map(Edits)
}

fn edit_of_row(row: &SqliteRow) -> Result<(NodeName, Edit), DatabaseError> {
    let edit = Edit {
        added: row.get("added"),
        revision: row.get("revision"),
        table: parse_column("settings of a node", row.get("settings"))?,
        once: parse_column("settings of a node for one boot", row.get("once"))?,
    };
    Ok((parse_column("the name of a node", row.get("node"))?, edit))
}

/// What change number `revision` made, or the newest one, if it is there.
async fn made(
    connection: &mut SqliteConnection,
    revision: Option<i64>,
) -> Result<Option<Made>, DatabaseError> {
    let query = sqlx::query(
        "SELECT * FROM node_change_rows \
         WHERE revision = ifnull(?, (SELECT max(revision) FROM node_changes))",
    );
    let rows = query.bind(revision).fetch_all(connection).await;
    let rows = rows.map_err(query_error("read changes of nodes from"))?;
    let Some(first) = rows.first() else { return Ok(None) };
    let edit = |row: &SqliteRow, which: &str| match row.get::<Option<String>, _>(which) {
        Some(text) => toml::from_str::<Edit>(&text)
            .map(Some)
            .map_err(|_| DatabaseError::Row { what: "a change of a node", text }),
        None => Ok(None),
    };
    let nodes = rows.iter().map(|row| {
        let name = parse_column("the name of a node", row.get("node"))?;
        Ok(Changed { name, before: edit(row, "before")?, after: edit(row, "after")? })
    });
    Ok(Some((first.get("revision"), nodes.collect::<Result<_, DatabaseError>>()?)))
}

async fn write(
    connection: &mut SqliteConnection,
    revision: i64,
    author: &str,
    operation: &str,
    nodes: &[Changed],
) -> Result<(), DatabaseError> {
    sqlx::query("INSERT INTO node_changes (revision, time_unix_ms, author, operation) VALUES (?, ?, ?, ?)")
        .bind(revision)
        .bind(unix_ms(SystemTime::now()))
        .bind(author)
        .bind(operation)
        .execute(&mut *connection)
        .await
        .map_err(failed())?;
    let stored = |edit: &Option<Edit>| {
        edit.as_ref().map(|edit| toml::to_string(edit).expect("it holds a table of TOML"))
    };
    for Changed { name, before, after } in nodes {
        sqlx::query("INSERT INTO node_change_rows (revision, node, before, after) VALUES (?, ?, ?, ?)")
            .bind(revision)
            .bind(name.as_str())
            .bind(stored(before))
            .bind(stored(after))
            .execute(&mut *connection)
            .await
            .map_err(failed())?;
        let query = match after {
            Some(edit) => sqlx::query(
                "INSERT OR REPLACE INTO node_edits (node, added, revision, settings, once) VALUES (?, ?, ?, ?, ?)",
            )
            .bind(name.as_str())
            .bind(edit.added)
            .bind(edit.revision)
            .bind(edit.table.to_string())
            .bind(edit.once.to_string()),
            None => sqlx::query("DELETE FROM node_edits WHERE node = ?").bind(name.as_str()),
        };
        query.execute(&mut *connection).await.map_err(failed())?;
    }
    release(connection, nodes).await
}

/// Notes what nodes were known by and are not any more: policies of discovery leave such machines alone, or what was undone would be done
/// again at their next check-in.
async fn release(connection: &mut SqliteConnection, nodes: &[Changed]) -> Result<(), DatabaseError> {
    let before: BTreeSet<_> = nodes.iter().flat_map(|node| keys(node.before.as_ref())).collect();
    let after: BTreeSet<_> = nodes.iter().flat_map(|node| keys(node.after.as_ref())).collect();
    for (sql, keys) in [
        ("INSERT OR REPLACE INTO released_machines (key) SELECT value FROM json_each(?)", &before - &after),
        ("DELETE FROM released_machines WHERE key IN (SELECT value FROM json_each(?))", after),
    ] {
        if !keys.is_empty() {
            let keys = serde_json::to_string(&keys).expect("texts are JSON");
            sqlx::query(sql).bind(keys).execute(&mut *connection).await.map_err(failed())?;
        }
    }
    Ok(())
}

/// What the machine of an edited node is known by.
fn keys(edit: Option<&Edit>) -> impl Iterator<Item = &str> {
    KEYS.iter().filter_map(move |key| edit?.table.get(*key)?.as_str())
}

async fn released(connection: &mut SqliteConnection) -> Result<HashSet<String>, DatabaseError> {
    let query = sqlx::query_scalar("SELECT key FROM released_machines");
    let keys: Vec<String> =
        query.fetch_all(connection).await.map_err(query_error("read released machines from"))?;
    Ok(keys.into_iter().collect())
}
