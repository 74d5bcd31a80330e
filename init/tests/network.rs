//! Brings interfaces up in network namespaces: a virtual cable from the node to a peer that plays the boot server.
//!
//! Each test runs in namespaces of its own, so that /sys shows its interfaces and nothing is left behind. Needs root.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod isolated;

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use std::{fs, thread};

use bootspec::cmdline::BootParams;
use dhcproto::v4::{DhcpOption, Message, MessageType, Opcode, OptionCode};
use dhcproto::{Decodable, Encodable};
use init::code::Code;
use init::discover::Connection;
use init::modules::Modules;
use init::network::{Limits, Network, NetworkError, up_within};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use socket2::{Domain, Protocol, Socket, Type};

/// A /sys and a /run of their own; addresses are not checked against routes, as in an initramfs.
const SETUP: &str = "
    mount -t sysfs sysfs /sys
    mount -t tmpfs tmpfs /run
    mkdir /run/netns
    ip netns add peer
    ip -n peer link set lo up
    echo 0 | tee /proc/sys/net/ipv4/conf/all/rp_filter > /proc/sys/net/ipv4/conf/default/rp_filter";

const MAC: &str = "fc:ab:14:e8:66:01";
const SERVER: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);
const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 11);

/// Runs `test`, whose name is `name`, in namespaces of its own.
fn isolated(name: &str, test: impl FnOnce()) {
    isolated::isolated(name, SETUP, test);
}

fn ip(arguments: &str) -> String {
    let output =
        Command::new("ip").args(arguments.split(' ')).output().expect("cannot run ip(8), of iproute2");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {arguments}: {stderr}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Lays a cable between the node's interface `name` with the hardware address `mac` and the peer's interface of the same
/// name, which is switched off.
fn add_cable(name: &str, mac: &str) {
    ip(&format!("link add {name} address {mac} type veth peer name {name} netns peer"));
}

/// The same, and switches the peer's end on and gives it an address.
fn add_live_cable(name: &str, mac: &str, server: Ipv4Addr) {
    add_cable(name, mac);
    ip(&format!("-n peer address add {server}/24 dev {name}"));
    ip(&format!("-n peer link set {name} up"));
}

fn params(line: &str) -> BootParams {
    let (params, problems) = BootParams::parse(line);
    assert_eq!(problems, []);
    params
}

/// Long enough that none of them ends a test that should succeed.
const PATIENT: Limits = Limits {
    interface: Duration::from_secs(60),
    link: Duration::from_secs(60),
    dhcp: Duration::from_secs(60),
};
const SHORT: Duration = Duration::from_millis(100);

fn up(line: &str) -> Network {
    up_within(&params(line), &mut Modules::default(), PATIENT).unwrap()
}

fn failure(line: &str, limits: Limits) -> NetworkError {
    up_within(&params(line), &mut Modules::default(), limits).unwrap_err()
}

/// Runs `work` on a thread that lives in the peer's namespace.
fn in_peer<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> thread::JoinHandle<T> {
    thread::spawn(|| {
        let namespace = File::open("/run/netns/peer").unwrap();
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
        work()
    })
}

/// Whether a connection to `address`, which is one of the peer's, can be made.
fn assert_connects(address: Ipv4Addr) {
    let listener = in_peer(move || TcpListener::bind((address, 0)).unwrap()).join().unwrap();
    let to: SocketAddr = listener.local_addr().unwrap();
    TcpStream::connect_timeout(&to, Duration::from_secs(60)).unwrap();
}

/// A DHCP server in the peer's namespace that answers as `script` says.
fn serve(interface: &'static str, mut script: impl FnMut(&Message) -> Option<Message> + Send + 'static) {
    let serve = move || {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP)).unwrap();
        socket.bind_device(Some(interface.as_bytes())).unwrap();
        socket.set_broadcast(true).unwrap();
        socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, 67)).into()).unwrap();
        let socket = UdpSocket::from(socket);
        thread::spawn(move || {
            let mut packet = [0; 1500];
            loop {
                let length = socket.recv(&mut packet).unwrap();
                if let Some(reply) = script(&Message::from_bytes(&packet[..length]).unwrap()) {
                    socket.send_to(&reply.to_vec().unwrap(), (Ipv4Addr::BROADCAST, 68)).unwrap();
                }
            }
        });
    };
    in_peer(serve).join().unwrap();
}

