//! bootserve's TFTP against the usual servers, as firmware loads its boot program: one block at a time. And with windows,
//! which pay where the way is long.

use std::fs;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bootlab::netns::{NetNs, SERVER_ADDRESS, SUBNET};
use bootlab::tftp::{Terms, fetch};
use bootlab::udp_wire::{Faults, UdpWire};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use serde_json::json;

use crate::measure::{Cost, Goal, Measurement, Rounds, least_cpu, least_wall};
use crate::serving::{Running, Wire};

/// A name that bootserve looks for, with as many bytes as it takes.
const FILE: &str = "undionly.kpxe";
const FILE_BYTES: usize = 16 << 20;
/// How often it is loaded, one after the other. Each load takes a tenth of a second and is measured by itself: so short a time is one without
/// disturbance more often than a longer one.
const LOADS: usize = 4;
/// So many turns of each server are a round.
const TURNS: NonZeroUsize = NonZeroUsize::new(4).unwrap();
/// The same where each block has to wake a core.
const LOADS_APART: usize = 2;
/// What iPXE asks for at an MTU of 1500, less the options that others add.
const BLKSIZE: usize = 1428;
const WINDOWSIZE: u16 = 16;
/// What it takes through a longer cable.
const DELAYED_BYTES: usize = 1 << 20;
const DELAY: Duration = Duration::from_millis(1);
const TIMEOUT: Duration = Duration::from_secs(5);

const LOCKSTEP: Terms = Terms { blksize: BLKSIZE, windowsize: 1, timeout: TIMEOUT };
const WINDOWED: Terms = Terms { windowsize: WINDOWSIZE, ..LOCKSTEP };

/// One client, lockstep, both ends on one core: what the servers do is measured, and not how long a core takes to wake up, which is the
/// same for all and on a virtual machine several times as long.
pub fn lockstep(rounds: Rounds) -> Result<Vec<Measurement>> {
    let _pinned = OneCore::pin()?;
    let Lockstep { ours, hpa, dnsmasq } = Lockstep::measure("tftp", rounds.times(TURNS), LOADS)?;
    let details = json!({"ours": ours, "tftpd-hpa": hpa, "dnsmasq": dnsmasq});
    // tftpd-hpa starts a process for each transfer and does not wait for it, so nobody knows what it has taken.
    let (our_cpu, peer_cpu) = (least_cpu(&ours) * 1000.0, least_cpu(&dnsmasq) * 1000.0);
    Ok(vec![
        Measurement::new("tftp", speed(&ours), better(&hpa, &dnsmasq), "MiB/s", Goal::AtLeast(1.1))
            .with_details(details),
        Measurement::new("tftp-cpu", our_cpu, peer_cpu, "cpu-ms", Goal::AtMost(0.75)),
    ])
}

/// The same where the kernel likes to run them.
pub fn lockstep_apart(rounds: Rounds) -> Result<Vec<Measurement>> {
    let Lockstep { ours, hpa, dnsmasq } = Lockstep::measure("tftp-apart", rounds, LOADS_APART)?;
    Ok(vec![
        Measurement::new("tftp-apart", speed(&ours), better(&hpa, &dnsmasq), "MiB/s", Goal::AtLeast(1.0))
            .with_details(json!({"ours": ours, "tftpd-hpa": hpa, "dnsmasq": dnsmasq})),
    ])
}

/// What each load took of each server.
struct Lockstep {
    ours: Vec<Cost>,
    hpa: Vec<Cost>,
    dnsmasq: Vec<Cost>,
}

impl Lockstep {
    fn measure(name: &str, rounds: Rounds, loads: usize) -> Result<Self> {
        let bench = Bench::new(&format!("bench-{name}"), FILE_BYTES)?;
        let [ours, hpa, dnsmasq] = rounds.in_turn(
            name,
            [
                &mut || bench.load(bench.start_bootserve()?, loads),
                &mut || bench.load(bench.start_tftpd_hpa()?, loads),
                &mut || bench.load(bench.start_dnsmasq()?, loads),
            ],
        )?;
        Ok(Self { ours: ours.concat(), hpa: hpa.concat(), dnsmasq: dnsmasq.concat() })
    }
}

/// In MiB a second.
fn speed(loads: &[Cost]) -> f64 {
    (FILE_BYTES >> 20) as f64 / least_wall(loads)
}

fn better(hpa: &[Cost], dnsmasq: &[Cost]) -> f64 {
    speed(hpa).max(speed(dnsmasq))
}

/// While it lives, this thread and all that it starts run on one core.
struct OneCore {
    before: CpuSet,
}

