//! Secrets of nodes: who is handed them, once a boot.
//!
//! A node that has secrets is given a credential with its initramfs: a random token that was made for this boot. With it init
//! fetches them over TLS. The database knows of each token its digest, the node, the boot, the address that it was given to, and
//! whether it was used; a token is noted before it leaves, and marked as used before what it is good for does. So a server that
//! was killed in between hands nothing out twice, and one that was restarted still knows what it promised.
//!
//! [`issue`] makes a token, [`check`] says whether one is good, and [`redeem`] uses it up. That the address is the node's own, and
//! the node booting, is for [`crate::overlay::may_have`] to say.

use std::net::Ipv4Addr;
use std::time::{Duration, SystemTime};

use bootspec::MacAddr;
use bootspec::credential::SecretToken;
use bootspec::event::{BootId, Phase};
use bootspec::store::NodeName;
use sha2::{Digest, Sha256};
use sqlx::sqlite::SqliteRow;
use sqlx::{Row, SqliteConnection};

use crate::database::{Database, DatabaseError, parse_column, query_error};
use crate::overlay;
use crate::timestamp::unix_ms;

/// From the script of a boot to its credential, and from that to the secrets. A kernel and drivers are loaded in the one, a link
/// comes up and init is patient for five minutes in the other.
pub const LIMIT: Duration = Duration::from_secs(600);
/// For so long after its end a token is known as one that was ours.
const KEPT: Duration = Duration::from_secs(24 * 3600);

/// Where nodes fetch their credentials.
pub const CREDENTIALS_PREFIX: &str = "/credentials";
/// Where they fetch their secrets.
pub const SECRETS_PREFIX: &str = "/v1/secrets";

/// Why a request is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Whoever asks is not the node, or the node is not booting.
    #[error(transparent)]
    NotItsTime(#[from] overlay::Refusal),
    /// There is no such node.
    #[error("there is no such node")]
    UnknownNode,
    /// The node has no secrets.
    #[error("the node has no secrets")]
    NoSecrets,
    /// A credential is asked for, of a boot that we did not begin, or not of this node.
    #[error("the boot is not one of this node's")]
    UnknownBoot,
    /// A credential is asked for a second time.
    #[error("the credential of this boot was handed out before")]
    IssuedBefore,
    /// What whoever is on the way can read.
    #[error("it was asked for without TLS")]
    NoTls,
    /// Nothing was shown.
    #[error("no token was shown")]
    NoToken,
    /// We do not know it.
    #[error("the token is not known")]
    UnknownToken,
    /// It is of somebody else.
    #[error("the token is that of {0}")]
    OtherNode(NodeName),
    /// It was given to somebody else.
    #[error("the token was given to {0}")]
    OtherAddress(Ipv4Addr),
    /// The node has begun another boot since.
    #[error("it is of an older boot")]
    OlderBoot,
    /// It was used up.
    #[error("the token was used before")]
    Replay,
    /// It came too late.
    #[error("it comes more than {} s after what it follows", LIMIT.as_secs())]
    Expired,
}

impl Refusal {
    /// All words, for whoever counts.
    pub const WORDS: [&str; 13] = [
        "address",
        "not-booting",
        "unknown-node",
        "no-secrets",
        "unknown-boot",
        "issued-before",
        "no-tls",
        "no-token",
        "unknown-token",
        "other-node",
        "older-boot",
        "replay",
        "expired",
    ];

    /// In one word.
    pub fn word(&self) -> &'static str {
        match self {
            Self::NotItsTime(overlay::Refusal::Address) | Self::OtherAddress(_) => "address",
            Self::NotItsTime(overlay::Refusal::NotBooting) => "not-booting",
            Self::UnknownNode => "unknown-node",
            Self::NoSecrets => "no-secrets",
            Self::UnknownBoot => "unknown-boot",
            Self::IssuedBefore => "issued-before",
            Self::NoTls => "no-tls",
            Self::NoToken => "no-token",
            Self::UnknownToken => "unknown-token",
            Self::OtherNode(_) => "other-node",
            Self::OlderBoot => "older-boot",
            Self::Replay => "replay",
            Self::Expired => "expired",
        }
    }
}

/// A boot of a node, at an address.
#[derive(Clone, Copy, Debug)]
pub struct Bearer<'a> {
    /// Which node.
    pub node: &'a NodeName,
    /// Its MAC address.
    pub mac: MacAddr,
    /// Where it asks from.
    pub address: Ipv4Addr,
}

/// A token that is good until it is used.
#[derive(Debug, PartialEq, Eq)]
pub struct Valid {
    id: i64,
}

/// Makes the token of a boot and stores its digest. There is one for a boot, and none for a boot that is older than the newest that has
/// one.
pub async fn issue(
    database: &Database,
    bearer: Bearer<'_>,
    boot: BootId,
    now: SystemTime,
) -> Result<Result<SecretToken, Refusal>, DatabaseError> {
    let transaction = database.pool.begin_with("BEGIN IMMEDIATE").await;
    let mut transaction = transaction.map_err(query_error("write to"))?;
    let script = match find_script(&mut transaction, bearer.mac, boot).await? {
        Some(script) if is_within_limit(script.time_unix_ms, now) => script,
        Some(_) => return Ok(Err(Refusal::Expired)),
        None => return Ok(Err(Refusal::UnknownBoot)),
    };
    if let Some(newest) = newest_script(&mut transaction, bearer.node).await?
        && newest >= script.id
    {
        let is_same = newest == script.id;
        return Ok(Err(if is_same { Refusal::IssuedBefore } else { Refusal::OlderBoot }));
    }
    forget_old(&mut transaction, now).await?;
    let token = SecretToken::new(rand::random());
    insert(&mut transaction, bearer, script.id, &token, now).await?;
    transaction.commit().await.map_err(query_error("store a token in"))?;
    Ok(Ok(token))
}