fn reply(request: &Message, kind: MessageType) -> Message {
    let none = Ipv4Addr::UNSPECIFIED;
    let mut reply = Message::new_with_id(request.xid(), none, ADDRESS, none, none, request.chaddr());
    reply.set_opcode(Opcode::BootReply);
    reply.opts_mut().insert(DhcpOption::MessageType(kind));
    reply.opts_mut().insert(DhcpOption::ServerIdentifier(SERVER));
    reply.opts_mut().insert(DhcpOption::SubnetMask(Ipv4Addr::new(255, 255, 255, 0)));
    reply.opts_mut().insert(DhcpOption::Router(vec![SERVER]));
    reply
}

/// OFFER to DISCOVER, ACK to a REQUEST.
fn agree_to_any(request: &Message) -> Option<Message> {
    match request.opts().msg_type()? {
        MessageType::Discover => Some(reply(request, MessageType::Offer)),
        MessageType::Request => Some(reply(request, MessageType::Ack)),
        other => panic!("unexpected {other:?}"),
    }
}

/// OFFER to DISCOVER, ACK to a REQUEST for what was offered.
fn agree(request: &Message) -> Option<Message> {
    match request.opts().msg_type()? {
        MessageType::Discover => Some(reply(request, MessageType::Offer)),
        MessageType::Request => {
            let wanted = request.opts().get(OptionCode::RequestedIpAddress);
            assert_eq!(wanted, Some(&DhcpOption::RequestedIpAddress(ADDRESS)));
            Some(reply(request, MessageType::Ack))
        }
        other => panic!("unexpected {other:?}"),
    }
}

#[test]
fn an_address_of_the_command_line_is_set_and_taken_back() {
    isolated("an_address_of_the_command_line_is_set_and_taken_back", || {
        add_live_cable("eth0", "02:00:00:00:00:01", Ipv4Addr::new(10, 8, 0, 1));
        add_live_cable("eth1", MAC, SERVER);
        ip("-n peer address add 10.99.0.1/32 dev lo");
        let network =
            up("bootnode.mac=fc:ab:14:e8:66:01 bootnode.address=10.9.0.11/24 bootnode.gateway=10.9.0.1");
        assert_eq!(
            network.to_string(),
            "eth1 (fc:ab:14:e8:66:01) has the address 10.9.0.11/24, gateway 10.9.0.1"
        );
        assert!(ip("-4 address show dev eth1").contains("inet 10.9.0.11/24 brd 10.9.0.255"));
        assert!(
            ip("link show dev eth0").contains("state DOWN"),
            "an interface that was not asked for is left off"
        );
        assert_connects(SERVER);
        assert_connects(Ipv4Addr::new(10, 99, 0, 1));
        TcpListener::bind("127.0.0.1:0").unwrap();
        assert!(ip("link show dev lo").contains("UP"));

        network.down().unwrap();
        assert_eq!(ip("-4 address show dev eth1"), "");
        assert_eq!(ip("-4 route show"), "");
        assert!(ip("link show dev eth1").contains("state DOWN"));
    });
}

#[test]
fn a_gateway_may_be_outside_of_the_interfaces_network() {
    isolated("a_gateway_may_be_outside_of_the_interfaces_network", || {
        add_live_cable("eth0", MAC, SERVER);
        ip("-n peer route add 172.16.0.11/32 dev eth0");
        let network = up("bootnode.address=172.16.0.11/32 bootnode.gateway=10.9.0.1");
        assert_eq!(network.interface, "eth0");
        assert_connects(SERVER);
    });
}

#[test]
fn dhcp_gives_an_address_although_packets_are_lost_and_one_is_refused() {
    isolated("dhcp_gives_an_address_although_packets_are_lost_and_one_is_refused", || {
        add_live_cable("eth0", MAC, SERVER);
        let mut count = 0;
        serve("eth0", move |request| {
            count += 1;
            match count {
                // DISCOVER is lost, comes again, and its REQUEST is refused.
                1 => None,
                3 => Some(reply(request, MessageType::Nak)),
                _ => agree(request),
            }
        });
        let network = up("bootnode.mac=fc:ab:14:e8:66:01");
        assert_eq!(
            network.to_string(),
            "eth0 (fc:ab:14:e8:66:01) has the address 10.9.0.11/24, gateway 10.9.0.1, by DHCP from 10.9.0.1"
        );
        assert_connects(SERVER);
    });
}

