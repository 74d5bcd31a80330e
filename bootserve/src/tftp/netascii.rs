//! Text as TFTP's mode netascii sends it (RFC 1350 section 1, RFC 764): lines end with CR LF, and a CR that ends no line
//! is followed by NUL.

const CR: u8 = b'\r';
const LF: u8 = b'\n';
const NUL: u8 = 0;

/// Encodes a text of this host, whose lines end with LF.
pub fn encode(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len() + text.len() / 32);
    for byte in text {
        match *byte {
            LF => out.extend([CR, LF]),
            CR => out.extend([CR, NUL]),
            other => out.push(other),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What clients do.
    fn decode(netascii: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        let mut bytes = netascii.iter();
        while let Some(byte) = bytes.next() {
            match *byte {
                CR => out.push(match bytes.next() {
                    Some(&LF) => LF,
                    Some(&NUL) => CR,
                    other => panic!("CR before {other:?}"),
                }),
                LF => panic!("LF without CR"),
                other => out.push(other),
            }
        }
        out
    }

    #[test]
    fn line_ends_and_carriage_returns_are_told_apart() {
        assert_eq!(encode(b"a\nb\rc\r\n\0"), b"a\r\nb\r\0c\r\0\r\n\0");
    }

    proptest! {
        #[test]
        fn any_bytes_come_back(bytes in prop::collection::vec(prop_oneof![Just(CR), Just(LF), any::<u8>()], 0..200)) {
            prop_assert_eq!(decode(&encode(&bytes)), bytes);
        }
    }
}
