//! LLDP frames: bytes to types (IEEE 802.1AB section 8).

use std::fmt::Write;
use std::net::Ipv4Addr;

use bootspec::facts::{Neighbour, Text};

/// Types of TLVs.
const END: u8 = 0;
const CHASSIS_ID: u8 = 1;
const PORT_ID: u8 = 2;
const TTL: u8 = 3;
const PORT_DESCRIPTION: u8 = 4;
const SYSTEM_NAME: u8 = 5;

/// Subtypes of ids. Those of chassis and ports differ by one up to here.
const CHASSIS_MAC: u8 = 4;
const CHASSIS_NETWORK_ADDRESS: u8 = 5;
const PORT_MAC: u8 = 3;
const PORT_NETWORK_ADDRESS: u8 = 4;
/// Of address families, which IANA numbers.
const IPV4: u8 = 1;

/// What a frame says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Advertisement {
    /// Which port it comes from.
    Port(Neighbour),
    /// That the port will be another's, or switched off.
    Leaves,
}

/// Reads a frame without its Ethernet header. None if it is not one: the first three TLVs must be there in their order.
pub fn parse(frame: &[u8]) -> Option<Advertisement> {
    let mut tlvs = Tlvs(frame);
    let chassis_id = id(tlvs.expect(CHASSIS_ID)?, CHASSIS_MAC, CHASSIS_NETWORK_ADDRESS);
    let port_id = id(tlvs.expect(PORT_ID)?, PORT_MAC, PORT_NETWORK_ADDRESS);
    if tlvs.expect(TTL)?.get(..2)? == [0, 0] {
        return Some(Advertisement::Leaves);
    }
    let mut neighbour = Neighbour { chassis_id, port_id, ..Neighbour::default() };
    for (kind, value) in tlvs {
        match kind {
            PORT_DESCRIPTION => neighbour.port_description = text(value),
            SYSTEM_NAME => neighbour.system_name = text(value),
            _ => {}
        }
    }
    Some(Advertisement::Port(neighbour))
}

/// TLVs up to the last one or the end of what is there: seven bits of type, nine of length, the value.
struct Tlvs<'a>(&'a [u8]);

impl<'a> Tlvs<'a> {
    fn expect(&mut self, kind: u8) -> Option<&'a [u8]> {
        self.next().filter(|(found, _)| *found == kind).map(|(_, value)| value)
    }
}

impl<'a> Iterator for Tlvs<'a> {
    type Item = (u8, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let (head, rest) = self.0.split_first_chunk()?;
        let head = u16::from_be_bytes(*head);
        let kind = (head >> 9) as u8;
        let (value, rest) = rest.split_at_checked(usize::from(head & 0x1ff))?;
        self.0 = rest;
        (kind != END).then_some((kind, value))
    }
}

/// An id: its subtype, and what it says.
fn id(value: &[u8], mac: u8, network_address: u8) -> Option<Text> {
    let (subtype, id) = value.split_first()?;
    if *subtype == mac {
        return hexadecimal(id);
    }
    match id {
        [IPV4, a, b, c, d] if *subtype == network_address => {
            Text::clean(&Ipv4Addr::new(*a, *b, *c, *d).to_string())
        }
        _ if *subtype == network_address => hexadecimal(id),
        _ => text(id),
    }
}

/// Some switches put a zero at the end.
fn text(bytes: &[u8]) -> Option<Text> {
    match str::from_utf8(bytes) {
        Ok(text) if !text.trim_end_matches('\0').contains(char::is_control) => Text::clean(text),
        _ => hexadecimal(bytes),
    }
}

