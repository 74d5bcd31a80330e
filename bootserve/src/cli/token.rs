//! `bootserve token`: who may use the API that changes nodes.

use bootserve::timestamp::utc;
use bootserve::tokens::{self, Role, Token};
use clap::{Subcommand, ValueEnum};
use serde::Serialize;
use serde_json::json;

use super::state::with_database;
use super::{PrintArgs, lines};
use crate::read_files;

#[derive(Subcommand)]
pub enum TokenCommand {
    /// Make a token and print it; it cannot be printed again
    New {
        #[command(flatten)]
        args: PrintArgs,
        /// Who bears it; changes are noted under this name
        name: String,
        /// What it is good for
        #[arg(long, value_enum, default_value_t = TokenRole::Operator)]
        role: TokenRole,
    },
    /// List tokens: their names, roles and age
    List {
        #[command(flatten)]
        args: PrintArgs,
    },
    /// Make a token good for nothing, at once
    Rm {
        #[command(flatten)]
        args: PrintArgs,
        /// Its name
        name: String,
    },
}

/// What a token is good for.
#[derive(Clone, Copy, ValueEnum)]
pub enum TokenRole {
    /// See the settings of nodes, and how they were changed
    Viewer,
    /// Change nodes
    Operator,
}

impl From<TokenRole> for Role {
    fn from(role: TokenRole) -> Self {
        match role {
            TokenRole::Viewer => Self::Viewer,
            TokenRole::Operator => Self::Operator,
        }
    }
}

/// A token that was made.
#[derive(Serialize)]
struct Made<'a> {
    name: &'a str,
    role: Role,
    token: &'a str,
}

impl TokenCommand {
    pub fn run(&self) -> anyhow::Result<()> {
        match self {
            Self::New { args, name, role } => {
                let role = Role::from(*role);
                let token = with_database(&read_files(&args.config)?, async |database| {
                    tokens::create(database, name, role).await
                })?;
                args.print(&Made { name, role, token: &token }, || token.clone())
            }
            Self::List { args } => {
                let tokens = with_database(&read_files(&args.config)?, tokens::list)?;
                args.print(&tokens, || lines(&tokens, line, "there is no token"))
            }
            Self::Rm { args, name } => {
                with_database(&read_files(&args.config)?, async |database| {
                    tokens::remove(database, name).await
                })?;
                args.print(&json!({"removed": name}), || format!("token {name} is removed"))
            }
        }
    }
}

/// As `ci  operator  2026-11-27T21:04:05Z`.
fn line(token: &Token) -> String {
    format!("{}  {}  {}", token.name, token.role, utc(token.created_unix_ms))
}
