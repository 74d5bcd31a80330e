use super::*;

/// The smallest configuration, `extra` appended.
fn parse(extra: &str) -> Result<Config, ConfigError> {
    Config::parse(&format!(
        "[server]\ninterface = \"br0\"\naddress = \"192.168.0.1\"\nstore = \"/store\"\nstate = \"/state\"\n\
         [network]\nsubnet = \"192.168.0.0/24\"\nrange = \"192.168.0.200-192.168.0.250\"\n{extra}"
    ))
}

fn node_by(name: &str, key: &str, last: u8) -> String {
    format!("[[node]]\nname = '{name}'\n{key}\naddress = '192.168.0.{last}'\nimage = 'failsafe'\n")
}

fn node(name: &str, mac: &str, address: &str) -> String {
    format!("[[node]]\nname = '{name}'\nmac = '{mac}'\naddress = '{address}'\nimage = 'failsafe'\n")
}

fn check_rejected(extra: &str, expected: &[&str]) {
    let error = parse(extra).unwrap_err().to_string();
    for part in expected {
        assert!(error.contains(part), "{part:?} in {error}");
    }
}

#[test]
fn the_shipped_example_is_valid() {
    let config = Config::parse(include_str!("../../bootserve.example.toml")).unwrap();
    let node = config.node("fc:ab:14:e8:66:02".parse().unwrap()).unwrap();
    assert_eq!(node.name.as_str(), "node-001");
    assert_eq!(node.address, Ipv4Addr::new(192, 168, 0, 101));
    assert_eq!(config.base_url(), "http://192.168.0.1");
    assert_eq!(config.boot.default_image, None, "strangers keep their own disk");
}

#[test]
fn defaults_fill_what_is_left_out() {
    let config = parse("").unwrap();
    assert_eq!(config.server.http_port, 80);
    assert_eq!(config.networks.own().lease.as_secs(), 3600);
    assert!(config.router_advertisements);
    assert!(!config.tftp.single_port);
    assert_eq!(config.nbp_dirs, [Path::new("/usr/lib/ipxe"), Path::new("/usr/share/ipxe")]);
    assert!(config.boot.default_image.is_none());
}

#[test]
fn one_data_directory_of_an_older_server_may_be_named() {
    let compat = |text: &str| parse(text).unwrap().compat;
    assert_eq!(compat("[compat]\n"), None);
    assert_eq!(compat("[compat]\nbootcfg = '/b'\n"), Some(Site::Bootcfg("/b".into())));
    assert_eq!(compat("[compat]\nmatchbox = '/m'\n"), Some(Site::Matchbox("/m".into())));
    let both = "[compat]\nbootcfg = '/b'\nmatchbox = '/m'\n";
    check_rejected(both, &["compat is both bootcfg /b and matchbox /m", "one of them"]);
    assert!(!parse("").unwrap().razor && parse("[compat]\nrazor = true\n").unwrap().razor);
    check_rejected("[compat]\nrazor = '/r'\n", &["razor", "boolean"]);
}

#[test]
fn unknown_keys_and_bad_values_are_located() {
    check_rejected("colour = 'red'\n", &["line 9, column 1", "colour"]);
    check_rejected(&node("n", "fc:ab", "192.168.0.9"), &["line 11", "not a MAC address"]);
    check_rejected("[boot]\ndefault_image = '../x'\n", &["line 10", "not an image"]);
    check_rejected("[boot]\nmirrors = ['http://head-2']\n", &["line 10", "'http://head-2'", "IPv4 address"]);
    let many = format!("[boot]\nmirrors = [{}]\n", "'http://10.0.0.1',".repeat(9));
    check_rejected(&many, &["boot.mirrors is 9 URLs", "at most 8"]);
    for bad in [
        "https://10.0.0.1",
        "http://10.0.0.1/",
        "http://10.0.0.1:x",
        "http://10.0.0.1/${x}",
        "http://10.0.0.1/a,b",
    ] {
        check_rejected(&format!("[boot]\nmirrors = ['{bad}']\n"), &["line 10", "is not a mirror"]);
    }
    check_rejected("[boot]\nmin_rollback_index = -1\n", &["line 10", "expected u64"]);
    check_rejected("[boot]\nkernel_args = ['a\tb']\n", &["line 10", "kernel argument"]);
}

