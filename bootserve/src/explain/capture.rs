//! Packets of a capture file, as tcpdump(8) writes it.

use std::fs::File;
use std::io;
use std::net::SocketAddrV4;
use std::path::{Path, PathBuf};

use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use pcap_file::PcapError;
use pcap_file::pcap::PcapReader;

/// A packet for us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Captured {
    /// The port that it came to.
    pub port: Port,
    /// Who sent it.
    pub from: SocketAddrV4,
    /// The payload of UDP.
    pub packet: Vec<u8>,
}

/// A port that DHCP is heard on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Port {
    /// 67.
    Dhcp,
    /// 4011.
    Pxe,
}

/// The file cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// The operating system refuses.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It is no capture.
    #[error("{} is no capture in pcap format\nhint: tcpdump -w FILE -i INTERFACE 'udp port 67 or port 4011' writes one", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: PcapError,
    },
}

/// The packets in the file to ports that DHCP is heard on; others are left out.
pub fn read_capture(path: &Path) -> Result<Vec<Captured>, CaptureError> {
    let read = |source| CaptureError::Read { path: path.to_owned(), source };
    let format = |source| CaptureError::Format { path: path.to_owned(), source };
    let mut reader = PcapReader::new(File::open(path).map_err(read)?).map_err(format)?;
    let mut captured = Vec::new();
    while let Some(frame) = reader.next_packet() {
        captured.extend(of_frame(&frame.map_err(format)?.data));
    }
    Ok(captured)
}

/// The packet in an Ethernet frame, if it is one of ours.
fn of_frame(frame: &[u8]) -> Option<Captured> {
    let sliced = SlicedPacket::from_ethernet(frame).ok()?;
    let (Some(NetSlice::Ipv4(ip)), Some(TransportSlice::Udp(udp))) = (sliced.net, sliced.transport) else {
        return None;
    };
    let port = match udp.destination_port() {
        67 => Port::Dhcp,
        4011 => Port::Pxe,
        _ => return None,
    };
    let from = SocketAddrV4::new(ip.header().source_addr(), udp.source_port());
    Some(Captured { port, from, packet: udp.payload().to_vec() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn requests_of_firmware_are_found_in_a_capture() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/ovmf-native.pcap");
        let captured = read_capture(&path).unwrap();
        assert!(captured.len() >= 2);
        assert!(captured.iter().all(|captured| captured.port == Port::Dhcp && captured.from.port() == 68));
    }

    #[test]
    fn what_is_no_capture_is_told_with_a_hint() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        std::fs::write(&path, "nothing of that kind, but long enough for a header").unwrap();
        let error = read_capture(&path).unwrap_err().to_string();
        assert!(error.contains("is no capture") && error.contains("hint: tcpdump"), "{error}");
    }

    proptest! {
        #[test]
        fn any_frame_is_read_without_panic(frame in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = of_frame(&frame);
        }
    }
}
