//! `bootserve status` and `bootserve log`: asks a running bootserve, else reads its database, and prints.

use std::collections::HashMap;
use std::io::{self, Write};
use std::thread::sleep;
use std::time::{Duration, SystemTime};

use anyhow::{Context, bail};
use bootspec::diagnosis::explain;

use super::remote::{Remote, RemoteError, stored_events, stored_overview};
use super::table::{BootLog, Look, node_line, summary, table};
use super::{NodeStatus, Overview};
use crate::config::Config;
use crate::events::BootEvent;
use crate::inventory::listing::names_of;

/// How often a status that is watched is asked for anew.
const REFRESH: Duration = Duration::from_secs(1);
/// How long a bootserve that went away is left alone: it may be restarting.
const RETRY: Duration = Duration::from_secs(3);

/// How the result is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// For people.
    Text(Look),
    /// For programs.
    Json,
}

/// Prints how the nodes with these names do, or all.
pub fn status(config: &Config, nodes: &[String], form: Form, out: &mut impl Write) -> anyhow::Result<()> {
    let overview = match Remote::new(config).status(nodes) {
        Ok(overview) => overview,
        Err(error @ RemoteError::Unreachable { .. }) => {
            let stored = block_on(stored_overview(config, SystemTime::now()))?;
            let overview = told_from_database(config, stored, error)?;
            match nodes {
                [] => overview,
                _ => overview.of(&names_of(config, &nodes.join(","))?).map_err(|name| no_such_node(&name))?,
            }
        }
        Err(error) => return Err(error.into()),
    };
    print_status(&overview, form, out)
}

/// Prints how they do again and again: on a terminal in place of what stood there, else a line for each node that has changed.
pub fn watch(
    config: &Config,
    nodes: &[String],
    form: impl Fn() -> Form,
    is_terminal: bool,
    out: &mut impl Write,
) -> anyhow::Result<()> {
    let remote = Remote::new(config);
    let mut before = HashMap::new();
    loop {
        match remote.status(nodes) {
            // The terminal may have another size by now.
            Ok(overview) => match form() {
                form @ Form::Text(_) if is_terminal => {
                    // To the upper left corner, and nothing below.
                    write!(out, "\x1b[H\x1b[J")?;
                    print_status(&overview, form, out)?;
                }
                form => print_changes(&overview, &mut before, form, out)?,
            },
            Err(error @ RemoteError::Unreachable { .. }) => {
                eprintln!("bootserve: {}", explain(&error));
                sleep(RETRY);
            }
            Err(error) => return Err(error.into()),
        }
        out.flush()?;
        sleep(REFRESH);
    }
}

/// Prints the events of a node.
pub fn log(config: &Config, node: &str, form: Form, out: &mut impl Write) -> anyhow::Result<()> {
    let events = match Remote::new(config).events(node) {
        Ok(events) => events,
        Err(error @ RemoteError::Unreachable { .. }) => {
            let mac = config.machine_called(node).ok_or_else(|| no_such_node(node))?;
            let mac =
                mac.with_context(|| format!("the MAC address of {node} is not known to this command"))?;
            told_from_database(config, block_on(stored_events(config, mac))?, error)?
        }
        Err(error) => return Err(error.into()),
    };
    match form {
        Form::Json => writeln!(out, "{}", serde_json::to_string_pretty(&events)?)?,
        Form::Text(_) if events.is_empty() => writeln!(out, "nothing has been heard of {node} yet")?,
        Form::Text(_) => {
            let mut log = BootLog::default();
            events.iter().try_for_each(|event| writeln!(out, "{}", log.line(event)))?;
        }
    }
    Ok(())
}

/// Prints what the node's console said last. Only a bootserve that runs knows.
pub fn console(config: &Config, node: &str, out: &mut impl Write) -> anyhow::Result<()> {
    Ok(write!(out, "{}", Remote::new(config).console(node)?)?)
}

