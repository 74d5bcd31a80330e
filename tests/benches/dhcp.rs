//! DHCP servers and a relay with as many machines behind it as are wanted: perfdhcp, or a quicker client. None of them is
//! known to the server before: all get addresses of one large range. Each run begins with a server that has no leases.

use std::fs;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bootlab::netns::{BRIDGE, SERVER_ADDRESS};
use serde_json::json;

use crate::dhcp_machines;
use crate::measure::{Cost, Goal, Measurement, Rounds, least_wall};
use crate::serving::{CLIENT_ADDRESS, CLIENT_INTERFACE, Running, Wire};

/// The relay's address in the network of its machines.
const RELAY: &str = "10.64.0.1";
const SUBNET: &str = "10.64.0.0/12";
const NETMASK: &str = "255.240.0.0";
const RANGE: (&str, &str) = ("10.64.1.0", "10.79.255.250");

/// How many machines are switched on together.
const AVALANCHE_CLIENTS: &str = "1000";
/// perfdhcp repeats what is not answered, and would for ever.
const AVALANCHE_LIMIT_SECONDS: &str = "60";

/// How long a rate must be sustained, and how long its last answers may take.
const RATE_SECONDS: u32 = 5;
const LAST_ANSWERS: Duration = Duration::from_secs(1);
/// More than are served in any run.
const RATE_CLIENTS: &str = "1000000";
const FIRST_RATE: u32 = 1000;
/// Of all exchanges.
const MAX_DROP: f64 = 0.01;
/// Other work on the machine may spoil one.
const TRIES: usize = 2;
/// The search ends when what failed is no more than this above what did not.
const RESOLUTION: f64 = 1.05;

#[derive(Clone, Copy, Debug)]
enum Server {
    Bootserve,
    Dnsmasq,
    Kea,
}

pub fn avalanche(rounds: Rounds) -> Result<Vec<Measurement>> {
    let wire = relayed("bench-dhcp-avalanche")?;
    let [ours, dnsmasq, kea] = rounds.in_turn(
        "dhcp-avalanche",
        [
            &mut || avalanche_cost(&wire, Server::Bootserve),
            &mut || avalanche_cost(&wire, Server::Dnsmasq),
            &mut || avalanche_cost(&wire, Server::Kea),
        ],
    )?;
    let (us, unit) = (least_wall(&ours), "wall-seconds");
    let details = json!({"ours": ours, "dnsmasq": dnsmasq, "kea": kea});
    Ok(vec![
        Measurement::new("dhcp-avalanche", us, least_wall(&dnsmasq), unit, Goal::AtMost(0.5))
            .with_details(details),
        Measurement::new("dhcp-avalanche-kea", us, least_wall(&kea), unit, Goal::Below(1.0)),
    ])
}

/// What the servers can do.
pub fn rate(rounds: Rounds) -> Result<Vec<Measurement>> {
    compare_rates("dhcp-rate", completed_by_machines, rounds)
}

/// What perfdhcp can do with them.
pub fn rate_by_perfdhcp(rounds: Rounds) -> Result<Vec<Measurement>> {
    compare_rates("dhcp-rate-perfdhcp", completed_by_perfdhcp, rounds)
}

fn compare_rates(name: &'static str, completed: Completed, rounds: Rounds) -> Result<Vec<Measurement>> {
    let wire = relayed(&format!("bench-{name}"))?;
    let [ours, kea] = rounds.in_turn(
        name,
        [&mut || highest_rate(&wire, Server::Bootserve, completed), &mut || {
            highest_rate(&wire, Server::Kea, completed)
        }],
    )?;
    let most = |rates: &[u32]| f64::from(rates.iter().copied().max().unwrap_or(0));
    let details = json!({"ours": ours, "kea": kea});
    let goal = Goal::AtLeast(3.0);
    Ok(vec![
        Measurement::new(name, most(&ours), most(&kea), "exchanges-a-second", goal).with_details(details),
    ])
}

/// The two machines, the clients' one of which is a relay.
fn relayed(name: &str) -> Result<Wire> {
    let wire = Wire::connect(name)?;
    wire.client.add_address(CLIENT_INTERFACE, RELAY)?;
    wire.server.route(SUBNET, CLIENT_ADDRESS)?;
    Ok(wire)
}

/// How long it takes until all machines have an address, and the server's CPU time.
fn avalanche_cost(wire: &Wire, server: Server) -> Result<Cost> {
    let running = server.start(wire)?;
    let cpu_before = running.cpu_seconds()?;
    let mut command = wire.client.command("timeout");
    command.args([AVALANCHE_LIMIT_SECONDS, "perfdhcp", "-4", "--scenario", "avalanche"]);
    let report = perfdhcp(command.args(["-R", AVALANCHE_CLIENTS]))?;
    let time = report.split_once("It took ").and_then(|(_, rest)| rest.split_once(' '));
    let (time, _) =
        time.with_context(|| format!("{server:?} did not serve {AVALANCHE_CLIENTS} machines:\n{report}"))?;
    // Hours, minutes and seconds.
    let parts = time.split(':').map(str::parse::<f64>).collect::<Result<Vec<_>, _>>()?;
    Ok(Cost {
        wall_seconds: parts.into_iter().fold(0.0, |sum, part| sum * 60.0 + part),
        cpu_seconds: running.cpu_seconds()? - cpu_before,
    })
}

