//! Commands that are more than a few lines.

pub mod machine;
pub mod node;
mod node_edit;
pub mod overlay;
pub mod power;
mod state;
pub mod token;

use anyhow::Context;
use clap::Args;
use serde::Serialize;

use crate::{ConfigFile, as_json, print};

/// Which configuration, and how the result is printed.
#[derive(Args)]
pub struct PrintArgs {
    #[command(flatten)]
    pub config: ConfigFile,
    /// Print the same as JSON
    #[arg(long)]
    json: bool,
}

impl PrintArgs {
    /// Prints `result` as JSON, or as `text`. Where there is nothing to tell there is no line, not an empty one.
    pub fn print(&self, result: &impl Serialize, text: impl FnOnce() -> String) -> anyhow::Result<()> {
        let text = if self.json { as_json(result)? } else { text() };
        if text.is_empty() { Ok(()) } else { print(text.trim_end()) }
    }
}

/// Waits for `work` on a runtime of its own.
pub fn block_on<T>(work: impl Future<Output = T>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Runtime::new().context("cannot start the runtime")?;
    Ok(runtime.block_on(work))
}

/// A line for each, or that there is `nothing`.
fn lines<T>(all: &[T], line: impl Fn(&T) -> String, nothing: &str) -> String {
    match all {
        [] => nothing.to_owned(),
        all => all.iter().map(line).collect::<Vec<_>>().join("\n"),
    }
}