/// What is known of the script that began a boot.
struct Script {
    /// The number of its event: a greater one is of a later boot.
    id: i64,
    time_unix_ms: i64,
}

async fn find_script(
    connection: &mut SqliteConnection,
    mac: MacAddr,
    boot: BootId,
) -> Result<Option<Script>, DatabaseError> {
    let query = sqlx::query("SELECT id, time_unix_ms FROM events WHERE boot = ? AND mac = ? AND phase = ?");
    let query = query.bind(boot.to_string()).bind(mac.to_string()).bind(Phase::Script.to_string());
    let row = query.fetch_optional(connection).await.map_err(query_error("look up a boot in"))?;
    Ok(row.map(|row| Script { id: row.get("id"), time_unix_ms: row.get("time_unix_ms") }))
}

/// The script of the newest boot that has a token.
async fn newest_script(
    connection: &mut SqliteConnection,
    node: &NodeName,
) -> Result<Option<i64>, DatabaseError> {
    let query = sqlx::query_scalar("SELECT max(script) FROM secret_tokens WHERE node = ?");
    query.bind(node.as_str()).fetch_one(connection).await.map_err(query_error("look up a token in"))
}

async fn forget_old(connection: &mut SqliteConnection, now: SystemTime) -> Result<(), DatabaseError> {
    let kept_ms = KEPT.as_millis() as i64;
    // The newest of a node says which boots are older.
    let query = sqlx::query(
        "DELETE FROM secret_tokens WHERE issued_unix_ms < ? AND id NOT IN (SELECT max(id) FROM secret_tokens GROUP BY node)",
    );
    let done = query.bind(unix_ms(now) - kept_ms).execute(connection).await;
    done.map(drop).map_err(query_error("remove tokens from"))
}

async fn insert(
    connection: &mut SqliteConnection,
    bearer: Bearer<'_>,
    script: i64,
    token: &SecretToken,
    now: SystemTime,
) -> Result<(), DatabaseError> {
    let query = sqlx::query(
        "INSERT INTO secret_tokens (sha256, node, script, address, issued_unix_ms) VALUES (?, ?, ?, ?, ?)",
    );
    let query = query.bind(digest(token.as_str())).bind(bearer.node.as_str()).bind(script);
    let query = query.bind(bearer.address.to_string()).bind(unix_ms(now));
    query.execute(connection).await.map(drop).map_err(query_error("store a token in"))
}

/// Whether the secrets of `node` may be given to whoever shows this token at `address`.
pub async fn check(
    database: &Database,
    node: &NodeName,
    address: Ipv4Addr,
    token: &str,
    now: SystemTime,
) -> Result<Result<Valid, Refusal>, DatabaseError> {
    let query = sqlx::query(
        "SELECT *, id = (SELECT max(id) FROM secret_tokens WHERE node = token.node) AS is_newest \
         FROM secret_tokens AS token WHERE sha256 = ?",
    );
    let row = query.bind(digest(token)).fetch_optional(&database.pool).await;
    match row.map_err(query_error("look up a token in"))? {
        Some(row) => judge(&row, node, address, now),
        None => Ok(Err(Refusal::UnknownToken)),
    }
}

fn judge(
    row: &SqliteRow,
    node: &NodeName,
    address: Ipv4Addr,
    now: SystemTime,
) -> Result<Result<Valid, Refusal>, DatabaseError> {
    let whose: NodeName = parse_column("the node of a token", row.get("node"))?;
    let given_to: Ipv4Addr = parse_column("the address of a token", row.get("address"))?;
    Ok(Err(if whose != *node {
        Refusal::OtherNode(whose)
    } else if row.get::<Option<i64>, _>("used_unix_ms").is_some() {
        Refusal::Replay
    } else if given_to != address {
        Refusal::OtherAddress(given_to)
    } else if !row.get::<bool, _>("is_newest") {
        Refusal::OlderBoot
    } else if !is_within_limit(row.get("issued_unix_ms"), now) {
        Refusal::Expired
    } else {
        return Ok(Ok(Valid { id: row.get("id") }));
    }))
}

/// Uses the token up. Of several who show it at once, one has it; it is on the disk that it was used when this returns.
pub async fn redeem(
    database: &Database,
    token: Valid,
    now: SystemTime,
) -> Result<Result<(), Refusal>, DatabaseError> {
    let query =
        sqlx::query("UPDATE secret_tokens SET used_unix_ms = ? WHERE id = ? AND used_unix_ms IS NULL");
    let done = query.bind(unix_ms(now)).bind(token.id).execute(&database.pool).await;
    match done.map_err(query_error("use up a token in"))?.rows_affected() {
        0 => Ok(Err(Refusal::Replay)),
        _ => Ok(Ok(())),
    }
}

/// What lies in the future is of a clock that was set back, and good for nothing.
fn is_within_limit(since_unix_ms: i64, now: SystemTime) -> bool {
    (0..=LIMIT.as_millis() as i64).contains(&unix_ms(now).saturating_sub(since_unix_ms))
}

/// What is stored of a token. It is random and long, so nobody finds it by its digest, and looking it up by that tells nothing by the
/// time that it takes.
fn digest(token: &str) -> String {
    hex::encode(Sha256::digest(token))
}

#[cfg(test)]
mod tests;
