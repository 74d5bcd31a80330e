//! `bootserve token`: who may use the API that changes nodes.

use bootserve::tokens::{self, Role, Token};
use clap::{Args, Subcommand, ValueEnum};
use jiff::Timestamp;
use serde::Serialize;

use super::state::with_database;
use crate::{ConfigFile, as_json, print, read_files};

#[derive(Subcommand)]
pub enum TokenCommand {
    /// Make a token and print it; it cannot be printed again
    New {
        #[command(flatten)]
        args: TokenArgs,
        /// Who bears it; changes are noted under this name
        name: String,
        /// What it is good for
        #[arg(long, value_enum, default_value_t = TokenRole::Operator)]
        role: TokenRole,
    },
    /// List tokens: their names, roles and age
    List {
        #[command(flatten)]
        args: TokenArgs,
    },
    /// Make a token good for nothing, at once
    Rm {
        #[command(flatten)]
        args: TokenArgs,
        /// Its name
        name: String,
    },
}

#[derive(Args)]
pub struct TokenArgs {
    #[command(flatten)]
    config: ConfigFile,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
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
    token: String,
}

impl TokenCommand {
    pub fn run(&self) -> anyhow::Result<()> {
        match self {
            Self::New { args, name, role } => {
                let role = Role::from(*role);
                let token = with_database(&read_files(&args.config)?, async |database| {
                    tokens::create(database, name, role).await
                })?;
                print(&if args.json { as_json(&Made { name, role, token })? } else { token })
            }
            Self::List { args } => {
                let tokens = with_database(&read_files(&args.config)?, tokens::list)?;
                let lines = || tokens.iter().map(line).collect::<Vec<_>>().join("\n");
                match args.json {
                    true => print(&as_json(&tokens)?),
                    false if tokens.is_empty() => print("there is no token"),
                    false => print(&lines()),
                }
            }
            Self::Rm { args, name } => {
                with_database(&read_files(&args.config)?, async |database| {
                    tokens::remove(database, name).await
                })?;
                print(&if args.json {
                    as_json(&serde_json::json!({"removed": name}))?
                } else {
                    format!("token {name} is removed")
                })
            }
        }
    }
}

/// As `ci  operator  2026-11-27T21:04:05Z`.
fn line(token: &Token) -> String {
    let time = Timestamp::from_millisecond(token.created_unix_ms).unwrap_or_default();
    format!("{}  {}  {}", token.name, token.role, time.strftime("%Y-%m-%dT%H:%M:%SZ"))
}
