//! What bootserve exports, read by the programs that it is meant for.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context, Result, ensure};
use bootlab::places::program;

/// Networks of an odd number of bits, names of several labels, an image that is pinned.
const CONFIG: &str = "
[server]
interface = 'br0'
address = '10.1.16.1'
store = '/nonexistent/store'
state = '/nonexistent/state'
[[network]]
subnet = '10.1.16.0/20'
[[network]]
subnet = '10.2.0.64/26'
[dns]
zone = 'cluster.example'
[[node]]
name = 'node-002'
mac = '02:00:00:00:00:02'
address = '10.1.17.2'
image = 'compute/20261122T061457Z'
mode = 'fetched'
[[node]]
name = 'node-001'
mac = '02:00:00:00:00:01'
address = '10.1.16.2'
image = 'compute'
[[node]]
name = 'far-001'
mac = '02:00:00:00:00:03'
address = '10.2.0.70'
image = 'failsafe'
";

struct Exporter {
    dir: tempfile::TempDir,
}

impl Exporter {
    fn new() -> Result<Self> {
        let dir = tempfile::tempdir()?;
        fs::write(dir.path().join("config"), CONFIG)?;
        Ok(Self { dir })
    }

    fn export(&self, arguments: &[&str]) -> Result<Output> {
        let mut command = Command::new(program("bootserve")?);
        command.arg("export").args(arguments).arg("--config").arg(self.dir.path().join("config"));
        Ok(command.output()?)
    }

    fn text(&self, arguments: &[&str]) -> Result<String> {
        let output = self.export(arguments)?;
        ensure!(output.status.success() && output.stderr.is_empty(), "{arguments:?}: {output:?}");
        let again = self.export(arguments)?;
        ensure!(again.stdout == output.stdout, "{arguments:?}: not the same twice");
        Ok(String::from_utf8(output.stdout)?)
    }

    fn file(&self, name: &str, arguments: &[&str]) -> Result<PathBuf> {
        let path = self.dir.path().join(name);
        fs::write(&path, self.text(arguments)?)?;
        Ok(path)
    }
}

fn output_of(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("cannot run {command:?}"))?;
    ensure!(output.status.success(), "{command:?}: {output:?}");
    Ok(String::from_utf8(output.stdout)?)
}

#[test]
fn bind_loads_the_zones() -> Result<()> {
    let exporter = Exporter::new()?;
    let zones = exporter.text(&["zone", "--list"])?;
    let zones: Vec<_> = zones.lines().collect();
    let expected = ["cluster.example", "16.1.10.in-addr.arpa", "17.1.10.in-addr.arpa", "0.2.10.in-addr.arpa"];
    ensure!(zones == expected, "{zones:?}");
    for zone in zones {
        let file = exporter.file(zone, &["zone", zone, "--serial", "2026112700"])?;
        // What would be a warning is an error here.
        let mut check = Command::new("named-checkzone");
        check.args(["-i", "full-sibling", "-k", "fail", "-n", "fail", "-M", "fail", "-S", "fail", zone]);
        let loaded = output_of(check.arg(file))?;
        ensure!(loaded.contains("loaded serial 2026112700") && loaded.contains("OK"), "{zone}: {loaded}");
    }
    let unknown = exporter.export(&["zone", "x.example"])?;
    ensure!(unknown.status.code() == Some(1), "{unknown:?}");
    Ok(())
}

#[test]
fn nodeattr_reads_the_genders() -> Result<()> {
    let exporter = Exporter::new()?;
    let file = exporter.file("genders", &["genders"])?;
    let nodeattr = |arguments: &[&str]| -> Result<String> {
        Ok(output_of(Command::new("nodeattr").arg("-f").arg(&file).args(arguments))?.trim().to_owned())
    };
    ensure!(nodeattr(&["-n", "all"])? == "far-001\nnode-001\nnode-002");
    ensure!(nodeattr(&["-n", "image=compute"])? == "node-001\nnode-002");
    ensure!(nodeattr(&["-v", "node-002", "version"])? == "20261122T061457Z");
    ensure!(nodeattr(&["-n", "mode=fetched"])? == "node-002");
    Ok(())
}

/// The system's own lookup, with an /etc of its own.
fn getent(files: &[&Path], arguments: &[&str]) -> Result<String> {
    let script = "mount -t tmpfs none /etc; echo 'hosts: files\nethers: files' >/etc/nsswitch.conf; \
                  cp -- \"$1\" \"$2\" /etc; shift 2; exec getent \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-ec", script, "sh"]).args(files).args(arguments);
    output_of(&mut command)
}

#[test]
fn the_system_looks_names_and_addresses_up_in_hosts_and_ethers() -> Result<()> {
    let exporter = Exporter::new()?;
    let (hosts, ethers) = (exporter.file("hosts", &["hosts"])?, exporter.file("ethers", &["ethers"])?);
    let words = |arguments: &[&str]| -> Result<Vec<String>> {
        let found = getent(&[&hosts, &ethers], arguments)?;
        Ok(found.split_whitespace().map(str::to_owned).collect())
    };
    for name in ["node-001", "node-001.cluster.example", "10.1.16.2"] {
        let expected = ["10.1.16.2", "node-001.cluster.example", "node-001"];
        ensure!(words(&["hosts", name])? == expected, "{name}");
    }
    ensure!(words(&["ethers", "node-002"])? == ["2:0:0:0:0:2", "node-002"]);
    ensure!(words(&["ethers", "02:00:00:00:00:03"])? == ["2:0:0:0:0:3", "far-001"]);
    Ok(())
}
