//! What the URLs of Razor's clients say of a machine: `net0=52-54-00-a1-9c-ae&serial=x&asset=&uuid=…`.

use bootspec::MacAddr;

/// A machine has no more interfaces than these for us.
const MAX_MACS: usize = 64;
/// A longer value is none that firmware has.
const MAX_VALUE_BYTES: usize = 128;
/// What a machine is known by if it names no interface. Boards of one kind may share them.
const OTHERS: [&str; 3] = ["uuid", "serial", "asset"];

/// What a machine says that it is, in lower case, with `-` for `:`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hardware {
    /// Its interfaces, in the order of the query, each once.
    pub macs: Vec<MacAddr>,
    others: Vec<(&'static str, String)>,
}

impl Hardware {
    /// That of the part of a URL behind `?`. What is empty, unknown or no address is passed over.
    pub fn parse(query: &str) -> Self {
        let mut hardware = Self::default();
        for (key, value) in form_urlencoded::parse(query.as_bytes()) {
            let value = value.trim().to_lowercase().replace(':', "-");
            if !value.is_empty() && value.len() <= MAX_VALUE_BYTES {
                hardware.add(&key, value);
            }
        }
        hardware
    }

    fn add(&mut self, key: &str, value: String) {
        let is_interface = key.strip_prefix("net").is_some_and(|number| number.parse::<u8>().is_ok());
        if is_interface {
            let mac = value.parse().ok().filter(|mac| !self.macs.contains(mac));
            self.macs.extend(mac.filter(|_| self.macs.len() < MAX_MACS));
        } else if let Some(key) = OTHERS.into_iter().find(|other| *other == key)
            && !self.others.iter().any(|(other, _)| *other == key)
        {
            self.others.push((key, value));
        }
    }

    /// Whether it says nothing that a machine could be known by.
    pub fn is_empty(&self) -> bool {
        self.macs.is_empty() && self.others.is_empty()
    }

    /// What the machine is looked for by: its interfaces; where it names none, the rest.
    pub fn sought(&self) -> Vec<String> {
        if self.macs.is_empty() { self.other_keys().collect() } else { self.mac_keys().collect() }
    }

    /// All that it is known by from now on.
    pub fn keys(&self) -> Vec<String> {
        self.mac_keys().chain(self.other_keys()).collect()
    }

    fn mac_keys(&self) -> impl Iterator<Item = String> {
        self.macs.iter().map(|mac| format!("mac={mac}"))
    }

    fn other_keys(&self) -> impl Iterator<Item = String> {
        self.others.iter().map(|(key, value)| format!("{key}={value}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn interfaces_come_before_all_else_and_what_is_empty_is_dropped() {
        let hardware = Hardware::parse(
            "net0=52-54-00-A1-9C-AE&net1=&net2=52:54:00:a1:9c:af&net3=nonsense&serial=ABC:1&asset=&dhcp_mac=x&net0=52-54-00-a1-9c-ae",
        );
        assert_eq!(hardware.sought(), ["mac=52:54:00:a1:9c:ae", "mac=52:54:00:a1:9c:af"]);
        assert_eq!(hardware.keys().last().unwrap(), "serial=abc-1");
        assert_eq!(Hardware::parse("serial=X&uuid=Y&serial=z").sought(), ["serial=x", "uuid=y"]);
        for nothing in ["", "net0=&serial=", "net=52-54-00-a1-9c-ae", "netx=52-54-00-a1-9c-ae", "mac=x"] {
            assert!(Hardware::parse(nothing).is_empty(), "{nothing}");
        }
    }

    proptest! {
        #[test]
        fn any_query_is_read_within_bounds(query in "(net[0-9]{0,4}|serial|\\PC{0,4})=\\PC{0,200}(&net[0-9]=([0-9a-f]{2}[:-]){5}[0-9A-F]{2}){0,90}") {
            let hardware = Hardware::parse(&query);
            prop_assert!(hardware.macs.len() <= MAX_MACS && hardware.keys().len() <= MAX_MACS + OTHERS.len());
            prop_assert_eq!(hardware.is_empty(), hardware.sought().is_empty());
        }
    }
}
