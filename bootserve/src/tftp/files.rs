//! Which file a request asks for, or why it gets none.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;

use super::netascii;
use super::wire::{ErrorCode, Packet, Request, is_request};
use crate::live::{Live, Served};

/// The files that can be asked for.
#[derive(Debug)]
pub struct Files {
    live: Arc<Live>,
    served: Arc<Served>,
    /// Those that were asked for as text. They are kept, so that requests take no memory.
    texts: HashMap<&'static str, Bytes>,
}

/// A request that is granted.
#[derive(Clone, Debug)]
pub struct Granted {
    /// What it says.
    pub request: Request,
    /// The name of the file.
    pub name: &'static str,
    /// What is to be sent.
    pub data: Bytes,
}

/// A request that is not granted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Denied {
    /// Answer with this ERROR.
    Refuse(Packet),
    /// Say nothing. A server that answers what is no request, errors above all, can be set on another one like it, and they
    /// go on for ever (CVE-2024-2169).
    Ignore,
}

impl Files {
    /// Boot programs are the files.
    pub fn new(live: Arc<Live>) -> Self {
        Self { served: live.now(), live, texts: HashMap::new() }
    }

    /// Reads a request and finds its file.
    pub fn find(&mut self, packet: &[u8]) -> Result<Granted, Denied> {
        if !is_request(packet) {
            return Err(Denied::Ignore);
        }
        let request = match Packet::parse(packet) {
            Ok(Packet::Read(request)) => request,
            Ok(_) => return Err(refuse(ErrorCode::AccessViolation, "this server is read-only")),
            Err(reason) => return Err(refuse(ErrorCode::IllegalOperation, &reason.to_string())),
        };
        let served = self.live.now();
        if !Arc::ptr_eq(&served, &self.served) {
            self.texts.clear();
            self.served = Arc::clone(&served);
        }
        let found = served.nbps.find(request.filename.trim_start_matches('/'));
        let (name, bytes) = found.ok_or_else(|| {
            refuse(ErrorCode::FileNotFound, &format!("there is no {:?} here", request.filename))
        })?;
        let data = match request.mode.to_ascii_lowercase().as_str() {
            "octet" => bytes.clone(),
            "netascii" => self.texts.entry(name).or_insert_with(|| netascii::encode(bytes).into()).clone(),
            _ => {
                return Err(refuse(ErrorCode::NotDefined, "only the modes octet and netascii are supported"));
            }
        };
        Ok(Granted { request, name, data })
    }
}

fn refuse(code: ErrorCode, message: &str) -> Denied {
    Denied::Refuse(Packet::Error { code, message: message.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::nbp::NbpSet;

    fn files(text: &str) -> Files {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("undionly.kpxe"), text).unwrap();
        let config = Config::parse(include_str!("../../bootserve.example.toml")).unwrap();
        Files::new(Arc::new(Live::new(config, NbpSet::read(&[dir.path().into()]).unwrap())))
    }

    #[test]
    fn a_file_is_found_by_name_in_either_mode() {
        let mut files = files("a\n");
        let mut check = |packet: &[u8], expected: &str| {
            assert_eq!(files.find(packet).unwrap().data, expected, "{packet:?}");
        };
        check(b"\0\x01undionly.kpxe\0octet\0", "a\n");
        check(b"\0\x01//undionly.kpxe\0OCTET\0", "a\n");
        check(b"\0\x01undionly.kpxe\0NetASCII\0", "a\r\n");
    }

    #[test]
    fn what_cannot_be_granted_is_refused_and_what_asks_for_nothing_is_ignored() {
        let mut files = files("");
        let mut check = |packet: &[u8], expected| {
            let found = match files.find(packet).unwrap_err() {
                Denied::Refuse(Packet::Error { code, .. }) => Some(code),
                Denied::Refuse(other) => panic!("{other:?}"),
                Denied::Ignore => None,
            };
            assert_eq!(found, expected, "{packet:?}");
        };
        check(b"\0\x01../undionly.kpxe\0octet\0", Some(ErrorCode::FileNotFound));
        check(b"\0\x01undionly.kpxe\0mail\0", Some(ErrorCode::NotDefined));
        check(b"\0\x01undionly.kpxe\0octet", Some(ErrorCode::IllegalOperation));
        check(b"\0\x02undionly.kpxe\0octet\0", Some(ErrorCode::AccessViolation));
        for stray in
            [&b"\0\x04\0\x01"[..], b"\0\x05\0\x04no\0", b"\0\x03\0\x01data", b"\0\x06", b"\0\x09", b"\0", b""]
        {
            check(stray, None);
        }
    }
}
