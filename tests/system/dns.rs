//! The name server as it is installed, asked by dig, beside a forwarder that is dnsmasq or says nothing.

use std::fs::{self, Permissions};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bootlab::api;
use bootlab::daemon::Daemon;
use bootlab::deadline::wait_until;
use bootlab::netns::{BRIDGE, NetNs, SERVER_ADDRESS, SUBNET};
use bootlab::places::program;
use bootlab::served::spawn;
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(10);
const CLIENT_ADDRESS: &str = "192.168.0.2";
const FORWARDER_ADDRESS: &str = "192.168.0.53";
/// A network that bootserve knows nothing of.
const FOREIGN_ROUTER: &str = "10.9.9.1";
const FOREIGN_ADDRESS: &str = "10.9.9.2";
/// What the forwarder knows.
const OTHER_NAME: &str = "www.example.org";
const OTHER_ADDRESS: &str = "203.0.113.5";
/// RFC 1035 section 4.1.1.
const HEADER_BYTES: usize = 12;

/// bootserve, a client in its network, and a forwarder's machine there.
struct Served {
    // In this order they are dropped.
    _bootserve: Daemon,
    client: NetNs,
    forwarder: NetNs,
    server: NetNs,
    dir: tempfile::TempDir,
}

impl Served {
    fn start() -> Result<Self> {
        bootlab::netns::sweep()?;
        let (server, dir) = (NetNs::create()?, tempfile::tempdir()?);
        // bootserve becomes another user, who reads the configuration again.
        fs::set_permissions(dir.path(), Permissions::from_mode(0o755))?;
        let machine = |name: &str, address: &str| -> Result<NetNs> {
            let machine = NetNs::empty()?;
            server.connect(&machine, name)?;
            machine.add_address(name, address)?;
            Ok(machine)
        };
        let (client, forwarder) = (machine("eth0", CLIENT_ADDRESS)?, machine("eth1", FORWARDER_ADDRESS)?);
        fs::create_dir(dir.path().join("store"))?;
        write_config(dir.path(), "node-001")?;
        let bootserve = spawn(&server, dir.path(), &[])?;
        Ok(Self { _bootserve: bootserve, client, forwarder, server, dir })
    }

    /// What the forwarder's machine has on port 53 and never answers.
    fn silent_forwarder(&self) -> Result<UdpSocket> {
        Ok(self.forwarder.inside(|| UdpSocket::bind((FORWARDER_ADDRESS, 53)))??)
    }

    fn dnsmasq(&self) -> Result<Daemon> {
        let mut command = self.forwarder.command("dnsmasq");
        command.args(["--keep-in-foreground", "--conf-file=/dev/null", "--log-facility=-", "--user=root"]);
        command.args(["--no-resolv", "--no-hosts", "--bind-interfaces", "--pid-file"]);
        command.arg(format!("--listen-address={FORWARDER_ADDRESS}"));
        command.arg(format!("--address=/{OTHER_NAME}/{OTHER_ADDRESS}"));
        let dnsmasq = Daemon::start(command, &self.dir.path().join("dnsmasq.log"))?;
        let answers = wait_until(LIMIT, || {
            dig_at(&self.client, FORWARDER_ADDRESS, &[OTHER_NAME])
                .is_ok_and(|found| found.answers == [OTHER_ADDRESS])
        });
        ensure!(answers, "{}", fs::read_to_string(self.dir.path().join("dnsmasq.log"))?);
        Ok(dnsmasq)
    }

    fn dig(&self, arguments: &[&str]) -> Result<Dig> {
        dig_at(&self.client, SERVER_ADDRESS, arguments)
    }

    /// The same over UDP and over TCP.
    fn check(&self, arguments: &[&str], expected: &[&str]) -> Result<()> {
        for transport in ["+notcp", "+tcp"] {
            let found = self.dig(&[arguments, &[transport]].concat())?;
            let is_right = found.status == "NOERROR" && found.answers == expected && found.has("aa");
            ensure!(is_right, "{arguments:?} {transport}: {found:?}");
        }
        Ok(())
    }