#[test]
fn machines_are_told_of_our_names_unless_their_network_has_other_servers() {
    let dns = "[dns]\nzone = 'c.example.'\n";
    let told = |network: &str| {
        let config = parse(&format!("{network}\n{dns}")).unwrap();
        let own = config.networks.own();
        (own.dns.iter().map(Ipv4Addr::to_string).collect::<Vec<_>>(), own.domain.clone())
    };
    let check = |network, server: &str, domain: Option<&str>| {
        assert_eq!(told(network), (vec![server.to_owned()], domain.map(str::to_owned)), "{network}");
    };
    check("", "192.168.0.1", Some("c.example"));
    check("domain = 'other'", "192.168.0.1", Some("other"));
    check("dns = ['10.0.0.53']", "10.0.0.53", None);
    assert_eq!(parse("").unwrap().networks.own().dns, [] as [Ipv4Addr; 0]);
}

#[test]
fn a_zone_that_cannot_be_is_refused() {
    let check = |section: &str, expected: &[&str]| check_rejected(&format!("[dns]\n{section}\n"), expected);
    check("zone = ''", &["\"\" is no name of a zone"]);
    check("name = 'x'", &["line 9", "zone"]);
    check("zone = 'c'\nforwarders = ['ns.example']", &["line 11", "not a name server"]);
    check("zone = 'c'\nforwarders = ['192.168.0.1']", &["dns.forwarders is 192.168.0.1"]);
    check("zone = 'c'\nttl_seconds = 2147483648", &["dns.ttl_seconds is 2147483648"]);
    let node = node("a_b", "fc:ab:14:e8:66:01", "192.168.0.9");
    check(&format!("zone = 'c'\n{node}"), &["a_b cannot be the name of a host in the zone c."]);
    assert!(parse(&node).is_ok(), "without a zone it can");
}

#[test]
fn duplicates_name_both_nodes() {
    let first = node("a", "fc:ab:14:e8:66:01", "192.168.0.100");
    let check = |second: String, what: &str| {
        check_rejected(&format!("{first}{second}"), &["nodes a and", "same", what]);
    };
    check(node("b", "FC-AB-14-E8-66-01", "192.168.0.101"), "mac fc:ab:14:e8:66:01");
    check(node("b", "fc:ab:14:e8:66:02", "192.168.0.100"), "address 192.168.0.100");
    check(node("a", "fc:ab:14:e8:66:02", "192.168.0.101"), "name a");
}

#[test]
fn a_node_is_known_by_one_thing_that_is_its_own() {
    for key in
        ["client_id = 'node-a'", "uuid = '00112233-4455-6677-8899-aabbccddeeff'", "circuit_id = '0x0004'"]
    {
        let name = key.split_once(' ').unwrap().0;
        let same = format!("{}{}", node_by("a", key, 9), node_by("b", key, 10));
        check_rejected(&same, &["nodes a and b", "same", name]);
    }
    let uuid = |first, second| {
        let key = |uuid| format!("uuid = '{uuid}'");
        format!("{}{}", node_by("a", &key(first), 9), node_by("b", &key(second), 10))
    };
    let swapped = "33221100-5544-7766-8899-aabbccddeeff";
    check_rejected(&uuid("00112233-4455-6677-8899-aabbccddeeff", swapped), &["nodes a and b", "same uuid"]);
    let any_relay = node_by("a", "circuit_id = 'p1'", 9);
    let [one, two] = [("b", 1, 10), ("c", 2, 11)].map(|(name, relay, last)| {
        node_by(name, &format!("circuit_id = 'p1'\nrelay = '10.0.0.{relay}'"), last)
    });
    check_rejected(&format!("{any_relay}{two}"), &["nodes a and c", "same circuit_id p1"]);
    check_rejected(&format!("{two}{any_relay}"), &["nodes c and a", "same circuit_id p1"]);
    assert!(parse(&format!("{one}{two}")).is_ok());
    for key in [
        "",
        "mac = '02:00:00:00:00:01'\nclient_id = 'x'",
        "uuid = '00112233-4455-6677-8899-aabbccddeeff'\nrelay = '10.0.0.1'",
    ] {
        check_rejected(&node_by("a", key, 9), &["node a", "hint: a node is known by one of"]);
    }
    check_rejected(&node_by("a", "uuid = 'x'", 9), &["line 11"]);
}

