//! The wall clock is set while bootserve runs: whoever has an address keeps it, nobody is given one that is another's, and leases
//! end when they were to.

use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bootlab::api;
use bootlab::deadline::within;
use bootlab::netns::{SERVER_ADDRESS, WITH_OWN_SHM};
use bootlab::served::{CLIENT_INTERFACE, Served};
use bootlab::tftp::{Terms, fetch};

/// libfaketime for programs with threads.
const LIBRARIES: [&str; 2] =
    ["/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1", "/usr/lib64/faketime/libfaketimeMT.so.1"];
/// Room for two machines, for an hour.
const NETWORK: &str = "range = '192.168.0.200-192.168.0.201'\nlease_seconds = 3600";

struct Site {
    served: Served,
    starter: Vec<String>,
}

impl Site {
    fn start() -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let library = LIBRARIES.into_iter().find(|path| fs::exists(path).unwrap_or(false));
        let library = library.context("found no libfaketime\nhint: run scripts/setup, which installs it")?;
        let offset = dir.path().join("offset");
        fs::write(dir.path().join("undionly.kpxe"), "a boot program")?;
        fs::write(&offset, "+0")?;
        let faketime = [
            "env".to_owned(),
            format!("LD_PRELOAD={library}"),
            format!("FAKETIME_TIMESTAMP_FILE={}", offset.display()),
            "FAKETIME_NO_CACHE=1".to_owned(),
            // What the kernel does not set either.
            "FAKETIME_DONT_FAKE_MONOTONIC=1".to_owned(),
            "DONT_FAKE_MONOTONIC=1".to_owned(),
        ];
        let starter: Vec<String> = WITH_OWN_SHM.map(str::to_owned).into_iter().chain(faketime).collect();
        let arguments: Vec<&str> = starter.iter().map(String::as_str).collect();
        let served = Served::start(dir, NETWORK, "", &arguments)?;
        Ok(Self { served, starter })
    }

    /// Sets the clock of bootserve: `+1d` is a day more than the true time.
    fn set_clock(&self, offset: &str) -> Result<()> {
        // At once, or bootserve could read half of it.
        let (new, path) = (self.served.path("offset.new"), self.served.path("offset"));
        fs::write(&new, offset)?;
        Ok(fs::rename(new, path)?)
    }

    fn restart(&mut self) -> Result<()> {
        let arguments: Vec<&str> = self.starter.iter().map(String::as_str).collect();
        self.served.restart(&arguments)
    }

    /// What machine `number` says of its address; none if it is given none.
    fn ask(&self, number: u8) -> Result<Option<String>> {
        let ip = |arguments: &str| -> Result<()> {
            let status = self.served.client().command("ip").args(arguments.split(' ')).status()?;
            ensure!(status.success(), "ip {arguments}: {status}");
            Ok(())
        };
        ip(&format!("link set {CLIENT_INTERFACE} address 02:00:00:00:00:{number:02x}"))?;
        let mut udhcpc = self.served.client().command("udhcpc");
        udhcpc.args(["-i", CLIENT_INTERFACE, "-f", "-n", "-q", "-t", "3", "-T", "1", "-s", "/bin/true"]);
        let output = udhcpc.output()?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let lease = said.split_once("lease of ").and_then(|(_, rest)| rest.split_once(' '));
        Ok(lease.map(|(address, _)| address.to_owned()))
    }

    /// All services answer, and nothing in the log is of a crash.
    fn check_it_serves(&self) -> Result<()> {
        let server: SocketAddr = SocketAddr::new(SERVER_ADDRESS.parse()?, 69);
        let terms = Terms { blksize: 1428, windowsize: 1, timeout: within(Duration::from_secs(1)) };
        let file = self.served.client().inside(|| fetch(server, "undionly.kpxe", terms))??;
        ensure!(file == b"a boot program");
        let metrics = api::get(self.served.client(), "/metrics")?;
        ensure!(metrics.contains("bootserve_leases 2\n"), "{metrics}");
        ensure!(!self.served.says().contains("panicked"), "{}", self.served.says());
        Ok(())
    }
}

#[test]
fn leases_neither_end_nor_last_for_ever_when_the_clock_is_set() -> Result<()> {
    let mut site = Site::start()?;
    let given = [site.ask(1)?, site.ask(2)?];
    ensure!(given.iter().all(Option::is_some) && given[0] != given[1], "{given:?}");
    site.check_it_serves()?;
    for offset in ["+1d", "-1d"] {
        site.set_clock(offset)?;
        let third = site.ask(3)?;
        ensure!(third.is_none(), "{third:?} is given twice after {offset}: {}", site.served.says());
        site.check_it_serves()?;
    }
    // Two hours later, after a restart that knows of no other clock: this is when the two should have asked again.
    site.set_clock("-22h")?;
    site.restart()?;
    let third = site.ask(3)?;
    ensure!(third.is_some(), "leases last on: {}", site.served.says());
    Ok(())
}

#[test]
fn a_machine_keeps_its_address_when_the_clock_is_set() -> Result<()> {
    let mut site = Site::start()?;
    let given = [site.ask(1)?, site.ask(2)?];
    for offset in ["+1d", "-1d", "+0"] {
        site.set_clock(offset)?;
        ensure!([site.ask(1)?, site.ask(2)?] == given, "after {offset}: {}", site.served.says());
        site.check_it_serves()?;
        site.restart()?;
        ensure!([site.ask(1)?, site.ask(2)?] == given, "started at {offset}: {}", site.served.says());
    }
    Ok(())
}