    fn bootserve(&self, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new(program("bootserve")?);
        let output = command.args(arguments).arg("--config").arg(config_file(self.dir.path())).output()?;
        ensure!(output.status.success(), "{arguments:?}: {output:?}");
        Ok(String::from_utf8(output.stdout)?)
    }
}

fn config_file(dir: &Path) -> PathBuf {
    dir.join("bootserve.toml")
}

/// Replaces the configuration by one in which the node has this name.
fn write_config(dir: &Path, node: &str) -> Result<()> {
    let (root, new) = (dir.display(), dir.join("new.toml"));
    fs::write(
        &new,
        format!(
            "[server]\ninterface = '{BRIDGE}'\naddress = '{SERVER_ADDRESS}'\nstore = '{root}/store'\n\
             state = '{root}/state'\nuser = 'nobody'\n[network]\nsubnet = '{SUBNET}'\n\
             range = '192.168.0.200-192.168.0.250'\n[nbp]\ndirs = ['{root}']\n\
             [dns]\nzone = 'cluster.example'\nname = 'head'\nforwarders = ['{FORWARDER_ADDRESS}']\n\
             [[node]]\nname = '{node}'\nmac = 'fc:ab:14:e8:66:02'\naddress = '192.168.0.101'\nimage = 'failsafe'\n"
        ),
    )?;
    Ok(fs::rename(new, config_file(dir))?)
}

/// What dig was told.
#[derive(Debug)]
struct Dig {
    status: String,
    flags: Vec<String>,
    /// The data of the answers.
    answers: Vec<String>,
    /// Names and types of the records beside.
    authority: Vec<String>,
}

impl Dig {
    fn has(&self, flag: &str) -> bool {
        self.flags.iter().any(|found| found == flag)
    }
}

fn dig_at(from: &NetNs, server: &str, arguments: &[&str]) -> Result<Dig> {
    let mut command = from.command("dig");
    command.arg(format!("@{server}")).args(["+noall", "+comments", "+answer", "+authority"]);
    command.args(["+tries=1", "+time=20"]).args(arguments);
    let output = String::from_utf8(command.output()?.stdout)?;
    let word = |before: &str, after: char| -> Option<&str> {
        let (_, rest) = output.split_once(before)?;
        rest.split(after).next()
    };
    let status = word("status: ", ',').with_context(|| format!("dig {arguments:?}: {output}"))?.to_owned();
    let flags = word(";; flags: ", ';').unwrap_or_default().split(' ').map(str::to_owned).collect();
    let section = |name: &str| -> Vec<Vec<&str>> {
        let (_, rest) = output.split_once(name).unwrap_or_default();
        let records = rest.lines().skip(1).take_while(|line| !line.is_empty());
        records.map(|line| line.split_whitespace().collect()).collect()
    };
    let answers = section("ANSWER SECTION:").iter().map(|record| record[4..].join(" ")).collect();
    let authority = section("AUTHORITY SECTION:").into_iter().map(|record| [record[0], record[3]].join(" "));
    Ok(Dig { status, flags, answers, authority: authority.collect() })
}

