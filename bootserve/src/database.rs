//! What must survive a restart: leases, boot events and changes of nodes, in one SQLite file below the state directory.
//!
//! Write-ahead logging, and every commit is synced: an acknowledged lease is on the disk. The tables' queries stand
//! with their owners, [`crate::dhcp::store`], [`crate::events`], [`crate::edits::store`],
//! [`crate::tokens`] and [`crate::secrets`].

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};

/// File name of the database in the state directory.
const FILE: &str = "state.sqlite";
/// The files that SQLite makes there, with its log and its shared memory.
pub(crate) const FILES: [&str; 3] = [FILE, "state.sqlite-wal", "state.sqlite-shm"];
const MAX_CONNECTIONS: u32 = 4;
/// How long a writer waits for those before it, of this process or of another.
const BUSY_TIMEOUT: Duration = Duration::from_secs(60);

const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS leases (
    address      TEXT PRIMARY KEY,
    mac          TEXT NOT NULL UNIQUE,
    expires_unix INTEGER NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS events (
    id           INTEGER PRIMARY KEY,
    mac          TEXT NOT NULL,
    time_unix_ms INTEGER NOT NULL,
    phase        TEXT NOT NULL,
    boot         TEXT,
    image        TEXT,
    uptime_ms    INTEGER,
    message      TEXT
) STRICT;
CREATE INDEX IF NOT EXISTS events_of_mac ON events (mac, id);
CREATE INDEX IF NOT EXISTS events_of_boot ON events (boot) WHERE boot IS NOT NULL;
-- A node repeats what it reported before; its own clock tells a repetition from news.
CREATE UNIQUE INDEX IF NOT EXISTS reported_once
    ON events (mac, ifnull(boot, ''), phase, uptime_ms) WHERE uptime_ms IS NOT NULL;
-- A machine's newest 1000 are kept.
CREATE TRIGGER IF NOT EXISTS events_of_mac_are_bounded AFTER INSERT ON events BEGIN
    DELETE FROM events WHERE mac = new.mac AND id <=
        (SELECT id FROM events WHERE mac = new.mac ORDER BY id DESC LIMIT 1 OFFSET 1000);
END;
-- Of which a hundred say what it was refused: whoever asks for nonsense does not push out what happened.
CREATE TRIGGER IF NOT EXISTS refusals_of_mac_are_bounded AFTER INSERT ON events WHEN new.phase = 'refused' BEGIN
    DELETE FROM events WHERE mac = new.mac AND phase = 'refused' AND id <=
        (SELECT id FROM events WHERE mac = new.mac AND phase = 'refused' ORDER BY id DESC LIMIT 1 OFFSET 100);
END;
-- What was changed of nodes, as TOML.
CREATE TABLE IF NOT EXISTS node_edits (
    node         TEXT PRIMARY KEY,
    added        INTEGER NOT NULL,
    revision     INTEGER NOT NULL,
    settings     TEXT NOT NULL,
    -- For the next boot alone.
    once         TEXT NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS node_changes (
    revision     INTEGER PRIMARY KEY AUTOINCREMENT,
    time_unix_ms INTEGER NOT NULL,
    author       TEXT NOT NULL,
    operation    TEXT NOT NULL
) STRICT;
-- What each change made of each node, as TOML.
CREATE TABLE IF NOT EXISTS node_change_rows (
    revision     INTEGER NOT NULL,
    node         TEXT NOT NULL,
    before       TEXT,
    after        TEXT,
    PRIMARY KEY (revision, node)
) STRICT, WITHOUT ROWID;
-- The newest 10 000 changes are kept.
CREATE TRIGGER IF NOT EXISTS node_changes_are_bounded AFTER INSERT ON node_changes BEGIN
    DELETE FROM node_change_rows WHERE revision <= new.revision - 10000;
    DELETE FROM node_changes WHERE revision <= new.revision - 10000;
END;
-- What machines in discover mode have said about themselves.
CREATE TABLE IF NOT EXISTS machines (
    mac                TEXT PRIMARY KEY,
    first_seen_unix_ms INTEGER NOT NULL,
    last_seen_unix_ms  INTEGER NOT NULL,
    check_ins          INTEGER NOT NULL,
    facts              TEXT NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS machines_by_last_seen ON machines (last_seen_unix_ms);
-- Whoever invents machines fills no disk: the 4096 that were heard of last are kept.
CREATE TRIGGER IF NOT EXISTS machines_are_bounded AFTER INSERT ON machines BEGIN
    DELETE FROM machines WHERE mac IN
        (SELECT mac FROM machines ORDER BY last_seen_unix_ms DESC, mac LIMIT -1 OFFSET 4096);
END;
-- What nodes were known by that were taken away, or that are known by something else now: policies leave such machines alone.
CREATE TABLE IF NOT EXISTS released_machines (
    id           INTEGER PRIMARY KEY,
    key          TEXT NOT NULL UNIQUE
) STRICT;
CREATE TRIGGER IF NOT EXISTS released_machines_are_bounded AFTER INSERT ON released_machines BEGIN
    DELETE FROM released_machines WHERE id <= new.id - 100000;
END;
-- Where relays have last seen machines that are no nodes. The newest are kept.
CREATE TABLE IF NOT EXISTS switch_ports (
    id           INTEGER PRIMARY KEY,
    mac          TEXT NOT NULL UNIQUE,
    circuit_id   TEXT,
    remote_id    TEXT
) STRICT;
CREATE TRIGGER IF NOT EXISTS switch_ports_are_bounded AFTER INSERT ON switch_ports BEGIN
    DELETE FROM switch_ports WHERE id <= new.id - 10000;
END;
-- Numbers that clients of Razor know machines by, and what facter said there. No number is given twice.
CREATE TABLE IF NOT EXISTS razor_nodes (
    id             INTEGER PRIMARY KEY AUTOINCREMENT,
    mac            TEXT NOT NULL UNIQUE,
    boots          INTEGER NOT NULL DEFAULT 0,
    installed      INTEGER NOT NULL DEFAULT 0,
    seen_unix_ms   INTEGER NOT NULL,
    facter         TEXT,
    facter_unix_ms INTEGER
) STRICT;
CREATE INDEX IF NOT EXISTS razor_nodes_by_seen ON razor_nodes (seen_unix_ms);
-- What they are known by: mac=, serial=, uuid=, asset=.
CREATE TABLE IF NOT EXISTS razor_hardware (
    key            TEXT NOT NULL,
    id             INTEGER NOT NULL,
    PRIMARY KEY (key, id)
) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS razor_hardware_by_id ON razor_hardware (id);
CREATE TRIGGER IF NOT EXISTS razor_nodes_are_bounded AFTER INSERT ON razor_nodes BEGIN
    DELETE FROM razor_nodes WHERE id IN
        (SELECT id FROM razor_nodes ORDER BY seen_unix_ms DESC, id LIMIT -1 OFFSET 4096);
END;
CREATE TRIGGER IF NOT EXISTS razor_hardware_goes_with_its_node AFTER DELETE ON razor_nodes BEGIN
    DELETE FROM razor_hardware WHERE id = old.id;
END;
CREATE TABLE IF NOT EXISTS tokens (
    name            TEXT PRIMARY KEY,
    role            TEXT NOT NULL,
    sha256          TEXT NOT NULL UNIQUE,
    created_unix_ms INTEGER NOT NULL
) STRICT;
-- What nodes show to be given their secrets, each for one boot.
CREATE TABLE IF NOT EXISTS secret_tokens (
    id             INTEGER PRIMARY KEY AUTOINCREMENT,
    sha256         TEXT NOT NULL UNIQUE,
    node           TEXT NOT NULL,
    -- The event of the script that began the boot.
    script         INTEGER NOT NULL,
    address        TEXT NOT NULL,
    issued_unix_ms INTEGER NOT NULL,
    used_unix_ms   INTEGER
) STRICT;
CREATE INDEX IF NOT EXISTS secret_tokens_of_node ON secret_tokens (node, id);
-- A node's newest 16 are kept, to know whose an old one was.
CREATE TRIGGER IF NOT EXISTS secret_tokens_are_bounded AFTER INSERT ON secret_tokens BEGIN
    DELETE FROM secret_tokens WHERE node = new.node AND id <=
        (SELECT id FROM secret_tokens WHERE node = new.node ORDER BY id DESC LIMIT 1 OFFSET 16);
END;
";

/// The open database.
#[derive(Clone, Debug)]
pub struct Database {
    pub(crate) pool: SqlitePool,
}

/// The database failed.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseError {
    /// It cannot be opened or its tables cannot be made.
    #[error("cannot open the database {}\nhint: is the directory writable for server.user?", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: sqlx::Error,
    },
    /// A query failed.
    #[error("cannot {action} the database")]
    Query {
        /// What was attempted: `store leases in`.
        action: &'static str,
        /// Why.
        #[source]
        source: sqlx::Error,
    },
    /// What was to be stored together with others was not.
    #[error(transparent)]
    Together(Arc<DatabaseError>),
    /// Who stores events has gone.
    #[error("events are not stored any more\nhint: restart bootserve; the log has the reason")]
    Lost,
    /// A row does not hold what we write.
    #[error("the database holds {text:?} as {what}")]
    Row {
        /// Which column.
        what: &'static str,
        /// What was found.
        text: String,
    },
}

impl Database {
    /// Opens the database in `state`, and makes it if there is none.
    pub async fn open(state: &Path) -> Result<Self, DatabaseError> {
        let path = state.join(FILE);
        let options = SqliteConnectOptions::new()
            .filename(&path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(BUSY_TIMEOUT);
        let open_error = |source| DatabaseError::Open { path: path.clone(), source };
        let pool = SqlitePoolOptions::new().max_connections(MAX_CONNECTIONS);
        let pool = pool.connect_with(options).await.map_err(open_error)?;
        sqlx::raw_sql(SCHEMA).execute(&pool).await.map_err(open_error)?;
        Ok(Self { pool })
    }

    /// Opens the database in `state` without writing to it; none if there is none.
    pub async fn open_to_read(state: &Path) -> Result<Option<Self>, DatabaseError> {
        let path = state.join(FILE);
        if !path.exists() {
            return Ok(None);
        }
        let options = SqliteConnectOptions::new().filename(&path).read_only(true);
        let pool = SqlitePoolOptions::new().max_connections(1).connect_with(options).await;
        pool.map(|pool| Some(Self { pool })).map_err(|source| DatabaseError::Open { path, source })
    }

    /// The same; none as well if it was made before there was this table.
    pub async fn open_to_read_table(state: &Path, table: &str) -> Result<Option<Self>, DatabaseError> {
        let Some(database) = Self::open_to_read(state).await? else { return Ok(None) };
        let query =
            sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE name = ?)").bind(table);
        let is_there: bool =
            query.fetch_one(&database.pool).await.map_err(query_error("read the tables of"))?;
        Ok(Some(database).filter(|_| is_there))
    }

    /// Whether it answers.
    pub async fn probe(&self) -> Result<(), DatabaseError> {
        sqlx::query("SELECT 1").execute(&self.pool).await.map_err(query_error("query"))?;
        Ok(())
    }

    /// Waits for what is being written and closes the file.
    pub async fn close(&self) {
        self.pool.close().await;
    }
}

/// The error of a query that was to `action` the database.
pub(crate) fn query_error(action: &'static str) -> impl Fn(sqlx::Error) -> DatabaseError {
    move |source| DatabaseError::Query { action, source }
}

/// Reads a text column back into its type.
pub(crate) fn parse_column<T: std::str::FromStr>(
    what: &'static str,
    text: String,
) -> Result<T, DatabaseError> {
    text.parse().map_err(|_| DatabaseError::Row { what, text })
}
