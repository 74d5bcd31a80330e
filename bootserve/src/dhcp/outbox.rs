//! Where replies leave, no faster than their receivers [read them](OnTheWay).

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::net::UdpSocket;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until};
use tracing::warn;

use super::on_the_way::{OnTheWay, Transaction};
use super::reply::Reply;
use crate::metrics::Metrics;

/// The same one for all who send.
#[derive(Clone)]
pub struct Outbox(Arc<Inner>);

struct Inner {
    socket: UdpSocket,
    /// The port of the socket.
    port: u16,
    metrics: Arc<Metrics>,
    replies: Mutex<OnTheWay<Reply>>,
    /// Replies were left that there was no room for.
    left_some: Notify,
}

impl Outbox {
    /// Replies leave by `socket`, which has this port.
    pub fn new(socket: UdpSocket, port: u16, metrics: Arc<Metrics>) -> Self {
        let (replies, left_some) = (Mutex::default(), Notify::new());
        Self(Arc::new(Inner { socket, port, metrics, replies, left_some }))
    }

    /// What it sends by.
    pub fn socket(&self) -> &UdpSocket {
        &self.0.socket
    }

    /// Adds a reply, which leaves by [`Self::flush`], or later if it is to. `offer` is the transaction that it offers an address to.
    pub fn put(&self, reply: Reply, offer: Option<Transaction>) {
        if reply.delay.is_zero() {
            self.replies().push(reply, offer);
            return;
        }
        let outbox = self.clone();
        tokio::spawn(async move {
            sleep(reply.delay).await;
            outbox.send_now(&reply).await;
        });
    }

    /// A machine has shown that it read what it was offered.
    pub fn was_read(&self, offer: Transaction) {
        self.replies().was_read(offer);
    }

    /// All is handled that had come until `now`.
    pub fn heard_until(&self, now: Instant) {
        self.replies().heard_until(now);
    }

    /// Sends the replies that there is room for.
    pub async fn flush(&self) {
        while let Some(reply) = self.next_with_room() {
            self.send_now(&reply).await;
        }
        if self.waiting() > 0 {
            self.0.left_some.notify_one();
        }
    }

    /// Waits until there could be room for a reply that was left: [`Self::heard_until`] makes it.
    pub async fn has_room(&self) {
        loop {
            let left_some = self.0.left_some.notified();
            let next_leaves = self.replies().next_leaves();
            match next_leaves {
                Some(time) => return sleep_until(time).await,
                None => left_some.await,
            }
        }
    }

    /// How many replies wait.
    pub fn waiting(&self) -> usize {
        self.replies().waiting()
    }

    /// Sends all replies, as the end has come.
    pub async fn send_all(&self) {
        loop {
            let Some(reply) = self.replies().pop_regardless() else { return };
            self.send_now(&reply).await;
        }
    }

    fn next_with_room(&self) -> Option<Reply> {
        self.replies().pop(Instant::now())
    }

    async fn send_now(&self, Reply { packet, to, .. }: &Reply) {
        let Inner { socket, port, metrics, .. } = &*self.0;
        match socket.send_to(packet, to).await {
            Ok(_) => metrics.dhcp_replied(*port),
            Err(error) => warn!(peer = %to, %error, "cannot send a DHCP reply"),
        }
    }

    fn replies(&self) -> MutexGuard<'_, OnTheWay<Reply>> {
        self.0.replies.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
