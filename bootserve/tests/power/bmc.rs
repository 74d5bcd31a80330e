//! Emulated BMCs.

use std::fmt::Write;
use std::fs;
use std::net::{TcpListener, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rcgen::{CertifiedKey, generate_simple_self_signed};

use super::{PASSWORD, USER, installed};

/// [`PASSWORD`] as htpasswd has it, at the lowest cost.
const PASSWORD_HASH: &str = "$2b$04$kS07JNgWkIuCmcwyOMuMa.zNnre1BUrDm/13wSD26ubrUOsPUDbhm";
const DEADLINE: Duration = Duration::from_secs(20);

/// An emulator, which ends with the test.
struct Emulator(Child);

impl Drop for Emulator {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// sushy-tools with machines of its own, which are nodes in memory.
pub struct Redfish {
    _emulator: Emulator,
    dir: tempfile::TempDir,
    port: u16,
}

impl Redfish {
    /// Machines in these states: `On`, `Off`. The first has the id [`Self::id`]`(0)`.
    pub fn start(states: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let CertifiedKey { cert, signing_key } =
            generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
        fs::write(dir.path().join("cert.pem"), cert.pem()).unwrap();
        fs::write(dir.path().join("key.pem"), signing_key.serialize_pem()).unwrap();
        fs::write(dir.path().join("users"), format!("{USER}:{PASSWORD_HASH}\n")).unwrap();
        fs::write(dir.path().join("config.py"), config(dir.path(), port, states)).unwrap();
        // target/debug/bootserve -> target/redfish, where scripts/setup installs it.
        let target = Path::new(env!("CARGO_BIN_EXE_bootserve")).ancestors().nth(2).unwrap();
        let program = target.join("redfish/bin/sushy-emulator");
        let mut command = Command::new(installed(&program));
        command.arg("--config").arg(dir.path().join("config.py"));
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let started = Self { _emulator: Emulator(child), dir, port };
        wait_for_listener("/proc/net/tcp", port);
        started
    }

    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub fn certificate(&self) -> PathBuf {
        self.dir.path().join("cert.pem")
    }

    pub fn id(number: usize) -> String {
        format!("27946b59-9e44-4fa7-8e91-f3527a1ef09{number}")
    }
}

fn config(dir: &Path, port: u16, states: &[&str]) -> String {
    let dir = dir.display();
    // The emulator has machines take 1 to 11 s for everything, by chance.
    let mut text = format!(
        "import random\nrandom.randint = lambda least, most: 0\n\
         SUSHY_EMULATOR_LISTEN_IP = '127.0.0.1'\nSUSHY_EMULATOR_LISTEN_PORT = {port}\n\
         SUSHY_EMULATOR_SSL_CERT = '{dir}/cert.pem'\nSUSHY_EMULATOR_SSL_KEY = '{dir}/key.pem'\n\
         SUSHY_EMULATOR_AUTH_FILE = '{dir}/users'\nSUSHY_EMULATOR_STATE_DIR = '{dir}'\n\
         SUSHY_EMULATOR_FAKE_DRIVER = True\nSUSHY_EMULATOR_FAKE_SYSTEMS = [\n"
    );
    for (number, state) in states.iter().enumerate() {
        let id = Redfish::id(number);
        writeln!(
            text,
            "{{'uuid': '{id}', 'name': 'machine{number}', 'power_state': '{state}', 'nics': []}},"
        )
        .unwrap();
    }
    text + "]\n"
}

/// OpenIPMI's simulator of one BMC.
pub struct Ipmi {
    _emulator: Emulator,
    dir: tempfile::TempDir,
    port: u16,
}

impl Ipmi {
    /// A machine that is off.
    pub fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let port = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let path = |name: &str| dir.path().join(name);
        // It keeps the power in a file, and what it was told in another.
        let chassis = "#!/bin/sh\n# ADDRESS get power, or ADDRESS set power|reset|shutdown VALUE\ncd \"${0%/*}\"\n\
                       echo \"$2 $3 $4\" >>log\n\
                       case \"$2 $3\" in\n'get power') echo \"power:$(cat power)\";;\n'set power') echo \"$4\" >power;;\n\
                       'set shutdown') echo 0 >power;;\nesac\n";
        fs::write(path("chassis"), chassis).unwrap();
        fs::set_permissions(path("chassis"), fs::Permissions::from_mode(0o700)).unwrap();
        fs::write(path("power"), "0\n").unwrap();
        fs::create_dir(path("state")).unwrap();
        let commands = "mc_setbmc 0x20\nmc_add 0x20 0 no-device-sdrs 0x23 9 8 0x9f 0x1291 0xf02 persist_sdr\nmc_enable 0x20\n";
        fs::write(path("commands"), commands).unwrap();
        let lan = format!(
            "name \"bmc\"\nset_working_mc 0x20\nstartlan 1\naddr 127.0.0.1 {port}\npriv_limit admin\n\
             allowed_auths_operator md5\nallowed_auths_admin md5\nguid a123456789abcdefa123456789abcdef\nendlan\n\
             user 2 true \"{USER}\" \"{PASSWORD}\" operator 10\nchassis_control \"{} 0x20\"\n",
            path("chassis").display()
        );
        fs::write(path("lan.conf"), lan).unwrap();
        installed(Path::new("/usr/bin/ipmi_sim"));
        let mut command = Command::new("ipmi_sim");
        command.arg("-n").arg("-c").arg(path("lan.conf")).arg("-f").arg(path("commands"));
        command.arg("-s").arg(path("state")).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let emulator = Emulator(command.spawn().unwrap());
        let sim = Self { _emulator: emulator, dir, port };
        wait_for_listener("/proc/net/udp", port);
        sim
    }

    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// What the machine was told, but for questions.
    pub fn told(&self) -> Vec<String> {
        let log = fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
        log.lines().filter(|line| line.starts_with("set")).map(|line| line.trim().to_owned()).collect()
    }
}

/// Waits until the emulator has `port` of 127.0.0.1. Whoever tried the port could take it from the emulator; the kernel's
/// `table` of sockets is looked at instead.
fn wait_for_listener(table: &str, port: u16) {
    let listens = format!(": 0100007F:{port:04X} 00000000:0000 ");
    let deadline = Instant::now() + DEADLINE;
    while !fs::read_to_string(table).unwrap().contains(&listens) {
        assert!(Instant::now() < deadline, "the emulated BMC does not listen");
        sleep(Duration::from_millis(20));
    }
}
