//! Moves packets between the socket, the state machine and the database.
//!
//! Replies that promise nothing, OFFERs among them, leave as soon as there is [room](super::outbox) at their receivers. Those that promise something wait until it is on the disk:
//! whatever waits is committed together, while packets are received and decided on. A hall of nodes that is switched on at once
//! costs a handful of disk syncs, not one for each node, and nobody waits for more than two of them.
//!
//! Where a commit fails, its replies are not sent, which clients take for lost packets. The leases in memory may then last
//! longer than those on the disk, and an address that was changed or given back may be free in memory alone. Neither does harm:
//! no client was told of it, and whoever is given such an address next is stored in place of the one before.

use std::io;
use std::net::{SocketAddr, SocketAddrV4};
use std::sync::Arc;
use std::time::Duration;

use bootspec::event::Phase;
use dhcproto::v4::{CLIENT_PORT, SERVER_PORT};
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::{error, info, warn};

use super::ignored::Ignored;
use super::on_the_way::Transaction;
use super::outbox::Outbox;
use super::ping::{Pinger, Probed};
use super::reply::Reply;
use super::server::Action;
use super::store::write_leases;
use crate::database::{DatabaseError, query_error};
use crate::discovery::port::write_ports;
use crate::events::{self, BootEvent, EventLog};
use crate::metrics::{FoundBy, Metrics};
use crate::status::course::Course;

/// Answers that are committed together.
const MAX_GROUP: usize = 512;
/// Packets that are handled before others have their turn.
const MAX_DRAIN: usize = 128;
/// Where packets come close together, what comes within this is handled together: waking up for each costs more than handling it.
const GATHER: Duration = Duration::from_millis(1);
/// The same for what is committed together.
const GATHER_ANSWERS: Duration = Duration::from_millis(4);
/// Answers that wait for the disk. If there are more, packets wait in the socket.
const MAX_WAITING: usize = 8192;
/// An Ethernet frame's worth; longer packets are cut, and their options end early.
const MAX_PACKET_BYTES: usize = 1500;
/// Clients and relays send from these (RFC 2131 section 4.1), and nobody without privileges.
const SENDERS: [u16; 2] = [CLIENT_PORT, SERVER_PORT];

/// What the state machine is told.
#[derive(Clone, Copy, Debug)]
pub enum Input<'a> {
    /// A packet has come from this sender.
    Packet(&'a [u8], SocketAddrV4),
    /// It has asked for this probe.
    Probed(Probed),
}

/// What is done about it, or why nothing.
pub type Answer = Result<Vec<Action>, Ignored>;

/// Serves DHCP on `socket` until `shutdown`, with `pinger` to probe addresses. What was decided until then is stored and sent.
pub async fn run(
    socket: UdpSocket,
    mut pinger: Pinger,
    mut answer: impl FnMut(Input<'_>) -> Answer,
    events: Arc<EventLog>,
    metrics: Arc<Metrics>,
    shutdown: CancellationToken,
) -> io::Result<()> {
    let port = socket.local_addr()?.port();
    let mut buffer = [0; MAX_PACKET_BYTES];
    let (promises, waiting) = mpsc::channel(MAX_WAITING);
    let outbox = Outbox::new(socket, port, Arc::clone(&metrics));
    let keeper = AbortOnDropHandle::new(tokio::spawn(keep(waiting, Arc::clone(&events), outbox.clone())));
    let mut hands = Hands { promises, outbox, events, metrics: Arc::clone(&metrics) };
    loop {
        hands.outbox.flush().await;
        let is_full = hands.outbox.waiting() >= MAX_WAITING;
        tokio::select! {
            () = shutdown.cancelled() => break,
            () = hands.outbox.has_room() => if is_full {
                // Nothing is read until replies leave.
                tokio::time::sleep(GATHER).await;
                continue;
            },
            probed = pinger.next() => {
                if probed.in_use {
                    metrics.dhcp_conflict(FoundBy::Probe);
                }
                hands.act(answer(Input::Probed(probed)), None, &mut pinger).await?;
                continue;
            }
            readable = hands.outbox.socket().readable(), if !is_full => readable?,
        }
        let now = Instant::now();
        let mut handled = 0;
        while handled < MAX_DRAIN {
            let Some((packet, peer)) = receive(hands.outbox.socket(), &mut buffer) else {
                hands.outbox.heard_until(now);
                break;
            };
            handled += 1;
            metrics.dhcp_received(port);
            let transaction = transaction_of(packet);
            let answer = answer(Input::Packet(packet, peer));
            hands.act(answer, Some((peer, transaction)), &mut pinger).await?;
        }
        if (2..MAX_DRAIN).contains(&handled) {
            hands.outbox.flush().await;
            tokio::time::sleep(GATHER).await;
        }
    }
    let outbox = hands.outbox.clone();
    drop(hands);
    keeper.await.map_err(io::Error::other)?;
    outbox.send_all().await;
    Ok(())
}

/// Where actions are done.
struct Hands {
    promises: mpsc::Sender<Vec<Action>>,
    outbox: Outbox,
    events: Arc<EventLog>,
    metrics: Arc<Metrics>,
}

impl Hands {
    /// Does what was decided about a packet from this sender, or about none.
    async fn act(
        &mut self,
        answer: Answer,
        from: Option<(SocketAddrV4, Transaction)>,
        pinger: &mut Pinger,
    ) -> io::Result<()> {
        let (peer, transaction) = from.unzip();
        let mut actions = match answer {
            Ok(actions) => actions,
            Err(ignored) => {
                self.metrics.dhcp_ignored(&ignored);
                ignored.log();
                if peer.is_some_and(is_firmware) {
                    self.note_held_up(&ignored);
                }
                return Ok(());
            }
        };
        actions.retain(|action| match action {
            Action::Probe(address) => {
                pinger.ask(*address);
                false
            }
            Action::Declined => {
                self.metrics.dhcp_conflict(FoundBy::Decline);
                false
            }
            action => peer.is_none_or(|peer| is_believed(action, peer)),
        });
        if actions.iter().all(|action| matches!(action, Action::Send(_))) {
            replies(actions).for_each(|reply| self.outbox.put(reply, transaction));
            return Ok(());
        }
        // Promised is what was offered before, and so read.
        if let Some(offer) = transaction {
            self.outbox.was_read(offer);
        }
        self.promises.send(actions).await.map_err(io::Error::other)
    }

    /// Notes why a machine that boots does not go on. Nobody waits for it; the system of one that is up may ask whom it likes.
    fn note_held_up(&self, ignored: &Ignored) {
        let Some(mac) = ignored.holds_up() else { return };
        if self.events.with_courses(|courses| courses.get(&mac).is_some_and(Course::is_up)) {
            return;
        }
        let (events, reason) = (Arc::clone(&self.events), format!("DHCP: {ignored}"));
        tokio::spawn(async move { events.refuse(mac, &reason).await });
    }
}

fn replies(actions: Vec<Action>) -> impl Iterator<Item = Reply> {
    actions.into_iter().filter_map(|action| match action {
        Action::Send(reply) => Some(reply),
        _ => None,
    })
}

/// The transaction of a message, at its place in the fixed part (RFC 2131 section 2). What is too short for it is no message.
fn transaction_of(packet: &[u8]) -> Transaction {
    packet.get(4..8).and_then(|bytes| bytes.try_into().ok()).unwrap_or_default()
}

/// A packet that is there.
fn receive<'a>(socket: &UdpSocket, buffer: &'a mut [u8]) -> Option<(&'a [u8], SocketAddrV4)> {
    match socket.try_recv_from(buffer) {
        Ok((length, SocketAddr::V4(peer))) => Some((&buffer[..length], peer)),
        // The socket has no IPv6.
        Ok((_, SocketAddr::V6(_))) => None,
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
        Err(error) => {
            warn!(%error, "cannot receive from the DHCP socket");
            None
        }
    }
}

