//! DHCP and BOOTP packets of clients, reduced to what the server acts on.
//!
//! The dhcproto crate finds the options; their few values are read here, leniently: firmware pads, truncates and
//! repeats options, and a malformed one that we do not need is no reason to leave a machine without an address.

use std::collections::HashMap;
use std::fmt;
use std::net::Ipv4Addr;

use bootspec::MacAddr;
use dhcproto::v4::borrowed::Message;
use dhcproto::v4::{Flags, HType, MAGIC, MessageType, Opcode, OptionCode};

use super::relay::RelayAgent;
use crate::arch::Arch;
use crate::config::OptionBytes;
use crate::policy::Stage;

/// Option 77 as iPXE sends it.
const USER_CLASS_IPXE: &[u8] = b"iPXE";
/// Option 97: a type byte and 16 bytes of UUID (RFC 4578 section 2.3).
const CLIENT_UUID_BYTES: usize = 17;
/// Option 175, iPXE's own encapsulated options; not in dhcproto's table.
pub(super) const IPXE_ENCAPSULATED: OptionCode = OptionCode::Unknown(175);

/// What a client asks.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// DISCOVER, REQUEST, ...
    pub kind: Kind,
    /// Transaction id, repeated in the reply.
    pub xid: u32,
    /// Flags, repeated in the reply.
    pub flags: Flags,
    /// The client's address, if it already uses one; else 0.0.0.0.
    pub ciaddr: Ipv4Addr,
    /// The relay that passed the packet on; else 0.0.0.0.
    pub giaddr: Ipv4Addr,
    /// The interface that asks. Leases go by this and not by the client id: ROM, iPXE and the operating system of one node
    /// send different ids (01 and MAC, or a DUID) and must all get the same address.
    pub mac: MacAddr,
    /// Option 61, which a node may be known by.
    pub client_id: Option<OptionBytes>,
    /// Option 50: the address it would like.
    pub requested: Option<Ipv4Addr>,
    /// Option 54: the server it talks to.
    pub server_id: Option<Ipv4Addr>,
    /// Option 57: the largest message it takes, IP and UDP headers included, in bytes.
    pub max_message_bytes: Option<u16>,
    /// Option 118, an address of the subnet that it wants to be in (RFC 3011); to be echoed.
    pub subnet: Option<Ipv4Addr>,
    /// Option 82, what a relay added.
    pub relay: Option<RelayAgent>,
    /// Option 97, which a node may be known by; to be echoed.
    pub client_uuid: Option<[u8; CLIENT_UUID_BYTES]>,
    /// Encapsulated option 71 of PXE (option 43), which boot server is asked, to be echoed with its code and length.
    pub pxe_boot_item: Option<Vec<u8>>,
    /// Who asks.
    pub stage: Stage,
}

/// What sort of request it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// DHCP, by option 53.
    Dhcp(MessageType),
    /// BOOTP (RFC 951), which knows of no such option.
    Bootp {
        /// Whether the client reads options (RFC 1497): its packet has their magic cookie.
        reads_options: bool,
    },
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dhcp(kind) => f.write_str(&format!("{kind:?}").to_uppercase()),
            Self::Bootp { .. } => f.write_str("BOOTP"),
        }
    }
}

/// The packet is not a request that can be answered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// It ends before the options begin.
    #[error("the packet has {0} bytes, a DHCP message at least 240")]
    TooShort(usize),
    /// It is a server's answer.
    #[error("the packet is no request")]
    NotARequest,
    /// Its hardware address is none that we know how to handle.
    #[error("hardware type {0:?} with an address of {1} bytes is not Ethernet")]
    NotEthernet(HType, u8),
}

const ETHERNET_ADDRESS_BYTES: u8 = 6;
/// Where the options begin, behind their magic cookie.
const OPTIONS: usize = 240;

impl Request {
    /// Reads a client's packet.
    pub fn parse(packet: &[u8]) -> Result<Self, RequestError> {
        let message = Message::new(packet).map_err(|_| RequestError::TooShort(packet.len()))?;
        if message.opcode() != Opcode::BootRequest {
            return Err(RequestError::NotARequest);
        }
        let options = Options::read(&message);
        let kind = match options.number::<1>(OptionCode::MessageType) {
            Some([kind]) => Kind::Dhcp(MessageType::from(kind)),
            None => Kind::Bootp { reads_options: packet[OPTIONS - MAGIC.len()..].starts_with(&MAGIC) },
        };
        Ok(Self {
            kind,
            xid: message.xid(),
            flags: message.flags(),
            ciaddr: message.ciaddr(),
            giaddr: message.giaddr(),
            mac: mac(&message)?,
            client_id: options
                .bytes(OptionCode::ClientIdentifier)
                .and_then(|id| OptionBytes::new(id.to_vec())),
            requested: options.address(OptionCode::RequestedIpAddress),
            server_id: options.address(OptionCode::ServerIdentifier),
            max_message_bytes: options.number(OptionCode::MaxMessageSize).map(u16::from_be_bytes),
            subnet: options.address(OptionCode::SubnetSelection),
            relay: options
                .bytes(OptionCode::RelayAgentInformation)
                .map(|bytes| RelayAgent::read(bytes.to_vec())),
            client_uuid: client_uuid(&options),
            pxe_boot_item: options.bytes(OptionCode::VendorExtensions).and_then(pxe_boot_item),
            stage: stage(kind, &options),
        })
    }
}

