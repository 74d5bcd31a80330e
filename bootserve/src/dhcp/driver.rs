//! Moves packets between the socket, the state machine and the database.
//!
//! Whatever the socket holds is handled together and committed in one transaction before any of the replies is sent:
//! a hall of nodes that is switched on at once costs a handful of disk syncs, not one for each node.

use std::io;
use std::net::{SocketAddr, SocketAddrV4};
use std::sync::Arc;

use bootspec::event::Phase;
use dhcproto::v4::{CLIENT_PORT, SERVER_PORT};
use tokio::net::UdpSocket;
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use super::ignored::Ignored;
use super::server::Action;
use super::store::write_lease;
use crate::database::{DatabaseError, query_error};
use crate::events::{BootEvent, EventLog};
use crate::metrics::Metrics;

/// Replies wait for the whole batch, so it is bounded.
const MAX_BATCH: usize = 512;
/// An Ethernet frame's worth; longer packets are cut, and their options end early.
const MAX_PACKET_BYTES: usize = 1500;
/// Clients and relays send from these (RFC 2131 section 4.1), and nobody without privileges.
const SENDERS: [u16; 2] = [CLIENT_PORT, SERVER_PORT];

/// What a packet of this sender is answered with, or why it is not.
pub type Answer = Result<Vec<Action>, Ignored>;

/// Serves DHCP on `socket` until `shutdown`: `answer` is given each packet and who sent it.
pub async fn run(
    socket: UdpSocket,
    mut answer: impl FnMut(&[u8], SocketAddrV4) -> Answer,
    events: Arc<EventLog>,
    metrics: Arc<Metrics>,
    shutdown: CancellationToken,
) -> io::Result<()> {
    let port = socket.local_addr()?.port();
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            readable = socket.readable() => readable?,
        }
        let mut counted = |packet: &[u8], peer| {
            metrics.dhcp_received(port);
            answer(packet, peer).inspect_err(|ignored| metrics.dhcp_ignored(ignored))
        };
        let actions = drain(&socket, &mut counted);
        match commit(&events, &actions).await {
            Ok(()) => send(&socket, &actions, || metrics.dhcp_replied(port)).await,
            // Unsent replies are as good as lost packets: clients repeat their requests.
            Err(error) => error!(error = &error as &dyn std::error::Error, "DHCP replies not sent"),
        }
    }
}

fn drain(socket: &UdpSocket, answer: &mut impl FnMut(&[u8], SocketAddrV4) -> Answer) -> Vec<Action> {
    let mut packet = [0; MAX_PACKET_BYTES];
    let mut actions = Vec::new();
    for _ in 0..MAX_BATCH {
        match socket.try_recv_from(&mut packet) {
            Ok((length, SocketAddr::V4(peer))) => match answer(&packet[..length], peer) {
                Ok(answer) => actions.extend(answer.into_iter().filter(|action| is_believed(action, peer))),
                Err(ignored) => ignored.log(),
            },
            Ok((_, SocketAddr::V6(_))) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) => {
                warn!(%error, "cannot receive from the DHCP socket");
                break;
            }
        }
    }
    actions
}

/// Firmware sends from a port that no user of a running node can send from. That a node boots has consequences (see
/// [`crate::overlay::may_have`]), so it is believed of no one else.
fn is_believed(action: &Action, peer: SocketAddrV4) -> bool {
    !matches!(action, Action::Booting(_)) || SENDERS.contains(&peer.port())
}

/// Stores the leases and events among `actions` in one transaction.
async fn commit(events: &EventLog, actions: &[Action]) -> Result<(), DatabaseError> {
    if actions.iter().all(|action| matches!(action, Action::Send(_))) {
        return Ok(());
    }
    let mut transaction =
        events.database().pool.begin_with("BEGIN IMMEDIATE").await.map_err(query_error("write to"))?;
    let mut news = Vec::new();
    for action in actions {
        match action {
            Action::Store(lease) => write_lease(&mut transaction, lease).await?,
            Action::Booting(mac) => news.push(BootEvent::now(*mac, Phase::Dhcp)),
            Action::Send(_) => {}
        }
    }
    let news = EventLog::write(&mut transaction, news).await?;
    transaction.commit().await.map_err(query_error("write to"))?;
    events.log(&news);
    Ok(())
}

async fn send(socket: &UdpSocket, actions: &[Action], sent: impl Fn()) {
    for action in actions {
        let Action::Send(reply) = action else { continue };
        match socket.send_to(&reply.packet, reply.to).await {
            Ok(_) => sent(),
            Err(error) => warn!(peer = %reply.to, %error, "cannot send a DHCP reply"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dhcp::leases::Lease;
    use bootspec::MacAddr;

    #[test]
    fn that_a_node_boots_is_believed_of_a_privileged_port_alone() {
        let mac = MacAddr::new([0xfc, 0xab, 0x14, 0xe8, 0x66, 0x01]);
        let lease =
            Lease { mac, address: [192, 168, 0, 100].into(), expires: std::time::SystemTime::UNIX_EPOCH };
        let peer = |port| SocketAddrV4::new([192, 168, 0, 100].into(), port);
        assert!(is_believed(&Action::Booting(mac), peer(68)) && is_believed(&Action::Booting(mac), peer(67)));
        assert!(!is_believed(&Action::Booting(mac), peer(40_000)));
        assert!(is_believed(&Action::Store(lease), peer(40_000)));
    }
}