/// Firmware sends from a port that no user of a running node can send from. That a node boots has consequences (see
/// [`crate::overlay::may_have`]), so it is believed of no one else.
fn is_believed(action: &Action, peer: SocketAddrV4) -> bool {
    !matches!(action, Action::Booting(_)) || is_firmware(peer)
}

fn is_firmware(peer: SocketAddrV4) -> bool {
    SENDERS.contains(&peer.port())
}

/// Stores what each answer promises, in the order of the decisions, and sends it then. Ends when no more can come.
async fn keep(mut waiting: mpsc::Receiver<Vec<Action>>, events: Arc<EventLog>, outbox: Outbox) {
    let mut group = Vec::new();
    // How many replies were not sent since commits fail.
    let mut failing: Option<usize> = None;
    while waiting.recv_many(&mut group, MAX_GROUP).await > 0 {
        let several = group.len() > 1;
        let actions: Vec<Action> = group.drain(..).flatten().collect();
        match commit(&events, &actions).await {
            Ok(()) => {
                if let Some(unsent) = failing.take() {
                    info!(unsent, "DHCP leases are stored again");
                }
                replies(actions).for_each(|reply| outbox.put(reply, None));
                outbox.flush().await;
                if several {
                    tokio::time::sleep(GATHER_ANSWERS).await;
                }
            }
            Err(error) => {
                // Once is enough: it fails for each packet until it is put right.
                if failing.is_none() {
                    let hint = "until it can, nobody is given an address; df shows whether the disk under server.state is full";
                    error!(error = &error as &dyn std::error::Error, hint, "cannot store DHCP leases");
                }
                let replies = actions.iter().filter(|action| matches!(action, Action::Send(_))).count();
                failing = Some(failing.unwrap_or(0) + replies);
            }
        }
    }
}

/// Stores the leases and events among `actions` in one transaction.
async fn commit(events: &EventLog, actions: &[Action]) -> Result<(), DatabaseError> {
    let leases = actions.iter().filter_map(|action| match action {
        Action::Store(lease) => Some(*lease),
        _ => None,
    });
    let news = actions.iter().filter_map(|action| match action {
        Action::Booting(mac) => Some(BootEvent::now(*mac, Phase::Dhcp)),
        _ => None,
    });
    let ports = actions.iter().filter_map(|action| match action {
        Action::Port(mac, port) => Some((*mac, port.clone())),
        _ => None,
    });
    let mut transaction =
        events.database().pool.begin_with("BEGIN IMMEDIATE").await.map_err(query_error("write to"))?;
    write_leases(&mut transaction, leases).await?;
    write_ports(&mut transaction, ports).await?;
    let news = events::write(&mut transaction, news.collect()).await?;
    transaction.commit().await.map_err(query_error("write to"))?;
    events.publish(&news);
    Ok(())
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
