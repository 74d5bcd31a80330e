//! What a machine says of itself in the query of a URL, and hardware addresses as Go's `net.ParseMAC` reads them.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use bootspec::MacAddr;

/// Labels of a machine: the first value of each parameter of the query. Under `mac`, in any case, stands a hardware address in
/// its canonical form, or nothing if it was none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Labels {
    values: BTreeMap<String, String>,
    raw_query: String,
}

impl Labels {
    /// Those of the part of a URL behind `?`.
    pub fn parse(query: &str) -> Self {
        let mut values = BTreeMap::new();
        for (key, value) in form_urlencoded::parse(query.as_bytes()) {
            values.entry(key.into_owned()).or_insert_with(|| value.into_owned());
        }
        Self { values: values.into_iter().filter_map(canonical).collect(), raw_query: query.to_owned() }
    }

    /// Those of a machine of which no more is known than these.
    pub fn of(mac: &HardwareAddr, uuid: Option<String>) -> Self {
        let uuid = uuid.map(|uuid| ("uuid".to_owned(), uuid));
        let values = uuid.into_iter().chain([("mac".to_owned(), mac.to_string())]).collect();
        Self { values, raw_query: String::new() }
    }

    /// The value of a label.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.values.get(key).map(String::as_str)
    }

    /// All labels by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.values.iter().map(|(key, value)| (key.as_str(), value.as_str()))
    }

    /// The query as it came.
    pub fn raw_query(&self) -> &str {
        &self.raw_query
    }

    /// The Ethernet address that the machine asks from, if it says one.
    pub fn mac(&self) -> Option<MacAddr> {
        self.get("mac")?.parse().ok()
    }
}

/// The label in its canonical form; none for an address that is no address.
fn canonical((key, value): (String, String)) -> Option<(String, String)> {
    match key.eq_ignore_ascii_case("mac") {
        true => value.parse().ok().map(|address: HardwareAddr| (key, address.to_string())),
        false => Some((key, value)),
    }
}

/// A hardware address of 6, 8 or 20 octets: Ethernet, EUI-64, InfiniBand. Printed in lower case with colons.
///
/// Parsed from groups of two digits with `:` or `-` between them, or of four with `.`, in any case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HardwareAddr(Vec<u8>);

/// The text is no hardware address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("invalid MAC address")]
pub struct ParseHardwareAddrError;

impl HardwareAddr {
    /// The Ethernet address, if it is one.
    pub fn mac(&self) -> Option<MacAddr> {
        self.0.as_slice().try_into().ok().map(MacAddr::new)
    }
}

impl From<MacAddr> for HardwareAddr {
    fn from(mac: MacAddr) -> Self {
        Self(mac.octets().to_vec())
    }
}

impl FromStr for HardwareAddr {
    type Err = ParseHardwareAddrError;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let (separator, digits) = match s.as_bytes() {
            [_, _, b':', ..] => (':', 2),
            [_, _, b'-', ..] => ('-', 2),
            [_, _, _, _, b'.', ..] => ('.', 4),
            _ => return Err(ParseHardwareAddrError),
        };
        if s.split(separator).any(|group| group.len() != digits) {
            return Err(ParseHardwareAddrError);
        }
        let octets = hex::decode(s.replace(separator, "")).map_err(|_| ParseHardwareAddrError)?;
        match octets.len() {
            6 | 8 | 20 => Ok(Self(octets)),
            _ => Err(ParseHardwareAddrError),
        }
    }
}

impl fmt::Display for HardwareAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, octet) in self.0.iter().enumerate() {
            let colon = if index == 0 { "" } else { ":" };
            write!(f, "{colon}{octet:02x}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_address_is_read_as_go_does() {
        let check = |text: &str, expected: Option<&str>| {
            let found = text.parse::<HardwareAddr>().ok().map(|address| address.to_string());
            assert_eq!(found.as_deref(), expected, "{text}");
        };
        let ethernet = Some("52:54:00:a1:9c:ae");
        check("52:54:00:a1:9c:ae", ethernet);
        check("52-54-00-A1-9C-AE", ethernet);
        check("5254.00a1.9cAE", ethernet);
        check("02:00:5e:10:00:00:00:01", Some("02:00:5e:10:00:00:00:01"));
        check("0200.5e10.0000.0001", Some("02:00:5e:10:00:00:00:01"));
        let infiniband = "00:00:00:00:fe:80:00:00:00:00:00:00:02:00:5e:10:00:00:00:01";
        check(infiniband, Some(infiniband));
        check(&infiniband.replace(':', "-").to_uppercase(), Some(infiniband));
        for text in [
            "",
            "52540 0a19cae",
            "525400a19cae",
            "52:54:00:a1:9c",
            "52:54:00:a1:9c:ae:",
            "52:54:00-a1:9c:ae",
            "5:54:00:a1:9c:ae1",
            "52:54:00:a1:9c:ag",
            "52:54:00:a1:9c:ae:01",
            "+2:54:00:a1:9c:ae",
            "é:54:00:a1:9c:ae",
        ] {
            check(text, None);
        }
    }

    #[test]
    fn labels_are_the_first_value_of_each_parameter() {
        let labels = Labels::parse("uuid=AB&mac=52-54-00-A1-9C-AE&os=in+st%61lled&os=none&empty=&flag");
        let found: Vec<_> = labels.iter().collect();
        let expected =
            [("empty", ""), ("flag", ""), ("mac", "52:54:00:a1:9c:ae"), ("os", "in stalled"), ("uuid", "AB")];
        assert_eq!(found, expected);
        assert_eq!(labels.mac(), "52:54:00:a1:9c:ae".parse().ok());
    }

    #[test]
    fn an_address_that_is_none_is_no_label() {
        let labels = Labels::parse("mac=nonsense&MAC=02:00:5e:10:00:00:00:01");
        assert_eq!(labels.iter().collect::<Vec<_>>(), [("MAC", "02:00:5e:10:00:00:00:01")]);
        assert_eq!(labels.mac(), None);
    }

    proptest! {
        #[test]
        fn an_address_is_printed_as_it_is_parsed(octets in prop_oneof![
            prop::collection::vec(any::<u8>(), 6), prop::collection::vec(any::<u8>(), 8), prop::collection::vec(any::<u8>(), 20)
        ]) {
            let address = HardwareAddr(octets);
            for text in [address.to_string(), address.to_string().replace(':', "-").to_uppercase()] {
                prop_assert_eq!(text.parse(), Ok(address.clone()));
            }
        }

        #[test]
        fn any_query_has_labels_whose_addresses_are_canonical(query in "\\PC{0,60}|([a-zA-Z]{0,3}=[0-9a-f:%.-]{0,20}&?){0,4}") {
            let labels = Labels::parse(&query);
            for (key, value) in labels.iter().filter(|(key, _)| key.eq_ignore_ascii_case("mac")) {
                prop_assert_eq!(value.parse::<HardwareAddr>().map(|address| address.to_string()), Ok(value.to_owned()), "{}", key);
            }
        }

        #[test]
        fn any_text_is_an_address_or_none(text in "\\PC{0,24}|[0-9a-fA-F:.-]{0,60}") {
            if let Ok(address) = text.parse::<HardwareAddr>() {
                prop_assert_eq!(address.to_string().parse(), Ok(address));
            }
        }
    }
}
