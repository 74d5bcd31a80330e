//! What we tell the service manager (sd_notify(3)). Without one, nothing.
//!
//! Its socket is written to by a thread of its own: a service manager that does not read must not keep nodes from booting.

use std::convert::Infallible;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use sd_notify::NotifyState;
use tracing::warn;

use crate::database::Database;

/// What waits to be written. Signs of life that do not fit are as good as none.
const MAX_WAITING: usize = 4;

/// The way to the service manager.
#[derive(Debug)]
pub struct Notifier(SyncSender<Vec<NotifyState<'static>>>);

impl Notifier {
    /// Starts the thread, which ends with the process.
    pub fn start() -> Self {
        let (sender, receiver) = sync_channel(MAX_WAITING);
        std::thread::spawn(move || write(&receiver));
        Self(sender)
    }

    /// We serve.
    pub fn ready(&self) {
        self.tell(vec![NotifyState::Ready]);
    }

    /// We read the configuration again; [`Self::ready`] follows.
    pub fn reloading(&self) {
        let now = NotifyState::monotonic_usec_now();
        self.tell([NotifyState::Reloading].into_iter().chain(now.ok()).collect());
    }

    /// We are about to end.
    pub fn stopping(&self) {
        self.tell(vec![NotifyState::Stopping]);
    }

    /// Gives the watchdog a sign of life twice in the time that it allows, as long as the database answers.
    pub async fn keep_watchdog(&self, database: &Database) -> Infallible {
        let Some(limit) = sd_notify::watchdog_enabled() else { return std::future::pending().await };
        let mut signs = tokio::time::interval(limit / 2);
        loop {
            signs.tick().await;
            match database.probe().await {
                Ok(()) => self.tell(vec![NotifyState::Watchdog]),
                Err(error) => {
                    warn!(error = &error as &dyn std::error::Error, "no sign of life to the watchdog");
                }
            }
        }
    }

    fn tell(&self, states: Vec<NotifyState<'static>>) {
        if self.0.try_send(states).is_err() {
            warn!("the service manager does not read what it is told");
        }
    }
}

fn write(waiting: &Receiver<Vec<NotifyState<'static>>>) {
    for states in waiting {
        if let Err(error) = sd_notify::notify(&states) {
            warn!(%error, "cannot tell the service manager");
        }
    }
}