impl Request {
    /// An address of the link that the client is on: what the relay selects, or the client, or where the relay stands, or
    /// the client itself. None: it is on ours. What claims to be a relay's is believed only of a relay.
    pub fn link(&self) -> Option<Ipv4Addr> {
        let specified = |address: Ipv4Addr| (!address.is_unspecified()).then_some(address);
        let selected = self.by_relay().and_then(|relay| relay.link);
        selected.or(self.subnet).or(specified(self.giaddr)).or(specified(self.ciaddr))
    }

    /// The address that the client takes for ours, if a relay gave it its own (RFC 5107).
    pub fn server_id_of_relay(&self) -> Option<Ipv4Addr> {
        self.by_relay()?.server_id
    }

    /// What the relay says that will get the answer.
    fn by_relay(&self) -> Option<&RelayAgent> {
        self.relay.as_ref().filter(|_| !self.giaddr.is_unspecified())
    }
}

fn mac(message: &Message) -> Result<MacAddr, RequestError> {
    let error = RequestError::NotEthernet(message.htype(), message.hlen());
    // The length is compared before chaddr() is called, which slices the packet by whatever length it claims.
    if message.htype() != HType::Eth || message.hlen() != ETHERNET_ADDRESS_BYTES {
        return Err(error);
    }
    message.chaddr().try_into().map(MacAddr::new).map_err(|_| error)
}

/// The raw values of a packet's options.
struct Options(HashMap<OptionCode, Vec<u8>>);

impl Options {
    fn read(message: &Message) -> Self {
        let mut options = HashMap::new();
        for option in message.opts() {
            // Of an option that comes again later, the first counts. (Adjacent pieces have been joined: RFC 3396.)
            options.entry(option.code()).or_insert_with(|| option.data().to_vec());
        }
        Self(options)
    }

    fn bytes(&self, code: OptionCode) -> Option<&[u8]> {
        self.0.get(&code).map(Vec::as_slice)
    }

    /// An option of exactly `N` bytes.
    fn number<const N: usize>(&self, code: OptionCode) -> Option<[u8; N]> {
        self.bytes(code)?.try_into().ok()
    }

    fn address(&self, code: OptionCode) -> Option<Ipv4Addr> {
        self.number::<4>(code).map(Ipv4Addr::from)
    }
}

/// Whoever speaks BOOTP is the ROM of a network card, of before PXE.
fn stage(kind: Kind, options: &Options) -> Stage {
    let vendor_class = options.bytes(OptionCode::ClassIdentifier).unwrap_or_default();
    if is_ipxe(options) {
        Stage::Ipxe
    } else if vendor_class.starts_with(b"HTTPClient") {
        Stage::HttpBoot(arch(options))
    } else if vendor_class.starts_with(b"PXEClient") || matches!(kind, Kind::Bootp { .. }) {
        Stage::Pxe(arch(options))
    } else {
        Stage::OperatingSystem
    }
}

/// iPXE must be looked for first, because it sends `PXEClient` as its vendor class, too. It says who it is in the
/// user class, as bare bytes; builds that follow RFC 3004 put a length byte before them. Its encapsulated options are
/// the other sign, the only one left where a site changed the user class.
fn is_ipxe(options: &Options) -> bool {
    let user_class = options.bytes(OptionCode::UserClass).unwrap_or_default();
    let bare = user_class == USER_CLASS_IPXE;
    let prefixed = user_class.split_first() == Some((&4, USER_CLASS_IPXE));
    bare || prefixed || options.bytes(IPXE_ENCAPSULATED).is_some()
}

/// RFC 4578 allows a list of types, the first of which is what the machine runs as. Firmware of before the RFC sends
/// none and is BIOS.
fn arch(options: &Options) -> Arch {
    match options.bytes(OptionCode::ClientSystemArchitecture) {
        Some([high, low, ..]) => u16::from_be_bytes([*high, *low]).into(),
        _ => Arch::BIOS_X86,
    }
}

/// Other lengths and types occur in firmware and must not be echoed (EDK2 checks what comes back).
fn client_uuid(options: &Options) -> Option<[u8; CLIENT_UUID_BYTES]> {
    options.number(OptionCode::ClientMachineIdentifier).filter(|uuid: &[u8; CLIENT_UUID_BYTES]| uuid[0] == 0)
}

