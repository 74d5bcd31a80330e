//! Who may use the API: tokens with a role, in the database. Of a token itself only the SHA-256 is kept.

use std::fmt;
use std::str::FromStr;
use std::time::SystemTime;

use serde::Serialize;
use sha2::{Digest, Sha256};
use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use crate::database::{Database, DatabaseError, parse_column, query_error};
use crate::timestamp::unix_ms;

/// What a token begins with, so that one is known when it is found where it should not be.
const PREFIX: &str = "bootnode_";
const MAX_NAME_BYTES: usize = 64;

/// What its bearer may do. A greater role may do all that a lesser one may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// See the settings of nodes, and how they were changed.
    Viewer,
    /// Change nodes.
    Operator,
}

/// A token, without what its bearer shows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Token {
    /// Who bears it; changes are noted under this name.
    pub name: String,
    /// What it is good for.
    pub role: Role,
    /// When it was made, in milliseconds since 1970.
    pub created_unix_ms: i64,
}

/// A token cannot be made or removed.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// Its name cannot be one.
    #[error("{0:?} cannot be the name of a token\nhint: 1 to 64 letters, digits, and . _ -")]
    Name(String),
    /// There is one.
    #[error("there is a token {0} already\nhint: bootserve token rm {0}, or another name")]
    Exists(String),
    /// There is none.
    #[error("there is no token {0}\nhint: bootserve token list")]
    Missing(String),
    /// The database failed.
    #[error(transparent)]
    Database(#[from] DatabaseError),
}

/// Makes a token and returns what its bearer is to show. It cannot be had again.
pub async fn create(database: &Database, name: &str, role: Role) -> Result<String, TokenError> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    if name.is_empty() || name.len() > MAX_NAME_BYTES || !name.bytes().all(is_plain) {
        return Err(TokenError::Name(name.to_owned()));
    }
    let secret = format!("{PREFIX}{:032x}{:032x}", rand::random::<u128>(), rand::random::<u128>());
    let query = sqlx::query(
        "INSERT INTO tokens (name, role, sha256, created_unix_ms) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
    );
    let query =
        query.bind(name).bind(role.to_string()).bind(digest(&secret)).bind(unix_ms(SystemTime::now()));
    let done = query.execute(&database.pool).await.map_err(query_error("store a token in"))?;
    match done.rows_affected() {
        0 => Err(TokenError::Exists(name.to_owned())),
        _ => Ok(secret),
    }
}

/// All tokens by name.
pub async fn list(database: &Database) -> Result<Vec<Token>, DatabaseError> {
    let query = sqlx::query("SELECT name, role, created_unix_ms FROM tokens ORDER BY name");
    let rows = query.fetch_all(&database.pool).await.map_err(query_error("read tokens from"))?;
    rows.iter().map(token_of_row).collect()
}

/// Makes a token good for nothing.
pub async fn remove(database: &Database, name: &str) -> Result<(), TokenError> {
    let query = sqlx::query("DELETE FROM tokens WHERE name = ?").bind(name);
    let done = query.execute(&database.pool).await.map_err(query_error("remove a token from"))?;
    match done.rows_affected() {
        0 => Err(TokenError::Missing(name.to_owned())),
        _ => Ok(()),
    }
}

/// The token that `secret` shows, if it is one.
pub async fn find(database: &Database, secret: &str) -> Result<Option<Token>, DatabaseError> {
    let query = sqlx::query("SELECT name, role, created_unix_ms FROM tokens WHERE sha256 = ?");
    let row = query.bind(digest(secret)).fetch_optional(&database.pool).await;
    row.map_err(query_error("look up a token in"))?.as_ref().map(token_of_row).transpose()
}

fn digest(secret: &str) -> String {
    hex::encode(Sha256::digest(secret))
}

fn token_of_row(row: &SqliteRow) -> Result<Token, DatabaseError> {
    Ok(Token {
        name: row.get("name"),
        role: parse_column("the role of a token", row.get("role"))?,
        created_unix_ms: row.get("created_unix_ms"),
    })
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
        })
    }
}

impl FromStr for Role {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let roles = [Self::Viewer, Self::Operator];
        let found = roles.into_iter().find(|role| role.to_string() == text);
        found.ok_or_else(|| format!("there is no role {text:?}, expected viewer or operator"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_token_is_good_until_it_is_removed_and_is_not_in_the_database() {
        let dir = tempfile::tempdir().unwrap();
        let database = Database::open(dir.path()).await.unwrap();
        let secret = create(&database, "ci", Role::Operator).await.unwrap();
        let other = create(&database, "grafana", Role::Viewer).await.unwrap();
        assert!(secret != other && secret.len() == PREFIX.len() + 64);
        let found = find(&database, &secret).await.unwrap().unwrap();
        assert_eq!((found.name.as_str(), found.role), ("ci", Role::Operator));
        assert_eq!(find(&database, &format!("{secret}0")).await.unwrap(), None);
        assert_eq!(list(&database).await.unwrap().len(), 2);
        assert!(matches!(create(&database, "ci", Role::Viewer).await, Err(TokenError::Exists(_))));
        assert!(matches!(create(&database, "a b", Role::Viewer).await, Err(TokenError::Name(_))));
        remove(&database, "ci").await.unwrap();
        assert!(matches!(remove(&database, "ci").await, Err(TokenError::Missing(_))));
        assert_eq!(find(&database, &secret).await.unwrap(), None);
        database.close().await;
        let file = std::fs::read(dir.path().join("state.sqlite")).unwrap();
        let needle = other.as_bytes();
        assert!(!file.windows(needle.len()).any(|window| window == needle));
    }
}
