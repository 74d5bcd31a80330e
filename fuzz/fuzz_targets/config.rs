//! Configuration files and inventories of bootserve. One that is accepted finds each of its nodes, offers addresses of its networks alone, and is
//! no change to itself.
#![no_main]

use std::time::SystemTime;

use bootserve::config::Config;
use bootserve::dhcp::leases::LeaseTable;
use bootserve::inventory::Inventory;
use bootspec::MacAddr;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Err(error) = Inventory::parse(text) {
        assert!(!bootspec::diagnosis::explain(&error).is_empty());
    }
    let config = match Config::parse(text) {
        Ok(config) => config,
        Err(error) => {
            assert!(!bootspec::diagnosis::explain(&error).is_empty());
            return;
        }
    };
    assert!(config.settings().changes(&config.settings()).is_empty());
    for node in config.nodes() {
        assert_eq!(config.node_known_by(&node.key).map(|found| &found.name), Some(&node.name));
        assert_eq!(config.node_at(node.address).map(|found| &found.name), Some(&node.name));
        assert_eq!(config.node_named(node.name.as_str()).map(|found| &found.key), Some(&node.key));
        assert!(config.networks.of(node.address).is_some());
    }
    let leases = LeaseTable::new(&config, []);
    let stranger = MacAddr::new([0x3e, 0, 0, 0, 0, 0]);
    for network in config.networks.iter() {
        let link = config.networks.on_link_of(network.subnet.addr()).expect("it is one of the networks");
        let Some(address) = leases.choose(stranger, link, None, SystemTime::UNIX_EPOCH) else { continue };
        assert!(address != config.server.address);
        assert!(link.iter().any(|network| network.subnet.contains(&address)));
        assert!(config.node_at(address).is_none());
    }
});
