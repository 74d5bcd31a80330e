//! What the console of each node said last, as its newest report has it. Kept in memory alone: it is of use while a boot hangs or
//! has just failed.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bootspec::MacAddr;
use bootspec::console::Console;
use bootspec::event::Report;

use crate::config::Config;

/// The newest tail of each configured node: at most the number of nodes times [`bootspec::console::MAX_CONSOLE_BYTES`].
#[derive(Debug, Default)]
pub struct Consoles(Mutex<HashMap<MacAddr, Console>>);

impl Consoles {
    /// Keeps the newest tail of the report, if its sender is a node of `config`, in place of the one before.
    pub fn keep(&self, report: &Report, config: &Config) {
        let Some(console) = report.events.iter().rev().find_map(|event| event.console.as_ref()) else {
            return;
        };
        if config.node(report.mac).is_none() {
            return;
        }
        let mut consoles = self.lock();
        consoles.insert(report.mac, console.clone());
        // Some are of machines that were nodes once.
        if consoles.len() > config.nodes().len() {
            consoles.retain(|mac, _| config.node(*mac).is_some());
        }
    }

    /// That of the machine.
    pub fn of(&self, mac: MacAddr) -> Option<Console> {
        self.lock().get(&mac).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<MacAddr, Console>> {
        // The map is whole even if a thread panicked while it held the lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODES: u8 = 3;

    fn mac(number: u8) -> MacAddr {
        MacAddr::new([2, 0, 0, 0, 0, number])
    }

    /// A configuration of [`NODES`] nodes; the first one's number is `first`.
    fn config(first: u8) -> Config {
        let example = include_str!("../bootserve.example.toml");
        let (server, _) = example.split_once("[[node]]").unwrap();
        let nodes = (first..first + NODES).map(|number| {
            format!(
                "[[node]]\nname = 'n{number}'\nmac = '{}'\naddress = '192.168.0.{number}'\nimage = 'failsafe'\n",
                mac(number)
            )
        });
        Config::parse(&format!("{server}{}", nodes.collect::<String>())).unwrap()
    }

    fn report(number: u8) -> Report {
        let json = serde_json::json!({"mac": mac(number), "image": "failsafe/1", "uptime_ms": 1, "events": [
            {"phase": "init", "uptime_ms": 1, "console": "older"},
            {"phase": "failed", "uptime_ms": 1, "console": format!("console of {number}")}]});
        Report::parse(json.to_string().as_bytes()).unwrap()
    }

    #[test]
    fn there_are_never_more_consoles_than_nodes() {
        let consoles = Consoles::default();
        for first in [10, 20, 30] {
            let config = config(first);
            (0..100).for_each(|number| consoles.keep(&report(number), &config));
            assert_eq!(consoles.lock().len(), usize::from(NODES));
            assert_eq!(consoles.of(mac(first)).unwrap().as_str(), format!("console of {first}"));
            assert_eq!(consoles.of(mac(first + NODES)), None);
        }
    }
}