impl OneCore {
    fn pin() -> Result<Self> {
        let before = sched_getaffinity(None)?;
        let core = (0..CpuSet::MAX_CPU).find(|core| before.is_set(*core)).context("there is no core")?;
        let mut one = CpuSet::new();
        one.set(core);
        sched_setaffinity(None, &one)?;
        Ok(Self { before })
    }
}

impl Drop for OneCore {
    fn drop(&mut self) {
        if let Err(error) = sched_setaffinity(None, &self.before) {
            eprintln!("bench: this thread stays on one core: {error}");
        }
    }
}

/// Windows against lockstep, both ours, at the end of a long cable.
pub fn window(rounds: Rounds) -> Result<Vec<Measurement>> {
    let bench = Bench::new("bench-tftp-window", DELAYED_BYTES)?;
    let _server = bench.start_bootserve()?;
    let [windowed, lockstep] = rounds.in_turn(
        "tftp-window",
        [&mut || bench.load_far_away(WINDOWED), &mut || bench.load_far_away(LOCKSTEP)],
    )?;
    let speed = |costs: &[Cost]| (DELAYED_BYTES >> 20) as f64 / least_wall(costs);
    Ok(vec![Measurement::new("tftp-window", speed(&windowed), speed(&lockstep), "MiB/s", Goal::AtLeast(3.0))])
}

struct Bench {
    wire: Wire,
    programs: PathBuf,
    file: Vec<u8>,
}

impl Bench {
    fn new(name: &str, size_bytes: usize) -> Result<Self> {
        let wire = Wire::connect(name)?;
        let programs = wire.dir().join("programs");
        fs::create_dir(&programs)?;
        let file: Vec<u8> =
            (0_u32..).flat_map(|n| n.wrapping_mul(0x9e37_79b9).to_le_bytes()).take(size_bytes).collect();
        fs::write(programs.join(FILE), &file)?;
        Ok(Self { wire, programs, file })
    }

    fn start_bootserve(&self) -> Result<Running<'_>> {
        let store = self.wire.dir().join("store");
        fs::create_dir_all(&store)?;
        let programs = self.programs.display();
        let more = format!("[network]\nsubnet = '{SUBNET}'\n[nbp]\ndirs = ['{programs}']\n");
        self.wire.start_bootserve(&store, &more)
    }

    fn start_tftpd_hpa(&self) -> Result<Running<'_>> {
        let mut command = self.wire.server.command("/usr/sbin/in.tftpd");
        command.args([
            "--listen",
            "--foreground",
            "--user",
            "root",
            "--address",
            &format!("{SERVER_ADDRESS}:69"),
            "--secure",
        ]);
        command.arg(&self.programs);
        self.start(command)
    }

    fn start_dnsmasq(&self) -> Result<Running<'_>> {
        let mut command = self.wire.server.command("dnsmasq");
        command.args([
            "--keep-in-foreground",
            "--conf-file=/dev/null",
            "--port=0",
            "--user=root",
            "--enable-tftp",
        ]);
        command.arg("--pid-file=").arg(format!("--tftp-root={}", self.programs.display()));
        self.start(command)
    }

    /// Starts a peer, which is up when it sends the file.
    fn start(&self, command: Command) -> Result<Running<'_>> {
        let quick = Terms { timeout: Duration::from_millis(100), ..LOCKSTEP };
        self.wire.start(command, || {
            self.inside(|| fetch(server(), FILE, quick)).is_ok_and(|file| file == self.file)
        })
    }

    /// What each of the loads takes.
    fn load(&self, server_process: Running<'_>, loads: usize) -> Result<Vec<Cost>> {
        self.inside(|| (0..loads).map(|_| self.load_once(&server_process)).collect())
    }

    fn load_once(&self, server_process: &Running<'_>) -> Result<Cost> {
        let (cpu_before, started) = (server_process.cpu_seconds()?, Instant::now());
        let file = fetch(server(), FILE, LOCKSTEP)?;
        let wall_seconds = started.elapsed().as_secs_f64();
        let cpu_seconds = server_process.cpu_seconds()? - cpu_before;
        ensure!(file == self.file, "the file is another");
        Ok(Cost { wall_seconds, cpu_seconds })
    }

    fn load_far_away(&self, terms: Terms) -> Result<Cost> {
        self.inside(|| {
            let cable = UdpWire::lay(server(), Faults { delay: DELAY, lost_per_mille: 0 })?;
            Cost::of(|| {
                ensure!(fetch(cable.address(), FILE, terms)? == self.file, "the file is another");
                Ok(())
            })
        })
    }

    fn inside<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        NetNs::inside(&self.wire.client, work)?
    }
}

fn server() -> SocketAddr {
    SocketAddr::new(SERVER_ADDRESS.parse().expect("it is an address"), 69)
}
