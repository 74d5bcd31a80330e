//! dnsmasq(8): `dhcp-host=MAC,ADDRESS,NAME`, in any order, with more between them.

use std::net::Ipv4Addr;

use bootspec::MacAddr;

use super::Host;

/// All `dhcp-host` lines that name a host.
pub(super) fn hosts(text: &str) -> Vec<Host> {
    let lines = text.lines().map(|line| line.split('#').next().unwrap_or_default().trim());
    // Files of dhcp-hostsfile have no more than what is behind the equals sign.
    let values = lines.filter_map(|line| match line.split_once('=') {
        Some((key, value)) => (key.trim() == "dhcp-host").then_some(value),
        None => Some(line),
    });
    values.map(host).filter(|host| !host.name.is_empty() || !host.macs.is_empty()).collect()
}

fn host(value: &str) -> Host {
    let mut host = Host::default();
    for field in value.split(',').map(str::trim) {
        // A hardware type may stand before it.
        let mac = field.split_once('-').filter(|(kind, _)| kind.len() <= 2).map_or(field, |(_, mac)| mac);
        if mac.contains(':') && mac.parse::<MacAddr>().is_ok() {
            host.macs.push(mac.to_owned());
        } else if let Ok(address) = field.parse::<Ipv4Addr>() {
            host.address = Some(address);
        } else if is_name(field) {
            host.name = field.to_owned();
        }
    }
    host
}

/// Neither `id:…`, `set:…`, an IPv6 address, `ignore`, nor the time of a lease.
fn is_name(field: &str) -> bool {
    let is_time = field.trim_end_matches(['s', 'm', 'h', 'd', 'w']).bytes().all(|byte| byte.is_ascii_digit());
    !field.is_empty()
        && !field.contains([':', '[', '*'])
        && !is_time
        && !["ignore", "infinite"].contains(&field)
}