#[test]
fn nodes_and_the_server_have_names_in_both_directions_and_others_have_none() -> Result<()> {
    let served = Served::start()?;
    served.check(&["node-001.cluster.example"], &["192.168.0.101"])?;
    served.check(&["NODE-001.Cluster.Example"], &["192.168.0.101"])?;
    served.check(&["head.cluster.example"], &[SERVER_ADDRESS])?;
    served.check(&["-x", "192.168.0.101"], &["node-001.cluster.example."])?;
    served.check(&["-x", SERVER_ADDRESS], &["head.cluster.example."])?;
    served.check(&["cluster.example", "NS"], &["head.cluster.example."])?;
    // No such name, no such data: with the SOA of the zone, and never asked of the forwarder.
    for (arguments, status, zone) in [
        (&["node-009.cluster.example"][..], "NXDOMAIN", "cluster.example. SOA"),
        (&["node-001.cluster.example", "AAAA"], "NOERROR", "cluster.example. SOA"),
        (&["-x", "192.168.0.99"], "NXDOMAIN", "0.168.192.in-addr.arpa. SOA"),
    ] {
        for transport in ["+notcp", "+tcp"] {
            let found = served.dig(&[arguments, &[transport]].concat())?;
            let is_right = found.status == status && found.answers.is_empty() && found.has("aa");
            ensure!(is_right && found.authority == [zone], "{arguments:?} {transport}: {found:?}");
        }
    }
    // What is exported is what is answered.
    for zone in served.bootserve(&["export", "zone", "--list"])?.lines() {
        let file: Value = serde_json::from_str(&served.bootserve(&["export", "zone", zone, "--json"])?)?;
        let records = file["records"].as_array().context("it has records")?;
        ensure!(records.len() >= 4, "{zone}: {records:?}");
        for record in records {
            let text = |key: &str| record[key].as_str().unwrap_or_default();
            served.check(&[text("name"), text("type")], &[text("data")])?;
        }
    }
    // Names follow the configuration.
    write_config(served.dir.path(), "renamed")?;
    let follows = || served.check(&["renamed.cluster.example"], &["192.168.0.101"]);
    ensure!(wait_until(LIMIT, || follows().is_ok()), "{:?}", follows());
    ensure!(served.dig(&["node-001.cluster.example"])?.status == "NXDOMAIN");
    Ok(())
}

#[test]
fn a_machine_with_a_lease_has_a_name_and_is_told_whom_to_ask() -> Result<()> {
    let served = Served::start()?;
    let machine = NetNs::empty()?;
    served.server.connect(&machine, "eth2")?;
    let mac = String::from_utf8(machine.command("cat").arg("/sys/class/net/eth2/address").output()?.stdout)?;
    let label = format!("mac-{}", mac.trim().replace(':', "-"));
    let name = format!("{label}.cluster.example");
    ensure!(served.dig(&[&name])?.status == "NXDOMAIN");
    let script = served.dir.path().join("bound");
    fs::write(&script, "#!/bin/sh\n[ \"$1\" != bound ] || echo \"$ip $dns $domain\"\n")?;
    fs::set_permissions(&script, Permissions::from_mode(0o755))?;
    let mut udhcpc = machine.command("udhcpc");
    let output = udhcpc.args(["-i", "eth2", "-f", "-n", "-q", "-s"]).arg(&script).output()?;
    let told = String::from_utf8(output.stdout)?;
    let words: Vec<_> = told.split_whitespace().collect();
    let [address, SERVER_ADDRESS, "cluster.example"] = words[..] else { anyhow::bail!("{told}") };
    served.check(&[&name], &[address])?;
    served.check(&["-x", address], &[&format!("{name}.")])?;
    ensure!(served.dig(&[&name, "AAAA"])?.status == "NOERROR");
    let line = format!("{address}\t{name} {label}\n");
    ensure!(served.bootserve(&["export", "hosts", "--leases"])?.contains(&line));
    ensure!(!served.bootserve(&["export", "hosts"])?.contains(&label));
    Ok(())
}

