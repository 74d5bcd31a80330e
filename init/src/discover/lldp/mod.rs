//! What switches say of the ports that the machine is plugged in at (IEEE 802.1AB). They do so every 30 s, so the first check-in may
//! come before. Nothing is sent.

pub mod wire;

use std::collections::{BTreeMap, BTreeSet};

use bootspec::facts::{Interface, Neighbour};
use rustix::fd::OwnedFd;
use rustix::net::netdevice::name_to_index;
use rustix::net::{AddressFamily, SocketType, socket};

use crate::kmsg;
use crate::sys::PacketSocket;
use wire::Advertisement;

const ETHER_TYPE: u16 = 0x88cc;
/// The nearest bridge, to which frames with this destination are not passed on (IEEE 802.1AB section 7.1).
const NEAREST_BRIDGE: [u8; 6] = [0x01, 0x80, 0xc2, 0x00, 0x00, 0x0e];
const FRAME_BYTES: usize = 1500;
/// Frames that are looked at each time: a wire that is full of them does not keep the machine from checking in.
const MAX_FRAMES: usize = 1024;

/// Listens on all interfaces, and knows what was said last on each.
#[derive(Debug)]
pub struct Neighbours {
    sockets: Option<(PacketSocket, OwnedFd)>,
    joined: BTreeSet<u32>,
    /// By the index of the interface.
    heard: BTreeMap<u32, Neighbour>,
}

impl Neighbours {
    /// Begins to listen. Where the kernel does not let us, there are no neighbours.
    pub fn listen() -> Self {
        let sockets = PacketSocket::open(ETHER_TYPE).and_then(|frames| {
            // Names of interfaces are asked of any socket.
            Ok((frames, socket(AddressFamily::INET, SocketType::DGRAM, None)?))
        });
        if let Err(error) = &sockets {
            kmsg::warn(&format!("discover: cannot listen to switches (LLDP): {error}"));
        }
        Self { sockets: sockets.ok(), joined: BTreeSet::new(), heard: BTreeMap::new() }
    }

    /// Notes in these interfaces what was heard, as far as their wires still carry; on new ones, listens.
    pub fn note(&mut self, interfaces: &mut [Interface]) {
        self.hear();
        for interface in interfaces {
            let Some(index) = self.index(interface) else { continue };
            self.join(index);
            if interface.link == Some(true) {
                interface.lldp = self.heard.get(&index).cloned();
            } else {
                self.heard.remove(&index);
            }
        }
    }

    fn index(&self, interface: &Interface) -> Option<u32> {
        let (_, control) = self.sockets.as_ref()?;
        name_to_index(control, interface.name.as_str()).ok()
    }

    fn join(&mut self, index: u32) {
        if let Some((socket, _)) = &self.sockets
            && !self.joined.contains(&index)
            // An interface that takes no members has none to hear.
            && socket.join(index, NEAREST_BRIDGE).is_ok()
        {
            self.joined.insert(index);
        }
    }

    fn hear(&mut self) {
        let Some((socket, _)) = &self.sockets else { return };
        let mut buffer = [0; FRAME_BYTES];
        for _ in 0..MAX_FRAMES {
            let Ok((length, index)) = socket.receive(&mut buffer) else { return };
            // Loopback and the like are in no facts, and what comes by them is not kept.
            if !self.joined.contains(&index) {
                continue;
            }
            match wire::parse(&buffer[..length]) {
                Some(Advertisement::Port(neighbour)) => self.heard.insert(index, neighbour),
                Some(Advertisement::Leaves) => self.heard.remove(&index),
                None => None,
            };
        }
    }
}
