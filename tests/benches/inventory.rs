//! What the number of nodes costs bootserve: to start, to put a changed inventory in force, to say what one of them boots.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use bootlab::api;
use bootlab::deadline::wait_until;
use bootlab::published::publish;
use rustix::process::{Signal, kill_process};
use serde::Serialize;
use serde_json::json;

use crate::measure::{Goal, Measurement, Rounds, least};
use crate::serving::{Running, Wire};

/// So many machines ask for their scripts, each once.
const ASKED: u32 = 100;
const IMAGE: &str = "inventory/v1";
const RELOAD: Duration = Duration::from_secs(30);
/// What we set ourselves, for ten thousand nodes.
const START_SECONDS: f64 = 1.0;
const RELOAD_SECONDS: f64 = 1.0;

/// In seconds.
#[derive(Clone, Copy, Serialize)]
struct Times {
    start: f64,
    reload: f64,
    /// The median of the scripts.
    decision: f64,
}

pub fn inventory(rounds: Rounds) -> Result<Vec<Measurement>> {
    let wire = Wire::connect("bench-inventory")?;
    let store = wire.dir().join("store");
    publish(&store, IMAGE, 1 << 20)?;
    let at = |nodes| measure(&wire, &store, nodes);
    let [hundred, thousand, thousands, most] = rounds
        .in_turn("inventory", [&mut || at(100), &mut || at(1000), &mut || at(4000), &mut || at(10_000)])?;
    let details = json!({"100": hundred, "1000": thousand, "4000": thousands, "10000": most});
    let quickest =
        |runs: &[Times], time: fn(&Times) -> f64| least(&runs.iter().map(time).collect::<Vec<_>>());
    let (start, reload) = (quickest(&most, |times| times.start), quickest(&most, |times| times.reload));
    let [few, many] = [&hundred, &most].map(|runs| quickest(runs, |times| times.decision) * 1000.0);
    Ok(vec![
        Measurement::new("inventory-start", start, START_SECONDS, "seconds", Goal::AtMost(1.0))
            .with_details(details),
        Measurement::new("inventory-reload", reload, RELOAD_SECONDS, "seconds", Goal::AtMost(1.0)),
        Measurement::new("inventory-decision", many, few, "ms", Goal::AtMost(1.1)),
    ])
}

fn measure(wire: &Wire, store: &Path, nodes: u32) -> Result<Times> {
    let file = wire.dir().join("nodes.toml");
    write_inventory(&file, nodes, "quiet")?;
    let started = Instant::now();
    let server = start(wire, store, &file)?;
    let start = started.elapsed().as_secs_f64();
    let reload = reload(wire, &server, || write_inventory(&file, nodes, "loud"))?;
    let mut decisions = Vec::new();
    for number in (0..nodes).step_by((nodes / ASKED) as usize) {
        let asked = Instant::now();
        let script = api::get(
            &wire.client,
            &format!("/ipxe?mac=fc-ab-14-00-{:02x}-{:02x}", number >> 8, number & 0xff),
        )?;
        decisions.push(asked.elapsed().as_secs_f64());
        ensure!(script.contains("loud") && script.contains(IMAGE), "{script}");
    }
    decisions.sort_by(f64::total_cmp);
    Ok(Times { start, reload, decision: decisions[decisions.len() / 2] })
}

/// Nodes in racks of a hundred, with a group, a profile and a set, as a site would have them.
fn write_inventory(path: &Path, nodes: u32, kernel_arg: &str) -> Result<()> {
    let last = nodes - 1;
    let mut text = format!(
        "[defaults]\nimage = 'nosuch'\n[profile.compute]\nimage = 'inventory'\nkernel_args = ['{kernel_arg}']\n\
         [groups]\nsome = 'node-[00000-00049]'\n\
         [[nodes]]\nnames = 'node-[00000-{last:05}]'\nprofile = 'compute'\naddresses = '10.1.[0-{}].[100-199]'\nmacs = [",
        nodes / 100 - 1
    );
    for block in 0..=last >> 8 {
        let end = if block == last >> 8 { last & 0xff } else { 0xff };
        text += &format!("'fc:ab:14:00:{block:02x}:[00-{end:02x}]',");
    }
    text += "]\n[[set]]\nnodes = '@some'\nmetadata = { rack = 'first' }\n";
    Ok(fs::write(path, text)?)
}

fn start<'a>(wire: &'a Wire, store: &Path, inventory: &Path) -> Result<Running<'a>> {
    let more = format!(
        "inventory = '{}'\nwatch = false\n[[network]]\nsubnet = '192.168.0.0/24'\n[[network]]\nsubnet = '10.1.0.0/16'\n",
        inventory.display()
    );
    wire.start_bootserve(store, &more)
}

/// How long it takes from SIGHUP until the changed inventory is in force.
fn reload(wire: &Wire, server: &Running<'_>, change: impl FnOnce() -> Result<()>) -> Result<f64> {
    change()?;
    let asked = Instant::now();
    for pid in server.pids()? {
        kill_process(pid, Signal::HUP)?;
    }
    let is_in_force = || {
        api::get(&wire.client, "/metrics")
            .is_ok_and(|metrics| metrics.contains("bootserve_reloads_total{end=\"done\"} 1"))
    };
    ensure!(wait_until(RELOAD, is_in_force), "the inventory is not read again");
    Ok(asked.elapsed().as_secs_f64())
}
