//! ethers(5): `MAC NAME`, and hosts(5): `ADDRESS NAME ALIAS…`.

use std::collections::HashMap;
use std::net::Ipv4Addr;

use super::Host;

/// All lines of `ethers`, with the addresses of `hosts`.
pub(super) fn hosts(ethers: &str, hosts: &str) -> Vec<Host> {
    let mut addresses: HashMap<&str, Ipv4Addr> = HashMap::new();
    let mut names: HashMap<Ipv4Addr, &str> = HashMap::new();
    for words in lines(hosts) {
        let [address, host_names @ ..] = &words[..] else { continue };
        let Ok(address) = address.parse() else { continue };
        for name in host_names {
            addresses.entry(name).or_insert(address);
            names.entry(address).or_insert(name);
        }
    }
    let host = |words: Vec<&str>| {
        let [mac, name, ..] = &words[..] else { return None };
        // Either may stand there.
        let address = name.parse().ok().or_else(|| addresses.get(name).copied());
        let name = match name.parse::<Ipv4Addr>() {
            Ok(address) => names.get(&address).unwrap_or(name),
            Err(_) => name,
        };
        // Of a full name, the first part is the node's.
        let name = if address.is_some() { name } else { name.split('.').next().unwrap_or(name) };
        Some(Host { name: name.to_owned(), macs: vec![(*mac).to_owned()], address })
    };
    lines(ethers).filter_map(host).collect()
}

fn lines(text: &str) -> impl Iterator<Item = Vec<&str>> {
    let lines = text
        .lines()
        .map(|line| line.split('#').next().unwrap_or_default().split_whitespace().collect::<Vec<_>>());
    lines.filter(|words| !words.is_empty())
}
