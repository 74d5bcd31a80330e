use super::*;
use crate::inventory::Inventory;
use proptest::prelude::*;

fn import(format: Format, text: &str) -> Import {
    Import::read(format, text, "").unwrap()
}

fn nodes(import: &Import) -> Vec<String> {
    import.nodes.iter().map(|node| format!("{} {} {}", node.name, node.mac, node.address)).collect()
}

const TWO: [&str; 2] = ["n1 02:00:00:00:00:01 10.0.0.1", "n2 02:00:00:00:00:02 10.0.0.2"];

#[test]
fn hosts_of_dhcpd_are_found_wherever_they_stand() {
    let text = r#"
# host no { hardware ethernet 02:00:00:00:00:09; }
option domain-name "host { }";
group {
  host n1 { hardware ethernet 02:00:00:00:00:01; fixed-address 10.0.0.1, 10.0.1.1; option host-name "x"; }
  subnet 10.0.0.0 netmask 255.255.255.0 {
    host n2 {
      if exists agent.circuit-id { filename "a"; }
      fixed-address 10.0.0.2; # its own
      hardware ethernet 02:00:00:00:00:02;
    }
  }
}
host n3 { hardware ethernet 02:00:00:00:00:03; }
host n4 { fixed-address 10.0.0.4; }
host n5 { hardware ethernet 02:00:00:00:00:01; fixed-address 10.0.0.5; }"#;
    let import = import(Format::Dhcpd, text);
    assert_eq!(nodes(&import), TWO);
    let left_out =
        ["n3: it has no IPv4 address", "n4: it has no MAC", "n5: another one before it has its MAC"];
    assert_eq!(import.left_out, left_out);
}

#[test]
fn hosts_of_dnsmasq_have_their_fields_in_any_order() {
    let text = "domain=cluster\ndhcp-host=02:00:00:00:00:01,n1,10.0.0.1,infinite\n\
                # dhcp-host=02:00:00:00:00:09,n9,10.0.0.9\n\
                dhcp-host = set:red,01-02:00:00:00:00:02, 10.0.0.2,[fd00::2],n2,12h # the second\n\
                dhcp-host=02:00:00:00:00:03,ignore\n\
                dhcp-host=02:00:00:00:00:04,02:00:00:00:00:05,n4,10.0.0.4\n";
    let import = import(Format::Dnsmasq, text);
    assert_eq!(nodes(&import), TWO);
    assert_eq!(import.left_out.len(), 2);
    assert_eq!(import.left_out[1], "n4: it has 2 MACs, and a node boots from one");
}

#[test]
fn ethers_have_their_addresses_from_hosts() {
    let ethers = "02:00:00:00:00:01 n1\n2:0:0:0:0:2 10.0.0.2 # by its address\n02:00:00:00:00:03 n3\n";
    let hosts = "127.0.0.1 localhost\n10.0.0.1 n1.cluster n1\n10.0.0.2 n2\n::1 n3\n";
    let import = Import::read(Format::Ethers, ethers, hosts).unwrap();
    assert_eq!(nodes(&import)[0], TWO[0]);
    assert_eq!(import.left_out.last().unwrap(), "n3: it has no IPv4 address");
}

#[test]
fn nodes_of_warewulf_have_their_primary_device() {
    let text = "nodeprofiles:\n  default: {}\nnodes:\n  n1:\n    profiles: [default]\n    network devices:\n      default:\n        \
                hwaddr: 02:00:00:00:00:01\n        ipaddr: 10.0.0.1\n  n2:\n    primary network: eth1\n    network devices:\n      \
                default: {hwaddr: \"02:00:00:00:00:09\"}\n      eth1: {hwaddr: \"02:00:00:00:00:02\", ipaddr: 10.0.0.2/24}\n  n3: {}\n";
    let import = import(Format::Warewulf, text);
    assert_eq!(nodes(&import), TWO);
    assert_eq!(import.left_out, ["n3: it has no IPv4 address"]);
    for (text, expected) in
        [("a: [", "this is no YAML"), ("nodes: 1", "no table 'nodes'"), ("", "no table 'nodes'")]
    {
        let error = Import::read(Format::Warewulf, text, "").unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn what_is_imported_is_an_inventory() {
    let text: String =
        (1..=30).map(|n| format!("dhcp-host=02:00:00:00:00:{n:02x},n{n},10.0.0.{n}\n")).collect();
    let import = import(Format::Dnsmasq, &text);
    let toml = format!("[defaults]\nimage = 'a'\n{import}");
    assert!(toml.contains("names = \"n[1-30]\""), "{toml}");
    let inventory = Inventory::parse(&toml).unwrap();
    assert_eq!(inventory.wire_nodes().unwrap().len(), 30);
}

proptest! {
    #[test]
    fn any_text_is_read_or_refused(
        any: String,
        near in "(host|n[0-9]|hardware|ethernet|fixed-address|dhcp-host=|02:00:00:00:00:0[0-9]|10\\.0\\.0\\.[0-9]|[{};,\"#: \n]){0,30}",
    ) {
        for text in [any, near] {
            for format in [Format::Dhcpd, Format::Dnsmasq, Format::Ethers, Format::Warewulf] {
                if let Ok(import) = Import::read(format, &text, &text) {
                    let toml = format!("[defaults]\nimage = 'a'\n{import}");
                    prop_assert!(Inventory::parse(&toml).is_ok(), "{}", toml);
                }
            }
        }
    }
}