/// Prints the events of a node, and those that follow as they happen.
pub fn follow(config: &Config, node: &str, form: Form, out: &mut impl Write) -> anyhow::Result<()> {
    let remote = Remote::new(config);
    let (mut log, mut after) = (BootLog::default(), 0);
    loop {
        let mut take = |json: &str, event: BootEvent| {
            match form {
                Form::Json => writeln!(out, "{json}")?,
                Form::Text(_) => writeln!(out, "{}", log.line(&event))?,
            }
            Ok(out.flush()?)
        };
        match remote.follow::<anyhow::Error>(node, &mut after, &mut take) {
            Ok(()) => {}
            Err(error) => match error.downcast_ref() {
                Some(RemoteError::Unreachable { .. } | RemoteError::Stream { .. }) => {
                    eprintln!("bootserve: {}", explain(&*error));
                }
                _ => return Err(error),
            },
        }
        // It resumes where it was.
        sleep(RETRY);
    }
}

/// With a note that this is not all: nobody knows of downloads.
fn told_from_database<T>(config: &Config, stored: Option<T>, error: RemoteError) -> anyhow::Result<T> {
    let state = config.server.state.display();
    let Some(stored) = stored else {
        return Err(error).with_context(|| format!("there is no database in {state}, and nobody to ask"));
    };
    let note = "this is what its database says; downloads that go on are not known";
    eprintln!("bootserve: {error}; {note} ({state})");
    Ok(stored)
}

fn no_such_node(name: &str) -> anyhow::Error {
    anyhow::anyhow!("there is no node {name:?}, nor is that a MAC address that had a lease")
}

fn print_status(overview: &Overview, form: Form, out: &mut impl Write) -> anyhow::Result<()> {
    match form {
        Form::Json => writeln!(out, "{}", serde_json::to_string_pretty(overview)?)?,
        Form::Text(look) => write!(out, "{}", table(overview, look))?,
    }
    Ok(())
}

fn print_changes(
    overview: &Overview,
    before: &mut HashMap<String, NodeStatus>,
    form: Form,
    out: &mut impl Write,
) -> anyhow::Result<()> {
    let is_first = before.is_empty();
    let mut has_changed = false;
    for node in &overview.nodes {
        if before.get(&node.label()).is_some_and(|old| is_alike(old, node)) {
            continue;
        }
        has_changed = true;
        before.insert(node.label(), node.clone());
        match form {
            Form::Json => writeln!(out, "{}", serde_json::to_string(node)?)?,
            Form::Text(_) => writeln!(out, "{}", node_line(node, overview.time_unix_ms))?,
        }
    }
    if (has_changed || is_first) && matches!(form, Form::Text(_)) {
        writeln!(out, "{}", summary(overview))?;
    }
    Ok(())
}

/// But for the time that passes, and bytes.
fn is_alike(a: &NodeStatus, b: &NodeStatus) -> bool {
    let key =
        |node: &NodeStatus| (node.state, node.phase, node.since_unix_ms, node.attempts, node.error.clone());
    key(a) == key(b)
}

fn block_on<T, E>(work: impl Future<Output = Result<T, E>>) -> anyhow::Result<T>
where
    anyhow::Error: From<E>,
{
    let runtime = tokio::runtime::Runtime::new().context("cannot start the runtime")?;
    Ok(runtime.block_on(work)?)
}

/// Whoever closed the pipe has read enough.
pub fn until_pipe_breaks(result: anyhow::Result<()>) -> anyhow::Result<()> {
    match result {
        Err(error) if is_broken_pipe(&error) => Ok(()),
        result => result,
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let io = error.downcast_ref::<io::Error>();
    io.is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

/// Nodes as arguments are not empty: without any, all are meant.
pub fn check_names(nodes: &[String]) -> anyhow::Result<()> {
    match nodes.iter().any(|node| node.trim().is_empty()) {
        true => bail!("\"\" is not the name of a node\nhint: leave it out for all nodes"),
        false => Ok(()),
    }
}
