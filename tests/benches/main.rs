//! `make bench`: ours against what others use, on this machine, in turn. docs/benchmarks.md says what each line means.
//!
//! Each bench prints `bench NAME ours=… peer=… ratio=… unit=… goal=…` on standard output, and all results of a run go to
//! `bench/results.json` in the lab's directory. A goal that is missed is shown and fails nothing: machines differ.

mod classic;
mod create;
mod dhcp;
mod dhcp_machines;
mod http;
mod image;
mod inventory;
mod livenet;
mod measure;
mod memory;
mod overlays;
mod pack;
mod root;
mod serving;
mod store;
mod storm;
mod tftp;
mod unpack;

use std::fs;
use std::process::ExitCode;

use anyhow::Result;
use bootlab::places::make_dir;
use bootspec::diagnosis::explain;
use clap::Parser;
use clap::builder::PossibleValuesParser;
use serde_json::json;

use measure::{Measurement, Rounds};

/// Measures bootnode against the usual tools.
#[derive(Parser)]
struct Arguments {
    /// What to measure [default: everything]
    #[arg(value_name = "NAME", value_parser = PossibleValuesParser::new(BENCHES.iter().map(|bench| bench.name)))]
    names: Vec<String>,
    /// How often each side is measured
    #[arg(long, default_value = "3")]
    rounds: Rounds,
    /// What cargo calls every bench with
    #[arg(long, hide = true)]
    bench: bool,
}

/// Something to measure. It gives a line or a few.
struct Bench {
    name: &'static str,
    run: fn(Rounds) -> Result<Vec<Measurement>>,
}

const BENCHES: &[Bench] = &[
    Bench { name: "unpack-xz", run: unpack::xz },
    Bench { name: "unpack-zstd", run: unpack::zstd },
    Bench { name: "unpack-cpu", run: unpack::cpu },
    Bench { name: "verification", run: unpack::verification },
    Bench { name: "unpack-scaling", run: unpack::scaling },
    Bench { name: "unpack-balance", run: unpack::balance },
    Bench { name: "create", run: create::run },
    Bench { name: "pack-xz", run: pack::xz },
    Bench { name: "pack-zstd", run: pack::zstd },
    Bench { name: "pack-memory", run: pack::memory },
    Bench { name: "repack", run: store::repack },
    Bench { name: "verify", run: store::verify },
    Bench { name: "http-1", run: http::download_1 },
    Bench { name: "http-8", run: http::download_8 },
    Bench { name: "http-64", run: http::download_64 },
    Bench { name: "http-alike", run: http::download_alike },
    Bench { name: "scripts", run: http::scripts },
    Bench { name: "peak-memory-carried", run: memory::carried },
    Bench { name: "peak-memory-fetched", run: memory::fetched },
    Bench { name: "boot-classic", run: classic::boot },
    Bench { name: "boot-livenet", run: livenet::boot },
    Bench { name: "dhcp-avalanche", run: dhcp::avalanche },
    Bench { name: "dhcp-rate", run: dhcp::rate },
    Bench { name: "dhcp-rate-perfdhcp", run: dhcp::rate_by_perfdhcp },
    Bench { name: "inventory", run: inventory::inventory },
    Bench { name: "overlays", run: overlays::run },
    Bench { name: "tftp", run: tftp::lockstep },
    Bench { name: "tftp-apart", run: tftp::lockstep_apart },
    Bench { name: "tftp-window", run: tftp::window },
    Bench { name: "storm", run: storm::run },
];

fn main() -> ExitCode {
    match measure_all() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {}", explain(&*error));
            ExitCode::FAILURE
        }
    }
}

fn measure_all() -> Result<()> {
    let arguments = Arguments::parse();
    let dir = root::bench_dir();
    make_dir(&dir)?;
    let path = dir.join("results.json");
    let chosen =
        |bench: &&Bench| arguments.names.is_empty() || arguments.names.iter().any(|name| name == bench.name);
    let mut results = Vec::new();
    for bench in BENCHES.iter().filter(chosen) {
        for measurement in (bench.run)(arguments.rounds)? {
            println!("{measurement}");
            results.push(measurement);
        }
        // After each, so that an interrupted run keeps what it has.
        let json = json!({"machine": measure::machine(), "rounds": arguments.rounds.0, "results": results});
        fs::write(&path, serde_json::to_string_pretty(&json)?)?;
    }
    eprintln!("results: {}", path.display());
    Ok(())
}