/// The highest rate of whole exchanges that `server` sustains: doubled until it fails, then halved in between.
fn highest_rate(wire: &Wire, server: Server, completed: Completed) -> Result<u32> {
    let (mut good, mut bad) = (0, None);
    loop {
        let rate = match bad {
            None if good == 0 => FIRST_RATE,
            None => good * 2,
            Some(bad) if f64::from(bad) > f64::from(good) * RESOLUTION => good.midpoint(bad),
            Some(_) => break,
        };
        let sustained = (0..TRIES)
            .map(|_| sustains(wire, server, rate, completed))
            .find(|held| !matches!(held, Ok(false)));
        match sustained.transpose()? {
            Some(_) => good = rate,
            None => bad = Some(rate),
        }
        ensure!(good > 0 || rate > 1, "{server:?} sustains no rate at all");
    }
    Ok(good)
}

/// Whether nearly all exchanges that begin at `rate` are completed. The client itself must reach it.
fn sustains(wire: &Wire, server: Server, rate: u32, completed: Completed) -> Result<bool> {
    let _running = server.start(wire)?;
    let completed = f64::from(completed(wire, rate)?) / f64::from(rate * RATE_SECONDS);
    eprintln!("  {server:?}: {:.2} % of {rate} exchanges a second", completed * 100.0);
    Ok(completed >= 1.0 - MAX_DROP)
}

/// Begins exchanges at a rate, for [`RATE_SECONDS`], and tells how many were completed.
type Completed = fn(&Wire, u32) -> Result<u32>;

fn completed_by_machines(wire: &Wire, rate: u32) -> Result<u32> {
    let (relay, server) = (RELAY.parse()?, SERVER_ADDRESS.parse()?);
    let time = Duration::from_secs(RATE_SECONDS.into());
    Ok(wire.client.inside(|| dhcp_machines::exchange(relay, server, rate, time, LAST_ANSWERS))??)
}

fn completed_by_perfdhcp(wire: &Wire, rate: u32) -> Result<u32> {
    let mut command = wire.client.command("perfdhcp");
    // One thread: with two, perfdhcp loses packets in its own socket long before it has used up its core.
    command.args(["-g", "single", "-4", "-R", RATE_CLIENTS, "-W", &LAST_ANSWERS.as_micros().to_string()]);
    command.args(["-r", &rate.to_string(), "-p", &RATE_SECONDS.to_string()]);
    let report = perfdhcp(&mut command)?;
    let acknowledged = report.lines().filter_map(|line| line.strip_prefix("received packets: ")).next_back();
    Ok(acknowledged.with_context(|| format!("no statistics:\n{report}"))?.parse()?)
}

/// What it reports. Its exit status says as well that packets were lost, which is no error here.
fn perfdhcp(command: &mut Command) -> Result<String> {
    let output = command.args(["-l", RELAY, SERVER_ADDRESS]).output()?;
    Ok(String::from_utf8(output.stdout)? + &String::from_utf8_lossy(&output.stderr))
}

impl Server {
    fn start(self, wire: &Wire) -> Result<Running<'_>> {
        let (first, last) = RANGE;
        let path = |name: &str| wire.dir().join(name).display().to_string();
        let is_up = || wire.server.inside(listens).unwrap_or(false);
        match self {
            Self::Bootserve => {
                let networks = format!(
                    "[dhcp]\nping_check = false\n[[network]]\nsubnet = '192.168.0.0/24'\n\
                     [[network]]\nsubnet = '{SUBNET}'\nrange = '{first}-{last}'\n"
                );
                wire.start_bootserve(wire.dir(), &networks)
            }
            Self::Dnsmasq => {
                remove(&path("dnsmasq.leases"))?;
                let mut command = wire.server.command("dnsmasq");
                command.args(["--keep-in-foreground", "--conf-file=/dev/null", "--pid-file", "--user=root"]);
                command.args(["--port=0", "--no-ping", "--bind-interfaces", "--dhcp-lease-max=1000000"]);
                command.args([
                    format!("--log-facility={}", path("dnsmasq.log")),
                    format!("--interface={BRIDGE}"),
                    format!("--dhcp-range={first},{last},{NETMASK},1h"),
                    format!("--dhcp-leasefile={}", path("dnsmasq.leases")),
                ]);
                wire.start(command, is_up)
            }
            Self::Kea => {
                remove(&path("kea.csv"))?;
                let config = json!({"Dhcp4": {
                    "interfaces-config": {
                        "interfaces": [format!("{BRIDGE}/{SERVER_ADDRESS}")], "dhcp-socket-type": "udp"
                    },
                    "lease-database": {"type": "memfile", "persist": true, "name": path("kea.csv")},
                    "valid-lifetime": 3600,
                    "subnet4": [{"id": 1, "subnet": SUBNET, "pools": [{"pool": format!("{first}-{last}")}]}],
                    "loggers": [{
                        "name": "kea-dhcp4", "severity": "INFO", "output_options": [{"output": path("kea.log")}]
                    }],
                }});
                fs::write(path("kea.json"), config.to_string())?;
                let mut command = wire.server.command("kea-dhcp4");
                command.args(["-c", &path("kea.json")]);
                command.env("KEA_PIDFILE_DIR", wire.dir()).env("KEA_LOCKFILE_DIR", wire.dir());
                wire.start(command, is_up)
            }
        }
    }
}

/// Whether something in this network namespace has UDP port 67 (proc_pid_net(5)).
fn listens() -> bool {
    let sockets = fs::read_to_string("/proc/thread-self/net/udp").unwrap_or_default();
    sockets.lines().filter_map(|line| line.split_whitespace().nth(1)).any(|local| local.ends_with(":0043"))
}

/// Leases of the run before.
fn remove(path: &str) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}
