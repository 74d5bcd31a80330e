//! The boot server of a lab: its configuration, and the running program.

use std::fs::{self, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::netns::{self, BRIDGE, NetNs, SERVER_ADDRESS, SUBNET};
use crate::qemu::NodeSpec;
use crate::{api, deadline, places, relay};

/// A start opens a database and binds sockets.
const START_LIMIT: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(50);

/// Kernel arguments of every node: console on the serial port, an end instead of a hang after a panic, and patience
/// with the serial device, whose login prompt systemd gives up when a loaded host is slow.
const KERNEL_ARGS: [&str; 3] = ["console=ttyS0,115200", "panic=-1", "systemd.default_device_timeout_sec=900"];

/// bootserve could not be started.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The program is missing.
    #[error(transparent)]
    Places(#[from] places::Error),
    /// The namespace cannot be entered.
    #[error(transparent)]
    Network(#[from] netns::Error),
    /// A file or the process could not be made.
    #[error("cannot start bootserve: {}", .path.display())]
    Start {
        /// The file concerned.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It ended instead of serving.
    #[error("bootserve ended with {status} before it served\n{}\nlog: {}", last_lines(.log), .log.display())]
    Ended {
        /// How.
        status: ExitStatus,
        /// Its log.
        log: PathBuf,
    },
    /// It does not answer.
    #[error("bootserve does not answer after {} s\n{}\nlog: {}", .limit.as_secs(), last_lines(.log), .log.display())]
    Silent {
        /// How long it was waited for.
        limit: Duration,
        /// Its log.
        log: PathBuf,
    },
}

fn last_lines(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(10)..]
        .iter()
        .map(|line| format!("  | {line}"))
        .collect::<Vec<_>>()
        .join("\n")
}

/// A running bootserve, killed when dropped.
#[derive(Debug)]
pub struct Bootserve {
    program: PathBuf,
    config: PathBuf,
    log: PathBuf,
    /// The service manager's end. It is read by one test alone, and in no other may that matter to nodes.
    notices: UnixDatagram,
    child: Mutex<Child>,
}

impl Bootserve {
    /// Writes the configuration for `nodes` into `dir` and starts bootserve in the namespace, with this `dhcp.mode`; returns
    /// when it serves.
    pub fn start(
        netns: &NetNs,
        dir: &Path,
        store: &Path,
        state: &Path,
        nodes: &[NodeSpec],
        mode: &'static str,
    ) -> Result<Self, Error> {
        let program = places::program("bootserve")?;
        let config = dir.join("bootserve.toml");
        let log = dir.join("bootserve.log");
        let tls = nodes.iter().any(|node| node.settings.contains_key("secrets"));
        let tls = tls.then(|| make_certificate(dir)).transpose()?;
        fs::write(&config, render_config(store, state, nodes, mode, tls))
            .map_err(|source| Error::Start { path: config.clone(), source })?;
        let notices = bind_notices(&notices_of(&log))
            .map_err(|source| Error::Start { path: notices_of(&log), source })?;
        let child = Mutex::new(spawn(netns, &program, &config, &log)?);
        let server = Self { program, config, log, notices, child };
        server.wait_until_healthy(netns)?;
        Ok(server)
    }

    /// Ends it without a warning, as a crash would.
    pub fn kill9(&self) {
        let mut child = self.child();
        // Fails only if it has ended by itself; then it is as dead as it should be.
        let _ = child.kill();
        let _ = child.wait();
    }

    /// Kills it if it runs, and starts it again with the same configuration and state.
    pub fn restart(&self, netns: &NetNs) -> Result<(), Error> {
        self.kill9();
        *self.child() = spawn(netns, &self.program, &self.config, &self.log)?;
        self.wait_until_healthy(netns)
    }

    /// Waits until it has told its service manager this: `READY=1`.
    pub fn wait_for_notice(&self, notice: &str, limit: Duration) -> bool {
        let mut buffer = [0; 256];
        deadline::wait_until(limit, || {
            let received = self.notices.recv(&mut buffer);
            received.is_ok_and(|length| buffer[..length].trim_ascii() == notice.as_bytes())
        })
    }

    /// Its log, of all its lives in this lab.
    pub fn log(&self) -> &Path {
        &self.log
    }

    fn wait_until_healthy(&self, netns: &NetNs) -> Result<(), Error> {
        let limit = deadline::within(START_LIMIT);
        let deadline = Instant::now() + limit;
        while !api::healthy(netns)? {
            let ended = self.child().try_wait();
            if let Some(status) =
                ended.map_err(|source| Error::Start { path: self.program.clone(), source })?
            {
                return Err(Error::Ended { status, log: self.log.clone() });
            }
            if Instant::now() > deadline {
                return Err(Error::Silent { limit, log: self.log.clone() });
            }
            thread::sleep(POLL);
        }
        Ok(())
    }

    fn child(&self) -> MutexGuard<'_, Child> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Bootserve {
    fn drop(&mut self) {
        self.kill9();
    }
}

/// The socket of the service manager, beside the log.
fn notices_of(log: &Path) -> PathBuf {
    log.with_extension("notify")
}

/// Everybody may write to it, as to systemd's.
fn bind_notices(path: &Path) -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::bind(path)?;
    socket.set_nonblocking(true)?;
    fs::set_permissions(path, Permissions::from_mode(0o777))?;
    Ok(socket)
}

fn spawn(netns: &NetNs, program: &Path, config: &Path, log: &Path) -> Result<Child, Error> {
    let start = || {
        let output = OpenOptions::new().create(true).append(true).open(log)?;
        let errors = output.try_clone()?;
        let mut command = netns.command(program);
        command.args(["serve", "--config"]).arg(config);
        // Half of this is how often it gives a sign of life.
        command.env("NOTIFY_SOCKET", notices_of(log)).env("WATCHDOG_USEC", "1000000");
        command.stdin(Stdio::null()).stdout(output).stderr(errors).spawn()
    };
    start().map_err(|source| Error::Start { path: log.to_owned(), source })
}

/// A certificate that nobody has signed but itself, and its key: who has secrets is given them by TLS.
fn make_certificate(dir: &Path) -> Result<Tls, Error> {
    let tls = Tls { certificate: dir.join("tls.pem"), key: dir.join("tls.key") };
    let key = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
    let mut openssl = Command::new("openssl");
    openssl.args(key).args(["-subj", "/CN=lab", "-keyout"]).arg(&tls.key).arg("-out").arg(&tls.certificate);
    let failed = |source| Error::Start { path: "openssl".into(), source };
    match openssl.output().map_err(failed)? {
        output if output.status.success() => Ok(tls),
        output => Err(failed(io::Error::other(String::from_utf8_lossy(&output.stderr).into_owned()))),
    }
}

#[derive(Serialize)]
struct Tls {
    certificate: PathBuf,
    key: PathBuf,
}

#[derive(Serialize)]
struct Config<'a> {
    server: Server<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tls: Option<Tls>,
    dhcp: Dhcp,
    network: [Network; 2],
    boot: Boot,
    node: Vec<Node<'a>>,
}