fn hexadecimal(bytes: &[u8]) -> Option<Text> {
    let text = bytes.iter().enumerate().fold(String::new(), |mut text, (index, byte)| {
        let colon = if index == 0 { "" } else { ":" };
        write!(text, "{colon}{byte:02x}").expect("a String takes it");
        text
    });
    Text::clean(&text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tlv(kind: u8, value: &[u8]) -> Vec<u8> {
        let head = u16::from(kind) << 9 | u16::try_from(value.len()).unwrap();
        [&head.to_be_bytes(), value].concat()
    }

    fn frame(tlvs: &[(u8, &[u8])]) -> Vec<u8> {
        tlvs.iter().flat_map(|(kind, value)| tlv(*kind, value)).collect()
    }

    fn texts(neighbour: &Neighbour) -> [Option<&str>; 4] {
        let Neighbour { chassis_id, port_id, system_name, port_description } = neighbour;
        [chassis_id, port_id, system_name, port_description].map(|text| text.as_ref().map(Text::as_str))
    }

    fn port(tlvs: &[(u8, &[u8])]) -> Neighbour {
        match parse(&frame(tlvs)) {
            Some(Advertisement::Port(neighbour)) => neighbour,
            other => panic!("{other:?}"),
        }
    }

    const TTL_120: (u8, &[u8]) = (TTL, &[0, 120]);

    #[test]
    fn a_switch_says_its_name_and_the_ports() {
        let tlvs: [(u8, &[u8]); 7] = [
            (CHASSIS_ID, &[4, 0x28, 0x99, 0x3a, 0, 0x12, 0x34]),
            (PORT_ID, b"\x05Ethernet1/7"),
            TTL_120,
            (PORT_DESCRIPTION, b"rack 3, node 7\0"),
            (SYSTEM_NAME, b"leaf3"),
            (127, &[0, 0x12, 0x0f, 1]),
            (END, &[]),
        ];
        let expected =
            [Some("28:99:3a:00:12:34"), Some("Ethernet1/7"), Some("leaf3"), Some("rack 3, node 7")];
        assert_eq!(texts(&port(&tlvs)), expected);
    }

    #[test]
    fn ids_are_written_as_what_they_are() {
        let cases: [(&[u8], &[u8], [&str; 2]); 4] = [
            (b"\x07serial 5", &[3, 2, 0, 0, 0, 0, 9], ["serial 5", "02:00:00:00:00:09"]),
            (&[5, 1, 10, 0, 0, 2], &[4, 1, 10, 0, 0, 3], ["10.0.0.2", "10.0.0.3"]),
            (&[5, 2, 0xfe, 0x80], b"\x07513", ["02:fe:80", "513"]),
            (&[7, 0xff, 0x01], &[7, 0x01, 0x02], ["ff:01", "01:02"]),
        ];
        for (chassis, port_id, [expected_chassis, expected_port]) in cases {
            let neighbour = port(&[(CHASSIS_ID, chassis), (PORT_ID, port_id), TTL_120]);
            let expected = [Some(expected_chassis), Some(expected_port), None, None];
            assert_eq!(texts(&neighbour), expected);
        }
    }

    #[test]
    fn what_comes_after_the_end_is_padding() {
        let neighbour =
            port(&[(CHASSIS_ID, b"\x07a"), (PORT_ID, b"\x07b"), TTL_120, (END, &[]), (SYSTEM_NAME, b"x")]);
        assert_eq!(texts(&neighbour), [Some("a"), Some("b"), None, None]);
    }

    #[test]
    fn a_port_that_is_switched_off_says_so() {
        let tlvs: [(u8, &[u8]); 3] = [(CHASSIS_ID, b"\x07a"), (PORT_ID, b"\x07b"), (TTL, &[0, 0])];
        assert_eq!(parse(&frame(&tlvs)), Some(Advertisement::Leaves));
    }

    #[test]
    fn what_does_not_begin_as_it_must_is_no_frame() {
        let chassis: (u8, &[u8]) = (CHASSIS_ID, b"\x07a");
        let port: (u8, &[u8]) = (PORT_ID, b"\x07b");
        for tlvs in
            [vec![], vec![chassis], vec![chassis, TTL_120], vec![port, chassis, TTL_120], vec![chassis, port]]
        {
            assert_eq!(parse(&frame(&tlvs)), None, "{tlvs:?}");
        }
        assert_eq!(parse(&frame(&[chassis, port, (TTL, &[0])])), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused_without_panic(bytes: Vec<u8>, name: Vec<u8>, cut: u8) {
            let _ = parse(&bytes);
            let name = &name[..name.len().min(511)];
            let mut whole = frame(&[(CHASSIS_ID, b"\x07a"), (PORT_ID, b"\x07b"), TTL_120, (SYSTEM_NAME, name)]);
            whole.truncate(whole.len() - usize::from(cut).min(whole.len()));
            let _ = parse(&whole);
        }
    }
}
