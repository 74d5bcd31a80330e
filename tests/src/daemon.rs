//! A program that runs beside a test, and is killed when it is not needed any more.

use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};

/// The running program, killed when dropped.
#[derive(Debug)]
pub struct Daemon(Child);

impl Daemon {
    /// Starts it; what it says goes into `log`.
    pub fn start(mut command: Command, log: &Path) -> Result<Self> {
        let output = File::create(log)?;
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        let child = command.spawn();
        child
            .with_context(|| format!("cannot run {command:?}\nhint: run scripts/setup, which installs it"))
            .map(Self)
    }
}

impl Daemon {
    /// Sends it a signal, named as kill(1) does: `HUP`.
    pub fn signal(&self, name: &str) -> Result<()> {
        let status = Command::new("kill").args(["-s", name]).arg(self.0.id().to_string()).status()?;
        ensure!(status.success(), "kill -s {name}: {status}");
        Ok(())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Fails only if it has ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