#[derive(Serialize)]
struct Server<'a> {
    interface: &'static str,
    address: &'static str,
    store: &'a Path,
    state: &'a Path,
    /// Beside the store, if there are any.
    #[serde(skip_serializing_if = "Option::is_none")]
    overlays: Option<PathBuf>,
    user: &'static str,
    http_port: u16,
}

#[derive(Serialize)]
struct Dhcp {
    mode: &'static str,
}

#[derive(Serialize)]
struct Network {
    subnet: &'static str,
    range: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    router: Option<&'static str>,
    lease_seconds: u32,
}

#[derive(Serialize)]
struct Boot {
    kernel_args: [&'static str; 3],
}

#[derive(Serialize)]
struct Node<'a> {
    name: &'a str,
    mac: String,
    address: String,
    image: &'a str,
    kernel_args: &'a [String],
    #[serde(flatten)]
    settings: &'a toml::Table,
}

impl<'a> From<&'a NodeSpec> for Node<'a> {
    fn from(spec: &'a NodeSpec) -> Self {
        let NodeSpec { name, mac, address, image, kernel_args, settings, .. } = spec;
        Self {
            name: name.as_str(),
            mac: mac.to_string(),
            address: address.to_string(),
            image,
            kernel_args,
            settings,
        }
    }
}

/// Where the lab's nodes have their own files, if their images are in `store`.
pub fn overlays_dir(store: &Path) -> PathBuf {
    store.with_extension("overlays")
}

fn render_config(
    store: &Path,
    state: &Path,
    nodes: &[NodeSpec],
    mode: &'static str,
    tls: Option<Tls>,
) -> String {
    let config = Config {
        tls,
        server: Server {
            interface: BRIDGE,
            address: SERVER_ADDRESS,
            store,
            state,
            overlays: Some(overlays_dir(store)).filter(|dir| dir.is_dir()),
            user: "nobody",
            http_port: 80,
        },
        dhcp: Dhcp { mode },
        network: [
            Network {
                subnet: SUBNET,
                range: "192.168.0.200-192.168.0.250",
                router: None,
                lease_seconds: 3600,
            },
            Network {
                subnet: relay::SUBNET,
                range: "10.1.0.200-10.1.0.250",
                router: Some(relay::ADDRESS),
                lease_seconds: 3600,
            },
        ],
        boot: Boot { kernel_args: KERNEL_ARGS },
        node: nodes.iter().map(Node::from).collect(),
    };
    toml::to_string(&config).expect("paths of the lab are UTF-8, and the rest is text and numbers")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn config_names_the_nodes_and_their_images() {
        let node = NodeSpec {
            kernel_args: vec!["a=\"b c\"".to_owned()],
            settings: toml::toml! { on_failure = "halt" },
            ..NodeSpec::classic(1, "compute")
        };
        let text = render_config(Path::new("/store"), Path::new("/state"), &[node], "authoritative", None);
        let config: toml::Table = text.parse().unwrap();
        assert_eq!(config["server"]["store"].as_str(), Some("/store"));
        let node = &config["node"][0];
        assert_eq!(node["mac"].as_str(), Some("fc:ab:14:e8:66:02"));
        assert_eq!(node["address"].as_str(), Some("192.168.0.101"));
        assert_eq!(node["image"].as_str(), Some("compute"));
        assert_eq!(node["kernel_args"][0].as_str(), Some("a=\"b c\""));
        assert_eq!(node["on_failure"].as_str(), Some("halt"));
    }
}