#[test]
fn other_names_are_forwarded_for_those_of_our_networks_alone() -> Result<()> {
    let served = Served::start()?;
    let _dnsmasq = served.dnsmasq()?;
    for transport in ["+notcp", "+tcp"] {
        let found = served.dig(&[OTHER_NAME, transport])?;
        ensure!(found.answers == [OTHER_ADDRESS] && found.has("ra"), "{transport}: {found:?}");
    }
    let foreign = NetNs::empty()?;
    served.server.connect(&foreign, "eth3")?;
    served.server.add_address(BRIDGE, FOREIGN_ROUTER)?;
    foreign.add_address("eth3", FOREIGN_ADDRESS)?;
    foreign.route(SUBNET, FOREIGN_ROUTER)?;
    for transport in ["+notcp", "+tcp"] {
        let found = dig_at(&foreign, SERVER_ADDRESS, &[OTHER_NAME, transport])?;
        ensure!(found.status == "REFUSED" && !found.has("ra"), "{transport}: {found:?}");
        let found = dig_at(&foreign, SERVER_ADDRESS, &["node-001.cluster.example", transport])?;
        ensure!(found.answers == ["192.168.0.101"], "{transport}: {found:?}");
    }
    let metrics = api::get(&served.server, "/metrics")?;
    for line in [r#"{outcome="forwarded"} 2"#, r#"{outcome="refused"} 2"#, r#"{outcome="answered"} 2"#] {
        ensure!(metrics.contains(&format!("bootserve_dns_queries_total{line}\n")), "{line}: {metrics}");
    }
    Ok(())
}

/// A query for the address of `name`, with `id`.
fn query(id: u16, name: &str) -> Vec<u8> {
    let mut query = vec![0; HEADER_BYTES];
    query[..2].copy_from_slice(&id.to_be_bytes());
    // Recursion is desired; there is one question.
    (query[2], query[5]) = (1, 1);
    for label in name.split('.') {
        query.push(label.len() as u8);
        query.extend(label.as_bytes());
    }
    query.extend([0, 0, 1, 0, 1]);
    query
}

/// Many queries that wait for a forwarder, and then one for a name of ours.
#[test]
fn a_forwarder_that_says_nothing_delays_nothing_of_ours() -> Result<()> {
    let served = Served::start()?;
    let _silent = served.silent_forwarder()?;
    let ours = || query(7, "node-001.cluster.example");
    let first = served.client.inside(|| -> Result<Vec<u8>> {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.set_read_timeout(Some(LIMIT))?;
        for id in 1000..1400 {
            socket.send_to(&query(id, OTHER_NAME), (SERVER_ADDRESS, 53))?;
        }
        socket.send_to(&ours(), (SERVER_ADDRESS, 53))?;
        let mut answer = [0; 512];
        let length = socket.recv(&mut answer)?;
        Ok(answer[..length].to_vec())
    })??;
    let address = "192.168.0.101".parse::<Ipv4Addr>()?.octets();
    ensure!(first[..2] == [0, 7] && first.ends_with(&address), "over UDP: {first:?}");
    // On one connection, too.
    let first = served.client.inside(|| -> Result<Vec<u8>> {
        let mut stream = TcpStream::connect((SERVER_ADDRESS, 53))?;
        stream.set_read_timeout(Some(LIMIT))?;
        for query in [query(8, OTHER_NAME), ours()] {
            stream.write_all(&[&(query.len() as u16).to_be_bytes()[..], &query].concat())?;
        }
        let mut length = [0; 2];
        stream.read_exact(&mut length)?;
        let mut answer = vec![0; usize::from(u16::from_be_bytes(length))];
        stream.read_exact(&mut answer)?;
        Ok(answer)
    })??;
    ensure!(first[..2] == [0, 7] && first.ends_with(&address), "over TCP: {first:?}");
    let found = served.dig(&[OTHER_NAME])?;
    ensure!(found.status == "SERVFAIL", "{found:?}");
    Ok(())
}

/// Connections that ask nothing take all places, for a while.
#[test]
fn idle_connections_make_room_for_others() -> Result<()> {
    let served = Served::start()?;
    let idle: Vec<_> = served.client.inside(|| {
        (0..200).map(|_| TcpStream::connect((SERVER_ADDRESS, 53))).collect::<std::io::Result<_>>()
    })??;
    served.check(&["node-001.cluster.example"], &["192.168.0.101"])?;
    ensure!(idle.len() == 200);
    Ok(())
}
