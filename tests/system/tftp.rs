//! The TFTP server as it is installed, with many clients at once, with other people's clients, over bad cables and through a
//! firewall.

use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use bootlab::held::Held;
use bootlab::netns::{NetNs, SERVER_ADDRESS};
use bootlab::served::Served;
use bootlab::tftp::{Terms, fetch};
use bootlab::udp_wire::{Faults, UdpWire};

/// A name that bootserve looks for.
const FILE: &str = "undionly.kpxe";
const FILE_BYTES: usize = 1 << 20;
const TERMS: Terms = Terms { blksize: 1428, windowsize: 1, timeout: Duration::from_secs(1) };

/// bootserve with one boot program; `more` are further sections of its configuration.
fn start(more: &str) -> Result<Served> {
    let dir = tempfile::tempdir()?;
    fs::write(dir.path().join(FILE), file())?;
    Served::start(dir, "", more, &[])
}

fn file() -> Vec<u8> {
    (0_u32..).flat_map(|n| n.wrapping_mul(0x9e37_79b9).to_le_bytes()).take(FILE_BYTES).collect()
}

/// Runs a client, which must put the file there.
fn check_client(command: &mut Command, to: &Path) -> Result<()> {
    let output = command.current_dir(to.parent().expect("it is in a directory")).output()?;
    let fetched = fs::read(to).unwrap_or_default() == file();
    ensure!(output.status.success() && fetched, "{command:?}: {output:?}");
    Ok(fs::remove_file(to)?)
}

fn server() -> SocketAddr {
    SocketAddr::new(SERVER_ADDRESS.parse().expect("it is an address"), 69)
}

/// bootserve starts threads for its database and its first requests, which stay.
fn warm_up(served: &Served) -> Result<Held> {
    served.client().inside(|| fetch(server(), FILE, TERMS))??;
    served.held_at_rest()
}

#[test]
fn two_hundred_clients_at_once_get_the_file_and_leave_nothing() -> Result<()> {
    for more in ["", "[tftp]\nsingle_port = true\n"] {
        let served = start(more)?;
        let before = warm_up(&served)?;
        let all: Result<Vec<()>> = served.client().inside(|| {
            // Threads of this one are in the client's network, too.
            let clients: Vec<_> = (0..200)
                .map(|number| {
                    let terms = Terms { windowsize: [1, 4, 16][number % 3], ..TERMS };
                    thread::spawn(move || {
                        let fetched = fetch(server(), FILE, terms)?;
                        ensure!(fetched == file(), "client {number} has another file");
                        Ok(())
                    })
                })
                .collect();
            clients.into_iter().map(|client| client.join().expect("no client panics")).collect()
        })?;
        ensure!(all?.len() == 200);
        served.check_nothing_is_left(&before)?;
    }
    Ok(())
}

/// More requests than there may be transfers, of which nobody takes the answer.
#[test]
fn a_flood_of_requests_takes_no_more_than_its_share_and_keeps_nobody_out() -> Result<()> {
    let served = start("")?;
    let before = warm_up(&served)?;
    let flood = served.client().inside(|| -> Result<Vec<UdpSocket>> {
        let ask = |_| {
            // Open until the end: a port that is closed would tell the server that there is nobody.
            let socket = UdpSocket::bind("0.0.0.0:0")?;
            socket.send_to(format!("\0\x01{FILE}\0octet\0").as_bytes(), server())?;
            Ok(socket)
        };
        (0..900).map(ask).collect()
    })??;
    let fetched = served.client().inside(|| fetch(server(), FILE, TERMS))??;
    ensure!(fetched == file());
    let now = served.held()?;
    let is_bounded = now.files.len() <= before.files.len() + 512 && now.threads.len() <= before.threads.len();
    ensure!(is_bounded, "before: {before:?}, now: {now:?}");
    // Each is told four times at most, a second apart.
    served.check_nothing_is_left(&before)?;
    drop(flood);
    Ok(())
}

#[test]
fn a_cable_that_loses_packets_costs_time_and_nothing_else() -> Result<()> {
    let served = start("")?;
    for windowsize in [1, 16] {
        let fetched = served.client().inside(|| {
            let faults = Faults { delay: Duration::from_micros(100), lost_per_mille: 20 };
            let cable = UdpWire::lay(server(), faults)?;
            fetch(cable.address(), FILE, Terms { windowsize, timeout: Duration::from_millis(200), ..TERMS })
        })??;
        ensure!(fetched == file(), "windowsize {windowsize}");
    }
    Ok(())
}

#[test]
fn clients_of_others_get_the_file() -> Result<()> {
    for more in ["", "[tftp]\nsingle_port = true\n"] {
        let served = start(more)?;
        let got = served.path("got");
        let client = |program: &str, words: &str| {
            let mut client = served.client().command(program);
            client.args(words.split(' '));
            client
        };
        let mut tftp = client("tftp", &format!("-m binary {SERVER_ADDRESS} -c get {FILE} got"));
        check_client(&mut tftp, &got)?;
        let url = format!("tftp://{SERVER_ADDRESS}/{FILE}");
        check_client(&mut client("curl", &format!("-sS --tftp-blksize 1428 -o got {url}")), &got)?;
        let words = format!("-g -r {FILE} -l got {SERVER_ADDRESS}");
        for option in ["blksize 1428", "windowsize 8", "tsize 0"] {
            check_client(client("atftp", &words).args(["--option", option]), &got)?;
        }
        check_client(&mut client("busybox", &format!("tftp -b 1428 {words}")), &got)?;
    }
    Ok(())
}

const FIREWALL: &str = "
table ip firewall {
    chain forward {
        type filter hook forward priority 0; policy drop;
        udp dport 69 accept
        udp sport 69 accept
    }
    chain postrouting {
        type nat hook postrouting priority 100;
        oifname eth1 masquerade
    }
}
";

/// Behind a router that hides its network behind one address and lets port 69 through, as it was asked to.
#[test]
fn a_single_port_passes_a_firewall_that_stops_other_ports() -> Result<()> {
    for (more, passes) in [("", false), ("[tftp]\nsingle_port = true\n", true)] {
        let served = start(more)?;
        let (router, client) = (NetNs::with_bridge("10.9.0.1")?, NetNs::empty()?);
        served.server().connect(&router, "eth1")?;
        router.add_address("eth1", "192.168.0.9")?;
        router.connect(&client, "eth0")?;
        client.add_address("eth0", "10.9.0.2")?;
        client.route("default", "10.9.0.1")?;
        router.inside(|| fs::write("/proc/sys/net/ipv4/ip_forward", "1"))??;
        let rules = served.path("rules.nft");
        fs::write(&rules, FIREWALL)?;
        ensure!(router.command("nft").arg("-f").arg(&rules).status()?.success(), "nft refused the rules");
        let terms = Terms { timeout: Duration::from_millis(100), ..TERMS };
        let fetched = client.inside(|| fetch(server(), FILE, terms))?;
        ensure!(fetched.is_ok_and(|fetched| fetched == file()) == passes, "{more:?}");
    }
    Ok(())
}