#[test]
fn a_lease_is_renewed_and_an_address_whose_lease_has_ended_is_given_up() {
    isolated("a_lease_is_renewed_and_an_address_whose_lease_has_ended_is_given_up", || {
        add_live_cable("eth0", MAC, SERVER);
        let mut given = 0;
        serve("eth0", move |request| {
            let mut reply = agree_to_any(request)?;
            // Another address each time, as of a server that has lost its leases. The third is offered and not given.
            reply.set_yiaddr([10, 9, 0, 11 + given]);
            reply.opts_mut().insert(DhcpOption::AddressLeaseTime(100));
            given += u8::from(reply.opts().msg_type() == Some(MessageType::Ack));
            (given < 3).then_some(reply)
        });
        let params = params("");
        let seconds = Duration::from_secs;
        let began = Instant::now();
        let mut connection = Connection::new(up(""), began);
        let addresses = || ip("-4 -o address show dev eth0");
        let mut keep =
            |at| connection.keep(&params, Limits { dhcp: seconds(5), ..PATIENT }, began + seconds(at));
        keep(49);
        assert!(addresses().contains("inet 10.9.0.11/24"), "{}", addresses());
        keep(50);
        assert!(
            addresses().contains("inet 10.9.0.12/24") && !addresses().contains("0.11"),
            "{}",
            addresses()
        );
        assert_connects(SERVER);
        keep(149);
        assert!(addresses().contains("inet 10.9.0.12/24"), "a lease that is not renewed lasts to its end");
        keep(150);
        assert_eq!(addresses(), "");
    });
}

/// Ends with the test.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

#[test]
fn another_implementation_gives_an_address() {
    isolated("another_implementation_gives_an_address", || {
        add_live_cable("eth0", MAC, SERVER);
        let dir = tempfile::tempdir().unwrap();
        let (config, leases) = (dir.path().join("udhcpd.conf"), dir.path().join("leases"));
        fs::write(&leases, "").unwrap();
        let lines = format!(
            "interface eth0\nstart 10.9.0.20\nend 10.9.0.29\noption subnet 255.255.255.0\noption router 10.9.0.1\n\
             lease_file {}\npidfile {}\n",
            leases.display(),
            dir.path().join("pid").display()
        );
        fs::write(&config, lines).unwrap();
        let mut command = Command::new("ip");
        command.args(["netns", "exec", "peer", "busybox", "udhcpd", "-f"]).arg(config).stdin(Stdio::null());
        let _server = Server(command.spawn().unwrap());
        let network = up("");
        assert!((20..=29).contains(&network.address.address.octets()[3]), "{network}");
        assert_eq!((network.gateway, network.dhcp_server), (Some(SERVER), Some(SERVER)));
        assert_connects(SERVER);
    });
}

#[test]
fn without_a_server_the_answer_is_that_there_is_none() {
    isolated("without_a_server_the_answer_is_that_there_is_none", || {
        add_live_cable("eth0", MAC, SERVER);
        let error = failure("bootnode.mac=fc:ab:14:e8:66:01", Limits { dhcp: SHORT, ..PATIENT });
        assert_eq!((error.code(), error.to_string().as_str()), (Code::Dhcp, "no DHCP answer on eth0 in 0 s"));
    });
}

#[test]
fn without_a_server_on_one_wire_the_next_is_tried() {
    isolated("without_a_server_on_one_wire_the_next_is_tried", || {
        add_live_cable("eth0", "02:00:00:00:00:01", Ipv4Addr::new(10, 8, 0, 1));
        add_live_cable("eth1", MAC, SERVER);
        serve("eth1", agree);
        let limits = Limits { dhcp: Duration::from_secs(4), ..PATIENT };
        let network = up_within(&params(""), &mut Modules::default(), limits).unwrap();
        assert_eq!((network.interface.as_str(), network.address.address), ("eth1", ADDRESS));
    });
}

#[test]
fn a_wire_that_comes_alive_while_another_is_asked_is_tried_next() {
    isolated("a_wire_that_comes_alive_while_another_is_asked_is_tried_next", || {
        add_live_cable("eth0", "02:00:00:00:00:01", Ipv4Addr::new(10, 8, 0, 1));
        add_cable("eth1", MAC);
        // It has a link already, and so is tried whatever the limit.
        ip("link set eth0 up");
        serve("eth0", |_| {
            ip("-n peer address replace 10.9.0.1/24 dev eth1");
            ip("-n peer link set eth1 up");
            None
        });
        serve("eth1", agree);
        let limits = Limits { link: SHORT, dhcp: Duration::from_secs(4), ..PATIENT };
        let network = up_within(&params(""), &mut Modules::default(), limits).unwrap();
        assert_eq!((network.interface.as_str(), network.address.address), ("eth1", ADDRESS));
    });
}

