//! Machines as they are shown: a line each, or all that one has said.

use std::fmt;

use bootspec::facts::Facts;
use serde::Serialize;

use super::{Machine, node_of};
use crate::config::Config;
use crate::timestamp::utc;

/// A machine, as one line says it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    /// The interface that it checks in by.
    pub mac: String,
    /// The node that it is, if it is one.
    pub node: Option<String>,
    /// Its serial number.
    pub serial: Option<String>,
    /// Manufacturer and product.
    pub product: String,
    /// Processor cores.
    pub cores: u32,
    /// What its kernel can use.
    pub memory_bytes: u64,
    /// When it was first heard of, in milliseconds since 1970.
    pub first_seen_unix_ms: i64,
    /// When it was last heard of.
    pub last_seen_unix_ms: i64,
    /// How often it has checked in.
    pub check_ins: u64,
}

/// Machines, a line each.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(transparent)]
pub struct Listing(pub Vec<Row>);

impl Listing {
    /// Those that wait, or all.
    pub fn of(machines: &[Machine], config: &Config, all: bool) -> Self {
        let rows = machines.iter().map(|machine| Row::of(machine, config));
        Self(rows.filter(|row| all || row.node.is_none()).collect())
    }
}

impl Row {
    fn of(machine: &Machine, config: &Config) -> Self {
        let Facts { system, cpu, memory_bytes, .. } = &machine.facts;
        let words = [&system.manufacturer, &system.product].into_iter().flatten();
        Self {
            mac: machine.mac().to_string(),
            node: node_of(config, &machine.facts).map(|node| node.name.to_string()),
            serial: machine.serial().map(str::to_owned),
            product: words.map(|word| word.as_str()).collect::<Vec<_>>().join(" "),
            cores: cpu.cores,
            memory_bytes: *memory_bytes,
            first_seen_unix_ms: machine.first_seen_unix_ms,
            last_seen_unix_ms: machine.last_seen_unix_ms,
            check_ins: machine.check_ins,
        }
    }
}

impl fmt::Display for Listing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for row in &self.0 {
            let gib = row.memory_bytes as f64 / f64::from(1 << 30);
            writeln!(
                f,
                "{}  {}  serial {}  {}  {} cores  {gib:.0} GiB  {}",
                row.mac,
                row.node.as_deref().unwrap_or("waits"),
                row.serial.as_deref().unwrap_or("-"),
                if row.product.is_empty() { "-" } else { &row.product },
                row.cores,
                utc(row.last_seen_unix_ms)
            )?;
        }
        Ok(())
    }
}
