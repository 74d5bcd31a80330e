//! TFTP packets (RFC 1350 section 5, RFC 2347).

use bytes::{BufMut, Bytes};

/// A packet of either side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Packet {
    /// RRQ: send me a file.
    Read(Request),
    /// WRQ: take a file.
    Write(Request),
    /// DATA: a block of the file.
    Data {
        /// Number of the block modulo 65536, the first is 1.
        block: u16,
        /// At most blksize bytes; fewer in the last block.
        data: Bytes,
    },
    /// ACK: the block arrived; 0 acknowledges an OACK.
    Ack(u16),
    /// ERROR: the transfer is over.
    Error {
        /// Why.
        code: ErrorCode,
        /// For humans.
        message: String,
    },
    /// OACK: these options hold.
    OptionAck(Vec<TftpOption>),
}

/// What RRQ and WRQ say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Name of the file.
    pub filename: String,
    /// `octet` or `netascii`, in any case.
    pub mode: String,
    /// What the client would like.
    pub options: Vec<TftpOption>,
}

/// An option's name, in lower case, and value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TftpOption {
    /// `blksize`, `timeout`, `tsize`, `windowsize`, ...
    pub name: String,
    /// A decimal number for the options that we know.
    pub value: String,
}

/// RFC 1350 section 5 and RFC 2347.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorCode {
    /// 0: see the message.
    NotDefined,
    /// 1
    FileNotFound,
    /// 2
    AccessViolation,
    /// 4
    IllegalOperation,
    /// 8: the options that the server acknowledged are not acceptable.
    OptionsRefused,
    /// Any other.
    Unknown(u16),
}

/// The bytes are no TFTP packet.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// It ends too early.
    #[error("the packet ends within its {0}")]
    Truncated(&'static str),
    /// RFC 1350 knows 1 to 5, RFC 2347 adds 6.
    #[error("unknown opcode {0}")]
    Opcode(u16),
    /// Text that is not UTF-8 cannot name anything that we have.
    #[error("its {0} is not text")]
    NotText(&'static str),
}

const RRQ: u16 = 1;
const WRQ: u16 = 2;
const DATA: u16 = 3;
const ACK: u16 = 4;
const ERROR: u16 = 5;
const OACK: u16 = 6;

impl Packet {
    /// Reads a packet.
    pub fn parse(bytes: &[u8]) -> Result<Self, WireError> {
        let (opcode, rest) = number(bytes, "opcode")?;
        match opcode {
            RRQ => Ok(Self::Read(Request::parse(rest)?)),
            WRQ => Ok(Self::Write(Request::parse(rest)?)),
            DATA => {
                let (block, data) = number(rest, "block number")?;
                Ok(Self::Data { block, data: Bytes::copy_from_slice(data) })
            }
            ACK => Ok(Self::Ack(number(rest, "block number")?.0)),
            ERROR => parse_error(rest),
            OACK => Ok(Self::OptionAck(parse_options(rest))),
            other => Err(WireError::Opcode(other)),
        }
    }

    /// The bytes to send.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.encode_into(&mut out);
        out
    }

    /// Appends the bytes to send.
    pub fn encode_into(&self, out: &mut Vec<u8>) {
        match self {
            Self::Read(request) => request.encode(RRQ, out),
            Self::Write(request) => request.encode(WRQ, out),
            Self::Data { block, data } => {
                out.put_u16(DATA);
                out.put_u16(*block);
                out.put_slice(data);
            }
            Self::Ack(block) => {
                out.put_u16(ACK);
                out.put_u16(*block);
            }
            Self::Error { code, message } => {
                out.put_u16(ERROR);
                out.put_u16((*code).into());
                put_text(out, message);
            }
            Self::OptionAck(options) => {
                out.put_u16(OACK);
                put_options(out, options);
            }
        }
    }
}

/// Whether a packet wants to begin a transfer, well-formed or not.
pub fn is_request(packet: &[u8]) -> bool {
    number(packet, "opcode").is_ok_and(|(opcode, _)| matches!(opcode, RRQ | WRQ))
}

impl Request {
    fn parse(bytes: &[u8]) -> Result<Self, WireError> {
        let (filename, rest) = text(bytes, "file name")?;
        let (mode, rest) = text(rest, "mode")?;
        Ok(Self { filename, mode, options: parse_options(rest) })
    }

    fn encode(&self, opcode: u16, out: &mut Vec<u8>) {
        out.put_u16(opcode);
        put_text(out, &self.filename);
        put_text(out, &self.mode);
        put_options(out, &self.options);
    }

    /// The value of an option.
    pub fn option(&self, name: &str) -> Option<&str> {
        self.options.iter().find(|option| option.name == name).map(|option| option.value.as_str())
    }
}

/// Some clients leave out the message's NUL, or all of the message.
fn parse_error(bytes: &[u8]) -> Result<Packet, WireError> {
    let (code, message) = number(bytes, "error code")?;
    let message = message.split(|b| *b == 0).next().unwrap_or_default();
    Ok(Packet::Error { code: code.into(), message: String::from_utf8_lossy(message).into_owned() })
}

/// Whatever follows the last complete pair is ignored: some clients pad their requests.
fn parse_options(mut bytes: &[u8]) -> Vec<TftpOption> {
    let mut options = Vec::new();
    while let Ok((option, rest)) = parse_option(bytes) {
        options.push(option);
        bytes = rest;
    }
    options
}