/// Option 71 of those that PXE encapsulates (PXE 2.1 specification, section 2.1.1: code, length, value).
fn pxe_boot_item(mut encapsulated: &[u8]) -> Option<Vec<u8>> {
    const PAD: u8 = 0;
    const END: u8 = 255;
    const BOOT_ITEM: u8 = 71;
    loop {
        match encapsulated {
            [END, ..] | [] => return None,
            [PAD, rest @ ..] => encapsulated = rest,
            [code, length, rest @ ..] => {
                let value = rest.get(..usize::from(*length))?;
                // A type and a layer, of two bytes each.
                if (*code, *length) == (BOOT_ITEM, 4) {
                    return Some([&[*code, *length], value].concat());
                }
                encapsulated = &rest[value.len()..];
            }
            [_] => return None,
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A packet of fc:ab:14:e8:66:02 with the given options, each code, length, value.
    pub(crate) fn packet(options: &[&[u8]]) -> Vec<u8> {
        let mut packet = vec![0; 240];
        packet[..4].copy_from_slice(&[1, 1, 6, 0]);
        packet[4..8].copy_from_slice(&[0xbe, 0x62, 0xdc, 0x41]);
        packet[28..34].copy_from_slice(&[0xfc, 0xab, 0x14, 0xe8, 0x66, 0x02]);
        packet[236..].copy_from_slice(&[99, 130, 83, 99]);
        packet.extend(options.concat());
        packet.push(255);
        packet
    }

    const DISCOVER: &[u8] = &[53, 1, 1];
    const PXE_CLIENT: &[u8] = b"\x3c\x09PXEClient";

    fn check_stage(options: &[&[u8]], expected: Stage) {
        let options = [&[DISCOVER], options].concat();
        assert_eq!(Request::parse(&packet(&options)).unwrap().stage, expected, "{options:?}");
    }

    #[test]
    fn ipxe_is_told_from_firmware_by_either_sign() {
        check_stage(&[PXE_CLIENT, b"\x4d\x04iPXE"], Stage::Ipxe);
        check_stage(&[PXE_CLIENT, b"\x4d\x05\x04iPXE"], Stage::Ipxe);
        check_stage(&[PXE_CLIENT, b"\xaf\x03\xb0\x01\x01"], Stage::Ipxe);
        check_stage(&[PXE_CLIENT, b"\x4d\x05plain"], Stage::Pxe(Arch::BIOS_X86));
    }

    #[test]
    fn firmware_names_its_architecture() {
        check_stage(&[PXE_CLIENT, b"\x5d\x02\x00\x07"], Stage::Pxe(7.into()));
        check_stage(&[b"\x3c\x15HTTPClient:Arch:00016", b"\x5d\x02\x00\x10"], Stage::HttpBoot(16.into()));
        check_stage(&[PXE_CLIENT, b"\x5d\x04\x00\x07\x00\x09"], Stage::Pxe(7.into()));
        check_stage(&[PXE_CLIENT, b"\x5d\x01\x07"], Stage::Pxe(Arch::BIOS_X86));
    }

    #[test]
    fn an_operating_system_is_no_firmware() {
        check_stage(&[], Stage::OperatingSystem);
        check_stage(&[b"\x3c\x04dhcp"], Stage::OperatingSystem);
    }

    #[test]
    fn malformed_options_are_left_out() {
        let request =
            Request::parse(&packet(&[DISCOVER, b"\x32\x02\x0a\x00", b"\x61\x01\x00", b"\x0c\x01\xff"]));
        let request = request.unwrap();
        assert_eq!((request.requested, request.client_uuid), (None, None));
    }

    #[test]
    fn packets_that_cannot_be_answered_are_rejected_with_the_reason() {
        let check = |change: fn(&mut Vec<u8>), expected: RequestError| {
            let mut packet = packet(&[DISCOVER]);
            change(&mut packet);
            assert_eq!(Request::parse(&packet), Err(expected));
        };
        check(|p| p.truncate(100), RequestError::TooShort(100));
        check(|p| p[0] = 2, RequestError::NotARequest);
        check(|p| p[2] = 255, RequestError::NotEthernet(HType::Eth, 255));
    }

    #[test]
    fn a_request_without_message_type_is_bootp() {
        let check = |packet: &[u8], expected| {
            let request = Request::parse(packet).unwrap();
            assert_eq!((request.kind, request.stage), (expected, Stage::Pxe(Arch::BIOS_X86)));
        };
        check(&packet(&[b"\x0c\x01n"]), Kind::Bootp { reads_options: true });
        let mut without_cookie = packet(&[DISCOVER]);
        without_cookie[236] = 0;
        check(&without_cookie, Kind::Bootp { reads_options: false });
    }

    proptest! {
        #[test]
        fn any_bytes_are_parsed_or_rejected_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            let _ = Request::parse(&bytes);
        }

        #[test]
        fn any_options_are_parsed_without_panic(tail in prop::collection::vec(any::<u8>(), 0..600)) {
            let request = Request::parse(&packet(&[DISCOVER, &tail]));
            prop_assert!(request.is_ok());
        }
    }
}