#[test]
fn interfaces_that_are_not_used_are_switched_off_again() {
    isolated("interfaces_that_are_not_used_are_switched_off_again", || {
        add_live_cable("eth0", MAC, SERVER);
        add_cable("eth1", "02:00:00:00:00:01");
        let is_up = |interface: &str| ip(&format!("link show {interface}")).contains(",UP");
        assert_eq!(up("bootnode.address=10.9.0.11/24").interface, "eth0");
        assert!(is_up("eth0") && !is_up("eth1"));
    });
}

#[test]
fn a_dead_wire_is_told_from_a_missing_card() {
    isolated("a_dead_wire_is_told_from_a_missing_card", || {
        let limits = Limits { interface: SHORT, link: SHORT, ..PATIENT };
        let error = failure("", limits);
        assert_eq!(error.code(), Code::Nic);
        let message = error.to_string();
        assert!(message.starts_with("there is no Ethernet interface after 0 s; "), "{message}");

        add_cable("eth0", MAC);
        let error = failure("bootnode.mac=fc:ab:14:e8:66:01", limits);
        assert_eq!(error.code(), Code::Link);
        let message = error.to_string();
        assert_eq!(message, "no link on eth0 after 0 s; there are: eth0 fc:ab:14:e8:66:01 (no link)");

        let error = failure("bootnode.mac=fc:ab:14:e8:66:02", limits);
        assert_eq!(error.code(), Code::Nic);
        let message = error.to_string();
        let expected = "no network interface has the address fc:ab:14:e8:66:02 after 0 s; there are: eth0 fc:ab:14:e8:66:01";
        assert!(message.starts_with(expected), "{message}");
    });
}

#[test]
fn an_interface_that_cannot_be_switched_on_is_named() {
    isolated("an_interface_that_cannot_be_switched_on_is_named", || {
        // The kernel refuses to switch on a VXLAN whose port is taken.
        let _taken = UdpSocket::bind("0.0.0.0:4789").unwrap();
        ip("link add eth0 address fc:ab:14:e8:66:01 type vxlan id 5 dstport 4789");
        let error = failure("bootnode.mac=fc:ab:14:e8:66:01", Limits { link: SHORT, ..PATIENT });
        assert_eq!((error.code(), error.to_string().as_str()), (Code::Nic, "cannot switch on eth0"));
    });
}

#[test]
fn an_interface_and_a_link_that_come_late_are_used() {
    isolated("an_interface_and_a_link_that_come_late_are_used", || {
        let is_up = |namespace: &str, interface: &str| {
            ip(&format!("{namespace}link show"))
                .lines()
                .any(|line| line.contains(interface) && line.contains("UP"))
        };
        let late = thread::spawn(move || {
            // The first step has been taken.
            while !is_up("", "lo:") {
                thread::yield_now();
            }
            add_cable("eth0", MAC);
            // The interface has been found.
            while !is_up("", "eth0@") {
                thread::yield_now();
            }
            ip("-n peer address add 10.9.0.1/24 dev eth0");
            ip("-n peer link set eth0 up");
        });
        let network = up("bootnode.mac=fc:ab:14:e8:66:01 bootnode.address=10.9.0.11/24");
        late.join().unwrap();
        assert_eq!(network.interface, "eth0");
        assert_connects(SERVER);
    });
}

#[test]
fn an_address_that_the_kernel_refuses_is_named() {
    isolated("an_address_that_the_kernel_refuses_is_named", || {
        add_live_cable("eth0", MAC, SERVER);
        let error = failure("bootnode.address=224.0.0.1/24", PATIENT);
        assert_eq!(error.code(), Code::Address);
        assert_eq!(error.to_string(), "cannot set the address 224.0.0.1/24 on eth0");
        let error = failure("bootnode.address=10.9.0.11/24 bootnode.gateway=224.0.0.1", PATIENT);
        assert_eq!(error.to_string(), "cannot set the gateway 224.0.0.1 on eth0");
    });
}