#[test]
fn addresses_must_fit_the_subnet() {
    check_rejected(&node("a", "fc:ab:14:e8:66:01", "10.0.0.1"), &["node a", "10.0.0.1", "192.168.0.0/24"]);
    check_rejected(&node("a", "fc:ab:14:e8:66:01", "192.168.0.1"), &["is the server's own"]);
    check_rejected(&node("a", "fc:ab:14:e8:66:01", "192.168.0.255"), &["broadcast"]);
    check_rejected("router = '10.0.0.1'\n", &["network.router"]);
}

#[test]
fn quirks_of_all_of_an_architecture_and_of_a_node_add_up() {
    let config = parse(&format!(
        "{}[[quirk]]\ndelay_ms = 100\n[[quirk]]\narch = 0\ndelay_ms = 300\ndiscovery_control = true\n\
         [[quirk]]\nnode = 'a'\ndelay_ms = 200\nboot_file_option = true\n",
        node("a", "fc:ab:14:e8:66:01", "192.168.0.9")
    ));
    let config = config.unwrap();
    let node = config.nodes().first();
    let check = |node, arch: Option<u16>, expected: &str| {
        assert_eq!(config.quirks(node, arch.map(Arch::from)).to_string(), expected);
    };
    check(None, None, "delay of 100 ms");
    check(None, Some(7), "delay of 100 ms");
    check(None, Some(0), "delay of 300 ms, discovery control");
    check(node, None, "delay of 200 ms, boot file in option 67");
    check(node, Some(0), "delay of 300 ms, discovery control, boot file in option 67");
    check_rejected("[[quirk]]\nnode = 'b'\ndelay_ms = 1\n", &["quirk.node is \"b\"", "[[node]]"]);
    check_rejected("[[quirk]]\ndelay_ms = 3001\n", &["quirk.delay_ms is 3001", "at most 3000"]);
    check_rejected("[[quirk]]\narch = 0\n", &["[[quirk]] is without effect"]);
}

#[test]
fn there_may_be_several_networks() {
    let server = "[server]\ninterface = 'br0'\naddress = '10.1.0.1'\nstore = '/s'\nstate = '/t'\n";
    let parse = |networks: &str| Config::parse(&format!("{server}{networks}"));
    let two =
        "[[network]]\nsubnet = '10.2.0.0/24'\nrouter = '10.2.0.1'\n[[network]]\nsubnet = '10.1.0.0/24'\n";
    let config = parse(&format!("{two}{}", node("a", "fc:ab:14:e8:66:01", "10.2.0.9"))).unwrap();
    assert_eq!(config.networks.own().subnet.to_string(), "10.1.0.0/24");
    assert_eq!(config.networks.of(config.nodes()[0].address).unwrap().router, Some([10, 2, 0, 1].into()));
    let check = |networks: &str, expected: &[&str]| {
        let error = parse(networks).unwrap_err().to_string();
        for part in expected {
            assert!(error.contains(part), "{part:?} in {error}");
        }
    };
    check("[[network]]\nsubnet = '10.2.0.0/24'\n", &["server.address 10.1.0.1", "10.2.0.0/24"]);
    check(
        &format!("{two}{}", node("a", "fc:ab:14:e8:66:01", "10.3.0.9")),
        &["node a", "10.3.0.9", "none of the subnets"],
    );
    check(&format!("{two}[[network]]\nsubnet = '10.2.0.0/16'\n"), &["10.2.0.0/16", "10.2.0.0/24", "overlap"]);
    check(&format!("{two}colour = 1\n"), &["line 11", "colour"]);
    check(
        &two.replace(
            "[[network]]\nsubnet = '10.1",
            "router_advertisements = true\n[[network]]\nsubnet = '10.1",
        ),
        &["network.router_advertisements is true", "only in the network of server.address"],
    );
}

#[test]
fn image_selector_round_trips() {
    for text in ["failsafe", "failsafe/1"] {
        assert_eq!(text.parse::<ImageSelector>().unwrap().to_string(), text);
    }
}

#[test]
fn overrides_become_boot_parameters() {
    let extra = "mode = 'failsafe'\non_failure = 'shell'\nroot_size = '50%'\nfailure_delay_seconds = 5\n";
    let config = parse(&format!("{}{extra}", node("a", "fc:ab:14:e8:66:01", "192.168.0.9"))).unwrap();
    assert_eq!(
        config.nodes()[0].params.to_string(),
        "bootnode.mode=failsafe bootnode.root_size=50% bootnode.on_failure=shell bootnode.failure_delay=5"
    );
}