fn parse_option(bytes: &[u8]) -> Result<(TftpOption, &[u8]), WireError> {
    let (name, rest) = text(bytes, "option name")?;
    let (value, rest) = text(rest, "option value")?;
    Ok((TftpOption { name: name.to_ascii_lowercase(), value }, rest))
}

fn number<'a>(bytes: &'a [u8], what: &'static str) -> Result<(u16, &'a [u8]), WireError> {
    let (number, rest) = bytes.split_first_chunk().ok_or(WireError::Truncated(what))?;
    Ok((u16::from_be_bytes(*number), rest))
}

/// A string that ends with NUL.
fn text<'a>(bytes: &'a [u8], what: &'static str) -> Result<(String, &'a [u8]), WireError> {
    let end = bytes.iter().position(|b| *b == 0).ok_or(WireError::Truncated(what))?;
    let text = std::str::from_utf8(&bytes[..end]).map_err(|_| WireError::NotText(what))?;
    Ok((text.to_owned(), &bytes[end + 1..]))
}

fn put_options(out: &mut Vec<u8>, options: &[TftpOption]) {
    for option in options {
        put_text(out, &option.name);
        put_text(out, &option.value);
    }
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    out.put_slice(text.as_bytes());
    out.put_u8(0);
}

impl From<u16> for ErrorCode {
    fn from(code: u16) -> Self {
        match code {
            0 => Self::NotDefined,
            1 => Self::FileNotFound,
            2 => Self::AccessViolation,
            4 => Self::IllegalOperation,
            8 => Self::OptionsRefused,
            other => Self::Unknown(other),
        }
    }
}

impl From<ErrorCode> for u16 {
    fn from(code: ErrorCode) -> Self {
        match code {
            ErrorCode::NotDefined => 0,
            ErrorCode::FileNotFound => 1,
            ErrorCode::AccessViolation => 2,
            ErrorCode::IllegalOperation => 4,
            ErrorCode::OptionsRefused => 8,
            ErrorCode::Unknown(other) => other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_request_of_ovmf_is_read() {
        let bytes = b"\0\x01snponly.efi\0octet\0tsize\x000\0BLKSIZE\x001468\0";
        let Packet::Read(request) = Packet::parse(bytes).unwrap() else { panic!("no RRQ") };
        assert_eq!((request.filename.as_str(), request.mode.as_str()), ("snponly.efi", "octet"));
        assert_eq!((request.option("tsize"), request.option("blksize")), (Some("0"), Some("1468")));
    }

    #[test]
    fn an_error_without_message_is_read() {
        let expected = Packet::Error { code: ErrorCode::OptionsRefused, message: String::new() };
        assert_eq!(Packet::parse(b"\0\x05\0\x08"), Ok(expected));
    }

    #[test]
    fn broken_packets_are_rejected_with_what_is_broken() {
        let check = |bytes: &[u8], expected| assert_eq!(Packet::parse(bytes), Err(expected), "{bytes:?}");
        check(b"", WireError::Truncated("opcode"));
        check(b"\0\x09", WireError::Opcode(9));
        check(b"\0\x04\0", WireError::Truncated("block number"));
        check(b"\0\x01name", WireError::Truncated("file name"));
        check(b"\0\x01name\0octet", WireError::Truncated("mode"));
        check(b"\0\x01\xff\0octet\0", WireError::NotText("file name"));
    }

    #[test]
    fn what_follows_the_last_complete_option_is_ignored() {
        for tail in [&b"\0"[..], b"\0\0\0", b"tsize", b"tsize\0", b"tsize\x000", b"\xff\xfe\0\0"] {
            let bytes = [b"\0\x01n\0octet\0blksize\x001468\0", tail].concat();
            let Packet::Read(request) = Packet::parse(&bytes).unwrap() else { panic!("no RRQ") };
            assert_eq!(request.option("blksize"), Some("1468"), "{tail:?}");
            assert_eq!(request.option("tsize"), None, "{tail:?}");
        }
    }

    fn any_packet() -> impl Strategy<Value = Packet> {
        let option = ("[a-z]{1,8}", "[0-9]{1,5}").prop_map(|(name, value)| TftpOption { name, value });
        let options = prop::collection::vec(option, 0..4);
        let request = ("[^\0]{0,20}", "octet|netascii", options.clone())
            .prop_map(|(filename, mode, options)| Request { filename, mode, options });
        prop_oneof![
            request.clone().prop_map(Packet::Read),
            request.prop_map(Packet::Write),
            (any::<u16>(), any::<Vec<u8>>())
                .prop_map(|(block, data)| Packet::Data { block, data: data.into() }),
            any::<u16>().prop_map(Packet::Ack),
            (any::<u16>(), "[^\0]{0,20}")
                .prop_map(|(code, message)| Packet::Error { code: code.into(), message }),
            options.prop_map(Packet::OptionAck),
        ]
    }

    proptest! {
        #[test]
        fn packets_round_trip(packet in any_packet()) {
            prop_assert_eq!(Packet::parse(&packet.encode()), Ok(packet));
        }

        #[test]
        fn any_bytes_are_parsed_or_rejected_without_panic(bytes: Vec<u8>) {
            let _ = Packet::parse(&bytes);
        }

        #[test]
        fn any_body_is_parsed_or_rejected_without_panic(opcode in 1_u16..7, body: Vec<u8>) {
            let _ = Packet::parse(&[&opcode.to_be_bytes(), body.as_slice()].concat());
        }
    }
}
